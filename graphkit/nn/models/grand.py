"""GRAND: features of random nodes dropped, what is left passed on, and an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import propagate
from graphkit.ops import NeighborIndex
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import check_int, check_probabilities


class GRANDPropagation(nn.Module):
    r"""DropNode and mixed-order propagation of `"Graph Random Neural Networks for Semi-Supervised Learning on Graphs"
    <https://arxiv.org/abs/2005.11079>`_, without weights.

    .. math:: \bar X = \frac{1}{K + 1} \sum_{k=0}^{K} \tilde A^k \, \mathrm{diag}(m) X, \qquad
        m_i \sim \mathrm{Bernoulli}(1 - \delta)

    Rows are kept unscaled while training, and in eval mode :math:`m_i = 1 - \delta`, the same expectation.
    O(K (E + N) F) time and a few ``[N, F]`` matrices of memory, whatever K.

    Args:
        order: number of hops ``K``; 0 passes nothing on.
        drop_node: probability :math:`\delta` of dropping a node's features.

    Shapes:
        - **input:** ``x`` ``[N, F]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, F]``, dense

    Raises:
        ValueError: ``order`` below 0 or ``drop_node`` outside [0, 1].

    Example:
        >>> GRANDPropagation(order=2, drop_node=0.5)(torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    takes_index = True

    def __init__(self, order: int, drop_node: float = 0.5) -> None:
        super().__init__()
        self.order = check_int(order, "order", 0)
        check_probabilities(drop_node=drop_node)
        self.drop_node = drop_node

    def reset_parameters(self) -> None:
        """Nothing to reset; there for PyG's habits."""

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        graph = NeighborIndex.of(edge_index, x.size(0))
        h = x.to_dense() if x.is_sparse_csr else x
        if self.training and self.drop_node > 0:
            h = h * (torch.rand(h.size(0), 1, dtype=h.dtype, device=h.device) >= self.drop_node)
        elif self.drop_node > 0:
            h = h * (1 - self.drop_node)
        total = h
        for _ in range(self.order):
            h = propagate(h, graph, "gcn")
            total = total + h
        return total / (self.order + 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(order={self.order}, drop_node={self.drop_node})"


class GRAND(nn.Module):
    r"""`"Graph Random Neural Networks for Semi-Supervised Learning on Graphs" <https://arxiv.org/abs/2005.11079>`_:
    :class:`GRANDPropagation` of the features, then an MLP of two layers.

    It is meant to be trained on several random views of the features and to agree on them:
    :class:`graphkit.train.ConsistencyTask`.

    Args:
        in_channels: width of ``x``.
        hidden_channels: width of the hidden layer.
        out_channels: width of the output.
        order, drop_node: see :class:`GRANDPropagation`.
        input_dropout, dropout: dropout before the first and the second layer.
        batch_norm: normalise before both dropouts.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range, or features of another width.

    Example:
        >>> GRAND(8, 16, 3, order=4)(torch.randn(2, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        order: int,
        drop_node: float = 0.5,
        input_dropout: float = 0.5,
        dropout: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        check_int(hidden_channels, "hidden_channels", 1)
        check_int(out_channels, "out_channels", 1)
        check_probabilities(input_dropout=input_dropout, dropout=dropout)
        self.input_dropout, self.dropout = input_dropout, dropout
        self.propagation = GRANDPropagation(order, drop_node)
        self.input_norm = nn.BatchNorm1d(in_channels) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(in_channels, hidden_channels)
        self.hidden_norm = nn.BatchNorm1d(hidden_channels) if batch_norm else nn.Identity()
        self.output = nn.Linear(hidden_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for linear maps, zero for biases."""
        for linear in (self.hidden, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for norm in (self.input_norm, self.hidden_norm):
            if isinstance(norm, nn.BatchNorm1d):
                norm.reset_parameters()

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        h = self.input_norm(self.propagation(x, edge_index))
        h = F.relu(self.hidden(dropout(h, self.input_dropout, self.training)))
        return self.output(dropout(self.hidden_norm(h), self.dropout, self.training))

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden.out_features}, {self.output.out_features}"
        return f"{type(self).__name__}({sizes}, order={self.propagation.order})"
