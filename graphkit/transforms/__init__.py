"""PyG transforms: tokenizers, augmentation, structure refinement."""

from graphkit.transforms.attack import DICEAttack, PRBCDPoison, RandomEdgeAttack
from graphkit.transforms.prune import CosinePrune, JaccardPrune, random_recover
from graphkit.transforms.similar_edges import add_similar_edges
from graphkit.transforms.undirected import undirected_edges

__all__ = [
    "CosinePrune",
    "DICEAttack",
    "JaccardPrune",
    "PRBCDPoison",
    "RandomEdgeAttack",
    "add_similar_edges",
    "random_recover",
    "undirected_edges",
]
