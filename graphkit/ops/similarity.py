"""Cosine similarity of rows: of given pairs, and each row's nearest ones, without an ``[N, N]`` matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.ops.csr import to_csr
from graphkit.ops.spmm import sampled_dot
from graphkit.utils.checks import check_features, check_int, check_pairs


def pair_cosine(embedding: Tensor, pairs: Tensor) -> Tensor:
    """Cosine similarity of each pair of rows; 0 where a row is zero. O(B F), and no ``[B, F]`` tensor is stored.

    Args:
        embedding: ``[N, F]``.
        pairs: ``[2, B]`` row numbers.

    Returns:
        ``[B]`` in [-1, 1], without gradient.

    Raises:
        ValueError, TypeError, IndexError: a wrong shape or type, a value that is not finite, a row outside ``[0, N)``.

    Example:
        >>> pair_cosine(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0, 0], [1, 2]]))
        tensor([1., 0.])
    """
    check_features(embedding, "embedding")
    check_pairs(pairs, embedding.size(0), "pairs")
    unit = F.normalize(embedding.detach(), dim=1)
    csr = to_csr(pairs[0], pairs[1], embedding.size(0))
    out = unit.new_empty(pairs.size(1))
    out[csr.perm] = sampled_dot(csr.rowptr, csr.col, unit, unit)
    return out


def most_similar(
    embedding: Tensor,
    k: int,
    candidates: Tensor | None = None,
    include_self: bool = True,
    block_size: int = 1024,
) -> Tensor:
    """Each row's ``k`` nearest rows by cosine similarity, the nearest first.

    Blocks of rows are multiplied with all candidates: O(N C F) time for C candidates, O(``block_size`` C) memory.

    Args:
        embedding: ``[N, F]``.
        k: how many.
        candidates: ``[N]`` bool, the rows that may be picked; None: all.
        include_self: a candidate is its own nearest row; otherwise no row picks itself.
        block_size: rows compared at once.

    Returns:
        ``[N, k]`` int64 row numbers.

    Raises:
        ValueError, TypeError: a wrong shape or type, a value that is not finite, or fewer than ``k`` candidates.

    Example:
        >>> most_similar(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 1, include_self=False)
        tensor([[1],
                [0],
                [1]])
    """
    check_features(embedding, "embedding")
    check_int(k, "k", 0)
    check_int(block_size, "block_size", 1)
    num_rows, device = embedding.size(0), embedding.device
    if candidates is None:
        candidates = torch.ones(num_rows, dtype=torch.bool, device=device)
    if candidates.shape != (num_rows,) or candidates.dtype != torch.bool:
        got = f"{list(candidates.shape)} {candidates.dtype}"
        raise ValueError(f"candidates must be a bool vector [{num_rows}] (got {got})")
    columns = candidates.nonzero()[:, 0]
    free = columns.numel() - (not include_self)
    if k > max(free, 0):
        raise ValueError(f"k must be at most {max(free, 0)}, the rows that may be picked (got {k})")
    if k == 0 or num_rows == 0:
        return torch.empty(num_rows, k, dtype=torch.long, device=device)
    unit = F.normalize(embedding.detach(), dim=1)
    others = unit[columns].t()
    place = torch.full((num_rows,), -1, device=device)
    place[columns] = torch.arange(columns.numel(), device=device)
    picks = []
    for start in range(0, num_rows, block_size):
        score = unit[start : start + block_size] @ others
        own = place[start : start + block_size]
        rows = (own >= 0).nonzero()[:, 0]
        # Rounding, or a copy of the row, could otherwise come before the row itself.
        score[rows, own[rows]] = torch.inf if include_self else -torch.inf
        picks.append(columns[score.topk(k, dim=1).indices])
    return torch.cat(picks)
