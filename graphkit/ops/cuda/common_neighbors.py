"""Intersections of sorted neighbour lists on a GPU, fused with the sum of the features they select.

One program takes one pair: blocks of the shorter list are looked up in the longer one by binary search, all lanes in
step, and only the rows of ``x`` that were found are read; nothing of the size of the lists is stored. Pairs whose
shorter list is long would keep a small program busy after all others are done, so they go into a queue on the device
for a second kernel with larger programs. Dense graphs take the matrix products of ``bitmap.py`` instead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.cuda import bitmap
from graphkit.ops.cuda.launch import accumulator, feature_block, programs, warps, wide
from graphkit.ops.cuda.spmm import spmm_transposed

_LONG = 64  # a pair whose shorter list has more entries, and four times the mean, is a long one
_BLOCK = 32  # candidates that a short pair looks up at a time
_SPLIT = {"BLOCK_E": 128, "num_warps": 2}


@triton.jit
def _pair(rowptr1, col1, rowptr2, col2, src, dst, b):
    """Both ends and both lists (where, how long) of pair ``b``."""
    i = tl.load(src + b)
    j = tl.load(dst + b)
    start1 = tl.load(rowptr1 + i)
    start2 = tl.load(rowptr2 + j)
    size1 = (tl.load(rowptr1 + i + 1) - start1).to(tl.int32)
    size2 = (tl.load(rowptr2 + j + 1) - start2).to(tl.int32)
    return i, j, col1 + start1, size1, col2 + start2, size2


@triton.jit
def _shorter_first(list1, size1, list2, size2):
    if size1 <= size2:
        short, long = list1, list2
    else:
        short, long = list2, list1
    return short, tl.minimum(size1, size2), long, tl.maximum(size1, size2)


@triton.jit
def _contains(sorted_list, size, wanted, mask):
    """Which of ``wanted`` are among the ``size`` ascending values; a binary search that all lanes do in step."""
    mask = mask & (size > 0)
    base = tl.zeros_like(wanted).to(tl.int32)
    left = size
    while left > 1:
        half = left // 2
        value = tl.load(sorted_list + base + (half - 1), mask=mask, other=0)
        base = tl.where(value < wanted, base + half, base)
        left -= half
    return mask & (tl.load(sorted_list + base, mask=mask, other=-1) == wanted)


@triton.jit
def _candidates(first, size, nodes, i, j, BLOCK_E: tl.constexpr):
    place = first + tl.arange(0, BLOCK_E)
    node = tl.load(nodes + place, mask=place < size, other=0)
    return node, (place < size) & (node != i) & (node != j)


@triton.jit
def _visit(
    b,
    i,
    j,
    short,
    short_size,
    long,
    long_size,
    x,
    out,
    feature,
    width,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Add the rows of the common neighbours into row ``b``; backward, add row ``b`` into all of theirs."""
    inside = feature < width
    row = b.to(tl.int64) * width + feature
    if BACKWARD:
        total = tl.load(x + row, mask=inside, other=0).to(ACC)
    else:
        total = tl.zeros([BLOCK_F], ACC)
    for first in range(0, short_size, BLOCK_E):
        node, valid = _candidates(first, short_size, short, i, j, BLOCK_E)
        hit = _contains(long, long_size, node, valid)
        if tl.max(hit.to(tl.int32), 0) > 0:
            place = node[:, None] * width + feature[None, :]
            mask = hit[:, None] & inside[None, :]
            if BACKWARD:
                tl.atomic_add(out + place, tl.where(mask, total[None, :], 0), mask=mask, sem="relaxed")
            else:
                total += tl.sum(tl.load(x + place, mask=mask, other=0).to(ACC), 0)
    if not BACKWARD:
        tl.store(out + row, total, mask=inside)


@triton.jit
def _pair_kernel(
    rowptr1,
    col1,
    rowptr2,
    col2,
    src,
    dst,
    x,
    out,
    queue,
    width,
    limit,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """One short pair a program; long pairs are appended to ``queue`` = (how many, which ...)."""
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    b = tl.program_id(0)
    i, j, list1, size1, list2, size2 = _pair(rowptr1, col1, rowptr2, col2, src, dst, b)
    short, short_size, long, long_size = _shorter_first(list1, size1, list2, size2)
    if short_size <= limit:
        _visit(b, i, j, short, short_size, long, long_size, x, out, feature, width, BACKWARD, ACC, BLOCK_E, BLOCK_F)
    elif tl.program_id(1) == 0:
        tl.store(queue + 1 + tl.atomic_add(queue, 1), b)


@triton.jit
def _long_pair_kernel(
    rowptr1,
    col1,
    rowptr2,
    col2,
    src,
    dst,
    x,
    out,
    queue,
    width,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    for slot in range(tl.program_id(0), tl.load(queue), tl.num_programs(0)):
        b = tl.load(queue + 1 + slot)
        i, j, list1, size1, list2, size2 = _pair(rowptr1, col1, rowptr2, col2, src, dst, b)
        short, short_size, long, long_size = _shorter_first(list1, size1, list2, size2)
        _visit(b, i, j, short, short_size, long, long_size, x, out, feature, width, BACKWARD, ACC, BLOCK_E, BLOCK_F)


@triton.jit
def _split_kernel(
    rowptr1,
    col1,
    rowptr2,
    col2,
    src,
    dst,
    hits,
    misses,
    hit_node,
    miss_node,
    SHORTER: tl.constexpr,
    FILL: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Split the first list by membership in the second: count (``hits``, ``misses``), or write from those offsets on.

    With ``SHORTER`` the shorter of the two is split, which finds the same hits in the same order.
    """
    b = tl.program_id(0)
    i, j, list1, size1, list2, size2 = _pair(rowptr1, col1, rowptr2, col2, src, dst, b)
    if SHORTER:
        list1, size1, list2, size2 = _shorter_first(list1, size1, list2, size2)
    num_hits = i * 0
    num_misses = i * 0
    if FILL:
        if hits is not None:
            num_hits += tl.load(hits + b)
        if misses is not None:
            num_misses += tl.load(misses + b)
    for first in range(0, size1, BLOCK_E):
        node, valid = _candidates(first, size1, list1, i, j, BLOCK_E)
        hit = _contains(list2, size2, node, valid)
        miss = valid & (hit == 0)
        if FILL:
            if hits is not None:
                tl.store(hit_node + num_hits + tl.cumsum(hit.to(tl.int32), 0) - 1, node, mask=hit)
            if misses is not None:
                tl.store(miss_node + num_misses + tl.cumsum(miss.to(tl.int32), 0) - 1, node, mask=miss)
        num_hits += tl.sum(hit.to(tl.int32), 0)
        num_misses += tl.sum(miss.to(tl.int32), 0)
    if not FILL:
        if hits is not None:
            tl.store(hits + b, num_hits)
        if misses is not None:
            tl.store(misses + b, num_misses)


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _run_pairs(graph: tuple[Tensor, ...], x: Tensor, out: Tensor, backward: bool) -> None:
    pairs, width = graph[4].numel(), x.size(1)
    if not pairs or not width:
        return
    queue = torch.zeros(pairs + 1, dtype=torch.int32, device=x.device)
    block_f = feature_block(width)
    tiles = triton.cdiv(width, block_f)
    limit = max(_LONG, 4 * triton.next_power_of_2(graph[1].numel() // graph[0].numel()))
    types = {"BACKWARD": backward, "ACC": accumulator(x.dtype), "BLOCK_F": block_f}
    short, long = _BLOCK, 256 if block_f <= 128 else 128
    with torch.cuda.device_of(x):
        _pair_kernel[(pairs, tiles)](
            *graph, x, out, queue, width, limit, **types, BLOCK_E=short, num_warps=warps(short, block_f, x.dtype)
        )
        _long_pair_kernel[(min(pairs, programs(x, 4)), tiles)](
            *graph, x, out, queue, width, **types, BLOCK_E=long, num_warps=warps(long, block_f, x.dtype)
        )


def common_neighbor_sum(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, x: Tensor
) -> Tensor:
    graph = _contiguous(rowptr1, col1, rowptr2, col2, src, dst)
    if bitmap.pays(graph, x):
        return bitmap.common_neighbor_sum(graph, x)
    x = x.contiguous()
    out = x.new_empty(src.numel(), x.size(1))
    _run_pairs(graph, x, out, backward=False)
    return out


def common_neighbor_sum_backward(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, grad: Tensor, n: int
) -> Tensor:
    """Atomic additions; where the same bits are wanted every time, by way of the lists (which waits for their size)."""
    graph = _contiguous(rowptr1, col1, rowptr2, col2, src, dst)
    if bitmap.pays(graph, grad):
        return bitmap.common_neighbor_sum_backward(graph, grad)
    if torch.are_deterministic_algorithms_enabled():
        ((pointer, node),) = intersect(rowptr1, col1, rowptr2, col2, src, dst, residual=False)
        return spmm_transposed(pointer, node, grad, None, n)
    out = grad.new_zeros(n, grad.size(1), dtype=wide(grad.dtype))
    _run_pairs(graph, grad.contiguous(), out, backward=True)
    return out.to(grad.dtype)


def intersect(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, residual: bool
) -> list[tuple[Tensor, Tensor]]:
    """``(ptr, node)`` of the intersections and, with ``residual``, of both differences. Waits once, for their sizes."""
    rowptr1, col1, rowptr2, col2, src, dst = _contiguous(rowptr1, col1, rowptr2, col2, src, dst)
    forward, backward = (rowptr1, col1, rowptr2, col2, src, dst), (rowptr2, col2, rowptr1, col1, dst, src)
    pairs = src.numel()
    counts = [src.new_zeros(pairs) for _ in range(3 if residual else 1)]
    shape = {"SHORTER": not residual, **_SPLIT}

    def split(places: list[Tensor], nodes: list[Tensor | None], fill: bool) -> None:
        if not pairs:
            return
        with torch.cuda.device_of(src):
            left = (places[1], nodes[1]) if residual else (None, None)
            _split_kernel[(pairs,)](*forward, places[0], left[0], nodes[0], left[1], FILL=fill, **shape)
            if residual:
                _split_kernel[(pairs,)](*backward, None, places[2], None, nodes[2], FILL=fill, **shape)

    split(counts, [None] * 3, fill=False)
    pointers = [counts_to_ptr(count) for count in counts]
    sizes = torch.stack([pointer[-1] for pointer in pointers]).tolist()
    nodes: list[Tensor | None] = [src.new_empty(size) for size in sizes]
    split(pointers, nodes, fill=True)
    return [(pointer, node) for pointer, node in zip(pointers, nodes, strict=True) if node is not None]
