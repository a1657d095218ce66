"""Agreement of several predictions for the same nodes, each pulled to their sharpened mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphkit.utils.checks import check_range


def sharpen(p: Tensor, temperature: float) -> Tensor:
    r"""Distributions with the larger probabilities raised: :math:`p_c^{1/T} / \sum_{c'} p_{c'}^{1/T}` in each row.

    ``T = 1`` leaves them as they are; a uniform distribution stays uniform at any ``T``.

    Args:
        p: ``[..., C]`` probabilities.
        temperature: ``T``, above 0.

    Example:
        >>> sharpen(torch.tensor([0.7, 0.3]), temperature=0.5)
        tensor([0.8448, 0.1552])
    """
    check_range(temperature, "temperature", 0, low_open=True)
    # Divided by the largest first, since powers of small numbers vanish.
    power = (p / p.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)) ** (1 / temperature)
    return power / power.sum(dim=-1, keepdim=True)


def consistency_loss(probs: Tensor | Sequence[Tensor], temperature: float = 0.5, weight: float = 1.0) -> Tensor:
    r"""How far several predictions are from their sharpened mean, the consistency regularisation of `"Graph Random
    Neural Networks for Semi-Supervised Learning on Graphs" <https://arxiv.org/abs/2005.11079>`_:

    .. math:: \frac{\lambda}{K N} \sum_{k=1}^{K} \sum_{i=1}^{N} \| p_{k,i} - s_i \|^2, \qquad
        s_i = \mathrm{sharpen}\Big(\frac1K \sum_k p_{k,i}, T\Big)

    No gradient flows through :math:`s`. With ``T = 1`` it is the variance of the predictions; below, it is zero only
    where all agree on a distribution that is uniform over the classes that it holds possible.

    Args:
        probs: ``[K, N, C]`` probabilities, or ``K`` matrices ``[N, C]``.
        temperature: ``T``, above 0.
        weight: factor :math:`\lambda`.

    Raises:
        ValueError: fewer than two predictions, another shape, or a number out of range.

    Example:
        >>> consistency_loss([torch.tensor([[0.8, 0.2]]), torch.tensor([[0.6, 0.4]])])
        tensor(0.0620)
    """
    check_range(weight, "weight", 0)
    stacked = probs if isinstance(probs, Tensor) else torch.stack(list(probs))
    if stacked.dim() != 3 or stacked.size(0) < 2:
        raise ValueError(f"probs must be [K, N, C] with K >= 2 predictions to compare (got {list(stacked.shape)})")
    target = sharpen(stacked.detach().mean(0), temperature)
    return weight * (stacked - target).square().sum(-1).mean()
