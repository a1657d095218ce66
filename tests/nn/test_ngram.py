"""The n-gram model against dictionaries; windows; wrong input."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from graphkit.nn import NGram

IDS = torch.randint(4, (300,), generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0, 1]).repeat(100)


def dictionaries(ids: list[int], order: int, size: int, history: list[int]) -> list[float]:
    """Witten and Bell's probabilities of what follows ``history``."""
    followers: dict[tuple, Counter] = defaultdict(Counter)
    for t in range(len(ids)):
        for length in range(min(order, t + 1)):
            followers[tuple(ids[t - length : t])][ids[t]] += 1
    prob = [1 / size] * size
    for length in range(min(order, len(history) + 1)):
        count = followers.get(tuple(history[len(history) - length :]))
        if count is None:
            break
        total = sum(count.values()) + len(count)
        prob = [(count[x] + len(count) * p) / total for x, p in enumerate(prob)]
    return prob


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_are_those_of_dictionaries(order):
    model = NGram(5, order).fit(IDS)
    text = torch.tensor([0, 3, 0, 0, 4, 1, 0, 2, 0, 1])
    ptr = torch.tensor([0, 4, 4, 10])
    found = model(text, ptr).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(10, dtype=torch.float64))
    for t in range(10):
        begin = 0 if t < 4 else 4
        wanted = dictionaries(IDS.tolist(), order, 5, text[begin : t + 1].tolist())
        torch.testing.assert_close(found[t], torch.tensor(wanted, dtype=torch.float64))


def test_a_text_shorter_than_a_context():
    model = NGram(2, order=5).fit(torch.tensor([0, 1]))
    torch.testing.assert_close(model(torch.tensor([0, 1, 0])).exp().sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NGram(2)(torch.tensor([0])), "fit must be called first"),
        (lambda: NGram(2).fit(torch.tensor([2])), r"ids must lie in \[0, 2\)"),
        (lambda: NGram(2).fit(torch.tensor([0.5])), "vector of int64"),
        (lambda: NGram(100, order=12), "more contexts than fit"),
        (lambda: NGram(2, order=0), "order"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
