"""PyG transforms: tokenizers, augmentation, structure refinement."""

from graphkit.transforms.attack import DICEAttack, PRBCDPoison, RandomEdgeAttack
from graphkit.transforms.class_virtual_nodes import ClassVirtualNodes
from graphkit.transforms.correlation_graph import CorrelationGraph
from graphkit.transforms.edge_drop import AdaptiveEdgeDrop, BudgetedEdgeDrop, EdgeDrop, edge_budget, node_centrality
from graphkit.transforms.ego_nets import EgoNets
from graphkit.transforms.prune import CosinePrune, JaccardPrune, random_recover
from graphkit.transforms.random_walk_encoding import RandomWalkEncoding
from graphkit.transforms.similar_edges import add_similar_edges
from graphkit.transforms.sort_tokens import SortTokens
from graphkit.transforms.time_features import time_features
from graphkit.transforms.tokenize import (
    EventTokens,
    HopTokens,
    ImageTokens,
    PPRTokens,
    RandomWalkTokens,
    SequenceTokens,
    SeriesTokens,
    TableTokens,
)
from graphkit.transforms.undirected import undirected_edges

__all__ = [
    "AdaptiveEdgeDrop",
    "BudgetedEdgeDrop",
    "ClassVirtualNodes",
    "CorrelationGraph",
    "CosinePrune",
    "DICEAttack",
    "EdgeDrop",
    "EgoNets",
    "EventTokens",
    "HopTokens",
    "ImageTokens",
    "JaccardPrune",
    "PPRTokens",
    "PRBCDPoison",
    "RandomEdgeAttack",
    "RandomWalkEncoding",
    "RandomWalkTokens",
    "SequenceTokens",
    "SeriesTokens",
    "SortTokens",
    "TableTokens",
    "add_similar_edges",
    "edge_budget",
    "node_centrality",
    "random_recover",
    "time_features",
    "undirected_edges",
]
