"""PyG transforms: tokenizers, augmentation, structure refinement."""

from graphkit.transforms.attack import DICEAttack, PRBCDPoison, RandomEdgeAttack
from graphkit.transforms.class_virtual_nodes import ClassVirtualNodes
from graphkit.transforms.edge_drop import AdaptiveEdgeDrop, BudgetedEdgeDrop, EdgeDrop, edge_budget, node_centrality
from graphkit.transforms.prune import CosinePrune, JaccardPrune, random_recover
from graphkit.transforms.similar_edges import add_similar_edges
from graphkit.transforms.undirected import undirected_edges

__all__ = [
    "AdaptiveEdgeDrop",
    "BudgetedEdgeDrop",
    "ClassVirtualNodes",
    "EdgeDrop",
    "edge_budget",
    "node_centrality",
    "CosinePrune",
    "DICEAttack",
    "JaccardPrune",
    "PRBCDPoison",
    "RandomEdgeAttack",
    "add_similar_edges",
    "random_recover",
    "undirected_edges",
]
