"""Result records: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import errno
import json
import mmap
import os

import numpy as np
import pytest

from graphkit.bench import records
from graphkit.bench.plots import plot_record
from graphkit.bench.records import Record, Row, load_records


def test_round_trip(record, tmp_path):
    path = record.save(tmp_path)
    assert path == tmp_path / "ncnc" / "Cora.json"
    assert Record.load(path) == record
    assert load_records(tmp_path) == [record]


def test_written_mean_and_std(record, tmp_path):
    rows = json.loads(record.save(tmp_path).read_text())["rows"]
    for row in rows:
        assert row["mean"] == pytest.approx(np.mean(row["values"]), abs=1e-4)
        assert row["std"] == pytest.approx(np.std(row["values"], ddof=1), abs=1e-4)


def test_mean_and_std_against_numpy():
    values = np.random.default_rng(0).normal(50, 10, 25).tolist()
    row = Row("a", "b", "test", values)
    assert row.mean == pytest.approx(np.mean(values))
    assert row.std == pytest.approx(np.std(values, ddof=1))
    assert Row("a", "b", "test", [3.0]).std == 0


def test_main_rows(record):
    assert [(row.model, row.metric) for row in record.main_rows()] == [("NCNC", "Hits@100"), ("CN", "Hits@100")]
    record.rows[1].reported = {"mean": 1.0, "std": None}
    assert [row.metric for row in record.main_rows()] == ["Hits@100", "MRR", "Hits@100"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"text"', "{}", '{"rows": 3}', '{"rows": []}', '{"rows": [{}]}', "\udcff"],
)
def test_damaged_file_is_named(text, tmp_path):
    path = tmp_path / "ncnc" / "Cora.json"
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"Cora\.json is no result record"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["rows"].clear(), "no rows"),
        (lambda c: c["rows"][0].update(values=[1.0, "2", 3.0]), "no numbers"),
        (lambda c: c["rows"][0].update(values=[1.0]), "one value a seed"),
        (lambda c: c["rows"][0].update(reported={"std": 1.0}), "mean"),
        (lambda c: c["rows"][0].update(reported=3), "no result record"),
        (lambda c: c["rows"][0].update(extra=3), "extra"),
        (lambda c: c.update(monitor=None), "monitor"),
        (lambda c: c.update(config=[]), "config"),
        (lambda c: c["curves"].update(CN=[{"epoch": "one"}]), "curve"),
        (lambda c: c["histograms"].update(CN={"edges": ["a"]}), "histogram"),
        (lambda c: c.pop("seeds"), "seeds"),
    ],
)
def test_wrong_field_is_told(change, message, record, tmp_path):
    path = record.save(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as info:
        Record.load(path)
    assert str(path) in str(info.value)


def test_nan_is_neither_written_nor_read(record, tmp_path):
    path = record.save(tmp_path)
    before = path.read_text()
    record.rows[0].values[0] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        record.save(tmp_path)
    assert path.read_text() == before
    path.write_text(before.replace("90.5", "NaN"))
    with pytest.raises(ValueError, match="NaN"):
        Record.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path / "none.json")
    assert load_records(tmp_path / "none") == []


@pytest.mark.parametrize("place", ["dump", "fsync", "replace"])
def test_full_disk_leaves_the_earlier_record(place, record, tmp_path, monkeypatch):
    path = record.save(tmp_path)
    before = path.read_bytes()

    def full(*arguments, **options):
        if place == "dump":
            arguments[1].write('{"key": "nc')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.json if place == "dump" else os, place, full)
    record.rows[0].values = [1.0, 2.0, 3.0]
    with pytest.raises(OSError, match="No space left"):
        record.save(tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["Cora.json"]


def test_stamp(record):
    record.stamp()
    assert record.versions.keys() >= {"python", "torch", "torch-geometric", "numpy"}
    assert "threads" in record.hardware or " x " in record.hardware
    assert record.created.endswith("+00:00")


def test_runs_on_the_cpu_name_the_cpu(monkeypatch):
    """Also on a machine with a GPU, whose name and memory say nothing about them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert records.where("cpu")["hardware"].endswith("threads")
    assert records.peak_mb("cpu") > 1


def test_peak_can_be_measured_anew():
    """The peak after a reset is not that of what was freed before."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system cannot reset the peak of a process")
    # Mapped by itself: what an array frees may stay in the allocator, depending on what ran before.
    records.reset_peak()
    block = mmap.mmap(-1, 64 * 2**20)
    block.write(bytes([1]) * (64 * 2**20))
    high = records.peak_mb()
    block.close()
    records.reset_peak()
    assert records.peak_mb() < high - 40


def test_plot_without_curves_and_histograms(record, tmp_path):
    record.curves, record.histograms = {"NCNC": [{"epoch": 1, "loss": 1.0}]}, {}
    assert plot_record(record, tmp_path / "plot.png").stat().st_size > 1000


def test_plot_against_costs(record, tmp_path, monkeypatch):
    """A panel a cost, with every model that has it; what another one dominates is not on the line."""
    from matplotlib.axes import Axes

    drawn = []
    plot = Axes.plot

    def noted(self, x, y, **options):
        drawn.append((self, list(x), list(y), options.get("linestyle")))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    scores = {"small": (80.0, 1.0), "large": (90.0, 100.0), "worse": (70.0, 50.0)}
    record.rows = [
        Row(model, metric, split, [value])
        for model, values in scores.items()
        for metric, value in zip(("Hits@100", "Model kB"), values, strict=True)
        for split in ("test", "valid")
    ]
    record.monitor, record.curves, record.histograms = "Hits@100", {}, {}
    assert plot_record(record, tmp_path / "plot.png").stat().st_size > 1000
    ((axes, x, y, _),) = [line for line in drawn if line[3] == "--"]
    assert (x, y) == ([1.0, 100.0], [80.0, 90.0])
    assert axes.get_title() == "Hits@100 against Model kB"
    assert {text.get_text() for text in axes.texts} == set(scores)
    assert len(axes.figure.axes) == 3
