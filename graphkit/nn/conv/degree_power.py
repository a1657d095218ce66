"""Graph convolution whose weights depend on a chosen power of the neighbours' degrees."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex

from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex, spmm, to_csr
from graphkit.utils.checks import check_int, check_pairs, check_range


class DegreePowerGCNConv(nn.Module):
    r"""The convolution of `"Reliable Representations Make A Stronger Defender: Unsupervised Structure Refinement for
    Robust GNN" <https://arxiv.org/abs/2207.00012>`_, which listens more to neighbours of high degree: an attacker who
    may change few edges joins nodes of low degree.

    With :math:`\tilde A = A + I`, :math:`a_{ij}` the weight of the edge from j to i and :math:`d` the row sums of
    :math:`\tilde A`,

    .. math:: x'_i = \sum_j w_{ij} W x_j + b, \qquad
              w_{ij} = \frac{\tilde a_{ij} d_j^{\alpha}}{\sum_{j'} \tilde a_{ij'} d_{j'}^{\alpha}}
              \quad\text{or, for } \alpha = -\tfrac12,\quad w_{ij} = d_i^{-1/2} \tilde a_{ij} d_j^{-1/2}

    which is :class:`torch_geometric.nn.GCNConv`. The graph may be directed. O(E F) time; no messages are stored.

    Args:
        in_channels: width of ``x``.
        out_channels: width of the output.
        alpha: the power; -0.5 is the usual convolution, 0 a mean, above 0 favours high degrees.
        bias: add a bias.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, dense or sparse CSR; the graph as ``edge_index`` ``[2, E]``, source and
          target as in PyG, or as :class:`~graphkit.ops.NeighborIndex` whose row ``i`` lists whom node ``i`` hears from;
          ``edge_weight`` ``[E]`` in the order of the edges (of the index's entries), not negative. Without weights
          repeated edges count once, with weights their weights add up.
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a width below 1, an ``alpha`` that is not finite, an input of another shape, a negative weight.
        IndexError: a node id outside the graph.

    Example:
        >>> DegreePowerGCNConv(8, 16, alpha=0.6)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True

    def __init__(self, in_channels: int, out_channels: int, alpha: float = -0.5, bias: bool = True) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.alpha = check_range(alpha, "alpha", -1e3, 1e3)
        self.linear = SparseLinear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias anew, uniformly within one over the root of the output's width."""
        bound = 1 / math.sqrt(self.out_channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor, edge_weight: Tensor | None = None) -> Tensor:
        h = self.linear(x)
        rowptr, col, weight = _incoming(edge_index, edge_weight, h)
        ones = h.new_ones(h.size(0), 1)
        # A sum of ones would be the same without weights, but the index knows it.
        incoming = rowptr.diff()[:, None].to(h.dtype) if weight is None else spmm(rowptr, col, ones, weight)
        power = (incoming + 1) ** self.alpha
        scaled = h * power
        total = spmm(rowptr, col, scaled, weight) + scaled
        out = power * total if self.alpha == -0.5 else total / (spmm(rowptr, col, power, weight) + power)
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, alpha={self.alpha})"


def _incoming(
    edge_index: NeighborIndex | Tensor, edge_weight: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of whom each node hears from, and the weights of their entries."""
    num_nodes = h.size(0)
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    if edge_weight is None:
        if not isinstance(edge_index, NeighborIndex):
            edge_index = check_pairs(edge_index, num_nodes, "edge_index").flip(0)
        index = NeighborIndex.of(edge_index, num_nodes)
        return index.rowptr, index.col, None
    entries = edge_index.num_edges if isinstance(edge_index, NeighborIndex) else edge_index.size(-1)
    if edge_weight.shape != (entries,):
        raise ValueError(f"edge_weight must be [{entries}], one value an edge (got {list(edge_weight.shape)})")
    if not torch.compiler.is_compiling() and bool((edge_weight < 0).any()):
        raise ValueError(f"edge_weight must not be negative (got {float(edge_weight.min())})")
    weight = edge_weight.to(h.dtype)
    if isinstance(edge_index, NeighborIndex):
        index = NeighborIndex.of(edge_index, num_nodes)
        return index.rowptr, index.col, weight
    check_pairs(edge_index, num_nodes, "edge_index")
    csr = to_csr(edge_index[1], edge_index[0], num_nodes)
    return csr.rowptr, csr.col, weight[csr.perm]
