"""Sparse times dense against a dense product, with gradients, compilation and threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.ops import spmm, to_csr
from graphkit.ops.csr import ptr_to_index
from graphkit.ops.spmm import _spmm, _spmm_transposed, sampled_dot, spmm_reference

DOUBLE = torch.float64


def sample(rows: int, cols: int, entries: int, width: int, dtype: torch.dtype = DOUBLE, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(max(rows - 1, 1), (entries,), generator=generator)  # the last row stays empty
    csr = to_csr(row, torch.randint(cols, (entries,), generator=generator), rows, cols)
    x = torch.randn(cols, width, generator=generator, dtype=DOUBLE).to(dtype)
    return csr.rowptr, csr.col, x, torch.randn(entries, generator=generator, dtype=DOUBLE).to(dtype)


def dense(rowptr: Tensor, col: Tensor, weight: Tensor, cols: int) -> Tensor:
    matrix = weight.new_zeros(rowptr.numel() - 1, cols)
    return matrix.index_put((ptr_to_index(rowptr), col), weight, accumulate=True)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 60),
    st.sampled_from([1, 2, 7, 64, 65]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_equals_the_dense_product(rows, cols, entries, width, weighted, seed) -> None:
    rowptr, col, x, weight = sample(rows, cols, entries, width, seed=seed)
    matrix = dense(rowptr, col, weight if weighted else torch.ones_like(weight), cols)
    got = spmm(rowptr, col, x, weight if weighted else None)
    torch.testing.assert_close(got, matrix @ x, rtol=0, atol=1e-12)
    torch.testing.assert_close(spmm_reference(rowptr, col, x, weight if weighted else None), matrix @ x)
    torch.testing.assert_close(sampled_dot(rowptr, col, got, x), (got @ x.t())[ptr_to_index(rowptr), col])


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)], ids=str
)
def test_other_precisions(dtype: torch.dtype, limit: float) -> None:
    rowptr, col, x, weight = sample(20, 15, 80, 9, dtype)
    got = spmm(rowptr, col, x, weight)
    want = dense(rowptr, col, weight.double(), 15) @ x.double()
    assert got.dtype == dtype
    assert float((got.double() - want).norm() / want.norm()) < limit


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(weighted: bool) -> None:
    rowptr, col, x, weight = sample(6, 5, 14, 3)
    x.requires_grad_()
    inputs = (x, weight.requires_grad_()) if weighted else (x,)
    assert torch.autograd.gradcheck(lambda *given: spmm(rowptr, col, *given), inputs)
    # Only the gradient that is asked for.
    (only,) = torch.autograd.grad(spmm(rowptr, col, x.detach(), weight.requires_grad_()).sum(), weight)
    torch.testing.assert_close(only, x.detach()[col].sum(1))


def test_no_value_is_lost() -> None:
    """NaN and infinity come out where they belong, though the kernels are compiled for speed."""
    rowptr, col = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2])
    x = torch.tensor([[float("nan")], [float("inf")], [-1.0]])
    out = spmm(rowptr, col, x)[:, 0]
    assert bool(out[0].isnan())
    assert out[1:].tolist() == [float("inf"), -1.0]
    zero = spmm(rowptr, col, x, torch.zeros(3))[:, 0]
    assert zero.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("width", [0, 3])
def test_empty(rows: int, width: int) -> None:
    rowptr, col = torch.zeros(rows + 1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    x = torch.randn(2, width, requires_grad=True)
    out = spmm(rowptr, col, x)
    assert out.shape == (rows, width)
    assert not out.any()
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.shape == x.shape
    assert not gradient.any()
    assert sampled_dot(rowptr, col, torch.randn(rows, width), x).shape == (0,)


def test_strided_input() -> None:
    rowptr, col, x, weight = sample(6, 5, 14, 4)
    want = spmm(rowptr, col, x, weight)
    strided = torch.stack([weight, weight], 1)[:, 0]
    torch.testing.assert_close(spmm(rowptr, col, x.t().contiguous().t(), strided), want)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.randn(2), None, r"x must be a matrix.*\[2\]"),
        (torch.randn(2, 3), torch.ones(3), r"weight must be \[2\].*\[3\]"),
        (torch.randn(2, 3), torch.ones(2, dtype=DOUBLE), "weight must be.*float64"),
    ],
)
def test_wrong_shapes(x: Tensor, weight: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spmm(torch.tensor([0, 2]), torch.tensor([0, 1]), x, weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_operators_are_well_formed(weighted: bool) -> None:
    rowptr, col, x, weight = sample(6, 5, 14, 3)
    inputs = (rowptr, col, x.requires_grad_(), weight.requires_grad_() if weighted else None)
    torch.library.opcheck(_spmm, inputs)
    tests = ("test_schema", "test_faketensor")
    grad = torch.randn(6, 3, dtype=DOUBLE)
    torch.library.opcheck(
        _spmm_transposed, (rowptr, col, grad, weight.detach() if weighted else None, 5), test_utils=tests
    )
    torch.library.opcheck(sampled_dot, (rowptr, col, grad, x.detach()), test_utils=tests)


def test_compiles_without_graph_breaks() -> None:
    rowptr, col, x, weight = sample(6, 5, 14, 3)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return (spmm(rowptr, col, x.relu(), weight) ** 2).sum()

    inputs = (x.requires_grad_(), weight.requires_grad_())
    want = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), want)


@pytest.mark.parametrize("weighted", [False, True])
def test_threads_do_not_change_the_result(weighted: bool) -> None:
    """Enough work for several pieces, most of it in one row."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(500, (40_000,), generator=generator)
    row[:15_000] = 3
    csr = to_csr(row, torch.randint(200, (40_000,), generator=generator), 500, 200)
    x = torch.randn(200, 32, generator=generator)
    weight = torch.randn(40_000, generator=generator) if weighted else None
    grad = torch.randn(500, 32, generator=generator)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append((spmm(csr.rowptr, csr.col, x, weight), sampled_dot(csr.rowptr, csr.col, grad, x)))
    finally:
        torch.set_num_threads(threads)
    for out, dots in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(dots, found[0][1])
