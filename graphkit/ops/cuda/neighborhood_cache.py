"""Neighbourhood caches on a GPU: writes and joins, without sorting and without waiting for the device.

A key's slot follows from its hash, so that a join is a few gathers an entry. Writes are chosen slot by slot: each row
finds the last offer that a slot takes among its own, rows of one owner agree by a maximum, and then every slot copies
what it takes; no two programs write to one place.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.neighborhood_cache import NUM_CODES, representatives

_TILE = 4096  # (offer, slot) pairs that a program compares at once
_GAMMA = tl.constexpr(-7046029254386353131)


@triton.jit
def _high(key):
    """The high half of a key's hash, see `graphkit.ops.neighborhood_cache.hash_slot`."""
    return ((key * _GAMMA) >> 32) & 4294967295


@triton.jit
def _mix(x):
    """SplitMix64's finaliser; masks make the shifts of a signed number logical."""
    x = (x ^ ((x >> 30) & 17179869183)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 137438953471)) * -7723592293110705685
    return x ^ ((x >> 31) & 8589934591)


@triton.jit
def _choose_kernel(
    held,
    stride,
    owner,
    first,
    source,
    offered,
    o_stride,
    stream,
    draw,
    winner,
    rows,
    LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The last offer that each slot of a row takes, into ``winner``, where rows of one owner meet.

    ``LIMIT`` is the probability of a replacement times 2**53, because a float argument would be single precision.
    """
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    own = tl.load(owner + r, mask=inside, other=0)
    group = tl.load(first + r, mask=inside, other=0)
    if source is None:
        row = r
    else:
        row = tl.load(source + r, mask=inside, other=0)
    random = tl.load(stream) + (tl.load(draw) + 1) * _GAMMA
    m = tl.arange(0, BLOCK_M)
    best = tl.full([ROWS, BLOCK_M], -1, tl.int32)
    for low in range(0, COUNT, BLOCK_J):
        j = low + tl.arange(0, BLOCK_J)
        there = inside[:, None] & (j < COUNT)[None, :]
        key = tl.load(offered + row[:, None] * o_stride + j[None, :], mask=there, other=-1)
        slot = (_high(key) * SIZE) >> 32
        old = tl.load(held + own[:, None] * stride + slot, mask=key >= 0, other=-1)
        place = r[:, None] * COUNT + j[None, :]
        drawn = (_mix(random + place * _GAMMA) >> 11) & 9007199254740991
        taken = (key >= 0) & ((old < 0) | (old == key) | (drawn < LIMIT))
        hit = taken[:, :, None] & (slot[:, :, None] == m[None, None, :])
        best = tl.maximum(best, tl.max(tl.where(hit, place.to(tl.int32)[:, :, None], -1), 1))
    there = inside[:, None] & (m < SIZE)[None, :] & (best >= 0)
    tl.atomic_max(winner + group[:, None] * SIZE + m[None, :], best, mask=there, sem="relaxed")


@triton.jit
def _write_kernel(
    key,
    e_id,
    t,
    rep,
    stride,
    rep_stride,
    owner,
    first,
    source,
    o_key,
    o_e_id,
    o_t,
    o_rep,
    o_stride,
    o_rep_stride,
    winner,
    rows,
    COUNT: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Each slot of each owner once, by the row that stands for the owner."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    mine = inside & (tl.load(first + r, mask=inside, other=-1) == r)
    own = tl.load(owner + r, mask=mine, other=0)
    m = tl.arange(0, BLOCK_M)
    there = mine[:, None] & (m < SIZE)[None, :]
    won = tl.load(winner + r[:, None] * SIZE + m[None, :], mask=there, other=-1)
    take = won >= 0
    row = (tl.maximum(won, 0) // COUNT).to(tl.int64)
    column = tl.maximum(won, 0) % COUNT
    if source is not None:
        row = tl.load(source + row, mask=take, other=0)
    to = own[:, None] * stride + m[None, :]
    place = row * o_stride + column
    tl.store(key + to, tl.load(o_key + place, mask=take, other=0), mask=take)
    tl.store(e_id + to, tl.load(o_e_id + place, mask=take, other=0), mask=take)
    tl.store(t + to, tl.load(o_t + place, mask=take, other=0), mask=take)
    f = tl.arange(0, BLOCK_F)[None, None, :]
    both = take[:, :, None] & (f < WIDTH)
    to = (own[:, None] * rep_stride + m[None, :] * WIDTH)[:, :, None] + f
    place = (row * o_rep_stride + column * WIDTH)[:, :, None] + f
    tl.store(rep + to, tl.load(o_rep + place, mask=both, other=0), mask=both)


@triton.jit
def _look_up(row, wanted, there, START: tl.constexpr, SIZE: tl.constexpr):
    """Whether the hop of one node whose columns begin at ``START`` holds each key."""
    column = START + ((_high(wanted) * SIZE) >> 32)
    return (tl.load(row + column, mask=there, other=-1) == wanted) & there


@triton.jit
def _histogram_kernel(
    key,
    stride,
    u,
    v,
    node,
    out,
    NEAR: tl.constexpr,
    FAR: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """One pair a program: the codes of both sides' entries, counted where no earlier hop holds the key."""
    p = tl.program_id(0).to(tl.int64)
    a = tl.load(u + p)
    b = tl.load(v + p)
    if node is None:
        node_a = a
        node_b = b
    else:
        node_a = tl.load(node + a)
        node_b = tl.load(node + b)
    row_a = key + a * stride
    row_b = key + b * stride
    i = tl.arange(0, BLOCK_L)
    hop = (i >= 1).to(tl.int32) + (i >= 1 + NEAR).to(tl.int32)
    bins = tl.arange(0, CODES)
    total = tl.zeros([CODES], tl.int32)
    for side in tl.static_range(2):
        if side == 0:
            wanted = tl.load(row_a + i, mask=(i > 0) & (i < 1 + NEAR + FAR), other=-1)
            wanted = tl.where(i == 0, node_a, wanted)
        else:
            wanted = tl.load(row_b + i, mask=(i > 0) & (i < 1 + NEAR + FAR), other=-1)
            wanted = tl.where(i == 0, node_b, wanted)
        there = wanted >= 0
        code = (wanted == node_a).to(tl.int32) | ((wanted == node_b).to(tl.int32) << 3)
        code |= _look_up(row_a, wanted, there, 1, NEAR).to(tl.int32) << 1
        code |= _look_up(row_b, wanted, there, 1, NEAR).to(tl.int32) << 4
        if FAR > 0:
            code |= _look_up(row_a, wanted, there, 1 + NEAR, FAR).to(tl.int32) << 2
            code |= _look_up(row_b, wanted, there, 1 + NEAR, FAR).to(tl.int32) << 5
        earlier = (1 << (3 * side + hop)) - 1
        code = tl.where(there & ((code & earlier) == 0), code, 0)
        total += tl.sum((code[:, None] == bins[None, :]).to(tl.int32), 0)
    # Entries that do not count have code 0, which no key has.
    tl.store(out + p * CODES + bins, tl.where(bins > 0, total, 0).to(tl.float32))


def insert(
    cache: tuple[Tensor, Tensor, Tensor, Tensor],
    owner: Tensor,
    offer: tuple[Tensor, Tensor, Tensor, Tensor],
    source: Tensor | None,
    alpha: float,
    stream: Tensor,
    draw: Tensor,
) -> None:
    rows, count, size, width = owner.numel(), offer[0].size(1), cache[0].size(1), cache[3].size(2)
    if rows * count >= 2**31:
        raise ValueError(f"owner and key must make less than 2**31 offers (got {rows} x {count})")
    o_key, o_e_id, o_t = offer[:3]
    # Columns of larger tables are read in place.
    if any(part.stride() != (o_key.stride(0), 1) for part in offer[:3]):
        o_key, o_e_id, o_t = (part.contiguous() for part in offer[:3])
    o_rep = offer[3] if offer[3].stride()[1:] == (width, 1) else offer[3].contiguous()
    owner, source = owner.contiguous(), None if source is None else source.contiguous()
    first = representatives(owner, cache[0].size(0))
    winner = torch.full((rows, size), -1, dtype=torch.int32, device=owner.device)
    block_m = triton.next_power_of_2(size)
    block_j = max(1, min(triton.next_power_of_2(count), _TILE // block_m))
    tall = max(1, min(_TILE // (block_j * block_m), 256))
    with torch.cuda.device_of(owner):
        _choose_kernel[(triton.cdiv(rows, tall),)](
            cache[0],
            cache[0].stride(0),
            owner,
            first,
            source,
            o_key,
            o_key.stride(0),
            stream,
            draw,
            winner,
            rows,
            LIMIT=math.ceil(alpha * 2**53),
            COUNT=count,
            SIZE=size,
            ROWS=tall,
            BLOCK_J=block_j,
            BLOCK_M=block_m,
            num_warps=4,
        )
        block_f = triton.next_power_of_2(width)
        tall = max(1, min(_TILE // 4 // (block_m * block_f), 256))
        _write_kernel[(triton.cdiv(rows, tall),)](
            *cache,
            cache[0].stride(0),
            cache[3].stride(0),
            owner,
            first,
            source,
            o_key,
            o_e_id,
            o_t,
            o_rep,
            o_key.stride(0),
            o_rep.stride(0),
            winner,
            rows,
            COUNT=count,
            SIZE=size,
            WIDTH=width,
            ROWS=tall,
            BLOCK_M=block_m,
            BLOCK_F=block_f,
            num_warps=4,
        )


def joint_histogram(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None) -> Tensor:
    u, v, node = u.contiguous(), v.contiguous(), None if node is None else node.contiguous()
    key = key if key.stride(1) == 1 else key.contiguous()
    out = torch.empty(u.numel(), NUM_CODES, device=key.device)
    if not u.numel():
        return out
    far = bounds[3] - bounds[2] if len(bounds) == 4 else 0
    with torch.cuda.device_of(key):
        _histogram_kernel[(u.numel(),)](
            key,
            key.stride(0),
            u,
            v,
            node,
            out,
            NEAR=bounds[2] - 1,
            FAR=far,
            CODES=NUM_CODES,
            BLOCK_L=triton.next_power_of_2(key.size(1)),
            num_warps=2,
        )
    return out
