"""What nodes have been told and not yet taken into their memories."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.nn.temporal.state import StreamingModule
from graphkit.ops.events import last_place
from graphkit.utils.checks import check_choice, check_int


class Pending(NamedTuple):
    """Of n nodes: the aggregated message ``[n, W]``, the time ``[n]`` of the last one, and whether there is any."""

    raw: Tensor
    t: Tensor
    has: Tensor


class MessageStore(StreamingModule):
    """The aggregate of each node's raw messages since its memory was last written, in dense buffers.

    A new batch replaces what the nodes in it had. O(B W) a batch, O(N W) in memory, the same on every device.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        width: W of a raw message.
        aggr: ``"last"`` keeps a node's last message of the batch, by place; ``"mean"`` the mean of them.

    Example:
        >>> store = MessageStore(num_nodes=3, width=1)
        >>> store.put(torch.tensor([2, 0, 2]), torch.tensor([5, 6, 7]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> store.pending(torch.tensor([2, 1]))
        Pending(raw=tensor([[3.],
                [0.]]), t=tensor([7, 0]), has=tensor([ True, False]))
    """

    raw: Tensor
    time: Tensor
    count: Tensor

    def __init__(self, num_nodes: int, width: int, aggr: str = "last") -> None:
        super().__init__()
        self.aggr = check_choice(aggr, "aggr", ("last", "mean"))
        self.num_nodes, self.width = check_int(num_nodes, "num_nodes", 1), check_int(width, "width", 0)
        self.register_state("raw", num_nodes, width)
        self.register_state("time", num_nodes, dtype=torch.int64)
        self.register_state("count", num_nodes, dtype=torch.int64)

    @torch.no_grad()
    def put(self, n_id: Tensor, t: Tensor, raw: Tensor) -> None:
        """Store messages ``raw`` ``[M, W]`` to nodes ``n_id`` ``[M]`` at times ``t`` ``[M]``, in order of events."""
        last = last_place(n_id)
        self.time.index_copy_(0, n_id, t[last])
        if self.aggr == "last":
            self.count.index_fill_(0, n_id, 1)
            self.raw.index_copy_(0, n_id, raw.index_select(0, last))
            return
        self.count.index_fill_(0, n_id, 0).index_add_(0, n_id, torch.ones_like(n_id))
        # Sums by index_put_: unlike index_add_ it adds in the same order each time on a GPU.
        self.raw.index_fill_(0, n_id, 0).index_put_((n_id,), raw, accumulate=True)

    def pending(self, n_id: Tensor) -> Pending:
        """What nodes ``n_id`` ``[n]`` have been told."""
        count, raw = self.count[n_id], self.raw.index_select(0, n_id)
        if self.aggr == "mean":
            raw = raw / count.clamp(min=1)[:, None]
        return Pending(raw, self.time[n_id], count > 0)

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, {self.width}, aggr={self.aggr!r}"
