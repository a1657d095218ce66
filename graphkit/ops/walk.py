"""Random walks: uniform, and biased towards or away from where they came from (node2vec)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphkit.ops.cpu import walk as cpu
from graphkit.ops.csr import CSR, counts_to_ptr, ptr_to_index
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.sample import check_nodes, draw_seed, search, streams, uniform
from graphkit.utils.checks import check_int


def random_walk(
    graph: NeighborIndex | CSR,
    start: Tensor,
    length: int,
    p: float = 1.0,
    q: float = 1.0,
    *,
    seed: int | torch.Generator | None = None,
    number: Tensor | None = None,
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
        number: ``[B]`` int64 numbers of the walks, their places if None. Walks with one number and one seed draw alike,
            so that a graph's walks can be the same whatever graphs are beside it.

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
    if number is None:
        number = torch.arange(start.numel(), device=col.device)
    elif number.shape != start.shape or number.dtype != torch.int64:
        raise ValueError(f"number must be int64 {list(start.shape)} (got {number.dtype} {list(number.shape)})")
    if col.device.type == "cpu":
        return cpu.random_walk(rowptr, col, start, length, p, q, key, number)
    return random_walk_reference(rowptr, col, start, length, p, q, key, number)


def neighborhood_walks(
    graph: NeighborIndex | CSR,
    m: int,
    s: int,
    num_walks: int,
    *,
    seed: int | torch.Generator | None = None,
    rank: Tensor | None = None,
) -> list[Tensor]:
    """Uniform walks from every node, of each length from ``m`` to 1: ``s`` groups of ``num_walks`` of each length.

    O(N s m^2 num_walks), whatever the degrees.

    Args:
        graph: as :func:`random_walk`.
        m: length of the longest walks, >= 0.
        s: groups of walks of each length.
        num_walks: walks of a group.
        seed: as :func:`random_walk`.
        rank: ``[N]`` the numbers of nodes within their graphs, where there are several side by side: walks of a graph
            are then the same whatever graphs are beside it. The nodes' ids if None.

    Returns:
        m tensors, the longest walks first: ``[N, s, num_walks, length + 1]`` int64 nodes.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> [walk[0, 0, 0].tolist() for walk in neighborhood_walks(index, m=2, s=1, num_walks=1)]
        [[0, 1, 0], [0, 1]]
    """
    for name, value, low in (("m", m, 0), ("s", s, 1), ("num_walks", num_walks, 1)):
        check_int(value, name, low)
    rowptr, _ = rows_of(graph)
    nodes = torch.arange(rowptr.numel() - 1, device=rowptr.device)
    start = nodes.repeat_interleave(s * num_walks)
    place = torch.arange(s * num_walks, device=rowptr.device)
    number = ((nodes if rank is None else rank)[:, None] * (s * num_walks) + place).flatten()
    base = draw_seed(seed)
    return [
        random_walk(graph, start, length, seed=base * (m + 1) + length, number=number).view(
            -1, s, num_walks, length + 1
        )
        for length in range(m, 0, -1)
    ]


def visited_sets(walks: list[Tensor], num_nodes: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The nodes that each group of :func:`neighborhood_walks` visits, and after a node's groups the node alone.

    O(V log V) for V visits.

    Args:
        walks: as :func:`neighborhood_walks` returns them.
        num_nodes: number of nodes N.
        device: device of the result where there are no walks.

    Returns:
        - ``[N L + 1]`` int64 offsets: L sets of each node, those of the longest walks first, the node itself last
        - ``[n]`` int64 members, ascending in each set

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> visited_sets(neighborhood_walks(index, m=1, s=1, num_walks=1), 2)
        (tensor([0, 2, 3, 5, 6]), tensor([0, 1, 0, 0, 1, 1]))
    """
    device = walks[0].device if walks else device
    size = sum(walk.size(1) for walk in walks) + 1
    node = torch.arange(num_nodes, device=device)
    keys, before = [((node * size + size - 1) * num_nodes + node)], 0
    for walk in walks:
        group = node[:, None] * size + before + torch.arange(walk.size(1), device=device)
        keys.append((group[:, :, None, None] * num_nodes + walk).flatten())
        before += walk.size(1)
    key = torch.cat(keys).unique()
    owner = key // max(num_nodes, 1)
    return counts_to_ptr(torch.bincount(owner, minlength=num_nodes * size)), key % max(num_nodes, 1)


def rows_of(graph: NeighborIndex | CSR) -> tuple[Tensor, Tensor]:
    """``rowptr`` and ``col`` of a graph."""
    if not isinstance(graph, (NeighborIndex, CSR)):
        raise TypeError(
            f"graph must be a NeighborIndex or CSR, for example NeighborIndex(edge_index, num_nodes) "
            f"(got {type(graph).__name__})"
        )
    return graph.rowptr, graph.col


def random_walk_reference(
    rowptr: Tensor, col: Tensor, start: Tensor, length: int, p: float, q: float, key: int, number: Tensor | None = None
) -> Tensor:
    """The same numbers in plain PyTorch: a loop over steps and tries. Waits for the device once a try for p, q != 1."""
    stream = streams(key, torch.arange(start.numel(), device=start.device) if number is None else number)
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
