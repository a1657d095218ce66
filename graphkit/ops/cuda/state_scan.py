"""Linear and selective scans over packed sequences on a GPU.

A program takes a block of channels of one sequence and walks along it in tiles of tokens; a tile is scanned in parallel
and goes on from the state before it. Forward, the selective scan keeps the state before each tile, from which backward
makes the others anew: N / tile states of a sequence instead of N. The order of all additions depends on the shapes
alone: results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.cuda.launch import on_device

_TILE, _LINEAR_BLOCK, _SELECTIVE_BLOCK = 32, 32, 8


@triton.jit
def _append(decay, x, later_decay, later_x):
    """Two runs of tokens as one."""
    return decay * later_decay, x * later_decay + later_x


@triton.jit
def _linear_kernel(
    ptr, a, x, h, width, SHIFT: tl.constexpr, REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr
):
    """``SHIFT``: a token's decay is that of the token read before it, as a gradient's is; the first has none."""
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    lane = tl.arange(0, TILE)
    state = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, stop - start, TILE):
        rank = begin + lane
        token = stop - 1 - rank if REVERSE else start + rank
        inside = (rank < stop - start)[:, None] & (channel < width)[None, :]
        place = token[:, None] * width + channel[None, :]
        if SHIFT:
            before = token + 1 if REVERSE else token - 1
            known = inside & (rank > 0)[:, None]
            decay = tl.load(a + before[:, None] * width + channel[None, :], mask=known, other=0).to(tl.float32)
        else:
            decay = tl.load(a + place, mask=inside, other=0).to(tl.float32)
        entering = tl.load(x + place, mask=inside, other=0).to(tl.float32)
        run, found = tl.associative_scan((decay, entering), 0, _append)
        found += run * state[None, :]
        tl.store(h + place, found, mask=inside)
        # Tokens that are not there would set it to zero, but after them nothing comes.
        state = tl.sum(tl.where((lane == TILE - 1)[:, None], found, 0.0), 0)


def linear_scan(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool, shift: bool = False) -> Tensor:
    a, x, ptr = a.contiguous(), x.contiguous(), ptr.contiguous()
    h = torch.empty_like(x)
    if x.numel():
        grid = (ptr.numel() - 1, triton.cdiv(x.size(1), _LINEAR_BLOCK))
        with on_device(x):
            _linear_kernel[grid](
                ptr, a, x, h, x.size(1), SHIFT=shift, REVERSE=reverse, TILE=_TILE, BLOCK=_LINEAR_BLOCK
            )  # fmt: skip
    return h


def linear_scan_backward(grad: Tensor, a: Tensor, h: Tensor, ptr: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    to_x = linear_scan(a, grad, ptr, not reverse, shift=True)
    # A token's decay multiplies the state of the token before it, which a first token does not have.
    before = torch.zeros_like(h)
    if reverse:
        before[:-1] = h[1:]
    else:
        before[1:] = h[:-1]
    firsts = torch.where(ptr.diff() > 0, ptr[1:] - 1 if reverse else ptr[:-1], h.size(0))
    first = torch.zeros(h.size(0) + 1, dtype=torch.bool, device=h.device).index_fill_(0, firsts, True)[:-1]
    return (to_x * before.masked_fill_(first[:, None], 0)).to(a.dtype), to_x


@triton.jit
def _tile(
    x, dt, b, c, start, stop, begin, channel, number, width, size,
    REVERSE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """What a tile of tokens brings: places, inputs, step widths, what is written and read."""
    rank = begin + tl.arange(0, TILE)
    token = stop - 1 - rank if REVERSE else start + rank
    there = rank < stop - start
    inside = there[:, None] & (channel < width)[None, :]
    place = token[:, None] * width + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0).to(tl.float32)
    step = tl.load(dt + place, mask=inside, other=0).to(tl.float32)
    within = token[:, None] * size + number[None, :]
    known = there[:, None] & (number < size)[None, :]
    write = tl.load(b + within, mask=known, other=0).to(tl.float32)
    read = tl.load(c + within, mask=known, other=0).to(tl.float32)
    return place, inside, within, known, value, step, write, read


@triton.jit
def _selective_kernel(
    ptr, first, x, dt, a, b, c, skip, y, states, width, size,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, SIZE)
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    slot = tl.load(first + sequence)
    square = (channel < width)[:, None] & (number < size)[None, :]
    entry = channel[:, None] * size + number[None, :]
    rate = tl.load(a + entry, mask=square, other=0).to(tl.float32)
    direct = tl.load(skip + channel, mask=channel < width, other=0).to(tl.float32)
    state = tl.zeros([BLOCK, SIZE], tl.float32)
    for begin in range(0, stop - start, TILE):
        tl.store(states + slot * width * size + entry, state, mask=square)
        slot += 1
        place, inside, _, _, value, step, write, read = _tile(
            x, dt, b, c, start, stop, begin, channel, number, width, size, REVERSE, TILE
        )
        decay = tl.exp(step[:, :, None] * rate[None])
        entering = (step * value)[:, :, None] * write[:, None, :]
        run, h = tl.associative_scan((decay, entering), 0, _append)
        h += run * state[None]
        out = tl.sum(h * read[:, None, :], 2) + direct[None, :] * value
        tl.store(y + place, out, mask=inside)
        state = tl.sum(tl.where((tl.arange(0, TILE) == TILE - 1)[:, None, None], h, 0.0), 0)


@triton.jit
def _selective_backward_kernel(
    ptr, first, grad, x, dt, a, b, c, skip, states, to_x, to_dt, to_a, to_b, to_c, to_skip, tokens, width, size,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, SIZE)
    lane = tl.arange(0, TILE)
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    tiles = tl.cdiv(stop - start, TILE)
    slot = tl.load(first + sequence)
    square = (channel < width)[:, None] & (number < size)[None, :]
    entry = channel[:, None] * size + number[None, :]
    rate = tl.load(a + entry, mask=square, other=0).to(tl.float32)
    direct = tl.load(skip + channel, mask=channel < width, other=0).to(tl.float32)
    of_rate = tl.zeros([BLOCK, SIZE], tl.float32)
    of_direct = tl.zeros([BLOCK], tl.float32)
    flow = tl.zeros([BLOCK, SIZE], tl.float32)  # gradient of the last state of the tile, from the tokens after it
    for i in range(0, tiles):
        tile = tiles - 1 - i
        place, inside, within, known, value, step, write, read = _tile(
            x, dt, b, c, start, stop, tile * TILE, channel, number, width, size, REVERSE, TILE
        )
        state = tl.load(states + (slot + tile) * width * size + entry, mask=square, other=0)
        decay = tl.exp(step[:, :, None] * rate[None])
        entering = (step * value)[:, :, None] * write[:, None, :]
        run, h = tl.associative_scan((decay, entering), 0, _append)
        h += run * state[None]
        of_out = tl.load(grad + place, mask=inside, other=0).to(tl.float32)
        # What a state gives on is multiplied by the next token's decay; ``flow`` has been already.
        rank = tile * TILE + lane + 1
        following = stop - 1 - rank if REVERSE else start + rank
        more = (rank < stop - start)[:, None] & (lane < TILE - 1)[:, None] & (channel < width)[None, :]
        later = tl.load(dt + following[:, None] * width + channel[None, :], mask=more, other=0).to(tl.float32)
        later_decay = tl.exp(later[:, :, None] * rate[None])
        of_h = of_out[:, :, None] * read[:, None, :]
        run, of_h = tl.associative_scan((later_decay, of_h), 0, _append, reverse=True)
        of_h += run * flow[None]
        flow = tl.sum(tl.where((lane == 0)[:, None, None], of_h * decay, 0.0), 0)
        kept = h - entering
        of_value = tl.sum(of_h * write[:, None, :], 2)
        tl.store(to_x + place, of_value * step + direct[None, :] * of_out, mask=inside)
        tl.store(to_dt + place, tl.sum(of_h * kept * rate[None], 2) + of_value * value, mask=inside)
        of_rate += tl.sum(of_h * kept * step[:, :, None], 0)
        of_direct += tl.sum(value * of_out, 0)
        row = block * tokens * size + within
        tl.store(to_b + row, tl.sum(of_h * (step * value)[:, :, None], 1), mask=known)
        tl.store(to_c + row, tl.sum(h * of_out[:, :, None], 1), mask=known)
    tl.store(to_a + sequence * width * size + entry, of_rate, mask=square)
    tl.store(to_skip + sequence * width + channel, of_direct, mask=channel < width)


def _tiles(ptr: Tensor, tokens: int) -> tuple[Tensor, int]:
    """Each sequence's first tile, and how many there can be."""
    numbers = (ptr.diff() + _TILE - 1) // _TILE
    return torch.cat([ptr.new_zeros(1), numbers.cumsum(0)]), tokens // _TILE + ptr.numel() - 1


def _forward(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the states before the tiles, and each sequence's first tile."""
    (tokens, width), size = x.shape, a.size(1)
    first, most = _tiles(ptr, tokens)
    y = torch.empty_like(x)
    states = torch.empty(most, width, size, dtype=torch.float32, device=x.device)
    if x.numel() and size:
        grid = (ptr.numel() - 1, triton.cdiv(width, _SELECTIVE_BLOCK))
        blocks = {"TILE": _TILE, "BLOCK": _SELECTIVE_BLOCK, "SIZE": triton.next_power_of_2(size)}
        _selective_kernel[grid](
            ptr, first, x, dt, a, b, c, skip, y, states, width, size, REVERSE=reverse, **blocks
        )  # fmt: skip
    return y, states, first


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> Tensor:
    x, dt, a, b, c, skip, ptr = (t.contiguous() for t in (x, dt, a, b, c, skip, ptr))
    with on_device(x):
        return _forward(x, dt, a, b, c, skip, ptr, reverse)[0]


def selective_scan_backward(
    grad: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    ptr: Tensor,
    reverse: bool,
) -> list[Tensor]:
    grad, x, dt, a, b, c, skip, ptr = (t.contiguous() for t in (grad, x, dt, a, b, c, skip, ptr))
    (tokens, width), size, sequences = x.shape, a.size(1), ptr.numel() - 1
    if x.numel() == 0:
        return [torch.zeros_like(t) for t in (x, dt, a, b, c, skip)]
    blocks = triton.cdiv(width, _SELECTIVE_BLOCK)
    to_x, to_dt = torch.empty_like(x), torch.empty_like(dt)
    # Sums over channels and over sequences are made of these parts.
    to_b, to_c = (x.new_empty(blocks, tokens, size, dtype=torch.float32) for _ in range(2))
    to_a = x.new_zeros(sequences, width, size, dtype=torch.float32)
    to_skip = x.new_zeros(sequences, width, dtype=torch.float32)
    with on_device(x):
        _, states, first = _forward(x, dt, a, b, c, skip, ptr, reverse)
        inputs = (grad, x, dt, a, b, c, skip, states, to_x, to_dt, to_a, to_b, to_c, to_skip, tokens, width, size)
        shape = {"TILE": _TILE, "BLOCK": _SELECTIVE_BLOCK, "SIZE": triton.next_power_of_2(size)}
        _selective_backward_kernel[sequences, blocks](ptr, first, *inputs, REVERSE=reverse, **shape)
    summed = [part.sum(0).to(t.dtype) for part, t in ((to_a, a), (to_b, b), (to_c, c), (to_skip, skip))]
    return [to_x, to_dt, *summed]
