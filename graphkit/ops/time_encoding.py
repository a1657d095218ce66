"""Times as vectors of cosines, right for time stamps of any size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphkit.ops.cpu import time_encoding as cpu

_CPU_DTYPES = (torch.float32, torch.float64)


def time_encoding(dt: Tensor, freq: Tensor, phase: Tensor) -> Tensor:
    r""":math:`\phi(\Delta t) = \cos(\omega \, \Delta t + b)`, differentiable in :math:`\omega` and :math:`b`.

    The angle is taken in float64 and its whole turns are dropped there: in float32 the angle of a year in seconds is
    off by a radian. O(n D).

    Args:
        dt: ``[n]`` int64 or floating differences of times, subtracted before they were rounded.
        freq: ``[D]`` frequencies ω.
        phase: ``[D]`` phases b.

    Returns:
        ``[n, D]`` of the type of ``freq``.

    Example:
        >>> time_encoding(torch.tensor([0, 10**9]), torch.tensor([1.0, 0.0]), torch.zeros(2))
        tensor([[1.0000, 1.0000],
                [0.8379, 1.0000]])
    """
    if dt.dim() != 1 or freq.dim() != 1 or freq.shape != phase.shape:
        raise ValueError(
            f"dt must be a vector, freq and phase vectors of one length (got {list(dt.shape)}, {list(freq.shape)} and "
            f"{list(phase.shape)})"
        )
    if freq.device.type != "cpu" or freq.dtype not in _CPU_DTYPES:
        return time_encoding_reference(dt, freq, phase)
    return _encode(dt, freq, phase)


def time_encoding_reference(dt: Tensor, freq: Tensor, phase: Tensor) -> Tensor:
    """The same in plain PyTorch, for ``dt`` of any shape."""
    angle = dt.double()[..., None] * freq.double() + phase.double()
    return torch.remainder(angle, 2 * math.pi).to(freq.dtype).cos()


@torch.library.custom_op("graphkit::time_encoding", mutates_args=())
def _encode(dt: Tensor, freq: Tensor, phase: Tensor) -> Tensor:
    return cpu.time_encoding(dt, freq, phase)


@_encode.register_fake
def _(dt: Tensor, freq: Tensor, phase: Tensor) -> Tensor:
    return freq.new_empty(dt.shape[0], freq.shape[0])


@torch.library.custom_op("graphkit::time_encoding_backward", mutates_args=())
def _encode_backward(grad: Tensor, dt: Tensor, freq: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    return cpu.time_encoding_backward(grad, dt, freq, phase)


@_encode_backward.register_fake
def _(grad: Tensor, dt: Tensor, freq: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(freq), torch.empty_like(phase)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    return None, *_encode_backward(grad, *ctx.saved_tensors)


_encode.register_autograd(_backward, setup_context=_setup)
