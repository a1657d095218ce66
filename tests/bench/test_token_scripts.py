"""The benchmarks of sequence kernels run, on short sequences."""

from __future__ import annotations

import pytest
import torch

from graphkit.bench.scripts import FOLDER

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no checkout")


def test_scan(rows_of):
    rows = rows_of("scan", "--lengths", "33", "64", "--repeats", "1")
    found = {(row["case"], row["peer"]) for row in rows}
    peers = {
        "selective scan": {"plain PyTorch", "naive loop"},
        "gated linear attention": {"plain PyTorch", "naive loop", "softmax attention"},
        "WKV": {"naive loop"},
    }
    assert found == {(f"{name}, {n} tokens", p) for name, those in peers.items() for p in those for n in (33, 64)}
    assert all(row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"]) for row in rows)


def test_a_wrong_scan_is_noticed(scripts, monkeypatch):
    script = scripts("scan")
    exact = script.selective_scan
    monkeypatch.setattr(script, "selective_scan", lambda *inputs: 2 * exact(*inputs))
    with pytest.raises(AssertionError, match="differs from"):
        script.measure("selective scan", script.selective_cases(16), 16, 1)


def test_gpu_scan_compares_in_float64(scripts):
    script = scripts("gpu_scan")
    script.check("identity", [torch.randn(3)], lambda x: 2 * x, lambda x: 2 * x)
    with pytest.raises(AssertionError, match="identity: result 0"):
        script.check("identity", [torch.randn(3)], lambda x: 2 * x, lambda x: 3 * x)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_scan_without_a_gpu(scripts, monkeypatch):
    script = scripts("gpu_scan")
    monkeypatch.setattr("sys.argv", ["gpu_scan"])
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        script.main()
