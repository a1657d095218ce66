"""Cosines of pairs and nearest rows, against dense algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.ops import most_similar, pair_cosine


def rows(count: int = 37, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_cosine_is_the_definition(dtype: torch.dtype) -> None:
    x = rows().to(dtype)
    x[3] = 0
    pairs = torch.randint(37, (2, 200), generator=torch.Generator().manual_seed(1))
    want = F.cosine_similarity(x[pairs[0]], x[pairs[1]])
    got = pair_cosine(x, pairs)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want)
    assert torch.equal(pair_cosine(x, pairs.flip(0)), got)
    assert pair_cosine(x, pairs[:, :0]).shape == (0,)


@pytest.mark.parametrize("block_size", [1, 5, 37, 1000])
@pytest.mark.parametrize("include_self", [True, False])
def test_most_similar_is_the_dense_answer(block_size: int, include_self: bool) -> None:
    x = rows()
    near = F.normalize(x, dim=1) @ F.normalize(x, dim=1).t()
    candidates = torch.arange(37) % 3 != 1
    near[:, ~candidates] = -torch.inf
    if not include_self:
        near.fill_diagonal_(-torch.inf)
    got = most_similar(x, 7, candidates, include_self, block_size)
    assert torch.equal(got, near.topk(7, dim=1).indices)
    assert bool(candidates[got].all())


def test_a_row_comes_before_its_copies() -> None:
    x = torch.ones(6, 3)
    assert torch.equal(most_similar(x, 1)[:, 0], torch.arange(6))
    assert not bool((most_similar(x, 5, include_self=False) == torch.arange(6)[:, None]).any())


def test_sizes() -> None:
    assert most_similar(rows(5), 0).shape == (5, 0)
    assert most_similar(torch.zeros(0, 3), 0).shape == (0, 0)
    assert not pair_cosine(rows(5).requires_grad_(), torch.tensor([[0], [1]])).requires_grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pair_cosine(torch.ones(3), torch.tensor([[0], [1]])), ValueError, "embedding must be a matrix"),
        (lambda: pair_cosine(rows(3), torch.tensor([[0], [3]])), IndexError, "pairs holds node id 3"),
        (lambda: pair_cosine(torch.full((2, 1), torch.nan), torch.tensor([[0], [1]])), ValueError, "nan"),
        (lambda: most_similar(rows(3), 4), ValueError, "k must be at most 3.*got 4"),
        (lambda: most_similar(rows(3), 3, include_self=False), ValueError, "k must be at most 2"),
        (lambda: most_similar(rows(3), 1, torch.ones(3)), ValueError, "candidates must be a bool vector"),
        (lambda: most_similar(rows(3), 1, torch.zeros(3, dtype=torch.bool)), ValueError, "at most 0"),
        (lambda: most_similar(rows(3), 1, block_size=0), ValueError, "block_size"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
