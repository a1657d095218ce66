"""InfoNCE between two views of a graph's nodes, without a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.utils.checks import check_int, check_range

BLOCK = 1024  # rows and columns worked on at once: a block of similarities fits into a core's cache


def info_nce(u: Tensor, v: Tensor, tau: float = 0.5, intra_view: bool = True, chunk: int | None = None) -> Tensor:
    r"""The contrastive loss of `"Deep Graph Contrastive Representation Learning" <https://arxiv.org/abs/2006.04131>`_.

    With cosine similarities :math:`s`, node ``i`` of one view should be nearest to itself in the other view:

    .. math::
        \ell(u_i) = -\log \frac{e^{s(u_i, v_i) / \tau}}
        {\sum_k e^{s(u_i, v_k) / \tau} + \sum_{k \ne i} e^{s(u_i, u_k) / \tau}}, \qquad
        L = \frac{1}{2N} \sum_i \ell(u_i) + \ell(v_i)

    Similarities are computed in blocks, summed, and computed again for the gradient: O(N^2 H) time, O(N H + chunk^2)
    memory. Those within a view are symmetric and only half of them are computed. Float16 and bfloat16 are computed in
    float32.

    Args:
        u, v: ``[N, H]`` vectors of the nodes in the two views; any length.
        tau: temperature, from 0.02 on, below which the sums would leave float32.
        intra_view: other nodes of the same view are negatives, too.
        chunk: rows and columns of a block; None takes 1024.

    Returns:
        A scalar; it can be differentiated once.

    Raises:
        ValueError: shapes that differ, no rows, or a number out of range.

    Example:
        >>> eye = torch.eye(3)
        >>> info_nce(eye, eye, tau=0.1).round(decimals=3)
        tensor(0.0000)
    """
    if u.dim() != 2 or u.shape != v.shape or u.size(0) == 0:
        raise ValueError(f"u and v must have one shape [N, H] with N > 0 (got {list(u.shape)} and {list(v.shape)})")
    check_range(tau, "tau", 0.02)
    size = BLOCK if chunk is None else check_int(chunk, "chunk", 1)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    return _InfoNCE.apply(F.normalize(u.to(dtype), dim=1), F.normalize(v.to(dtype), dim=1), tau, intra_view, size)


class _InfoNCE(torch.autograd.Function):
    """Of rows of length one. Exponentials are of (s - 1) / tau <= 0, which cannot overflow."""

    @staticmethod
    def forward(ctx, u: Tensor, v: Tensor, tau: float, intra_view: bool, size: int) -> Tensor:
        n = u.size(0)
        with torch.autocast(u.device.type, enabled=False):
            total_u, total_v = u.new_zeros(n), u.new_zeros(n)
            for rows, columns in _blocks(n, size):
                e = _exponentials(u[rows], v[columns], tau)
                total_u[rows] += e.sum(1)
                total_v[columns] += e.sum(0)
            if intra_view:
                for own, total in ((u, total_u), (v, total_v)):
                    for rows, columns in _blocks(n, size, upper=True):
                        e = _exponentials(own[rows], own[columns], tau)
                        if rows == columns:
                            e.fill_diagonal_(0)
                        else:
                            total[columns] += e.sum(0)
                        total[rows] += e.sum(1)
            positive = ((u * v).sum(1) - 1) / tau
        ctx.save_for_backward(u, v, total_u, total_v)
        ctx.tau, ctx.intra_view, ctx.size = tau, intra_view, size
        return (total_u.log() + total_v.log()).mean() / 2 - positive.mean()

    @staticmethod
    def backward(ctx, grad: Tensor):
        u, v, total_u, total_v = ctx.saved_tensors
        n, tau = u.size(0), ctx.tau
        with torch.autocast(u.device.type, enabled=False):
            share_u, share_v = total_u.reciprocal(), total_v.reciprocal()
            # The positive pairs' part first; the sums' parts follow block by block.
            grad_u, grad_v = -2 * v, -2 * u
            for rows, columns in _blocks(n, ctx.size):
                e = _exponentials(u[rows], v[columns], tau)
                e *= share_u[rows, None] + share_v[columns]
                grad_u[rows].addmm_(e, v[columns])
                grad_v[columns].addmm_(e.t(), u[rows])
            if ctx.intra_view:
                for own, share, out in ((u, share_u, grad_u), (v, share_v, grad_v)):
                    for rows, columns in _blocks(n, ctx.size, upper=True):
                        e = _exponentials(own[rows], own[columns], tau)
                        e *= share[rows, None] + share[columns]
                        if rows == columns:
                            e.fill_diagonal_(0)
                        else:
                            out[columns].addmm_(e.t(), own[rows])
                        out[rows].addmm_(e, own[columns])
            scale = grad / (2 * n * tau)
        return grad_u * scale, grad_v * scale, None, None, None


def _blocks(n: int, size: int, upper: bool = False) -> Iterator[tuple[slice, slice]]:
    """Pairs of ranges that cover all pairs of rows, or those above the diagonal and on it."""
    pieces = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    for i, rows in enumerate(pieces):
        for columns in pieces[i:] if upper else pieces:
            yield rows, columns


def _exponentials(a: Tensor, b: Tensor, tau: float) -> Tensor:
    return torch.mm(a, b.t()).sub_(1).div_(tau).exp_()
