"""Generated graphs are what they say."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import average_precision_score

from graphkit.datasets import EventStream, RandomNegatives
from graphkit.datasets.synthetic import (
    drifting_preference_stream,
    random_geometric_graph,
    repeat_purchase_stream,
    triadic_closure_stream,
)


@pytest.mark.parametrize("radius", [0.05, 0.3, 2.0])
def test_random_geometric_graph(radius: float) -> None:
    data = random_geometric_graph(60, radius, seed=3)
    near = torch.cdist(data.pos.double(), data.pos.double()) <= radius
    near.fill_diagonal_(False)
    got = torch.zeros_like(near)
    got[data.edge_index[0], data.edge_index[1]] = True
    assert torch.equal(got, near)
    assert data.num_edges == int(near.sum())
    assert torch.equal(data.x, torch.ones(60, 1))
    again, other = random_geometric_graph(60, radius, seed=3), random_geometric_graph(60, radius, seed=4)
    assert torch.equal(again.pos, data.pos)
    assert torch.equal(again.edge_index, data.edge_index)
    assert not torch.equal(other.pos, data.pos)
    assert 0 <= float(data.pos.min()) < float(data.pos.max()) <= 1


def test_random_geometric_graph_without_edges() -> None:
    assert random_geometric_graph(1, 0.1).edge_index.shape == (2, 0)
    with pytest.raises(ValueError, match="num_nodes"):
        random_geometric_graph(0, 0.1)
    with pytest.raises(ValueError, match="radius"):
        random_geometric_graph(5, 0.0)


# Event streams


def scores(stream: EventStream, ends: list[list[int]]) -> dict[str, float]:
    """Average precision of simple scores on the last 30 % of the events, one random destination against each."""
    last: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=8))
    degree, seen, latest = Counter[int](), set(), {}
    first = int(stream.dst.min())
    ring = stream.num_nodes - first
    table: dict[str, list[float]] = defaultdict(list)
    true = []
    for place, (u, v, negative) in enumerate(zip(*ends, strict=True)):
        if place >= 0.7 * len(stream):
            for x in (v, negative):
                gap = (x - latest.get(u, first) - 3) % ring
                table["common"].append(len(set(last[u]) & set(last[x])))
                table["edge"].append((u, x) in seen)
                table["degree"].append(degree[x])
                table["next"].append(-min(gap, ring - gap))
            true += [1, 0]
        last[u].append(v)
        last[v].append(u)
        degree.update((u, v))
        seen.add((u, v))
        latest[u] = v
    return {name: average_precision_score(true, values) for name, values in table.items()}


def judged(stream: EventStream) -> dict[str, float]:
    negative = RandomNegatives(stream, seed=7).draw(torch.arange(len(stream)))[:, 0]
    return scores(stream, [stream.src.tolist(), stream.dst.tolist(), negative.tolist()])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_triadic_closure_is_found_by_common_neighbours_alone(seed: int) -> None:
    found = judged(triadic_closure_stream(seed=seed))
    assert 0.84 < found["common"] < 0.88
    assert found["edge"] < 0.53
    assert found["degree"] < 0.55


def test_triadic_closure_follows_its_rule() -> None:
    """With closure = 1 each event but the random first ones closes an open triangle of recent partners."""
    stream = triadic_closure_stream(num_nodes=30, num_events=600, closure=1.0, recent=3, seed=4)
    last: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=3))
    closed = 0
    for a, c in zip(stream.src.tolist(), stream.dst.tolist(), strict=True):
        assert a != c
        closed += c not in last[a] and any(c in last[b] and b in last[c] for b in last[a])
        last[a].append(c)
        last[c].append(a)
    assert closed > 450
    random = triadic_closure_stream(num_nodes=30, num_events=6000, closure=0.0)
    pairs = torch.bincount(random.src * 30 + random.dst, minlength=900).view(30, 30)
    assert int(pairs.diag().sum()) == 0
    expected = 6000 / 870
    statistic = float(((pairs[~torch.eye(30, dtype=torch.bool)] - expected) ** 2 / expected).sum())
    assert statistic < 869 + 5 * (2 * 869) ** 0.5


def test_repeated_purchases_are_remembered() -> None:
    stream = repeat_purchase_stream()
    found = judged(stream)
    assert found["edge"] > 0.8
    assert found["edge"] > found["degree"] + 0.05
    pairs = set(zip(stream.src.tolist(), stream.dst.tolist(), strict=True))
    # Each user's first purchase, and 15 % of the others; some of the new items were bought before.
    users = stream.src.unique().numel()
    assert len(pairs) == pytest.approx(users + 0.15 * (len(stream) - users), rel=0.1)
    assert int(stream.src.max()) < 2000 <= int(stream.dst.min())
    assert stream.msg is not None
    # Messages of one item are nearer to each other than to those of others.
    item = int(stream.dst.bincount().argmax())
    own, others = stream.msg[stream.dst == item], stream.msg[stream.dst != item][:200]
    assert float(torch.cdist(own, own).mean()) < 0.6 * float(torch.cdist(own, others).mean())


def test_drifting_preferences_need_the_last_event() -> None:
    stream = drifting_preference_stream()
    found = judged(stream)
    assert found["next"] > 0.97
    for name in ("edge", "degree", "common"):
        assert found[name] < 0.53
    item = stream.dst - 200
    for user in range(5):
        moves = item[stream.src == user].diff() % 1000
        assert set(moves.tolist()) == {2, 3, 4}
    assert stream.msg is not None
    angle = torch.atan2(*stream.msg.t()) / (2 * torch.pi) * 1000
    gap = (angle - item + 500) % 1000 - 500
    assert float(gap.abs().max()) < 10


@pytest.mark.parametrize("make", [triadic_closure_stream, repeat_purchase_stream, drifting_preference_stream])
def test_streams_depend_on_the_seed_alone(make: Callable[..., EventStream]) -> None:
    first, again, other = make(num_events=500, seed=3), make(num_events=500, seed=3), make(num_events=500, seed=4)
    for name in ("src", "dst", "t"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.t.tolist() == list(range(500))
    assert not torch.equal(first.src, other.src)
    if first.msg is not None:
        assert torch.equal(first.msg, again.msg)
    with pytest.raises(ValueError, match="num_events must be in"):
        make(num_events=0)
    with pytest.raises(ValueError, match="seed must be in"):
        make(seed=-1)


def test_stream_generators_refuse() -> None:
    with pytest.raises(ValueError, match="closure must be in"):
        triadic_closure_stream(closure=1.1)
    with pytest.raises(ValueError, match="num_nodes must be in"):
        triadic_closure_stream(num_nodes=2)
    with pytest.raises(ValueError, match="repeat must be in"):
        repeat_purchase_stream(repeat=-0.5)
    with pytest.raises(TypeError, match="msg_dim must be an integer"):
        repeat_purchase_stream(msg_dim=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step must be in"):
        drifting_preference_stream(step=0)
