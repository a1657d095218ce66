"""Leaky integrate-and-fire neurons over tokens: membranes in cache, neuron beside neuron."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run

_BLOCK = 128  # neurons of a unit of work


@kernel
def _forward(start, stop, ptr, blocks, x, decay, threshold, scale, reset, state, h, spikes):  # pragma: no cover
    neurons = x.shape[1]
    for r in range(start, stop):
        s, block = r // blocks, r % blocks
        v = state[s]
        for t in range(ptr[s], ptr[s + 1]):
            for c in range(block * neurons // blocks, (block + 1) * neurons // blocks):
                potential = decay[c] * v[c] + scale * x[t, c]
                fired = potential >= threshold[c]
                h[t, c] = potential
                spikes[t, c] = 1 if fired else 0
                if fired and reset == 1:
                    potential = 0
                elif fired and reset == 2:
                    potential -= threshold[c]
                v[c] = potential


@kernel
def _backward(
    start, stop, ptr, blocks, h, slope, grad, decay, threshold, scale, reset, detach, state, carry, to_x, to_d, to_th
):  # pragma: no cover - compiled
    """``slope`` is that of the surrogate; ``carry`` begins as the gradient of the last membranes and ends as that of
    the first ones."""
    neurons = h.shape[1]
    for r in range(start, stop):
        s, block = r // blocks, r % blocks
        e, first = carry[s], ptr[s]
        for t in range(ptr[s + 1] - 1, first - 1, -1):
            for c in range(block * neurons // blocks, (block + 1) * neurons // blocks):
                potential, edge, g = h[t, c], threshold[c], slope[t, c]
                fired = 1 if potential >= edge else 0
                by_spike = grad[t, c] * g
                through = e[c]
                by_edge = -by_spike
                if reset == 1:
                    through = e[c] * (1 - fired)
                    if not detach:
                        through -= e[c] * potential * g
                        by_edge += e[c] * potential * g
                elif reset == 2:
                    by_edge -= e[c] * fired
                    if not detach:
                        through -= e[c] * edge * g
                        by_edge += e[c] * edge * g
                a = by_spike + through
                to_x[t, c] = scale * a
                before = state[s, c]
                if t > first:
                    before = h[t - 1, c]
                    if before >= edge:
                        before = 0 if reset == 1 else before - edge if reset == 2 else before
                to_d[s, c] += a * before
                to_th[s, c] += by_edge
                e[c] = decay[c] * a


RESETS = ("none", "hard", "soft")


def _blocks(neurons: int, sequences: int) -> int:
    wanted = -(-4 * torch.get_num_threads() // max(sequences, 1))
    return max(1, min(neurons, max(wanted, -(-neurons // _BLOCK))))


def lif_scan(
    x: Tensor, decay: Tensor, threshold: Tensor, state: Tensor, scale: float, reset: str, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    value, pointer, membrane = array(x), array(ptr), array(state).copy()
    h, spikes = np.empty_like(value), np.empty_like(value)
    blocks = _blocks(x.size(1), len(pointer) - 1)
    numbers = (array(decay), array(threshold), value.dtype.type(scale), RESETS.index(reset))
    run(_forward, (len(pointer) - 1) * blocks, pointer, blocks, value, *numbers, membrane, h, spikes, grain=1)
    return torch.from_numpy(spikes), torch.from_numpy(h), torch.from_numpy(membrane)


def lif_scan_backward(
    grad: Tensor,
    grad_state: Tensor,
    h: Tensor,
    slope: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    potential, pointer, carry = array(h), array(ptr), array(grad_state).copy()
    to_x = np.empty_like(potential)
    to_decay, to_threshold = np.zeros_like(carry), np.zeros_like(carry)
    blocks = _blocks(h.size(1), len(pointer) - 1)
    numbers = (array(decay), array(threshold), potential.dtype.type(scale), RESETS.index(reset), detach)
    inputs = (pointer, blocks, potential, array(slope), array(grad), *numbers, array(state), carry)
    run(_backward, (len(pointer) - 1) * blocks, *inputs, to_x, to_decay, to_threshold, grain=1)
    of_x, of_decay, of_threshold, of_state = (torch.from_numpy(t) for t in (to_x, to_decay, to_threshold, carry))
    return of_x, of_decay.sum(0), of_threshold.sum(0), of_state
