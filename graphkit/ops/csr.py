"""Compressed sparse rows: edges sorted by row, with the way back to their given order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.ops.cpu import csr as cpu


class CSR(NamedTuple):
    """Edges sorted by (row, column), duplicates kept.

    Attributes:
        rowptr: ``[num_rows + 1]`` int64; row ``i`` owns the entries ``rowptr[i] : rowptr[i + 1]``.
        col: ``[E]`` int64, the other end of each entry.
        perm: ``[E]`` int64, the position of each entry in the edges as given.
    """

    rowptr: Tensor
    col: Tensor
    perm: Tensor


def to_csr(row: Tensor, col: Tensor, num_rows: int, num_cols: int | None = None) -> CSR:
    """Sort edges by (row, col). O(E + N) on the CPU (counting sort), one radix sort on a GPU.

    Args:
        row, col: ``[E]`` integer tensors; within ``[0, num_rows)`` and ``[0, num_cols)``, which is not checked here.
        num_rows, num_cols: sizes; ``num_cols`` defaults to ``num_rows``.

    Example:
        >>> to_csr(torch.tensor([1, 0, 1]), torch.tensor([2, 1, 0]), 3).col
        tensor([1, 0, 2])
    """
    num_cols = num_rows if num_cols is None else num_cols
    row, col = row.long(), col.long()
    if row.device.type == "cpu":
        rowptr, perm = cpu.sort_edges(row, col, num_rows, num_cols)
        return CSR(rowptr, col[perm], perm)
    perm = torch.argsort(row * num_cols + col, stable=True)
    return CSR(counts_to_ptr(torch.bincount(row, minlength=num_rows)), col[perm], perm)


def transpose(rowptr: Tensor, col: Tensor, num_cols: int) -> CSR:
    """CSR of the transposed pattern (entries of a column in row order), ``perm`` pointing into the given entries."""
    if col.device.type == "cpu":
        return CSR(*cpu.transpose(rowptr, col, num_cols))
    perm = torch.argsort(col, stable=True)
    row = ptr_to_index(rowptr, col.numel())
    return CSR(counts_to_ptr(torch.bincount(col, minlength=num_cols)), row[perm], perm)


def counts_to_ptr(counts: Tensor) -> Tensor:
    """``[n]`` sizes to ``[n + 1]`` offsets."""
    pointer = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts, 0, out=pointer[1:])
    return pointer


def ptr_to_index(pointer: Tensor, total: int | None = None) -> Tensor:
    """``[n + 1]`` offsets to the segment number of each of the ``total`` entries (``total`` spares a GPU a wait)."""
    segments = torch.arange(pointer.numel() - 1, device=pointer.device)
    return torch.repeat_interleave(segments, pointer.diff(), output_size=total)
