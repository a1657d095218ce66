"""TGB's raw files: columns by hand, py-tgb's own readers, missing and damaged files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from graphkit.datasets import EventStream, info, load
from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.tgb import TGB, load_tgb, load_tgb_negatives

FILES = {
    "tgbl-wiki": [
        "user_id,item_id,timestamp,state_label,comma_separated_list_of_features",
        "0,0,0.0,0,-0.1,0.5",
        "1,1,36.0,0,0.25,0.0",
        "0,1,36.0,1,3.0,0.0",
    ],
    "tgbl-review": ["ts,src,dst,rating", "5,7,007,4.0", "6,b,7,0", "9,7,b,5.0"],
    "tgbl-coin": ["ts,src,dst,amount", "1648811421,0x27,0x84,800.0", "1648811421,0x84,0x27,0", "1648811430,0,0x8,1e30"],
    "tgbl-comment": ["ts,src,dst,num_words,score", "100,u1,u2,2500,-3", "101,u2,u3,5,0", "101,NA,u1,7000,12"],
    "tgbl-flight": [
        "timestamp,src,dst,callsign,typecode",
        "1546300800,KJFK,EGLL,BAW178,B744",
        "1546300800,EGLL,KJFK,,",
        "1546387200,KJFK,SBGR,tam8081x,TOOLONGTYPE",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    for name, lines in FILES.items():
        folder = tmp_path / "tgb" / name.replace("-", "_")
        folder.mkdir(parents=True)
        (folder / TGB[name].events).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_wiki(root) -> None:
    stream = load_tgb("tgbl-wiki", root)
    assert stream.src.tolist() == [0, 1, 0]
    assert stream.dst.tolist() == [2, 3, 3]
    assert stream.t.tolist() == [0, 36, 36]
    torch.testing.assert_close(stream.msg, torch.tensor([[-0.1, 0.5], [0.25, 0], [3, 0]]))
    assert stream.num_nodes == 4


def test_weights(root) -> None:
    stream = load_tgb("tgbl-review", root)
    assert torch.stack([stream.src, stream.dst], 1).tolist() == [[0, 1], [2, 0], [0, 2]]  # "7" is not "007"
    torch.testing.assert_close(stream.msg[:, 0], torch.tensor([2.0, 0.0, 2.321928]))


def test_comment(root) -> None:
    stream = load_tgb("tgbl-comment", root)
    assert stream.src.tolist() == [0, 1, 3]
    torch.testing.assert_close(stream.msg, torch.tensor([[0.5, -3], [0.001, 0], [1.4, 12]]))


def test_flight(root) -> None:
    stream = load_tgb("tgbl-flight", root)
    assert stream.dst.tolist() == [1, 0, 2]
    blank = [-1.0] * 4
    assert stream.msg[0].tolist() == [31, 30, 52, 1, 7, 8, -1, -1, 31, 7, 4, 4, *blank]
    assert stream.msg[1].tolist() == blank * 4
    assert stream.msg[2].tolist() == [49, 30, 42, 8, 0, 8, 1, 53, *blank * 2]


@pytest.mark.parametrize("name", list(FILES))
def test_like_tgb(root, name: str) -> None:
    readers = pytest.importorskip("tgb.utils.pre_process", reason="py-tgb is not installed")
    read = {
        "tgbl-wiki": readers.load_edgelist_wiki,
        "tgbl-comment": readers.csv_to_pd_data_rc,
        "tgbl-flight": readers.csv_to_pd_data,
    }.get(name, readers.csv_to_pd_data_sc)
    table, features, _ = read(str(root / info(name).folder))
    weight = table["w"].to_numpy()[:, None]
    if name in ("tgbl-coin", "tgbl-review"):
        features = weight
    elif name == "tgbl-comment":
        assert np.array_equal(features[:, 0], features[:, 1])
        features = np.concatenate([features[:, :1], weight], 1)
    stream = load_tgb(name, root)
    for column, theirs in ((stream.src, "u"), (stream.dst, "i"), (stream.t, "ts")):
        assert column.tolist() == table[theirs].tolist()
    np.testing.assert_allclose(stream.msg, features, rtol=1e-6)


def test_by_name(root) -> None:
    for name in FILES:
        dataset = load(name, root)
        assert isinstance(dataset.data, EventStream)
        assert len(dataset.data) == 3
        assert dataset.info.metric == "mrr"
    # The second time from the cache.
    again = load("tgbl-flight", root).data
    assert torch.equal(again.msg, load_tgb("tgbl-flight", root).msg)


def test_negatives(root) -> None:
    folder = root / "tgb" / "tgbl_wiki"
    stream = load_tgb("tgbl-wiki", root)
    parts = {"val": {(1, 3, 36): np.array([2])}, "test": {(0, 3, 99): np.array([2, 1])}}
    with pytest.raises(FileNotFoundError, match=r"tgbl-wiki_val_ns_v2\.pkl, which is not there; unpack https://"):
        load_tgb_negatives("tgbl-wiki", root)
    for part, table in parts.items():
        (folder / f"tgbl-wiki_{part}_ns_v2.pkl").write_bytes(pickle.dumps(table))
    stored = load_tgb_negatives("tgbl-wiki", root)
    assert len(stored) == 2
    assert stored.query(stream.src[1:2], stream.dst[1:2], stream.t[1:2])[0].tolist() == [[2]]


def test_split_is_tgbs() -> None:
    """TGB cuts at NumPy's quantiles of the times, with <= on the left."""
    draw = np.random.default_rng(0)
    for size in (40, 301):
        t = np.sort(draw.integers(0, 60, size))
        stream = EventStream(torch.zeros(size).long(), torch.ones(size).long(), torch.from_numpy(t))
        first, second = np.quantile(t, [0.7, 0.85])
        split = EventSplit.make(stream)
        assert (split.train_stop, split.valid_stop) == ((t <= first).sum(), (t <= second).sum())


@pytest.mark.parametrize("name", list(FILES))
def test_missing(tmp_path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load(name, tmp_path)
    message = str(error.value)
    folder = tmp_path / "tgb" / name.replace("-", "_")
    assert str(folder / TGB[name].events) in message
    assert f"unpack {TGB[name].url} into {folder}" in message
    assert TGB[name].url.endswith(".zip")


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("tgbl-coin", "time,src,dst,weight\n5,a,b\n6,b,a\n", "must have 4 columns"),
        ("tgbl-comment", "ts,src,dst,words\n5,a,b,3\n", "must have 5 columns"),
        ("tgbl-flight", "day,src,dst\n5,a,b\n", "must have 5 columns"),
        ("tgbl-flight", "day,src,dst,sign,type\n2019-01-01,a,b,c,d\n", r"flight_edgelist_v2\.csv: time of row 0"),
        ("tgbl-flight", "day,src,dst,sign,type\n9,a,b,c,d\n7,a,b,c,d\n", "t must not decrease"),
        ("tgbl-wiki", "user_id,item_id,timestamp\n0,0,x\n", "time of row 0"),
    ],
)  # fmt: skip
def test_damaged(root, name: str, text: str, word: str) -> None:
    (root / info(name).folder).write_text(text)
    with pytest.raises(ValueError, match=word):
        load(name, root)


def test_unknown() -> None:
    with pytest.raises(ValueError, match="did you mean 'tgbl-wiki'"):
        load_tgb("tgbl-wikii")
    with pytest.raises(ValueError, match="name must be one of"):
        load_tgb_negatives("tgbn-trade")
