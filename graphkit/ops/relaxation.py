"""Straight lines around ReLU and PReLU on an interval: the elementwise step of bound propagation."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import relaxation as cpu

_NARROW = 1e-12  # intervals around zero count as this wide at least, so that slopes have gradients


def linear_relaxation(lower: Tensor, upper: Tensor, slope: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Two parallel lines around a (P)ReLU of slope :math:`a` below zero, for inputs in :math:`[l, u]`.

    :math:`\alpha p \le \sigma(p) \le \alpha p + \gamma` with :math:`\alpha = 1` from zero on, :math:`\alpha = a` up to
    zero, and for intervals around zero

    .. math:: \alpha = \frac{u - a l}{u - l}, \qquad \gamma = \frac{(a - 1) \, u \, l}{u - l}

    One pass over the entries on the CPU, forward and backward.

    Args:
        lower, upper: intervals ``[N, H]``.
        slope: :math:`a`, in [0, 1].

    Returns:
        :math:`\alpha` and :math:`\gamma`; differentiable once in all three, finite everywhere.

    Raises:
        ValueError: shapes that differ or are no matrices.

    Example:
        >>> alpha, gamma = linear_relaxation(torch.tensor([[-1.0]]), torch.tensor([[3.0]]))
        >>> alpha.item(), gamma.item()
        (0.75, 0.75)
    """
    if lower.dim() != 2 or lower.shape != upper.shape:
        raise ValueError(
            f"lower and upper must be matrices of one shape (got {list(lower.shape)}, {list(upper.shape)})"
        )
    if not isinstance(slope, Tensor):
        slope = torch.tensor(slope, dtype=lower.dtype, device=lower.device)
    if lower.device.type == "cpu" and lower.dtype in (torch.float32, torch.float64):
        return _linear_relaxation(lower, upper, slope.to(lower.dtype))
    return linear_relaxation_reference(lower, upper, slope)


def linear_relaxation_reference(lower: Tensor, upper: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    crosses = (lower < 0) & (upper > 0)
    # A safe width where it is not used, or its gradient would be NaN there.
    width = torch.where(crosses, upper - lower, 1.0).clamp(min=_NARROW)
    outside = torch.where(lower >= 0, 1.0, slope)
    alpha = torch.where(crosses, (upper - slope * lower) / width, outside)
    gamma = torch.where(crosses, (slope - 1) * upper * lower / width, 0.0)
    return alpha, gamma


@torch.library.custom_op("graphkit::linear_relaxation", mutates_args=())
def _linear_relaxation(lower: Tensor, upper: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    return cpu.linear_relaxation(lower, upper, float(slope), _NARROW)


@_linear_relaxation.register_fake
def _(lower: Tensor, upper: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(lower), torch.empty_like(lower)


@torch.library.custom_op("graphkit::linear_relaxation_backward", mutates_args=())
def _linear_relaxation_backward(
    lower: Tensor, upper: Tensor, slope: Tensor, grad_alpha: Tensor, grad_gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.linear_relaxation_backward(lower, upper, float(slope), _NARROW, grad_alpha, grad_gamma)


@_linear_relaxation_backward.register_fake
def _(
    lower: Tensor, upper: Tensor, slope: Tensor, grad_alpha: Tensor, grad_gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(slope)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_alpha: Tensor, grad_gamma: Tensor):
    return _linear_relaxation_backward(*ctx.saved_tensors, grad_alpha, grad_gamma)


_linear_relaxation.register_autograd(_backward, setup_context=_setup)
