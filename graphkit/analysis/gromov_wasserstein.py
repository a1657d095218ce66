"""The Gromov-Wasserstein distance: how far two matrices of relations are apart, whatever the order of their rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from graphkit.utils.checks import check_choice, check_int

LOSSES = ("square", "kl")
_TINY = 1e-15  # logarithms of probabilities end here

Solver = Callable[[np.ndarray], np.ndarray]


def gromov_wasserstein(
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None = None,
    q: Tensor | None = None,
    loss: str = "square",
    init: str | Tensor = "identity",
    n_init: int = 3,
    max_iter: int = 200,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Distance of two symmetric matrices up to an alignment of their rows.

    .. math::
        d^2 = \min_T \sum_{ijkl} L(C^1_{ik}, C^2_{jl}) \, T_{ij} T_{kl}, \quad T \geq 0, \; T 1 = p, \; T' 1 = q

    with :math:`L(a, b) = (a - b)^2`, from `"Gromov-Wasserstein distances and the metric approach to object matching"
    <https://doi.org/10.1007/s10208-011-9093-5>`_; for ``"kl"`` :math:`L(a, b) = a \log(a / b) - a + b`, whose minimum
    is returned as it is, without a root. Conditional gradient, with no entropy: each step solves a linear problem
    exactly (an assignment where both have one size and uniform weights, a linear programme elsewhere), and goes to the
    exact minimum on the line to its solution, or exchanges two rows of a permutation where that is better. So the loss
    never grows, and margins are exact. The problem is not convex: of several starts, and of the corners nearest to
    where those end, the best end counts. O(iterations · r³).

    The distance is differentiable in both matrices with the plan held fixed, which by the envelope theorem is the
    gradient of the minimum: :math:`\partial d^2 / \partial C^1 = 2 (C^1 \odot p p' - T C^2 T')`.

    Args:
        C1: ``[n, n]``.
        C2: ``[m, m]``.
        p: ``[n]`` weights that sum to 1; uniform if None.
        q: ``[m]``.
        loss: ``"square"`` or ``"kl"``.
        init: the first start: ``"identity"`` (rows in order), ``"product"`` (:math:`p q'`) or a plan ``[n, m]``.
        n_init: starts: the first one, then the product, then random orders.
        max_iter: most steps of a start.
        seed: the random orders.

    Returns:
        The distance (a scalar) and the plan ``[n, m]``, float64.

    Raises:
        ValueError: not square, not symmetric, not finite, weights that are no distribution, an unknown loss or start,
            for ``"kl"`` negative entries.

    Example:
        >>> path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> order = torch.tensor([1, 0, 2])
        >>> distance, plan = gromov_wasserstein(path, path[order][:, order])
        >>> float(distance)
        0.0
        >>> (3 * plan).long().argmax(1)
        tensor([1, 0, 2])
    """
    check_choice(loss, "loss", LOSSES)
    check_int(n_init, "n_init", 1)
    check_int(max_iter, "max_iter", 1)
    C1, C2 = _matrix(C1, "C1", loss), _matrix(C2, "C2", loss)
    here, there = _margin(p, C1.size(0), "p"), _margin(q, C2.size(0), "q")
    f1, f2, h1, h2 = (part.detach().numpy() for part in _parts(C1, C2, loss))
    constant = (f1 @ here)[:, None] + (f2 @ there)[None]
    solve = _assignment if _uniform(here, there) else _transport(here, there)
    best: tuple[float, np.ndarray] | None = None
    for plan in _starts(init, n_init, here, there, seed):
        for _ in range(2):
            plan, losses = conditional_gradient(constant, h1, h2, plan, solve, max_iter)
            if best is None or losses[-1] < best[0] - 1e-14:
                best = losses[-1], plan
            # Once more from the corner that is nearest to where it ended.
            plan = solve(-plan)
    assert best is not None
    found = torch.from_numpy(best[1])
    value = plan_loss(C1, C2, found, loss).clamp(min=0)
    # The root's slope at 0 is infinite; there the minimum is flat.
    return (value.sqrt() if loss == "square" and float(value.detach()) > 0 else value), found


def plan_loss(C1: Tensor, C2: Tensor, plan: Tensor, loss: str = "square") -> Tensor:
    """The sum that :func:`gromov_wasserstein` makes least, for a given plan; differentiable. O(n m (n + m))."""
    f1, f2, h1, h2 = _parts(C1, C2, loss)
    p, q = plan.sum(1), plan.sum(0)
    one_each = ((plan > 0).sum(1) == 1).all() & ((plan > 0).sum(0) == 1).all()
    if loss == "square" and bool(one_each):
        # Without cancellation, so that equal graphs have distance 0 and not the root of a rounding error.
        order = plan.argmax(1)
        return ((C1 - C2[order][:, order]) ** 2 * p[:, None] * p[None]).sum()
    return p @ f1 @ p + q @ f2 @ q - ((h1 @ plan @ h2) * plan).sum()


def conditional_gradient(
    constant: np.ndarray, h1: np.ndarray, h2: np.ndarray, plan: np.ndarray, solve: Solver, max_iter: int
) -> tuple[np.ndarray, list[float]]:
    """Least ``<constant - h1 T h2, T>`` from ``plan`` on; also the loss of every step, which never grows.

    A step goes towards the corner that the gradient points to, or exchanges two rows of a permutation, which may jump
    over a ridge; whichever lessens the loss more.
    """
    product = h1 @ plan @ h2
    losses = [float(((constant - product) * plan).sum())]
    for _ in range(max_iter):
        gradient = constant - 2 * product
        moves = []
        for change in (solve(gradient) - plan, _exchange(gradient, h1, h2, plan)):
            if change is not None:
                bent = h1 @ change @ h2
                slope, curve = float((gradient * change).sum()), -float((bent * change).sum())
                step = 1.0 if curve <= 0 else min(1.0, max(-slope / (2 * curve), 0.0))
                moves.append((step * slope + step * step * curve, step, change, bent))
        gain, step, change, bent = min(moves, key=lambda move: move[0])
        if gain > -1e-15:
            break
        plan = plan + step * change
        plan[plan < 1e-15] = 0  # what rounding leaves of entries that the step empties
        product = product + step * bent
        losses.append(losses[-1] + gain)
    return plan, losses


def _exchange(gradient: np.ndarray, h1: np.ndarray, h2: np.ndarray, plan: np.ndarray) -> np.ndarray | None:
    """The best exchange of two rows of a permutation, if it lessens the loss; all of them are weighed in O(n²)."""
    n = len(plan)
    if plan.shape[1] != n or np.count_nonzero(plan) != n or n < 2:
        return None
    order = plan.argmax(1)
    linear = gradient[:, order]
    linear = linear + linear.T - linear.diagonal()[:, None] - linear.diagonal()[None]
    here, there = (
        values.diagonal()[:, None] + values.diagonal()[None] - 2 * values for values in (h1, h2[np.ix_(order, order)])
    )
    loss = linear / n - here * there / n**2
    a, b = np.unravel_index(loss.argmin(), loss.shape)
    if loss[a, b] > -1e-14:
        return None
    change = np.zeros_like(plan)
    change[[a, b], order[[a, b]]], change[[a, b], order[[b, a]]] = -1 / n, 1 / n
    return change


def _parts(C1: Tensor, C2: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``L(a, b) = f1(a) + f2(b) - h1(a) h2(b)``."""
    if loss == "square":
        return C1**2, C2**2, C1, 2 * C2
    return torch.xlogy(C1, C1.clamp(min=_TINY)) - C1, C2, C1, C2.clamp(min=_TINY).log()


def _assignment(cost: np.ndarray) -> np.ndarray:
    plan = np.zeros_like(cost)
    plan[linear_sum_assignment(cost)] = 1 / len(cost)
    return plan


def _transport(p: np.ndarray, q: np.ndarray) -> Solver:
    """The linear programme with these margins; its solutions are corners, exact but for rounding."""
    n, m = len(p), len(q)
    margins = sp.vstack([sp.kron(sp.eye(n), np.ones((1, m))), sp.kron(np.ones((1, n)), sp.eye(m))]).tocsr()
    wanted = np.concatenate([p, q])

    def solve(cost: np.ndarray) -> np.ndarray:
        # One margin follows from the others.
        found = linprog(cost.ravel(), A_eq=margins[:-1], b_eq=wanted[:-1], method="highs-ds")
        if found.status != 0:
            raise RuntimeError(f"the transport problem was not solved: {found.message}")
        return found.x.reshape(n, m)

    return solve


def _starts(init: str | Tensor, n_init: int, p: np.ndarray, q: np.ndarray, seed: int) -> list[np.ndarray]:
    if isinstance(init, str):
        check_choice(init, "init", ("identity", "product"))
        first = monotone_plan(p, q) if init == "identity" else np.outer(p, q)
    else:
        first = torch.as_tensor(init, dtype=torch.float64).detach().numpy()
        right = first.shape == (len(p), len(q)) and bool((first >= 0).all())
        if not right or abs(first.sum(1) - p).max() > 1e-9 or abs(first.sum(0) - q).max() > 1e-9:
            raise ValueError(f"init must be a plan [{len(p)}, {len(q)}] with margins p and q (got {list(first.shape)})")
    rng = np.random.default_rng(seed)
    starts = [first, np.outer(p, q)]
    while len(starts) < n_init:
        order = rng.permutation(len(q))
        plan = np.empty((len(p), len(q)))
        plan[:, order] = monotone_plan(p, q[order])
        starts.append(plan)
    return starts[:n_init]


def monotone_plan(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The plan that moves mass without crossing: the identity where both margins are the same."""
    if len(p) == len(q) and np.array_equal(p, q):
        return np.diag(p)
    end, other = np.cumsum(p), np.cumsum(q)
    low = np.maximum((end - p)[:, None], (other - q)[None])
    return (np.minimum(end[:, None], other[None]) - low).clip(min=0)


def _matrix(values: Tensor, name: str, loss: str) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.dim() != 2 or values.size(0) != values.size(1) or not values.numel():
        raise ValueError(f"{name} must be a square matrix (got {list(values.shape)})")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite")
    if not torch.allclose(values, values.t(), atol=1e-9):
        raise ValueError(f"{name} must be symmetric")
    if loss == "kl" and bool((values < 0).any()):
        raise ValueError(f"{name} must not be negative with loss='kl'")
    return values


def _margin(weight: Tensor | None, size: int, name: str) -> np.ndarray:
    if weight is None:
        return np.full(size, 1 / size)
    found = torch.as_tensor(weight, dtype=torch.float64).detach().numpy()
    if found.shape != (size,) or not (found >= 0).all() or abs(found.sum() - 1) > 1e-6:
        got = f"shape {list(found.shape)}, sum {found.sum():.6g}"
        raise ValueError(f"{name} must be {size} weights that sum to 1, none negative (got {got})")
    return found / found.sum()  # in single precision they sum to 1 nearly


def _uniform(p: np.ndarray, q: np.ndarray) -> bool:
    return len(p) == len(q) and bool(np.allclose(p, 1 / len(p), 0, 1e-14) and np.allclose(q, 1 / len(q), 0, 1e-14))
