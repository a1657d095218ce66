"""EventSplit: NumPy's quantiles, whole moments, and the protocol of the inductive split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphkit.datasets import EventSplit, EventStream, load

TIMES = st.lists(st.integers(0, 60), min_size=2, max_size=80)


def stream_at(t: list[int] | torch.Tensor, num_nodes: int = 7) -> EventStream:
    times = torch.as_tensor(t).sort().values
    place = torch.arange(times.numel())
    return EventStream(place * 5 % num_nodes, place * 3 % num_nodes, times, num_nodes=num_nodes)


@settings(max_examples=150, deadline=None)
@given(TIMES, st.sampled_from([1, 7, 10**6, 10**9]), st.sampled_from([(0.15, 0.15), (0.1, 0.2), (0.5, 0.25)]))
def test_borders_are_numpys_quantiles(values: list[int], unit: int, shares: tuple[float, float]) -> None:
    valid, test = shares
    t = np.sort(np.array(values) * unit)
    first, second = np.quantile(t, [round(1 - valid - test, 12), round(1 - test, 12)])
    expected = (int((t <= first).sum()), int((t <= second).sum()))
    empty = [expected[0], expected[1] - expected[0], len(t) - expected[1]]
    if 0 in empty:
        with pytest.raises(ValueError, match="part is empty"):
            EventSplit.make(stream_at(t.tolist()), valid, test)
        return
    split = EventSplit.make(stream_at(t.tolist()), valid, test)
    assert (split.train_stop, split.valid_stop) == expected


@pytest.mark.parametrize("base", [0, 10**9])
@pytest.mark.parametrize("size", [91, 171, 331, 361, 661])
def test_a_quantile_that_is_an_events_time(size: int, base: int) -> None:
    """(size - 1) * 0.7 is whole, but float64 finds less: NumPy's interpolation rounds to it or stays below."""
    t = base + 10 * np.arange(size)
    split = EventSplit.make(stream_at(t.tolist()))
    assert split.train_stop == int((t <= np.quantile(t, 0.7)).sum())
    assert split.valid_stop == int((t <= np.quantile(t, 0.85)).sum())


@settings(max_examples=80, deadline=None)
@given(TIMES, st.sampled_from([2**53, 2**60, 2**63 - 100]))
def test_borders_far_from_zero(values: list[int], base: int) -> None:
    """Where float64 no longer tells neighbouring times apart, the split is the one of the times moved to zero."""
    t = sorted(values)
    try:
        near = EventSplit.make(stream_at(t))
    except ValueError:
        assume(False)
    far = EventSplit.make(stream_at([base + x for x in t]))
    # Rounding of the interpolation differs only where the quantile is an event's time.
    for at, stop in ((0.7, "train_stop"), (0.85, "valid_stop")):
        if not float((len(t) - 1) * round(at * 100) / 100).is_integer():
            assert getattr(near, stop) == getattr(far, stop)


def test_parts_and_ranges() -> None:
    split = EventSplit.make(stream_at(list(range(100))))
    assert [len(part) for part in split.ranges] == [70, 15, 15]
    for part, span in zip((split.train, split.valid, split.test), split.ranges, strict=True):
        assert part.tolist() == list(span)
    assert split.new_nodes is None
    assert repr(split) == "EventSplit(train=70, valid=15, test=15)"


def test_a_moment_is_in_one_part() -> None:
    t = [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 7, 7, 8]
    split = EventSplit.make(stream_at(t), 0.2, 0.2)
    for stop in (split.train_stop, split.valid_stop):
        assert t[stop - 1] < t[stop]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3]))
def test_inductive_protocol(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(40, (2, 400), generator=generator) + 2  # two nodes have no event
    stream = EventStream(src, dst, torch.arange(400), num_nodes=44)
    split, again = (EventSplit.make(stream, new_nodes=share, seed=seed) for _ in range(2))
    new = split.new_nodes
    assert new is not None
    assert again.new_nodes is not None
    assert torch.equal(new, again.new_nodes)
    seen = set(src.tolist()) | set(dst.tolist())
    late = set(src[split.train_stop :].tolist()) | set(dst[split.train_stop :].tolist())
    hidden = set(new.nonzero().view(-1).tolist())
    assert len(hidden) == int(share * len(seen))
    assert hidden <= late
    events = list(zip(src.tolist(), dst.tolist(), strict=True))
    touched = [bool({a, b} & hidden) for a, b in events]
    assert split.train.tolist() == [i for i in split.ranges[0] if not touched[i]]
    assert split.valid.tolist() == [i for i in split.ranges[1] if not touched[i]]
    assert split.test.tolist() == [i for i in split.ranges[2] if touched[i]]
    assert split.ranges == EventSplit.make(stream).ranges
    other = EventSplit.make(stream, new_nodes=share, seed=seed + 1).new_nodes
    assert other is not None
    assert int(other.sum()) == len(hidden)
    assert f"new_nodes={len(hidden)}" in repr(split)


def test_seeds_hide_different_nodes() -> None:
    t = torch.arange(2000)
    stream = EventStream(t % 100, t * 7 % 93, t)
    hidden = {
        tuple(EventSplit.make(stream, new_nodes=0.1, seed=s).new_nodes.nonzero().view(-1).tolist()) for s in range(5)
    }  # type: ignore[union-attr]
    assert len(hidden) == 5


def test_protocols_of_a_dataset() -> None:
    dataset = load("nycflights")
    assert isinstance(dataset.data, EventStream)
    split = dataset.split()
    assert isinstance(split, EventSplit)
    assert split.ranges == EventSplit.make(dataset.data).ranges
    inductive = dataset.split(3, "inductive")
    expected = EventSplit.make(dataset.data, new_nodes=0.1, seed=3)
    assert torch.equal(inductive.new_nodes, expected.new_nodes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"valid": -0.1}, ValueError, "valid must be in"),
        ({"test": 1.5}, ValueError, "test must be in"),
        ({"valid": "x"}, TypeError, "valid must be a number"),
        ({"valid": 0.5, "test": 0.5}, ValueError, r"valid \+ test must be less than 1"),
        ({"new_nodes": 2}, ValueError, "new_nodes must be in"),
        ({"new_nodes": 0.01}, ValueError, "would hide 0 of 7 nodes"),
        ({"new_nodes": 1.0}, ValueError, "part is empty|would hide 7"),
        ({"new_nodes": 0.5, "seed": -1}, ValueError, "must not be negative"),
    ],
)
def test_bad_input(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        EventSplit.make(stream_at(list(range(50))), **options)


def test_too_few_moments() -> None:
    with pytest.raises(ValueError, match=r"the valid part is empty: 50 events at 1 different times"):
        EventSplit.make(stream_at([4] * 50))
    with pytest.raises(TypeError, match="stream must be an EventStream"):
        EventSplit.make(torch.arange(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 < train_stop"):
        EventSplit(5, 4, 10)
    assert EventSplit.make(stream_at([1, 2, 3]), valid=0, test=0.4).valid.numel() == 0
