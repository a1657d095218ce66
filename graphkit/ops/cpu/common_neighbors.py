"""Intersections of sorted neighbour lists: merged where the degrees are alike, searched where they are far apart.

Reading both lists costs d + D steps; searching each of the d shorter ones in the longer costs about d log2(D / d) with
searches that start where the last one ended (galloping). ``_SEARCH`` is the ratio from which the search wins.

Most of the time goes into waiting for the first line of each list. ``_touch`` asks for those of ``_BLOCK`` pairs at
once, so that the waits overlap; the kernels return its sums only so that the compiler keeps the loads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel, run

_SEARCH = 8
_BLOCK = 32


@kernel
def _touch(start, stop, rowptr, col, nodes):  # pragma: no cover - compiled
    total = 0
    for b in range(start, stop):
        total += rowptr[nodes[b] + 1]
    for b in range(start, stop):
        first, end = rowptr[nodes[b]], rowptr[nodes[b] + 1]
        if first < end:
            total += col[first] + col[end - 1]
    return total


@kernel
def _advance(col, low, end, wanted):  # pragma: no cover - compiled
    """First place in ``col[low:end]`` that is not below ``wanted``, by doubling steps and then halving."""
    step = 1
    high = low
    while high < end and col[high] < wanted:
        low = high + 1
        high += step
        step <<= 1
    if high > end:
        high = end
    while low < high:
        middle = (low + high) >> 1
        if col[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _sum_pairs(start, stop, rowptr1, col1, rowptr2, col2, src, dst, x, out):  # pragma: no cover - compiled
    width = x.shape[1]
    touched = 0
    for base in range(start, stop, _BLOCK):
        end = min(base + _BLOCK, stop)
        touched += _touch(base, end, rowptr1, col1, src) + _touch(base, end, rowptr2, col2, dst)
        for b in range(base, end):
            i, j = src[b], dst[b]
            p, p_end = rowptr1[i], rowptr1[i + 1]
            q, q_end = rowptr2[j], rowptr2[j + 1]
            if (p_end - p) * _SEARCH < q_end - q:
                for e in range(p, p_end):
                    w = col1[e]
                    q = _advance(col2, q, q_end, w)
                    if q == q_end:
                        break
                    if col2[q] == w and w != i and w != j:
                        for k in range(width):
                            out[b, k] += x[w, k]
            elif (q_end - q) * _SEARCH < p_end - p:
                for e in range(q, q_end):
                    w = col2[e]
                    p = _advance(col1, p, p_end, w)
                    if p == p_end:
                        break
                    if col1[p] == w and w != i and w != j:
                        for k in range(width):
                            out[b, k] += x[w, k]
            else:
                while p < p_end and q < q_end:
                    u, v = col1[p], col2[q]
                    if u == v and u != i and u != j:
                        for k in range(width):
                            out[b, k] += x[u, k]
                    # Written without a branch: which list is behind cannot be predicted.
                    p += u <= v
                    q += v <= u
    return touched


@kernel
def _count(
    start, stop, rowptr1, col1, rowptr2, col2, src, dst, common, left, right, residual
):  # pragma: no cover - compiled
    touched = 0
    for base in range(start, stop, _BLOCK):
        end = min(base + _BLOCK, stop)
        touched += _touch(base, end, rowptr1, col1, src) + _touch(base, end, rowptr2, col2, dst)
        for b in range(base, end):
            i, j = src[b], dst[b]
            p, p_end = rowptr1[i], rowptr1[i + 1]
            q, q_end = rowptr2[j], rowptr2[j + 1]
            n, ends1, ends2 = 0, 0, 0
            if residual:
                for e in (i, j):
                    a = _advance(col1, p, p_end, e)
                    if a < p_end and col1[a] == e:
                        ends1 += 1
                    a = _advance(col2, q, q_end, e)
                    if a < q_end and col2[a] == e:
                        ends2 += 1
                    if i == j:
                        break
            d1, d2 = p_end - p, q_end - q
            if d1 * _SEARCH < d2:
                for e in range(p, p_end):
                    w = col1[e]
                    q = _advance(col2, q, q_end, w)
                    if q == q_end:
                        break
                    n += col2[q] == w and w != i and w != j
            elif d2 * _SEARCH < d1:
                for e in range(q, q_end):
                    w = col2[e]
                    p = _advance(col1, p, p_end, w)
                    if p == p_end:
                        break
                    n += col1[p] == w and w != i and w != j
            else:
                while p < p_end and q < q_end:
                    u, v = col1[p], col2[q]
                    n += u == v and u != i and u != j
                    p += u <= v
                    q += v <= u
            common[b + 1] = n
            left[b + 1] = d1 - ends1 - n
            right[b + 1] = d2 - ends2 - n
    return touched


@kernel
def _fill_common(start, stop, rowptr1, col1, rowptr2, col2, src, dst, pointer, node):  # pragma: no cover - compiled
    touched = 0
    for base in range(start, stop, _BLOCK):
        end = min(base + _BLOCK, stop)
        touched += _touch(base, end, rowptr1, col1, src) + _touch(base, end, rowptr2, col2, dst)
        for b in range(base, end):
            n, n_end = pointer[b], pointer[b + 1]
            i, j = src[b], dst[b]
            p, p_end = rowptr1[i], rowptr1[i + 1]
            q = rowptr2[j]
            q_end = rowptr2[j + 1]
            while n < n_end:
                w = col1[p]
                q = _advance(col2, q, q_end, w)
                v = col2[q]
                if v == w:
                    if w != i and w != j:
                        node[n] = w
                        n += 1
                    p += 1
                else:
                    p = _advance(col1, p, p_end, v)
    return touched


@kernel
def _fill_all(
    start, stop, rowptr1, col1, rowptr2, col2, src, dst, pointer, node, left_pointer, left, right_pointer, right
):  # pragma: no cover - compiled
    last = np.iinfo(np.int64).max
    touched = 0
    for base in range(start, stop, _BLOCK):
        end = min(base + _BLOCK, stop)
        touched += _touch(base, end, rowptr1, col1, src) + _touch(base, end, rowptr2, col2, dst)
        for b in range(base, end):
            i, j = src[b], dst[b]
            p, p_end = rowptr1[i], rowptr1[i + 1]
            q, q_end = rowptr2[j], rowptr2[j + 1]
            n, m1, m2 = pointer[b], left_pointer[b], right_pointer[b]
            while p < p_end or q < q_end:
                u = col1[p] if p < p_end else last
                v = col2[q] if q < q_end else last
                w = min(u, v)
                if w != i and w != j:
                    if u == v:
                        node[n] = w
                        n += 1
                    elif u < v:
                        left[m1] = w
                        m1 += 1
                    else:
                        right[m2] = w
                        m2 += 1
                p += u <= v
                q += v <= u
    return touched


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [array(tensor) for tensor in tensors]


def common_neighbor_sum(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, x: Tensor
) -> Tensor:
    graph = _arrays(rowptr1, col1, rowptr2, col2, src, dst)
    features = array(x)
    out = np.zeros((src.numel(), features.shape[1]), features.dtype)
    run(_sum_pairs, src.numel(), *graph, features, out, grain=256)
    return torch.from_numpy(out)


def intersect(
    rowptr1: Tensor, col1: Tensor, rowptr2: Tensor, col2: Tensor, src: Tensor, dst: Tensor, residual: bool
) -> list[tuple[Tensor, Tensor]]:
    """``(ptr, node)`` of the intersections and, with ``residual``, of both differences."""
    graph = _arrays(rowptr1, col1, rowptr2, col2, src, dst)
    pointers = [np.zeros(src.numel() + 1, np.int64) for _ in range(3)]
    run(_count, src.numel(), *graph, *pointers, residual, grain=256)
    pointers = [np.cumsum(pointer) for pointer in pointers]
    if not residual:
        node = np.empty(pointers[0][-1], np.int64)
        run(_fill_common, src.numel(), *graph, pointers[0], node, grain=256)
        return [(torch.from_numpy(pointers[0]), torch.from_numpy(node))]
    parts = [(pointer, np.empty(pointer[-1], np.int64)) for pointer in pointers]
    run(_fill_all, src.numel(), *graph, *(a for part in parts for a in part), grain=256)
    return [(torch.from_numpy(pointer), torch.from_numpy(node)) for pointer, node in parts]
