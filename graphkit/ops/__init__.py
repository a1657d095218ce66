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
from graphkit.ops.edge_reconstruction import edge_reconstruction_loss
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.pairs import pair_product
from graphkit.ops.ppr import NodeScores, ppr, ppr_power
from graphkit.ops.relaxation import linear_relaxation
from graphkit.ops.sample import (
    SampledNeighbors,
    SampledSubgraph,
    SamplingGraph,
    sample_neighbors,
    sample_subgraph,
    sampling_graph,
)
from graphkit.ops.scan import gla_scan, linear_scan, selective_scan, ssd_scan
from graphkit.ops.similarity import most_similar, pair_cosine
from graphkit.ops.spiking import lif_scan, spike, surrogate_slope
from graphkit.ops.spmm import spmm
from graphkit.ops.tokens import TokenLayout
from graphkit.ops.walk import neighborhood_walks, random_walk, visited_sets
from graphkit.ops.wkv import wkv_scan

__all__ = [
    "CSR",
    "CommonNeighbors",
    "NeighborIndex",
    "NodeLists",
    "NodeScores",
    "SampledNeighbors",
    "SampledSubgraph",
    "SamplingGraph",
    "TokenLayout",
    "common_neighbor_count",
    "common_neighbor_sum",
    "common_neighbors",
    "dropout",
    "edge_reconstruction_loss",
    "gla_scan",
    "lif_scan",
    "linear_relaxation",
    "linear_scan",
    "most_similar",
    "neighborhood_walks",
    "pair_cosine",
    "pair_product",
    "ppr",
    "ppr_power",
    "random_walk",
    "sample_neighbors",
    "sample_subgraph",
    "sampling_graph",
    "selective_scan",
    "spike",
    "spmm",
    "ssd_scan",
    "surrogate_slope",
    "to_csr",
    "visited_sets",
    "wkv_scan",
]
