"""The benchmarks of sequence kernels run, on short sequences."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

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


def test_attention_written_out_is_attention(scripts):
    q, k, v = torch.randn(3, 2, 7, 4, 8).unbind(0)
    wanted = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True).transpose(1, 2)
    torch.testing.assert_close(scripts("gpu_scan").written_out(q, k, v), wanted)


def test_gpu_scan_gives_slow_peers_their_own_count(scripts, monkeypatch):
    script, turns = scripts("gpu_scan"), []
    monkeypatch.setattr(script, "on_gpu", lambda run: run() + 1.0)
    monkeypatch.setattr(script, "wall", lambda run: run() + 2.0)
    cases = {name: lambda name=name: turns.append(name) or float(len(turns)) for name in ("ours", script.PLAIN)}
    found = script.medians(cases, repeats=5, slow_repeats=1)
    # Each turn runs twice, by either clock; two turns of the fast case warm up.
    assert (turns.count("ours"), turns.count(script.PLAIN)) == (2 * (2 + 5), 2)
    assert found[script.PLAIN] == (turns.index(script.PLAIN) + 2.0, turns.index(script.PLAIN) + 4.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_scan_without_a_gpu(scripts, monkeypatch):
    script = scripts("gpu_scan")
    monkeypatch.setattr("sys.argv", ["gpu_scan"])
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        script.main()
