"""What the kernels' launches share: accumulation types, tile widths and how many programs fill the GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_HERE: AbstractContextManager[None] = nullcontext()
MAX_FEATURES = 256  # widest tile; more features take another grid row


def on_device(tensor: Tensor) -> AbstractContextManager[None]:
    """Launch on the GPU of ``tensor``, at no cost where it is the current one."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device_of(tensor)


@triton.jit
def inside_graph(i, j, num_nodes, mask):
    """``mask`` without pairs that have an id outside the graph; a kernel made with ``debug`` fails at them."""
    inside = (i >= 0) & (i < num_nodes) & (j >= 0) & (j < num_nodes)
    tl.device_assert(inside, "edge_label_index holds a node id outside the graph", mask)
    # A failed assertion does not stop the other lanes at once, and none may read outside the graph.
    return mask & inside


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to sum ``dtype`` in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The same as a Triton type."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def feature_block(width: int) -> int:
    """Columns of a tile: a power of two."""
    return min(MAX_FEATURES, triton.next_power_of_2(width))


def warps(block_entries: int, block_features: int, dtype: torch.dtype) -> int:
    """Warps for a tile, at most 64 registers a thread to hold it."""
    registers = block_entries * block_features * (2 if dtype == torch.float64 else 1)
    return max(1, min(16, registers // (64 * 32)))


def programs(tensor: Tensor, per_processor: int) -> int:
    """Programs of a grid whose work items are counted on the device: each takes every n-th item."""
    if tensor.device.type != "cuda":  # Triton's interpreter
        return 3
    return _processors(tensor.device) * per_processor


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
