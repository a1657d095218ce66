"""Message-passing layers."""

from graphkit.nn.conv.propagate import PureConv, propagate
from graphkit.nn.conv.sparse_linear import SparseLinear, sparsify

__all__ = ["PureConv", "SparseLinear", "propagate", "sparsify"]
