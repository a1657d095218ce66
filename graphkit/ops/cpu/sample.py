"""Neighbour sampling: what to take is drawn in parallel, one independent stream of random numbers a row; new nodes are
numbered in one sequential pass through a hash table as large as the sample, not as the graph.

The random numbers are SplitMix64 (Steele, Lea, Flood 2014) of (seed, row, draw) in wrapping int64 arithmetic, so that
the result depends neither on the number of threads nor on the device: `graphkit.ops.sample` computes the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run

GAMMA = np.int64(0x9E3779B97F4A7C15 - 2**64)
_FIRST = np.int64(0xBF58476D1CE4E5B9 - 2**64)
_SECOND = np.int64(0x94D049BB133111EB - 2**64)
_MASK30, _MASK27, _MASK31, _MASK11 = (np.int64(2 ** (64 - s) - 1) for s in (30, 27, 31, 11))
_UNIT = 2.0**-53
# Up to this many draws Floyd's method looks through what it has drawn; beyond, a pass over the row may be cheaper.
FLOYD = 256
_NONE = np.empty(0, np.int64)


@kernel
def mix(x):  # pragma: no cover - compiled
    """SplitMix64's finaliser; masks make the shifts of a signed number logical."""
    x = (x ^ ((x >> 30) & _MASK30)) * _FIRST
    x = (x ^ ((x >> 27) & _MASK27)) * _SECOND
    return x ^ ((x >> 31) & _MASK31)


@kernel
def uniform(stream, draw):  # pragma: no cover - compiled
    """The ``draw``-th number of a stream, in [0, 1)."""
    return ((mix(stream + (draw + 1) * GAMMA) >> 11) & _MASK11) * _UNIT


@kernel
def _spans(start, stop, rowptr, nodes, first, size):  # pragma: no cover - compiled
    for i in range(start, stop):
        low = rowptr[nodes[i]]
        first[i] = low
        size[i] = rowptr[nodes[i] + 1] - low


@kernel
def _bound(time, low, high, wanted):  # pragma: no cover - compiled
    """First place in ``time[low:high]`` above ``wanted``."""
    while low < high:
        middle = (low + high) >> 1
        if time[middle] <= wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _spans_until(start, stop, rowptr, nodes, time, group, latest, window, first, size):  # pragma: no cover - compiled
    for i in range(start, stop):
        low, high = rowptr[nodes[i]], rowptr[nodes[i] + 1]
        now = latest[group[i]]
        high = _bound(time, low, high, now)
        if window > 0:
            low = _bound(time, low, high, now - window)
        first[i] = low
        size[i] = high - low


@kernel
def _collect(start, stop, pointer, entry, col, perm, offset, neighbor, edge, owner):  # pragma: no cover - compiled
    for i in range(start, stop):
        for p in range(pointer[i], pointer[i + 1]):
            e = entry[p]
            neighbor[p] = col[e]
            edge[p] = perm[e]
            owner[p] = offset + i


@kernel
def _pick(start, stop, first, size, k, replace, key, pointer, entry):  # pragma: no cover - compiled
    for i in range(start, stop):
        p, n, low = pointer[i], size[i], first[i]
        taken = pointer[i + 1] - p
        if k < 0 or (taken == n and not replace):
            for j in range(n):
                entry[p + j] = low + j
            continue
        stream = mix(key + (i + 1) * GAMMA)
        if replace:
            for j in range(taken):
                entry[p + j] = low + np.int64(uniform(stream, j) * n)
        elif taken <= FLOYD or taken * taken <= 16 * n:
            # Floyd: the j-th draw is among the first n - k + j + 1; a repeat is replaced by the newest of these.
            for j in range(taken):
                top = n - taken + j
                e = low + np.int64(uniform(stream, j) * (top + 1))
                for q in range(p, p + j):
                    if entry[q] == e:
                        e = low + top
                        break
                entry[p + j] = e
        else:
            # Selection sampling (Knuth's Algorithm S): each entry is taken with probability wanted / left.
            j = 0
            for t in range(n):
                if uniform(stream, t) * (n - t) < taken - j:
                    entry[p + j] = low + t
                    j += 1


@kernel
def _pick_weighted(
    start, stop, rowptr, nodes, first, size, k, replace, weight, cumulative, key, pointer, entry
):  # pragma: no cover - compiled
    best = np.empty(max(k, 1), np.float64)
    for i in range(start, stop):
        p, n, low = pointer[i], size[i], first[i]
        taken = pointer[i + 1] - p
        if taken == 0:
            continue
        if k < 0 or (taken == n and not replace):
            for j in range(n):
                entry[p + j] = low + j
            continue
        stream = mix(key + (i + 1) * GAMMA)
        if replace:
            before = cumulative[low - 1] if low > rowptr[nodes[i]] else 0.0
            total = cumulative[low + n - 1] - before
            for j in range(taken):
                e = _bound(cumulative, low, low + n, before + uniform(stream, j) * total)
                entry[p + j] = min(e, low + n - 1)
            continue
        # The k smallest of exponential variables with these rates, kept in order by insertion.
        held = 0
        for t in range(n):
            value = -np.log1p(-uniform(stream, t)) / weight[low + t]
            if held == taken and value >= best[held - 1]:
                continue
            j = held if held < taken else held - 1
            while j > 0 and best[j - 1] > value:
                best[j] = best[j - 1]
                entry[p + j] = entry[p + j - 1]
                j -= 1
            best[j] = value
            entry[p + j] = low + t
            held = min(held + 1, taken)


@kernel
def _insert(keys, begin, table, shift):  # pragma: no cover - compiled
    """Enter keys under their positions; a key that is there already keeps its first position."""
    mask = table.shape[0] - 1
    for i in range(begin, keys.shape[0]):
        slot = ((keys[i] * GAMMA) >> shift) & mask
        while table[slot, 0] != -1 and table[slot, 0] != keys[i]:
            slot = (slot + 1) & mask
        if table[slot, 0] == -1:
            table[slot, 0] = keys[i]
            table[slot, 1] = i


@kernel
def _relabel(pointer, neighbor, group, stride, table, shift, nodes, groups, count, row):  # pragma: no cover - compiled
    mask = table.shape[0] - 1
    for i in range(pointer.shape[0] - 1):
        base = group[i] * stride if stride else 0
        for p in range(pointer[i], pointer[i + 1]):
            key = base + neighbor[p]
            slot = ((key * GAMMA) >> shift) & mask
            while table[slot, 0] != -1 and table[slot, 0] != key:
                slot = (slot + 1) & mask
            if table[slot, 0] == -1:
                table[slot, 0] = key
                table[slot, 1] = count
                nodes[count] = neighbor[p]
                if stride:
                    groups[count] = group[i]
                count += 1
            row[p] = table[slot, 1]
    return count


@kernel
def _relabel_small(pointer, neighbor, table, nodes, count, row):  # pragma: no cover - compiled
    for p in range(pointer[0], pointer[-1]):
        known = table[neighbor[p]]
        if known < 0:
            known = count
            table[neighbor[p]] = count
            nodes[count] = neighbor[p]
            count += 1
        row[p] = known
    return count


@kernel
def _fill_induced(start, stop, rowptr, col, perm, nodes, table, shift, pointer, row, edge):  # pragma: no cover
    """With ``row`` empty: count into ``pointer``; otherwise write the entries whose neighbour is in the table."""
    mask = table.shape[0] - 1
    write = row.shape[0] > 0
    for i in range(start, stop):
        p = pointer[i]
        for e in range(rowptr[nodes[i]], rowptr[nodes[i] + 1]):
            slot = ((col[e] * GAMMA) >> shift) & mask
            while table[slot, 0] != -1 and table[slot, 0] != col[e]:
                slot = (slot + 1) & mask
            if table[slot, 0] != -1:
                if write:
                    row[p] = table[slot, 1]
                    edge[p] = perm[e]
                p += 1
        if not write:
            pointer[i] = p


def sample(
    graph: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    nodes: Tensor,
    k: int,
    replace: bool,
    last: bool,
    group: Tensor | None,
    latest: Tensor | None,
    window: float | None,
    key: int,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(pointer, neighbor, edge, owner)`` of one hop; see `graphkit.ops.sample._sample_reference`."""
    rowptr, col, perm, time, weight, cumulative = graph
    pointers, seeds = array(rowptr), array(nodes)
    n = len(seeds)
    first, size = np.empty(n, np.int64), np.empty(n, np.int64)
    if time is not None and latest is not None and group is not None:
        times = array(time)
        width = times.dtype.type(window or 0)
        run(_spans_until, n, pointers, seeds, times, array(group), array(latest), width, first, size, grain=1024)
        if last and k >= 0:
            cut = np.maximum(size - k, 0)
            first += cut
            size -= cut
    else:
        run(_spans, n, pointers, seeds, first, size, grain=16384)
    pointer = np.zeros(n + 1, np.int64)
    count = size if k < 0 else np.where(size > 0, k, 0) if replace else np.minimum(size, k)
    np.cumsum(count, out=pointer[1:])
    total = int(pointer[-1])
    entry, neighbor, edge, owner = (np.empty(total, np.int64) for _ in range(4))
    if weight is None or cumulative is None:
        run(_pick, pointer, first, size, k, replace, key, pointer, entry, grain=16384)
    else:
        weights = array(weight), array(cumulative)
        run(
            _pick_weighted, np.append(0, np.cumsum(size)), pointers, seeds, first, size, k, replace, *weights,
            key, pointer, entry,
        )  # fmt: skip
    run(_collect, pointer, pointer, entry, array(col), array(perm), offset, neighbor, edge, owner, grain=16384)
    parts = [torch.from_numpy(part) for part in (pointer, neighbor, edge, owner)]
    return parts[0], parts[1], parts[2], parts[3]


def row_cumsum(rowptr: Tensor, weight: Tensor) -> Tensor:
    """Running sums that start again at each row."""
    out = np.empty(weight.numel())
    run(_row_cumsum, array(rowptr), array(rowptr), array(weight), out)
    return torch.from_numpy(out)


@kernel
def _row_cumsum(start, stop, rowptr, weight, out):  # pragma: no cover - compiled
    for r in range(start, stop):
        total = 0.0
        for e in range(rowptr[r], rowptr[r + 1]):
            total += weight[e]
            out[e] = total


class NodeTable:
    """The nodes met so far, in order, and a look-up of their numbers that takes O(nodes met).

    Args:
        num_nodes: size of the graph.
        nodes: the first nodes; repeats keep a number each.
        group: the subgraph of each, for disjoint subgraphs.
    """

    def __init__(self, num_nodes: int, nodes: Tensor, group: Tensor | None) -> None:
        self.num_nodes = num_nodes
        self.count = nodes.numel()
        self._nodes = array(nodes).copy()
        self._group = None if group is None else array(group).copy()
        self._table = np.empty((0, 2), np.int64)
        self._small = _NONE
        self._shift = 64

    def __len__(self) -> int:
        return self.count

    def nodes(self, begin: int = 0, end: int | None = None) -> Tensor:
        # A copy: the buffer is larger, and a worker process would send all of it.
        return torch.from_numpy(self._nodes[begin : self.count if end is None else end].copy())

    def group(self, begin: int = 0, end: int | None = None) -> Tensor | None:
        if self._group is None:
            return None
        return torch.from_numpy(self._group[begin : self.count if end is None else end].copy())

    def add(self, pointer: Tensor, neighbor: Tensor, group: Tensor | None) -> Tensor:
        """Number the neighbours, new ones in the order in which they come."""
        extra = neighbor.numel()
        row = np.empty(extra, np.int64)
        if extra == 0:
            return torch.from_numpy(row)
        self._nodes = np.append(self._nodes[: self.count], np.empty(extra, np.int64))
        if self._group is not None:
            self._group = np.append(self._group[: self.count], np.empty(extra, np.int64))
        pointers, neighbors = array(pointer), array(neighbor)
        # A plain array over all nodes is faster, if it is no larger than the sample asks for anyway.
        if self._group is None and (len(self._small) or self.num_nodes <= 4 * (self.count + extra)):
            if not len(self._small):
                self._small = np.full(self.num_nodes, -1, np.int64)
                known = self._nodes[: self.count]
                self._small[known[::-1]] = np.arange(self.count - 1, -1, -1)
            self.count = _relabel_small(pointers, neighbors, self._small, self._nodes, self.count, row)
            return torch.from_numpy(row)
        self._reserve(self.count + extra)
        owners = _NONE if group is None else array(group)
        groups = _NONE if self._group is None else self._group
        stride = 0 if group is None else self.num_nodes
        self.count = _relabel(
            pointers, neighbors, owners, stride, self._table, self._shift, self._nodes, groups, self.count, row
        )
        return torch.from_numpy(row)

    def _reserve(self, size: int) -> None:
        """Make the table at least twice as large as the number of nodes it may have to hold."""
        slots = 1 << max(4, (2 * size - 1).bit_length())
        if len(self._table) >= slots:
            return
        self._table = np.full((slots, 2), -1, np.int64)
        self._shift = 64 - (slots.bit_length() - 1)
        keys = self._nodes[: self.count]
        if self._group is not None:
            keys = keys + self._group[: self.count] * self.num_nodes
        _insert(keys, 0, self._table, self._shift)

    def induced(self, rowptr: Tensor, col: Tensor, perm: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(row, col, edge)`` of all entries of the rows ``targets`` whose other end has been met."""
        self._table = self._table[:0]  # it may be behind: `add` does not always use it
        self._reserve(self.count)
        rows = array(targets)
        graph = array(rowptr), array(col), array(perm), rows, self._table, self._shift
        count = np.zeros(len(rows) + 1, np.int64)
        run(_fill_induced, len(rows), *graph, count, _NONE, _NONE, grain=512)
        pointer = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(count[:-1], out=pointer[1:])
        row, edge = np.empty(pointer[-1], np.int64), np.empty(pointer[-1], np.int64)
        if len(row):
            run(_fill_induced, len(rows), *graph, pointer, row, edge, grain=512)
        owner = np.repeat(np.arange(len(rows)), np.diff(pointer))
        return torch.from_numpy(row), torch.from_numpy(owner), torch.from_numpy(edge)
