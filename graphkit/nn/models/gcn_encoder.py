"""The two-layer GCN that graph contrastive methods train, and whose output can be bounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import incoming, propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.utils.checks import NO_FEATURES, check_choice, check_range


class GCNEncoder(nn.Module):
    r"""Two layers of GCN with an activation after both: the encoder of `"Deep Graph Contrastive Representation
    Learning" <https://arxiv.org/abs/2006.04131>`_ and of the methods that follow it.

    .. math:: Z = \sigma(\tilde A \, \sigma(\tilde A X W_1 + b_1) W_2 + b_2)

    :math:`\tilde A` is :func:`propagate`'s ``"gcn"``; the degrees of a directed view are those of the edges to a node.
    :math:`\sigma` is ReLU, or PReLU with one learned slope for both layers, held in [0, 1] as the bounds of
    :class:`GCNBoundPropagation` need it. O(nnz(X) hidden + E (hidden + out)).

    Args:
        in_channels: width of ``x``.
        hidden_channels: width of the hidden layer; ``2 * out_channels`` if None, as in the paper.
        out_channels: width of the output.
        activation: ``"relu"`` or ``"prelu"``.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex`,
          whose row ``i`` lists the nodes that ``i`` hears from, or as PyG's ``edge_index`` ``[2, E]``
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size below 1 or another activation.

    Example:
        >>> GCNEncoder(8, out_channels=4)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 4])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        out_channels: int = 128,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        hidden_channels = 2 * out_channels if hidden_channels is None else hidden_channels
        for name, value in (("in", in_channels), ("hidden", hidden_channels), ("out", out_channels)):
            check_range(value, f"{name}_channels", 1)
        self.activation = check_choice(activation, "activation", ("relu", "prelu"))
        self.in_channels, self.hidden_channels, self.out_channels = in_channels, hidden_channels, out_channels
        self.linear1 = SparseLinear(in_channels, hidden_channels, bias=False)
        self.bias1 = nn.Parameter(torch.empty(hidden_channels))
        self.linear2 = SparseLinear(hidden_channels, out_channels, bias=False)
        self.bias2 = nn.Parameter(torch.empty(out_channels))
        self.slope = nn.Parameter(torch.empty(())) if activation == "prelu" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for linear maps, zero for biases, 0.25 for the slope."""
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
        for bias in (self.bias1, self.bias2):
            nn.init.zeros_(bias)
        if self.slope is not None:
            nn.init.constant_(self.slope, 0.25)

    @property
    def negative_slope(self) -> Tensor | float:
        """The activation's slope below zero: 0 of ReLU, and the learned one, within [0, 1], of PReLU."""
        return 0.0 if self.slope is None else self.slope.clamp(0, 1)

    def activate(self, h: Tensor) -> Tensor:
        """The activation."""
        return F.relu(h) if self.slope is None else torch.where(h > 0, h, self.negative_slope * h)

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"x must be a matrix [N, {self.in_channels}] (got {type(x).__name__}); {NO_FEATURES}")
        graph = incoming(edge_index, x.size(0))
        h = self.activate(propagate(self.linear1(x), graph) + self.bias1)
        return self.activate(propagate(self.linear2(h), graph) + self.bias2)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.out_channels}"
        return f"{type(self).__name__}({sizes}, activation={self.activation!r})"
