"""Spikes and leaky integrate-and-fire neurons, with surrogate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from graphkit.ops.cpu import spiking as cpu
from graphkit.ops.scan import has_kernel, sequence_ptr
from graphkit.utils.checks import check_choice

# Slope of the step function that gradients see, by distance from the threshold and sharpness.
_SLOPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "atan": lambda u, a: a / 2 / (1 + (math.pi / 2 * a * u).square()),
    "sigmoid": lambda u, a: a * torch.sigmoid(a * u) * torch.sigmoid(-a * u),
    "triangle": lambda u, a: a * (1 - u.abs()).clamp(min=0),
    "quadratic": lambda u, a: (a - a**2 * u.abs()).clamp(min=0),
    "rectangle": lambda u, a: (u.abs() < a).to(u.dtype),
    "straight-through": lambda u, a: torch.ones_like(u),
}
SURROGATES = tuple(_SLOPES)
_SHARPNESS = {
    "atan": 2.0,
    "sigmoid": 4.0,
    "triangle": 0.3,
    "quadratic": 2.0,
    "rectangle": 0.25,
    "straight-through": 1.0,
}
RESETS = cpu.RESETS


def surrogate_slope(u: Tensor, surrogate: str = "atan", alpha: float | None = None) -> Tensor:
    r"""The slope that gradients see in place of that of the step function at 0.

    With :math:`\alpha` the sharpness: ``"atan"`` :math:`\frac{\alpha}{2 (1 + (\frac{\pi}{2} \alpha u)^2)}`, 2;
    ``"sigmoid"`` :math:`\alpha \sigma(\alpha u) \sigma(-\alpha u)`, 4; ``"triangle"`` :math:`\alpha \max(0, 1 - |u|)`,
    0.3; ``"quadratic"`` :math:`\max(0, \alpha - \alpha^2 |u|)`, 2; ``"rectangle"`` :math:`[|u| < \alpha]`, 0.25;
    ``"straight-through"`` 1.

    Args:
        u: how far above the threshold.
        surrogate: one of ``SURROGATES``.
        alpha: the sharpness; the number above if None.

    Raises:
        ValueError: an unknown surrogate.

    Example:
        >>> surrogate_slope(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.0920])
    """
    check_choice(surrogate, "surrogate", SURROGATES)
    return _SLOPES[surrogate](u, _SHARPNESS[surrogate] if alpha is None else alpha)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, surrogate: str, alpha: float | None) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate, ctx.alpha = surrogate, alpha
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return grad * surrogate_slope(u, ctx.surrogate, ctx.alpha), None, None


def spike(u: Tensor, surrogate: str = "atan", alpha: float | None = None) -> Tensor:
    """1 where ``u`` is not negative, 0 elsewhere; gradients see :func:`surrogate_slope`.

    Example:
        >>> spike(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 1., 1.])
    """
    check_choice(surrogate, "surrogate", SURROGATES)
    return _Spike.apply(u, surrogate, alpha)


def lif_scan(
    x: Tensor,
    ptr: Tensor | None = None,
    state: Tensor | None = None,
    *,
    decay: float | Tensor = 0.5,
    threshold: float | Tensor = 1.0,
    input_scale: float = 1.0,
    reset: str = "hard",
    surrogate: str = "atan",
    alpha: float | None = None,
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Leaky integrate-and-fire neurons, a step a token:

    .. math:: h_t = \lambda v_{t-1} + c\, x_t, \qquad s_t = [h_t \ge \theta], \qquad
              v_t = h_t (1 - s_t) \text{ (hard)}, \; h_t - \theta s_t \text{ (soft)}, \; h_t \text{ (none)}

    Gradients see :func:`surrogate_slope` of :math:`h_t - \theta` in place of the slope of the step function, also
    through the reset unless ``detach_reset``. One pass back in time, which stores h alone. O(N F); compiled on the CPU
    and, with Triton, on a GPU. For a fixed number of time steps ``[T, B, F]`` give ``x.flatten(1)`` without ``ptr``.

    Args:
        x: ``[N, F]`` input currents.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        state: ``[B, F]`` membranes before the sequences; 0 if None, in float32 for currents in half precision.
        decay: :math:`\lambda`, a number or ``[F]``.
        threshold: :math:`\theta`, a number or ``[F]``.
        input_scale: c.
        reset: ``"hard"``, ``"soft"`` or ``"none"``.
        surrogate: one of ``SURROGATES``.
        alpha: sharpness of the surrogate; its own if None.
        detach_reset: no gradient through the reset.

    Returns:
        - ``[N, F]`` spikes, 0 and 1
        - ``[B, F]`` membranes after the sequences

    Raises:
        ValueError: shapes that do not fit, an unknown reset or surrogate.

    Example:
        >>> spikes, _ = lif_scan(torch.full((4, 1), 1.5), input_scale=0.5)
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])
    """
    if x.dim() != 2:
        raise ValueError(f"x must be a matrix [N, F] (got {list(x.shape)})")
    check_choice(reset, "reset", RESETS)
    check_choice(surrogate, "surrogate", SURROGATES)
    ptr = sequence_ptr(ptr, x)
    shape = (ptr.numel() - 1, x.size(1))
    state = x.new_zeros(shape, dtype=_wide(x)) if state is None else state
    if state.shape != shape:
        raise ValueError(f"state must have shape {list(shape)}, a row a sequence (got {list(state.shape)})")
    decay, threshold = _row(decay, "decay", x), _row(threshold, "threshold", x)
    if not has_kernel(x, decay, threshold, state):
        return lif_scan_reference(x, ptr, state, decay, threshold, input_scale, reset, surrogate, alpha, detach_reset)
    sharpness = _SHARPNESS[surrogate] if alpha is None else float(alpha)
    spikes, _, after = _lif(x, decay, threshold, state, input_scale, reset, surrogate, sharpness, detach_reset, ptr)
    return spikes, after


def _wide(x: Tensor) -> torch.dtype:
    """The type of membranes: that of the currents, float32 for halves."""
    return torch.promote_types(x.dtype, torch.float32)


def _row(value: float | Tensor, name: str, x: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        row = value.to(x.device, _wide(x))
    else:  # made on the device: a copy would wait for it
        row = torch.full((), value, dtype=_wide(x), device=x.device)
    if row.dim() > 1 or (row.dim() == 1 and row.size(0) not in (1, x.size(1))):
        raise ValueError(f"{name} must be a number or have shape {[x.size(1)]} (got {list(row.shape)})")
    return row.expand(x.size(1))


def lif_scan_reference(
    x: Tensor,
    ptr: Tensor,
    state: Tensor,
    decay: Tensor,
    threshold: Tensor,
    input_scale: float,
    reset: str,
    surrogate: str,
    alpha: float | None,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: a step a time, of all sequences that are as long. O(L) steps."""
    length = ptr.diff()
    longest = int(length.max()) if length.numel() else 0
    owner = torch.repeat_interleave(torch.arange(length.numel(), device=x.device), length, output_size=x.size(0))
    rank = torch.arange(x.size(0), device=x.device) - ptr[owner]
    wide = x.to(_wide(x))
    padded = wide.new_zeros(longest, length.numel(), x.size(1)).index_put((rank, owner), wide)
    v, rows = state, []
    for t in range(longest):
        h = decay * v + input_scale * padded[t]
        s = spike(h - threshold, surrogate, alpha)
        rows.append(s)
        s = s.detach() if detach_reset else s
        after = h * (1 - s) if reset == "hard" else h - threshold * s if reset == "soft" else h
        v = torch.where((length > t)[:, None], after, v)
    return torch.stack(rows)[rank, owner].to(x.dtype) if rows else torch.zeros_like(x), v


@torch.library.custom_op("graphkit::lif_scan", mutates_args=())
def _lif(
    x: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    surrogate: str,
    alpha: float,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.is_cuda:
        from graphkit.ops.cuda import recurrent_scan

        return recurrent_scan.lif_scan(x, decay, threshold, state, scale, reset, ptr)
    return cpu.lif_scan(x, decay, threshold, state, scale, reset, ptr)


@_lif.register_fake
def _(
    x: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    surrogate: str,
    alpha: float,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=_wide(x)), state.new_empty(state.shape)


@torch.library.custom_op("graphkit::lif_scan_backward", mutates_args=())
def _lif_backward(
    grad: Tensor,
    grad_state: Tensor,
    h: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    surrogate: str,
    alpha: float,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if h.is_cuda:
        from graphkit.ops.cuda import recurrent_scan

        how = (scale, reset, surrogate, alpha, detach)
        return recurrent_scan.lif_scan_backward(grad, grad_state, h, decay, threshold, state, *how, ptr)
    slope = surrogate_slope(h - threshold, surrogate, alpha)
    return cpu.lif_scan_backward(grad, grad_state, h, slope, decay, threshold, state, scale, reset, detach, ptr)


@_lif_backward.register_fake
def _(
    grad: Tensor,
    grad_state: Tensor,
    h: Tensor,
    decay: Tensor,
    threshold: Tensor,
    state: Tensor,
    scale: float,
    reset: str,
    surrogate: str,
    alpha: float,
    detach: bool,
    ptr: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        grad.new_empty(grad.shape),
        decay.new_empty(decay.shape),
        decay.new_empty(decay.shape),
        state.new_empty(state.shape),
    )


def _setup(ctx, inputs, output) -> None:
    _, decay, threshold, state, ctx.scale, ctx.reset, ctx.surrogate, ctx.alpha, ctx.detach, ptr = inputs
    ctx.save_for_backward(output[1], decay, threshold, state, ptr)


def _gradients(ctx, grad: Tensor, _potential: Tensor, grad_state: Tensor):
    h, decay, threshold, state, ptr = ctx.saved_tensors
    how = (ctx.scale, ctx.reset, ctx.surrogate, ctx.alpha, ctx.detach)
    parts = _lif_backward(grad, grad_state, h, decay, threshold, state, *how, ptr)
    return *parts, None, None, None, None, None, None


_lif.register_autograd(_gradients, setup_context=_setup)
