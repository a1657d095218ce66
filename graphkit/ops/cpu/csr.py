"""Counting sort of edges by row: O(E + N), no comparison sort."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel


@kernel
def _counting_sort(keys, order, num_keys):  # pragma: no cover - compiled
    """Stable order of ``order`` by ``keys[order]``, and where each key starts."""
    pointer = np.zeros(num_keys + 1, np.int64)
    for e in range(keys.shape[0]):
        pointer[keys[e] + 1] += 1
    for k in range(num_keys):
        pointer[k + 1] += pointer[k]
    place = pointer[:-1].copy()
    result = np.empty(order.shape[0], np.int64)
    for i in range(order.shape[0]):
        e = order[i]
        result[place[keys[e]]] = e
        place[keys[e]] += 1
    return pointer, result


@kernel
def _transpose(rowptr, col, num_cols):  # pragma: no cover - compiled
    pointer = np.zeros(num_cols + 1, np.int64)
    for e in range(col.shape[0]):
        pointer[col[e] + 1] += 1
    for k in range(num_cols):
        pointer[k + 1] += pointer[k]
    place = pointer[:-1].copy()
    row = np.empty(col.shape[0], np.int64)
    perm = np.empty(col.shape[0], np.int64)
    for r in range(rowptr.shape[0] - 1):
        for e in range(rowptr[r], rowptr[r + 1]):
            p = place[col[e]]
            row[p] = r
            perm[p] = e
            place[col[e]] = p + 1
    return pointer, row, perm


def sort_edges(row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> tuple[Tensor, Tensor]:
    """``rowptr [num_rows + 1]`` and the order that sorts the edges by (row, col), duplicates in their given order."""
    rows, cols = array(row), array(col)
    _, by_col = _counting_sort(cols, np.arange(len(cols)), num_cols)
    pointer, perm = _counting_sort(rows, by_col, num_rows)
    return torch.from_numpy(pointer), torch.from_numpy(perm)


def transpose(rowptr: Tensor, col: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """CSR of the transposed pattern: ``(rowptr, col, perm)``, ``perm`` pointing into the given entries."""
    pointer, row, perm = _transpose(array(rowptr), array(col), num_cols)
    return torch.from_numpy(pointer), torch.from_numpy(row), torch.from_numpy(perm)
