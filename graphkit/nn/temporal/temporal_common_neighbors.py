"""Neural Common Neighbor over time: a decoder for the embeddings of any temporal encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.nn.temporal.neighborhood_cache import NeighborhoodCache
from graphkit.nn.temporal.state import StreamingModule
from graphkit.ops import neighborhood_cache as ops
from graphkit.utils.checks import check_int, check_pairs


class TemporalNCNDecoder(StreamingModule):
    r"""Scores links of a stream from the embeddings of the neighbours that both ends have met.

    `"Neural Common Neighbor with Completion for Link Prediction" <https://arxiv.org/abs/2302.00890>`_ pools the
    embeddings of common neighbours. Here the neighbours are the keys of the caches of `"Neighborhood-aware Scalable
    Temporal Network Representation Learning" <https://arxiv.org/abs/2209.01084>`_, and what was met long ago counts
    less:

    .. math:: \mathrm{logit}(u, v, t) = \mathrm{MLP}\Big(\Big[z_u \odot z_v \,\Big\|\,
              \sum_{a \in C_u \cap C_v} c_a \, (1 + t - t_a)^{-\lambda} z_a\Big]\Big)

    where :math:`C_u` are the keys at hop 1 and 2 of u, :math:`t_a` is the time since when both ends have known a,
    :math:`\lambda > 0` is learned, and so is :math:`c_a`, one number for each combination of hops. The combination of
    the two is no published method. O(L D) a pair for caches of L slots.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        in_channels: width D of the embeddings.
        hidden_channels: width of the hidden layer.
        cache_sizes, replace_prob, seed: of the :class:`~graphkit.nn.temporal.neighborhood_cache.NeighborhoodCache`.

    Shapes:
        - ``z`` ``[num_nodes, in_channels]``: embeddings of all nodes, for example the memory of a TGN
        - ``src`` ``[B]``, ``dst`` ``[B, C]``, ``t`` ``[B]`` int64
        - output ``[B, C]`` logits

    Raises:
        IndexError: a node id outside the graph.
        ValueError: an argument out of range or of another shape.

    Example:
        >>> decoder = TemporalNCNDecoder(num_nodes=5, in_channels=8, hidden_channels=16)
        >>> src, dst, t, e_id = torch.tensor([[0, 1], [2, 2], [3, 4], [0, 1]])
        >>> decoder.update_state(src, dst, t, e_id)  # 0 and 1 have both met 2
        >>> decoder(torch.randn(5, 8), torch.tensor([0]), torch.tensor([[1, 3]]), torch.tensor([9])).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        num_nodes: int,
        in_channels: int,
        hidden_channels: int,
        *,
        cache_sizes: Sequence[int] = (32, 16),
        replace_prob: float = 0.9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_nodes = num_nodes
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.hidden_channels = check_int(hidden_channels, "hidden_channels", 1)
        self.cache = NeighborhoodCache(num_nodes, cache_sizes, 1, replace_prob, seed)
        self.code_weight = nn.Parameter(torch.empty(ops.NUM_CODES))
        self.decay = nn.Parameter(torch.empty(()))
        self.mlp = nn.Sequential(nn.Linear(2 * in_channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the state stays."""
        nn.init.ones_(self.code_weight)
        nn.init.constant_(self.decay, -2.0)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, z: Tensor, src: Tensor, dst: Tensor, t: Tensor) -> Tensor:
        if z.shape != (self.num_nodes, self.in_channels):
            raise ValueError(f"z must have shape {[self.num_nodes, self.in_channels]} (got {list(z.shape)})")
        if dst.dim() != 2 or src.shape != dst.shape[:1] or t.shape != src.shape:
            raise ValueError(
                f"src, dst and t must have shapes [B], [B, C] and [B] "
                f"(got {list(src.shape)}, {list(dst.shape)} and {list(t.shape)})"
            )
        u, v = src[:, None].expand_as(dst).reshape(-1), dst.reshape(-1)
        check_pairs(torch.stack([u, v]), self.num_nodes, "src and dst", wait=False)
        key, weight = self.common(u, v, t[:, None].expand_as(dst).reshape(-1))
        return self.score(z, u, v, key, weight).view(dst.shape)

    def score(self, z: Tensor, u: Tensor, v: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        """Logits ``[P, 1]``: embeddings ``z`` ``[n, D]``, its rows of the ends ``[P]`` and of the keys ``[P, L]``."""
        pooled = F.embedding_bag(key, z, mode="sum", per_sample_weights=weight.to(z.dtype))
        pair = z.index_select(0, u) * z.index_select(0, v)
        return self.mlp(torch.cat([pair, pooled], 1))

    def common(self, u: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of ``u`` and their weights, both ``[P, L]``; the weight is 0 unless ``v`` has the key as well."""
        bounds = self.cache.bounds
        near = self.cache.fetch(u)
        far_key, _, far_t, _ = self.cache.fetch(v)
        key = torch.cat([u[:, None], near.key[:, 1:].clamp(min=0)], 1)
        # When v met each key: at hop 1 if it is there, else at hop 2.
        met = torch.zeros_like(near.t)
        for low, high in reversed(list(pairwise(bounds[1:]))):
            column = low + ops.hash_slot(key, high - low)
            met = torch.where(far_key.gather(1, column) == key, far_t.gather(1, column), met)
        code = ops.joint_codes(self.cache.key, bounds, u, v)[:, : key.size(1)]
        # The ends themselves do not count, which leaves nothing of hop 0.
        both = (code & 0b000110 > 0) & (code & 0b110000 > 0) & (key != u[:, None]) & (key != v[:, None])
        age = (t[:, None] - torch.minimum(near.t, met)).clamp(min=0)
        recency = torch.exp(-F.softplus(self.decay) * torch.log1p(age.double())).to(self.code_weight.dtype)
        return key, torch.where(both, self.code_weight[code] * recency, 0)

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        """Show the decoder a batch of events (all ``[B]``), in order of time, after they were scored."""
        check_pairs(torch.stack([src, dst]), self.num_nodes, "src and dst", wait=False)
        ends, other = torch.stack([src, dst], 1).view(-1), torch.stack([dst, src], 1).view(-1)
        e_id, t = (part.repeat_interleave(2) for part in (e_id, t))
        if len(self.cache.sizes) == 2:
            self.cache.insert(2, ends, *self.cache.columns(1), source=other)
        self.cache.insert(1, ends, other, e_id, t, self.cache.rep.new_zeros(ends.numel(), 1))

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, {self.in_channels}, {self.hidden_channels}"
