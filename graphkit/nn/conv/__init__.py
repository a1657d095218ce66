"""Message-passing layers."""

from graphkit.nn.conv.cached_conv import CachedConv
from graphkit.nn.conv.degree_power import DegreePowerGCNConv
from graphkit.nn.conv.gated_gcn import GatedGCNConv
from graphkit.nn.conv.low_rank import LowRankGCNConv
from graphkit.nn.conv.propagate import PureConv, propagate
from graphkit.nn.conv.sparse_linear import SparseLinear, sparsify

__all__ = [
    "CachedConv",
    "DegreePowerGCNConv",
    "GatedGCNConv",
    "LowRankGCNConv",
    "PureConv",
    "SparseLinear",
    "propagate",
    "sparsify",
]
