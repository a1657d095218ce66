"""The latest neighbours of every node."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.nn.temporal.state import StreamingModule
from graphkit.ops.events import Neighbors, ring_at, ring_insert, ring_latest
from graphkit.utils.checks import check_int


class NeighborBuffer(StreamingModule):
    """A ring buffer of each node's latest ``size`` neighbours, with the events that made them so.

    Each event enters at both ends, in the order of the stream; an event of a node with itself enters once. O(B) a batch
    of B events, whatever came before; 24 ``size`` bytes a node. Neighbours of neighbours are a second call.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        size: neighbours kept a node.

    Example:
        >>> buffer = NeighborBuffer(num_nodes=5, size=2)
        >>> buffer.insert(torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]), t=torch.tensor([7, 8, 9]),
        ...     e_id=torch.arange(3))
        >>> buffer.recent(torch.tensor([0, 3])).n_id
        tensor([[3, 2],
                [0, 3]])
    """

    neighbor: Tensor
    event: Tensor
    time: Tensor
    count: Tensor

    def __init__(self, num_nodes: int, size: int = 10) -> None:
        super().__init__()
        self.num_nodes, self.size = check_int(num_nodes, "num_nodes", 1), check_int(size, "size", 1)
        for name in ("neighbor", "event", "time"):
            self.register_state(name, num_nodes, size, dtype=torch.int64)
        self.register_state("count", num_nodes, dtype=torch.int64)

    @torch.no_grad()
    def insert(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor) -> None:
        """Add a batch of events, all ``[B]`` int64, ids in range (not checked here), in order of time."""
        ring_insert(src, dst, t, e_id, self.neighbor, self.event, self.time, self.count)

    def recent(self, n_id: Tensor, size: int | None = None, since: Tensor | None = None) -> Neighbors:
        """The latest ``size`` neighbours of nodes ``n_id`` ``[n]``, latest first.

        Args:
            n_id: nodes, repeated ones too.
            size: at most the buffer's, which is the default.
            since: ``[n]`` times; events before them are masked.
        """
        size = self.size if size is None else check_int(size, "size", 1, self.size)
        found = ring_latest(n_id, size, self.neighbor, self.event, self.time, self.count)
        return found if since is None else found._replace(mask=found.mask & (found.t >= since[:, None]))

    def sample(self, n_id: Tensor, size: int, generator: torch.Generator | None = None) -> Neighbors:
        """``size`` of each node's buffered neighbours, uniformly and with replacement."""
        check_int(size, "size", 1)
        number = self.count[n_id].clamp(max=self.size)[:, None]
        draw = torch.rand(n_id.numel(), size, generator=generator, device=n_id.device, dtype=torch.float64)
        place = self.count[n_id][:, None] - 1 - (draw * number).long()
        mask = (number > 0).expand_as(place)
        return ring_at(n_id, place, mask, self.neighbor, self.event, self.time)

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, size={self.size}"
