"""Straight-through estimators: hard values in the forward pass, the gradient of something soft in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphkit.utils.checks import check_range


class Choice(NamedTuple):
    """One decision among some options.

    Args:
        probs: probabilities of the options, ``[num_options]``; None where there is only one.
        taken: number of the option taken: the most probable one.
    """

    probs: Tensor | None = None
    taken: int = 0


def straight_through(hard: Tensor, soft: Tensor, passes: Tensor | None = None) -> Tensor:
    """The values of ``hard``, bit for bit, with the gradient of ``soft``, as in `"Estimating or Propagating Gradients
    Through Stochastic Neurons for Conditional Computation" <https://arxiv.org/abs/1308.3432>`_.

    Args:
        hard: the output; gets no gradient.
        soft: of the same shape; gets the output's gradient.
        passes: boolean mask of the entries through which the gradient passes; None for all.

    Raises:
        ValueError: two shapes.

    Example:
        >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> straight_through(x.round(), 2 * x).sum().backward()
        >>> x.grad
        tensor([2., 2.])
    """
    if hard.shape != soft.shape or (passes is not None and passes.shape != soft.shape):
        shapes = [list(part.shape) for part in (hard, soft, passes) if part is not None]
        raise ValueError(f"hard, soft and passes must have one shape (got {', '.join(map(str, shapes))})")
    return _StraightThrough.apply(hard.detach(), soft, passes)


def straight_through_round(x: Tensor) -> Tensor:
    """The nearest whole number, half to even, with derivative one.

    Example:
        >>> straight_through_round(torch.tensor([0.5, 1.5, -0.6]))
        tensor([ 0.,  2., -1.])
    """
    return straight_through(x.round(), x)


def straight_through_sign(x: Tensor, limit: float = 1.0) -> Tensor:
    """-1 or 1, and 1 for zero, with derivative one where ``|x| <= limit`` and zero elsewhere.

    Raises:
        ValueError: ``limit`` not positive.

    Example:
        >>> x = torch.tensor([-2.0, 0.0, 0.3], requires_grad=True)
        >>> straight_through_sign(x).tolist()
        [-1.0, 1.0, 1.0]
    """
    check_range(limit, "limit", 0, low_open=True)
    return straight_through(torch.where(x < 0, -1.0, 1.0).to(x.dtype), x, x.abs() <= limit)


def straight_through_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` clamped, with derivative one also outside, so that what left the range can come back.

    Raises:
        ValueError: ``low`` above ``high``.
    """
    check_range(low, "low", high=high)
    return straight_through(x.clamp(low, high), x)


def straight_through_choice(probs: Tensor) -> Tensor:
    """One-hot coefficients of the most probable option, with the gradient of the probabilities:
    ``c = onehot(argmax P) + P - stop_gradient(P)``.

    Args:
        probs: ``[..., num_options]``.

    Example:
        >>> straight_through_choice(torch.tensor([0.2, 0.5, 0.3]))
        tensor([0., 1., 0.])
    """
    hard = torch.zeros_like(probs).scatter(-1, probs.argmax(-1, keepdim=True), 1)
    return straight_through(hard, probs)


def straight_through_mixture(
    branches: Sequence[Callable[[], Tensor]],
    choice: Choice,
    chosen: Tensor | None = None,
    sample: bool = False,
) -> Tensor:
    r"""The output of the chosen branch, with the gradient of a mixture in the probabilities.

    :math:`y = \sum_o c_o \, op_o(x)` with :math:`c = onehot(\arg\max P) + P - stop\_gradient(P)`, so that the gradient
    of the probability of option o is :math:`\langle \partial L / \partial y, op_o(x) \rangle`. The forward pass
    computes the chosen branch alone. The other branches are computed in the backward pass, one after the other, without
    a graph of their own: their time is paid there, and no memory between the passes. Weights of branches that are not
    chosen get no gradient.

    Args:
        branches: a function for each option, which returns its output; all of one shape.
        choice: the decision.
        chosen: the output of the chosen branch, if it is known already.
        sample: compute one other branch, drawn at random, instead of all: its share of the gradient is scaled by the
            number of the others, so that the expectation stays the same.

    Raises:
        ValueError: no branches, or the choice is not among them.

    Example:
        >>> x, probs = torch.tensor([3.0]), torch.tensor([0.6, 0.4], requires_grad=True)
        >>> y = straight_through_mixture([lambda: x, lambda: x * x], Choice(probs, 0))
        >>> y.backward()
        >>> y.item(), probs.grad.tolist()
        (3.0, [3.0, 9.0])
    """
    probs, index = choice
    if not 0 <= index < len(branches):
        raise ValueError(f"choice must be one of {len(branches)} branches (got {index})")
    if probs is not None and probs.shape != (len(branches),):
        raise ValueError(f"choice.probs must have shape [{len(branches)}], one a branch (got {list(probs.shape)})")
    if chosen is None:
        chosen = branches[index]()
    if probs is None or len(branches) == 1 or not (probs.requires_grad and torch.is_grad_enabled()):
        return chosen
    others = [option for option in range(len(branches)) if option != index]
    scale = 1
    if sample:
        scale = len(others)
        others = [others[int(torch.randint(len(others), ()))]]
    return _Mixture.apply(chosen, probs, index, {option: branches[option] for option in others}, scale)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (passes,) = ctx.saved_tensors
        return None, grad if passes is None else grad * passes, None


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chosen: Tensor, probs: Tensor, index: int, others: dict[int, Callable[[], Tensor]], scale: int
    ) -> Tensor:
        ctx.save_for_backward(chosen, probs)
        ctx.index, ctx.others, ctx.scale = index, others, scale
        return chosen.view_as(chosen)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None, None
        chosen, probs = ctx.saved_tensors
        zero = grad.new_zeros(())
        products = [zero] * probs.numel()
        products[ctx.index] = (grad * chosen).sum()
        with torch.no_grad():
            for option, branch in ctx.others.items():
                products[option] = ctx.scale * (grad * branch()).sum()
        return grad, torch.stack(products).to(probs.dtype), None, None, None
