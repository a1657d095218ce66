"""Embeddings that need no attention: a sum over neighbours, the drift of time, and the memory itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.temporal.state import StreamingModule
from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops.events import Neighbors
from graphkit.ops.neighbor_attention import neighbor_attention
from graphkit.utils.checks import check_int


class GraphSumEmbedding(nn.Module):
    r"""The graph sum of `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
    <https://arxiv.org/abs/2006.10637>`_:

    .. math:: z = W_2 \Big[ \mathrm{ReLU}\Big(W_1 \sum_k [h_{j_k} \,\|\, e_k \,\|\, \phi(t - t_k)]\Big) \,\Big\|\, h_i
              \,\Big\|\, \phi(0) \Big] + b

    Args, shapes and the call are those of
    :class:`~graphkit.nn.temporal.temporal_attention.TemporalAttentionEmbedding`, without heads.
    """

    def __init__(self, in_channels: int, edge_dim: int, out_channels: int, time_encoder: TimeEncoder) -> None:
        super().__init__()
        self.in_channels, self.edge_dim = check_int(in_channels, "in_channels", 1), check_int(edge_dim, "edge_dim", 0)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.time_encoder = time_encoder
        width = in_channels + edge_dim + time_encoder.out_channels
        self.lin_neighbors = nn.Linear(width, out_channels, bias=False)
        self.lin_out = nn.Linear(out_channels + in_channels + time_encoder.out_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-normal weights, zero bias. A shared time encoder is left alone."""
        nn.init.xavier_normal_(self.lin_neighbors.weight)
        nn.init.xavier_normal_(self.lin_out.weight)
        nn.init.zeros_(self.lin_out.bias)

    def forward(
        self, h: Tensor, center: Tensor, neighbors: Neighbors, row: Tensor, t: Tensor, msg: Tensor | None = None
    ) -> Tensor:
        own, encoder = h[center], self.time_encoder
        # Attention by a zero query is the mean; times the number of neighbours, the sum.
        query = h.new_zeros(1, own.size(0), self.lin_neighbors.in_features)
        mean = neighbor_attention(
            query, h, neighbors.n_id, neighbors.mask, neighbors.t, row, t, encoder.freq, encoder.phase,
            edge=msg if self.edge_dim else None, e_id=neighbors.e_id,
        )  # fmt: skip
        total = mean[0] * neighbors.mask.sum(1).to(h.dtype)[row, None]
        start = encoder.phase.cos().expand(row.numel(), -1)
        return self.lin_out(torch.cat([self.lin_neighbors(total).relu(), own[row], start], 1))


class TimeProjectionEmbedding(StreamingModule):
    r"""Where a memory has drifted to since its last event, from `"Predicting Dynamic Embedding Trajectory in Temporal
    Interaction Networks" <https://arxiv.org/abs/1908.01207>`_ (JODIE):

    .. math:: z_i(t) = s_i \odot (1 + w \, \hat\Delta + b), \qquad \hat\Delta = (\Delta t - \mu) / \sigma

    with :math:`\mu` and :math:`\sigma` of the gaps between a node's events so far.

    Args:
        channels: width of a memory.

    Shapes:
        - **s** ``[n, channels]``, **last_update** ``[n]``; **row** ``[Q]``, **t** ``[Q]``: the queries
        - **output:** ``[Q, channels]``
    """

    gap_moments: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check_int(channels, "channels", 1)
        self.lin = nn.Linear(1, channels)
        # Number, sum and sum of squares, in float64: gaps in seconds, squared, would swamp a float32.
        self.register_state("gap_moments", 3, dtype=torch.float64)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Standard normal weight and bias."""
        nn.init.normal_(self.lin.weight)
        nn.init.normal_(self.lin.bias)

    def forward(self, s: Tensor, last_update: Tensor, row: Tensor, t: Tensor) -> Tensor:
        number, total, square = self.gap_moments.double().unbind()
        mean = total / number.clamp(min=1)
        variance = square / number.clamp(min=1) - mean.square()
        scale = torch.where(variance > 0, variance, 1).sqrt()
        gap = (((t - last_update[row]).double() - mean) / scale).to(s.dtype)
        return s[row] * (1 + self.lin(gap[:, None]))

    @torch.no_grad()
    def update_state(self, gap: Tensor, mask: Tensor) -> None:
        """Count gaps ``[n]`` where ``mask`` ``[n]``."""
        value = torch.where(mask, gap, 0).double()
        self.gap_moments += torch.stack([mask.sum().double(), value.sum(), value.square().sum()])

    def extra_repr(self) -> str:
        return str(self.channels)


class IdentityEmbedding(nn.Module):
    """The memory as it is, whatever the time.

    Shapes:
        - **s** ``[n, D]``, **last_update** ``[n]``; **row** ``[Q]``, **t** ``[Q]``: the queries
        - **output:** ``[Q, D]``
    """

    def forward(self, s: Tensor, last_update: Tensor, row: Tensor, t: Tensor) -> Tensor:
        return s[row]
