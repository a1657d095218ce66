"""Metrics of ranked links, with the definitions that the leaderboards use."""

from __future__ import annotations

import warnings

import torch
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


def mrr_per_source(pos: Tensor, neg: Tensor) -> float:
    """Mean reciprocal rank of each positive ``[P]`` among negatives of its own ``[P, M]``; ties count half."""
    _check_scores(pos, "pos")
    if neg.dim() != 2 or neg.size(0) != pos.numel():
        raise ValueError(f"neg must have shape [{pos.numel()}, M], a row for each positive (got {list(neg.shape)})")
    above = (neg > pos[:, None]).sum(1).double()
    ties = (neg == pos[:, None]).sum(1).double()
    return float((1 / (1 + above + ties / 2)).mean())


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
