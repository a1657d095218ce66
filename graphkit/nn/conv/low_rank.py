"""Graph convolution on the best low-rank approximation of the adjacency matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from graphkit.nn.conv.propagate import propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_int


class LowRankGCNConv(nn.Module):
    r"""Graph convolution after a truncated singular value decomposition of the adjacency matrix, the defence of `"All
    You Need Is Low (Rank): Defending Against Adversarial Attacks on Graphs"
    <https://doi.org/10.1145/3336191.3371789>`_: single edges that an attacker adds live in small singular values.

    .. math:: X' = \tilde D^{-1/2} (A_r + I) \tilde D^{-1/2} X W + b, \qquad A_r = U_r S_r V_r^\top

    with :math:`\tilde D` one plus the row sums of :math:`A_r`, which count as 0 where rounding off made them negative.
    :math:`A_r` stays in factors: O(N r F) time a call and O(N r) memory. The factors are found once a graph, and are
    kept with a :class:`~graphkit.ops.NeighborIndex` that is passed again; a plain ``edge_index`` is decomposed at each
    call.

    Args:
        in_channels: width of ``x``.
        out_channels: width of the output.
        rank: r; a graph of r nodes or fewer is taken as it is.
        bias: add a bias.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, dense or sparse CSR; the graph as :class:`~graphkit.ops.NeighborIndex`
          or ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a width or rank below 1, an input of another shape.
        IndexError: a node id outside the graph.

    Example:
        >>> LowRankGCNConv(8, 16, rank=2)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True

    def __init__(self, in_channels: int, out_channels: int, rank: int = 50, bias: bool = True) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.rank = check_int(rank, "rank", 1)
        self.linear = SparseLinear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for the linear map, zero for the bias."""
        nn.init.xavier_uniform_(self.linear.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        h = self.linear(x)
        graph = NeighborIndex.of(edge_index, h.size(0))
        if graph.num_nodes <= self.rank or graph.num_edges == 0:
            out = propagate(h, graph, "gcn")
        else:
            left, right = (factor.to(h.dtype) for factor in low_rank_factors(graph, self.rank))
            scale = ((left @ right.sum(0)).clamp(min=0) + 1).rsqrt()[:, None]
            scaled = h * scale
            out = scale * (left @ (right.t() @ scaled) + scaled)
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, rank={self.rank})"


def low_rank_factors(graph: NeighborIndex, rank: int) -> tuple[Tensor, Tensor]:
    """Factors ``left``, ``right`` ``[N, rank]`` of the best approximation ``left @ right.t()`` of a graph's adjacency.

    SciPy's iterative solver on the CPU: O(rank (E + N rank)) an iteration. The factors are kept with the graph.

    Example:
        >>> star = NeighborIndex(torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]]), 4)
        >>> left, right = low_rank_factors(star, 2)
        >>> (left @ right.t()).round().abs()[0]
        tensor([0., 1., 1., 1.])
    """
    known = vars(graph).setdefault("_low_rank", {})
    if rank not in known:
        ones = np.ones(graph.num_edges)
        parts = (ones, graph.col.cpu().numpy(), graph.rowptr.cpu().numpy())
        adjacency = scipy.sparse.csr_matrix(parts, (graph.num_nodes, graph.num_nodes))
        # A fixed start makes runs repeatable; a random one meets every singular vector.
        start = np.random.default_rng(0).standard_normal(graph.num_nodes)
        u, s, vt = scipy.sparse.linalg.svds(adjacency, rank, v0=start)
        root = np.sqrt(s)
        factors = (u * root, vt.T * root)
        known[rank] = tuple(torch.from_numpy(np.ascontiguousarray(f, np.float32)).to(graph.device) for f in factors)
    return known[rank]
