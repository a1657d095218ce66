"""Compressed rows against Python's own sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.ops import to_csr
from graphkit.ops.csr import counts_to_ptr, ptr_to_index, transpose


@st.composite
def matrices(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    rows, cols = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    entry = st.tuples(st.integers(0, rows - 1), st.integers(0, cols - 1))
    return draw(st.lists(entry, max_size=40)), rows, cols


def tensors(entries: list[tuple[int, int]], dtype: torch.dtype = torch.long) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(entries, dtype=dtype).view(-1, 2).t())


@given(matrices(), st.sampled_from([torch.int64, torch.int32]))
@settings(deadline=None, max_examples=60)
def test_to_csr(matrix, dtype) -> None:
    entries, rows, cols = matrix
    csr = to_csr(*tensors(entries, dtype), rows, cols)
    order = sorted(range(len(entries)), key=entries.__getitem__)  # stable: repeated entries keep their order
    assert csr.perm.tolist() == order
    assert csr.col.tolist() == [entries[e][1] for e in order]
    assert csr.rowptr.tolist() == [sum(row < r for row, _ in entries) for r in range(rows + 1)]
    assert csr.rowptr.dtype == csr.col.dtype == csr.perm.dtype == torch.int64


@given(matrices())
@settings(deadline=None, max_examples=60)
def test_transpose(matrix) -> None:
    entries, rows, cols = matrix
    csr = to_csr(*tensors(entries), rows, cols)
    back = transpose(csr.rowptr, csr.col, cols)
    row = ptr_to_index(csr.rowptr)
    want = sorted(range(len(entries)), key=lambda e: (int(csr.col[e]), int(row[e])))
    assert [(int(back.col[p]), e) for p, e in enumerate(back.perm.tolist())] == [(int(row[e]), e) for e in want]
    assert back.rowptr.tolist() == [sum(col < c for _, col in entries) for c in range(cols + 1)]
    again = transpose(back.rowptr, back.col, rows)
    assert torch.equal(again.rowptr, csr.rowptr)
    assert torch.equal(again.col, csr.col)


def test_columns_default_to_rows() -> None:
    row, col = torch.tensor([2, 0]), torch.tensor([1, 2])
    assert all(torch.equal(a, b) for a, b in zip(to_csr(row, col, 3), to_csr(row, col, 3, 3), strict=True))


def test_inputs_stay_as_they_are() -> None:
    row, col = torch.tensor([2, 0, 2]), torch.tensor([1, 2, 0])
    to_csr(row, col, 3)
    assert (row._version, col._version) == (0, 0)
    assert row.tolist() == [2, 0, 2]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=10))
@settings(deadline=None)
def test_offsets_and_segments(counts) -> None:
    pointer = counts_to_ptr(torch.tensor(counts))
    assert pointer.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
    want = [segment for segment, count in enumerate(counts) for _ in range(count)]
    assert ptr_to_index(pointer).tolist() == want
    assert ptr_to_index(pointer, sum(counts)).tolist() == want


@pytest.mark.parametrize("rows", [0, 3])
def test_no_entries(rows: int) -> None:
    none = torch.zeros(0, dtype=torch.long)
    csr = to_csr(none, none, rows)
    assert csr.rowptr.tolist() == [0] * (rows + 1)
    assert csr.col.numel() == csr.perm.numel() == 0
    assert transpose(csr.rowptr, csr.col, 2).rowptr.tolist() == [0, 0, 0]
