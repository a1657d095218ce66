"""Straight-through estimators: values, gradients, and mixtures against their definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphkit.nn.quantize import (
    Choice,
    straight_through,
    straight_through_choice,
    straight_through_clamp,
    straight_through_mixture,
    straight_through_round,
    straight_through_sign,
)

X = torch.tensor([-2.5, -1.0, -0.5, -0.0, 0.3, 0.5, 1.0, 1.5, 7.0], dtype=torch.float64)


def gradient(function, x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Output, and the gradient divided by that of the output."""
    x = x.clone().requires_grad_()
    out = function(x)
    weight = torch.rand(out.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) + 0.5
    out.backward(weight)
    return out.detach(), x.grad / weight


def test_round_is_half_to_even_with_derivative_one() -> None:
    out, slope = gradient(straight_through_round, X)
    assert out.tolist() == [-2, -1, 0, 0, 0, 0, 1, 2, 7]
    assert torch.equal(slope, torch.ones_like(X))


@pytest.mark.parametrize("limit", [1.0, 2.5])
def test_sign_of_zero_is_positive_and_far_values_get_no_gradient(limit: float) -> None:
    out, slope = gradient(lambda x: straight_through_sign(x, limit), X)
    assert out.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1, 1]
    assert torch.equal(slope, (X.abs() <= limit).double())


def test_clamp_lets_gradients_through_outside() -> None:
    out, slope = gradient(lambda x: straight_through_clamp(x, -1, 1), X)
    assert torch.equal(out, X.clamp(-1, 1))
    assert torch.equal(slope, torch.ones_like(X))
    assert not torch.equal(slope, gradient(lambda x: x.clamp(-1, 1), X)[1])


def test_values_are_those_of_hard_bit_for_bit() -> None:
    # soft + (hard - soft) would lose the last bits here.
    hard, soft = torch.tensor([0.1]), torch.tensor([1e8], requires_grad=True)
    out = straight_through(hard, soft)
    assert torch.equal(out, hard)
    assert float(soft + (hard - soft).detach()) != float(hard)
    out.backward()
    assert soft.grad.item() == 1


def test_choice_is_one_hot_with_the_gradient_of_the_probabilities() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = straight_through_choice(logits.softmax(-1))
    assert out.tolist() == [[0, 1, 0], [1, 0, 0]]
    (got,) = torch.autograd.grad((out * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(got, expected)


OPERATIONS = (torch.tanh, torch.square, torch.abs, torch.sin)


def mixture(x: Tensor, probs: Tensor, **options) -> Tensor:
    branches = [lambda f=f: f(x) for f in OPERATIONS]
    return straight_through_mixture(branches, Choice(probs, int(probs.argmax())), **options)


def test_mixture_has_the_gradient_of_its_definition() -> None:
    """Against y = sum_o c_o op_o(x) with c = onehot + P - stop_gradient(P), all branches computed."""
    x = torch.linspace(-1, 1, 7, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(1, 3, 7, dtype=torch.float64)

    probs = logits.softmax(0)
    c = torch.eye(4, dtype=torch.float64)[int(probs.argmax())] + probs - probs.detach()
    full = sum(share * f(x) for share, f in zip(c, OPERATIONS, strict=True))
    expected = torch.autograd.grad((full * weight).sum(), (x, logits))
    out = mixture(x, logits.softmax(0))
    assert torch.equal(out, x.abs())
    got = torch.autograd.grad((out * weight).sum(), (x, logits))
    torch.testing.assert_close(got, expected)


def test_gradient_of_the_logits_is_the_finite_difference_of_the_expected_product() -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    grad = torch.linspace(1, 3, 7, dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    mixture(x, logits.softmax(0)).backward(grad)

    def expected_product(at: Tensor) -> float:
        products = torch.stack([(grad * f(x)).sum() for f in OPERATIONS])
        return float(at.softmax(0) @ products)

    step = 1e-6 * torch.eye(4, dtype=torch.float64)
    at = logits.detach()
    slopes = [(expected_product(at + e) - expected_product(at - e)) / 2e-6 for e in step]
    torch.testing.assert_close(logits.grad, torch.tensor(slopes, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_sampling_other_branches_keeps_the_expectation() -> None:
    x, probs = torch.linspace(-1, 1, 5), torch.tensor([0.1, 0.2, 0.6, 0.1])
    torch.manual_seed(0)
    found = []
    for _ in range(600):
        p = probs.clone().requires_grad_()
        mixture(x, p, sample=True).sum().backward()
        assert int((p.grad != 0).sum()) <= 2
        found.append(p.grad)
    exact = probs.clone().requires_grad_()
    mixture(x, exact).sum().backward()
    spread = torch.stack(found).std(0) / 600**0.5
    assert bool(((torch.stack(found).mean(0) - exact.grad).abs() <= 4 * spread + 1e-6).all())


def test_mixture_computes_one_branch_forward_and_the_others_only_for_a_gradient() -> None:
    calls: list[str] = []

    def branch(name: str, factor: float):
        def run() -> Tensor:
            calls.append(name)
            return factor * x

        return run

    x = torch.ones(2, requires_grad=True)
    branches = [branch("a", 1), branch("b", 2)]
    straight_through_mixture(branches, Choice(torch.tensor([0.4, 0.6]), 1)).sum().backward()
    assert calls == ["b"]
    probs = torch.tensor([0.4, 0.6], requires_grad=True)
    out = straight_through_mixture(branches, Choice(probs, 1))
    assert calls == ["b", "b"]
    out.sum().backward()
    assert calls == ["b", "b", "a"]
    assert probs.grad.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: straight_through(torch.ones(2), torch.ones(3)), r"one shape \(got \[2\], \[3\]\)"),
        (lambda: straight_through_sign(X, 0), "limit must be in"),
        (lambda: straight_through_clamp(X, 2, 1), "low must be in"),
        (lambda: straight_through_mixture([], Choice()), "one of 0 branches"),
        (lambda: straight_through_mixture([lambda: X], Choice(None, 1)), r"one of 1 branches \(got 1\)"),
        (lambda: straight_through_mixture([lambda: X], Choice(torch.ones(2), 0)), r"shape \[1\].*got \[2\]"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
