"""Stateless kernels on tensors: a plain PyTorch reference, a CPU and a CUDA version behind one function."""

from graphkit.ops.common_neighbors import (
    CommonNeighbors,
    NodeLists,
    common_neighbor_count,
    common_neighbor_sum,
    common_neighbors,
)
from graphkit.ops.csr import CSR, to_csr
from graphkit.ops.dropout import dropout
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.spmm import spmm

__all__ = [
    "CSR",
    "CommonNeighbors",
    "NeighborIndex",
    "NodeLists",
    "common_neighbor_count",
    "common_neighbor_sum",
    "common_neighbors",
    "dropout",
    "spmm",
    "to_csr",
]
