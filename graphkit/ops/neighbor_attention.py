"""Attention of nodes over their few latest neighbours, at any time, without a projected copy of each neighbour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphkit.ops.cpu import neighbor_attention as cpu
from graphkit.ops.time_encoding import time_encoding_reference

_CPU_DTYPES = (torch.float32, torch.float64)


def neighbor_attention(
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    edge: Tensor | None = None,
    e_id: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    r"""For each query and head, the mean of its neighbours' vectors weighted by a softmax of products with them:

    .. math:: f_{qk} = [x_{index_{rk}} \,\|\, edge_{e_{rk}} \,\|\, \cos(\omega (t_q - since_{rk}) + b)], \qquad
              out_{qh} = \sum_k keep_{qhk} \, \mathrm{softmax}_k(query_{rh} \cdot f_{qk}) \, f_{qk}, \qquad r = row_q

    Multi-head attention is this and two small products: :math:`(W_Q q)_h \cdot (W_K f)_h = (W_{K,h}^\top (W_Q q)_h)
    \cdot f` and :math:`\sum_k \alpha_k W_V f_k = W_V \sum_k \alpha_k f_k`. So keys and values are never projected one
    by one, which for K neighbours saves a factor of about K.

    Differentiable in ``query``, ``x``, ``freq`` and ``phase``. O(Q K H F) time; on the CPU nothing larger than the
    result is stored.

    Args:
        query: ``[H, n, D + D_e + D_t]``; scaled as wanted.
        x: ``[m, D]`` node features.
        index: ``[n, K]`` int64 rows of ``x``.
        mask: ``[n, K]`` bool; where False there is no neighbour (``index`` and ``e_id`` are valid ids all the same).
        since: ``[n, K]`` int64 times of the neighbours' events.
        row: ``[Q]`` int64 rows of ``query``: several queries can be of the same node at other times.
        t: ``[Q]`` int64 times.
        freq: ``[D_t]``.
        phase: ``[D_t]``.
        edge: ``[E, D_e]`` features of events, without gradient, or None.
        e_id: ``[n, K]`` int64 rows of ``edge``.
        keep: ``[Q, H, K]`` factors after the softmax (dropout), without gradient, or None.

    Returns:
        ``[H, Q, D + D_e + D_t]``; zero for a query without neighbours.

    Raises:
        ValueError: widths that do not fit.

    Example:
        >>> query, x = torch.zeros(1, 1, 3), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> neighbor_attention(query, x, torch.tensor([[0, 1]]), torch.tensor([[True, True]]), torch.tensor([[5, 5]]),
        ...     row=torch.tensor([0]), t=torch.tensor([5]), freq=torch.ones(1), phase=torch.zeros(1))
        tensor([[[2., 3., 1.]]])
    """
    width = x.size(1) + freq.numel() + (0 if edge is None else edge.size(1))
    if query.dim() != 3 or query.size(2) != width:
        raise ValueError(
            f"query must have shape [heads, n, {width}], as wide as node, event and time features together "
            f"(got {list(query.shape)})"
        )
    if edge is not None and e_id is None:
        raise ValueError("e_id must be given with edge: which event each neighbour comes from")
    if e_id is None:
        e_id = index
    if query.device.type != "cpu" or query.dtype not in _CPU_DTYPES:
        return neighbor_attention_reference(query, x, index, mask, since, row, t, freq, phase, edge, e_id, keep)
    return _attend(query, x, index, mask, since, edge, e_id, row, t, freq, phase, keep)[0]


def neighbor_attention_reference(
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    edge: Tensor | None = None,
    e_id: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """The same in plain PyTorch, with the ``[Q, K, F]`` keys stored."""
    parts = [x[index[row]], time_encoding_reference(t[:, None] - since[row], freq, phase)]
    if edge is not None and e_id is not None:
        parts.insert(1, edge[e_id[row]].to(x.dtype))
    keys, valid = torch.cat(parts, -1), mask[row][:, None]
    score = (query[:, row].transpose(0, 1) @ keys.transpose(1, 2)).masked_fill(~valid, -math.inf)
    # A row without neighbours has nothing to normalise by: exp(-inf - 0) = 0 there, and 0 / 1.
    highest = score.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(score.dtype).min)
    weight = (score - highest).exp()
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
    return ((weight if keep is None else weight * keep) @ keys).transpose(0, 1)


@torch.library.custom_op("graphkit::neighbor_attention", mutates_args=())
def _attend(
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    edge: Tensor | None,
    e_id: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return cpu.neighbor_attention(query, x, index, mask, since, edge, e_id, row, t, freq, phase, keep)


@_attend.register_fake
def _(query, x, index, mask, since, edge, e_id, row, t, freq, phase, keep):
    rows, heads = row.shape[0], query.shape[0]
    return query.new_empty(heads, rows, query.shape[2]), query.new_empty(rows, heads, index.shape[1])


@torch.library.custom_op("graphkit::neighbor_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    alpha: Tensor,
    query: Tensor,
    x: Tensor,
    index: Tensor,
    mask: Tensor,
    since: Tensor,
    edge: Tensor | None,
    e_id: Tensor,
    row: Tensor,
    t: Tensor,
    freq: Tensor,
    phase: Tensor,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cpu.neighbor_attention_backward(
        grad, alpha, query, x, index, mask, since, edge, e_id, row, t, freq, phase, keep
    )


@_attend_backward.register_fake
def _(grad, alpha, query, x, index, mask, since, edge, e_id, row, t, freq, phase, keep):
    return torch.empty_like(query), torch.empty_like(x), torch.empty_like(freq), torch.empty_like(phase)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _):
    none = (None,) * 12
    if grad is None:
        return none
    *inputs, alpha = ctx.saved_tensors
    grad_query, grad_x, grad_freq, grad_phase = _attend_backward(grad, alpha, *inputs)
    return grad_query, grad_x, *none[:7], grad_freq, grad_phase, None


_attend.register_autograd(_backward, setup_context=_setup)
