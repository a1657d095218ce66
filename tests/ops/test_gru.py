"""The gates of a GRU against PyTorch's cell."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphkit.ops.gru import _gates, gru_gates, gru_gates_reference


@pytest.mark.parametrize("gates", [gru_gates, gru_gates_reference])
def test_equals_the_cell_and_its_gradients(gates) -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(5, 7).double()
    x, h = torch.randn(11, 5).double().requires_grad_(), torch.randn(11, 7).double().requires_grad_()
    weights = (x, h, *cell.parameters())
    got = gates(F.linear(x, cell.weight_ih, cell.bias_ih), F.linear(h, cell.weight_hh, cell.bias_hh), h)
    want = cell(x, h)
    torch.testing.assert_close(got, want)
    direction = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, weights, direction), torch.autograd.grad(want, weights, direction), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradcheck_and_registration() -> None:
    torch.manual_seed(1)
    inputs = tuple(torch.randn(3, w, dtype=torch.float64).requires_grad_() for w in (6, 6, 2))
    assert torch.autograd.gradcheck(gru_gates, inputs)
    torch.library.opcheck(_gates, inputs)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[2, 9\].*got \[2, 9\] and \[2, 6\]"):
        gru_gates(torch.zeros(2, 9), torch.zeros(2, 6), torch.zeros(2, 3))
