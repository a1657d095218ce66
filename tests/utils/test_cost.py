"""Bytes kept for the backward pass: counted once, while they are kept, without what is there anyway."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from graphkit.utils.cost import saved_activation_bytes

ROWS, WIDTH = 10, 8
BLOCK = ROWS * WIDTH * 4


def chain(depth: int) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))


def test_known_sums() -> None:
    """A linear map keeps its input, tanh its output, which is the next map's input: one block a layer and the input."""
    x = torch.randn(ROWS, WIDTH)
    for depth in (1, 2, 5):
        model = chain(depth)
        with saved_activation_bytes(model) as saved:
            out = model(x)
        assert saved.now == saved.peak == saved.total == BLOCK * (depth + 1)
        with saved_activation_bytes(model, x) as saved:
            again = model(x)
        assert saved.now == BLOCK * depth
        del out, again


def test_parameters_count_unless_they_are_held() -> None:
    model, x = (
        nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)),
        torch.randn(2, 8),
    )
    with saved_activation_bytes(x) as all_of_it:
        first = model(x)
    with saved_activation_bytes(x, model) as without:
        second = model(x)
    # The second map's weight is needed for the gradient of its input.
    assert all_of_it.now - without.now == WIDTH * WIDTH * 4
    assert torch.equal(first, second)


def test_views_and_operations_that_share_memory_count_once() -> None:
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    with saved_activation_bytes() as saved:
        y = x * 2  # keeps nothing but a number
        out = (y.view(-1) * y.view(-1)).sum() + (y * y).sum()
    assert saved.now == BLOCK
    out.backward()
    torch.testing.assert_close(x.grad, 16 * x)
    assert saved.now == 0


def test_what_is_freed_is_subtracted_and_the_peak_stays() -> None:
    model, x = chain(3), torch.randn(ROWS, WIDTH)
    with saved_activation_bytes(model, x) as saved:
        for _ in range(4):
            model(x).sum().backward()
            assert saved.now == 0
    assert saved.peak == 3 * BLOCK
    assert saved.total == 12 * BLOCK


def test_graphs_that_are_held_add_up() -> None:
    model, x = chain(2), torch.randn(ROWS, WIDTH)
    with saved_activation_bytes(model, x) as saved:
        held = [model(x) for _ in range(3)]
        assert saved.now == 6 * BLOCK
    held.pop()
    gc.collect()
    assert saved.now == 4 * BLOCK
    held.clear()
    gc.collect()
    assert (saved.now, saved.peak) == (0, 6 * BLOCK)


def test_gradients_are_those_without_counting() -> None:
    model, x = chain(2), torch.randn(ROWS, WIDTH)
    grads = []
    for counts in (False, True):
        model.zero_grad()
        if counts:
            with saved_activation_bytes():
                loss = model(x).square().sum()
        else:
            loss = model(x).square().sum()
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_second_derivatives_are_those_without_counting() -> None:
    x = torch.linspace(0, 1, 9, dtype=torch.float64).view(3, 3).requires_grad_()

    def second() -> torch.Tensor:
        (grad,) = torch.autograd.grad((x.tanh() @ x).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    with saved_activation_bytes():
        counted = second()
    assert torch.equal(counted, second())


def test_nothing_is_counted_after_the_end_or_without_gradients() -> None:
    model, x = chain(2), torch.randn(ROWS, WIDTH)
    with saved_activation_bytes() as saved, torch.no_grad():
        model(x)
    out = model(x)
    assert saved.total == 0
    assert out.requires_grad


def test_an_error_inside_ends_the_counting() -> None:
    saved = saved_activation_bytes()
    with pytest.raises(RuntimeError, match="stop"), saved:
        raise RuntimeError("stop")
    chain(1)(torch.randn(2, WIDTH))
    assert saved.total == 0
