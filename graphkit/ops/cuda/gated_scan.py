"""Gated linear attention over packed sequences on a GPU.

A sequence is cut into chunks. What each chunk writes to the memory is a product of matrices, for all chunks at once.
One pass over these, which multiplies by nothing but decays, turns them into the memories before the chunks (backward:
into the gradients of the memories after them). The rest is done for all chunks at once again: what tokens take from the
memory, and what they take from each other.

Decays are exponentials of differences of sums of gates that are never positive. Between two tokens of a chunk the
difference is split at a token between them, so that a product of matrices remains. Many pairs share such a token: in
binary, two places first differ at some bit, and the later one with zeros for all bits after it lies between them. For
each bit there is one product, of which the pairs are kept that differ there first: log2(chunk) products in place of an
exponential for each pair and channel.

O(N H d_k d_v) operations. The memories before the chunks are N / chunk times those of a sequence and made again for the
gradient; what tokens take from each other, O(N H chunk), is kept. Nothing waits for the device: a chunk's slot is found
from where its sequence begins, which leaves at most one slot free a sequence.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.cuda import LONGEST_CHUNK
from graphkit.ops.cuda.launch import on_device

_ENTRIES = 256


@triton.jit
def _owners(ptr, owner, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Whose chunk is in each slot: a sequence that begins at token p has its first in slot p // chunk + its number."""
    sequence = tl.program_id(0).to(tl.int64)
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    first = start // CHUNK + sequence
    for begin in range(first, stop // CHUNK + sequence + 1, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        mine = tl.where((slot - first) * CHUNK < stop - start, sequence, -1)
        tl.store(owner + slot, mine, mask=slot <= stop // CHUNK + sequence)


@triton.jit
def _find(ptr, owner, heads, CHUNK: tl.constexpr):
    """This program's chunk and head; the bounds of the sequence, if any, and the chunk's first rank there."""
    item = tl.program_id(0).to(tl.int64)
    chunk, head = item // heads, item % heads
    sequence = tl.load(owner + chunk)
    start = tl.load(ptr + sequence, mask=sequence >= 0, other=0)
    stop = tl.load(ptr + sequence + 1, mask=sequence >= 0, other=0)
    return chunk, head, start, stop, (chunk - start // CHUNK - sequence) * CHUNK


@triton.jit
def _tokens(start, stop, rank, REVERSE: tl.constexpr):
    """The tokens at these places of a sequence, and whether there are any."""
    token = stop - 1 - rank if REVERSE else start + rank
    return token, rank < stop - start


@triton.jit
def _last(start, stop, begin, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """The last token of a chunk."""
    rank = tl.minimum(stop - start, begin + CHUNK) - 1
    return stop - 1 - rank if REVERSE else start + rank


@triton.jit
def _rows(x, token, inside, head, heads, column, width):
    """``x[token, head, column]`` of ``[N, H, width]``; zero where there is no token or column."""
    place = x + (token[:, None] * heads + head) * width + column[None, :]
    return tl.load(place, mask=inside[:, None] & (column < width)[None, :], other=0).to(tl.float32)


@triton.jit
def _row(x, token, head, heads, column, width):
    """The same of one token."""
    return tl.load(x + (token * heads + head) * width + column, mask=column < width, other=0).to(tl.float32)


@triton.jit
def _matrix(x, chunk, head, heads, row, column, width, depth):
    """A block of ``x[chunk, head]`` of ``[chunks, H, width, depth]``."""
    place = x + (chunk * heads + head) * width * depth + row[:, None] * depth + column[None, :]
    return tl.load(place, mask=(row < width)[:, None] & (column < depth)[None, :], other=0)


@triton.jit
def _split(gate, own, start, stop, begin, bit, head, heads, column, width, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """Decays from each token to the place that splits those that differ first at ``bit``, or from there; and which
    pairs these are."""
    lane = tl.arange(0, CHUNK)
    token, there = _tokens(start, stop, begin + (((lane >> bit) | 1) << bit), REVERSE)
    fade = tl.exp(-tl.abs(own - _rows(gate, token, there, head, heads, column, width)))
    keep = ((lane[:, None] ^ lane[None, :]) >> bit == 1) & (lane[:, None] > lane[None, :])
    return fade, keep


@triton.jit
def _sum_gates(
    ptr, owner, g, gate, heads, width,
    REVERSE: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of the gates from the beginning of each chunk on."""
    _, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if stop > start:
        token, inside = _tokens(start, stop, begin + tl.arange(0, CHUNK), REVERSE)
        if WIDE:
            step = _rows(g, token, inside, head, heads, column, width)
        else:
            one = tl.load(g + token * heads + head, mask=inside, other=0).to(tl.float32)
            step = tl.broadcast_to(one[:, None], (CHUNK, BLOCK))
        place = gate + (token[:, None] * heads + head) * width + column[None, :]
        tl.store(place, tl.cumsum(step, 0), mask=inside[:, None] & (column < width)[None, :])


@triton.jit
def _write(
    ptr, owner, key, gate, value, states, scale, heads, width, depth,
    BACK: tl.constexpr, REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What each chunk adds to the memory after it. ``BACK``: to the gradient of the memory before it, with queries for
    keys and gradients of the outputs for values."""
    chunk, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    blocks = tl.cdiv(depth, BLOCK)
    row = tl.program_id(1) // blocks * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) % blocks * BLOCK + tl.arange(0, BLOCK)
    if stop > start:
        token, inside = _tokens(start, stop, begin + tl.arange(0, CHUNK), REVERSE)
        decay = _rows(gate, token, inside, head, heads, row, width)
        left = _rows(key, token, inside, head, heads, row, width)
        if BACK:
            left *= scale * tl.exp(decay)
        else:
            total = _row(gate, _last(start, stop, begin, CHUNK, REVERSE), head, heads, row, width)
            # Where there is no token, the row is zero and the exponent not positive.
            left *= tl.exp(total[None, :] - decay)
        right = _rows(value, token, inside, head, heads, column, depth)
        added = tl.dot(tl.trans(left).to(DOT), right.to(DOT), input_precision=PRECISION)
        place = states + (chunk * heads + head) * width * depth + row[:, None] * depth + column[None, :]
        tl.store(place, added, mask=(row < width)[:, None] & (column < depth)[None, :])


@triton.jit
def _pass(
    ptr, gate, begin, states, end, heads, width, depth,
    BACK: tl.constexpr, REVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Puts the memory before each chunk in the place of what the chunk adds; ``BACK``: from the last chunk on."""
    lane = tl.program_id(0).to(tl.int64)
    sequence, head = lane // heads, lane % heads
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < width * depth
    row = entry // depth
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    number = tl.cdiv(stop - start, CHUNK)
    first = start // CHUNK + sequence
    memory = tl.load(begin + lane * width * depth + entry, mask=inside, other=0).to(tl.float32)
    for i in tl.range(0, number, num_stages=AHEAD):
        chunk = number - 1 - i if BACK else i
        place = states + ((first + chunk) * heads + head) * width * depth + entry
        added = tl.load(place, mask=inside, other=0)
        last = _last(start, stop, chunk * CHUNK, CHUNK, REVERSE)
        total = tl.load(gate + (last * heads + head) * width + row, mask=inside, other=0)
        tl.store(place, memory, mask=inside)
        memory = memory * tl.exp(total) + added
    tl.store(end + lane * width * depth + entry, memory, mask=inside)


@triton.jit
def _score(
    ptr, owner, q, k, gate, scores, scale, heads, width,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, MOST: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """How much a token takes from those of its chunk up to itself, with room for the longest chunk."""
    _, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    if stop > start:
        lane = tl.arange(0, CHUNK)
        token, inside = _tokens(start, stop, begin + lane, REVERSE)
        total = tl.zeros([CHUNK, CHUNK], tl.float32)
        for first in range(0, width, BLOCK):
            column = first + tl.arange(0, BLOCK)
            query = _rows(q, token, inside, head, heads, column, width) * scale
            key = _rows(k, token, inside, head, heads, column, width)
            own = _rows(gate, token, inside, head, heads, column, width)
            total += tl.where(lane[:, None] == lane[None, :], tl.sum(query * key, 1)[:, None], 0.0)
            for bit in tl.range(0, BITS, num_stages=1):
                fade, keep = _split(gate, own, start, stop, begin, bit, head, heads, column, width, CHUNK, REVERSE)
                left, right = (query * fade).to(DOT), tl.trans((key * fade).to(DOT))
                total += tl.where(keep, tl.dot(left, right, input_precision=PRECISION), 0.0)
        place = scores + (token[:, None] * heads + head) * MOST + lane[None, :]
        tl.store(place, total, mask=inside[:, None])


@triton.jit
def _output(
    ptr, owner, q, gate, v, states, scores, out, scale, heads, width, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    if stop > start:
        lane = tl.arange(0, CHUNK)
        token, inside = _tokens(start, stop, begin + lane, REVERSE)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        value = _rows(v, token, inside, head, heads, column, depth)
        score = _rows(scores, token, inside, head, heads, lane, MOST).to(DOT)
        total = tl.dot(score, value.to(DOT), input_precision=PRECISION)
        for first in tl.range(0, width, BLOCK, num_stages=1):
            row = first + tl.arange(0, BLOCK)
            query = _rows(q, token, inside, head, heads, row, width) * scale
            query *= tl.exp(_rows(gate, token, inside, head, heads, row, width))
            memory = _matrix(states, chunk, head, heads, row, column, width, depth)
            total += tl.dot(query.to(DOT), memory.to(DOT), input_precision=PRECISION)
        place = out + (token[:, None] * heads + head) * depth + column[None, :]
        tl.store(place, total, mask=inside[:, None] & (column < depth)[None, :])


@triton.jit
def _gradients(
    ptr, owner, q, k, gate, v, grad, states, to_states, to_q, to_k, to_g, scale, heads, width, depth,
    REVERSE: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of queries, keys and gates; of one gate a head, for each block of columns the sum over it."""
    chunk, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if stop > start:
        lane = tl.arange(0, CHUNK)
        token, inside = _tokens(start, stop, begin + lane, REVERSE)
        of_score = tl.zeros([CHUNK, CHUNK], tl.float32)
        of_q = tl.zeros([CHUNK, BLOCK], tl.float32)
        of_k = tl.zeros([CHUNK, BLOCK], tl.float32)
        flow = tl.zeros([BLOCK], tl.float32)
        for first in tl.range(0, depth, BLOCK, num_stages=1):
            column = first + tl.arange(0, BLOCK)
            value = _rows(v, token, inside, head, heads, column, depth).to(DOT)
            of_out = _rows(grad, token, inside, head, heads, column, depth).to(DOT)
            memory = _matrix(states, chunk, head, heads, row, column, width, depth)
            to_memory = _matrix(to_states, chunk, head, heads, row, column, width, depth)
            flow += tl.sum(memory * to_memory, 1)
            of_score += tl.dot(of_out, tl.trans(value), input_precision=PRECISION)
            of_q += tl.dot(of_out, tl.trans(memory.to(DOT)), input_precision=PRECISION)
            of_k += tl.dot(value, tl.trans(to_memory.to(DOT)), input_precision=PRECISION)
        # By way of the memories. That after the chunk times its gradient: what was kept, and what was written.
        own = _rows(gate, token, inside, head, heads, row, width)
        total = _row(gate, _last(start, stop, begin, CHUNK, REVERSE), head, heads, row, width)
        query = _rows(q, token, inside, head, heads, row, width)
        key = _rows(k, token, inside, head, heads, row, width)
        of_q *= tl.exp(own) * scale
        of_k *= tl.exp(total[None, :] - own)
        flow = flow * tl.exp(total) + tl.sum(key * of_k, 0)
        # By way of the scores: a token's own, and those of the tokens before and after it.
        of_score *= scale
        same = tl.sum(tl.where(lane[:, None] == lane[None, :], of_score, 0.0), 1)
        of_q += same[:, None] * key
        of_k += same[:, None] * query
        for bit in tl.range(0, BITS, num_stages=1):
            fade, keep = _split(gate, own, start, stop, begin, bit, head, heads, row, width, CHUNK, REVERSE)
            part = tl.where(keep, of_score, 0.0).to(DOT)
            of_q += fade * tl.dot(part, (key * fade).to(DOT), input_precision=PRECISION)
            of_k += fade * tl.dot(tl.trans(part), (query * fade).to(DOT), input_precision=PRECISION)
        step = query * of_q - key * of_k
        of_g = flow[None, :] + tl.sum(step, 0)[None, :] - tl.cumsum(step, 0) + step
        place = (token[:, None] * heads + head) * width + row[None, :]
        known = inside[:, None] & (row < width)[None, :]
        tl.store(to_q + place, of_q, mask=known)
        tl.store(to_k + place, of_k, mask=known)
        if WIDE:
            tl.store(to_g + place, of_g, mask=known)
        else:
            place = to_g + (token * heads + head) * tl.num_programs(1) + tl.program_id(1)
            tl.store(place, tl.sum(tl.where(known, of_g, 0.0), 1), mask=inside)


@triton.jit
def _value_gradient(
    ptr, owner, k, gate, grad, to_states, scores, to_v, heads, width, depth,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head, start, stop, begin = _find(ptr, owner, heads, CHUNK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if stop > start:
        lane = tl.arange(0, CHUNK)
        token, inside = _tokens(start, stop, begin + lane, REVERSE)
        last = _last(start, stop, begin, CHUNK, REVERSE)
        score = _rows(scores, token, inside, head, heads, lane, MOST).to(DOT)
        of_out = _rows(grad, token, inside, head, heads, column, depth)
        total = tl.dot(tl.trans(score), of_out.to(DOT), input_precision=PRECISION)
        for first in tl.range(0, width, BLOCK, num_stages=1):
            row = first + tl.arange(0, BLOCK)
            key = _rows(k, token, inside, head, heads, row, width)
            end = _row(gate, last, head, heads, row, width)
            key *= tl.exp(end[None, :] - _rows(gate, token, inside, head, heads, row, width))
            to_memory = _matrix(to_states, chunk, head, heads, row, column, width, depth)
            total += tl.dot(key.to(DOT), to_memory.to(DOT), input_precision=PRECISION)
        place = to_v + (token[:, None] * heads + head) * depth + column[None, :]
        tl.store(place, total, mask=inside[:, None] & (column < depth)[None, :])


class _Plan:
    """The chunks of packed sequences, and launches over them."""

    def __init__(self, q: Tensor, v: Tensor, g: Tensor, ptr: Tensor, reverse: bool, scale: float) -> None:
        self.ptr, self.scale = ptr, scale
        self.sequences = ptr.numel() - 1
        (tokens, self.heads, self.width), self.depth = q.shape, v.size(2)
        mean = tokens // max(self.sequences, 1)
        self.chunk = min(LONGEST_CHUNK, max(16, triton.next_power_of_2(mean)))
        self.chunks = tokens // self.chunk + self.sequences  # slots: a sequence may leave its last one free
        self.owner = torch.empty(self.chunks, dtype=torch.int64, device=ptr.device)
        _owners[(self.sequences,)](ptr, self.owner, CHUNK=self.chunk, BLOCK=128)
        # Products in float32 are three of tf32, for which wider blocks would not fit into registers.
        most = 32 if v.dtype == torch.float32 else 64
        self.block = min(most, max(16, triton.next_power_of_2(max(self.width, self.depth))))
        self.blocks_k, self.blocks_v = (triton.cdiv(size, self.block) for size in (self.width, self.depth))
        # Scores are rounded to the type in which they are multiplied, as they are read.
        self.type = v.dtype
        dot = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[v.dtype]
        exact = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
        self.walk = {"REVERSE": reverse, "CHUNK": self.chunk}
        self.products = {**self.walk, "BLOCK": self.block, "DOT": dot, "PRECISION": exact}
        self.bits, self.most = {"BITS": self.chunk.bit_length() - 1}, {"MOST": LONGEST_CHUNK}
        self.wide = {"WIDE": g.size(2) == self.width}
        self.gate = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        arguments = (ptr, self.owner, g, self.gate, self.heads, self.width)
        _sum_gates[self.grid(self.blocks_k)](*arguments, BLOCK=self.block, **self.walk, **self.wide)

    def grid(self, blocks: int = 1) -> tuple[int, int]:
        return self.chunks * self.heads, blocks

    def memories(self, key: Tensor, value: Tensor, begin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
        """Those before all chunks, and that after the sequence."""
        shape = (self.chunks, self.heads, self.width, self.depth)
        states, end = torch.empty(shape, dtype=torch.float32, device=key.device), torch.empty_like(begin)
        sizes = (self.heads, self.width, self.depth)
        inputs = (self.ptr, self.owner, key, self.gate, value, states, self.scale, *sizes)
        _write[self.grid(self.blocks_k * self.blocks_v)](*inputs, BACK=back, **self.products)
        grid = (self.sequences * self.heads, triton.cdiv(self.width * self.depth, _ENTRIES))
        how = {"BACK": back, "BLOCK": _ENTRIES, "AHEAD": 6, "num_warps": 2}
        _pass[grid](self.ptr, self.gate, begin, states, end, *sizes, **how, **self.walk)
        return states, end

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        scores = torch.empty(*q.shape[:2], LONGEST_CHUNK, dtype=self.type, device=q.device)
        inputs = (self.ptr, self.owner, q, k, self.gate, scores, self.scale, self.heads, self.width)
        _score[self.grid()](*inputs, **self.bits, **self.most, **self.products)
        return scores


def gla_scan(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the memory after the sequence, and the scores ``[N, H, 64]``, which the gradient reads again."""
    q, k, v, g, state, ptr = (t.contiguous() for t in (q, k, v, g, state, ptr))
    out = torch.empty_like(v)
    if v.numel() == 0 or q.numel() == 0:
        return out.zero_(), state.clone(), v.new_zeros(*v.shape[:2], LONGEST_CHUNK)
    with on_device(q):
        plan = _Plan(q, v, g, ptr, reverse, scale)
        states, end = plan.memories(k, v, state, back=False)
        scores = plan.score(q, k)
        inputs = (ptr, plan.owner, q, plan.gate, v, states, scores, out, scale, plan.heads, plan.width, plan.depth)
        _output[plan.grid(plan.blocks_v)](*inputs, **plan.most, **plan.products)
    return out, end, scores


def gla_scan_backward(
    grad: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor,
    scores: Tensor,
    scale: float,
    ptr: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (grad, grad_state, q, k, v, g, state, scores, ptr)
    grad, grad_state, q, k, v, g, state, scores, ptr = (t.contiguous() for t in tensors)
    to_q, to_k, to_v = (torch.empty_like(t) for t in (q, k, v))
    if v.numel() == 0 or q.numel() == 0:
        return to_q.zero_(), to_k.zero_(), to_v.zero_(), torch.zeros_like(g), grad_state.clone()
    with on_device(q):
        plan = _Plan(q, v, g, ptr, reverse, scale)
        sizes = (plan.heads, plan.width, plan.depth)
        to_states, to_state = plan.memories(q, grad, grad_state, back=True)
        inputs = (ptr, plan.owner, k, plan.gate, grad, to_states, scores, to_v)
        _value_gradient[plan.grid(plan.blocks_v)](*inputs, *sizes, **plan.most, **plan.products)
        states, _ = plan.memories(k, v, state, back=False)
        # One gate a head has the sum over its channels, of which each program has a part.
        wide = plan.wide["WIDE"]
        to_g = torch.empty_like(g) if wide else torch.empty(*g.shape[:2], plan.blocks_k, device=g.device)
        through = (ptr, plan.owner, q, k, plan.gate, v, grad, states, to_states, to_q, to_k, to_g)
        many = {"num_warps": 8 if plan.chunk > 16 else 4}  # it holds matrices of the chunk's size
        _gradients[plan.grid(plan.blocks_k)](*through, scale, *sizes, **plan.bits, **plan.wide, **plan.products, **many)
    return to_q, to_k, to_v, to_g if wide else to_g.sum(2, keepdim=True).to(g.dtype), to_state.to(state.dtype)
