"""Any temporal model with common neighbours beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from graphkit.nn.temporal.state import TemporalModel
from graphkit.nn.temporal.temporal_common_neighbors import TemporalNCNDecoder
from graphkit.ops.last import compact, last_occurrence


class TemporalNCN(TemporalModel):
    r"""Adds to a temporal model's logits what the common temporal neighbours of a pair say.

    .. math:: \mathrm{logit}(u, v, t) = \mathrm{model}(u, v, t) + \mathrm{NCN}(u, v, t; z)

    with :class:`~graphkit.nn.temporal.temporal_common_neighbors.TemporalNCNDecoder` on the model's own embeddings z,
    each as of its node's last event, so that a node is embedded once whatever it is asked for. Models that embed each
    end by itself, such as TGN, cannot tell whether two nodes have friends in common; this lets them. The combination is
    no published method.

    Args:
        model: the model, with ``embed``.
        in_channels: width of its embeddings.
        hidden_channels: width of the decoder's hidden layer.
        cache_sizes, replace_prob, seed: of the decoder's caches.

    Example:
        >>> from graphkit.nn import MemoryDGNN
        >>> model = TemporalNCN(MemoryDGNN(num_nodes=5, msg_dim=0, memory_dim=8, embedding_dim=8), in_channels=8)
        >>> model.update_state(*torch.tensor([[0, 1], [2, 2], [3, 4], [0, 1]]))
        >>> model(torch.tensor([0]), torch.tensor([[1, 3]]), torch.tensor([9])).shape
        torch.Size([1, 2])
    """

    last_seen: Tensor

    def __init__(
        self,
        model: TemporalModel,
        in_channels: int,
        hidden_channels: int = 100,
        *,
        cache_sizes: Sequence[int] = (32, 16),
        replace_prob: float = 0.9,
        seed: int = 0,
    ) -> None:
        super().__init__(model.num_nodes)
        self.model = model
        self.decoder = TemporalNCNDecoder(
            model.num_nodes, in_channels, hidden_channels, cache_sizes=cache_sizes, replace_prob=replace_prob, seed=seed
        )
        self.register_state("last_seen", model.num_nodes + 1, dtype=torch.int64)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in (self.model, self.decoder):
            reset(module)

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        found = self.model(src, dst, t, msg)
        u, v = src[:, None].expand_as(dst).reshape(-1), dst.reshape(-1)
        key, weight = self.decoder.common(u, v, t[:, None].expand_as(dst).reshape(-1))
        # Keys that only one end has are not embedded: their place is taken by the end, with weight 0.
        key = torch.where(weight == 0, u[:, None], key)
        nodes, row = compact(torch.cat([u[:, None], v[:, None], key], 1), self.num_nodes)
        z = self.model.embed(nodes, self.last_seen[nodes], msg)
        return found + self.decoder.score(z, row[:, 0], row[:, 1], row[:, 2:], weight).view(dst.shape)

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        return self.model.embed(n_id, t, msg)

    def auxiliary_loss(self) -> Tensor | None:
        return self.model.auxiliary_loss()

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.model.update_state(src, dst, t, e_id, msg)
        self.decoder.update_state(src, dst, t, e_id, msg)
        ends = torch.stack([src, dst], 1).view(-1)
        # The row behind the last node takes what does not come last.
        self.last_seen[torch.where(last_occurrence(ends), ends, self.num_nodes)] = t.repeat_interleave(2)
        super().update_state(src, dst, t, e_id, msg)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, {self.decoder.extra_repr()})"
