"""Products of the features of pairs of nodes, which link decoders begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import pairs as cpu

_CPU_DTYPES = (torch.float32, torch.float64)


def pair_product(x: Tensor, pairs: Tensor) -> Tensor:
    r"""Elementwise products :math:`x_i \odot x_j` of pairs ``(i, j)``.

    Differentiable in ``x``. On the CPU one pass forward and one backward, neither of the two gathered ``[B, F]``
    matrices is made, and the gradient does not depend on the number of threads.

    Args:
        x: ``[N, F]`` floating features.
        pairs: ``[2, B]`` int64 node ids; within range, which is not checked here.

    Returns:
        ``[B, F]``.

    Raises:
        ValueError: ``x`` is no matrix.

    Example:
        >>> pair_product(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0, 1], [2, 2]]))
        tensor([[3.],
                [6.]])
    """
    if x.dim() != 2:
        raise ValueError(f"x must be a matrix [N, F] (got {list(x.shape)})")
    if x.device.type != "cpu" or x.dtype not in _CPU_DTYPES:
        return pair_product_reference(x, pairs)
    return _pair_product(x, pairs[0], pairs[1])


def pair_product_reference(x: Tensor, pairs: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    return x[pairs[0]] * x[pairs[1]]


@torch.library.custom_op("graphkit::pair_product", mutates_args=())
def _pair_product(x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    return cpu.pair_product(x, src, dst)


@_pair_product.register_fake
def _(x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    return x.new_empty(src.shape[0], x.shape[1])


@torch.library.custom_op("graphkit::pair_product_backward", mutates_args=())
def _pair_product_backward(grad: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    return cpu.pair_product_backward(grad, x, src, dst)


@_pair_product_backward.register_fake
def _(grad: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    return _pair_product_backward(grad, *ctx.saved_tensors), None, None


_pair_product.register_autograd(_backward, setup_context=_setup)
