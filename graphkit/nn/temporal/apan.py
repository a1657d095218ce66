"""Embeddings from mailboxes, which neighbours fill after each event: APAN."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from graphkit.nn.dropout import Dropout
from graphkit.nn.temporal.neighbor_buffer import NeighborBuffer
from graphkit.nn.temporal.pres import PredictCorrectFilter, memory_coherence_loss
from graphkit.nn.temporal.state import StreamingModule
from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops.events import last_place
from graphkit.ops.last import compact, last_occurrence
from graphkit.utils.checks import check_int, check_range


class APANEncoder(StreamingModule):
    r"""The encoder of `"APAN: Asynchronous Propagation Attention Network for Real-time Temporal Graph Embedding"
    <https://arxiv.org/abs/2011.11545>`_, which reads no neighbours to answer a query.

    A node keeps its last embedding and a mailbox of its latest mails. At time t it attends to them:

    .. math:: f = z_i + \phi(t - t_i^-), \quad k_j = mail_j + \phi(t - t_j) + p_j, \quad
              z_i' = W_2 \, \mathrm{ReLU}(W_1 \, \mathrm{LayerNorm}([f \,\|\, \mathrm{MultiHead}(f, k, k)]))

    with a learned :math:`p_j` for the j-th newest mail. After a batch, without gradient, each event makes a mail
    :math:`[z_i + z_j \,\|\, e]`, of which e is projected when read. A node's mails of the batch are averaged and sent
    to it and to its latest neighbours; who receives several keeps their mean, as one mail.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        msg_dim: width of the events' messages e; 0 for none.
        channels: width of embeddings and of the encoded time.
        num_mails: size of a mailbox.
        num_neighbors: latest neighbours that mails are sent on to.
        heads: a divisor of ``channels``.
        dropout: after the normalisation.
        filter: a :class:`~graphkit.nn.temporal.pres.PredictCorrectFilter` that corrects each computed embedding.

    Raises:
        ValueError: a width or probability out of range.

    Example:
        >>> encoder = APANEncoder(num_nodes=4, msg_dim=0, channels=8)
        >>> encoder(torch.tensor([1, 2]), row=torch.tensor([0, 0, 1]), t=torch.tensor([5, 6, 6])).shape
        torch.Size([3, 8])
    """

    embedding: Tensor
    last_update: Tensor
    mail: Tensor
    mail_time: Tensor
    count: Tensor

    def __init__(
        self,
        num_nodes: int,
        msg_dim: int,
        channels: int = 100,
        num_mails: int = 10,
        num_neighbors: int = 20,
        heads: int = 2,
        dropout: float = 0.1,
        filter: PredictCorrectFilter | None = None,
    ) -> None:
        super().__init__()
        self.num_nodes, self.msg_dim = check_int(num_nodes, "num_nodes", 1), check_int(msg_dim, "msg_dim", 0)
        self.channels, self.num_mails = check_int(channels, "channels", 1), check_int(num_mails, "num_mails", 1)
        self.heads = check_int(heads, "heads", 1)
        if channels % heads:
            raise ValueError(f"heads must divide channels={channels} (got {heads})")
        check_range(dropout, "dropout", 0, 1)
        if filter is not None and (filter.num_nodes, filter.memory_dim) != (num_nodes, channels):
            raise ValueError(
                f"filter must be for {num_nodes} nodes and memory_dim={channels} "
                f"(got {filter.num_nodes} and {filter.memory_dim})"
            )
        self.time_encoder = TimeEncoder(channels)
        self.lin_msg = nn.Linear(msg_dim, channels, bias=False) if msg_dim else None
        self.position = nn.Embedding(num_mails, channels)
        self.lin_query = nn.Linear(channels, channels)
        self.lin_key = nn.Linear(channels, channels, bias=False)
        self.lin_value = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(2 * channels)
        self.dropout = Dropout(dropout)
        self.lin_hidden, self.lin_out = nn.Linear(2 * channels, channels), nn.Linear(channels, channels)
        self.neighbors = NeighborBuffer(num_nodes, num_neighbors)
        self.filter = filter
        self.register_state("embedding", num_nodes, channels)
        self.register_state("last_update", num_nodes, dtype=torch.int64)
        self.register_state("mail", num_nodes, num_mails, channels + msg_dim)
        self.register_state("mail_time", num_nodes, num_mails, dtype=torch.int64)
        self.register_state("count", num_nodes, dtype=torch.int64)
        self._last_read: tuple[Tensor, Tensor] | None = None

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in self.children():
            reset(module)

    def forward(self, n_id: Tensor, row: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        """Embeddings ``[Q, channels]`` of nodes ``n_id[row]`` at times ``t`` (``row`` and ``t`` are ``[Q]``)."""
        node = n_id[row]
        z = self._compute(node, t, self.dropout)
        if self.filter is not None:
            old = self.embedding[node]
            z = self.filter.correct(node, old, z, self._gap(node, t))
            self._last_read = z, old
        return z

    def coherence_loss(self) -> Tensor | None:
        """How much the embeddings that ``forward`` made last have turned from those before."""
        return None if self._last_read is None else memory_coherence_loss(*self._last_read)

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        """Write the embeddings of the ends of a batch of events, then send the batch's mails."""
        ends = torch.stack([src, dst], 1).view(-1)
        # On a GPU nodes may be all nodes, so only ends are written.
        nodes, inverse = (ends, torch.arange(ends.numel(), device=ends.device))
        if ends.device.type == "cpu":
            nodes, inverse = compact(ends, self.num_nodes)
        last = torch.empty_like(nodes)
        last[inverse] = last_place(ends)
        when = t[last // 2]
        old = self.embedding[nodes]
        z = computed = self._compute(nodes, when)
        distinct = last_occurrence(nodes)
        if self.filter is not None:
            gap = self._gap(nodes, when)
            z = self.filter.correct(nodes, old, computed, gap)
            self.filter.track(nodes, old, z, gap, mask=distinct, s_new=computed)
        self.embedding.index_copy_(0, nodes, z)
        self.last_update.index_copy_(0, nodes, when)
        pair = z[inverse].view(-1, 2, self.channels).sum(1)
        mail = torch.cat([pair, msg[e_id].to(pair.dtype)], 1) if self.msg_dim and msg is not None else pair
        mean = _mean(_group(ends), mail.repeat_interleave(2, 0), torch.ones_like(ends, dtype=mail.dtype))
        self._send(nodes, mean[last], when, distinct)
        self.neighbors.insert(src, dst, t, e_id)

    def detach_state(self) -> None:
        super().detach_state()
        self._last_read = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has not read anything; nor could an autograd graph be copied.
        return self.__dict__ | {"_last_read": None}

    def _gap(self, node: Tensor, t: Tensor) -> Tensor:
        return t - self.last_update[node]

    def _send(self, sender: Tensor, mail: Tensor, t: Tensor, distinct: Tensor) -> None:
        """Put ``mail`` ``[n, W]`` into the boxes of the senders and of their neighbours."""
        found = self.neighbors.recent(sender)
        # A sender stands in for neighbours that it lacks, where it counts nothing: it has the mail already.
        receiver = torch.cat([sender[:, None], found.n_id], 1)
        first = torch.ones_like(found.mask[:, :1])
        counts = (torch.cat([first, found.mask], 1) & distinct[:, None]).to(mail.dtype).view(-1)
        size, receiver = receiver.size(1), receiver.view(-1)
        group = _group(receiver)
        mean = _mean(group, mail.repeat_interleave(size, 0), counts)
        t = t.repeat_interleave(size)
        latest = torch.empty_like(t).scatter_reduce_(0, group, t, "amax", include_self=False)[group]
        slot = self.count[receiver] % self.num_mails
        self.mail[receiver, slot] = mean
        self.mail_time[receiver, slot] = latest
        self.count[receiver] = self.count[receiver] + 1

    def _compute(self, node: Tensor, t: Tensor, dropout: nn.Module | None = None) -> Tensor:
        size, heads = self.num_mails, self.heads
        back = torch.arange(size, device=node.device)
        number = self.count[node][:, None]
        slot = (number - 1 - back) % size
        mail, sent = self.mail[node[:, None], slot], self.mail_time[node[:, None], slot]
        if self.lin_msg is not None:
            mail = mail[..., : self.channels] + self.lin_msg(mail[..., self.channels :])
        age = self.time_encoder((t[:, None] - sent).view(-1)).view(-1, size, self.channels)
        keys = mail + age + self.position.weight
        f = self.embedding[node] + self.time_encoder(self._gap(node, t))
        # Keys and values are projected together with the query and the result: see TemporalAttentionEmbedding.
        query = self.lin_query(f).view(-1, heads, self.channels // heads)
        query = torch.einsum("qhc,hcf->qhf", query, self.lin_key.weight.view(heads, -1, self.channels))
        score = query @ keys.transpose(1, 2) / math.sqrt(self.channels // heads)
        empty = (back >= number)[:, None]
        weight = score.masked_fill(empty, torch.finfo(score.dtype).min).softmax(-1).masked_fill(empty, 0)
        value = self.lin_value.weight.view(heads, -1, self.channels)
        attended = torch.einsum("qhf,hcf->qhc", weight @ keys, value).flatten(1)
        hidden = self.norm(torch.cat([f, attended], 1))
        return self.lin_out(F.relu(self.lin_hidden(hidden if dropout is None else dropout(hidden))))

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, msg_dim={self.msg_dim}, channels={self.channels}, num_mails={self.num_mails}"


def _group(index: Tensor) -> Tensor:
    """``[M]`` numbers below M, the same for two places exactly if ``index`` is."""
    return torch.searchsorted(torch.sort(index).values, index)


def _mean(group: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """For each of M places the weighted mean ``[M, W]`` of its group's values, in the same order on every device."""
    total = torch.zeros_like(value).index_put_((group,), value * weight[:, None], accumulate=True)
    count = torch.zeros_like(weight).index_put_((group,), weight, accumulate=True)
    return (total / count[:, None])[group]
