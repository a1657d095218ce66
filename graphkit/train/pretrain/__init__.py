"""Pre-training on graphs without labels, and what it is worth."""

from graphkit.train.pretrain.graph_contrast import GraphContrastTask
from graphkit.train.pretrain.graph_encoder import GraphEncoder, gin_encoder, projection_head, structural_features
from graphkit.train.pretrain.transfer import TransferTask
from graphkit.train.pretrain.views import EdgePerturbation, NodeDropping, WalkSubgraph

__all__ = [
    "EdgePerturbation",
    "GraphContrastTask",
    "GraphEncoder",
    "NodeDropping",
    "TransferTask",
    "WalkSubgraph",
    "gin_encoder",
    "projection_head",
    "structural_features",
]
