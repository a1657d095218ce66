"""EventLoader: every event once, in order, cut where the arguments say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.datasets import EventStream, RandomNegatives, events
from graphkit.loader import EventBatch, EventLoader
from graphkit.loader import event_loader as module

TIMES = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(sorted)


def stream_at(t: list[int]) -> EventStream:
    place = torch.arange(len(t))
    return EventStream(place % 5, 5 + place % 4, torch.tensor(t))


def parts(size: int) -> st.SearchStrategy:
    """All events, a range of them, or some."""
    spans = st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda ends: range(min(ends), max(ends)))
    return st.one_of(st.none(), spans, st.sets(st.integers(0, size - 1)).map(sorted))


def check_batches(stream: EventStream, loader: EventLoader, ids: list[int]) -> list[list[int]]:
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        assert isinstance(batch, EventBatch)
        assert batch.e_id.numel() > 0
        assert batch.e_id.dtype == torch.int64
        assert torch.equal(batch.src, stream.src[batch.e_id])
        assert torch.equal(batch.dst, stream.dst[batch.e_id])
        assert torch.equal(batch.t, stream.t[batch.e_id])
        assert batch.neg is None
    found = [batch.e_id.tolist() for batch in batches]
    assert [i for batch in found for i in batch] == ids
    return found


@settings(max_examples=150, deadline=None)
@given(st.data(), TIMES, st.integers(1, 9), st.sampled_from(["split", "together"]))
def test_batches_by_count(data: st.DataObject, t: list[int], size: int, ties: str) -> None:
    stream = stream_at(t)
    part = data.draw(parts(len(t)))
    ids = list(range(len(t))) if part is None else list(part)
    given_ids = torch.tensor(part, dtype=torch.int64) if isinstance(part, list) else part
    found = check_batches(stream, EventLoader(stream, given_ids, batch_size=size, ties=ties), ids)
    expected: list[list[int]] = []
    for i in ids:  # one event after another
        full = not expected or len(expected[-1]) >= size
        if full and not (ties == "together" and expected and t[expected[-1][-1]] == t[i]):
            expected.append([])
        expected[-1].append(i)
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(st.data(), TIMES, st.integers(1, 50), st.integers(1, 7))
def test_windows(data: st.DataObject, t: list[int], window: int, chunk: int) -> None:
    stream = stream_at(t)
    part = data.draw(parts(len(t)))
    ids = list(range(len(t))) if part is None else list(part)
    given_ids = torch.tensor(part, dtype=torch.int64) if isinstance(part, list) else part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = check_batches(stream, EventLoader(stream, given_ids, window=window), ids)
    expected = [list(group) for _, group in itertools.groupby(ids, key=lambda i: t[i] // window)]
    assert found == expected


def test_windows_of_two_parts_are_those_of_the_whole() -> None:
    stream = stream_at([3, 11, 12, 29, 30, 31])
    assert [b.e_id.tolist() for b in EventLoader(stream, window=10)] == [[0], [1, 2], [3], [4, 5]]
    assert [b.e_id.tolist() for b in EventLoader(stream, range(2, 6), window=10)] == [[2], [3], [4, 5]]


def test_times_far_from_zero() -> None:
    base = 2**62
    stream = stream_at([base, base + 1, base + 1, base + 2])
    assert [b.e_id.tolist() for b in EventLoader(stream, window=1)] == [[0], [1, 2], [3]]
    assert [b.e_id.tolist() for b in EventLoader(stream, batch_size=2, ties="together")] == [[0, 1, 2], [3]]


def test_default_size_and_repr() -> None:
    stream = stream_at(list(range(450)))
    loader = EventLoader(stream)
    assert [batch.src.numel() for batch in loader] == [200, 200, 50]
    assert repr(loader) == "EventLoader(events=450, batch_size=200, batches=3)"
    assert repr(EventLoader(stream, window=100)) == "EventLoader(events=450, window=100, batches=5)"
    assert [b.e_id.tolist() for b in loader] == [b.e_id.tolist() for b in loader]


def test_successive_events_are_not_copied() -> None:
    stream = stream_at([i // 3 for i in range(100)])
    for loader in (
        EventLoader(stream, batch_size=10),
        EventLoader(stream, range(20, 60), batch_size=10, ties="together"),
        EventLoader(stream, torch.arange(20, 60), window=4),
    ):
        for batch in loader:
            for name in ("src", "dst", "t"):
                column = getattr(stream, name)[batch.e_id[0] :]
                assert getattr(batch, name).data_ptr() == column.data_ptr()


def test_an_opened_stream(tmp_path: Path) -> None:
    stream = stream_at(list(range(100)))
    stream.save(tmp_path / "s")
    for a, b in zip(
        EventLoader(stream, batch_size=7), EventLoader(EventStream.open(tmp_path / "s"), batch_size=7), strict=True
    ):
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def test_negatives_follow_the_epoch_and_not_the_batches() -> None:
    stream = stream_at(list(range(100)))
    drawn = {}
    for size in (7, 100):
        loader = EventLoader(stream, range(10, 90), batch_size=size, negatives=RandomNegatives(stream, count=2))
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            drawn[size, epoch] = torch.cat([batch.neg for batch in loader])
        loader.set_epoch(0)
        assert torch.equal(torch.cat([batch.neg for batch in loader]), drawn[size, 0])
    assert drawn[7, 0].shape == (80, 2)
    assert torch.equal(drawn[7, 0], drawn[100, 0])
    assert torch.equal(drawn[7, 1], drawn[100, 1])
    assert not torch.equal(drawn[7, 0], drawn[7, 1])
    with pytest.raises(ValueError, match="epoch must be in"):
        loader.set_epoch(-1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be in"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"window": 0}, ValueError, "window must be in"),
        ({"window": 5, "batch_size": 200}, ValueError, "batch_size or window, not both"),
        ({"ties": "apart"}, ValueError, "ties must be one of split, together"),
        ({"events": range(0, 9, 2)}, ValueError, "range of successive ids"),
        ({"events": range(5, 101)}, IndexError, r"outside the stream of 100"),
        ({"events": range(-1, 4)}, IndexError, "outside the stream"),
        ({"events": [1, 2]}, TypeError, "events must be a range or int64 ids"),
        ({"events": torch.ones(100, dtype=torch.bool)}, TypeError, "events must be a range or int64 ids"),
        ({"events": torch.tensor([1, 5, 4])}, ValueError, r"events must ascend \(got 4 after 5\)"),
        ({"events": torch.tensor([1, 5, 5])}, ValueError, r"events must ascend \(got 5 after 5\)"),
        ({"events": torch.tensor([-2, 5])}, IndexError, "events holds -2"),
        ({"events": torch.tensor([2, 100])}, IndexError, "events holds 100, outside the stream of 100"),
    ],
)
def test_bad_input(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        EventLoader(stream_at(list(range(100))), **options)


def test_other_streams() -> None:
    with pytest.raises(TypeError, match="stream must be an EventStream"):
        EventLoader(stream_at([1]).to_temporal_data())  # type: ignore[arg-type]
    none = EventLoader(stream_at([1, 2]), torch.empty(0, dtype=torch.int64), ties="together")
    assert (len(none), list(none)) == (0, [])
    assert list(EventLoader(stream_at([1, 2])[:0], window=3)) == []
    assert events.CHUNK == module.CHUNK
