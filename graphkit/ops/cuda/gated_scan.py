"""Gated linear attention over packed sequences on a GPU.

A sequence is cut into chunks. One program for each head and block of its memory walks from chunk to chunk and writes
down the memory before each (backward: the gradient of the memory after each). All else is done for all chunks at once,
as products of matrices: what tokens take from the memory, and what they take from each other. Decays are exponentials
of differences of sums of gates that are never positive: within a chunk the sums are taken at the first or last token of
a tile of 16, and between the tokens of one tile directly.

O(N H d_k d_v) operations; the memories before the chunks are N / chunk times those of a sequence. Nothing waits for the
device: the number of chunks is bounded by what the shapes tell.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.cuda.launch import on_device

_CHUNK, _TILE, _BLOCK = 64, 16, 64


@triton.jit
def _tokens(ptr, sequence, rank, REVERSE: tl.constexpr):
    """The tokens at these places of a sequence, and whether there are any."""
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    token = stop - 1 - rank if REVERSE else start + rank
    return token, rank < stop - start


@triton.jit
def _rows(x, token, inside, head, heads, column, width):
    """``x[token, head, column]`` of ``[N, H, width]``; zero where there is no token or column."""
    place = x + (token[:, None] * heads + head) * width + column[None, :]
    return tl.load(place, mask=inside[:, None] & (column < width)[None, :], other=0).to(tl.float32)


@triton.jit
def _row(x, token, inside, head, heads, column, width):
    """The same of one token."""
    return tl.load(x + (token * heads + head) * width + column, mask=inside & (column < width), other=0).to(tl.float32)


@triton.jit
def _sum_gates(
    ptr, owner, first, g, gate, sequences, heads, width,
    REVERSE: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of the gates from the beginning of each chunk on."""
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        rank = (chunk - tl.load(first + sequence)) * CHUNK + tl.arange(0, CHUNK)
        token, inside = _tokens(ptr, sequence, rank, REVERSE)
        if WIDE:
            step = _rows(g, token, inside, head, heads, column, width)
        else:
            one = tl.load(g + token * heads + head, mask=inside, other=0).to(tl.float32)
            step = tl.broadcast_to(one[:, None], (CHUNK, BLOCK))
        place = gate + (token[:, None] * heads + head) * width + column[None, :]
        tl.store(place, tl.cumsum(step, 0), mask=inside[:, None] & (column < width)[None, :])


@triton.jit
def _walk(
    ptr, first, key, gate, value, begin, states, end, scale, heads, width, depth,
    BACK: tl.constexpr, REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Memories before all chunks and at the end of the sequence. ``BACK``: of the gradient of the memory, from the last
    chunk to the first, with queries for keys and gradients of the outputs for values."""
    lane = tl.program_id(0).to(tl.int64)
    sequence, head = lane // heads, lane % heads
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside_state = (row < width)[:, None] & (column < depth)[None, :]
    within = row[:, None] * depth + column[None, :]
    memory = tl.load(begin + lane * width * depth + within, mask=inside_state, other=0).to(tl.float32)
    length = tl.load(ptr + sequence + 1) - tl.load(ptr + sequence)
    number = tl.cdiv(length, CHUNK)
    base = tl.load(first + sequence)
    for i in range(0, number):
        chunk = number - 1 - i if BACK else i
        tl.store(states + ((base + chunk) * heads + head) * width * depth + within, memory, mask=inside_state)
        token, inside = _tokens(ptr, sequence, chunk * CHUNK + tl.arange(0, CHUNK), REVERSE)
        last, _ = _tokens(ptr, sequence, tl.minimum(length, (chunk + 1) * CHUNK) - 1, REVERSE)
        total = _row(gate, last, last >= 0, head, heads, row, width)
        decay = _rows(gate, token, inside, head, heads, row, width)
        left = _rows(key, token, inside, head, heads, row, width)
        # Where there is no token, the row is zero and the exponent not positive.
        left = left * scale * tl.exp(decay) if BACK else left * tl.exp(total[None, :] - decay)
        right = _rows(value, token, inside, head, heads, column, depth)
        memory = memory * tl.exp(total)[:, None]
        memory += tl.dot(tl.trans(left).to(DOT), right.to(DOT), input_precision=PRECISION)
    tl.store(end + lane * width * depth + within, memory, mask=inside_state)


@triton.jit
def _score(
    ptr, owner, first, q, k, gate, scores, sequences, scale, heads, width,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """How much the tokens of a chunk take from those before, and from themselves, in tiles."""
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(2)
    tiles: tl.constexpr = CHUNK // TILE
    down, across = tl.program_id(1) // tiles, tl.program_id(1) % tiles
    sequence = tl.load(owner + chunk)
    if (sequence < sequences) & (across <= down):
        begin = (chunk - tl.load(first + sequence)) * CHUNK
        lane = tl.arange(0, TILE)
        token, inside = _tokens(ptr, sequence, begin + down * TILE + lane, REVERSE)
        other, there = _tokens(ptr, sequence, begin + across * TILE + lane, REVERSE)
        middle, some = _tokens(ptr, sequence, begin + down * TILE, REVERSE)
        total = tl.zeros([TILE, TILE], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            query = _rows(q, token, inside, head, heads, column, width) * scale
            own = _rows(gate, token, inside, head, heads, column, width)
            if across < down:
                at = _row(gate, middle, some, head, heads, column, width)
                left = query * tl.exp(tl.where(inside[:, None], own - at[None, :], 0))
                right = _rows(k, other, there, head, heads, column, width)
                right *= tl.exp(at[None, :] - _rows(gate, other, there, head, heads, column, width))
                total += tl.dot(left.to(DOT), tl.trans(right).to(DOT), input_precision=PRECISION)
            else:
                for j in range(0, TILE):
                    one, is_there = _tokens(ptr, sequence, begin + across * TILE + j, REVERSE)
                    key = _row(k, one, is_there, head, heads, column, width)
                    at = _row(gate, one, is_there, head, heads, column, width)
                    later = (inside & (lane >= j))[:, None]
                    weight = tl.exp(tl.where(later, own - at[None, :], -float("inf")))
                    found = tl.sum(query * key[None, :] * weight, 1)
                    total += tl.where(lane[None, :] == j, found[:, None], 0.0)
        place = (chunk * heads + head) * CHUNK * CHUNK
        place += (down * TILE + lane)[:, None] * CHUNK + (across * TILE + lane)[None, :]
        tl.store(scores + place, total)


@triton.jit
def _lower(scores, chunk, head, heads, inside, CHUNK: tl.constexpr):
    """The scores of a chunk; zero for later tokens and where there is none."""
    lane = tl.arange(0, CHUNK)
    place = (chunk * heads + head) * CHUNK * CHUNK + lane[:, None] * CHUNK + lane[None, :]
    keep = (lane[:, None] >= lane[None, :]) & inside[:, None]
    return tl.load(scores + place, mask=keep, other=0)


@triton.jit
def _output(
    ptr, owner, first, q, gate, v, states, scores, out, sequences, scale, heads, width, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(2)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        rank = (chunk - tl.load(first + sequence)) * CHUNK + tl.arange(0, CHUNK)
        token, inside = _tokens(ptr, sequence, rank, REVERSE)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        value = _rows(v, token, inside, head, heads, column, depth)
        score = _lower(scores, chunk, head, heads, inside, CHUNK)
        total = tl.dot(score.to(DOT), value.to(DOT), input_precision=PRECISION)
        for start in range(0, width, BLOCK):
            row = start + tl.arange(0, BLOCK)
            query = _rows(q, token, inside, head, heads, row, width) * scale
            query *= tl.exp(_rows(gate, token, inside, head, heads, row, width))
            place = (chunk * heads + head) * width * depth + row[:, None] * depth + column[None, :]
            known = (row < width)[:, None] & (column < depth)[None, :]
            memory = tl.load(states + place, mask=known, other=0)
            total += tl.dot(query.to(DOT), memory.to(DOT), input_precision=PRECISION)
        place = out + (token[:, None] * heads + head) * depth + column[None, :]
        tl.store(place, total, mask=inside[:, None] & (column < depth)[None, :])


@triton.jit
def _score_gradient(
    ptr, owner, first, grad, v, to_scores, sequences, heads, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        lane = tl.arange(0, CHUNK)
        rank = (chunk - tl.load(first + sequence)) * CHUNK + lane
        token, inside = _tokens(ptr, sequence, rank, REVERSE)
        total = tl.zeros([CHUNK, CHUNK], tl.float32)
        for start in range(0, depth, BLOCK):
            column = start + tl.arange(0, BLOCK)
            left = _rows(grad, token, inside, head, heads, column, depth)
            right = _rows(v, token, inside, head, heads, column, depth)
            total += tl.dot(left.to(DOT), tl.trans(right).to(DOT), input_precision=PRECISION)
        place = (chunk * heads + head) * CHUNK * CHUNK + lane[:, None] * CHUNK + lane[None, :]
        tl.store(to_scores + place, total)


@triton.jit
def _within(
    ptr, owner, first, q, k, gate, to_scores, to_q, to_k, sequences, scale, heads, width,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What the queries and keys of a tile get from the scores of their chunk."""
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(2)
    tiles: tl.constexpr = CHUNK // TILE
    tile = tl.program_id(1) % tiles
    column = tl.program_id(1) // tiles * BLOCK + tl.arange(0, BLOCK)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        begin = (chunk - tl.load(first + sequence)) * CHUNK
        length = tl.load(ptr + sequence + 1) - tl.load(ptr + sequence)
        lane = tl.arange(0, TILE)
        token, inside = _tokens(ptr, sequence, begin + tile * TILE + lane, REVERSE)
        own = _rows(gate, token, inside, head, heads, column, width)
        block = to_scores + (chunk * heads + head) * CHUNK * CHUNK
        mine = tile * TILE + lane
        # Queries: from the tiles before, by way of this tile's first token.
        middle, some = _tokens(ptr, sequence, begin + tile * TILE, REVERSE)
        at = _row(gate, middle, some, head, heads, column, width)
        of_q = tl.zeros([TILE, BLOCK], tl.float32)
        for before in range(0, tile):
            other, there = _tokens(ptr, sequence, begin + before * TILE + lane, REVERSE)
            score = tl.load(block + mine[:, None] * CHUNK + (before * TILE + lane)[None, :])
            key = _rows(k, other, there, head, heads, column, width)
            key *= tl.exp(at[None, :] - _rows(gate, other, there, head, heads, column, width))
            of_q += tl.dot(score.to(DOT), key.to(DOT), input_precision=PRECISION)
        of_q *= tl.exp(tl.where(inside[:, None], own - at[None, :], 0))
        # Keys: from the tiles after, by way of this tile's last token, which is there if they are.
        middle, some = _tokens(ptr, sequence, begin + tile * TILE + TILE - 1, REVERSE)
        at = _row(gate, middle, some, head, heads, column, width)
        of_k = tl.zeros([TILE, BLOCK], tl.float32)
        for after in range(tile + 1, tiles):
            if begin + after * TILE < length:
                other, there = _tokens(ptr, sequence, begin + after * TILE + lane, REVERSE)
                score = tl.load(block + (after * TILE + lane)[:, None] * CHUNK + mine[None, :])
                query = _rows(q, other, there, head, heads, column, width)
                theirs = _rows(gate, other, there, head, heads, column, width)
                query *= tl.exp(tl.where(there[:, None], theirs - at[None, :], 0))
                of_k += tl.dot(tl.trans(score).to(DOT), query.to(DOT), input_precision=PRECISION)
        of_k *= tl.exp(tl.where(inside[:, None] & some, at[None, :] - own, 0))
        # Both: from the tile itself.
        for j in range(0, TILE):
            one, is_there = _tokens(ptr, sequence, begin + tile * TILE + j, REVERSE)
            at = _row(gate, one, is_there, head, heads, column, width)
            later, earlier = inside & (lane >= j), is_there & (lane <= j)
            score = tl.load(block + mine * CHUNK + tile * TILE + j, mask=later, other=0)
            key = _row(k, one, is_there, head, heads, column, width)
            weight = tl.exp(tl.where(later[:, None], own - at[None, :], -float("inf")))
            of_q += score[:, None] * key[None, :] * weight
            score = tl.load(block + (tile * TILE + j) * CHUNK + mine, mask=earlier, other=0)
            query = _row(q, one, is_there, head, heads, column, width)
            weight = tl.exp(tl.where(earlier[:, None], at[None, :] - own, -float("inf")))
            of_k += score[:, None] * query[None, :] * weight
        place = (token[:, None] * heads + head) * width + column[None, :]
        known = inside[:, None] & (column < width)[None, :]
        tl.store(to_q + place, of_q * scale, mask=known)
        tl.store(to_k + place, of_k * scale, mask=known)


@triton.jit
def _between(
    ptr, owner, first, q, k, gate, v, grad, states, to_states, to_q, to_k, to_g, sequences, scale, heads, width, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what queries and keys get by way of the memories, and writes the gates' gradients."""
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(2)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        begin = (chunk - tl.load(first + sequence)) * CHUNK
        length = tl.load(ptr + sequence + 1) - tl.load(ptr + sequence)
        token, inside = _tokens(ptr, sequence, begin + tl.arange(0, CHUNK), REVERSE)
        last, _ = _tokens(ptr, sequence, tl.minimum(length, begin + CHUNK) - 1, REVERSE)
        of_q = tl.zeros([CHUNK, BLOCK], tl.float32)
        of_k = tl.zeros([CHUNK, BLOCK], tl.float32)
        flow = tl.zeros([BLOCK], tl.float32)
        for start in range(0, depth, BLOCK):
            column = start + tl.arange(0, BLOCK)
            place = (chunk * heads + head) * width * depth + row[:, None] * depth + column[None, :]
            known = (row < width)[:, None] & (column < depth)[None, :]
            memory = tl.load(states + place, mask=known, other=0)
            to_memory = tl.load(to_states + place, mask=known, other=0)
            value = _rows(v, token, inside, head, heads, column, depth)
            of_out = _rows(grad, token, inside, head, heads, column, depth)
            of_q += tl.dot(of_out.to(DOT), tl.trans(memory).to(DOT), input_precision=PRECISION)
            of_k += tl.dot(value.to(DOT), tl.trans(to_memory).to(DOT), input_precision=PRECISION)
            flow += tl.sum(memory * to_memory, 1)
        own = _rows(gate, token, inside, head, heads, row, width)
        total = _row(gate, last, last >= 0, head, heads, row, width)
        query = _rows(q, token, inside, head, heads, row, width)
        key = _rows(k, token, inside, head, heads, row, width)
        of_q *= tl.exp(own) * scale
        of_k *= tl.exp(total[None, :] - own)
        # The memory after the chunk times its gradient: what was kept, and what was written.
        flow = flow * tl.exp(total) + tl.sum(key * of_k, 0)
        of_q += _rows(to_q, token, inside, head, heads, row, width)
        of_k += _rows(to_k, token, inside, head, heads, row, width)
        step = query * of_q - key * of_k
        of_g = flow[None, :] + tl.sum(step, 0)[None, :] - tl.cumsum(step, 0) + step
        place = (token[:, None] * heads + head) * width + row[None, :]
        known = inside[:, None] & (row < width)[None, :]
        tl.store(to_q + place, of_q, mask=known)
        tl.store(to_k + place, of_k, mask=known)
        tl.store(to_g + place, of_g, mask=known)


@triton.jit
def _value_gradient(
    ptr, owner, first, k, gate, grad, to_states, scores, to_v, sequences, heads, width, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(2)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sequence = tl.load(owner + chunk)
    if sequence < sequences:
        begin = (chunk - tl.load(first + sequence)) * CHUNK
        length = tl.load(ptr + sequence + 1) - tl.load(ptr + sequence)
        token, inside = _tokens(ptr, sequence, begin + tl.arange(0, CHUNK), REVERSE)
        last, _ = _tokens(ptr, sequence, tl.minimum(length, begin + CHUNK) - 1, REVERSE)
        score = _lower(scores, chunk, head, heads, inside, CHUNK)
        of_out = _rows(grad, token, inside, head, heads, column, depth)
        total = tl.dot(tl.trans(score).to(DOT), of_out.to(DOT), input_precision=PRECISION)
        for start in range(0, width, BLOCK):
            row = start + tl.arange(0, BLOCK)
            key = _rows(k, token, inside, head, heads, row, width)
            end = _row(gate, last, last >= 0, head, heads, row, width)
            key *= tl.exp(end[None, :] - _rows(gate, token, inside, head, heads, row, width))
            place = (chunk * heads + head) * width * depth + row[:, None] * depth + column[None, :]
            known = (row < width)[:, None] & (column < depth)[None, :]
            to_memory = tl.load(to_states + place, mask=known, other=0)
            total += tl.dot(key.to(DOT), to_memory.to(DOT), input_precision=PRECISION)
        place = to_v + (token[:, None] * heads + head) * depth + column[None, :]
        tl.store(place, total, mask=inside[:, None] & (column < depth)[None, :])


class _Plan:
    """The chunks of packed sequences, and launches over them."""

    def __init__(self, q: Tensor, v: Tensor, ptr: Tensor, reverse: bool, scale: float) -> None:
        self.ptr, self.scale = ptr, scale
        self.sequences = ptr.numel() - 1
        (tokens, self.heads, self.width), self.depth = q.shape, v.size(2)
        mean = tokens // max(self.sequences, 1)
        self.chunk = min(_CHUNK, max(_TILE, triton.next_power_of_2(mean)))
        numbers = (ptr.diff() + self.chunk - 1) // self.chunk
        self.first = torch.cat([ptr.new_zeros(1), numbers.cumsum(0)])
        # As many as there can be; those beyond the last one have no owner.
        self.chunks = tokens // self.chunk + self.sequences
        places = torch.arange(self.chunks, device=ptr.device)
        self.owner = torch.searchsorted(self.first, places, right=True) - 1
        widest = max(self.width, self.depth)
        self.block = min(_BLOCK, max(16, triton.next_power_of_2(widest)))
        self.dot = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[v.dtype]
        exact = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
        self.options = {"REVERSE": reverse, "CHUNK": self.chunk, "BLOCK": self.block}
        self.products = {**self.options, "DOT": self.dot, "PRECISION": exact}
        self.blocks_k, self.blocks_v = (triton.cdiv(size, self.block) for size in (self.width, self.depth))
        self.where = (ptr, self.first)
        self.chunked = (ptr, self.owner, self.first)

    def new(self, like: Tensor, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=like.device)

    def sum_gates(self, g: Tensor) -> Tensor:
        gate = self.new(g, g.size(0), self.heads, self.width)
        grid = (self.chunks, self.heads, self.blocks_k)
        wide = g.size(2) == self.width
        _sum_gates[grid](
            *self.chunked, g, gate, self.sequences, self.heads, self.width, WIDE=wide, **self.options
        )  # fmt: skip
        return gate

    def walk(self, key: Tensor, gate: Tensor, value: Tensor, begin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
        states = self.new(key, self.chunks, self.heads, self.width, self.depth)
        end = self.new(key, *begin.shape)
        grid = (self.sequences * self.heads, self.blocks_k, self.blocks_v)
        sizes = (self.scale, self.heads, self.width, self.depth)
        _walk[grid](*self.where, key, gate, value, begin, states, end, *sizes, BACK=back, **self.products)
        return states, end

    def score(self, q: Tensor, k: Tensor, gate: Tensor) -> Tensor:
        scores = self.new(q, self.chunks, self.heads, self.chunk, self.chunk)
        grid = (self.chunks, (self.chunk // _TILE) ** 2, self.heads)
        sizes = (self.sequences, self.scale, self.heads, self.width)
        _score[grid](*self.chunked, q, k, gate, scores, *sizes, TILE=_TILE, **self.products)
        return scores


def gla_scan(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    q, k, v, g, state, ptr = (t.contiguous() for t in (q, k, v, g, state, ptr))
    out = torch.empty_like(v)
    if v.numel() == 0 or q.numel() == 0:
        return out.zero_(), state.clone()
    with on_device(q):
        plan = _Plan(q, v, ptr, reverse, scale)
        gate = plan.sum_gates(g)
        states, end = plan.walk(k, gate, v, state, back=False)
        scores = plan.score(q, k, gate)
        grid = (plan.chunks, plan.blocks_v, plan.heads)
        sizes = (plan.sequences, scale, plan.heads, plan.width, plan.depth)
        _output[grid](*plan.chunked, q, gate, v, states, scores, out, *sizes, **plan.products)
    return out, end.to(state.dtype)


def gla_scan_backward(
    grad: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor,
    scale: float,
    ptr: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (grad, grad_state, q, k, v, g, state, ptr)
    grad, grad_state, q, k, v, g, state, ptr = (t.contiguous() for t in tensors)
    if v.numel() == 0 or q.numel() == 0:
        zeros = [torch.zeros_like(t) for t in (q, k, v, g)]
        return *zeros, grad_state.clone()  # type: ignore[return-value]
    with on_device(q):
        plan = _Plan(q, v, ptr, reverse, scale)
        sequences, heads, width, depth = plan.sequences, plan.heads, plan.width, plan.depth
        gate = plan.sum_gates(g)
        states, _ = plan.walk(k, gate, v, state, back=False)
        to_states, to_state = plan.walk(q, gate, grad, grad_state, back=True)
        of_scores = plan.new(q, plan.chunks, heads, plan.chunk, plan.chunk)
        _score_gradient[plan.chunks, heads](
            *plan.chunked, grad, v, of_scores, sequences, heads, depth, **plan.products
        )  # fmt: skip
        to_q, to_k, to_g = (plan.new(q, *q.shape) for _ in range(3))
        sizes = (sequences, scale, heads, width)
        _within[plan.chunks, plan.blocks_k * (plan.chunk // _TILE), heads](
            *plan.chunked, q, k, gate, of_scores, to_q, to_k, *sizes, TILE=_TILE, **plan.products
        )
        through = (q, k, gate, v, grad, states, to_states, to_q, to_k, to_g)
        _between[plan.chunks, plan.blocks_k, heads](*plan.chunked, *through, *sizes, depth, **plan.products)
        scores, to_v = plan.score(q, k, gate), torch.empty_like(v)
        _value_gradient[plan.chunks, plan.blocks_v, heads](
            *plan.chunked, k, gate, grad, to_states, scores, to_v, sequences, heads, width, depth, **plan.products
        )
    if g.size(2) != width:
        to_g = to_g.sum(2, keepdim=True)
    return to_q.to(q.dtype), to_k.to(k.dtype), to_v, to_g.to(g.dtype), to_state.to(state.dtype)
