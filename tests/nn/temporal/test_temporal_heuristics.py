"""Heuristics of streams against loops over the events."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.nn.temporal.temporal_heuristics import CommonRecentNeighbors, Popularity, Recency

NODES, SIZE = 7, 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 40), batch=st.integers(1, 15))
def test_oracle(seed: int, number: int, batch: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(NODES, (2, number), generator=draw)
    t = torch.randint(2**40, (number,), generator=draw).sort().values
    now = int(t[-1]) + 1 if number else 5
    models = Popularity(NODES), Recency(NODES), CommonRecentNeighbors(NODES, SIZE)
    for part in zip(*(column.split(batch) for column in (src, dst, t, torch.arange(number))), strict=True):
        for model in models:
            model.update_state(*part)
    events = list(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True))
    met: list[list[int]] = [[] for _ in range(NODES)]
    for u, v, _ in events:
        met[u].append(v)
        if u != v:
            met[v].append(u)
    grid = torch.arange(NODES).expand(NODES, NODES)
    popularity, recency, common = (m(torch.arange(NODES), grid, torch.full((NODES,), now)) for m in models)
    for v in range(NODES):
        assert popularity[:, v].tolist() == [sum((a == v) + (b == v) for a, b, _ in events)] * NODES
        last = max((s for a, b, s in events if v in (a, b)), default=-1)
        assert recency[:, v].tolist() == [last - now] * NODES
        for u in range(NODES):
            assert common[u, v] == len(set(met[u][-SIZE:]) & set(met[v][-SIZE:]))


@pytest.mark.parametrize("kind", [Popularity, Recency, CommonRecentNeighbors])
def test_state(kind: type) -> None:
    """Scoring leaves the state as it is; a reset model has seen nothing."""
    model, fresh = kind(NODES), kind(NODES)
    src, dst, t = torch.tensor([0, 1, 0]), torch.tensor([3, 3, 4]), torch.tensor([1, 2, 3])
    query = torch.tensor([0, 3]), torch.tensor([[1, 3, 4], [4, 0, 1]]), torch.tensor([9, 9])
    model.update_state(src, dst, t, torch.arange(3))
    before = model.snapshot()
    score = model(*query)
    assert score.shape == (2, 3)
    assert not torch.equal(score, fresh(*query))
    assert all(torch.equal(before[name], value) for name, value in model.named_state())
    assert int(model.next_event) == 3
    model.reset_state()
    assert torch.equal(model(*query), fresh(*query))
    with pytest.raises(ValueError, match="num_nodes"):
        kind(0)


def test_bad_size() -> None:
    with pytest.raises(ValueError, match="size"):
        CommonRecentNeighbors(NODES, 0)
