"""Ring buffers of latest neighbours: events are written one after the other, which needs no sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _put(node, other, e, time, neighbor, events, times, count):  # pragma: no cover - compiled
    slot = count[node] % neighbor.shape[1]
    neighbor[node, slot] = other
    events[node, slot] = e
    times[node, slot] = time
    count[node] += 1


@kernel
def _insert(src, dst, t, e_id, neighbor, events, times, count):  # pragma: no cover - compiled
    for i in range(len(src)):
        u, v = src[i], dst[i]
        _put(u, v, e_id[i], t[i], neighbor, events, times, count)
        if u != v:
            _put(v, u, e_id[i], t[i], neighbor, events, times, count)


@kernel
def _latest(
    start, stop, n_id, neighbor, events, times, count, out_node, out_event, out_time, out_mask
):  # pragma: no cover - compiled
    size = neighbor.shape[1]
    for i in range(start, stop):
        v = n_id[i]
        for k in range(out_node.shape[1]):
            place = count[v] - 1 - k
            if place >= 0:
                slot = place % size
                out_node[i, k], out_event[i, k], out_time[i, k] = neighbor[v, slot], events[v, slot], times[v, slot]
            else:
                out_node[i, k], out_event[i, k], out_time[i, k] = v, 0, 0
            out_mask[i, k] = place >= 0


def ring_insert(
    src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor
) -> None:
    # State buffers are contiguous: these arrays are their memory.
    state = (value.numpy() for value in (neighbor, events, times, count))
    _insert(array(src), array(dst), array(t), array(e_id), *state)


def ring_latest(
    n_id: Tensor, size: int, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nodes = array(n_id)
    out = [np.empty((len(nodes), size), np.int64) for _ in range(3)] + [np.empty((len(nodes), size), np.bool_)]
    run(_latest, len(nodes), nodes, array(neighbor), array(events), array(times), array(count), *out, grain=2048)
    n, e, when, mask = (torch.from_numpy(value) for value in out)
    return n, e, when, mask
