"""The benchmarks of temporal models run, on tiny streams, and write the records that they promise."""

from __future__ import annotations

import json
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from graphkit.bench.scripts import FOLDER
from graphkit.datasets import EventStream

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no checkout")


def stream_of(events: int, nodes: int = 30) -> EventStream:
    src, dst = torch.randint(nodes, (2, events), generator=torch.Generator().manual_seed(0))
    return EventStream(src, dst, torch.arange(1, events + 1), num_nodes=nodes)


def test_temporal_epoch(rows_of, monkeypatch, capsys):
    def load(name: str):
        if name == "uci":
            raise FileNotFoundError("uci is not on disk")
        return SimpleNamespace(data=stream_of(600))

    monkeypatch.setattr("graphkit.datasets.load", load)
    rows = rows_of("temporal_epoch", "--batches", "1", "--repeats", "1")
    assert "measured on nycflights instead" in capsys.readouterr().out
    assert {row["events"] for row in rows} == {200}
    pairs = {(row["case"].split(",")[0], row["peer"]) for row in rows}
    assert pairs >= {
        ("TGN", "TGN from PyG's modules"),
        ("TGN + PRES", "TGN, EventLoader"),
        ("NAT", "NAT's released formulation"),
        ("NAT", "TGN from PyG's modules"),
    }
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours_events_s"] / row["peer_events_s"])


def test_pres_epoch(rows_of, monkeypatch, tmp_path):
    monkeypatch.setattr("graphkit.datasets.load", lambda _: SimpleNamespace(data=stream_of(600)))
    record = [
        {"model": f"{model}@{size}", "metric": "AP", "split": "test", "mean": 80.0, "std": 1.0}
        for model in ("TGN", "TGN+PRES")
        for size in (200, 400, 800)
    ]
    results = tmp_path / "pres"
    results.mkdir()
    (results / "uci.json").write_text(json.dumps({"dataset": "uci", "rows": record}))
    rows = rows_of("pres_epoch", "--events", "400", "--repeats", "1", "--results", str(results))
    assert [row["peer"] for row in rows] == ["TGN@200"] * 4 + ["TGN+PRES@200"] * 4
    assert rows[0]["ratio"] == rows[4]["ratio"] == 1
    assert (tmp_path / "pres_epoch.png").stat().st_size > 0


def test_released_formulation_is_checked(scripts, monkeypatch):
    peers = scripts("temporal_peers")
    peers.check_released()
    monkeypatch.setattr(peers.ReleasedNAT, "write", lambda *_: None)
    with pytest.raises(AssertionError):
        peers.check_released()


def test_neighborhood_cache(rows_of):
    rows = rows_of(
        "neighborhood_cache",
        *("--nodes", "40", "--events", "200", "--past", "300", "--batch-sizes", "50", "--repeats", "1"),
        *("--device", "cpu"),
    )
    assert [row["case"].split(",")[0] for row in rows] == ["caches of 32 and 16", "caches of 16"]
    assert all(row["events"] == 200 and row["gb_s"] > 0 for row in rows)


def test_difference_of_caches_is_noticed(scripts, monkeypatch):
    script = scripts("neighborhood_cache")
    monkeypatch.setattr(script, "PLAIN", script.PLAIN._replace(insert=lambda *_: None))
    with pytest.raises(AssertionError, match="different caches"):
        script.measure((4,), 50, 100, 100, 1, "cpu", nodes=20)


def test_bytes_of_an_event(scripts):
    script = scripts("neighborhood_cache")
    cache = script.NeighborhoodCache(6, (4,), rep_dim=2)
    events = script.Events(*torch.tensor([[0, 2], [1, 3], [5, 5], [0, 1]]))
    # Four keys of both ends, 64 counts, and of both ends the entries of hop 0 and 1, read and written.
    assert script.bytes_an_event(cache, events) == 2 * 4 * 8 + 64 * 4 + 2 * 4 * (3 * 8 + 2 * 4)


def test_event_scaling(rows_of, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    sizes = ("--smallest", "2", "--largest", "3", "--largest-model", "2", "--nodes", "20", "--batches", "2")
    rows = rows_of("event_scaling", *sizes, "--folder", str(temporary))
    past = {}
    for row in rows:
        past.setdefault(row["case"], []).append(row["past_events"])
        assert row["us_event"] > 0
        assert row["own_mb"] > 0
    assert past.pop("TGN, training step") == past.pop("NAT, training step") == [100]
    assert len(past) == 3
    assert all(places == [100, 1000] for places in past.values())
    assert (tmp_path / "event_scaling.png").stat().st_size > 0
    assert not list(temporary.iterdir())


def test_stream_on_disk(scripts, monkeypatch, tmp_path):
    script = scripts("event_scaling")
    monkeypatch.setattr(script, "PIECE", 70)
    script.write_stream(tmp_path, 200, 10)
    stream = EventStream.open(tmp_path)
    assert (len(stream), stream.num_nodes) == (200, 10)
    assert stream.t.tolist() == [event // 4 for event in range(200)]
    assert len({tuple(part.tolist()) for part in stream.src[:140].split(70)}) == 2
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(SystemExit, match="--largest"):
        script.write_stream(tmp_path, 200, 10)


def test_sections_of_gpu_temporal(scripts, monkeypatch):
    script = scripts("gpu_temporal")
    for row in script.equality("cpu", nodes=20, events=300):
        assert row["integer_buffers_that_differ"] == row["state_difference"] == row["score_difference"] == 0
        assert row["score_size"] > 0
    monkeypatch.setattr(script, "MODELS", {"NAT": script.nat})
    assert script.synchronisation("cpu", nodes=20, steps=1, batch_size=10)[0]["waits"] == "none"
    (row,) = script.throughput("cpu", 20, nodes=20, batches=1, repeats=1)
    assert row["peer"] == "NAT's released formulation"
    (row,) = script.pieces("cpu", nodes=20, batches=2, past=40, sizes=(20,))
    assert min(row[part] for part in ("forward_ms", "state_ms", "backward_ms", "optimizer_ms")) > 0


def test_waits_are_counted(scripts, monkeypatch):
    script = scripts("gpu_temporal")
    monkeypatch.setattr(script, "WAITS", ("aten::mm", "aten::sort"))
    x = torch.ones(2, 2)
    assert script.waits(lambda: x @ x @ x, "cpu") == "2 aten::mm"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_temporal_without_a_gpu(scripts, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_temporal"])
    with pytest.raises(SystemExit, match="CUDA"):
        runpy.run_path(str(FOLDER / "gpu_temporal.py"), run_name="__main__")
