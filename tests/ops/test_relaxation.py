"""Lines around (P)ReLU: they enclose it, the kernel is the reference, gradients are finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.ops import linear_relaxation
from graphkit.ops.relaxation import linear_relaxation_reference

DOUBLE = torch.float64


def intervals(seed: int, rows: int = 40, columns: int = 7, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    """Below, above and around zero, with ends at zero and without width."""
    draw = torch.Generator().manual_seed(seed)
    low, width = torch.randn(2, rows, columns, generator=draw, dtype=dtype)
    high = low + width.abs()
    low[0], high[1], high[2] = 0, 0, low[2]
    high[0], low[1] = high[0].abs(), -low[1].abs()
    low[3], high[3] = 0, 0
    return low, high


@settings(max_examples=200, deadline=None)
@given(st.floats(-5, 5), st.floats(0, 5), st.sampled_from([0.0, 0.25, 1.0]))
def test_two_lines_enclose_the_activation(low: float, width: float, slope: float) -> None:
    high = low + width
    alpha, gamma = linear_relaxation(*torch.tensor([[[low]], [[high]]], dtype=DOUBLE), slope)
    p = torch.linspace(low, high, 51, dtype=DOUBLE)
    value = torch.where(p > 0, p, slope * p)
    assert bool((alpha * p <= value + 1e-12).all())
    assert bool((value <= alpha * p + gamma + 1e-12).all())


def test_relaxation_by_hand() -> None:
    low = torch.tensor([-1.0, 0, -2, 0, -3, 2], dtype=DOUBLE)
    high = torch.tensor([3.0, 3, 0, 0, -1, 2], dtype=DOUBLE)
    alpha, gamma = (lines[0] for lines in linear_relaxation(low[None], high[None]))
    assert alpha.tolist() == [0.75, 1, 0, 1, 0, 1]
    assert gamma.tolist() == [0.75, 0, 0, 0, 0, 0]
    alpha, gamma = (lines[0] for lines in linear_relaxation(low[None], high[None], 0.25))
    assert alpha.tolist() == [0.8125, 1, 0.25, 1, 0.25, 1]
    # The offset of a line alpha (p + beta) is beta.
    assert abs(float(gamma[0] / alpha[0]) - 0.692308) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_the_kernel_is_the_reference_and_so_is_its_gradient(slope: float, dtype: torch.dtype) -> None:
    ends = [end.requires_grad_() for end in intervals(1, dtype=dtype)]
    a = torch.tensor(slope, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 40, 7, dtype=dtype)
    results = []
    for function in (linear_relaxation, linear_relaxation_reference):
        alpha, gamma = function(*ends, a)
        loss = (weight[0] * alpha + weight[1] * gamma).sum()
        results.append((alpha, gamma, *torch.autograd.grad(loss, [*ends, a])))
    for found, expected in zip(*results, strict=True):
        assert bool(found.isfinite().all())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_by_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    low = -torch.rand(5, 4, generator=draw, dtype=DOUBLE) - 0.1
    high = torch.rand(5, 4, generator=draw, dtype=DOUBLE) + 0.1
    low[0], high[1] = 0.2, -0.01  # above zero, below zero
    high[0], low[1] = 0.9, -0.8
    a = torch.tensor(0.3, dtype=DOUBLE)
    given = [part.requires_grad_() for part in (low, high, a)]
    assert torch.autograd.gradcheck(linear_relaxation, given)


def test_narrow_intervals_and_empty_ones() -> None:
    tiny = torch.full((1, 3), 1e-30, requires_grad=True)
    alpha, gamma = linear_relaxation(-tiny, tiny)
    (alpha + gamma).sum().backward()
    assert bool(tiny.grad.isfinite().all())
    assert [lines.shape for lines in linear_relaxation(torch.empty(0, 3), torch.empty(0, 3))] == [(0, 3), (0, 3)]
    assert [lines.shape for lines in linear_relaxation(torch.empty(3, 0), torch.empty(3, 0))] == [(3, 0), (3, 0)]


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="matrices of one shape"):
        linear_relaxation(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="matrices of one shape"):
        linear_relaxation(torch.zeros(3), torch.zeros(3))
