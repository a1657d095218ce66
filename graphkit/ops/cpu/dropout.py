"""Dropout with random bits made from a counter, so that threads need no order and the mask need not be kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run

_BLOCK = 64  # words hashed at once, into a buffer that stays in the nearest cache


@kernel
def _dropout(start, stop, x, out, seed, dropped, scale):  # pragma: no cover - compiled
    words = np.empty(_BLOCK, np.uint64)
    bits = words.view(np.uint16)
    zero = scale * 0
    for block in range(start, stop):
        base = seed + np.uint64(block * _BLOCK) * np.uint64(0x9E3779B97F4A7C15)
        for k in range(_BLOCK):
            # The mixing function of SplitMix64; one word serves four entries.
            z = base + np.uint64(k) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            words[k] = z ^ (z >> np.uint64(31))
        # Slices, because the compiler makes vector instructions of indices that cannot be negative only.
        first = block * 4 * _BLOCK
        source = x[first : first + 4 * _BLOCK]
        target = out[first : first + 4 * _BLOCK]
        for k in range(source.shape[0]):
            target[k] = source[k] * (scale if bits[k] >= dropped else zero)


def dropout(x: Tensor, seed: int, dropped: int) -> Tensor:
    source = array(x)
    out = np.empty_like(source)
    scale = source.dtype.type(65536 / (65536 - dropped))
    blocks = -(-source.size // (4 * _BLOCK))
    run(_dropout, blocks, source.reshape(-1), out.reshape(-1), np.uint64(seed), np.uint16(dropped), scale, grain=256)
    return torch.from_numpy(out)
