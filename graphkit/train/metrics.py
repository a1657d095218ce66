"""Metrics of ranked links, with the definitions that the leaderboards use."""

from __future__ import annotations

import warnings

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from graphkit.utils.checks import check_range


def hits_at_k(pos: Tensor, neg: Tensor, k: int) -> float:
    """Share of positives that score strictly above the k-th best of all negatives (OGB's Hits@K; HR@K in NCN).

    Args:
        pos: ``[P]`` scores of true links.
        neg: ``[M]`` scores of negatives shared by all of them.
        k: rank, from 1.

    Returns:
        A share in [0, 1]; 1.0 with a warning if there are fewer than ``k`` negatives.

    Raises:
        ValueError: ``k`` < 1 or no positives.

    Example:
        >>> hits_at_k(torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.8, 0.5, 0.1, 0.05]), 3)
        1.0
    """
    check_range(k, "k", 1)
    _check_scores(pos, "pos")
    _check_shared(neg)
    if neg.numel() < k:
        warnings.warn(f"Hits@{k} is 1.0 by definition: there are only {neg.numel()} negatives", stacklevel=2)
        return 1.0
    threshold = neg.topk(k).values[-1]
    return float((pos > threshold).double().mean())


def mrr_shared(pos: Tensor, neg: Tensor) -> float:
    """Mean reciprocal rank of each positive among negatives shared by all; ties count half.

    Example:
        >>> round(mrr_shared(torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.8, 0.5, 0.1, 0.05])), 6)
        0.577778
    """
    _check_scores(pos, "pos")
    _check_shared(neg)
    ordered = neg.sort().values
    pos = pos.contiguous()
    above = ordered.numel() - torch.searchsorted(ordered, pos, right=True)
    not_below = ordered.numel() - torch.searchsorted(ordered, pos)
    rank = 1 + (above + not_below).double() / 2
    return float((1 / rank).mean())


def rank_per_source(pos: Tensor, neg: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rank, from 1, of each positive among negatives of its own; ties count half (float64, on the scores' device).

    Args:
        pos: ``[P]`` scores of true links.
        neg: ``[P, M]`` scores of the negatives of each.
        mask: ``[P, M]`` bool, False where a row is only filled up; None: all count.

    Example:
        >>> pos, neg = torch.tensor([0.5]), torch.tensor([[0.9, 0.5, 0.1, 7.0]])
        >>> rank_per_source(pos, neg, mask=neg < 7)
        tensor([2.5000], dtype=torch.float64)
    """
    _check_scores(pos, "pos")
    if neg.dim() != 2 or neg.size(0) != pos.numel():
        raise ValueError(f"neg must have shape [{pos.numel()}, M], a row for each positive (got {list(neg.shape)})")
    # So put that a score which is not a number ranks last.
    above, not_below = ~(neg <= pos[:, None]), ~(neg < pos[:, None])
    if mask is not None:
        if mask.shape != neg.shape:
            raise ValueError(f"mask must have shape {list(neg.shape)} (got {list(mask.shape)})")
        above, not_below = above & mask, not_below & mask
    return 1 + (above.sum(1) + not_below.sum(1)).double() / 2


def mrr_per_source(pos: Tensor, neg: Tensor, mask: Tensor | None = None) -> float:
    """Mean reciprocal rank of positives ``[P]``, each among negatives of its own; see :func:`rank_per_source`."""
    return float((1 / rank_per_source(pos, neg, mask)).mean())


def hits_per_source(pos: Tensor, neg: Tensor, k: int, mask: Tensor | None = None) -> float:
    """Share of positives with a rank of at most ``k`` among negatives of their own; see :func:`rank_per_source`."""
    check_range(k, "k", 1)
    return float((rank_per_source(pos, neg, mask) <= k).double().mean())


def ndcg_at_k(score: Tensor, y: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain of the ``k`` best of each row (float64 ``[B]``), as scikit-learn and the
    `"Temporal Graph Benchmark for Machine Learning on Temporal Graphs" <https://arxiv.org/abs/2307.01026>`_ have it.

    The gain of the class ranked i-th counts by 1 / log2(1 + i); equal scores share the mean of their gains. It is put
    in relation to the best order's; 0 for a row without gain. O(B C log C).

    Args:
        score: ``[B, C]`` scores.
        y: ``[B, C]`` gains, not negative.
        k: rank, from 1.

    Raises:
        ValueError: other shapes, ``k`` < 1 or a negative gain.

    Example:
        >>> ndcg_at_k(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]]), 10)
        tensor([0.6309], dtype=torch.float64)
    """
    check_range(k, "k", 1)
    if score.dim() != 2 or score.shape != y.shape:
        raise ValueError(f"score and y must be matrices of one shape (got {list(score.shape)} and {list(y.shape)})")
    if y.numel() and float(y.min()) < 0:
        raise ValueError(f"y must not be negative (got {float(y.min())})")
    y = y.double()
    ordered, order = score.sort(1, descending=True)
    place = torch.arange(score.size(1), device=score.device)
    discount = torch.where(place < k, 1 / torch.log2(place.double() + 2), 0).expand_as(y)
    # Places of equal scores are one group.
    group = torch.zeros_like(order)
    group[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    gain, weight, size = (
        torch.zeros_like(y).scatter_add_(1, group, part) for part in (y.gather(1, order), discount, torch.ones_like(y))
    )
    found = (gain * weight / size.clamp(min=1)).sum(1)
    best = (y.sort(1, descending=True).values * discount).sum(1)
    return torch.where(best > 0, found / best.clamp(min=torch.finfo(torch.float64).tiny), 0)


def average_precision(pos: Tensor, neg: Tensor) -> float:
    """Average precision, the area under the precision-recall curve as a sum of steps."""
    _check_scores(pos, "pos")
    _check_scores(neg, "neg")
    label = torch.cat([torch.ones_like(pos), torch.zeros_like(neg)])
    return float(average_precision_score(label.cpu().numpy(), torch.cat([pos, neg]).double().cpu().numpy()))


def roc_auc(pos: Tensor, neg: Tensor) -> float:
    """Area under the ROC curve."""
    _check_scores(pos, "pos")
    _check_scores(neg, "neg")
    # Ranks, because torchmetrics maps logits outside [0, 1] through a sigmoid, which saturates and makes ties.
    rank = torch.cat([pos, neg]).double().unique(return_inverse=True)[1].double()
    label = torch.cat([torch.ones_like(pos), torch.zeros_like(neg)]).long()
    return float(binary_auroc(rank / max(rank.max(), 1), label))


def _check_shared(neg: Tensor) -> None:
    if neg.dim() != 1:
        raise ValueError(f"neg must be a vector shared by all positives (got {list(neg.shape)}); see mrr_per_source")


def _check_scores(scores: Tensor, name: str) -> None:
    if scores.dim() != 1 or scores.numel() == 0:
        raise ValueError(f"{name} must be a vector of at least one score (got {list(scores.shape)})")
