"""Cosines of times: angles in float64 turns, so that no multiple of a turn is lost, the cosine itself a polynomial.

A library's cosine is exact for any angle, and slow for the large ones that time stamps in seconds make. Here the whole
turns are dropped in float64, and what is left, in [-1/2, 1/2], is folded to a quarter of a turn. The loops are written
one operation a pass, so that the compiler turns each into vector instructions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import FASTMATH, array, kernel, run


def inlined(function: Callable) -> Callable:
    """Make ``function`` part of each kernel that calls it.

    Called, it would know nothing of its arrays' memory, and its loops would take three times as long.
    """
    return numba.njit(inline="always", nogil=True, boundscheck=False, fastmath=FASTMATH)(function)


def _polynomials() -> np.ndarray:
    """``[2, 8]`` coefficients in v² of sin(2πv) / v and of cos(2πv), |v| <= 1/4, to 1e-14."""
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    square = (nodes + 1) / 32
    v = np.sqrt(square)
    values = np.sin(2 * np.pi * v) / v, np.cos(2 * np.pi * v)
    domain = [0.0, 1 / 16]
    return np.stack(
        [
            np.polynomial.Chebyshev.fit(square, y, 7, domain=domain).convert(kind=np.polynomial.Polynomial).coef
            for y in values
        ]
    )


_COEFFICIENTS = {dtype: _polynomials().astype(dtype) for dtype in (np.float32, np.float64)}


def coefficients(dtype: np.dtype) -> np.ndarray:
    return _COEFFICIENTS[dtype.type]


def turns(freq: Tensor, phase: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and phases in turns, float64."""
    scale = 1 / (2 * math.pi)
    return array(freq).astype(np.float64) * scale, array(phase).astype(np.float64) * scale


@inlined
def cosine(dt, freq, phase, c, out, i):  # pragma: no cover - compiled
    """``out[i, d] = cos(2 pi (dt freq[d] + phase[d]))``."""
    c0, c1, c2, c3, c4, c5, c6, c7 = c[0, 0], c[0, 1], c[0, 2], c[0, 3], c[0, 4], c[0, 5], c[0, 6], c[0, 7]
    for d in range(len(freq)):
        u = dt * freq[d] + phase[d]
        out[i, d] = 0.25 - abs(u - np.floor(u + 0.5))
    for d in range(len(freq)):
        v = out[i, d]
        s = v * v
        out[i, d] = v * (c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * (c5 + s * (c6 + s * c7)))))))


@inlined
def sine(dt, freq, phase, c, out, i):  # pragma: no cover - compiled
    """``out[i, d] = sin(2 pi (dt freq[d] + phase[d]))``."""
    c0, c1, c2, c3, c4, c5, c6, c7 = c[1, 0], c[1, 1], c[1, 2], c[1, 3], c[1, 4], c[1, 5], c[1, 6], c[1, 7]
    zero = c0 - c0
    quarter = c.dtype.type(0.25)
    for d in range(len(freq)):
        u = dt * freq[d] + phase[d]
        out[i, d] = u - np.floor(u + 0.5)
    for d in range(len(freq)):
        u = out[i, d]
        v = quarter - abs(u)
        s = v * v
        p = c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * (c5 + s * (c6 + s * c7))))))
        out[i, d] = p if u >= zero else -p


@kernel
def _encode(start, stop, dt, freq, phase, c, out):  # pragma: no cover - compiled
    for i in range(start, stop):
        cosine(np.float64(dt[i]), freq, phase, c, out, i)


@kernel
def _encode_backward(start, stop, grad, dt, freq, phase, c, grad_freq, grad_phase):  # pragma: no cover - compiled
    """Sums over rows in float64: one row of results, so this runs in one piece."""
    scratch = np.empty((1, len(freq)), grad.dtype)
    for i in range(start, stop):
        time = np.float64(dt[i])
        sine(time, freq, phase, c, scratch, 0)
        for d in range(len(freq)):
            g = -np.float64(scratch[0, d] * grad[i, d])
            grad_phase[d] += g
            grad_freq[d] += g * time


def time_encoding(dt: Tensor, freq: Tensor, phase: Tensor) -> Tensor:
    times = array(dt)
    out = np.empty((len(times), freq.numel()), array(freq).dtype)
    run(_encode, len(out), times, *turns(freq, phase), coefficients(out.dtype), out, grain=1024)
    return torch.from_numpy(out)


def time_encoding_backward(grad: Tensor, dt: Tensor, freq: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    gradient, times = array(grad), array(dt)
    grad_freq, grad_phase = np.zeros(freq.numel()), np.zeros(freq.numel())
    _encode_backward(
        0, len(times), gradient, times, *turns(freq, phase), coefficients(gradient.dtype), grad_freq, grad_phase
    )
    return torch.from_numpy(grad_freq).to(freq.dtype), torch.from_numpy(grad_phase).to(freq.dtype)
