"""A memory of each node's past events, written by a recurrent cell: the memory of temporal graph networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from graphkit.nn.temporal.message_store import MessageStore
from graphkit.nn.temporal.pres import PredictCorrectFilter, memory_coherence_loss
from graphkit.nn.temporal.state import StreamingModule
from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops.gru import gru_gates
from graphkit.ops.last import compact, last_occurrence
from graphkit.utils.checks import check_choice, check_int


class MemoryReading(NamedTuple):
    """Memories ``[n, D]`` of n nodes as of their last event ``[n]``, and how they came about.

    ``old`` is the written memory, ``computed`` what the cell made of it, ``memory`` that after the filter, ``gap`` the
    time from one to the other, ``has`` whether there was a message to apply.
    """

    memory: Tensor
    last_update: Tensor
    old: Tensor
    computed: Tensor
    gap: Tensor
    has: Tensor


class TGNMemory(StreamingModule):
    r"""The memory of `"Temporal Graph Networks for Deep Learning on Dynamic Graphs" <https://arxiv.org/abs/2006.10637>`_.

    An event (i, j, e, t) leaves node i a raw message, and node j its mirror:

    .. math:: m_i = [s_i \,\|\, s_j \,\|\, e \,\|\, \phi(t - t_i^-)], \qquad s_i' = \mathrm{cell}(m_i, s_i)

    with the memories of both ends as they were before the batch, and :math:`t_i^-` the time of i's event before. The
    message waits until i is next read. Each read applies it, with gradient; the result is written only when i has its
    next event. So a loss reaches the cell through messages of earlier batches, and an event never influences its own
    score. Nodes to which no message was left keep their memory bit for bit.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        msg_dim: width of the events' messages e; 0 for none.
        memory_dim: width D of a memory.
        time_dim: width of the encoded time.
        message: ``"identity"``, or ``"mlp"``: the raw message through two layers, to ``memory_dim`` features.
        aggr: which of a node's messages of one batch count: ``"last"``, or ``"mean"``: the raw messages' mean, in which
            the time encodings are those of the batch, without gradient.
        cell: ``"gru"``, or ``"rnn"`` (tanh).
        filter: a :class:`~graphkit.nn.temporal.pres.PredictCorrectFilter` that corrects each computed memory.

    Shapes:
        - **input:** nodes ``[n]``
        - **output:** memories ``[n, memory_dim]`` and times ``[n]`` of the last event

    Raises:
        ValueError: an unknown choice, or a width out of range.

    Example:
        >>> memory = TGNMemory(num_nodes=4, msg_dim=0, memory_dim=8, time_dim=8)
        >>> memory.update_state(torch.tensor([0]), torch.tensor([1]), torch.tensor([5]), torch.tensor([0]))
        >>> s, last_update = memory(torch.tensor([1, 2]))
        >>> last_update, s[1].abs().max().item()
        (tensor([5, 0]), 0.0)
    """

    memory: Tensor
    last_update: Tensor

    def __init__(
        self,
        num_nodes: int,
        msg_dim: int,
        memory_dim: int = 100,
        time_dim: int = 100,
        message: str = "identity",
        aggr: str = "last",
        cell: str = "gru",
        filter: PredictCorrectFilter | None = None,
    ) -> None:
        super().__init__()
        check_choice(message, "message", ("identity", "mlp"))
        check_choice(cell, "cell", ("gru", "rnn"))
        self.num_nodes, self.msg_dim = check_int(num_nodes, "num_nodes", 1), check_int(msg_dim, "msg_dim", 0)
        self.memory_dim = check_int(memory_dim, "memory_dim", 1)
        if filter is not None and (filter.num_nodes, filter.memory_dim) != (num_nodes, memory_dim):
            raise ValueError(
                f"filter must be for {num_nodes} nodes and memory_dim={memory_dim} "
                f"(got {filter.num_nodes} and {filter.memory_dim})"
            )
        self.time_encoder = TimeEncoder(time_dim)
        stored = memory_dim + msg_dim + (time_dim if aggr == "mean" else 0)
        self.store = MessageStore(num_nodes, stored, aggr)
        width = 2 * memory_dim + msg_dim + time_dim
        self.mlp = None
        if message == "mlp":
            self.mlp = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, memory_dim))
            width = memory_dim
        self.cell = nn.GRUCell(width, memory_dim) if cell == "gru" else nn.RNNCell(width, memory_dim)
        self.filter = filter
        self.register_state("memory", num_nodes, memory_dim)
        self.register_state("last_update", num_nodes, dtype=torch.int64)
        self._last_read: tuple[Tensor, MemoryReading] | None = None

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in (*(self.mlp or ()), self.cell, self.time_encoder, self.filter):
            reset(module)

    def forward(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        reading = self.read(n_id)
        if self.filter is not None:
            self._last_read = n_id, reading
        return reading.memory, reading.last_update

    def coherence_loss(self) -> Tensor | None:
        """How much the memories that ``forward`` read last have turned (:func:`memory_coherence_loss`).

        Of the nodes with a message; None without a filter, or before ``forward``.
        """
        if self._last_read is None:
            return None
        n_id, reading = self._last_read
        return memory_coherence_loss(reading.memory, reading.old, reading.has & last_occurrence(n_id))

    @torch.no_grad()
    def update_state(
        self,
        src: Tensor,
        dst: Tensor,
        t: Tensor,
        e_id: Tensor,
        msg: Tensor | None = None,
        summary: Tensor | None = None,
    ) -> None:
        """Write the memories of the ends of a batch of events, then leave them the batch's messages.

        Args:
            src, dst, t, e_id: ``[B]`` int64, the events in order of time.
            msg: ``[E, msg_dim]``, read at ``e_id``.
            summary: ``[B, 2, D]``, what the messages tell of the events' ends in place of their memories.
        """
        ends = torch.stack([src, dst], 1)
        nodes, inverse = compact(ends, self.num_nodes)
        ends, inverse = ends.view(-1), inverse.view(-1)
        now = self.read(nodes)
        told = now.memory.index_select(0, inverse)
        self.memory.index_copy_(0, ends, told)
        self.last_update.index_copy_(0, ends, now.last_update[inverse])
        if self.filter is not None:
            old, computed, memory, gap = (v[inverse] for v in (now.old, now.computed, now.memory, now.gap))
            updated = now.has[inverse] & last_occurrence(ends)
            self.filter.track(ends, old, memory, gap, mask=updated, s_new=computed)
        if summary is None:
            summary = told.view(-1, 2, self.memory_dim)
        parts = [summary.flip(1).reshape(-1, self.memory_dim)]
        t = t.repeat_interleave(2)
        if self.msg_dim and msg is not None:
            parts.append(msg[e_id].to(told.dtype).repeat_interleave(2, 0))
        if self.store.aggr == "mean":
            parts.append(self.time_encoder(t - now.last_update[inverse]))
        self.store.put(ends, t, parts[0] if len(parts) == 1 else torch.cat(parts, 1))

    def detach_state(self) -> None:
        super().detach_state()
        self._last_read = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has not read anything; nor could an autograd graph be copied.
        return self.__dict__ | {"_last_read": None}

    def read(self, n_id: Tensor) -> MemoryReading:
        """The memories of nodes ``n_id`` ``[n]`` with their messages applied."""
        old, before = self.memory.index_select(0, n_id), self.last_update[n_id]
        raw, t, has = self.store.pending(n_id)
        if n_id.device.type != "cpu":
            computed, memory = self._fold(n_id, old, before, raw, t)
            column = has[:, None]
            return MemoryReading(
                torch.where(column, memory, old), torch.where(has, t, before), old, computed,
                torch.where(has, t - before, 0), has,
            )  # fmt: skip
        # Without a message there is nothing to compute.
        row = has.nonzero().view(-1)
        if row.numel() == n_id.numel():
            computed, memory = self._fold(n_id, old, before, raw, t)
            return MemoryReading(memory, t, old, computed, t - before, has)
        some = (n_id[row], old.index_select(0, row), before[row], raw.index_select(0, row), t[row])
        computed, memory = self._fold(*some)
        folded = old.index_copy(0, row, memory)
        return MemoryReading(
            folded,
            before.index_copy(0, row, some[4]),
            old,
            folded if computed is memory else old.index_copy(0, row, computed),
            torch.zeros_like(before).index_copy_(0, row, some[4] - some[2]),
            has,
        )

    def _fold(self, n_id: Tensor, old: Tensor, before: Tensor, raw: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The computed and the corrected memories of nodes that each have a message."""
        known = torch.cat([old, raw], 1)
        cell = self.cell
        if self.mlp is not None:
            if self.store.aggr == "last":
                known = torch.cat([known, self.time_encoder(t - before)], 1)
            product = F.linear(self.mlp(known), cell.weight_ih, cell.bias_ih)
        elif self.store.aggr == "mean":
            product = F.linear(known, cell.weight_ih, cell.bias_ih)
        else:
            # Apart, because only the time carries gradient.
            width = known.size(1)
            product = F.linear(known, cell.weight_ih[:, :width], cell.bias_ih)
            product = torch.addmm(product, self.time_encoder(t - before), cell.weight_ih[:, width:].t())
        from_old = F.linear(old, cell.weight_hh, cell.bias_hh)
        if isinstance(cell, nn.GRUCell):
            computed = gru_gates(product, from_old, old)
        else:
            computed = torch.tanh(product + from_old)
        if self.filter is None:
            return computed, computed
        return computed, self.filter.correct(n_id, old, computed, t - before)

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, msg_dim={self.msg_dim}, memory_dim={self.memory_dim}"
