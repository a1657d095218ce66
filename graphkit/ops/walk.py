"""Random walks: uniform, and biased towards or away from where they came from (node2vec)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphkit.ops.cpu import walk as cpu
from graphkit.ops.csr import CSR, counts_to_ptr, ptr_to_index
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.sample import check_nodes, draw_seed, search, streams, uniform


def random_walk(
    graph: NeighborIndex | CSR,
    start: Tensor,
    length: int,
    p: float = 1.0,
    q: float = 1.0,
    *,
    seed: int | torch.Generator | None = None,
) -> Tensor:
    r"""Walk ``length`` steps from each start node.

    With p = q = 1 each neighbour is equally likely. Otherwise the step from :math:`v`, reached from :math:`t`, goes to
    :math:`w` with weight :math:`1/p` if :math:`w = t`, 1 if :math:`t \to w` is an edge, :math:`1/q` if not
    (`"node2vec" <https://arxiv.org/abs/1607.00653>`_), by rejection, and by weighing all neighbours where that fails 60
    times. A walk stays at a node without neighbours. O(B length), for node2vec times the tries and O(log d) each. The
    result depends neither on the number of threads nor on the device.

    Args:
        graph: :class:`~graphkit.ops.NeighborIndex`, or a :class:`~graphkit.ops.CSR`, in which an edge that is there
            twice is twice as likely.
        start: ``[B]`` int64 or int32 nodes.
        length: number of steps, >= 0.
        p: > 0; below 1 walks tend to return.
        q: > 0; below 1 walks tend to go away.
        seed: an int, a generator to draw one from, or None for torch's global generator.

    Returns:
        ``[B, length + 1]`` int64 nodes, the first column is ``start``.

    Raises:
        IndexError: a start node outside the graph.
        TypeError, ValueError: wrong types or shapes, ``length`` < 0, ``p`` or ``q`` not positive.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
        >>> random_walk(index, torch.tensor([0, 2]), 3)
        tensor([[0, 1, 2, 2],
                [2, 2, 2, 2]])
    """
    rowptr, col = rows_of(graph)
    if isinstance(length, bool) or not hasattr(length, "__index__"):
        raise TypeError(f"length must be an integer (got {length!r})")
    length = int(length)
    if length < 0:
        raise ValueError(f"length must be >= 0 steps (got {length})")
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number (got {value!r})")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; 1 is no bias (got {value})")
    start = check_nodes(start, rowptr.numel() - 1, "start").to(col.device)
    key = draw_seed(seed)
    if col.device.type == "cpu":
        return cpu.random_walk(rowptr, col, start, length, p, q, key)
    return random_walk_reference(rowptr, col, start, length, p, q, key)


def rows_of(graph: NeighborIndex | CSR) -> tuple[Tensor, Tensor]:
    """``rowptr`` and ``col`` of a graph."""
    if not isinstance(graph, (NeighborIndex, CSR)):
        raise TypeError(
            f"graph must be a NeighborIndex or CSR, for example NeighborIndex(edge_index, num_nodes) "
            f"(got {type(graph).__name__})"
        )
    return graph.rowptr, graph.col


def random_walk_reference(
    rowptr: Tensor, col: Tensor, start: Tensor, length: int, p: float, q: float, key: int
) -> Tensor:
    """The same numbers in plain PyTorch: a loop over steps and tries. Waits for the device once a try for p, q != 1."""
    stream = streams(key, start.numel(), start.device)
    walk = [start]
    for s in range(length):
        v = walk[-1]
        low = rowptr[v]
        size = rowptr[v + 1] - low
        if col.numel() == 0:
            walk.append(v)
        elif s == 0 or p == q == 1:
            entry = low + (uniform(stream, s) * size).long()
            walk.append(torch.where(size > 0, col[entry.clamp(max=col.numel() - 1)], v))
        else:
            walk.append(_biased_step(rowptr, col, v, walk[-2], stream, s, 1 / p, 1 / q))
    return torch.stack(walk, 1)


def _biased_step(
    rowptr: Tensor, col: Tensor, v: Tensor, before: Tensor, stream: Tensor, s: int, back: float, away: float
) -> Tensor:
    def weight(walks: Tensor, w: Tensor) -> Tensor:
        near, near_end = rowptr[before[walks]], rowptr[before[walks] + 1]
        place = search(col, near, near_end, w, right=False)
        has = (place < near_end) & (col[place.clamp(max=col.numel() - 1)] == w)
        other = torch.full_like(near, away, dtype=torch.float64).masked_fill_(has, 1.0)
        return other.masked_fill_(w == before[walks], back)

    highest = max(back, away, 1.0)
    result = v.clone()
    low, size = rowptr[v], rowptr[v + 1] - rowptr[v]
    open_ = (size > 0).nonzero().view(-1)
    for attempt in range(cpu.TRIES):
        if open_.numel() == 0:
            return result
        draw = s * cpu.STEP + 2 * attempt
        w = col[low[open_] + (uniform(stream[open_], draw) * size[open_]).long()]
        taken = uniform(stream[open_], draw + 1) * highest < weight(open_, w)
        result[open_[taken]] = w[taken]
        open_ = open_[~taken]
    pointer = counts_to_ptr(size[open_])
    owner = ptr_to_index(pointer)
    entry = torch.arange(owner.numel(), device=col.device) + (low[open_] - pointer[:-1])[owner]
    running = torch.cat([torch.zeros(1, dtype=torch.float64, device=col.device), weight(open_[owner], col[entry])])
    running = running.cumsum(0)
    begin = running[pointer[:-1]]
    wanted = begin + uniform(stream[open_], s * cpu.STEP + cpu.STEP - 1) * (running[pointer[1:]] - begin)
    place = search(running[1:], pointer[:-1], pointer[1:], wanted)
    result[open_] = col[entry[torch.minimum(place, pointer[1:] - 1)]]
    return result
