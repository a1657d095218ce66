"""Weighted gather-sum over CSR rows: reads each needed feature row once, writes each output row once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _sum_rows(start, stop, rowptr, col, x, out):  # pragma: no cover - compiled
    for r in range(start, stop):
        for e in range(rowptr[r], rowptr[r + 1]):
            c = col[e]
            for k in range(x.shape[1]):
                out[r, k] += x[c, k]


@kernel
def _weighted_sum_rows(start, stop, rowptr, col, weight, x, out):  # pragma: no cover - compiled
    for r in range(start, stop):
        for e in range(rowptr[r], rowptr[r + 1]):
            c = col[e]
            w = weight[e]
            for k in range(x.shape[1]):
                out[r, k] += w * x[c, k]


@kernel
def _dot_rows(start, stop, rowptr, col, left, right, out):  # pragma: no cover - compiled
    for r in range(start, stop):
        for e in range(rowptr[r], rowptr[r + 1]):
            c = col[e]
            total = left[r, 0] * 0
            for k in range(left.shape[1]):
                total += left[r, k] * right[c, k]
            out[e] = total


def spmm(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    pointer, source = array(rowptr), array(x)
    out = np.zeros((len(pointer) - 1, source.shape[1]), source.dtype)
    grain = max(1, 65536 // max(source.shape[1], 1))
    if weight is None:
        run(_sum_rows, pointer, pointer, array(col), source, out, grain=grain)
    else:
        run(_weighted_sum_rows, pointer, pointer, array(col), array(weight), source, out, grain=grain)
    return torch.from_numpy(out)


def sampled_dot(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    pointer, a = array(rowptr), array(left)
    out = np.zeros(col.numel(), a.dtype)
    if a.shape[1]:
        run(_dot_rows, pointer, pointer, array(col), a, array(right), out, grain=max(1, 65536 // a.shape[1]))
    return torch.from_numpy(out)
