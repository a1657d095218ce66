"""Negatives: from the right candidates, uniform, and the same however they are asked for."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.datasets import (
    EventSplit,
    EventStream,
    HistoricalNegatives,
    InductiveNegatives,
    RandomNegatives,
)


def make(num_events: int = 300, seed: int = 0, moments: int = 60, items: int = 15) -> EventStream:
    """Users 0-5, items from 10 on; several events of a user at one moment, some twice."""
    generator = torch.Generator().manual_seed(seed)
    src = torch.randint(6, (num_events,), generator=generator)
    dst = (
        10
        + torch.randint(items, (num_events,), generator=generator) * torch.rand(num_events, generator=generator) ** 0.5
    )
    t = torch.randint(moments, (num_events,), generator=generator).sort().values
    return EventStream(src, dst.long(), t, num_nodes=15 + items)


def uniform_within(counts: torch.Tensor, draws: int) -> bool:
    """Chi-squared of equal counts below its 99.99 % quantile (normal approximation)."""
    expected = draws / counts.numel()
    freedom = counts.numel() - 1
    statistic = float(((counts.double() - expected) ** 2 / expected).sum())
    return statistic < freedom + 4 * (2 * freedom) ** 0.5 + 10


# Random


def test_random_ones_are_uniform_destinations() -> None:
    stream = make()
    negatives = RandomNegatives(stream, count=3, seed=1)
    drawn = torch.cat([negatives.draw(torch.arange(300), epoch) for epoch in range(30)])
    assert drawn.shape == (9000, 3)
    assert drawn.dtype == torch.int64
    assert drawn.unique().tolist() == stream.destinations.tolist()
    for column in drawn.t():
        assert uniform_within(column.bincount()[stream.destinations], 9000)
    # Neither columns nor neighbouring events nor epochs go together.
    n = stream.destinations.numel()
    for a, b in ((drawn[:, 0], drawn[:, 1]), (drawn[1:, 0], drawn[:-1, 0]), (drawn[300:, 0], drawn[:-300, 0])):
        assert abs(float((a == b).float().mean()) - 1 / n) < 4.5 * (1 / n / len(a)) ** 0.5


@pytest.mark.parametrize("kind", [RandomNegatives, HistoricalNegatives, InductiveNegatives])
def test_draws_depend_on_seed_epoch_and_event_alone(kind: type) -> None:
    stream = make()
    split = EventSplit.make(stream)

    def negatives(seed: int):
        return kind(stream, 4, seed) if kind is RandomNegatives else kind(stream, split, 4, seed)

    e_id = torch.arange(300)
    whole = negatives(5).draw(e_id, 2)
    torch.manual_seed(123)
    pieces = torch.cat([negatives(5).draw(piece, 2) for piece in e_id.split(17)])
    assert torch.equal(pieces, whole)
    order = torch.randperm(300)
    assert torch.equal(negatives(5).draw(order, 2), whole[order])
    for other in (negatives(6).draw(e_id, 2), negatives(5).draw(e_id, 3)):
        assert not torch.equal(other, whole)
    assert negatives(5).draw(e_id[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match="epoch"):
        negatives(5).draw(e_id, -1)


def test_random_bad_input() -> None:
    with pytest.raises(TypeError, match="destinations must be an EventStream or int64"):
        RandomNegatives([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="destinations must be an EventStream or int64"):
        RandomNegatives(torch.ones(3))
    with pytest.raises(ValueError, match="at least one candidate"):
        RandomNegatives(torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="count must be in"):
        RandomNegatives(torch.arange(3), count=0)
    with pytest.raises(TypeError, match="seed must be an int"):
        RandomNegatives(torch.arange(3), seed=1.5)  # type: ignore[arg-type]
    assert repr(RandomNegatives(torch.arange(3), 2)) == "RandomNegatives(candidates=3, count=2)"


# Historical and inductive


def candidates(stream: EventStream, split: EventSplit, kind: type) -> list[set[int]]:
    """For each event, by dictionaries: known destinations of its source that are not true at its time."""
    rows = list(zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), strict=True))
    train, late, true = defaultdict(set), defaultdict(set), defaultdict(set)
    training = set(split.train.tolist())
    for i, (u, v, t) in enumerate(rows):
        true[u, t].add(v)
        if i in training:
            train[u].add(v)
        if i in split.ranges[2]:
            late[u].add(v)
    if kind is HistoricalNegatives:
        return [train[u] - true[u, t] for u, _, t in rows]
    return [late[u] - train[u] - true[u, t] for u, _, t in rows]


@pytest.mark.parametrize("kind", [HistoricalNegatives, InductiveNegatives])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), moments=st.integers(8, 80), new=st.sampled_from([0, 0.2]))
def test_known_pairs_against_dictionaries(kind: type, seed: int, count: int, moments: int, new: float) -> None:
    stream = make(120, seed, moments)
    try:
        split = EventSplit.make(stream, new_nodes=new, seed=seed)
    except ValueError:
        return
    drawn = kind(stream, split, count, seed).draw(torch.arange(120), 1).tolist()
    random = RandomNegatives(stream, count, seed).draw(torch.arange(120), 1).tolist()
    for row, fallback, allowed in zip(drawn, random, candidates(stream, split, kind), strict=True):
        known = min(count, len(allowed))
        assert set(row[:known]) <= allowed
        assert len(set(row[:known])) == known
        assert row[known:] == fallback[known:]


@pytest.mark.parametrize("kind", [HistoricalNegatives, InductiveNegatives])
@pytest.mark.parametrize("count", [1, 2])
def test_known_pairs_are_uniform(kind: type, count: int) -> None:
    """Among exactly the candidates, also those behind the excluded ones of the row."""
    stream = make(400, 3, 40, items=15 if kind is HistoricalNegatives else 90)
    split = EventSplit.make(stream)
    allowed = candidates(stream, split, kind)
    checked = 0
    for event in range(390, 400):
        if len(allowed[event]) <= count:
            continue
        checked += 1
        negatives = kind(stream, split, count, seed=event)
        e_id = torch.tensor([event])
        drawn = torch.cat([negatives.draw(e_id, epoch) for epoch in range(300)]).view(-1)
        counts = drawn.bincount(minlength=stream.num_nodes)[sorted(allowed[event])]
        assert int(counts.sum()) == 300 * count
        assert uniform_within(counts, 300 * count)
    assert checked > 2


def test_nothing_known() -> None:
    """Every pair of the test was there in training: no inductive ones, so random ones."""
    t = torch.arange(40)
    stream = EventStream(t * 0, 1 + t % 2, t)
    split = EventSplit.make(stream)
    e_id = torch.arange(40)
    inductive = InductiveNegatives(stream, split, 2)
    assert torch.equal(inductive.draw(e_id), RandomNegatives(stream, 2).draw(e_id))
    assert repr(inductive) == "InductiveNegatives(pairs=0, count=2)"
    historical = HistoricalNegatives(stream, split)
    assert torch.equal(historical.draw(e_id).view(-1), 3 - stream.dst)
    assert repr(historical) == "HistoricalNegatives(pairs=2, count=1)"


def test_a_split_of_another_stream() -> None:
    split = EventSplit.make(make())
    for kind in (HistoricalNegatives, InductiveNegatives):
        with pytest.raises(ValueError, match=r"split is of a stream of 300 events \(this one has 100\)"):
            kind(make(100), split)
        with pytest.raises(ValueError, match="count must be in"):
            kind(make(), split, count=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_draws_the_same() -> None:
    stream = make()
    split, e_id = EventSplit.make(stream), torch.arange(300)
    there = stream.to("cuda")
    for here, moved in (
        (RandomNegatives(stream, 3), RandomNegatives(there, 3)),
        (HistoricalNegatives(stream, split, 3), HistoricalNegatives(there, split, 3)),
        (InductiveNegatives(stream, split, 3), InductiveNegatives(there, split, 3)),
    ):
        assert torch.equal(here.draw(e_id), moved.draw(e_id.cuda()).cpu())
