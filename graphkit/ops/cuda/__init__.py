"""Triton versions of the operators, imported only when a CUDA tensor comes in."""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache

#: Tokens of a chunk of gated linear attention at most, known without Triton too.
LONGEST_CHUNK = 64


@cache
def has_triton() -> bool:
    """Whether the kernels here can run; warns once if not, since plain PyTorch is several times slower."""
    if importlib.util.find_spec("triton") is not None:
        return True
    warnings.warn(
        "graphkit: Triton is not installed, so CUDA tensors take the slow plain PyTorch operators; pip install triton",
        RuntimeWarning,
        stacklevel=2,
    )
    return False
