"""Gated linear attention and the selective scan on a GPU against other kernels and softmax attention.

    python scripts/bench/gpu_scan.py --out results/bench

Peers are flash-linear-attention and mamba-ssm, left out where they are not installed. Forward and backward in bfloat16;
8 heads with keys and values of 64 for attention, 1,024 channels with states of 16 for the selective scan. Every case is
first compared with GraphKit's plain PyTorch form in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import report
from torch import Tensor
from torch.nn.functional import logsigmoid, scaled_dot_product_attention, softplus

from graphkit.ops import gla_scan, selective_scan
from graphkit.ops.scan import gla_scan_reference, selective_scan_reference

Run = Callable[[], Any]
TOKENS, HEADS, WIDTH, CHANNELS, SIZE = 32768, 8, 64, 1024, 16
HALF = torch.bfloat16


def installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name} is not installed: left out")
    return found


def step(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> Run:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def gated_cases(length: int) -> dict[str, Run]:
    """Inputs ``[batch, length, heads, width]``."""
    shape = (TOKENS // length, length, HEADS, WIDTH)
    q, k, v = (torch.randn(shape, device="cuda", dtype=HALF) for _ in range(3))
    g = logsigmoid(torch.randn(shape, device="cuda")) / 16
    ptr = torch.arange(0, TOKENS + 1, length, device="cuda")
    grad = torch.randn(shape, device="cuda", dtype=HALF)

    def ours(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        return gla_scan(*(t.flatten(0, 1) for t in (q, k, v, g)), ptr)[0].view(shape)

    def plain(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        state = q.new_zeros(shape[0], HEADS, WIDTH, WIDTH)
        return gla_scan_reference(*(t.flatten(0, 1) for t in (q, k, v, g)), ptr, state, scale=WIDTH**-0.5)[0].view(
            shape
        )

    def attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        out = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        return out.transpose(1, 2) + 0 * g[:1, :1, :1, :1].to(HALF)

    small = [t[:1, :256] for t in (q, k, v, g)]
    check("gated linear attention", small, gated_small, gated_exact)
    cases = {"ours": step(ours, [q, k, v, g], grad), "softmax attention": step(attention, [q, k, v, g], grad)}
    if length <= 4096:
        cases["plain PyTorch"] = step(plain, [q.float(), k.float(), v.float(), g], grad.float())
    if installed("fla"):
        from fla.ops.gla import chunk_gla

        def fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            return chunk_gla(q, k, v, g, scale=WIDTH**-0.5)[0]

        cases["flash-linear-attention"] = step(fla, [q, k, v, g], grad)
    return cases


def gated_small(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return gla_scan(*(t[0] for t in (q, k, v, g)))[0]


def gated_exact(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    ptr = torch.tensor([0, q.size(1)], device=q.device)
    state = q.new_zeros(1, HEADS, WIDTH, WIDTH)
    return gla_scan_reference(*(t[0] for t in (q, k, v, g)), ptr, state, scale=WIDTH**-0.5)[0]


def selective_cases(length: int) -> dict[str, Run]:
    x, dt = torch.randn(TOKENS, CHANNELS, device="cuda", dtype=HALF), torch.randn(TOKENS, CHANNELS, device="cuda")
    a, skip = -torch.rand(CHANNELS, SIZE, device="cuda"), torch.randn(CHANNELS, device="cuda")
    b, c = (torch.randn(TOKENS, SIZE, device="cuda", dtype=HALF) for _ in range(2))
    inputs = [x, softplus(dt).to(HALF), a, b, c, skip]
    ptr = torch.arange(0, TOKENS + 1, length, device="cuda")
    grad = torch.randn(TOKENS, CHANNELS, device="cuda", dtype=HALF)
    one = torch.tensor([0, 256], device="cuda")
    small = [t if t is a or t is skip else t[:256] for t in inputs]
    check("selective scan", small, selective_scan, lambda *t: selective_scan_reference(*t, one))
    cases = {"ours": step(lambda *t: selective_scan(*t, ptr), inputs, grad)}
    if installed("mamba_ssm"):
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        batch = TOKENS // length

        def channels_first(t: Tensor) -> Tensor:
            return t.view(batch, length, -1).transpose(1, 2).contiguous()

        given = [channels_first(t) if t.size(0) == TOKENS else t for t in inputs]
        cases["mamba-ssm"] = step(selective_scan_fn, given, channels_first(grad))
    return cases


def check(
    name: str, inputs: list[Tensor], ours: Callable[..., Tensor], exact: Callable[..., Tensor], limit: float = 2e-2
) -> None:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    out, want = ours(*leaves), exact(*wide)
    grad = torch.randn_like(out)
    found = [out, *torch.autograd.grad(out, leaves, grad)]
    wanted = [want, *torch.autograd.grad(want, wide, grad.double())]
    for place, (got, should) in enumerate(zip(found, wanted, strict=True)):
        error = float((got.double() - should).norm() / should.norm())
        assert error < limit, f"{name}: result {place} is off by {error:.1e}"


def medians(cases: dict[str, Run], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the cases taking turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 3):
        for name, run in cases.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            stop.record()
            stop.synchronize()
            if turn >= 3:
                times[name].append(start.elapsed_time(stop))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mb(run: Run) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--out", type=Path, help="folder of the record, such as results/bench")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_scan.py needs a CUDA device")
    rows: list[dict[str, Any]] = []
    for name, make in (("gated linear attention", gated_cases), ("selective scan", selective_cases)):
        for length in options.lengths:
            cases = make(length)
            memory = {case: peak_mb(run) for case, run in cases.items()}
            times = medians(cases, options.repeats)
            ours = {
                "case": f"{name}, {TOKENS // length} x {length:,} tokens",
                "ours_ms": times["ours"],
                "ours_peak_mb": memory["ours"],
            }
            peers = [
                {
                    "peer": peer,
                    "peer_ms": times[peer],
                    "ratio": times[peer] / times["ours"],
                    "peer_peak_mb": memory[peer],
                }
                for peer in cases
                if peer != "ours"
            ]
            rows += [{**ours, **peer} for peer in peers or [{}]]
        report("gpu_scan", rows, options.out)


if __name__ == "__main__":
    main()
