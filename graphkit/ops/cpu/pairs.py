"""Products of the features of pairs of nodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.csr import _counting_sort
from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _product(start, stop, src, dst, x, out):  # pragma: no cover - compiled
    for b in range(start, stop):
        left, right, target = x[src[b]], x[dst[b]], out[b]
        for k in range(target.shape[0]):
            target[k] = left[k] * right[k]


@kernel
def _product_backward(start, stop, pointer, order, ends, x, grad, out):  # pragma: no cover - compiled
    pairs = grad.shape[0]
    for n in range(start, stop):
        target = out[n]
        for p in range(pointer[n], pointer[n + 1]):
            # Slots 0 .. B are the first nodes of the pairs, B .. 2 B the second ones.
            slot = order[p]
            b = slot - pairs if slot >= pairs else slot
            other = x[ends[slot + pairs if slot < pairs else b]]
            upstream = grad[b]
            for k in range(target.shape[0]):
                target[k] += upstream[k] * other[k]


def pair_product(x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    source = array(x)
    out = np.empty((src.numel(), source.shape[1]), source.dtype)
    run(_product, src.numel(), array(src), array(dst), source, out, grain=max(1, 65536 // max(source.shape[1], 1)))
    return torch.from_numpy(out)


def pair_product_backward(grad: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    source = array(x)
    out = np.zeros_like(source)
    ends = np.concatenate([array(src), array(dst)])
    pointer, order = _counting_sort(ends, np.arange(len(ends)), len(source))
    grain = max(1, 65536 // max(source.shape[1], 1))
    run(_product_backward, pointer, pointer, order, ends, source, array(grad), out, grain=grain)
    return torch.from_numpy(out)
