"""Every published form gives the stream that it describes, and a bad file names its event."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from graphkit.datasets import EventStream, load, read_events, relabel

JODIE = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
ML = ",u,i,ts,label,idx\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def rows(stream: EventStream) -> list[tuple[int, int, int]]:
    return list(zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), strict=True))


@pytest.mark.parametrize("name", ["wikipedia.csv", "wikipedia.csv.gz"])
def test_jodie(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, JODIE + "0,1,0.0,0,0.5,-1\n2,0,36.0,1,2.25,1e-3\n0,1,36.0,0,0,0\n")
    stream = read_events(path)
    assert rows(stream) == [(0, 4, 0), (2, 3, 36), (0, 4, 36)]
    assert stream.num_nodes == 5
    assert stream.msg is not None
    assert torch.equal(stream.msg, torch.tensor([[0.5, -1], [2.25, 1e-3], [0, 0]]))
    assert stream.y is not None
    assert stream.y.tolist() == [0, 1, 0]


def test_jodie_without_features(tmp_path: Path) -> None:
    stream = read_events(write(tmp_path, "x.csv", JODIE + "0,0,0.0,0\n1,0,5.0,1\n"))
    assert rows(stream) == [(0, 2, 0), (1, 2, 5)]
    assert stream.msg is None


def test_ml(tmp_path: Path) -> None:
    text = ML + "0,1,3,0.0,0,1\n1,2,3,7.0,1,3\n2,1,2,7.0,0,2\n"
    path = write(tmp_path, "ml_x.csv", text)
    stream = read_events(path)
    assert rows(stream) == [(0, 2, 0), (1, 2, 7), (0, 1, 7)]
    assert stream.msg is None
    assert stream.y is not None
    assert stream.y.tolist() == [0, 1, 0]
    np.save(tmp_path / "ml_x.npy", np.array([[9.0, 9], [1, 2], [3, 4], [5, 6]]))
    with_messages = read_events(path)
    assert with_messages.msg is not None
    assert with_messages.msg.tolist() == [[1, 2], [5, 6], [3, 4]]
    # The columns are known by their names.
    other = write(tmp_path, "ml_y.csv", "idx,label,ts,i,u\n1,0,0.0,3,1\n")
    assert rows(read_events(other)) == [(0, 2, 0)]


def test_ml_features_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, "ml_x.csv", ML + "0,1,2,0,0,1\n1,1,2,1,0,2\n")
    np.save(tmp_path / "ml_x.npy", np.zeros((2, 4)))
    with pytest.raises(
        ValueError, match=r"ml_x.npy must be a matrix with a row for each idx from 1 to 2 \(got shape \[2, 4\]"
    ):
        read_events(path)
    np.save(tmp_path / "ml_x.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"ml_x.csv: .*Python objects"):
        read_events(path)


def test_tgb(tmp_path: Path) -> None:
    path = write(tmp_path, "coin.csv", "day,src,dst,weight\n5,0xb,0xa,2.5\n5,7,007,1\n9,0xa,NA,0\n")
    stream = read_events(path)
    assert rows(stream) == [(0, 1, 5), (2, 3, 5), (1, 4, 9)]
    assert stream.msg is not None
    assert stream.msg.view(-1).tolist() == [2.5, 1, 0]


def test_snap(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.txt.gz", "# src dst time\n10 900 7\n3 10 2\n900\t3  7\n")
    with pytest.raises(ValueError, match=r"mail.txt.gz: t must not decrease: event 1 is at 2"):
        read_events(path)
    assert rows(read_events(path, sort=True)) == [(0, 1, 2), (1, 2, 7), (2, 0, 7)]


def test_signed(tmp_path: Path) -> None:
    path = write(tmp_path, "trust.csv", "6,2,4,100.72836\n5,6,-10,100.8\n")
    with pytest.raises(ValueError, match=r"time of row 0 must be a whole number \(got 100.72836\).*time_scale"):
        read_events(path)
    stream = read_events(path, time_scale=100)
    assert rows(stream) == [(2, 0, 10073), (1, 2, 10080)]
    assert stream.msg is not None
    assert stream.msg.view(-1).tolist() == [4, -10]


def test_large_times_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt", f"0 1 {2**53 + 1}\n1 0 {2**62 - 1}\n")
    assert read_events(path).t.tolist() == [2**53 + 1, 2**62 - 1]
    path = write(tmp_path, "y.txt", f"0 1 {2**53 - 1}.0\n")
    assert read_events(path).t.tolist() == [2**53 - 1]
    path = write(tmp_path, "z.txt", f"0 1 1.0\n0 1 {2**54}.0\n")
    with pytest.raises(ValueError, match=r"time of row 1 must be a whole number .*beyond 2\^53"):
        read_events(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", JODIE + "0,0,0.0,0\n1,0,5", "label of row 1, the last one, is empty"),
        ("x.csv", JODIE + "0,0,0.0,0\n1,", "item of row 1, the last one, is empty"),
        ("x.csv", JODIE + "0,0,0.0,0\n1,0,x,0\n", r"time of row 1 must be a number \(got 'x'\)(?!.*cut short)"),
        ("x.csv", JODIE + "0,0,0.0,0\n0.5,0,1,0\n", "user of row 1 must be a whole number"),
        ("x.csv", JODIE + "0,0,0.0,0\n1,-1,1.0,0\n", "item of row 1 must not be negative"),
        ("x.csv", JODIE + "-2,0,0.0,0\n1,1,1.0,0\n", "src of event 0 is -2"),
        ("x.csv", JODIE + "0,0,0.0,0,1.0\n1,0,1.0,0,nan\n", "column 4 of row 1, the last one, is empty"),
        ("x.csv", JODIE + "0,0,0.0,0,1.0\n1,0,1.0,0,inf\n", "msg of event 1 holds inf"),
        ("x.csv", JODIE + "0,0,0.0,0\n1,0,1.0,0,7\n", "(?i)expected 4 fields in line 3"),
        ("x.csv", JODIE + "0,0,-1.0,0\n", "t of event 0 is -1"),
        ("x.csv", JODIE + "0,0\n", "3 columns or more"),
        ("x.csv", JODIE, "(?i)no columns|empty"),
        ("ml_x.csv", ML + "0,1,2,0.0,0,1\n1,0,2,1.0,0,2\n", "u of row 1 must be 1 or more"),
        ("ml_x.csv", ML + "0,1,2,0.0,0,1\n1,3,2,0.5,0,2\n", "ts of row 1 must be a whole number"),
        ("ml_x.csv", ML + "0,1,2,0.0,0,1\n1,3,2\n", "ts of row 1, the last one, is empty"),
        ("x.csv", "ts,src,dst,w\n1,a,b,2\n3,a", "dst of row 1, the last one, is empty"),
        ("x.csv", "ts,src,dst,w\n1,a,b,2\n3,,b,1\n4,a,b,1\n", "src of row 1 is empty"),
        ("x.csv", "ts,src,dst,w\n1,a,b,2\n3,a,b,\n", "column 3 of row 1, the last one, is empty"),
        ("x.txt", "1 2 3\n4 5\n", "time of row 1, the last one, is empty"),
        ("x.txt", "1 2 3\n4 5 noon\n", r"time of row 1 must be a number \(got 'noon'\)"),
        ("x.csv", "", "none of the known forms"),
        (
            "x.txt",
            "# a b\nann 2 3\n",
            r"src of row 0 must be a number \(got 'ann'\); graphkit.datasets.relabel numbers names",
        ),
        (
            "x.csv",
            "time,a,b\n2024-01-01,a,b\n",
            r"got '2024-01-01'\); pandas.to_datetime parses dates, for EventStream",
        ),
        (
            "x.csv",
            "user,item,time\n",
            "none of the known forms.*pandas: graphkit.datasets.relabel .*EventStream.from_pandas",
        ),
    ],
)
def test_bad_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises((ValueError, IndexError), match=message) as caught:
        read_events(path)
    assert str(path) in str(caught.value)
    assert type(caught.value) in (ValueError, IndexError)


def test_names_of_a_file_of_texts(tmp_path: Path) -> None:
    """As the docstring says: the table, numbered, gives the ids of the reader, and the names."""
    path = write(tmp_path, "x.csv", "ts,who,whom\n1,007,7\n2,NA,007\n2,7,zoe\n")
    stream = read_events(path)
    table = pandas.read_csv(path, dtype={"who": str, "whom": str}, na_filter=False)
    src, dst, names = relabel(table["who"], table["whom"])
    assert stream.src.tolist() == src.tolist() == [0, 2, 1]
    assert stream.dst.tolist() == dst.tolist() == [1, 0, 3]
    assert list(names) == ["007", "7", "NA", "zoe"]


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt.gz", "1 2 3\n" * 9999)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        read_events(path)
    path.write_bytes(b"1 2 3\n")
    with pytest.raises(ValueError, match="damaged or no text"):
        read_events(path)
    (tmp_path / "y.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="damaged or no text"):
        read_events(tmp_path / "y.csv")
    with pytest.raises(FileNotFoundError):
        read_events(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"format must be one of auto, jodie.*did you mean 'snap'"):
        read_events(tmp_path / "y.csv", "snapp")


def test_the_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "who,what,when\n0,0,3\n")
    with pytest.raises(ValueError, match="none of the known forms"):
        read_events(path)
    assert rows(read_events(path, "jodie")) == [(0, 1, 3)]
    with pytest.raises(ValueError, match="the header must name u, i, ts, label, idx"):
        read_events(path, "ml")


# Real files


def test_uci_in_its_two_forms(needs) -> None:
    folder = needs("temporal/uci") / "temporal" / "uci"
    ml, snap = read_events(folder / "ml_uci.csv"), read_events(folder / "CollegeMsg.txt")
    assert len(ml) == len(snap) == 59835
    assert ml.num_nodes == snap.num_nodes == 1899
    assert torch.equal(ml.t, snap.t - snap.t[0])
    assert torch.equal(ml.src, snap.src)
    assert torch.equal(ml.dst, snap.dst)


def test_wikipedia_in_its_two_forms(needs) -> None:
    folder = needs("temporal/wikipedia") / "temporal" / "wikipedia"
    jodie, ml = read_events(folder / "raw" / "wikipedia.csv"), read_events(folder / "ml_wikipedia.csv")
    for name in ("src", "dst", "t", "y"):
        assert torch.equal(getattr(jodie, name), getattr(ml, name))
    assert jodie.destinations.numel() == 1000


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mooc is not on disk: put it at .*mooc.csv; it comes from snap"):
        load("mooc", tmp_path)


def test_a_dataset_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "temporal" / "uci"
    folder.mkdir(parents=True)
    write(folder, "ml_uci.csv", ML + "".join(f"{i},{1 + i % 5},{6 + i % 3},{i}.0,0,{i + 1}\n" for i in range(40)))
    for _ in range(2):  # read, then from the cache
        data = load("uci", tmp_path).data
        assert rows(data) == [(i % 5, 5 + i % 3, i) for i in range(40)]
    np.save(folder / "ml_uci.npy", np.ones((41, 2)))
    assert load("uci", tmp_path).data.msg_dim == 2
