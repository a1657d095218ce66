"""Attention over each query's few neighbours in one pass: no ``[Q, K, F]`` tensor of keys is made, in either direction.

A key is three parts in three places: a row of node features, a row of event features, and the cosines of the time
between, which are computed where they are used (:mod:`graphkit.ops.cpu.time_encoding`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run
from graphkit.ops.cpu.time_encoding import coefficients, cosine, sine, turns


@kernel
def _dot(a, b):  # pragma: no cover - compiled
    total = a.dtype.type(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@kernel
def _add(out, scale, a):  # pragma: no cover - compiled
    for d in range(len(a)):
        out[d] += scale * a[d]


@kernel
def _attend(
    start, stop, query, x, index, mask, since, edge, e_id, row, t, freq, phase, c, keep, alpha, out
):  # pragma: no cover - compiled
    heads, size = query.shape[1], index.shape[1]
    nodes, events = x.shape[1], edge.shape[1]
    first = nodes + events
    phi = np.empty((size, len(freq)), query.dtype)
    for q in range(start, stop):
        r = row[q]
        for k in range(size):
            if mask[r, k]:
                cosine(np.float64(t[q] - since[r, k]), freq, phase, c, phi[k])
        for h in range(heads):
            highest = -np.inf
            for k in range(size):
                if mask[r, k]:
                    score = _dot(x[index[r, k]], query[r, h, :nodes]) + _dot(phi[k], query[r, h, first:])
                    if events:
                        score += _dot(edge[e_id[r, k]], query[r, h, nodes:first])
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
                    _add(out[q, h, :nodes], weight, x[index[r, k]])
                    _add(out[q, h, first:], weight, phi[k])
                    if events:
                        _add(out[q, h, nodes:first], weight, edge[e_id[r, k]])


@kernel
def _backward_queries(
    start, stop, grad, query, x, index, mask, since, edge, e_id, row, order, pointer, t, freq, phase, c, keep, alpha,
    slope, grad_query, grad_freq, grad_phase,
):  # pragma: no cover - compiled  # fmt: skip
    """For the queries of each row: slopes of the scores, and the gradients of the query, frequencies and phases.

    ``alpha`` becomes the weights as used, after dropout.
    """
    heads, size = query.shape[1], index.shape[1]
    nodes, events = x.shape[1], edge.shape[1]
    first = nodes + events
    phi = np.empty((size, len(freq)), query.dtype)
    wave = np.empty(len(freq), query.dtype)
    to_phi = np.empty(len(freq), query.dtype)
    for r in range(start, stop):
        for p in range(pointer[r], pointer[r + 1]):
            q = order[p]
            for k in range(size):
                if mask[r, k]:
                    cosine(np.float64(t[q] - since[r, k]), freq, phase, c, phi[k])
            for h in range(heads):
                mean = query.dtype.type(0)
                for k in range(size):
                    if mask[r, k]:
                        g = _dot(x[index[r, k]], grad[q, h, :nodes]) + _dot(phi[k], grad[q, h, first:])
                        if events:
                            g += _dot(edge[e_id[r, k]], grad[q, h, nodes:first])
                        if keep.shape[0]:
                            g *= keep[q, h, k]
                        slope[q, h, k] = g
                        mean += alpha[q, h, k] * g
                for k in range(size):
                    if mask[r, k]:
                        slope[q, h, k] = alpha[q, h, k] * (slope[q, h, k] - mean)
                        if keep.shape[0]:
                            alpha[q, h, k] *= keep[q, h, k]
                        _add(grad_query[r, h, :nodes], slope[q, h, k], x[index[r, k]])
                        _add(grad_query[r, h, first:], slope[q, h, k], phi[k])
                        if events:
                            _add(grad_query[r, h, nodes:first], slope[q, h, k], edge[e_id[r, k]])
            for k in range(size):
                if mask[r, k]:
                    time = np.float64(t[q] - since[r, k])
                    sine(time, freq, phase, c, wave)
                    to_phi[:] = 0
                    for h in range(heads):
                        _add(to_phi, alpha[q, h, k], grad[q, h, first:])
                        _add(to_phi, slope[q, h, k], query[r, h, first:])
                    for d in range(len(freq)):
                        g = -np.float64(wave[d] * to_phi[d])
                        grad_phase[r, d] += g
                        grad_freq[r, d] += g * time


@kernel
def _backward_nodes(start, stop, grad, query, entry, pointer, row, alpha, slope, grad_x):  # pragma: no cover - compiled
    """The gradient of each node's features, from the (query, place) entries that read them."""
    size = alpha.shape[2]
    nodes = grad_x.shape[1]
    for n in range(start, stop):
        for p in range(pointer[n], pointer[n + 1]):
            q, k = entry[p] // size, entry[p] % size
            for h in range(query.shape[1]):
                _add(grad_x[n], alpha[q, h, k], grad[q, h, :nodes])
                _add(grad_x[n], slope[q, h, k], query[row[q], h, :nodes])


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
    heads, size = queries.shape[1], index.shape[1]
    kept = np.empty((0, heads, size), queries.dtype) if keep is None else array(keep)
    out = np.zeros((len(row), heads, queries.shape[2]), queries.dtype)
    alpha = np.zeros((len(row), heads, size), queries.dtype)
    run(
        _attend, len(out), queries, array(x), array(index), array(mask), array(since),
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
    pointer, order = np.zeros(len(queries) + 1, np.int64), np.empty(len(rows), np.int64)
    _group(rows, pointer, order)
    grad_query, grad_x = np.zeros_like(queries), np.zeros_like(features)
    grad_freq, grad_phase = np.zeros((len(queries), freq.numel())), np.zeros((len(queries), freq.numel()))
    run(
        _backward_queries, len(queries), gradient, queries, features, indices, masks, array(since),
        *_optional(edge, e_id, dtype), rows, order, pointer, array(t), *turns(freq, phase), coefficients(dtype), kept,
        weights, slope, grad_query, grad_freq, grad_phase, grain=64,
    )  # fmt: skip
    pointer, order = np.zeros(len(features) + 1, np.int64), np.empty(len(rows) * indices.shape[1], np.int64)
    _group_entries(indices, masks, rows, pointer, order)
    run(_backward_nodes, len(features), gradient, queries, order, pointer, rows, weights, slope, grad_x, grain=256)
    sums = (torch.from_numpy(g.sum(0).astype(dtype)) for g in (grad_freq, grad_phase))
    return torch.from_numpy(grad_query), torch.from_numpy(grad_x), *sums
