"""Attention over each query's few neighbours in one pass: no ``[Q, K, F]`` tensor of keys is made, in either direction.

A key is three parts in three places: a row of node features, a row of event features, and the cosines of the time
between, which are computed where they are used (:mod:`graphkit.ops.cpu.time_encoding`). The keys of one query are put
together in a scratch that stays in the cache. Offsets into rows are unsigned: for a signed one the compiler would have
to allow for counting from the end, at every element.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run
from graphkit.ops.cpu.time_encoding import coefficients, cosine, inlined, sine, turns


@inlined
def _collect(q, r, x, index, mask, since, edge, e_id, t, freq, phase, c, phi, keys):  # pragma: no cover - compiled
    """The keys of query ``q``, which is of row ``r``."""
    nodes, events = np.uint64(x.shape[1]), np.uint64(edge.shape[1])
    first = nodes + events
    for k in range(index.shape[1]):
        if mask[r, k]:
            n = index[r, k]
            for d in range(nodes):
                keys[k, d] = x[n, d]
            if edge.shape[1]:
                e = e_id[r, k]
                for d in range(events):
                    keys[k, nodes + d] = edge[e, d]
            cosine(np.float64(t[q] - since[r, k]), freq, phase, c, phi, 0)
            for d in range(np.uint64(len(freq))):
                keys[k, first + d] = phi[0, d]


@kernel
def _attend(
    start, stop, query, x, index, mask, since, edge, e_id, row, t, freq, phase, c, keep, alpha, out
):  # pragma: no cover - compiled
    heads, size, width = query.shape[0], index.shape[1], query.shape[2]
    keys, phi = np.empty((size, width), query.dtype), np.empty((1, len(freq)), query.dtype)
    for q in range(start, stop):
        r = row[q]
        _collect(q, r, x, index, mask, since, edge, e_id, t, freq, phase, c, phi, keys)
        for h in range(heads):
            highest = -np.inf
            for k in range(size):
                if mask[r, k]:
                    score = query.dtype.type(0)
                    for d in range(width):
                        score += keys[k, d] * query[h, r, d]
                    alpha[q, h, k] = score
                    highest = max(highest, score)
            total = query.dtype.type(0)
            for k in range(size):
                if mask[r, k]:
                    alpha[q, h, k] = np.exp(alpha[q, h, k] - highest)
                    total += alpha[q, h, k]
            for k in range(size):
                if mask[r, k]:
                    alpha[q, h, k] /= total
                    weight = alpha[q, h, k]
                    if keep.shape[0]:
                        weight *= keep[q, h, k]
                    for d in range(width):
                        out[h, q, d] += weight * keys[k, d]


@kernel
def _backward_queries(
    start, stop, grad, query, x, index, mask, since, edge, e_id, row, order, pointer, t, freq, phase, c, keep, alpha,
    slope, grad_query, grad_freq, grad_phase,
):  # pragma: no cover - compiled  # fmt: skip
    """For the queries of each row: slopes of the scores, and the gradients of the query, frequencies and phases.

    ``alpha`` becomes the weights as used, after dropout.
    """
    heads, size, width = query.shape[0], index.shape[1], query.shape[2]
    times, first = np.uint64(len(freq)), np.uint64(x.shape[1] + edge.shape[1])
    keys, phi = np.empty((size, width), query.dtype), np.empty((1, len(freq)), query.dtype)
    wave, to_phi = np.empty((1, len(freq)), query.dtype), np.empty(len(freq), query.dtype)
    for r in range(start, stop):
        for p in range(pointer[r], pointer[r + 1]):
            q = order[p]
            _collect(q, r, x, index, mask, since, edge, e_id, t, freq, phase, c, phi, keys)
            for h in range(heads):
                mean = query.dtype.type(0)
                for k in range(size):
                    if mask[r, k]:
                        g = query.dtype.type(0)
                        for d in range(width):
                            g += keys[k, d] * grad[h, q, d]
                        if keep.shape[0]:
                            g *= keep[q, h, k]
                        slope[q, h, k] = g
                        mean += alpha[q, h, k] * g
                for k in range(size):
                    if mask[r, k]:
                        rise = alpha[q, h, k] * (slope[q, h, k] - mean)
                        slope[q, h, k] = rise
                        if keep.shape[0]:
                            alpha[q, h, k] *= keep[q, h, k]
                        for d in range(width):
                            grad_query[h, r, d] += rise * keys[k, d]
            for k in range(size):
                if mask[r, k]:
                    time = np.float64(t[q] - since[r, k])
                    sine(time, freq, phase, c, wave, 0)
                    to_phi[:] = 0
                    for h in range(heads):
                        weight, rise = alpha[q, h, k], slope[q, h, k]
                        for d in range(times):
                            to_phi[d] += weight * grad[h, q, first + d] + rise * query[h, r, first + d]
                    for d in range(times):
                        g = -np.float64(wave[0, d] * to_phi[d])
                        grad_phase[r, d] += g
                        grad_freq[r, d] += g * time


@kernel
def _backward_nodes(start, stop, grad, query, entry, pointer, row, alpha, slope, grad_x):  # pragma: no cover - compiled
    """The gradient of each node's features, from the (query, place) entries that read them."""
    heads, size = alpha.shape[1], alpha.shape[2]
    for n in range(start, stop):
        for p in range(pointer[n], pointer[n + 1]):
            q, k = entry[p] // size, entry[p] % size
            r = row[q]
            for h in range(heads):
                weight, rise = alpha[q, h, k], slope[q, h, k]
                for d in range(grad_x.shape[1]):
                    grad_x[n, d] += weight * grad[h, q, d] + rise * query[h, r, d]


@kernel
def _group(key, pointer, order):  # pragma: no cover - compiled
    """Places of ``key`` in order of its values, equal ones in order of place: a counting sort."""
    for i in range(len(key)):
        pointer[key[i] + 1] += 1
    for g in range(len(pointer) - 1):
        pointer[g + 1] += pointer[g]
    place = pointer.copy()
    for i in range(len(key)):
        order[place[key[i]]] = i
        place[key[i]] += 1


@kernel
def _group_entries(index, mask, row, pointer, order):  # pragma: no cover - compiled
    """The same for the node that entry ``q * K + k`` reads, masked entries left out."""
    size = index.shape[1]
    for q in range(len(row)):
        for k in range(size):
            pointer[index[row[q], k] + 1] += mask[row[q], k]
    for g in range(len(pointer) - 1):
        pointer[g + 1] += pointer[g]
    place = pointer.copy()
    for q in range(len(row)):
        for k in range(size):
            if mask[row[q], k]:
                n = index[row[q], k]
                order[place[n]] = q * size + k
                place[n] += 1


def _optional(edge: Tensor | None, e_id: Tensor, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    return (np.empty((0, 0), dtype) if edge is None else array(edge)), array(e_id)


def neighbor_attention(
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    edge: Tensor | None,
    e_id: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    queries = array(query)
    heads, size = queries.shape[0], index.shape[1]
    kept = np.empty((0, heads, size), queries.dtype) if keep is None else array(keep)
    out = np.zeros((heads, len(row), queries.shape[2]), queries.dtype)
    alpha = np.zeros((len(row), heads, size), queries.dtype)
    run(
        _attend, len(row), queries, array(x), array(index), array(mask), array(since),
        *_optional(edge, e_id, queries.dtype), array(row), array(t), *turns(freq, phase), coefficients(queries.dtype),
        kept, alpha, out, grain=64,
    )  # fmt: skip
    return torch.from_numpy(out), torch.from_numpy(alpha)


def neighbor_attention_backward(
    grad: Tensor,
    alpha: Tensor,
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    edge: Tensor | None,
    e_id: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    queries, gradient, rows, features = array(query), array(grad), array(row), array(x)
    dtype = queries.dtype
    indices, masks, weights = array(index), array(mask), array(alpha).copy()
    slope = np.zeros_like(weights)
    kept = np.empty((0, *weights.shape[1:]), dtype) if keep is None else array(keep)
    pointer, order = np.zeros(len(indices) + 1, np.int64), np.empty(len(rows), np.int64)
    _group(rows, pointer, order)
    grad_query, grad_x = np.zeros_like(queries), np.zeros_like(features)
    grad_freq, grad_phase = np.zeros((len(indices), freq.numel())), np.zeros((len(indices), freq.numel()))
    run(
        _backward_queries, len(indices), gradient, queries, features, indices, masks, array(since),
        *_optional(edge, e_id, dtype), rows, order, pointer, array(t), *turns(freq, phase), coefficients(dtype), kept,
        weights, slope, grad_query, grad_freq, grad_phase, grain=64,
    )  # fmt: skip
    pointer, order = np.zeros(len(features) + 1, np.int64), np.empty(len(rows) * indices.shape[1], np.int64)
    _group_entries(indices, masks, rows, pointer, order)
    run(_backward_nodes, len(features), gradient, queries, order, pointer, rows, weights, slope, grad_x, grain=256)
    to_freq, to_phase = (torch.from_numpy(g.sum(0).astype(dtype)) for g in (grad_freq, grad_phase))
    return torch.from_numpy(grad_query), torch.from_numpy(grad_x), to_freq, to_phase
