"""Dropout whose mask is computed, not stored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.ops.cpu import dropout as cpu


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """:func:`torch.nn.functional.dropout`, on the CPU with 16 random bits an entry from a counter.

    PyTorch draws a word of a serial generator for every entry there, which takes longer than a small matrix product.
    Here one draw from PyTorch's generator seeds a hash of the entry's number; the backward pass hashes again instead of
    keeping a mask. ``p`` is rounded to a multiple of 2⁻¹⁶ and kept entries are scaled by the rounded value, so that the
    expectation is exact. On other devices, for other types and in compiled graphs it is PyTorch's.

    Args:
        x: any shape.
        p: probability of dropping an entry.
        training: return ``x`` itself if False.

    Raises:
        ValueError: ``p`` outside [0, 1].

    Example:
        >>> dropout(torch.ones(2), 0.0)
        tensor([1., 1.])
    """
    if not training or p == 0:
        return x
    plain = x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or not 0 < p < 1
    # A compiled graph cannot read the seed.
    if plain or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    seed = int(torch.randint(2**62, ()))
    return _dropout(x, seed, min(max(round(p * 65536), 1), 65535))


@torch.library.custom_op("graphkit::dropout", mutates_args=())
def _dropout(x: Tensor, seed: int, dropped: int) -> Tensor:
    return cpu.dropout(x, seed, dropped)


@_dropout.register_fake
def _(x: Tensor, seed: int, dropped: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output) -> None:
    _, ctx.seed, ctx.dropped = inputs


def _backward(ctx, grad: Tensor):
    return _dropout(grad, ctx.seed, ctx.dropped), None, None


_dropout.register_autograd(_backward, setup_context=_setup)
