"""The encoder of Neural Common Neighbor: one linear layer and message passing without weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.conv.propagate import PureConv, dropout_edges
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import check_probabilities, check_range


class PureGNN(nn.Module):
    r"""One linear layer, then :class:`PureConv` layers: the encoder of `"Neural Common Neighbor with Completion for
    Link Prediction" <https://arxiv.org/abs/2302.00890>`_.

    .. math:: h_0 = \mathrm{Dropout}(X) W + b, \qquad h_{l+1} = \tilde A h_l \; (+ \, h_l)

    Args:
        in_channels: width of ``x``; 0 for a graph without features, whose nodes get a learned embedding each.
        hidden_channels: width of the output.
        num_layers: number of message-passing layers, from 0.
        num_nodes: number of nodes; only for ``in_channels=0``.
        aggr: aggregation of :class:`PureConv`.
        input_dropout: dropout of the features (embeddings only get ``dropout``).
        dropout: dropout after the linear layer.
        tail_dropout: dropout after the last message passing.
        edge_dropout: probability of dropping an edge while training; kept ones are scaled up.
        residual: add each layer's input to its output.
        jumping: sum the layers' outputs with free learned weights (drawn from N(0, 1)) instead of taking the last.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR; None for ``in_channels=0``), graph
        - **output:** ``[N, hidden_channels]``

    Raises:
        ValueError: a size or probability out of range, or ``in_channels=0`` without ``num_nodes``.

    Example:
        >>> encoder = PureGNN(8, 16, num_layers=2)
        >>> encoder(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 1,
        num_nodes: int | None = None,
        *,
        aggr: str = "gcn",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        tail_dropout: float = 0.0,
        edge_dropout: float = 0.0,
        residual: bool = False,
        jumping: bool = False,
    ) -> None:
        super().__init__()
        check_range(num_layers, "num_layers", 0)
        check_range(hidden_channels, "hidden_channels", 1)
        check_probabilities(
            input_dropout=input_dropout, dropout=dropout, tail_dropout=tail_dropout, edge_dropout=edge_dropout
        )
        if in_channels == 0 and not num_nodes:
            raise ValueError("num_nodes must be given with in_channels=0, whose nodes get an embedding each (got None)")
        if in_channels < 0:
            raise ValueError(f"in_channels must be >= 0 (got {in_channels})")
        self.in_channels, self.hidden_channels, self.num_layers = in_channels, hidden_channels, num_layers
        self.dropout, self.tail_dropout, self.edge_dropout = dropout, tail_dropout, edge_dropout
        self.residual = residual
        self.input: nn.Embedding | SparseLinear
        if in_channels:
            self.input = SparseLinear(in_channels, hidden_channels, input_dropout)
        else:
            self.input = nn.Embedding(num_nodes or 0, hidden_channels)
        self.conv = PureConv(aggr)
        self.layer_weight = nn.Parameter(torch.empty(num_layers)) if jumping and num_layers else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew (embeddings orthogonal)."""
        self.input.reset_parameters()
        if isinstance(self.input, nn.Embedding):
            nn.init.orthogonal_(self.input.weight)
        if self.layer_weight is not None:
            nn.init.normal_(self.layer_weight)

    def forward(self, x: Tensor | None, edge_index: NeighborIndex | Tensor) -> Tensor:
        if isinstance(self.input, nn.Embedding):
            h = self.input.weight
        elif x is None:
            raise ValueError(f"x must be a matrix [N, {self.in_channels}] (got None)")
        else:
            h = self.input(x)
        h = dropout(h, self.dropout, self.training)
        graph, scale = dropout_edges(NeighborIndex.of(edge_index, h.size(0)), self.edge_dropout, self.training)
        total = None
        for layer in range(self.num_layers):
            out = self.conv(h, graph, scale)
            if layer == self.num_layers - 1:
                out = dropout(out, self.tail_dropout, self.training)
            h = out + h if self.residual else out
            if self.layer_weight is not None:
                part = self.layer_weight[layer] * h
                total = part if total is None else total + part
        return h if total is None else total

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, num_layers={self.num_layers})"
