"""Scores of links without parameters, which a model of a stream has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.nn.temporal.neighbor_buffer import NeighborBuffer
from graphkit.nn.temporal.state import TemporalModel
from graphkit.utils.checks import check_int


class Popularity(TemporalModel):
    """Scores a destination by the number of its events so far, at either end. O(1) a pair.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.

    Example:
        >>> model = Popularity(num_nodes=4)
        >>> model.update_state(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([5, 6]), torch.arange(2))
        >>> model(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([7]))
        tensor([[1., 2., 0.]], dtype=torch.float64)
    """

    count: Tensor

    def __init__(self, num_nodes: int) -> None:
        super().__init__(num_nodes)
        self.register_state("count", num_nodes, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t)
        return self.count[dst].double()

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id)
        for node in (src, dst):
            self.count.index_add_(0, node, torch.ones_like(node))
        super().update_state(src, dst, t, e_id, msg)


class Recency(TemporalModel):
    """Scores a destination by how short the time since its last event is, at either end. O(1) a pair.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.

    Example:
        >>> model = Recency(num_nodes=4)
        >>> model.update_state(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([5, 6]), torch.arange(2))
        >>> model(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([9]))
        tensor([[ -3.,  -3., -10.]], dtype=torch.float64)
    """

    last: Tensor

    def __init__(self, num_nodes: int) -> None:
        super().__init__(num_nodes)
        self.register_state("last", num_nodes, fill=-1, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t)
        # The start, -1, is before all times.
        return (self.last[dst] - t[:, None]).double()

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id)
        for node in (src, dst):
            self.last.scatter_reduce_(0, node, t, "amax")
        super().update_state(src, dst, t, e_id, msg)


class CommonRecentNeighbors(TemporalModel):
    """Scores a pair by how many nodes are among the latest ``size`` neighbours of both. O(size²) a pair.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        size: neighbours kept a node.

    Example:
        >>> model = CommonRecentNeighbors(num_nodes=4)
        >>> src, dst = torch.tensor([0, 1, 0]), torch.tensor([2, 2, 3])
        >>> model.update_state(src, dst, torch.tensor([5, 6, 7]), torch.arange(3))
        >>> model(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([9]))
        tensor([[1., 0., 0.]])
    """

    def __init__(self, num_nodes: int, size: int = 8) -> None:
        super().__init__(num_nodes)
        self.neighbors = NeighborBuffer(num_nodes, check_int(size, "size", 1))

    @torch.no_grad()
    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t)
        near, far = self.neighbors.recent(src), self.neighbors.recent(dst.flatten())
        # No node has these ids: what is not there equals nothing.
        mine = torch.where(near.mask, near.n_id, -1)
        theirs = torch.where(far.mask, far.n_id, -2).view(*dst.shape, self.neighbors.size)
        score = torch.zeros(dst.shape, device=dst.device)
        for place in range(mine.size(1)):
            node = mine[:, place, None]
            # A neighbour met twice counts once.
            fresh = ~(mine[:, :place] == node).any(1)
            score += (theirs == node[:, None]).any(2) & fresh[:, None]
        return score

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id)
        self.neighbors.insert(src, dst, t, e_id)
        super().update_state(src, dst, t, e_id, msg)
