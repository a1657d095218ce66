"""Stored negatives against sets written out, TGB's own generator and sampler, and damaged files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.datasets import EventStream, StoredNegatives


def random_stream(seed: int, events: int = 60, users: int = 5, items: int = 12, times: int = 25) -> EventStream:
    """Users and items, many events at one time, pairs that repeat."""
    draw = torch.Generator().manual_seed(seed)
    src = torch.randint(users, (events,), generator=draw)
    dst = users + torch.randint(items, (events,), generator=draw)
    return EventStream(src, dst, torch.randint(times, (events,), generator=draw).sort().values)


def numbered_jointly(stream: EventStream, seed: int) -> EventStream:
    """The same events, users and items anywhere among ids that are not all taken."""
    ids = torch.randperm(3 * stream.num_nodes, generator=torch.Generator().manual_seed(seed))
    return EventStream(ids[stream.src], ids[stream.dst], stream.t, num_nodes=ids.numel())


def rows(stored: StoredNegatives, stream: EventStream, events: range) -> dict[tuple[int, int, int], list[int]]:
    part = stream[events.start : events.stop]
    found, mask = stored.query(part.src, part.dst, part.t)
    triples = torch.stack([part.src, part.dst, part.t], 1).tolist()
    return {tuple(triple): row[kept].tolist() for triple, row, kept in zip(triples, found, mask, strict=True)}


def pools(stream: EventStream, events: range, history: range | None):
    """For each event: what its source met in ``history``, and all other candidates; true destinations in neither."""
    triples = torch.stack([stream.src, stream.dst, stream.t], 1).tolist()
    everything = set(stream.dst.tolist())
    for src, dst, t in (triples[i] for i in events):
        true = {triples[i][1] for i in events if triples[i][0] == src and triples[i][2] == t}
        past = {triples[i][1] for i in history or () if triples[i][0] == src}
        yield (src, dst, t), past - true, everything - past - true


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_neg=st.integers(1, 14), historical=st.booleans())
def test_pools_and_numbers(seed: int, num_neg: int, historical: bool) -> None:
    stream = numbered_jointly(random_stream(seed), seed)
    events, history = range(40, 60), range(40) if historical else None
    stored = StoredNegatives.make(stream, events, num_neg, history, seed=seed)
    got = rows(stored, stream, events)
    for triple, past, rest in pools(stream, events, history):
        negatives = got[triple]
        assert len(set(negatives)) == len(negatives)
        assert set(negatives) <= past | rest
        met = min(num_neg // 2, len(past))
        assert len(set(negatives) & past) == met
        assert len(set(negatives) & rest) == min(num_neg - met, len(rest))
    assert len(stored) == len(got)


def test_negatives_are_destinations() -> None:
    """Users that lie between the items are none, whatever is asked for."""
    stream = numbered_jointly(random_stream(0), 1)
    users, items = set(stream.src.tolist()), set(stream.dst.tolist())
    assert users & set(range(min(items), max(items)))
    stored = StoredNegatives.make(stream, range(60), 100)
    assert set(stored.negatives.tolist()) == items
    assert stored.negatives.dtype == np.int32


def test_draws_are_uniform() -> None:
    """Each of the past, and each of the rest, comes equally often, over many seeds."""
    stream, events, history = random_stream(3, items=20), range(40, 60), range(40)
    triple, past, rest = max(pools(stream, events, history), key=lambda pool: len(pool[1]))
    assert min(len(past), len(rest)) > 4
    counts, draws = np.zeros(25), 3000
    for seed in range(draws):
        counts[rows(StoredNegatives.make(stream, events, 6, history, seed=seed), stream, events)[triple]] += 1
    for pool in (past, rest):
        share = 3 / len(pool)
        spread = 4.5 * np.sqrt(draws * share * (1 - share))
        assert np.abs(counts[sorted(pool)] - draws * share).max() < spread
    assert counts.sum() == draws * 6


def test_seed_and_threads() -> None:
    stream, events = random_stream(0, events=4000, items=900, times=3000), range(1000, 4000)

    def made(seed: int) -> np.ndarray:
        return StoredNegatives.make(stream, events, 100, range(1000), seed=seed).negatives

    first = made(0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.array_equal(made(0), first)
    finally:
        torch.set_num_threads(before)
    assert not np.array_equal(made(1), first)


def test_share() -> None:
    stream, events, history = random_stream(1), range(40, 60), range(40)
    none = rows(StoredNegatives.make(stream, events, 4, history, share=0), stream, events)
    every = rows(StoredNegatives.make(stream, events, 4, history, share=1), stream, events)
    for triple, past, rest in pools(stream, events, history):
        assert set(none[triple]) <= rest
        assert len(set(every[triple]) & past) == min(4, len(past))


def test_query_pads_with_the_true_destination() -> None:
    stream = EventStream(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 4, 4, 3]), torch.tensor([1, 1, 1, 2]))
    stored = StoredNegatives.make(stream, range(3), num_neg=5)
    stream = stream[:3]
    found, mask = stored.query(stream.src, stream.dst, stream.t)
    assert mask.tolist() == [[True, False], [True, False], [True, True]]
    assert found[:, 0].tolist()[:2] == [3, 3]
    assert found[:2, 1].tolist() == [2, 4]
    assert found[2].sort().values.tolist() == [2, 3]
    assert found.dtype == torch.int64
    empty, none = stored.query(stream.src[:0], stream.dst[:0], stream.t[:0])
    assert empty.shape == none.shape == (0, 0)


@pytest.mark.parametrize("triple", [(0, 8, 999), (4, 0, 1), (10**9, 5, 0), (-1, 5, 0), (1, -1, 0)])
def test_missing_event(triple: tuple[int, int, int]) -> None:
    stream, events = random_stream(2), range(40, 60)
    stored = StoredNegatives.make(stream, events, 3)
    last = stream[59:]
    columns = [
        torch.cat([column, torch.tensor([value])])
        for column, value in zip((last.src, last.dst, last.t), triple, strict=True)
    ]
    with pytest.raises(KeyError) as error:
        stored.query(*columns)
    assert str(triple) in str(error.value)


def test_every_other_event_is_missing() -> None:
    """Times and pairs that occur, but not together."""
    stream, events = random_stream(4), range(40, 60)
    stored = StoredNegatives.make(stream, events, 3)
    part = stream[40:]
    known = set(rows(stored, stream, events))
    for i in range(20):
        for j in range(20):
            triple = (int(part.src[i]), int(part.dst[i]), int(part.t[j]))
            columns = [torch.tensor([value]) for value in triple]
            if triple in known:
                stored.query(*columns)
            else:
                with pytest.raises(KeyError):
                    stored.query(*columns)


def test_file(tmp_path) -> None:
    stream, events = random_stream(5), range(40, 60)
    stored = StoredNegatives.make(stream, events, 4, range(40))
    path = tmp_path / "some" / "valid.npz"
    stored.save(path)
    assert rows(StoredNegatives.load(path), stream, events) == rows(stored, stream, events)
    with pytest.raises(FileNotFoundError):
        StoredNegatives.load(tmp_path / "none.npz")
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:300] + b"\xff" * 40 + whole[340:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"valid\.npz holds no stored negatives, or is damaged"):
            StoredNegatives.load(path)
    np.savez(path, src=np.array([object()]))
    with pytest.raises(ValueError, match="damaged"):
        StoredNegatives.load(path)


def test_tgb_file(tmp_path) -> None:
    """The form that TGB publishes: a pickle of lists by NumPy numbers, some of them float64."""
    table = {
        (np.int64(3), np.int64(9), np.int64(70)): np.array([4.0, 8.0]),
        (np.int64(1), np.int64(7), np.int64(5)): np.array([6]),
        (np.int64(1), np.int64(6), np.int64(5)): np.array([], dtype=np.float64),
    }
    path = tmp_path / "tgbl-x_val_ns.pkl"
    path.write_bytes(pickle.dumps(table, protocol=pickle.HIGHEST_PROTOCOL))
    stored = StoredNegatives.load_tgb(path)
    src, dst, t = torch.tensor([list(map(int, key)) for key in table]).T
    found, mask = stored.query(src, dst, t)
    assert [row[kept].tolist() for row, kept in zip(found, mask, strict=True)] == [[4, 8], [6], []]
    second = tmp_path / "tgbl-x_test_ns.pkl"
    second.write_bytes(pickle.dumps({(2, 7, 90): np.array([5, 4, 3])}))
    found, mask = StoredNegatives.load_tgb(path, second).query(*(torch.tensor([v]) for v in (2, 7, 90)))
    assert found.tolist() == [[5, 4, 3]]
    found, mask = StoredNegatives.load_tgb(second, path).query(src, dst, t)
    assert found[0].tolist() == [4, 8]
    with pytest.raises(TypeError, match="path"):
        StoredNegatives.load_tgb()


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (Evil(), "no plain data"),
        ({(1, 2): np.array([3])}, r"lists of destinations by \(src, dst, t\)"),
        ({(1, 2, 3): np.array([3.5])}, "lists of destinations"),
        ({(1, 2, 3): "x"}, "lists of destinations"),
        ([1, 2], "lists of destinations"),
        ({}, "lists of destinations"),
    ],
)
def test_bad_tgb_file(tmp_path, content, word: str, capsys) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=word):
        StoredNegatives.load_tgb(path)
    assert capsys.readouterr().out == ""


def test_like_tgb(tmp_path) -> None:
    """TGB's generator has the same pools and numbers, and its sampler reads what we read."""
    generator = pytest.importorskip("tgb.linkproppred.negative_generator", reason="py-tgb is not installed")
    sampler = pytest.importorskip("tgb.linkproppred.negative_sampler", reason="py-tgb is not installed")
    stream, events, history = random_stream(6), range(40, 60), range(40)
    low, high = int(stream.dst.min()), int(stream.dst.max())
    # TGB's candidates are all ids in between: the same, if all are destinations.
    assert stream.destinations.tolist() == list(range(low, high + 1))
    for num_neg in (6, 100):
        for name, past in (("rnd", None), ("hist_rnd", history)):
            folder = tmp_path / f"{name}{num_neg}"
            folder.mkdir()
            theirs = generator.NegativeEdgeGenerator(
                "tgbl-wiki", low, high, num_neg, name, historical_data=stream[:40].to_temporal_data()
            )
            theirs.generate_negative_samples(stream[40:].to_temporal_data(), "val", str(folder))
            path = folder / "tgbl-wiki_val_ns.pkl"
            reader = sampler.NegativeEdgeSampler("tgbl-wiki", strategy=name)
            reader.load_eval_set(str(path), "val")
            part = stream[40:]
            want = reader.query_batch(part.src, part.dst, part.t, split_mode="val")
            read = rows(StoredNegatives.load_tgb(path), stream, events)
            ours = rows(StoredNegatives.make(stream, events, num_neg, past), stream, events)
            for (triple, met, _), negatives in zip(pools(stream, events, past), want, strict=True):
                assert read[triple] == negatives
                assert len(ours[triple]) == len(negatives)
                assert len(set(ours[triple]) & met) == len(set(negatives) & met)
                if num_neg == 100:
                    assert set(ours[triple]) == set(negatives)


def test_bad_arguments() -> None:
    stream = random_stream(7)
    with pytest.raises(ValueError, match="num_neg"):
        StoredNegatives.make(stream, range(40, 60), 0)
    with pytest.raises(ValueError, match="share"):
        StoredNegatives.make(stream, range(40, 60), 3, range(40), share=1.5)
    with pytest.raises(IndexError, match=r"events range\(40, 61\) is outside the stream of 60"):
        StoredNegatives.make(stream, range(40, 61), 3)
    with pytest.raises(IndexError, match="history holds an id outside"):
        StoredNegatives.make(stream, range(40, 60), 3, torch.tensor([60]))
    with pytest.raises(ValueError, match="events must hold at least one event"):
        StoredNegatives.make(stream, range(40, 40), 3)
    one = np.array([1])
    with pytest.raises(ValueError, match="one length"):
        StoredNegatives(one, one, one, one, one)
    with pytest.raises(ValueError, match="ptr must ascend"):
        StoredNegatives(one, one, one, np.array([0, 2]), one)
    two = np.array([1, 1])
    with pytest.raises(ValueError, match="sorted by"):
        StoredNegatives(two, two, two, np.array([0, 1, 2]), two)
