"""Message passing in which every edge has a gate for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.conv.propagate import incoming
from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_int


class GatedGCNConv(nn.Module):
    r"""The layer of `"Residual Gated Graph ConvNets" <https://arxiv.org/abs/1711.07553>`_ with gates that sum to one,
    as in `"Benchmarking Graph Neural Networks" <https://arxiv.org/abs/2003.00982>`_, for edges without features:

    .. math:: x_i' = U x_i + \frac{\sum_{j \in N(i)} \sigma(A x_i + B x_j) \odot V x_j}
              {\sum_{j \in N(i)} \sigma(A x_i + B x_j) + \epsilon}

    :class:`torch_geometric.nn.ResGatedGraphConv` is the same without the denominator. O(N F F' + E F'), with a few
    ``[E, F']`` matrices stored.

    Args:
        in_channels: width of ``x``, F.
        out_channels: width of the output, F'.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, graph as :class:`~graphkit.ops.NeighborIndex`, whose row ``i`` lists
          the nodes that ``i`` hears from, or as PyG's ``edge_index`` ``[2, E]``
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a width below 1.

    Example:
        >>> GatedGCNConv(8, 16)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True
    eps = 1e-6

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        # Root, value, and the gate's two ends.
        self.lin = nn.Linear(in_channels, 4 * out_channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.lin.reset_parameters()

    def forward(self, x: Tensor, graph: NeighborIndex | Tensor) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        index = incoming(graph, x.size(0))
        root, value, here, there = self.lin(x).chunk(4, 1)
        # Not here[row], whose gradient several threads would add up in an order of their own.
        gate = torch.sigmoid(here.index_select(0, index.row) + there.index_select(0, index.col))
        # Both sums in one pass over the edges.
        sums = torch.cat([gate * value.index_select(0, index.col), gate], 1)
        total, weight = x.new_zeros(x.size(0), sums.size(1)).index_add(0, index.row, sums).chunk(2, 1)
        return root + total / (weight + self.eps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"
