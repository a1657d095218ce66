"""Personalised PageRank by forward push: work in proportion to the probability found, not to the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _push(start, stop, rowptr, col, sources, alpha, eps, k, count):  # pragma: no cover - compiled
    """Nodes and values of the sources ``start:stop`` one after another; ``k`` < 0 keeps all, unsorted."""
    n = rowptr.shape[0] - 1
    estimate, residual = np.zeros(n), np.zeros(n)
    waiting, seen = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    queue, touched = np.empty(n + 1, np.int64), np.empty(n, np.int64)
    nodes, values = np.empty(1024, np.int64), np.empty(1024)
    used = 0
    for i in range(start, stop):
        source = sources[i]
        residual[source] = 1.0
        seen[source] = waiting[source] = True
        touched[0] = queue[0] = source
        met, head, tail = 1, 0, 1
        while head != tail:
            u = queue[head]
            head = head + 1 if head < n else 0
            waiting[u] = False
            r = residual[u]
            residual[u] = 0.0
            degree = rowptr[u + 1] - rowptr[u]
            if degree == 0:
                estimate[u] += r
                continue
            estimate[u] += alpha * r
            share = (1 - alpha) * r / degree
            for e in range(rowptr[u], rowptr[u + 1]):
                v = col[e]
                if not seen[v]:
                    seen[v] = True
                    touched[met] = v
                    met += 1
                residual[v] += share
                if not waiting[v] and residual[v] >= eps * max(rowptr[v + 1] - rowptr[v], 1):
                    waiting[v] = True
                    queue[tail] = v
                    tail = tail + 1 if tail < n else 0
        if used + met > nodes.shape[0]:
            size = 2 * (used + met)
            more_nodes, more_values = np.empty(size, np.int64), np.empty(size)
            more_nodes[:used] = nodes[:used]
            more_values[:used] = values[:used]
            nodes, values = more_nodes, more_values
        held = 0
        for t in range(met):
            v = touched[t]
            x = estimate[v]
            estimate[v] = residual[v] = 0.0
            seen[v] = False
            if x == 0.0:
                continue
            if k < 0:
                nodes[used + held] = v
                values[used + held] = x
                held += 1
                continue
            # The k largest, kept in order by insertion; of equal ones the smaller node comes first.
            j = used + held
            while j > used and (values[j - 1] < x or (values[j - 1] == x and nodes[j - 1] > v)):
                if j < used + k:
                    values[j] = values[j - 1]
                    nodes[j] = nodes[j - 1]
                j -= 1
            if j < used + k:
                values[j] = x
                nodes[j] = v
                held = min(held + 1, k)
        count[i] = held
        used += held
    return nodes[:used].copy(), values[:used].copy()


def forward_push(
    rowptr: Tensor, col: Tensor, sources: Tensor, alpha: float, eps: float, top_k: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(count, node, value)``; in order of value with ``top_k``, else in the order in which nodes were met."""
    graph = array(rowptr), array(col), array(sources)
    count = np.zeros(sources.numel(), np.int64)
    parts = []

    def piece(start: int, stop: int) -> None:
        parts.append((start, *_push(start, stop, *graph, alpha, eps, -1 if top_k is None else top_k, count)))

    run(piece, sources.numel(), grain=4)
    parts.sort(key=lambda part: part[0])
    nodes = [np.empty(0, np.int64), *(part[1] for part in parts)]
    values = [np.empty(0), *(part[2] for part in parts)]
    return tuple(torch.from_numpy(part) for part in (count, np.concatenate(nodes), np.concatenate(values)))  # type: ignore[return-value]
