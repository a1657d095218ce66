"""Bags of bit patterns: multiple-instance learning with a known answer."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from graphkit.utils.checks import check_int


def bit_pattern_bags(
    num_bags: int = 2048, bag_size: int = 16, num_bits: int = 8, num_signals: int = 8, seed: int = 0
) -> Data:
    """Sets of random codes of bits, half of which hold one of a few signal codes, once: one instance in
    ``bag_size`` tells the class, the others say nothing.

    Args:
        num_bags: number of bags; every second one is positive.
        bag_size: codes a bag.
        num_bits: bits a code, -1 or 1.
        num_signals: number of signal codes, which no negative bag holds.
        seed: another seed, other signals and bags.

    Returns:
        All bags in one ``Data``, as :class:`~graphkit.loader.PackedGraphs` takes it: ``x`` ``[N, num_bits]``, ``ptr``
        ``[B + 1]``, ``y`` ``[B]`` and ``signal`` ``[N]``, which instances are signals.

    Raises:
        ValueError: sizes below 1, or no code left that is not a signal.

    Example:
        >>> bags = bit_pattern_bags(4)
        >>> bags.y.tolist(), int(bags.signal.sum())
        ([0, 1, 0, 1], 2)
    """
    for name, value in (("num_bags", num_bags), ("bag_size", bag_size), ("num_bits", num_bits)):
        check_int(value, name, 1)
    check_int(num_bits, "num_bits", 1, 20)
    codes = 2**num_bits
    check_int(num_signals, "num_signals", 1, codes - 1)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    shuffled = rng.permutation(codes)
    code = shuffled[rng.integers(num_signals, codes, size=(num_bags, bag_size))]
    label = np.arange(num_bags) % 2
    place = np.where(label == 1, rng.integers(bag_size, size=num_bags), -1)
    signal = np.arange(bag_size) == place[:, None]
    code[signal] = shuffled[rng.integers(num_signals, size=int(label.sum()))]
    bits = code.reshape(-1, 1) >> np.arange(num_bits) & 1
    return Data(
        x=torch.from_numpy(2.0 * bits - 1).float(),
        ptr=torch.arange(num_bags + 1) * bag_size,
        y=torch.from_numpy(label),
        signal=torch.from_numpy(signal.reshape(-1)),
    )
