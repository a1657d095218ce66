"""Hopfield retrieval along edges."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from graphkit.nn.mixer.hopfield import Association
from graphkit.utils.checks import check_int, check_pairs


class HopfieldConv(nn.Module):
    r"""The layer ``Hopfield`` of `"Hopfield Networks is All You Need" <https://arxiv.org/abs/2008.02217>`_ on the edges
    of a graph: the patterns that a node looks among are the nodes that it has edges from,

    .. math:: q_i \leftarrow \sum_{j \to i} p_{ij} k_j, \qquad p_{ij} = \mathrm{softmax}_{j \to i}(\beta q_i \cdot k_j),
              \qquad out_i = W \sum_{j \to i} p_{ij} v_j

    with ``steps`` retrievals before the last. On a complete graph with self-loops it is :class:`~graphkit.nn.Hopfield`
    with the same weights. A node without edges gets the bias. O((steps + 1) E heads hidden_channels) time, and as many
    numbers are stored.

    Args:
        in_channels: width of a node.
        out_channels: width of the output.
        hidden_channels: width of a head.
        heads: number of heads.
        beta: inverse temperature, one number or one for each head; :math:`1 / \sqrt{\text{hidden\_channels}}` if None.
        steps: retrievals besides the last.
        dropout: dropout of the weights of the last retrieval.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, ``edge_index`` ``[2, E]`` source to target
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a number out of range, not one ``beta`` a head, or features of another width.
        IndexError: a node out of range.

    Example:
        >>> import torch
        >>> HopfieldConv(8, 4, steps=2)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 8,
        heads: int = 4,
        beta: float | Sequence[float] | None = None,
        steps: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.association = Association(
            in_channels, in_channels, out_channels, hidden_channels, heads, beta, steps, dropout
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.association.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        return self.association.along_edges(x, check_pairs(edge_index, x.size(0), "edge_index"))

    def __repr__(self) -> str:
        part = self.association
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={part.heads}, steps={part.steps})"
