"""EventStream: sorted, exact, immutable, and the same after every round trip."""

from __future__ import annotations

import calendar
import datetime
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import TemporalData

from graphkit.datasets import EventStream, events, relabel

COLUMNS = ("src", "dst", "t", "msg", "y")


def make(num_events: int = 50, num_nodes: int = 9, msg_dim: int = 3, seed: int = 0, labels: bool = True) -> EventStream:
    """Ties, repeated events and self-loops; the last node has no event."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(num_nodes - 1, (2, num_events), generator=generator)
    t = torch.randint(num_events, (num_events,), generator=generator).sort().values
    msg = torch.randn(num_events, msg_dim, generator=generator) if msg_dim else None
    return EventStream(*ends, t, msg, torch.arange(num_events) % 3 if labels else None, num_nodes)


def assert_same(a: EventStream, b: EventStream) -> None:
    assert a.num_nodes == b.num_nodes
    for name in COLUMNS:
        left, right = getattr(a, name), getattr(b, name)
        if left is None or right is None:
            assert left is right, name
        else:
            assert left.dtype == right.dtype, name
            assert torch.equal(left, right), name


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_sizes_and_repr() -> None:
    stream = make()
    assert (stream.num_events, len(stream), stream.num_nodes, stream.msg_dim) == (50, 50, 9, 3)
    text = f"EventStream(events=50, nodes=9, msg_dim=3, y, t={int(stream.t[0])}..{int(stream.t[-1])})"
    assert repr(stream) == text
    bare = make(msg_dim=0, labels=False)
    assert bare.msg is None
    assert bare.msg_dim == 0
    assert ", y" not in repr(bare)


def test_number_of_nodes_is_inferred_from_both_ends() -> None:
    assert EventStream(ids(0, 7), ids(1, 2), ids(0, 1)).num_nodes == 8
    assert EventStream(ids(0, 1), ids(6, 2), ids(0, 1)).num_nodes == 7


def test_it_does_not_change() -> None:
    stream = make()
    with pytest.raises(AttributeError):
        stream.src = stream.dst  # type: ignore[misc]
    with pytest.raises(AttributeError):
        stream.num_nodes = 3  # type: ignore[misc]


def test_types_are_normalised_exactly() -> None:
    stream = EventStream(ids(0, 1).int(), ids(1, 0).int(), ids(3, 4).int(), torch.ones(2, 1, dtype=torch.float64))
    assert (stream.src.dtype, stream.dst.dtype, stream.t.dtype) == (torch.int64,) * 3
    assert stream.msg is not None
    assert stream.msg.dtype == torch.float32
    grown = EventStream(ids(0), ids(1), ids(0), torch.ones(1, 1, requires_grad=True))
    assert grown.msg is not None
    assert not grown.msg.requires_grad


def test_large_times_are_exact(tmp_path: Path) -> None:
    t = ids(2**40, 2**40 + 1, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 1)
    stream = EventStream(t % 3, t % 5, t)
    stream.save(tmp_path / "s")
    frame = pd.DataFrame({"src": stream.src, "dst": stream.dst, "t": t})
    for other in (
        EventStream.open(tmp_path / "s"),
        EventStream.from_temporal_data(stream.to_temporal_data()),
        EventStream.from_pandas(frame),
        EventStream(stream.src.flip(0), stream.dst.flip(0), t.flip(0), sort=True),
    ):
        assert other.t.tolist() == t.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=30))
def test_sorting_is_stable(rows: list[tuple[int, int, int]]) -> None:
    src, dst, t = torch.tensor(rows).t()
    place = torch.arange(len(rows))
    stream = EventStream(src, dst, t, place[:, None].float(), place, sort=True)
    expected = sorted(range(len(rows)), key=lambda i: rows[i][2])  # Python's sort is stable
    assert stream.y is not None
    assert stream.y.tolist() == expected
    assert stream.msg is not None
    assert stream.msg.view(-1).tolist() == expected
    assert list(zip(*(c.tolist() for c in (stream.src, stream.dst, stream.t)), strict=True)) == [
        rows[i] for i in expected
    ]
    falls = [i for i in range(1, len(rows)) if rows[i][2] < rows[i - 1][2]]
    if falls:
        with pytest.raises(ValueError, match=rf"t must not decrease: event {falls[0]} is at"):
            EventStream(src, dst, t)
    else:
        assert_same(EventStream(src, dst, t), EventStream(src, dst, t, sort=True))


def test_repeated_events_and_loops_are_kept() -> None:
    stream = EventStream(ids(1, 1, 1), ids(1, 1, 1), ids(4, 4, 4))
    assert len(stream) == 3


def test_slices_are_views() -> None:
    stream = make()
    part = stream[10:30]
    assert_same(part[5:7], stream[15:17])
    assert len(part) == 20
    assert part.num_nodes == stream.num_nodes
    for name in COLUMNS:
        whole, view = getattr(stream, name), getattr(part, name)
        assert view.data_ptr() == whole[10:].data_ptr()
    assert len(stream[:0]) == 0
    assert repr(stream[:0]) == "EventStream(events=0, nodes=9, msg_dim=3, y)"
    assert_same(stream[-5:], stream[45:50])
    for bad in (3, slice(None, None, 2), slice(None, None, -1), ids(1, 2)):
        with pytest.raises(TypeError, match="slices"):
            stream[bad]  # type: ignore[index]


def test_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHUNK", 7)
    stream = make()
    assert stream.destinations.tolist() == sorted(set(stream.dst.tolist()))
    assert stream.destinations is stream.destinations
    assert stream[3:9].destinations.tolist() == sorted(set(stream.dst[3:9].tolist()))


def test_moves_to_a_device() -> None:
    moved = make().to("meta")
    assert moved.device.type == "meta"
    assert moved.msg is not None
    assert moved.msg.device.type == "meta"
    assert_same(make().to("cpu"), make())


# Other forms


def test_temporal_data_round_trip() -> None:
    stream = make()
    data = stream.to_temporal_data()
    assert isinstance(data, TemporalData)
    assert data.num_events == 50
    assert_same(EventStream.from_temporal_data(data, 9), stream)
    bare = make(msg_dim=0, labels=False)
    assert bare.to_temporal_data().msg.shape == (50, 0)
    assert_same(EventStream.from_temporal_data(bare.to_temporal_data(), 9), bare)
    with pytest.raises(TypeError, match="data must be a TemporalData"):
        EventStream.from_temporal_data({})  # type: ignore[arg-type]


def test_pandas() -> None:
    frame = pd.DataFrame(
        {"a": [2.0, 0.0], "b": [1, 1], "when": [7.0, 5.0], "x": [1, 2], "z": [0.5, np.inf], "label": [0.25, 1.0]}
    )
    stream = EventStream.from_pandas(frame, "a", "b", "when", msg=["x"], y="label", sort=True)
    assert stream.src.tolist() == [0, 2]
    assert stream.t.tolist() == [5, 7]
    assert stream.msg is not None
    assert stream.msg.tolist() == [[2.0], [1.0]]
    assert stream.y is not None
    assert stream.y.tolist() == [1.0, 0.25]
    assert EventStream.from_pandas(frame, "a", "b", "when", y="x", sort=True).y.dtype == torch.int64  # type: ignore[union-attr]
    with pytest.raises(KeyError, match=r"no column 'src'; it has a, b, when"):
        EventStream.from_pandas(frame)
    with pytest.raises(ValueError, match="msg of event 0 holds inf"):
        EventStream.from_pandas(frame, "a", "b", "when", msg=["x", "z"], sort=True)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("t", [0.0, 1.5], r"t of row 1 must be a whole number \(got 1.5\); time_scale=1 rounds"),
        ("t", [0.0, np.nan], "t of row 1, the last one, is empty$"),
        ("t", [np.nan, 0.0], "t of row 0 is empty$"),
        ("t", pd.array([None, 1], dtype="Int64"), "t of row 0 is empty$"),
        ("t", ["", "1"], "t of row 0 is empty$"),
        ("t", [0.0, 2.0**53 + 2], r"t of row 1 must be a whole number .*beyond 2\^53"),
        ("t", [0.0, np.inf], "t of row 1 must be a whole number"),
        (
            "t",
            ["0", "2024-01-01"],
            r"t of row 1 must be a number \(got '2024-01-01'\); pandas.to_datetime parses dates",
        ),
        ("t", pd.to_datetime(["2024-01-01", None]), "t of row 1, the last one, is empty$"),
        ("t", [None, datetime.date(2024, 1, 1)], "t of row 0 is empty$"),
        ("t", pd.to_datetime(["2024-01-01", "2024-01-01T12"], format="ISO8601").to_period("D"), "t must hold numbers"),
        (
            "t",
            pd.to_datetime(["1969-12-31", "2024-01-01"]),
            "t of event 0 is -86400; times must not be negative, shift",
        ),
        ("src", [0, 0.5], r"src of row 1 must be a whole number \(got 0.5\)"),
        (
            "src",
            ["ann", "bob"],
            r"src of row 0 must be a number \(got 'ann'\); graphkit.datasets.relabel numbers names$",
        ),
        ("dst", ["1", None], "dst of row 1, the last one, is empty$"),
        ("x", ["1", "cheap"], r"x of row 1 must be a number \(got 'cheap'\)$"),
        ("x", pd.to_datetime(["2024-01-01", "2024-01-02"]), r"x must hold numbers \(got dates of type datetime64"),
        ("x", pd.to_timedelta([1, 2], unit="s"), r"x must hold numbers \(got dates of type timedelta64"),
    ],
)
def test_pandas_refuses(column: str, cells: Any, message: str) -> None:
    frame = pd.DataFrame({"src": [0, 1], "dst": [1, 0], "t": [0, 1], "x": [0, 1], column: cells})
    with pytest.raises(ValueError, match=message):
        EventStream.from_pandas(frame, msg=["x"])


def times_of(cells: Any, time_scale: float | None = None) -> list[int]:
    frame = pd.DataFrame({"src": [0] * len(cells), "dst": 1, "t": cells})
    return EventStream.from_pandas(frame, time_scale=time_scale, sort=True).t.tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_dates_are_seconds_whatever_their_unit(unit: str, zone: str | None) -> None:
    at = [datetime.datetime(1970, 1, 1, 0, 0, 7), datetime.datetime(2024, 2, 29, 23, 59, 59)]
    cells = pd.Series(at).astype(f"datetime64[{unit}]").dt.tz_localize("UTC").dt.tz_convert(zone)
    seconds = [7, calendar.timegm(at[1].timetuple())]
    assert times_of(cells) == seconds
    assert times_of(cells, 1000) == [1000 * value for value in seconds]
    assert times_of(cells, 1 / 60) == [round(value / 60) for value in seconds]


def test_dates_of_other_kinds() -> None:
    east = datetime.timezone(datetime.timedelta(hours=2))
    mixed = [datetime.datetime(1970, 1, 2), datetime.datetime(1970, 1, 2, 3, tzinfo=east)]
    assert times_of(pd.Series(mixed, dtype=object)) == [86400, 86400 + 3600]
    assert times_of([datetime.date(1970, 1, 1), datetime.date(1970, 1, 3)]) == [0, 2 * 86400]
    assert times_of(pd.to_datetime(["1970-01-01T02:00:00+02:00", "1970-01-01T02:00:01+02:00"])) == [0, 1]
    assert times_of(pd.to_timedelta([1, 2], unit="min")) == [60, 120]


@pytest.mark.parametrize(("fraction", "scale"), [("5", 1000), ("000250", 1000_000), ("000000001", 1000_000_000)])
def test_fractions_of_a_second_need_a_scale(fraction: str, scale: int) -> None:
    cells = pd.Series(pd.to_datetime(["2024-01-01T00:00:00", f"2024-01-01T00:00:01.{fraction}"], format="ISO8601"))
    with pytest.raises(
        ValueError, match=rf"t of row 1 is 2024-01-01 00:00:01.{fraction}\d*, no whole second.*={scale} "
    ):
        times_of(cells)
    begin, part = calendar.timegm((2024, 1, 1, 0, 0, 0)), int(fraction.ljust(9, "0"))
    assert times_of(cells, scale) == [begin * scale, (begin + 1) * scale + part * scale // 10**9]
    assert times_of(cells, 1) == [begin, begin + 1]
    with pytest.raises(ValueError, match="beyond int64"):
        times_of(cells, 10**10)


def test_time_scale() -> None:
    frame = pd.DataFrame({"src": [0, 1], "dst": [1, 0], "t": [0.001, 1.5]})
    assert EventStream.from_pandas(frame, time_scale=1000).t.tolist() == [1, 1500]
    assert EventStream.from_pandas(frame, time_scale=1).t.tolist() == [0, 2]
    frame["t"] = [2**53 + 1, 2**53 + 3]
    assert EventStream.from_pandas(frame, time_scale=3).t.tolist() == [3 * 2**53 + 3, 3 * 2**53 + 9]
    with pytest.raises(ValueError, match="beyond int64"):
        EventStream.from_pandas(frame, time_scale=2000)
    frame["t"] = [0.5, 2.0**50]
    with pytest.raises(ValueError, match=r"beyond 2\^53"):
        EventStream.from_pandas(frame, time_scale=1000)
    with pytest.raises(ValueError, match="time_scale must be in"):
        EventStream.from_pandas(frame, time_scale=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), min_size=1, max_size=20))
def test_relabel(pairs: list[tuple[int, int]]) -> None:
    src, dst = torch.tensor(pairs).t()
    new_src, new_dst, names = relabel(src, dst)
    assert torch.equal(names[new_src], src)
    assert torch.equal(names[new_dst], dst)
    assert names.tolist() == sorted({node for pair in pairs for node in pair})


names_of = st.lists(
    st.tuples(st.sampled_from(["7", "007", "NA", "ann", 7, 8, (1, 2)]), st.sampled_from(["ann", "x", 8, 8.5])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(names_of)
def test_names_are_numbered_as_they_come(pairs: list[tuple[Any, Any]]) -> None:
    frame = pd.DataFrame({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}, dtype=object)
    src, dst, names = relabel(frame["a"], frame["b"])
    assert [(names[a], names[b]) for a, b in zip(src, dst, strict=True)] == pairs
    assert list(names) == list(dict.fromkeys(name for pair in pairs for name in pair))
    assert names.get_indexer(frame["b"]).tolist() == dst.tolist()
    assert src.dtype == dst.dtype == np.int64
    stream = EventStream.from_pandas(frame.assign(src=src, dst=dst, t=0))
    assert stream.num_nodes == len(names)
    # Two kinds: the sources first, even where names are shared.
    src, dst, names = relabel(frame["a"].to_numpy(), frame["b"].to_numpy(), bipartite=True)
    users, items = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    assert list(names) == [*users, *items]
    assert [(users[a], items[b - len(users)]) for a, b in zip(src, dst, strict=True)] == pairs


def test_large_ids_of_different_types_are_told_apart() -> None:
    large = pd.Series([2**53, 2**53 + 1])
    src, dst, names = relabel(large, pd.Series([0.5, 1.5]))
    assert [names[i] for i in src] == [2**53, 2**53 + 1]
    src, dst, names = relabel(large, np.array([2**53, 2**63], np.uint64), bipartite=True)
    assert [names[i] for i in dst] == [2**53, 2**63]
    assert len(names) == 4


def test_tensors_of_two_kinds() -> None:
    src, dst, names = relabel(ids(9, 2, 9), ids(2, 9, 5), bipartite=True)
    assert src.tolist() == [1, 0, 1]
    assert dst.tolist() == [2, 4, 3]
    assert names.tolist() == [2, 9, 2, 5, 9]


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        (["a", None, "c"], ["b", "c", "d"], "src of row 1 is empty"),
        (["a", "b", "c"], ["", "", "d"], "dst of row 0 is empty"),
        ([1.0, 2.0], [1.0, np.nan], "dst of row 1, the last one, is empty"),
        (["a"], ["b", "c"], r"src and dst must have one length \(got 1 and 2\)"),
        (ids(1), ids(1, 2), r"src and dst must have one length \(got 1 and 2\)"),
    ],
)
def test_relabel_refuses(src: Any, dst: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relabel(src, dst)


# Bad events


@pytest.mark.parametrize("place", [0, 6, 7, 13, 49])
def test_the_first_bad_event_is_named(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the borders of the pieces in which a stream is looked at."""
    monkeypatch.setattr(events, "CHUNK", 7)
    good = make()
    assert good.msg is not None
    for name, value, error, message in (
        ("src", -1, IndexError, rf"src of event {place} is -1, outside \[0, 9\)"),
        ("dst", 9, IndexError, rf"dst of event {place} is 9, outside \[0, 9\)"),
        ("t", -5, ValueError, rf"t of event {place} is -5; times must not be negative"),
    ):
        columns = {"src": good.src.clone(), "dst": good.dst.clone(), "t": good.t.clone()}
        columns[name][place] = value
        columns[name][49] = value  # a later one is not the one named
        with pytest.raises(error, match=message):
            EventStream(**columns, num_nodes=9)
    for value in (float("nan"), float("inf"), -float("inf")):
        msg = good.msg.clone()
        msg[place, 1] = value
        with pytest.raises(ValueError, match=rf"msg of event {place} holds {value}"):
            EventStream(good.src, good.dst, good.t, msg)
    if place:
        t = good.t + 10
        t[place] = t[place - 1] - 1
        with pytest.raises(
            ValueError, match=rf"event {place} is at {int(t[place])}, the one before at {int(t[place - 1])}"
        ):
            EventStream(good.src, good.dst, t)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"src": [0, 1]}, TypeError, r"src must be a torch.Tensor \(got list\)"),
        ({"t": None}, TypeError, r"t must be a torch.Tensor \(got NoneType\)"),
        ({"src": torch.zeros(2)}, TypeError, r"src must be int64 or int32 \(got torch.float32\)"),
        ({"t": torch.zeros(2, dtype=torch.float64)}, TypeError, "t must be int64"),
        ({"t": torch.zeros(2, dtype=torch.bool)}, TypeError, "t must be int64"),
        ({"dst": ids(0)}, ValueError, r"dst must have one row an event \(got 1 rows, src has 2\)"),
        ({"t": ids(0, 1)[:, None]}, ValueError, r"t must have shape \[E\] \(got \[2, 1\]\)"),
        ({"msg": torch.zeros(2)}, ValueError, r"msg must have shape \[E, D\] \(got \[2\]\)"),
        ({"msg": torch.zeros(2, 1, dtype=torch.int64)}, TypeError, "msg must be floating point"),
        ({"msg": torch.zeros(3, 1)}, ValueError, r"msg must have one row an event \(got 3"),
        ({"y": torch.zeros(2, 2)}, ValueError, r"y must have shape \[E\]"),
        ({"y": ids(1)}, ValueError, "y must have one row an event"),
        ({"dst": ids(0, 0).to("meta")}, ValueError, "dst must be where src is"),
        ({"num_nodes": 0}, ValueError, "num_nodes must be in"),
        ({"num_nodes": 2.5}, TypeError, "num_nodes must be an integer"),
        ({"src": ids(), "dst": ids(), "t": ids()}, ValueError, "at least one event"),
    ],
)
def test_bad_columns(change: dict, error: type, message: str) -> None:
    columns = {"src": ids(0, 1), "dst": ids(1, 0), "t": ids(3, 4), **change}
    with pytest.raises(error, match=message):
        EventStream(**columns)


# Files


@pytest.mark.parametrize(("msg_dim", "labels"), [(3, True), (0, False)])
def test_saved_and_opened(msg_dim: int, labels: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    stream = make(msg_dim=msg_dim, labels=labels)
    stream.save(tmp_path / "a" / "stream")
    opened = EventStream.open(tmp_path / "a" / "stream")
    assert_same(opened, stream)
    assert_same(opened[3:9], stream[3:9])
    assert [w for w in recwarn if "writable" in str(w.message)] == []
    assert os.listdir(tmp_path / "a") == ["stream"]
    opened[:20].save(tmp_path / "b")
    assert_same(EventStream.open(tmp_path / "b"), stream[:20])


def test_writing_into_an_opened_stream_does_not_reach_the_disk(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    opened = EventStream.open(tmp_path / "s")
    opened.src[0] = 8
    assert_same(EventStream.open(tmp_path / "s"), make())


def test_files_that_cannot_be_copied_on_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux refuses it where the file is larger than memory and swap."""
    make().save(tmp_path / "s")
    real = np.lib.format.open_memmap

    def refuse(path: Path, mode: str) -> np.ndarray:
        if mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return real(path, mode=mode)

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = EventStream.open(tmp_path / "s")
    assert_same(opened, make())


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = np.save, []

    def full(file, array, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(file, array, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make().save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_save_does_not_overwrite(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    with pytest.raises(FileExistsError, match="exists"):
        make(20).save(tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="exists"):
        make().save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")
    assert_same(EventStream.open(tmp_path / "empty"), EventStream.open(tmp_path / "s"))


def damage(folder: Path, kind: str) -> None:
    header = json.loads((folder / "stream.json").read_text())
    path = folder / "t.npy"
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-3])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "pickle":
        np.save(path, np.array([{}] * 50, dtype=object), allow_pickle=True)
    elif kind == "float":
        np.save(path, np.arange(50.0))
    elif kind == "shorter":
        np.save(path, np.arange(49))
    elif kind == "falling":
        np.save(path, np.arange(50)[::-1])
    elif kind == "node":
        header["num_nodes"] = 3
    elif kind == "format":
        header["format"] = 99
    elif kind == "key":
        del header["num_events"]
    elif kind == "no time":
        header["columns"].remove("t")
    if kind == "json":
        (folder / "stream.json").write_text("{")
    else:
        (folder / "stream.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("cut", ValueError, "t.npy is damaged or cut short"),
        ("empty", ValueError, "t.npy is damaged or cut short"),
        ("missing", ValueError, "t.npy is damaged or cut short"),
        ("pickle", ValueError, "t.npy is damaged or cut short"),
        ("float", ValueError, r"t.npy must hold 50 rows of torch.int64 \(got \[50\] of torch.float64"),
        ("shorter", ValueError, r"t.npy must hold 50 rows"),
        ("falling", ValueError, "t must not decrease: event 1 is at 48"),
        ("node", IndexError, r"event \d+ is \d, outside \[0, 3\)"),
        ("format", ValueError, "has format 99"),
        ("key", ValueError, "stream.json is damaged"),
        ("json", ValueError, "stream.json is damaged"),
        ("no time", ValueError, "must list src, dst and t"),
    ],
)
def test_damaged_files(kind: str, error: type, message: str, tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    damage(tmp_path / "s", kind)
    with pytest.raises(error, match=message):
        EventStream.open(tmp_path / "s")


def test_no_stream(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no stream.json"):
        EventStream.open(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_an_opened_stream_needs_no_memory(tmp_path: Path) -> None:
    """128 MB of columns: what a process opens, checks and goes through them with stays far below."""
    count = 4_000_000
    place = torch.arange(count)
    EventStream(place % 1000, place % 777, place, torch.zeros(count, 2)).save(tmp_path / "s")
    script = f"""
import re
from graphkit.datasets import EventStream
from graphkit.loader import EventLoader
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
EventStream.open({str(tmp_path / "s")!r})
before = anonymous()
stream = EventStream.open({str(tmp_path / "s")!r})
total, largest = 0, 0
for batch in EventLoader(stream, batch_size=100_000, ties="together"):
    total += int(batch.t.sum()) + int(stream.msg[batch.e_id].sum())
    largest = max(largest, anonymous() - before)
print(total, stream.destinations.numel(), largest)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    total, destinations, largest = done.stdout.split()
    assert int(total) == count * (count - 1) // 2
    assert int(destinations) == 777
    assert float(largest) < 30
