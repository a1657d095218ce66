"""Common-neighbour sums of small dense graphs as matrix products: one bit an entry of the adjacency matrix.

The common neighbours of a pair are the AND of two bit rows. The sum over them is one row of a product of bits and
features, for which a program expands a block of bits in registers and uses the tensor cores: N steps a pair whatever
the number of hits, but each many times cheaper than reading a row; and backward (the transposed product) needs no
atomic additions. Bits are exact in 16-bit numbers, and float32 features go in as three bfloat16 parts whose sum is
exact. Tensor cores round long sums carelessly, so each block's product is added to the total outside of them: the
result is as good as a float32 sum.

Being a product, it spreads a NaN or infinity of one feature row over all pairs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.cuda.launch import inside_graph, on_device

_MAX_NODES = 1 << 14
_DENSITY = 1 / 24  # share of the possible edges from which products are cheaper than gathering
_BLOCK_N = 64  # the bit rows are padded to whole blocks, so that no load of bits is masked in that direction
_SHAPE = {"BLOCK_R": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2}
_SPLITS = 16


def pays(graph: tuple[Tensor, ...], x: Tensor) -> bool:
    """Whether the graph is dense enough, told by sizes alone."""
    nodes, entries = graph[0].numel() - 1, min(graph[1].numel(), graph[3].numel())
    return (
        x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and x.size(1) >= 16
        and graph[4].numel() >= 1024
        and nodes <= _MAX_NODES
        and entries >= _DENSITY * nodes * nodes
    )


@triton.jit
def _adjacency_kernel(rowptr, col, bits, words, BLOCK_E: tl.constexpr):
    row = tl.program_id(0)
    start = tl.load(rowptr + row)
    stop = tl.load(rowptr + row + 1)
    for first in range(start, stop, BLOCK_E):
        entry = first + tl.arange(0, BLOCK_E)
        node = tl.load(col + entry, mask=entry < stop, other=0).to(tl.int32)
        bit = tl.full([BLOCK_E], 1, tl.int32) << (node % 32)
        tl.atomic_or(bits + row * words + node // 32, bit, mask=entry < stop, sem="relaxed")


@triton.jit(debug=True, do_not_specialize=["num_nodes"])
def _common_kernel(bits1, bits2, src, dst, common, num_nodes, words, BLOCK_W: tl.constexpr):
    """AND of the two rows of a pair, without the bits of its own two nodes."""
    pair = tl.program_id(0)
    i = tl.load(src + pair)
    j = tl.load(dst + pair)
    valid = inside_graph(i, j, num_nodes, pair >= 0)
    i, j = i.to(tl.int32), j.to(tl.int32)
    one = tl.full([BLOCK_W], 1, tl.int32)
    for first in range(0, words, BLOCK_W):
        word = first + tl.arange(0, BLOCK_W)
        inside = valid & (word < words)
        both = tl.load(bits1 + i * words + word, mask=inside, other=0)
        both &= tl.load(bits2 + j * words + word, mask=inside, other=0)
        both &= ~tl.where(word == i // 32, one << (i % 32), 0)
        both &= ~tl.where(word == j // 32, one << (j % 32), 0)
        tl.store(common + pair.to(tl.int64) * words + word, both, mask=word < words)


@triton.jit
def _parts_kernel(x, parts, total, BLOCK: tl.constexpr):
    """``x`` as high, middle and low bfloat16 parts, one after the other."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rest = tl.load(x + place, mask=place < total, other=0)
    target = parts + place
    for _ in tl.static_range(3):
        rounded = rest.to(tl.bfloat16)
        tl.store(target, rounded, mask=place < total)
        rest -= rounded.to(tl.float32)
        target += total


@triton.jit
def _zero_or_one(bit, TYPE: tl.constexpr):
    """By selection: converting integers is slow on the GPU."""
    return tl.where(bit != 0, tl.full([1, 1], 1, TYPE), tl.full([1, 1], 0, TYPE))


@triton.jit
def _product_kernel(
    bits,
    x,
    out,
    num_rows,
    num_nodes,
    words,
    width,
    part_size,
    PARTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """``bits [R, N] @ x [N, F]``, with ``x`` in parts."""
    WORDS: tl.constexpr = BLOCK_N // 32
    row = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    word = bits + row[:, None] * words + tl.arange(0, WORDS)[None, :]
    total = tl.zeros([BLOCK_R, BLOCK_F], tl.float32)
    for first in range(0, num_nodes, BLOCK_N):
        packed = tl.load(word + first // 32, mask=(row < num_rows)[:, None], other=0)
        mask = (packed[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
        mask = _zero_or_one(tl.reshape(mask, [BLOCK_R, BLOCK_N]), x.dtype.element_ty)
        node = first + tl.arange(0, BLOCK_N)
        inside = (node < num_nodes)[:, None] & (feature < width)[None, :]
        place = x + node[:, None] * width + feature[None, :]
        product = tl.zeros([BLOCK_R, BLOCK_F], tl.float32)
        for _ in tl.static_range(PARTS):
            product = tl.dot(mask, tl.load(place, mask=inside, other=0), product)
            place += part_size
        total += product
    place = out + row[:, None] * width + feature[None, :]
    tl.store(place, total, mask=(row < num_rows)[:, None] & (feature < width)[None, :])


@triton.jit
def _transposed_kernel(
    bits,
    x,
    out,
    num_rows,
    num_nodes,
    words,
    width,
    part_size,
    PARTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """``bits [R, N].T @ x [R, F]``; on grid axis 2 a program takes every n-th block of rows, with its own sum."""
    WORDS: tl.constexpr = BLOCK_N // 32
    node = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    word = bits + (tl.program_id(0) * WORDS + tl.arange(0, WORDS))[:, None]
    total = tl.zeros([BLOCK_N, BLOCK_F], tl.float32)
    for first in range(tl.program_id(2) * BLOCK_R, num_rows, tl.num_programs(2) * BLOCK_R):
        row = (first + tl.arange(0, BLOCK_R)).to(tl.int64)
        valid = row < num_rows
        packed = tl.load(word + row[None, :] * words, mask=valid[None, :], other=0)
        mask = (packed[:, None, :] >> tl.arange(0, 32)[None, :, None]) & 1
        mask = _zero_or_one(tl.reshape(mask, [BLOCK_N, BLOCK_R]), x.dtype.element_ty)
        inside = valid[:, None] & (feature < width)[None, :]
        place = x + row[:, None] * width + feature[None, :]
        product = tl.zeros([BLOCK_N, BLOCK_F], tl.float32)
        for _ in tl.static_range(PARTS):
            product = tl.dot(mask, tl.load(place, mask=inside, other=0), product)
            place += part_size
        total += product
    place = out + (tl.program_id(2).to(tl.int64) * num_nodes + node)[:, None] * width + feature[None, :]
    tl.store(place, total, mask=(node < num_nodes)[:, None] & (feature < width)[None, :])


def _adjacency(rowptr: Tensor, col: Tensor, words: int) -> Tensor:
    rows = rowptr.numel() - 1
    bits = torch.zeros(rows, words, dtype=torch.int32, device=col.device)
    _adjacency_kernel[(rows,)](rowptr, col, bits, words, BLOCK_E=128, num_warps=4)
    return bits


def _common(graph: tuple[Tensor, ...]) -> Tensor:
    """``[B, words]`` int32: the common neighbours of every pair as bits."""
    rowptr1, col1, rowptr2, col2, src, dst = graph
    nodes = rowptr1.numel() - 1
    words = triton.cdiv(nodes, _BLOCK_N) * (_BLOCK_N // 32)
    first = _adjacency(rowptr1, col1, words)
    same = col1.data_ptr() == col2.data_ptr() and rowptr1.data_ptr() == rowptr2.data_ptr()
    second = first if same else _adjacency(rowptr2, col2, words)
    common = first.new_empty(src.numel(), words)
    _common_kernel[(src.numel(),)](
        first, second, src, dst, common, nodes, words, BLOCK_W=128, num_warps=1, sanitize_overflow=False
    )
    return common


def _parts(x: Tensor) -> tuple[Tensor, int]:
    """What to multiply, in how many parts."""
    x = x.contiguous()
    if x.dtype != torch.float32:
        return x, 1
    parts = torch.empty(3, *x.shape, dtype=torch.bfloat16, device=x.device)
    _parts_kernel[(triton.cdiv(x.numel(), 1024),)](x, parts, x.numel(), BLOCK=1024)
    return parts, 3


def _feature_block(width: int) -> int:
    return max(16, min(128, triton.next_power_of_2(width)))


def common_neighbor_sum(graph: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """For ``graph`` = both graphs' (rowptr, col), src, dst."""
    pairs, width = graph[4].numel(), x.size(1)
    out = x.new_empty(pairs, width)
    with on_device(x):
        common = _common(graph)
        parts, number = _parts(x)
        shape = {**_SHAPE, "BLOCK_F": _feature_block(width), "PARTS": number}
        _product_kernel[(triton.cdiv(pairs, shape["BLOCK_R"]), triton.cdiv(width, shape["BLOCK_F"]))](
            common, parts, out, pairs, x.size(0), common.size(1), width, x.numel(), **shape
        )
    return out


def common_neighbor_sum_backward(graph: tuple[Tensor, ...], grad: Tensor) -> Tensor:
    """The same from ``grad [B, F]`` to ``[N, F]``; every program's sum is stored apart, so no order is left open."""
    pairs, width = grad.shape
    nodes = graph[0].numel() - 1
    with on_device(grad):
        common = _common(graph)
        parts, number = _parts(grad)
        partial = grad.new_empty(_SPLITS, nodes, width, dtype=torch.float32)
        shape = {**_SHAPE, "BLOCK_F": _feature_block(width), "PARTS": number}
        blocks = (triton.cdiv(nodes, shape["BLOCK_N"]), triton.cdiv(width, shape["BLOCK_F"]), _SPLITS)
        _transposed_kernel[blocks](common, parts, partial, pairs, nodes, common.size(1), width, grad.numel(), **shape)
    return partial.sum(0).to(grad.dtype)
