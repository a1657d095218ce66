"""Random numbers: seeding, independent streams, and states that can be saved and restored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that users bring draw from the global state)
    torch.manual_seed(seed)


def stream(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator that depends only on ``seed`` and ``keys`` (for example the epoch).

    Streams of different keys are independent, and nothing has to be saved to resume one: the epoch number is enough.

    Raises:
        ValueError: a negative seed or key.
    """
    if min(seed, *keys, 0) < 0:
        raise ValueError(f"seed and keys must not be negative (got {', '.join(map(str, (seed, *keys)))})")
    # As a spawn key: words after the seed itself would make [s] and [s, 0] one stream.
    words = np.random.SeedSequence(seed, spawn_key=keys).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def rng_state() -> dict[str, Any]:
    """The state of every global generator, as plain tensors and numbers (loads with ``weights_only=True``)."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "python": (version, list(words), gauss),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
