"""WKV and integrate-and-fire neurons over packed sequences on a GPU.

A program takes a block of channels of one sequence and walks along it with the state in registers. WKV is associative:
tiles of tokens are scanned in parallel, as in ``state_scan``. Nothing is kept from forward to backward, which makes the
sums before each tile anew, 3 / tile numbers a token and channel, and from these the others. Resets are not associative:
neurons take a token a time, while those after it are on their way from memory; backward reads the potentials that
forward gives out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.cuda.launch import on_device

_TILE, _SUM_BLOCK, _NEURON_BLOCK = 32, 16, 64
_NONE = tl.constexpr(-1e30)  # exponent of empty sums; infinity would give nan, subtracted from itself


@triton.jit
def _weights(one, two):
    """The larger exponent, and both exponentials divided by its: the larger's is 1, so one of them is computed."""
    less = tl.exp(-tl.abs(one - two))
    return tl.maximum(one, two), tl.where(one >= two, 1.0, less), tl.where(one >= two, less, 1.0)


@triton.jit
def _join(p, q, o, age, later_p, later_q, later_o, later_age):
    """The sums of two runs of tokens together, and how much they fade over both."""
    most, left, right = _weights(o - later_age, later_o)
    return left * p + right * later_p, left * q + right * later_q, most, age + later_age


@triton.jit
def _channels(rows, token, there, channel, width):
    """``rows[token, channel]``; zero where there is no token or channel."""
    known = there[:, None] & (channel < width)[None, :]
    return tl.load(rows + token[:, None] * width + channel[None, :], mask=known, other=0).to(tl.float32)


@triton.jit
def _sums(k, v, start, begin, there, channel, width, w, p, q, o, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Sums before each token of a tile: those before the tile, and all tokens but the last."""
    lane = tl.arange(0, TILE)
    before = there & (lane > 0)
    first = (lane == 0)[:, None]
    key = _channels(k, start + begin + lane - 1, before, channel, width)
    value = _channels(v, start + begin + lane - 1, before, channel, width)
    age = tl.broadcast_to(w[None, :], (TILE, BLOCK))
    one = tl.where(first, q[None, :], 1.0)
    run = (tl.where(first, p[None, :], value), one, tl.where(first, o[None, :], key), age)
    p, q, o, _ = tl.associative_scan(run, 0, _join)
    return p, q, o


@triton.jit
def _wkv_kernel(
    ptr, k, v, w, u, state, y, end, befores, width, TILE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < width
    start = tl.load(ptr + sequence)
    length = tl.load(ptr + sequence + 1) - start
    fade = tl.load(w + channel, mask=inside, other=0).to(tl.float32)
    bonus = tl.load(u + channel, mask=inside, other=0).to(tl.float32)
    row = sequence * 3 * width + channel
    p = tl.load(state + row, mask=inside, other=0).to(tl.float32)
    q = tl.load(state + row + width, mask=inside, other=0).to(tl.float32)
    o = tl.load(state + row + 2 * width, mask=inside, other=0).to(tl.float32)
    lane = tl.arange(0, TILE)
    slot = start // TILE + sequence
    for begin in range(0, length, TILE):
        place = befores + slot * 3 * width + channel
        tl.store(place, p, mask=inside)
        tl.store(place + width, q, mask=inside)
        tl.store(place + 2 * width, o, mask=inside)
        slot += 1
        there = begin + lane < length
        token = start + begin + lane
        key = _channels(k, token, there, channel, width)
        value = _channels(v, token, there, channel, width)
        ps, qs, os = _sums(k, v, start, begin, there, channel, width, fade, p, q, o, TILE, BLOCK)
        _, past, now = _weights(os, bonus[None, :] + key)
        out = (past * ps + now * value) / (past * qs + now)
        tl.store(y + token[:, None] * width + channel[None, :], out, mask=there[:, None] & inside[None, :])
        ps, qs, os, _ = _join(ps, qs, os, 0.0, value, 1.0, key, fade[None, :])
        last = (lane == tl.minimum(length - begin, TILE) - 1)[:, None]
        p, q, o = (
            tl.sum(tl.where(last, ps, 0.0), 0),
            tl.sum(tl.where(last, qs, 0.0), 0),
            tl.sum(tl.where(last, os, 0.0), 0),
        )
    tl.store(end + row, p, mask=inside)
    tl.store(end + row + width, q, mask=inside)
    tl.store(end + row + 2 * width, o, mask=inside)


@triton.jit
def _wkv_backward_kernel(
    ptr, grad, k, v, w, u, befores, to_k, to_v, to_w, to_u, width, TILE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Gradients of the sums are carried back as the sums are forward: divided by their largest exponential. A token
    gets those of the sums after it, so each lane looks at its token and at what the next one's output asks for."""
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < width
    start = tl.load(ptr + sequence)
    length = tl.load(ptr + sequence + 1) - start
    fade = tl.load(w + channel, mask=inside, other=0).to(tl.float32)
    bonus = tl.load(u + channel, mask=inside, other=0).to(tl.float32)
    age = tl.broadcast_to(fade[None, :], (TILE, BLOCK))
    lane = tl.arange(0, TILE)
    slot = start // TILE + sequence
    of_w = tl.zeros([BLOCK], tl.float32)
    of_u = tl.zeros([BLOCK], tl.float32)
    a = tl.zeros([BLOCK], tl.float32)
    b = tl.zeros([BLOCK], tl.float32)
    e = tl.zeros([BLOCK], tl.float32) + _NONE
    tiles = tl.cdiv(length, TILE)
    for i in range(0, tiles):
        begin = (tiles - 1 - i) * TILE
        place = befores + (slot + tiles - 1 - i) * 3 * width + channel
        p = tl.load(place, mask=inside, other=0)
        q = tl.load(place + width, mask=inside, other=0)
        o = tl.load(place + 2 * width, mask=inside, other=0)
        there = begin + lane < length
        token = start + begin + lane
        key = _channels(k, token, there, channel, width)
        value = _channels(v, token, there, channel, width)
        ps, qs, os = _sums(k, v, start, begin, there, channel, width, fade, p, q, o, TILE, BLOCK)
        # What the next token's output asks of the sums before it.
        after_p, after_q, after_o, _ = _join(ps, qs, os, 0.0, value, 1.0, key, fade[None, :])
        more = begin + lane + 1 < length
        next_key = _channels(k, token + 1, more, channel, width) + bonus[None, :]
        next_value = _channels(v, token + 1, more, channel, width)
        asked = _channels(grad, token + 1, more, channel, width)
        most, past, now = _weights(after_o, next_key)
        asked /= past * after_q + now
        out = (past * after_p + now * next_value) / (past * after_q + now)
        most = tl.where(more[:, None], -most, _NONE)
        a_s, b_s, e_s, ages = tl.associative_scan((asked, -asked * out, most, age), 0, _join, reverse=True)
        # The scan gives the first lane the others' sums as well, faded; the tokens after the tile fade over all of it.
        a_s, b_s, e_s, _ = _join(a[None, :], b[None, :], e[None, :], 0.0, a_s, b_s, e_s, ages)
        # By way of the sums after the token: its key and value, and how much those before it faded.
        write = tl.exp(key + e_s)
        of_value = write * a_s
        of_key = write * (a_s * value + b_s)
        kept = tl.exp(os - fade[None, :] + e_s) * (a_s * ps + b_s * qs)
        of_w -= tl.sum(tl.where(there[:, None], kept, 0.0), 0)
        # By way of its own output.
        asked = _channels(grad, token, there, channel, width)
        _, past, now = _weights(os, bonus[None, :] + key)
        total = past * qs + now
        asked *= now / total
        of_own = asked * (value - (past * ps + now * value) / total)
        of_u += tl.sum(of_own, 0)
        places = token[:, None] * width + channel[None, :]
        known = there[:, None] & inside[None, :]
        tl.store(to_k + places, of_key + of_own, mask=known)
        tl.store(to_v + places, of_value + asked, mask=known)
        first = (lane == 0)[:, None]
        a = tl.sum(tl.where(first, a_s, 0.0), 0)
        b = tl.sum(tl.where(first, b_s, 0.0), 0)
        e = tl.sum(tl.where(first, e_s, 0.0), 0)
    tl.store(to_w + sequence * width + channel, of_w, mask=inside)
    tl.store(to_u + sequence * width + channel, of_u, mask=inside)


def _wkv_forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes the outputs; the states after the sequences, and the sums before each tile."""
    sequences, width = ptr.numel() - 1, k.size(1)
    end = torch.empty_like(state)
    befores = torch.empty(k.size(0) // _TILE + sequences, 3, width, dtype=torch.float32, device=k.device)
    grid = (sequences, triton.cdiv(width, _SUM_BLOCK))
    _wkv_kernel[grid](ptr, k, v, w, u, state, y, end, befores, width, TILE=_TILE, BLOCK=_SUM_BLOCK)
    return end, befores


def wkv_scan(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    k, v, w, u, state, ptr = (t.contiguous() for t in (k, v, w, u, state, ptr))
    y = torch.empty_like(v)
    if k.numel() == 0:
        return y, state.clone()
    with on_device(k):
        return y, _wkv_forward(k, v, w, u, state, ptr, y)[0]


def wkv_scan_backward(
    grad: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, k, v, w, u, state, ptr = (t.contiguous() for t in (grad, k, v, w, u, state, ptr))
    to_k, to_v = torch.empty_like(k), torch.empty_like(v)
    if k.numel() == 0:
        return to_k, to_v, torch.zeros_like(w), torch.zeros_like(u)
    sequences, width = ptr.numel() - 1, k.size(1)
    to_w, to_u = (torch.empty(sequences, width, dtype=torch.float32, device=k.device) for _ in range(2))
    with on_device(k):
        # The outputs go where the values' gradients will be.
        _, befores = _wkv_forward(k, v, w, u, state, ptr, to_v)
        grid = (sequences, triton.cdiv(width, _SUM_BLOCK))
        inputs = (ptr, grad, k, v, w, u, befores, to_k, to_v, to_w, to_u, width)
        _wkv_backward_kernel[grid](*inputs, TILE=_TILE, BLOCK=_SUM_BLOCK)
    return to_k, to_v, to_w.sum(0).to(w.dtype), to_u.sum(0).to(u.dtype)


@triton.jit
def _after(potential, edge, RESET: tl.constexpr):
    """The membrane after a spike or none."""
    if RESET == "hard":
        return tl.where(potential >= edge, 0.0, potential)
    elif RESET == "soft":
        return tl.where(potential >= edge, potential - edge, potential)
    else:
        return potential


@triton.jit
def _slope(distance, alpha, SURROGATE: tl.constexpr):
    if SURROGATE == "atan":
        far = 1.5707963267948966 * alpha * distance
        return alpha / 2 / (1 + far * far)
    elif SURROGATE == "sigmoid":
        return alpha * tl.sigmoid(alpha * distance) * tl.sigmoid(-alpha * distance)
    elif SURROGATE == "triangle":
        return alpha * tl.maximum(1 - tl.abs(distance), 0.0)
    elif SURROGATE == "quadratic":
        return tl.maximum(alpha - alpha * alpha * tl.abs(distance), 0.0)
    elif SURROGATE == "rectangle":
        return tl.where(tl.abs(distance) < alpha, 1.0, 0.0)
    else:
        tl.static_assert(SURROGATE == "straight-through")
        return tl.zeros_like(distance) + 1.0


@triton.jit
def _lif_kernel(
    ptr, x, decay, threshold, state, scale, spikes, h, end, width,
    RESET: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < width
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    keep = tl.load(decay + channel, mask=inside, other=0).to(tl.float32)
    edge = tl.load(threshold + channel, mask=inside, other=0).to(tl.float32)
    membrane = tl.load(state + sequence * width + channel, mask=inside, other=0).to(tl.float32)
    for token in tl.range(start, stop, num_stages=AHEAD):
        place = token * width + channel
        current = tl.load(x + place, mask=inside, other=0).to(tl.float32)
        potential = keep * membrane + scale * current
        tl.store(h + place, potential, mask=inside)
        tl.store(spikes + place, tl.where(potential >= edge, 1.0, 0.0), mask=inside)
        membrane = _after(potential, edge, RESET)
    tl.store(end + sequence * width + channel, membrane, mask=inside)


@triton.jit
def _lif_backward_kernel(
    ptr, grad, grad_state, h, decay, threshold, state, scale, alpha, to_x, to_decay, to_threshold, to_state, width,
    RESET: tl.constexpr, SURROGATE: tl.constexpr, DETACH: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < width
    row = sequence * width + channel
    start = tl.load(ptr + sequence)
    stop = tl.load(ptr + sequence + 1)
    keep = tl.load(decay + channel, mask=inside, other=0).to(tl.float32)
    edge = tl.load(threshold + channel, mask=inside, other=0).to(tl.float32)
    membrane = tl.load(state + row, mask=inside, other=0).to(tl.float32)
    flow = tl.load(grad_state + row, mask=inside, other=0).to(tl.float32)
    of_decay = tl.zeros([BLOCK], tl.float32)
    of_edge = tl.zeros([BLOCK], tl.float32)
    potential = tl.load(h + (stop - 1) * width + channel, mask=inside & (stop > start), other=0).to(tl.float32)
    for i in tl.range(0, stop - start, num_stages=AHEAD):
        token = stop - 1 - i
        place = token * width + channel
        asked = tl.load(grad + place, mask=inside, other=0).to(tl.float32)
        earlier = tl.load(h + place - width, mask=inside & (token > start), other=0).to(tl.float32)
        slope = _slope(potential - edge, alpha, SURROGATE)
        fired = potential >= edge
        # The threshold moves the spike against the potential, and a soft reset takes it off.
        by_spike = asked * slope
        of_h = by_spike
        if RESET == "hard":
            of_h += tl.where(fired, 0.0, flow)
            if not DETACH:
                of_h -= flow * potential * slope
                by_spike -= flow * potential * slope
        elif RESET == "soft":
            of_h += flow
            if not DETACH:
                of_h -= flow * edge * slope
                by_spike -= flow * edge * slope
            of_edge -= tl.where(fired, flow, 0.0)
        else:
            of_h += flow
        of_edge -= by_spike
        tl.store(to_x + place, scale * of_h, mask=inside)
        of_decay += of_h * tl.where(token > start, _after(earlier, edge, RESET), membrane)
        flow = keep * of_h
        potential = earlier
    tl.store(to_state + row, flow, mask=inside)
    tl.store(to_decay + row, of_decay, mask=inside)
    tl.store(to_threshold + row, of_edge, mask=inside)


def _neurons(ptr: Tensor, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid, and shapes of its programs: one warp each, which reads 16 tokens ahead."""
    blocks = {"BLOCK": _NEURON_BLOCK, "AHEAD": 16, "num_warps": 1}
    return (ptr.numel() - 1, triton.cdiv(width, _NEURON_BLOCK)), blocks


def lif_scan(
    x: Tensor, decay: Tensor, threshold: Tensor, state: Tensor, scale: float, reset: str, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    x, decay, threshold, state, ptr = (t.contiguous() for t in (x, decay, threshold, state, ptr))
    spikes, h = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32)
    if x.numel() == 0:
        return spikes, h, state.clone()
    end = torch.empty_like(state)
    with on_device(x):
        grid, blocks = _neurons(ptr, x.size(1))
        _lif_kernel[grid](ptr, x, decay, threshold, state, scale, spikes, h, end, x.size(1), RESET=reset, **blocks)
    return spikes, h, end


def lif_scan_backward(
    grad: Tensor,
    grad_state: Tensor,
    h: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    surrogate: str,
    alpha: float,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = (grad, grad_state, h, decay, threshold, state, ptr)
    grad, grad_state, h, decay, threshold, state, ptr = (t.contiguous() for t in tensors)
    to_x = torch.empty_like(grad)
    if h.numel() == 0:
        return to_x, torch.zeros_like(decay), torch.zeros_like(threshold), grad_state.clone()
    sequences, width = ptr.numel() - 1, h.size(1)
    to_decay, to_threshold = (torch.empty(sequences, width, dtype=torch.float32, device=h.device) for _ in range(2))
    to_state = torch.empty_like(state)
    with on_device(h):
        grid, blocks = _neurons(ptr, width)
        inputs = (grad, grad_state, h, decay, threshold, state, scale, alpha, to_x, to_decay, to_threshold, to_state)
        how = {"RESET": reset, "SURROGATE": surrogate, "DETACH": detach}
        _lif_backward_kernel[grid](ptr, *inputs, width, **how, **blocks)
    return to_x, to_decay.sum(0).to(decay.dtype), to_threshold.sum(0).to(threshold.dtype), to_state
