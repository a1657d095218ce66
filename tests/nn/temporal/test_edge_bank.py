"""EdgeBank against a dictionary of what was seen, its growing state, and bad input."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.nn.temporal.edge_bank import EdgeBank

NODES = 6


def random_events(seed: int, number: int, nodes: int = NODES) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(nodes, (2, number), generator=draw)
    return src, dst, torch.randint(100, (number,), generator=draw).sort().values


def feed(bank: EdgeBank, events, batch: int) -> None:
    e_id = torch.arange(events[0].numel())
    for part in zip(*(column.split(batch) for column in (*events, e_id)), strict=True):
        bank.update_state(*part)


def all_pairs(bank: EdgeBank, t: int) -> torch.Tensor:
    n = bank.num_nodes
    return bank(torch.arange(n), torch.arange(n).expand(n, n), torch.full((n,), t))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 60), batch=st.integers(1, 20))
def test_oracle(seed: int, number: int, batch: int) -> None:
    events = random_events(seed, number)
    times = defaultdict(list)
    for u, v, t in zip(*(column.tolist() for column in events), strict=True):
        times[u, v].append(t)
    now, window = int(events[2][-1]) + 3, 20
    rules = {
        "unlimited": lambda seen: len(seen) > 0,
        "window": lambda seen: any(t >= now - window for t in seen),
        "repeat": lambda seen: len(seen) >= number / len(times),
    }
    for memory, rule in rules.items():
        bank = EdgeBank(NODES, memory, window if memory == "window" else None)
        feed(bank, events, batch)
        want = [[float(rule(times.get((u, v), []))) for v in range(NODES)] for u in range(NODES)]
        assert all_pairs(bank, now).tolist() == want


def test_levels_join() -> None:
    """Enough links for several joins, in batches of every kind of novelty."""
    nodes = 300
    bank, seen = EdgeBank(nodes), torch.zeros(nodes, nodes)
    events = random_events(0, 40_000, nodes)
    feed(bank, events, 50)
    assert bank.old_key.numel() > 10 * bank.new_key.numel() > 0
    seen[events[0], events[1]] = 1
    assert torch.equal(all_pairs(bank, 100), seen)
    for level in ("old", "new"):
        key = getattr(bank, f"{level}_key")
        assert bool((key[1:] > key[:-1]).all())
    assert int(bank.num_links) == int(seen.sum()) == bank.old_key.numel() + bank.new_key.numel()
    assert int(bank.old_count.sum() + bank.new_count.sum()) == int(bank.num_shown) == 40_000


def test_scoring_changes_nothing() -> None:
    bank = EdgeBank(NODES, "repeat")
    feed(bank, random_events(1, 30), 7)
    before = bank.snapshot()
    all_pairs(bank, 1000)
    assert all(torch.equal(before[name], value) for name, value in bank.named_state())
    assert int(bank.next_event) == 30


@pytest.mark.parametrize("way", ["snapshot", "state_dict"])
def test_state_of_another_size(way: str) -> None:
    events = random_events(2, 40)
    small, large = EdgeBank(NODES), EdgeBank(NODES)
    feed(small, [column[:5] for column in events], 2)
    feed(large, events, 7)
    want = all_pairs(large, 100)
    for bank in (small, EdgeBank(NODES)):
        if way == "snapshot":
            bank.load_snapshot(large.snapshot())
        else:
            bank.load_state_dict(large.state_dict())
        assert torch.equal(all_pairs(bank, 100), want)
        assert {n: v.shape for n, v in bank.named_state()} == {n: v.shape for n, v in large.named_state()}
    before = all_pairs(small, 100)
    with pytest.raises(ValueError, match="snapshot is of another model"):
        small.load_snapshot({"count": torch.zeros(3)})
    assert torch.equal(all_pairs(small, 100), before)


def test_reset() -> None:
    """An emptied memory is as good as a new one."""
    for number in (30, 3000):
        bank, fresh = EdgeBank(60, "repeat"), EdgeBank(60, "repeat")
        feed(bank, random_events(3, number, 60), 9)
        bank.reset_state()
        assert not all_pairs(bank, 5).any()
        assert int(bank.next_event) == 0
        events = random_events(4, 200, 60)
        feed(bank, events, 9)
        feed(fresh, events, 9)
        assert torch.equal(all_pairs(bank, 100), all_pairs(fresh, 100))


def test_window_of() -> None:
    assert EdgeBank.window_of(torch.tensor([10, 12, 110])) == 15
    bank = EdgeBank(NODES, "window", 5)
    bank.update_state(*(torch.tensor([value]) for value in (1, 2, 10, 0)))
    got = [bank(torch.tensor([1]), torch.tensor([[2]]), torch.tensor([t])).item() for t in (10, 15, 16)]
    assert got == [1, 1, 0]


def test_bad_arguments() -> None:
    for memory, window in (("window", None), ("unlimited", 3), ("repeat", 3)):
        with pytest.raises(ValueError, match="go together"):
            EdgeBank(NODES, memory, window)
    with pytest.raises(ValueError, match="memory must be one of unlimited, window, repeat"):
        EdgeBank(NODES, "windows")
    with pytest.raises(ValueError, match="window"):
        EdgeBank(NODES, "window", -1)
    with pytest.raises(ValueError, match="num_nodes"):
        EdgeBank(2**32)
