"""The cache as a module: replacement, what it returns, its state, and wrong input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal.neighborhood_cache import NeighborhoodCache
from graphkit.ops.neighborhood_cache import hash_slot


def offer(cache: NeighborhoodCache, owner: list[int], key: list[int], e_id: int = 0, hop: int = 1) -> None:
    events = torch.full((len(key),), e_id)
    rep = torch.full((len(key), cache.rep_dim), float(e_id))
    cache.insert(hop, torch.tensor(owner), torch.tensor(key), events, events, rep)


def rivals(nodes: int, size: int) -> tuple[int, int]:
    """Two ids that share a slot."""
    slot = hash_slot(torch.arange(nodes), size).tolist()
    for a in range(nodes):
        for b in range(a + 1, nodes):
            if slot[a] == slot[b]:
                return a, b
    raise AssertionError


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_share_of_replacements(alpha: float) -> None:
    nodes = 4000
    cache = NeighborhoodCache(nodes, (8,), 2, alpha, seed=3)
    first, second = rivals(nodes, 8)
    everyone = list(range(nodes))
    offer(cache, everyone, [first] * nodes, e_id=1)
    offer(cache, everyone, [second] * nodes, e_id=2)
    held = cache.fetch(torch.arange(nodes), 1)
    replaced = (held.key == second).any(1)
    assert bool((replaced | (held.key == first).any(1)).all())
    assert abs(float(replaced.float().mean()) - alpha) <= 3 * (alpha * (1 - alpha) / nodes) ** 0.5
    # Its own key refreshes an entry whatever the probability.
    offer(cache, everyone, [first] * nodes, e_id=3)
    held = cache.fetch(torch.arange(nodes), 1)
    kept = ~replaced
    assert bool((held.e_id[kept].amax(1) == 3).all())
    assert bool((held.rep[kept].amax((1, 2)) == 3).all())


def test_seed_decides_the_draws() -> None:
    def play(seed: int, state: dict[str, Tensor] | None = None, parts: int = 1) -> NeighborhoodCache:
        cache = NeighborhoodCache(10, (4, 2), 2, 0.5, seed)
        if state is not None:
            cache.load_snapshot(state)
        g = torch.Generator().manual_seed(0)
        for step in range(30):
            owner, key = torch.randint(0, 10, (2, 40), generator=g).tolist()
            offer(cache, owner, key, step)
        return cache

    first, again, other = play(1), play(1), play(2)
    assert torch.equal(first.key, again.key)
    assert not torch.equal(first.key, other.key)
    # The counter is part of the state: from another state the same seed draws other numbers.
    assert int(first.draws) == 1200
    longer, resumed = play(1, first.snapshot()), play(1, again.snapshot())
    for name, value in longer.named_state():
        assert torch.equal(value, dict(resumed.named_state())[name])


def test_fetch_and_reset() -> None:
    cache = NeighborhoodCache(6, (4, 3), 2)
    offer(cache, [1, 2], [5, 4], 7, hop=2)
    near, far, everything = (cache.fetch(torch.tensor([2, 0]), hop) for hop in (1, 2, None))
    assert bool((near.key == -1).all())
    assert far.key.amax(1).tolist() == [4, -1]
    assert far.e_id.amax(1).tolist() == [7, -1]
    assert everything.key.shape == (2, 8)
    assert torch.equal(everything.key[:, 5:], far.key)
    far.key.zero_()  # copies
    assert int(cache.key.max()) == 5
    cache.reset_state()
    assert int(cache.key.max()) == -1
    assert int(cache.draws) == 0


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"hop": 3}, IndexError, "hop"),
        ({"owner": torch.tensor([6])}, IndexError, "owner"),
        ({"owner": torch.tensor([1, 2])}, ValueError, "key must have one row"),
        ({"source": torch.tensor([0, 0])}, ValueError, "key must have one row"),
        ({"t": torch.tensor([1, 2])}, ValueError, "t must"),
        ({"rep": torch.zeros(1, 3)}, ValueError, "rep must"),
    ],
    ids=["hop", "owner", "owners", "source", "t", "rep"],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], word: str) -> None:
    cache, one = NeighborhoodCache(6, (4, 3), 2), torch.tensor([1])
    good = {"hop": 1, "owner": one, "key": one, "e_id": one, "t": one, "rep": torch.zeros(1, 2)}
    before = cache.snapshot()
    with pytest.raises(error, match=word):
        cache.insert(**good | change)
    assert all(torch.equal(value, before[name]) for name, value in cache.named_state())
