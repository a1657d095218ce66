"""InfoNCE between two views of a graph's nodes, without a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.utils.checks import check_int, check_range

BLOCK = 1024  # rows and columns worked on at once: a block of similarities fits into a core's cache
KEPT = 4096  # similarities of so many nodes are kept for the gradient, at most 128 MiB


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
        chunk: rows and columns of a block. None takes 1024, and up to 4096 nodes keeps the similarities rather than
            computing them again.

    Returns:
        A scalar; it can be differentiated once.

    Raises:
        ValueError: shapes that differ, no rows, or a number out of range.

    Example:
        >>> eye = torch.eye(3)
        >>> info_nce(eye, eye, tau=0.5).round(decimals=3)
        tensor(0.4330)
    """
    if u.dim() != 2 or u.shape != v.shape or u.size(0) == 0:
        raise ValueError(f"u and v must have one shape [N, H] with N > 0 (got {list(u.shape)} and {list(v.shape)})")
    check_range(tau, "tau", 0.02)
    size = BLOCK if chunk is None else check_int(chunk, "chunk", 1)
    keep = chunk is None and u.size(0) <= KEPT
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    unit_u, unit_v = (F.normalize(part.to(dtype), dim=1) for part in (u, v))
    return _InfoNCE.apply(unit_u, unit_v, tau, intra_view, size, keep)


class _InfoNCE(torch.autograd.Function):
    """Of rows of length one. Exponentials are of (s - 1) / tau <= 0, which cannot overflow."""

    @staticmethod
    def forward(ctx, u: Tensor, v: Tensor, tau: float, intra_view: bool, size: int, keep: bool) -> Tensor:
        ctx.tau, ctx.intra_view, ctx.size = tau, intra_view, size
        ctx.kept = [] if keep and any(ctx.needs_input_grad) else None
        total_u, total_v = u.new_zeros(u.size(0)), u.new_zeros(u.size(0))
        with torch.autocast(u.device.type, enabled=False):
            for rows, columns in _blocks(u.size(0), size):
                e = _exponentials(u[rows], v[columns], tau, ctx.kept)
                total_u[rows] += e.sum(1)
                total_v[columns] += e.sum(0)
            for own, total in ((u, total_u), (v, total_v)) if intra_view else ():
                for rows, columns in _blocks(u.size(0), size, upper=True):
                    e = _exponentials(own[rows], own[columns], tau, ctx.kept)
                    if rows == columns:
                        e.fill_diagonal_(0)
                    else:
                        total[columns] += e.sum(0)
                    total[rows] += e.sum(1)
            positive = ((u * v).sum(1) - 1) / tau
        ctx.save_for_backward(u, v, total_u, total_v)
        return (total_u.log() + total_v.log()).mean() / 2 - positive.mean()

    @staticmethod
    def backward(ctx, grad: Tensor):
        u, v, total_u, total_v = ctx.saved_tensors
        kept = None if ctx.kept is None else iter(ctx.kept)
        share_u, share_v = total_u.reciprocal(), total_v.reciprocal()

        def weighted(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
            return share.mul_(_exponentials(a, b, ctx.tau) if kept is None else next(kept))

        with torch.autocast(u.device.type, enabled=False):
            # The positive pairs' part first; the sums' parts follow block by block.
            grad_u, grad_v = -2 * v, -2 * u
            for rows, columns in _blocks(u.size(0), ctx.size):
                e = weighted(u[rows], v[columns], share_u[rows, None] + share_v[columns])
                grad_u[rows].addmm_(e, v[columns])
                grad_v[columns].addmm_(e.t(), u[rows])
            views = ((u, share_u, grad_u), (v, share_v, grad_v)) if ctx.intra_view else ()
            for own, share, out in views:
                for rows, columns in _blocks(u.size(0), ctx.size, upper=True):
                    e = weighted(own[rows], own[columns], share[rows, None] + share[columns])
                    if rows == columns:
                        e.fill_diagonal_(0)
                    else:
                        out[columns].addmm_(e.t(), own[rows])
                    out[rows].addmm_(e, own[columns])
            scale = grad / (2 * u.size(0) * ctx.tau)
        return grad_u * scale, grad_v * scale, None, None, None, None


def _blocks(n: int, size: int, upper: bool = False) -> Iterator[tuple[slice, slice]]:
    """Pairs of ranges that cover all pairs of rows, or those above the diagonal and on it."""
    pieces = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    for i, rows in enumerate(pieces):
        for columns in pieces[i:] if upper else pieces:
            yield rows, columns


def _exponentials(a: Tensor, b: Tensor, tau: float, kept: list[Tensor] | None = None) -> Tensor:
    e = torch.mm(a, b.t()).sub_(1).div_(tau).exp_()
    if kept is not None:
        kept.append(e)
    return e
