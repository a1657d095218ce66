"""Gromov-Wasserstein distances against all permutations, finite differences and closed forms."""

from __future__ import annotations

import importlib
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.analysis import gromov_wasserstein
from graphkit.analysis.gromov_wasserstein import _assignment, _parts, conditional_gradient, monotone_plan, plan_loss


def symmetric(n: int, seed: int) -> Tensor:
    values = torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values + values.t()) / 2


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def brute_loss(C1: Tensor, C2: Tensor, plan: Tensor, loss: str = "square") -> float:
    """The quadruple sum as it is written."""
    a, b = C1[:, None, :, None], C2[None, :, None, :]
    cost = (a - b) ** 2 if loss == "square" else torch.xlogy(a, a) - torch.xlogy(a, b) - a + b
    return float(torch.einsum("ijkl,ij,kl->", cost.expand(len(C1), len(C2), len(C1), len(C2)), plan, plan))


@pytest.mark.parametrize("loss", ["square", "kl"])
@pytest.mark.parametrize("sizes", [(5, 5), (4, 6)])
def test_the_loss_is_the_quadruple_sum(loss: str, sizes: tuple[int, int]) -> None:
    C1, C2 = symmetric(sizes[0], 0), symmetric(sizes[1], 1)
    distance, plan = gromov_wasserstein(C1, C2, loss=loss, n_init=2, max_iter=20)
    value = float(distance) ** 2 if loss == "square" else float(distance)
    assert abs(brute_loss(C1, C2, plan, loss) - value) < 1e-12
    product = torch.outer(uniform(sizes[0]), uniform(sizes[1]))
    assert abs(float(plan_loss(C1, C2, product, loss)) - brute_loss(C1, C2, product, loss)) < 1e-12


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_zero_between_relabelled_matrices(seed: int, n: int) -> None:
    C = symmetric(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))
    other = C[order][:, order]
    exact = torch.zeros(n, n, dtype=torch.float64)
    exact[order, torch.arange(n)] = 1 / n
    near = 0.7 * exact + 0.3 * torch.outer(uniform(n), uniform(n))
    distance, plan = gromov_wasserstein(C, other, init=near, n_init=1)
    assert float(distance) <= 1e-8
    torch.testing.assert_close(plan.sum(1), uniform(n), atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(12))
def test_not_above_the_best_of_all_permutations(seed: int) -> None:
    C1, C2 = symmetric(6, seed), symmetric(6, 100 + seed)
    distance, _ = gromov_wasserstein(C1, C2, n_init=20)
    orders = torch.tensor(list(permutations(range(6))))
    best = ((C1 - C2[orders[:, :, None], orders[:, None, :]]) ** 2).mean((1, 2)).min()
    assert float(distance) <= float(best.sqrt()) + 1e-12


@given(seed=st.integers(0, 10_000), n=st.integers(2, 6), m=st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_margins_are_exact_and_the_distance_is_symmetric(seed: int, n: int, m: int) -> None:
    C1, C2 = symmetric(n, seed), symmetric(m, seed + 1)
    there, plan = gromov_wasserstein(C1, C2, n_init=2, max_iter=15)
    torch.testing.assert_close(plan.sum(1), uniform(n), atol=1e-12, rtol=0)
    torch.testing.assert_close(plan.sum(0), uniform(m), atol=1e-12, rtol=0)
    assert float(plan.min()) >= 0
    # The same plan the other way round costs the same, and a descent from it ends no higher.
    assert abs(float(plan_loss(C2, C1, plan.t().contiguous()).sqrt()) - float(there)) < 1e-7
    assert float(gromov_wasserstein(C2, C1, init=plan.t(), n_init=1, max_iter=5)[0]) <= float(there) + 1e-9


def test_symmetric_from_scratch() -> None:
    for seed in range(5):
        C1, C2 = symmetric(6, seed), symmetric(6, 50 + seed)
        there, back = (float(gromov_wasserstein(*pair, n_init=30)[0]) for pair in ((C1, C2), (C2, C1)))
        assert abs(there - back) < 1e-10


@pytest.mark.parametrize("start", ["identity", "product"])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_the_loss_never_grows(start: str, loss: str) -> None:
    steps = 0
    for seed in range(10):
        C1, C2 = symmetric(16, seed), symmetric(16, 50 + seed)
        f1, f2, h1, h2 = (part.numpy() for part in _parts(C1, C2, loss))
        constant = f1.mean(1)[:, None] + f2.mean(1)[None]
        plan = np.eye(16) / 16 if start == "identity" else np.full((16, 16), 1 / 256)
        end, losses = conditional_gradient(constant, h1, h2, plan, _assignment, 200)
        assert all(b <= a for a, b in pairwise(losses))
        assert abs(losses[-1] - float(plan_loss(C1, C2, torch.from_numpy(end), loss))) < 1e-12
        steps += len(losses) - 1
    assert steps > 10


@pytest.mark.parametrize("same_size", [True, False])
def test_gradient_is_that_of_the_minimum_with_the_plan_fixed(same_size: bool) -> None:
    n, m = 5, 5 if same_size else 4
    C1, C2 = symmetric(n, 3), symmetric(m, 4)
    q = torch.rand(m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = {} if same_size else {"q": q / q.sum()}
    C1.requires_grad_()
    distance, plan = gromov_wasserstein(C1, C2, n_init=2, max_iter=20, **weights)
    (found,) = torch.autograd.grad(distance**2, C1)
    with torch.no_grad():
        p = plan.sum(1)
        formula = 2 * (C1 * torch.outer(p, p) - plan @ C2 @ plan.t())
        torch.testing.assert_close(found, formula, atol=1e-12, rtol=0)
        for i, j in ((0, 0), (0, 3), (4, 2)):
            step = torch.zeros(n, n, dtype=torch.float64)
            step[i, j] = 1e-5
            up, down = (brute_loss(C1 + sign * step, C2, plan) for sign in (1, -1))
            assert abs((up - down) / 2e-5 - float(found[i, j])) < 1e-6


def test_gradient_is_that_of_the_minimum_itself() -> None:
    """A small step along the gradient changes the minimum as the gradient says."""
    C1, C2 = symmetric(5, 7), symmetric(5, 8)
    C1.requires_grad_()
    distance, _ = gromov_wasserstein(C1, C2, n_init=20)
    (slope,) = torch.autograd.grad(distance**2, C1)
    with torch.no_grad():
        after = gromov_wasserstein(C1 - 1e-5 * slope, C2, n_init=20)[0] ** 2
    assert abs(float(after - distance.detach() ** 2) + 1e-5 * float((slope**2).sum())) < 1e-9


def test_gradient_at_zero_is_zero() -> None:
    C = symmetric(4, 0).requires_grad_()
    distance, _ = gromov_wasserstein(C, C.detach())
    assert float(distance) == 0
    assert torch.equal(torch.autograd.grad(distance, C)[0], torch.zeros(4, 4, dtype=torch.float64))


def test_weights_split_a_row() -> None:
    """A row that stands for two of the other side: a linear programme finds distance 0."""
    small = torch.tensor([[0.2, 0.9], [0.9, 0.5]], dtype=torch.float64)
    label = torch.tensor([0, 0, 1])
    weight = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    distance, plan = gromov_wasserstein(small[label][:, label], small, q=weight, n_init=10)
    assert float(distance) < 1e-7
    torch.testing.assert_close(plan, torch.eye(2, dtype=torch.float64)[label] / 3, atol=1e-9, rtol=0)
    torch.testing.assert_close(plan.sum(0), weight, atol=1e-12, rtol=0)


def test_the_linear_programme_gives_what_the_assignment_gives(monkeypatch) -> None:
    C1, C2 = symmetric(6, 1), symmetric(6, 2)
    expected, _ = gromov_wasserstein(C1, C2, n_init=2)
    module = importlib.import_module("graphkit.analysis.gromov_wasserstein")
    monkeypatch.setattr(module, "_uniform", lambda p, q: False)
    found, _ = gromov_wasserstein(C1, C2, n_init=2)
    assert abs(float(found) - float(expected)) < 1e-9


def test_distance_of_constants() -> None:
    """All plans are alike: the distance is the difference."""
    C1, C2 = torch.full((3, 3), 0.7), torch.full((5, 5), 0.2)
    assert abs(float(gromov_wasserstein(C1, C2)[0]) - 0.5) < 1e-7


def test_monotone_plan() -> None:
    plan = monotone_plan(np.array([0.5, 0.5]), np.array([0.25, 0.5, 0.25]))
    np.testing.assert_allclose(plan, [[0.25, 0.25, 0], [0, 0.25, 0.25]])


def test_more_starts_are_no_worse_and_a_seed_fixes_them() -> None:
    C1, C2 = symmetric(12, 5), symmetric(12, 6)
    values = [float(gromov_wasserstein(C1, C2, n_init=k)[0]) for k in (1, 2, 10, 40)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert float(gromov_wasserstein(C1, C2, n_init=10)[0]) == values[2]


@pytest.mark.parametrize("loss", ["square", "kl"])
def test_against_pot(loss: str) -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    for seed in range(5):
        C1, C2 = symmetric(8, seed) + 0.1, symmetric(8, 20 + seed) + 0.1
        start = np.eye(8) / 8
        p = np.full(8, 1 / 8)
        plan, log = ot.gromov.gromov_wasserstein(
            C1.numpy(), C2.numpy(), p, p, f"{loss}_loss", G0=start, symmetric=True, log=True
        )
        theirs = float(log["gw_dist"])
        # One loss; and the best of some starts ends no higher.
        assert float(plan_loss(C1, C2, torch.from_numpy(plan), loss)) == pytest.approx(theirs, abs=1e-9)
        ours = float(gromov_wasserstein(C1, C2, loss=loss, n_init=10)[0])
        assert (ours**2 if loss == "square" else ours) <= theirs + 1e-9


good = symmetric(3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"C1": good[:2]}, "C1 must be a square matrix"),
        ({"C2": good[0]}, "C2 must be a square matrix"),
        ({"C2": good + torch.tensor([[0, 1.0, 0]] + [[0, 0, 0]] * 2)}, "C2 must be symmetric"),
        ({"C1": good * float("nan")}, "C1 must be finite"),
        ({"C1": -good, "loss": "kl"}, "C1 must not be negative"),
        ({"loss": "squared"}, "did you mean 'square'"),
        ({"init": "identiy"}, "did you mean 'identity'"),
        ({"init": torch.ones(3, 3)}, "init must be a plan"),
        ({"init": torch.ones(2, 3) / 6}, "init must be a plan"),
        ({"p": torch.ones(3)}, "p must be 3 weights"),
        ({"q": torch.ones(2) / 2}, "q must be 3 weights"),
        ({"n_init": 0}, "n_init"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gromov_wasserstein(**{"C1": good, "C2": good, **arguments})


def test_weights_in_single_precision_sum_to_one_nearly():
    matrix = torch.rand(4, 4, dtype=torch.float64)
    matrix = matrix + matrix.mT
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    value, plan = gromov_wasserstein(matrix, matrix, p, p)
    assert float(value) == pytest.approx(0, abs=1e-9)
    assert torch.allclose(plan.sum(1), p.double(), atol=1e-6)
    with pytest.raises(ValueError, match=r"sum to 1, none negative .got shape .4., sum 2"):
        gromov_wasserstein(matrix, matrix, 2 * p, p)
