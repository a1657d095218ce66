"""Embeddings of nodes from their latest neighbours, by attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops.dropout import dropout
from graphkit.ops.events import Neighbors
from graphkit.ops.neighbor_attention import neighbor_attention
from graphkit.utils.checks import check_int, check_range


class TemporalAttentionEmbedding(nn.Module):
    r"""The temporal graph attention of `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
    <https://arxiv.org/abs/2006.10637>`_: a node at time t attends to its latest events,

    .. math:: q = W_Q [h_i \,\|\, \phi(0)] + b, \qquad f_k = [h_{j_k} \,\|\, e_k \,\|\, \phi(t - t_k)], \qquad
              z = W_2 \, \mathrm{ReLU}(W_1 [\mathrm{MultiHead}(q, W_K f, W_V f) \,\|\, h_i] + b_1) + b_2

    The projections of the keys and values are folded into the query and the result
    (:func:`~graphkit.ops.neighbor_attention.neighbor_attention`): with K neighbours about K times fewer operations, the
    same numbers. Keys and values have no bias, so a node without neighbours attends to zero.

    Args:
        in_channels: width of h.
        edge_dim: width of the events' messages; 0 for none.
        out_channels: width of z and of all heads together.
        time_encoder: :math:`\phi`, which may be shared.
        heads: number of heads, a divisor of ``out_channels``.
        dropout: on the attention weights.

    Shapes:
        - **h** ``[m, in_channels]``; **center** ``[n]`` rows of h; **neighbors** ``[n, K]``, whose ``n_id`` are rows
          of h; **row** ``[Q]`` rows of ``center`` and **t** ``[Q]``: the queries; **msg** ``[E, edge_dim]``
        - **output:** ``[Q, out_channels]``

    Raises:
        ValueError: a width or probability out of range.
    """

    def __init__(
        self,
        in_channels: int,
        edge_dim: int,
        out_channels: int,
        time_encoder: TimeEncoder,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels, self.edge_dim = check_int(in_channels, "in_channels", 1), check_int(edge_dim, "edge_dim", 0)
        self.out_channels, self.heads = check_int(out_channels, "out_channels", 1), check_int(heads, "heads", 1)
        if out_channels % heads:
            raise ValueError(f"heads must divide out_channels={out_channels} (got {heads})")
        self.dropout = check_range(dropout, "dropout", 0, 1)
        self.time_encoder = time_encoder
        width = in_channels + edge_dim + time_encoder.out_channels
        self.lin_query = nn.Linear(in_channels + time_encoder.out_channels, out_channels)
        self.lin_key = nn.Linear(width, out_channels, bias=False)
        self.lin_value = nn.Linear(width, out_channels, bias=False)
        self.lin_hidden = nn.Linear(out_channels + in_channels, out_channels)
        self.lin_out = nn.Linear(out_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-normal weights, zero biases. A shared time encoder is left alone."""
        for linear in (self.lin_query, self.lin_key, self.lin_value, self.lin_hidden, self.lin_out):
            nn.init.xavier_normal_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, h: Tensor, center: Tensor, neighbors: Neighbors, row: Tensor, t: Tensor, msg: Tensor | None = None
    ) -> Tensor:
        own = h.index_select(0, center)
        heads, size = self.heads, self.out_channels // self.heads
        encoder, width = self.time_encoder, self.in_channels
        # phi(0) is the same for all.
        weight = self.lin_query.weight
        start = torch.addmv(self.lin_query.bias, weight[:, width:], encoder.phase.cos())
        projected = F.linear(own, weight[:, :width], start).view(-1, heads, size).transpose(0, 1)
        query = projected @ (self.lin_key.weight.view(heads, size, -1) * (1 / math.sqrt(size)))
        keep = None
        if self.training and self.dropout:
            keep = dropout(h.new_ones(row.numel(), heads, neighbors.mask.size(1)), self.dropout)
        found = neighbor_attention(
            query, h, neighbors.n_id, neighbors.mask, neighbors.t, row, t, encoder.freq, encoder.phase,
            edge=msg if self.edge_dim else None, e_id=neighbors.e_id, keep=keep,
        )  # fmt: skip
        value = found @ self.lin_value.weight.view(heads, size, -1).transpose(1, 2)
        attended = value.transpose(0, 1).flatten(1)
        merge = self.lin_hidden.weight
        from_own = F.linear(own, merge[:, self.out_channels :], self.lin_hidden.bias)
        hidden = torch.addmm(from_own.index_select(0, row), attended, merge[:, : self.out_channels].t())
        return self.lin_out(hidden.relu_())

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.edge_dim}, {self.out_channels}, heads={self.heads}, dropout={self.dropout}"
