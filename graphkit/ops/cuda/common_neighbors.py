"""Intersections of sorted neighbour lists on a GPU, fused with the sum of the features they select.

Every node of a pair's shorter list is looked up in the longer one by binary search, all lanes in step, and only the
rows of ``x`` that were found are read; nothing of the size of the lists is stored. A search waits for memory at every
step, so a program takes a block of pairs at once. A pair whose shorter list is long would hold up its block: other
programs of the same launch, which start first, pick such pairs out and take them one by one. Dense graphs take the
matrix products of ``bitmap.py`` instead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.cuda import bitmap
from graphkit.ops.cuda.launch import accumulator, feature_block, inside_graph, on_device, warps, wide
from graphkit.ops.cuda.spmm import spmm_transposed

_LONG = 64  # a pair whose shorter list has more entries, and four times the mean, is a long one
# Pairs looked through for long ones by a program; pairs taken at once, or shares of a long pair; candidates of each.
_SHAPE = {"SCAN": 64, "ROWS": 8, "SHORT_E": 16, "LONG_E": 32}
_WARPS = 2
_SPLIT = {"BLOCK_E": 128, "num_warps": 2}
# Sizes that change from batch to batch, for which no new kernel is wanted.
_VARYING = ["num_pairs", "num_nodes", "limit", "long_programs"]


@triton.jit
def _pairs(rowptr1, col1, rowptr2, col2, src, dst, b, valid, num_nodes):
    """Both ends and both lists (where, how long) of the pairs ``b``; empty lists where not ``valid``."""
    i = tl.load(src + b, mask=valid, other=0)
    j = tl.load(dst + b, mask=valid, other=0)
    valid = inside_graph(i, j, num_nodes, valid)
    start1 = tl.load(rowptr1 + i, mask=valid, other=0)
    start2 = tl.load(rowptr2 + j, mask=valid, other=0)
    size1 = (tl.load(rowptr1 + i + 1, mask=valid, other=0) - start1).to(tl.int32)
    size2 = (tl.load(rowptr2 + j + 1, mask=valid, other=0) - start2).to(tl.int32)
    return i, j, col1 + start1, size1, col2 + start2, size2


@triton.jit
def _shorter_first(list1, size1, list2, size2):
    first = size1 <= size2
    short, long = tl.where(first, list1, list2), tl.where(first, list2, list1)
    return short, tl.minimum(size1, size2), long, tl.maximum(size1, size2)


@triton.jit
def _contains(sorted_list, size, largest, wanted, mask):
    """Which of ``wanted`` are among the ``size`` ascending values, ``largest`` being the largest ``size``."""
    mask = mask & (size > 0)
    base = tl.zeros_like(wanted).to(tl.int32)
    left = size
    while largest > 1:
        half = left // 2
        value = tl.load(sorted_list + base + (half - 1), mask=mask & (half > 0), other=0)
        base = tl.where(value < wanted, base + half, base)
        left -= half
        largest -= largest // 2
    return mask & (tl.load(sorted_list + base, mask=mask, other=-1) == wanted)


@triton.jit
def _sum_rows(
    rowptr1,
    col1,
    rowptr2,
    col2,
    src,
    dst,
    x,
    out,
    b,
    valid,
    skip,
    step,
    num_nodes,
    width,
    limit,
    LONG: tl.constexpr,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Add ``x`` of the common neighbours into row ``b`` of ``out``; backward, add row ``b`` of ``x`` into theirs.

    Each of the ``ROWS`` has a short pair of its own; or they share one long pair, of whose candidates each row takes
    ``BLOCK_E`` in every ``step``, after the first ``skip``.
    """
    i, j, list1, size1, list2, size2 = _pairs(rowptr1, col1, rowptr2, col2, src, dst, b, valid, num_nodes)
    short, short_size, long, long_size = _shorter_first(list1, size1, list2, size2)
    valid = valid & ((short_size > limit) == LONG)
    short, short_size = short + skip, tl.where(valid, short_size, 0) - skip
    long_size = tl.where(short_size > 0, long_size, 0)
    most, largest = tl.max(short_size, 0), tl.max(long_size, 0)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = feature < width
    row = b.to(tl.int64) * width
    if BACKWARD:
        total = tl.load(x + row[:, None] + feature[None, :], mask=valid[:, None] & inside[None, :], other=0).to(ACC)
    else:
        total = tl.zeros([ROWS, BLOCK_F], ACC)
    for first in range(0, most, step):
        place = first + tl.arange(0, BLOCK_E)[None, :]
        mask = place < short_size[:, None]
        node = tl.load(short[:, None] + place, mask=mask, other=0)
        mask = mask & (node != i[:, None]) & (node != j[:, None])
        hit = _contains(long[:, None], long_size[:, None], largest, node, mask)
        # The first common neighbour of every row, then the second ...
        shared = tl.min(tl.where(hit, node, num_nodes), 1)
        while tl.min(shared, 0) < num_nodes:
            cell = shared[:, None] * width + feature[None, :]
            found = (shared < num_nodes)[:, None] & inside[None, :]
            if BACKWARD:
                tl.atomic_add(out + cell, total, mask=found, sem="relaxed")
            else:
                total += tl.load(x + cell, mask=found, other=0).to(ACC)
            hit = hit & (node != shared[:, None])
            shared = tl.min(tl.where(hit, node, num_nodes), 1)
    if not BACKWARD:
        if LONG:
            tl.store(out + tl.max(row, 0) + feature, tl.sum(total, 0), mask=inside)
        else:
            tl.store(out + row[:, None] + feature[None, :], total, mask=valid[:, None] & inside[None, :])


@triton.jit(debug=True, do_not_specialize=_VARYING)
def _sum_kernel(
    rowptr1,
    col1,
    rowptr2,
    col2,
    src,
    dst,
    x,
    out,
    num_pairs,
    num_nodes,
    width,
    limit,
    long_programs,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    SCAN: tl.constexpr,
    ROWS: tl.constexpr,
    SHORT_E: tl.constexpr,
    LONG_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """The first programs look for long pairs among ``SCAN`` each, the others take the short ones among ``ROWS``."""
    program = tl.program_id(0)
    line = tl.arange(0, ROWS)
    if program < long_programs:
        pair = program * SCAN + tl.arange(0, SCAN)
        _, _, _, size1, _, size2 = _pairs(rowptr1, col1, rowptr2, col2, src, dst, pair, pair < num_pairs, num_nodes)
        waiting = tl.where(tl.minimum(size1, size2) > limit, pair, num_pairs)
        chosen = tl.min(waiting, 0)
        while chosen < num_pairs:
            _sum_rows(
                rowptr1,
                col1,
                rowptr2,
                col2,
                src,
                dst,
                x,
                out,
                tl.zeros_like(line) + chosen,
                line >= 0,
                line * LONG_E,
                ROWS * LONG_E,
                num_nodes,
                width,
                limit,
                True,
                BACKWARD,
                ACC,
                ROWS,
                LONG_E,
                BLOCK_F,
            )
            waiting = tl.where(waiting == chosen, num_pairs, waiting)
            chosen = tl.min(waiting, 0)
    else:
        b = (program - long_programs) * ROWS + line
        _sum_rows(
            rowptr1,
            col1,
            rowptr2,
            col2,
            src,
            dst,
            x,
            out,
            b,
            b < num_pairs,
            tl.zeros_like(line),
            SHORT_E,
            num_nodes,
            width,
            limit,
            False,
            BACKWARD,
            ACC,
            ROWS,
            SHORT_E,
            BLOCK_F,
        )


@triton.jit(debug=True, do_not_specialize=_VARYING)
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
    num_nodes,
    SHORTER: tl.constexpr,
    FILL: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Split the first list by membership in the second: count (``hits``, ``misses``), or write from those offsets on.

    With ``SHORTER`` the shorter of the two is split, which finds the same hits in the same order.
    """
    b = tl.program_id(0)
    i, j, list1, size1, list2, size2 = _pairs(rowptr1, col1, rowptr2, col2, src, dst, b, b >= 0, num_nodes)
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
        place = first + tl.arange(0, BLOCK_E)
        node = tl.load(list1 + place, mask=place < size1, other=0)
        valid = (place < size1) & (node != i) & (node != j)
        hit = _contains(list2, size2, size2, node, valid)
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


def _run(graph: tuple[Tensor, ...], x: Tensor, out: Tensor, backward: bool) -> None:
    pairs, nodes, width = graph[4].numel(), graph[0].numel() - 1, x.size(1)
    if not pairs or not width:
        return
    block_f = feature_block(width)
    limit = max(_LONG, 4 * triton.next_power_of_2(graph[1].numel() // (nodes + 1)))
    long_programs = -(-pairs // _SHAPE["SCAN"])
    grid = (long_programs + -(-pairs // _SHAPE["ROWS"]), -(-width // block_f))
    with on_device(x):
        _sum_kernel[grid](
            *graph,
            x,
            out,
            pairs,
            nodes,
            width,
            limit,
            long_programs,
            BACKWARD=backward,
            ACC=accumulator(x.dtype),
            BLOCK_F=block_f,
            num_warps=max(_WARPS, warps(4 * _SHAPE["ROWS"], block_f, x.dtype)),
            sanitize_overflow=False,
            **_SHAPE,
        )


def common_neighbor_sum(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, x: Tensor
) -> Tensor:
    graph = _contiguous(rowptr1, col1, rowptr2, col2, src, dst)
    if bitmap.pays(graph, x):
        return bitmap.common_neighbor_sum(graph, x)
    x = x.contiguous()
    out = x.new_empty(src.numel(), x.size(1))
    _run(graph, x, out, backward=False)
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
    _run(graph, grad.contiguous(), out, backward=True)
    return out.to(grad.dtype)


def intersect(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, residual: bool
) -> list[tuple[Tensor, Tensor]]:
    """``(ptr, node)`` of the intersections and, with ``residual``, of both differences. Waits once, for their sizes."""
    rowptr1, col1, rowptr2, col2, src, dst = _contiguous(rowptr1, col1, rowptr2, col2, src, dst)
    forward, backward = (rowptr1, col1, rowptr2, col2, src, dst), (rowptr2, col2, rowptr1, col1, dst, src)
    pairs = src.numel()
    counts = [src.new_zeros(pairs) for _ in range(3 if residual else 1)]
    num_nodes = rowptr1.numel() - 1
    shape = {"SHORTER": not residual, "sanitize_overflow": False, **_SPLIT}

    def split(places: list[Tensor], nodes: list[Tensor | None], fill: bool) -> None:
        if not pairs:
            return
        with on_device(src):
            left = (places[1], nodes[1]) if residual else (None, None)
            _split_kernel[(pairs,)](*forward, places[0], left[0], nodes[0], left[1], num_nodes, FILL=fill, **shape)
            if residual:
                _split_kernel[(pairs,)](*backward, None, places[2], None, nodes[2], num_nodes, FILL=fill, **shape)

    split(counts, [None] * 3, fill=False)
    pointers = [counts_to_ptr(count) for count in counts]
    sizes = torch.stack([pointer[-1] for pointer in pointers]).tolist()
    nodes: list[Tensor | None] = [src.new_empty(size) for size in sizes]
    split(pointers, nodes, fill=True)
    return [(pointer, node) for pointer, node in zip(pointers, nodes, strict=True) if node is not None]
