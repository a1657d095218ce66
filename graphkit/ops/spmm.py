"""Sparse times dense: the weighted sum of feature rows that message passing, bag-of-words layers and pooling share."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import spmm as cpu
from graphkit.ops.csr import ptr_to_index, transpose
from graphkit.ops.cuda import has_triton

_CPU_DTYPES = (torch.float32, torch.float64)


def spmm(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Sum feature rows by CSR row: :math:`out_r = \sum_{e \in row(r)} weight_e \, x_{col_e}`.

    Differentiable in ``x`` and ``weight``. O(E F) time; no ``[E, F]`` tensor is stored, forward or backward.

    Args:
        rowptr: ``[R + 1]`` int64 offsets.
        col: ``[E]`` int64, rows of ``x``; within range, which is not checked here.
        x: ``[N, F]`` floating features.
        weight: ``[E]`` of ``x``'s dtype, or None for ones.

    Returns:
        ``[R, F]``; empty rows are zero.

    Example:
        >>> spmm(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.tensor([[1.0], [10.0]]))
        tensor([[11.],
                [10.]])
    """
    if x.dim() != 2:
        raise ValueError(f"x must be a matrix [N, F] (got {list(x.shape)})")
    if weight is not None and (weight.shape != col.shape or weight.dtype != x.dtype):
        raise ValueError(
            f"weight must be [{col.numel()}] of {x.dtype}, one value an entry (got {list(weight.shape)} {weight.dtype})"
        )
    return _spmm(rowptr, col, x, weight)


def spmm_reference(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """The same in plain PyTorch, with the ``[E, F]`` messages stored."""
    messages = x[col] if weight is None else x[col] * weight[:, None]
    row = ptr_to_index(rowptr, col.numel())
    return x.new_zeros(rowptr.numel() - 1, x.size(1)).index_add_(0, row, messages)


@torch.library.custom_op("graphkit::spmm", mutates_args=())
def _spmm(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    if x.is_cuda and has_triton():
        from graphkit.ops.cuda import spmm as cuda

        return cuda.spmm(rowptr, col, x, weight)
    if x.dtype in _CPU_DTYPES and x.device.type == "cpu":
        return cpu.spmm(rowptr, col, x, weight)
    return spmm_reference(rowptr, col, x, weight)


@_spmm.register_fake
def _(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    return x.new_empty(rowptr.shape[0] - 1, x.shape[1])


@torch.library.custom_op("graphkit::spmm_transposed", mutates_args=())
def _spmm_transposed(rowptr: Tensor, col: Tensor, grad: Tensor, weight: Tensor | None, num_cols: int) -> Tensor:
    if grad.is_cuda and has_triton():
        from graphkit.ops.cuda import spmm as cuda

        return cuda.spmm_transposed(rowptr, col, grad, weight, num_cols)
    back = transpose(rowptr, col, num_cols)
    return _spmm(back.rowptr, back.col, grad, None if weight is None else weight[back.perm])


@_spmm_transposed.register_fake
def _(rowptr: Tensor, col: Tensor, grad: Tensor, weight: Tensor | None, num_cols: int) -> Tensor:
    return grad.new_empty(num_cols, grad.shape[1])


@torch.library.custom_op("graphkit::sampled_dot", mutates_args=())
def sampled_dot(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``[E]`` dot products ``left[row_e] . right[col_e]``: the gradient of :func:`spmm` with respect to its weights."""
    if left.is_cuda and has_triton():
        from graphkit.ops.cuda import spmm as cuda

        return cuda.sampled_dot(rowptr, col, left, right)
    if left.dtype in _CPU_DTYPES and left.device.type == "cpu":
        return cpu.sampled_dot(rowptr, col, left, right)
    return (left[ptr_to_index(rowptr, col.numel())] * right[col]).sum(1)


@sampled_dot.register_fake
def _(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(col.shape[0])


def _setup(ctx, inputs, output) -> None:
    rowptr, col, x, weight = inputs
    ctx.save_for_backward(rowptr, col, x if ctx.needs_input_grad[3] else None, weight)
    ctx.num_cols = x.shape[0]


def _backward(ctx, grad: Tensor):
    rowptr, col, x, weight = ctx.saved_tensors
    grad_x = _spmm_transposed(rowptr, col, grad, weight, ctx.num_cols) if ctx.needs_input_grad[2] else None
    grad_weight = sampled_dot(rowptr, col, grad, x) if ctx.needs_input_grad[3] else None
    return None, None, grad_x, grad_weight


_spmm.register_autograd(_backward, setup_context=_setup)
