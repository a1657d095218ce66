"""Lines around (P)ReLU in one pass over the intervals, and their gradient in another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _lines(start, stop, lower, upper, slope, narrow, alpha, gamma):  # pragma: no cover - compiled
    zero = lower.dtype.type(0)
    one = lower.dtype.type(1)
    for r in range(start, stop):
        low, high = lower[r], upper[r]
        out, offset = alpha[r], gamma[r]
        for k in range(low.shape[0]):
            least, most = low[k], high[k]
            # Values are chosen, not branches, which the compiler makes vector instructions of.
            width = most - least
            inverse = one / (width if width > narrow else narrow)
            outside = one if least >= zero else slope
            crosses = (least < zero) and (most > zero)
            out[k] = (most - slope * least) * inverse if crosses else outside
            offset[k] = (slope - one) * most * least * inverse if crosses else zero


@kernel
def _gradients(
    start, stop, lower, upper, slope, narrow, grad_alpha, grad_gamma, grad_lower, grad_upper, grad_slope
):  # pragma: no cover - compiled
    zero = lower.dtype.type(0)
    one = lower.dtype.type(1)
    for r in range(start, stop):
        low, high = lower[r], upper[r]
        ga, gg = grad_alpha[r], grad_gamma[r]
        out_low, out_high = grad_lower[r], grad_upper[r]
        total = zero
        for k in range(low.shape[0]):
            least, most = low[k], high[k]
            width = most - least
            inverse = one / (width if width > narrow else narrow)
            share = most * inverse
            crosses = (least < zero) and (most > zero)
            # alpha = a + (1 - a) share and gamma = -(1 - a) low share
            part = (one - slope) * (ga[k] - least * gg[k]) * inverse
            out_high[k] = part * (one - share) if crosses else zero
            out_low[k] = part * share - (one - slope) * share * gg[k] if crosses else zero
            outside = ga[k] if least < zero else zero
            total += ga[k] * (one - share) + gg[k] * least * share if crosses else outside
        grad_slope[r] = total


def linear_relaxation(lower: Tensor, upper: Tensor, slope: float, narrow: float) -> tuple[Tensor, Tensor]:
    low, high = array(lower), array(upper)
    kind = low.dtype.type
    alpha, gamma = np.empty_like(low), np.empty_like(low)
    grain = max(1, 65536 // max(low.shape[1], 1))
    run(_lines, len(low), low, high, kind(slope), kind(narrow), alpha, gamma, grain=grain)
    return torch.from_numpy(alpha), torch.from_numpy(gamma)


def linear_relaxation_backward(
    lower: Tensor, upper: Tensor, slope: float, narrow: float, grad_alpha: Tensor, grad_gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    low, high = array(lower), array(upper)
    kind = low.dtype.type
    grad_low, grad_high, grad_slope = np.empty_like(low), np.empty_like(low), np.zeros(len(low), low.dtype)
    if low.shape[1]:
        grain = max(1, 65536 // low.shape[1])
        grads = array(grad_alpha), array(grad_gamma)
        ends = low, high, kind(slope), kind(narrow)
        run(_gradients, len(low), *ends, *grads, grad_low, grad_high, grad_slope, grain=grain)
    return torch.from_numpy(grad_low), torch.from_numpy(grad_high), torch.from_numpy(grad_slope).sum()
