"""Recurrences over tokens, one sequence after the other in memory: state in cache, nothing stored for each step.

A loop over time that keeps its state in registers beats forms made of matrix products here: those read and write
intermediate matrices, this reads each input once. Sequences, channels and heads run in parallel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.exponential import exp
from graphkit.ops.cpu.parallel import array, kernel, run


@kernel
def _linear(start, stop, ptr, reverse, a, x, h):  # pragma: no cover - compiled
    for b in range(start, stop):
        first, last, step = (ptr[b + 1] - 1, ptr[b] - 1, -1) if reverse else (ptr[b], ptr[b + 1], 1)
        for t in range(first, last, step):
            if t == first:
                for d in range(x.shape[1]):
                    h[t, d] = x[t, d]
            else:
                for d in range(x.shape[1]):
                    h[t, d] = a[t, d] * h[t - step, d] + x[t, d]


@kernel
def _linear_backward(start, stop, ptr, reverse, grad, a, h, grad_a, grad_x):  # pragma: no cover - compiled
    for b in range(start, stop):
        # Against the direction of the scan.
        first, last, step = (ptr[b], ptr[b + 1], 1) if reverse else (ptr[b + 1] - 1, ptr[b] - 1, -1)
        for t in range(first, last, step):
            for d in range(grad.shape[1]):
                g = grad[t, d]
                if t != first:
                    g += a[t - step, d] * grad_x[t - step, d]
                grad_x[t, d] = g
            if t + step != last:
                for d in range(grad.shape[1]):
                    grad_a[t, d] = grad_x[t, d] * h[t + step, d]


def linear_scan(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool) -> Tensor:
    decay, value, pointer = array(a), array(x), array(ptr)
    h = np.empty_like(value)
    run(_linear, pointer, pointer, reverse, decay, value, h, grain=max(1, 65536 // max(value.shape[1], 1)))
    return torch.from_numpy(h)


def linear_scan_backward(grad: Tensor, a: Tensor, h: Tensor, ptr: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    gradient, pointer = array(grad), array(ptr)
    grad_a, grad_x = np.zeros_like(gradient), np.empty_like(gradient)
    grain = max(1, 65536 // max(gradient.shape[1], 1))
    run(_linear_backward, pointer, pointer, reverse, gradient, array(a), array(h), grad_a, grad_x, grain=grain)
    return torch.from_numpy(grad_a), torch.from_numpy(grad_x)


@kernel
def _selective(start, stop, ptr, reverse, x, dt, a, b, c, skip, y):  # pragma: no cover - compiled
    sequences, size = len(ptr) - 1, a.shape[1]
    h, decay = np.empty(size, x.dtype), np.empty(size, x.dtype)
    for r in range(start, stop):
        e, s = r // sequences, r % sequences
        first, last, step = (ptr[s + 1] - 1, ptr[s] - 1, -1) if reverse else (ptr[s], ptr[s + 1], 1)
        h[:] = 0
        for t in range(first, last, step):
            width = dt[e, t]
            u = width * x[e, t]
            total = skip[e] * x[e, t]
            for k in range(size):
                decay[k] = exp(width * a[e, k])
            for k in range(size):
                h[k] = decay[k] * h[k] + u * b[t, k]
            for k in range(size):
                total += h[k] * c[t, k]
            y[e, t] = total


@kernel
def _selective_backward(
    start, stop, bounds, blocks, ptr, reverse, grad, x, dt, a, b, c, skip, to_x, to_dt, to_a, to_b, to_c, to_skip
):  # pragma: no cover - compiled
    """A unit of work is a block of channels and a group of sequences: what several add up has a place for each."""
    (channels, size), zero = a.shape, x.dtype.type(0)
    longest = 0
    for s in range(len(ptr) - 1):
        longest = max(longest, ptr[s + 1] - ptr[s])
    states, decays = np.zeros((longest + 1, size), x.dtype), np.empty((longest, size), x.dtype)
    g, weighted = np.empty(size, x.dtype), np.empty(size, x.dtype)
    for r in range(start, stop):
        group, block = r // blocks, r % blocks
        for s in range(bounds[group], bounds[group + 1]):
            length = ptr[s + 1] - ptr[s]
            for e in range(block * channels // blocks, (block + 1) * channels // blocks):
                for i in range(length):
                    t = ptr[s + 1] - 1 - i if reverse else ptr[s] + i
                    width = dt[e, t]
                    u = width * x[e, t]
                    for k in range(size):
                        decays[i, k] = exp(width * a[e, k])
                    for k in range(size):
                        states[i + 1, k] = decays[i, k] * states[i, k] + u * b[t, k]
                g[:] = 0
                total_skip = zero
                for i in range(length - 1, -1, -1):
                    t = ptr[s + 1] - 1 - i if reverse else ptr[s] + i
                    width, value, dy = dt[e, t], x[e, t], grad[e, t]
                    u = width * value
                    by_input, by_width = zero, zero
                    for k in range(size):
                        g[k] += c[t, k] * dy
                    for k in range(size):
                        to_c[block, t, k] += dy * states[i + 1, k]
                    for k in range(size):
                        to_b[block, t, k] += u * g[k]
                    for k in range(size):
                        by_input += g[k] * b[t, k]
                    for k in range(size):
                        g[k] *= decays[i, k]
                    for k in range(size):
                        weighted[k] = g[k] * states[i, k]
                    for k in range(size):
                        by_width += weighted[k] * a[e, k]
                    for k in range(size):
                        to_a[group, e, k] += weighted[k] * width
                    to_x[e, t] = by_input * width + dy * skip[e]
                    to_dt[e, t] = by_width + by_input * value
                    total_skip += dy * value
                to_skip[group, e] += total_skip


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> Tensor:
    value, pointer = array(x.t()), array(ptr)
    y = np.empty_like(value)
    arguments = (pointer, reverse, value, array(dt.t()), array(a), array(b), array(c), array(skip), y)
    tokens = max(len(value[0]) // max(len(pointer) - 1, 1), 1)
    run(_selective, a.size(0) * (len(pointer) - 1), *arguments, grain=max(1, 16384 // (tokens * a.size(1))))
    return torch.from_numpy(y).t().contiguous()


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
    value, pointer = array(x.t()), array(ptr)
    (channels, size), sequences, tokens = a.shape, len(pointer) - 1, value.shape[1]
    parts = 4 * torch.get_num_threads()
    blocks = max(1, min(channels, parts // max(sequences, 1)))
    groups = max(1, min(sequences, parts // blocks))
    bounds = np.searchsorted(pointer, np.linspace(0, tokens, groups + 1))
    bounds[0], bounds[-1] = 0, sequences
    to_x, to_dt = np.empty_like(value), np.empty_like(value)
    to_a, to_skip = np.zeros((groups, channels, size), value.dtype), np.zeros((groups, channels), value.dtype)
    to_b, to_c = (np.zeros((blocks, tokens, size), value.dtype) for _ in range(2))
    run(
        _selective_backward,
        groups * blocks,
        bounds,
        blocks,
        pointer,
        reverse,
        array(grad.t()),
        value,
        array(dt.t()),
        array(a),
        array(b),
        array(c),
        array(skip),
        to_x,
        to_dt,
        to_a,
        to_b,
        to_c,
        to_skip,
        grain=1,
    )
    whole = [torch.from_numpy(part).sum(0) for part in (to_a, to_b, to_c, to_skip)]
    return [torch.from_numpy(to_x).t().contiguous(), torch.from_numpy(to_dt).t().contiguous(), *whole]


@kernel
def _gated(start, stop, ptr, reverse, scale, q, k, v, g, state, out):  # pragma: no cover - compiled
    sequences, wide = len(ptr) - 1, g.shape[2] > 1
    for r in range(start, stop):
        head, s = r // sequences, r % sequences
        first, last, step = (ptr[s + 1] - 1, ptr[s] - 1, -1) if reverse else (ptr[s], ptr[s + 1], 1)
        memory = state[s, head]
        for t in range(first, last, step):
            value, result = v[t, head], out[t, head]
            result[:] = 0
            for i in range(q.shape[2]):
                decay = exp(g[t, head, i if wide else 0])
                write, read = k[t, head, i], q[t, head, i] * scale
                row = memory[i]
                for j in range(len(value)):
                    row[j] = decay * row[j] + write * value[j]
                for j in range(len(value)):
                    result[j] += read * row[j]


@kernel
def _gated_backward(
    start, stop, ptr, reverse, scale, q, k, v, g, state, grad, to_state, to_q, to_k, to_v, to_g
):  # pragma: no cover - compiled
    """``state`` is that before the sequence and is overwritten; ``to_state`` that of the end, then of the beginning."""
    sequences, size, wide, zero = len(ptr) - 1, q.shape[2], g.shape[2] > 1, q.dtype.type(0)
    gate = np.empty(size, np.float64)
    for r in range(start, stop):
        head, s = r // sequences, r % sequences
        first, last, step = (ptr[s + 1] - 1, ptr[s] - 1, -1) if reverse else (ptr[s], ptr[s + 1], 1)
        memory, flow = state[s, head], to_state[s, head]
        for t in range(first, last, step):
            value, dy = v[t, head], grad[t, head]
            for i in range(size):
                decay, write, row = exp(g[t, head, i if wide else 0]), k[t, head, i], memory[i]
                for j in range(len(value)):
                    row[j] = decay * row[j] + write * value[j]
                total = zero
                for j in range(len(value)):
                    total += row[j] * dy[j]
                to_q[t, head, i] = scale * total
        for i in range(size):
            gate[i] = 0
            for j in range(v.shape[2]):
                gate[i] += memory[i, j] * flow[i, j]
        for t in range(last - step, first - step, -step):
            value, dy, to_value = v[t, head], grad[t, head], to_v[t, head]
            to_value[:] = 0
            for i in range(size):
                decay, row = exp(g[t, head, i if wide else 0]), flow[i]
                read, write = q[t, head, i] * scale, k[t, head, i]
                for j in range(len(value)):
                    row[j] += read * dy[j]
                total = zero
                for j in range(len(value)):
                    total += row[j] * value[j]
                for j in range(len(value)):
                    to_value[j] += write * row[j]
                for j in range(len(value)):
                    row[j] *= decay
                to_k[t, head, i] = total
                # The gradient of a decay needs no state: what its channel gives from here on, less what it takes in.
                gate[i] += np.float64(q[t, head, i] * to_q[t, head, i]) - np.float64(write * total)
                if wide:
                    to_g[t, head, i] = gate[i]
                else:
                    to_g[t, head, 0] += gate[i]


def gla_scan(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    value, pointer, memory = array(v), array(ptr), array(state).copy()
    out = np.empty_like(value)
    work = (pointer, reverse, value.dtype.type(scale), array(q), array(k), value, array(g), memory, out)
    run(_gated, q.size(1) * (len(pointer) - 1), *work, grain=1)
    return torch.from_numpy(out), torch.from_numpy(memory)


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
    query, value, pointer, gate = array(q), array(v), array(ptr), array(g)
    memory, to_state = array(state).copy(), array(grad_state).copy()
    to_q, to_k, to_v, to_g = np.empty_like(query), np.empty_like(query), np.empty_like(value), np.zeros_like(gate)
    inputs = (pointer, reverse, value.dtype.type(scale), query, array(k), value, gate, memory, array(grad))
    run(_gated_backward, q.size(1) * (len(pointer) - 1), *inputs, to_state, to_q, to_k, to_v, to_g, grain=1)
    of_q, of_k, of_v, of_g, of_state = (torch.from_numpy(part) for part in (to_q, to_k, to_v, to_g, to_state))
    return of_q, of_k, of_v, of_g, of_state
