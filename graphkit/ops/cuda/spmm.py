"""Weighted gather-sum over CSR rows on a GPU.

One program sums a row in tiles of entries x features held in registers. Rows far longer than the others would keep one
program busy long after the rest, so they are put in a queue on the device, summed piece by piece by a second kernel and
put together by a third. The order of the additions depends on the row alone: results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.csr import ptr_to_index, transpose
from graphkit.ops.cuda.launch import accumulator, feature_block, programs, warps, wide

_BLOCKS = (8, 32)  # least and most entries of a short row's tile
_PIECE = 32  # tiles in a piece of a long row


@triton.jit
def _sum_entries(
    start, stop, col, weight, x, feature, inside, width, ACC, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr
):
    """Sum of the rows ``x[col[start:stop]]``; of ``x[start:stop]`` if ``col`` is None."""
    total = tl.zeros([BLOCK_E, BLOCK_F], ACC)
    for first in range(start, stop, BLOCK_E):
        entry = first + tl.arange(0, BLOCK_E)
        valid = entry < stop
        if col is None:
            node = entry
        else:
            node = tl.load(col + entry, mask=valid, other=0)
        place = x + node[:, None] * width + feature[None, :]
        rows = tl.load(place, mask=valid[:, None] & inside[None, :], other=0).to(ACC)
        if weight is not None:
            rows *= tl.load(weight + entry, mask=valid, other=0).to(ACC)[:, None]
        total += rows
    return tl.sum(total, 0)


@triton.jit
def _row_kernel(
    rowptr,
    col,
    weight,
    x,
    out,
    counts,
    pieces,
    capacity,
    width,
    PIECE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Short rows are summed. A long row books places for its pieces: ``pieces`` = (row, first entry, row, place)."""
    row = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = feature < width
    start = tl.load(rowptr + row)
    stop = tl.load(rowptr + row + 1)
    if stop - start <= PIECE:
        total = _sum_entries(start, stop, col, weight, x, feature, inside, width, ACC, BLOCK_E, BLOCK_F)
        tl.store(out + row * width + feature, total, mask=inside)
    elif tl.program_id(1) == 0:
        number = tl.cdiv(stop - start, PIECE)
        place = tl.atomic_add(counts, number)
        slot = tl.atomic_add(counts + 1, 1)
        tl.store(pieces + 2 * capacity + slot, row)
        tl.store(pieces + 3 * capacity + slot, place)
        for first in range(0, number, BLOCK_E):
            piece = first + tl.arange(0, BLOCK_E)
            entry = pieces + place + piece
            tl.store(entry, row + tl.zeros_like(piece), mask=piece < number)
            tl.store(entry + capacity, start + piece * PIECE, mask=piece < number)


@triton.jit
def _piece_kernel(
    rowptr,
    col,
    weight,
    x,
    partial,
    counts,
    pieces,
    capacity,
    width,
    PIECE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = feature < width
    number = tl.load(counts)
    for piece in range(tl.program_id(0).to(tl.int64), number, tl.num_programs(0)):
        row = tl.load(pieces + piece)
        start = tl.load(pieces + capacity + piece)
        stop = tl.minimum(start + PIECE, tl.load(rowptr + row + 1))
        total = _sum_entries(start, stop, col, weight, x, feature, inside, width, ACC, BLOCK_E, BLOCK_F)
        tl.store(partial + piece * width + feature, total, mask=inside)


@triton.jit
def _join_kernel(
    rowptr,
    partial,
    out,
    counts,
    pieces,
    capacity,
    width,
    PIECE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = feature < width
    number = tl.load(counts + 1)
    for slot in range(tl.program_id(0).to(tl.int64), number, tl.num_programs(0)):
        row = tl.load(pieces + 2 * capacity + slot)
        first = tl.load(pieces + 3 * capacity + slot)
        last = first + tl.cdiv(tl.load(rowptr + row + 1) - tl.load(rowptr + row), PIECE)
        total = _sum_entries(first, last, None, None, partial, feature, inside, width, ACC, BLOCK_E, BLOCK_F)
        tl.store(out + row * width + feature, total, mask=inside)


@triton.jit
def _scatter_kernel(
    row,
    col,
    weight,
    grad,
    out,
    num_entries,
    width,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    entry = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    valid = entry < num_entries
    mask = valid[:, None] & (feature < width)[None, :]
    source = tl.load(row + entry, mask=valid, other=0)
    target = tl.load(col + entry, mask=valid, other=0)
    rows = tl.load(grad + source[:, None] * width + feature[None, :], mask=mask, other=0).to(ACC)
    if weight is not None:
        rows *= tl.load(weight + entry, mask=valid, other=0).to(ACC)[:, None]
    tl.atomic_add(out + target[:, None] * width + feature[None, :], rows, mask=mask, sem="relaxed")


@triton.jit
def _dot_kernel(
    row,
    col,
    left,
    right,
    out,
    num_entries,
    width,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    entry = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    valid = entry < num_entries
    a = left + tl.load(row + entry, mask=valid, other=0)[:, None] * width
    b = right + tl.load(col + entry, mask=valid, other=0)[:, None] * width
    total = tl.zeros([BLOCK_E, BLOCK_F], ACC)
    for first in range(0, width, BLOCK_F):
        feature = (first + tl.arange(0, BLOCK_F))[None, :]
        mask = valid[:, None] & (feature < width)
        total += tl.load(a + feature, mask=mask, other=0).to(ACC) * tl.load(b + feature, mask=mask, other=0).to(ACC)
    tl.store(out + entry, tl.sum(total, 1), mask=valid)


def spmm(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    rowptr, col, x = rowptr.contiguous(), col.contiguous(), x.contiguous()
    weight = None if weight is None else weight.contiguous()
    rows, entries, width = rowptr.numel() - 1, col.numel(), x.size(1)
    out = x.new_empty(rows, width)
    if not out.numel():
        return out
    block_f = feature_block(width)
    # A tile much taller than the rows are long is mostly masked out.
    block_e = max(_BLOCKS[0], min(_BLOCKS[1], triton.next_power_of_2(entries // rows + 1) // 2))
    piece = _PIECE * block_e
    tiles = triton.cdiv(width, block_f)
    capacity = 2 * (entries // piece) + 1  # a row of n > piece entries has fewer than 2 n / piece pieces
    counts = col.new_zeros(2)
    pieces = col.new_empty(4, capacity)
    sizes = {"PIECE": piece, "ACC": accumulator(x.dtype), "BLOCK_F": block_f}
    with torch.cuda.device_of(x):
        _row_kernel[(rows, tiles)](
            rowptr,
            col,
            weight,
            x,
            out,
            counts,
            pieces,
            capacity,
            width,
            **sizes,
            BLOCK_E=block_e,
            num_warps=warps(block_e, block_f, x.dtype),
        )
        if entries > piece:
            partial = x.new_empty(capacity, width, dtype=wide(x.dtype))
            tall = {"BLOCK_E": 128, "num_warps": warps(128, block_f, x.dtype)}
            _piece_kernel[(programs(x, 4), tiles)](
                rowptr, col, weight, x, partial, counts, pieces, capacity, width, **sizes, **tall
            )
            _join_kernel[(programs(x, 1), tiles)](
                rowptr, partial, out, counts, pieces, capacity, width, **sizes, **tall
            )
    return out


def spmm_transposed(rowptr: Tensor, col: Tensor, grad: Tensor, weight: Tensor | None, num_cols: int) -> Tensor:
    """Atomic additions, or a sort and :func:`spmm` where the same bits are wanted every time."""
    if torch.are_deterministic_algorithms_enabled():
        back = transpose(rowptr, col, num_cols)
        return spmm(back.rowptr, back.col, grad, None if weight is None else weight[back.perm])
    col, grad = col.contiguous(), grad.contiguous()
    weight = None if weight is None else weight.contiguous()
    entries, width = col.numel(), grad.size(1)
    out = grad.new_zeros(num_cols, width, dtype=wide(grad.dtype))
    if entries and width:
        block_f = feature_block(width)
        block_e = 32
        with torch.cuda.device_of(grad):
            _scatter_kernel[(triton.cdiv(entries, block_e), triton.cdiv(width, block_f))](
                ptr_to_index(rowptr, entries),
                col,
                weight,
                grad,
                out,
                entries,
                width,
                ACC=accumulator(grad.dtype),
                BLOCK_E=block_e,
                BLOCK_F=block_f,
                num_warps=warps(block_e, block_f, grad.dtype),
            )
    return out.to(grad.dtype)


def sampled_dot(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    col, left, right = col.contiguous(), left.contiguous(), right.contiguous()
    entries, width = col.numel(), left.size(1)
    out = left.new_zeros(entries)
    if entries and width:
        block_f = min(64, feature_block(width))
        block_e = 16  # two tiles are held at once
        with torch.cuda.device_of(left):
            _dot_kernel[(triton.cdiv(entries, block_e),)](
                ptr_to_index(rowptr, entries),
                col,
                left,
                right,
                out,
                entries,
                width,
                ACC=accumulator(left.dtype),
                BLOCK_E=block_e,
                BLOCK_F=block_f,
                num_warps=warps(block_e, block_f, left.dtype),
            )
    return out
