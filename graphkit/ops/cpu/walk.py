"""Random walks, many at a time: walks of a block take each step together, so that their cache misses overlap."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run
from graphkit.ops.cpu.sample import GAMMA, mix, uniform

_BLOCK = 256
# Draws that a step may use, and how many tries before it weighs every neighbour instead.
STEP, TRIES = 128, 60


@kernel
def _walk(start, stop, rowptr, col, length, key, number, out):  # pragma: no cover - compiled
    for block in range(start, stop, _BLOCK):
        for s in range(length):
            for b in range(block, min(block + _BLOCK, stop)):
                v = out[b, s]
                low = rowptr[v]
                n = rowptr[v + 1] - low
                if n > 0:
                    v = col[low + np.int64(uniform(mix(key + (number[b] + 1) * GAMMA), s) * n)]
                out[b, s + 1] = v


@kernel
def _has(col, low, end, wanted):  # pragma: no cover - compiled
    high = end
    while low < high:
        middle = (low + high) >> 1
        if col[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < end and col[low] == wanted


@kernel
def _walk_biased(start, stop, rowptr, col, length, back, away, key, number, out):  # pragma: no cover - compiled
    """``back`` = 1/p for the node before, ``away`` = 1/q for nodes not next to it, 1 for its neighbours."""
    highest, sure, most = max(back, away, 1.0), min(away, 1.0), max(away, 1.0)
    for block in range(start, stop, _BLOCK):
        for s in range(length):
            for b in range(block, min(block + _BLOCK, stop)):
                v = out[b, s]
                low, high = rowptr[v], rowptr[v + 1]
                n = high - low
                if n == 0:
                    out[b, s + 1] = v
                    continue
                stream = mix(key + (number[b] + 1) * GAMMA)
                if s == 0:
                    out[b, 1] = col[low + np.int64(uniform(stream, 0) * n)]
                    continue
                before = out[b, s - 1]
                near, near_end = rowptr[before], rowptr[before + 1]
                found = np.int64(-1)
                for attempt in range(TRIES):
                    w = col[low + np.int64(uniform(stream, s * STEP + 2 * attempt) * n)]
                    height = uniform(stream, s * STEP + 2 * attempt + 1) * highest
                    if w == before:
                        taken = height < back
                    elif height < sure:
                        taken = True
                    elif height >= most:
                        taken = False
                    else:
                        taken = height < (1.0 if _has(col, near, near_end, w) else away)
                    if taken:
                        found = w
                        break
                if found < 0:
                    total = 0.0
                    for e in range(low, high):
                        w = col[e]
                        total += back if w == before else 1.0 if _has(col, near, near_end, w) else away
                    left = uniform(stream, s * STEP + STEP - 1) * total
                    for e in range(low, high):
                        found = col[e]
                        left -= back if found == before else 1.0 if _has(col, near, near_end, found) else away
                        if left < 0:
                            break
                out[b, s + 1] = found


def random_walk(
    rowptr: Tensor, col: Tensor, start: Tensor, length: int, p: float, q: float, key: int, number: Tensor
) -> Tensor:
    out = np.empty((start.numel(), length + 1), np.int64)
    out[:, 0] = array(start)
    graph = array(rowptr), array(col)
    grain = max(16384 // max(length, 1), 1)
    if p == 1 and q == 1:
        run(_walk, len(out), *graph, length, key, array(number), out, grain=grain)
    else:
        run(_walk_biased, len(out), *graph, length, 1 / p, 1 / q, key, array(number), out, grain=grain)
    return torch.from_numpy(out)
