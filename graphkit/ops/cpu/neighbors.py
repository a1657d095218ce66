"""Look-ups and removals in sorted neighbour lists."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _find(start, stop, rowptr, col, u, v, out):  # pragma: no cover - compiled
    for i in range(start, stop):
        low, high = rowptr[u[i]], rowptr[u[i] + 1]
        end = high
        while low < high:
            middle = (low + high) >> 1
            if col[middle] < v[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = low if low < end and col[low] == v[i] else -1


@kernel
def _masked(rowptr, col, keep):  # pragma: no cover - compiled
    pointer = np.zeros(rowptr.shape[0], np.int64)
    kept = np.empty(col.shape[0], np.int64)
    n = 0
    for r in range(rowptr.shape[0] - 1):
        for e in range(rowptr[r], rowptr[r + 1]):
            kept[n] = col[e]
            n += keep[e]
        pointer[r + 1] = n
    return pointer, kept[:n].copy()


def find(rowptr: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    out = np.empty(u.numel(), np.int64)
    run(_find, u.numel(), array(rowptr), array(col), array(u), array(v), out, grain=8192)
    return torch.from_numpy(out)


def masked(rowptr: Tensor, col: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    pointer, kept = _masked(array(rowptr), array(col), array(keep))
    return torch.from_numpy(pointer), torch.from_numpy(kept)
