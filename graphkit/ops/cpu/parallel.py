"""How the CPU kernels run: numba functions over a range of rows, one contiguous piece a thread, the GIL released.

Own threads rather than numba's ``prange``: they compile in a fraction of the time, may be called from several Python
threads at once, and survive a fork (data loader workers), which OpenMP does not.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_pool: tuple[int, int, ThreadPoolExecutor] | None = None

# No "nnan"/"ninf": NaN and infinity must come out as they went in.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def kernel(function: Callable) -> Callable:
    """Compile ``function`` once (the machine code is kept on disk) so that it runs without the GIL."""
    return numba.njit(cache=True, nogil=True, boundscheck=False, fastmath=FASTMATH)(function)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a contiguous NumPy array."""
    return tensor.detach().contiguous().numpy()


def run(function: Callable, work: np.ndarray | int, *arguments: Any, grain: int = 4096) -> None:
    """Call ``function(start, stop, *arguments)`` on pieces of the rows ``0 .. n`` in parallel.

    Args:
        function: a compiled kernel; pieces must not write to the same place.
        work: number of rows, or their cumulative work ``[n + 1]`` (for example ``rowptr``), by which pieces are equal.
        arguments: passed on.
        grain: least work of a piece; less than two of them run in the calling thread.
    """
    total = int(work if isinstance(work, int) else work[-1] - work[0] + len(work) - 1)
    rows = work if isinstance(work, int) else len(work) - 1
    if rows == 0:
        return
    threads = min(torch.get_num_threads(), max(total // grain, 1), rows)
    if threads == 1:
        function(0, rows, *arguments)
        return
    pieces = threads * 4  # some slack where the work is uneven
    if isinstance(work, int):
        bounds = np.linspace(0, rows, pieces + 1).astype(np.int64)
    else:
        load = work[0] + np.linspace(0, work[-1] - work[0], pieces + 1)
        bounds = np.searchsorted(work, load)
        bounds[0], bounds[-1] = 0, rows
    left = itertools.pairwise(bounds.tolist())

    def take() -> None:
        for start, stop in left:  # shared: each piece goes to the thread that is free first
            if start < stop:
                function(start, stop, *arguments)

    # The caller works too: a core on which PyTorch's threads still spin after an operation then takes fewer pieces.
    helpers = [_executor(threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for helper in helpers:
        helper.result()


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < threads:
        _pool = (os.getpid(), threads, ThreadPoolExecutor(threads, thread_name_prefix="graphkit"))
    return _pool[2]
