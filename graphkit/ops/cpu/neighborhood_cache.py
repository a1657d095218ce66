"""Neighbourhood caches on the CPU: writes, joins and the small recurrent cell, over rows in parallel.

The recurrent cell keeps a block of entries feature by feature, so that the compiler turns every loop over the block
into vector instructions, the exponentials included.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run
from graphkit.ops.cpu.sample import GAMMA, uniform

_MASK32 = np.int64(2**32 - 1)
_BLOCK = 128
_NONE = np.empty(0, np.int64)
_LOG2E, _LN2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))
_MOST, _BIAS = np.float32(40), np.float32(127)


@kernel
def slot(key, size):  # pragma: no cover - compiled
    return ((((key * GAMMA) >> 32) & _MASK32) * size) >> 32


# Writes ---------------------------------------------------------------------------------------------------------------


@kernel
def _choose(start, stop, held, owner, source, offered, alpha, stream, draw, target):  # pragma: no cover - compiled
    """The slot that takes each offer, or -1. Backwards, as the last offer wins: most need not be looked at."""
    size, count = held.shape[1], offered.shape[1]
    taken = np.full(size, -1)
    for r in range(start, stop):
        own, row = owner[r], source[r] if len(source) else r
        for j in range(count - 1, -1, -1):
            key = offered[row, j]
            m = slot(key, size)
            target[r, j] = -1
            if key >= 0 and taken[m] != r:
                old = held[own, m]
                if old < 0 or old == key or uniform(stream, draw + r * count + j) < alpha:
                    target[r, j] = m
                    taken[m] = r


@kernel
def _write(
    start, stop, parts, key, e_id, t, rep, owner, source, o_key, o_e_id, o_t, o_rep, target
):  # pragma: no cover - compiled
    """Each part writes to owners of its own, in the order of the rows: a later row wins."""
    count, width = target.shape[1], rep.shape[2]
    for part in range(start, stop):
        for r in range(len(owner)):
            own = owner[r]
            if parts > 1 and own % parts != part:
                continue
            row = source[r] if len(source) else r
            for j in range(count):
                m = target[r, j]
                if m >= 0:
                    key[own, m] = o_key[row, j]
                    e_id[own, m] = o_e_id[row, j]
                    t[own, m] = o_t[row, j]
                    for f in range(width):
                        rep[own, m, f] = o_rep[row, j, f]


def insert(
    cache: tuple[Tensor, ...],
    owner: Tensor,
    offer: tuple[Tensor, ...],
    source: Tensor | None,
    alpha: float,
    stream: int,
    draw: int,
) -> None:
    # Views of columns: array() would copy them.
    held = [part.detach().numpy() for part in cache]
    offered = [part.detach().numpy() for part in offer]
    to, frm = array(owner), _NONE if source is None else array(source)
    rows, count = len(to), offered[0].shape[1]
    target = np.empty((rows, count), np.int32)
    run(_choose, rows, held[0], to, frm, offered[0], alpha, stream, draw, target, grain=max(32768 // count, 1))
    parts = 1 if rows * count < 65536 else 2 * torch.get_num_threads()
    run(_write, parts, parts, *held, to, frm, *offered, target, grain=1)


# Joins ----------------------------------------------------------------------------------------------------------------


@kernel
def _codes(key, bounds, a, b, node_a, node_b, code, first):  # pragma: no cover - compiled
    """The code of every entry of rows ``a`` and ``b``, 0 where empty, and the place of the first entry of its key.

    A key lies in one slot of a hop only, known from its hash, so that each lookup is one comparison.
    """
    hops, length = len(bounds) - 1, key.shape[1]
    for side in range(2):
        own, node = (a, node_a) if side == 0 else (b, node_b)
        for i in range(length):
            wanted = node if i == 0 else key[own, i]
            place = side * length + i
            first[place] = place
            if wanted < 0:
                code[place] = 0
                continue
            high = ((wanted * GAMMA) >> 32) & _MASK32
            bits, lowest = 0, 2 * length
            if wanted == node_b:
                bits, lowest = 8, length
            for hop in range(1, hops):
                m = bounds[hop] + ((high * (bounds[hop + 1] - bounds[hop])) >> 32)
                if key[b, m] == wanted:
                    bits |= 8 << hop
                    lowest = min(lowest, length + m)
                if key[a, m] == wanted:
                    bits |= 1 << hop
                    lowest = min(lowest, m)
            if wanted == node_a:
                bits |= 1
                lowest = 0
            code[place] = bits
            first[place] = lowest


@kernel
def _joint_codes(start, stop, key, bounds, u, v, node, out):  # pragma: no cover - compiled
    places = 2 * key.shape[1]
    code, first = np.empty(places, np.int64), np.empty(places, np.int64)
    for p in range(start, stop):
        a, b = u[p], v[p]
        _codes(key, bounds, a, b, node[a] if len(node) else a, node[b] if len(node) else b, code, first)
        for i in range(places):
            out[p, i] = code[i] if first[i] == i else 0


@kernel
def _joint_histogram(start, stop, key, bounds, u, v, node, out):  # pragma: no cover - compiled
    """Counts of the codes of the distinct keys."""
    places = 2 * key.shape[1]
    code, first = np.empty(places, np.int64), np.empty(places, np.int64)
    for p in range(start, stop):
        a, b = u[p], v[p]
        _codes(key, bounds, a, b, node[a] if len(node) else a, node[b] if len(node) else b, code, first)
        out[p] = 0
        for i in range(places):
            if code[i] and first[i] == i:
                out[p, code[i]] += 1


@kernel
def _nested_codes(key, near, far, me, you, me_node, you_node, mine, yours, code, wide):  # pragma: no cover - compiled
    """Codes of the entries of row ``me`` at hops 1 and 2, 0 where an earlier hop of the pair holds the key.

    ``mine`` and ``yours`` are the bits of hop 0. Where ``far`` divides ``near`` the slots of hop 1 that share a
    slot of hop 2 lie side by side, so that keys are compared in place, without a hash. ``wide`` is scratch.
    """
    group, second = near // far, 1 + near
    for s in range(far):
        for j in range(s * group, s * group + group):
            wide[0, j], wide[1, j] = key[me, second + s], key[you, second + s]
    mine1, yours1, mine2, yours2 = mine << 1, yours << 1, mine << 2, yours << 2
    for i in range(near):
        a = key[me, 1 + i]
        bits = mine1 | mine * np.int64(a == me_node) | yours * np.int64(a == you_node)
        bits |= yours1 * np.int64(a == key[you, 1 + i])
        bits |= mine2 * np.int64(a == wide[0, i]) | yours2 * np.int64(a == wide[1, i])
        code[i] = bits if (a >= 0) & (bits & (mine1 - 1) == 0) else 0
    for i in range(near):
        a = wide[0, i]
        wide[1, i] = mine1 * np.int64(a == key[me, 1 + i]) | yours1 * np.int64(a == key[you, 1 + i])
    for s in range(far):
        a = key[me, second + s]
        bits = mine2 | mine * np.int64(a == me_node) | yours * np.int64(a == you_node)
        bits |= yours2 * np.int64(a == key[you, second + s])
        for j in range(s * group, s * group + group):
            bits |= wide[1, j]
        code[near + s] = bits if (a >= 0) & (bits & (mine2 - 1) == 0) else 0


@kernel
def _nested_histogram(start, stop, key, bounds, u, v, node, out):  # pragma: no cover - compiled
    """The same for two hops whose slots nest. Keys that one hop alone holds, the most, are counted in registers."""
    near, far = bounds[2] - bounds[1], bounds[3] - bounds[2]
    code, wide = np.empty(near + far, np.int64), np.empty((2, near), np.int64)
    for p in range(start, stop):
        for i in range(64):
            out[p, i] = 0
        for side in range(2):
            me, you = (u[p], v[p]) if side == 0 else (v[p], u[p])
            me_node, you_node = (node[me], node[you]) if len(node) else (me, you)
            mine, yours = np.int64(1) << (3 * side), np.int64(8) >> (3 * side)
            _nested_codes(key, near, far, me, you, me_node, you_node, mine, yours, code, wide)
            alone1 = alone2 = np.int64(0)
            for i in range(near):
                alone1 += np.int64(code[i] == mine << 1)
            for i in range(near, near + far):
                alone2 += np.int64(code[i] == mine << 2)
            out[p, mine << 1] += alone1
            out[p, mine << 2] += alone2
            for i in range(near + far):
                # Neither 0 nor one bit alone.
                if code[i] & (code[i] - 1):
                    out[p, code[i]] += 1
            # Hop 0 of this node, unless it is the other one's as well.
            bits, at1 = mine | yours * np.int64(me_node == you_node), 1 + slot(me_node, near)
            at2 = 1 + near + slot(me_node, far)
            bits |= (mine << 1) * np.int64(key[me, at1] == me_node) | (mine << 2) * np.int64(key[me, at2] == me_node)
            bits |= (yours << 1) * np.int64(key[you, at1] == me_node) | (yours << 2) * np.int64(
                key[you, at2] == me_node
            )
            if side == 0 or bits & 7 == 0:
                out[p, bits] += 1


def _pairs(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None) -> tuple[np.ndarray, ...]:
    return array(key), np.array(bounds), array(u), array(v), _NONE if node is None else array(node)


def joint_codes(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None) -> Tensor:
    out = np.empty((u.numel(), 2 * key.size(1)), np.int64)
    run(_joint_codes, len(out), *_pairs(key, bounds, u, v, node), out, grain=128)
    return torch.from_numpy(out)


def joint_histogram(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None) -> Tensor:
    out = np.empty((u.numel(), 64), np.float32)
    nested = len(bounds) == 4 and (bounds[2] - bounds[1]) % (bounds[3] - bounds[2]) == 0
    run(_nested_histogram if nested else _joint_histogram, len(out), *_pairs(key, bounds, u, v, node), out, grain=128)
    return torch.from_numpy(out)


@kernel
def _attend(
    start, stop, key, bounds, u, v, node, score, code_score, feature, pooled, mass, code, first, alpha
):  # pragma: no cover - compiled
    length, heads, width = key.shape[1], score.shape[2], feature.shape[2]
    places = 2 * length
    for p in range(start, stop):
        a, b = u[p], v[p]
        codes, firsts, weight = code[p], first[p], alpha[p]
        _codes(key, bounds, a, b, node[a] if len(node) else a, node[b] if len(node) else b, codes, firsts)
        pooled[p] = 0
        mass[p] = 0
        for h in range(heads):
            for i in range(places):
                weight[i, h] = 0
            highest = -np.inf
            for i in range(places):
                if codes[i]:
                    row, column = (a, i) if i < length else (b, i - length)
                    weight[firsts[i], h] += score[row, column, h]
            for i in range(places):
                if codes[i] and firsts[i] == i:
                    weight[i, h] += code_score[codes[i], h]
                    highest = max(highest, weight[i, h])
            total = 0.0
            for i in range(places):
                if codes[i] and firsts[i] == i:
                    weight[i, h] = math.exp(weight[i, h] - highest)
                    total += weight[i, h]
            for i in range(places):
                if codes[i] and firsts[i] == i:
                    weight[i, h] /= total
                    mass[p, h, codes[i]] += weight[i, h]
            for i in range(places):
                if codes[i]:
                    row, column = (a, i) if i < length else (b, i - length)
                    one = weight[firsts[i], h]
                    for f in range(width):
                        pooled[p, h, f] += one * feature[row, column, f]


@kernel
def _attend_backward(
    u, v, code, first, alpha, feature, d_pooled, d_mass, d_score, d_code_score, d_feature
):  # pragma: no cover - compiled
    """One thread: pairs share rows."""
    length, heads, width = feature.shape[1], alpha.shape[2], feature.shape[2]
    places = 2 * length
    slope = np.empty(places, alpha.dtype)
    for p in range(len(u)):
        a, b = u[p], v[p]
        for h in range(heads):
            slope[:] = 0
            for i in range(places):
                c = code[p, i]
                if c == 0:
                    continue
                row, column = (a, i) if i < length else (b, i - length)
                one, total = alpha[p, first[p, i], h], d_pooled[p, h, 0] * 0
                for f in range(width):
                    total += d_pooled[p, h, f] * feature[row, column, f]
                    d_feature[row, column, f] += one * d_pooled[p, h, f]
                slope[first[p, i]] += total
                if first[p, i] == i:
                    slope[i] += d_mass[p, h, c]
            mean = 0.0
            for i in range(places):
                mean += alpha[p, i, h] * slope[i]
            for i in range(places):
                slope[i] = alpha[p, i, h] * (slope[i] - mean)
            for i in range(places):
                c = code[p, i]
                if c:
                    row, column = (a, i) if i < length else (b, i - length)
                    d_score[row, column, h] += slope[first[p, i]]
                    if first[p, i] == i:
                        d_code_score[c, h] += slope[i]


def joint_attention(
    key: Tensor,
    bounds: list[int],
    u: Tensor,
    v: Tensor,
    node: Tensor | None,
    score: Tensor,
    code_score: Tensor,
    feature: Tensor,
) -> tuple[Tensor, ...]:
    pairs, places, heads = u.numel(), 2 * key.size(1), score.size(2)
    pooled = score.new_empty(pairs, heads, feature.size(2))
    mass, alpha = score.new_empty(pairs, heads, 64), score.new_empty(pairs, places, heads)
    code, first = (torch.empty(pairs, places, dtype=torch.int32) for _ in range(2))
    run(
        _attend,
        pairs,
        *_pairs(key, bounds, u, v, node),
        *(array(part) for part in (score, code_score, feature, pooled, mass, code, first, alpha)),
        grain=64,
    )
    return pooled, mass, code, first, alpha


def joint_attention_backward(
    u: Tensor,
    v: Tensor,
    code: Tensor,
    first: Tensor,
    alpha: Tensor,
    feature: Tensor,
    d_pooled: Tensor,
    d_mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    d_score = alpha.new_zeros(*feature.shape[:2], alpha.size(2))
    d_code_score, d_feature = alpha.new_zeros(64, alpha.size(2)), torch.zeros_like(feature)
    given = (u, v, code, first, alpha, feature, d_pooled, d_mass)
    _attend_backward(*(array(part) for part in (*given, d_score, d_code_score, d_feature)))
    return d_score, d_code_score, d_feature


# The recurrent cell ---------------------------------------------------------------------------------------------------


@kernel
def _tanh(x, count):  # pragma: no cover - compiled
    """In place. In single precision 1 - 2 / (e^2x + 1), the exponential from its series around a power of two."""
    if x.itemsize == 8:
        for i in range(count):
            x[i] = math.tanh(x[i])
        return
    for i in range(count):
        y = np.float32(x[i]) * _TWO
        y = min(max(y, -_MOST), _MOST)
        # Truncation rounds down, the sum being positive.
        k = np.int32(y * _LOG2E + _BIAS + _HALF)
        r = y - np.float32(k - np.int32(_BIAS)) * _LN2
        series = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
        power = np.int32(k << np.int32(23)).view(np.float32)
        # np.divide does not check for zero, which would keep the loop from being vectorised.
        tanh = _ONE - np.divide(_TWO, series * power + _ONE)
        x[i] = tanh if x[i] == x[i] else x[i]  # NaN


@kernel
def _gates(
    low, count, row, table, event_row, event, rep, w_ih, w_hh, b_ih, b_hh, x, h, gate, recurrent
):  # pragma: no cover - compiled
    """Input, state and gates (reset, update, new) of ``count`` entries from ``low`` on, each ``[feature, entry]``."""
    width = rep.shape[1]
    for i in range(count):
        r, e = row[low + i], event_row[low + i]
        for f in range(width):
            x[f, i] = table[r, f] + event[e, f] if r >= 0 else table.dtype.type(0)
            h[f, i] = rep[low + i, f]
    half = gate.dtype.type(0.5)
    for g in range(3 * width):
        out = gate[g]
        out[:count] = b_ih[g] + (b_hh[g] if g < 2 * width else table.dtype.type(0))
        for f in range(width):
            weight = w_ih[g, f]
            for i in range(count):
                out[i] += weight * x[f, i]
    for g in range(3 * width):
        out = gate[g] if g < 2 * width else recurrent[g - 2 * width]
        if g >= 2 * width:
            out[:count] = b_hh[g]
        for f in range(width):
            weight = w_hh[g, f]
            for i in range(count):
                out[i] += weight * h[f, i]
    for g in range(2 * width):
        out = gate[g]
        for i in range(count):
            out[i] *= half
        _tanh(out, count)
        for i in range(count):
            out[i] = half + half * out[i]
    for f in range(width):
        reset, new, inner = gate[f], gate[2 * width + f], recurrent[f]
        for i in range(count):
            new[i] += reset[i] * inner[i]
        _tanh(new, count)


@kernel
def _fold(start, stop, row, table, event_row, event, rep, w_ih, w_hh, b_ih, b_hh, out):  # pragma: no cover - compiled
    width = rep.shape[1]
    x, h = np.empty((width, _BLOCK), rep.dtype), np.empty((width, _BLOCK), rep.dtype)
    gate, recurrent = np.empty((3 * width, _BLOCK), rep.dtype), np.empty((width, _BLOCK), rep.dtype)
    for low in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - low)
        _gates(low, count, row, table, event_row, event, rep, w_ih, w_hh, b_ih, b_hh, x, h, gate, recurrent)
        for f in range(width):
            update, new = gate[width + f], gate[2 * width + f]
            for i in range(count):
                x[f, i] = new[i] + update[i] * (h[f, i] - new[i])
        for i in range(count):
            for f in range(width):
                out[low + i, f] = x[f, i] if row[low + i] >= 0 else 0


@kernel
def _fold_backward(
    grad, row, table, event_row, event, rep, w_ih, w_hh, b_ih, b_hh, d_table, d_event, d_ih, d_hh, d_b_ih, d_b_hh
):  # pragma: no cover - compiled
    """One thread: entries share rows of the tables."""
    width = rep.shape[1]
    x, h = np.empty((width, _BLOCK), rep.dtype), np.empty((width, _BLOCK), rep.dtype)
    gate, recurrent = np.empty((3 * width, _BLOCK), rep.dtype), np.empty((width, _BLOCK), rep.dtype)
    one = rep.dtype.type(1)
    for low in range(0, len(row), _BLOCK):
        count = min(_BLOCK, len(row) - low)
        _gates(low, count, row, table, event_row, event, rep, w_ih, w_hh, b_ih, b_hh, x, h, gate, recurrent)
        for f in range(width):
            reset, update, new, inner = gate[f], gate[width + f], gate[2 * width + f], recurrent[f]
            for i in range(count):
                g = grad[low + i, f] if row[low + i] >= 0 else grad.dtype.type(0)
                d_new = g * (one - update[i]) * (one - new[i] * new[i])
                update[i] = g * (h[f, i] - new[i]) * update[i] * (one - update[i])
                new[i] = d_new
                d_reset = d_new * inner[i] * reset[i] * (one - reset[i])
                inner[i] = d_new * reset[i]
                reset[i] = d_reset
        for g in range(3 * width):
            slope, inner = gate[g], gate[g] if g < 2 * width else recurrent[g - 2 * width]
            total, total_inner = one * 0, one * 0
            for i in range(count):
                total += slope[i]
                total_inner += inner[i]
            d_b_ih[g] += total
            d_b_hh[g] += total_inner
            for f in range(width):
                total, total_inner = one * 0, one * 0
                for i in range(count):
                    total += slope[i] * x[f, i]
                    total_inner += inner[i] * h[f, i]
                d_ih[g, f] += total
                d_hh[g, f] += total_inner
        for f in range(width):
            x[f, :count] = 0
            for g in range(3 * width):
                weight = w_ih[g, f]
                for i in range(count):
                    x[f, i] += weight * gate[g, i]
        for i in range(count):
            r, e = row[low + i], event_row[low + i]
            if r >= 0:
                for f in range(width):
                    d_table[r, f] += x[f, i]
                    d_event[e, f] += x[f, i]


def fold(*tensors: Tensor) -> Tensor:
    out = torch.empty_like(tensors[4])
    run(_fold, len(out), *(array(part) for part in tensors), array(out), grain=8192)
    return out


def fold_backward(grad: Tensor, *tensors: Tensor) -> list[Tensor]:
    learned = [tensors[1], tensors[3], *tensors[5:]]
    grads = [torch.zeros_like(part, memory_format=torch.contiguous_format) for part in learned]
    _fold_backward(*(array(part) for part in (grad, *tensors, *grads)))
    return grads
