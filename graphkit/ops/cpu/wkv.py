"""The WKV recurrence, channel beside channel: sums divided by the exponential of the largest exponent so far."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.exponential import exp
from graphkit.ops.cpu.parallel import array, kernel, run

_BLOCK = 64  # channels of a unit of work


@kernel
def _forward(start, stop, ptr, blocks, k, v, w, u, state, y):  # pragma: no cover - compiled
    channels = k.shape[1]
    for r in range(start, stop):
        s, block = r // blocks, r % blocks
        low, high = block * channels // blocks, (block + 1) * channels // blocks
        p, q, o = state[s, 0], state[s, 1], state[s, 2]
        for t in range(ptr[s], ptr[s + 1]):
            for c in range(low, high):
                own = u[c] + k[t, c]
                most = max(o[c], own)
                past, now = exp(o[c] - most), exp(own - most)
                y[t, c] = (past * p[c] + now * v[t, c]) / (past * q[c] + now)
            for c in range(low, high):
                aged = o[c] - w[c]
                most = max(aged, k[t, c])
                past, now = exp(aged - most), exp(k[t, c] - most)
                p[c] = past * p[c] + now * v[t, c]
                q[c] = past * q[c] + now
                o[c] = most


@kernel
def _backward(start, stop, ptr, blocks, k, v, w, u, state, grad, to_k, to_v, to_w, to_u):  # pragma: no cover - compiled
    """With A and B the sums before a token (numerator and denominator of the past), their gradients a and b are carried
    back, divided by the exponential of the largest exponent, too: none of the products below overflows."""
    channels = k.shape[1]
    longest = 0
    for s in range(len(ptr) - 1):
        longest = max(longest, ptr[s + 1] - ptr[s])
    wide = channels // blocks + 1
    before = np.empty((longest, 3, wide), k.dtype)
    p, q, o = np.empty(wide, k.dtype), np.empty(wide, k.dtype), np.empty(wide, k.dtype)
    a, b, e = np.empty(wide, k.dtype), np.empty(wide, k.dtype), np.empty(wide, k.dtype)
    for r in range(start, stop):
        s, block = r // blocks, r % blocks
        low, high = block * channels // blocks, (block + 1) * channels // blocks
        first = ptr[s]
        for i in range(high - low):
            p[i], q[i], o[i] = state[s, 0, low + i], state[s, 1, low + i], state[s, 2, low + i]
            a[i], b[i], e[i] = 0, 0, -np.inf
            to_w[s, low + i] = 0
            to_u[s, low + i] = 0
        for t in range(first, ptr[s + 1]):
            row = before[t - first]
            for i in range(high - low):
                row[0, i], row[1, i], row[2, i] = p[i], q[i], o[i]
                key = k[t, low + i]
                aged = o[i] - w[low + i]
                most = max(aged, key)
                past, now = exp(aged - most), exp(key - most)
                p[i] = past * p[i] + now * v[t, low + i]
                q[i] = past * q[i] + now
                o[i] = most
        for t in range(ptr[s + 1] - 1, first - 1, -1):
            row = before[t - first]
            for i in range(high - low):
                c = low + i
                key, value, g = k[t, c], v[t, c], grad[t, c]
                # From the tokens after this one, through what it leaves behind.
                write = exp(key + e[i])
                aged = exp(row[2, i] - w[c] + e[i])
                dk = write * (a[i] * value + b[i])
                dv = write * a[i]
                to_w[s, c] -= aged * (a[i] * row[0, i] + b[i] * row[1, i])
                # Its own output.
                own = u[c] + key
                most = max(row[2, i], own)
                now = exp(own - most)
                past = exp(row[2, i] - most)
                total = past * row[1, i] + now
                y = (past * row[0, i] + now * value) / total
                of_own = now * g * (value - y) / total
                to_k[t, c] = dk + of_own
                to_v[t, c] = dv + now * g / total
                to_u[s, c] += of_own
                later = e[i] - w[c]
                new = max(later, -most)
                kept, entering = exp(later - new), exp(-most - new) * g / total
                a[i] = kept * a[i] + entering
                b[i] = kept * b[i] - entering * y
                e[i] = new


def _blocks(channels: int, sequences: int) -> int:
    """Pieces of the channels: more of them where there are few sequences."""
    wanted = -(-4 * torch.get_num_threads() // max(sequences, 1))
    return max(1, min(channels, max(wanted, -(-channels // _BLOCK))))


def wkv_scan(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    value, pointer, memory = array(v), array(ptr), array(state).copy()
    y, blocks = np.empty_like(value), _blocks(k.size(1), len(pointer) - 1)
    run(_forward, (len(pointer) - 1) * blocks, pointer, blocks, array(k), value, array(w), array(u), memory, y, grain=1)
    return torch.from_numpy(y), torch.from_numpy(memory)


def wkv_scan_backward(
    grad: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value, pointer = array(v), array(ptr)
    sequences, blocks = len(pointer) - 1, _blocks(k.size(1), len(pointer) - 1)
    to_k, to_v = np.empty_like(value), np.empty_like(value)
    to_w, to_u = (np.zeros((sequences, k.size(1)), value.dtype) for _ in range(2))
    inputs = (pointer, blocks, array(k), value, array(w), array(u), array(state), array(grad))
    run(_backward, sequences * blocks, *inputs, to_k, to_v, to_w, to_u, grain=1)
    of_k, of_v, of_w, of_u = (torch.from_numpy(part) for part in (to_k, to_v, to_w, to_u))
    return of_k, of_v, of_w.sum(0), of_u.sum(0)
