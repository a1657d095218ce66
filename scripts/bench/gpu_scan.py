"""Scans on a GPU against other kernels, plain PyTorch and softmax attention.

    python scripts/bench/gpu_scan.py --out results/bench
    python scripts/bench/gpu_scan.py --profile

Gated linear attention, the selective scan, WKV and integrate-and-fire neurons. Peers are flash-linear-attention and
mamba-ssm, left out where they are not installed, and softmax attention: PyTorch's fused one, and one written out, with
its scores in memory, where that is large enough. Forward and backward in bfloat16; 8 heads with keys and values of 64
for attention, 1,024 channels for the others, with states of 16 for the selective scan. Every case is first compared
with GraphKit's plain PyTorch form in float64.

Milliseconds are the GPU's alone: it is kept busy until a step's kernels are queued. Beside them is the wall time of a
step, from Python to the last kernel's end. Peers that make the host wait, as plain PyTorch does, have some of the
host's time in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import report
from torch import Tensor
from torch.nn.functional import logsigmoid, scaled_dot_product_attention, softplus

from graphkit.ops import gla_scan, lif_scan, selective_scan, wkv_scan
from graphkit.ops.scan import gla_scan_reference, selective_scan_reference
from graphkit.ops.spiking import lif_scan_reference
from graphkit.ops.wkv import empty_state, wkv_scan_reference

Run = Callable[[], Any]
TOKENS, HEADS, WIDTH, CHANNELS, SIZE = 32768, 8, 64, 1024, 16
HALF = torch.bfloat16
PLAIN, WRITTEN = "plain PyTorch", "softmax attention, written out"
LONGEST_PLAIN = 4096  # tokens; its steps take seconds beyond


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

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True).transpose(1, 2)

    small = [t[:1, :256] for t in (q, k, v, g)]
    check("gated linear attention", small, gated_small, gated_exact)
    cases = {"ours": step(ours, [q, k, v, g], grad), "softmax attention": step(attention, [q, k, v], grad)}
    torch.cuda.empty_cache()
    # Scores, without what comes later, their exponentials, and gradients of all.
    if 6 * TOKENS * HEADS * length * HALF.itemsize < torch.cuda.mem_get_info()[0]:
        cases[WRITTEN] = step(written_out, [q, k, v], grad)
    if length <= LONGEST_PLAIN:
        cases[PLAIN] = step(plain, [q.float(), k.float(), v.float(), g], grad.float())
    if installed("fla"):
        from fla.ops.gla import chunk_gla

        def fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            return chunk_gla(q, k, v, g, scale=WIDTH**-0.5)[0]

        cases["flash-linear-attention"] = step(fla, [q, k, v, g], grad)
    return cases


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention of ``[batch, length, heads, width]`` with all scores in memory."""
    later = torch.ones(q.size(1), q.size(1), dtype=torch.bool, device=q.device).triu(1)
    scores = torch.einsum("bihd,bjhd->bhij", q * q.size(3) ** -0.5, k).masked_fill(later, -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)


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


def wkv_cases(length: int) -> dict[str, Run]:
    k, v = (torch.randn(TOKENS, CHANNELS, device="cuda", dtype=HALF) for _ in range(2))
    w, u = torch.rand(CHANNELS, device="cuda"), torch.randn(CHANNELS, device="cuda")
    ptr = torch.arange(0, TOKENS + 1, length, device="cuda")
    grad = torch.randn(TOKENS, CHANNELS, device="cuda", dtype=HALF)
    check("WKV", [k[:256], v[:256], w, u], lambda *t: wkv_scan(*t)[0], lambda *t: wkv_scan(*t)[0])
    cases = {"ours": step(lambda *t: wkv_scan(*t, ptr)[0], [k, v, w, u], grad)}
    if length <= LONGEST_PLAIN:
        state = empty_state(TOKENS // length, k)
        inputs = [k.float(), v.float(), w, u]
        cases[PLAIN] = step(lambda *t: wkv_scan_reference(*t, ptr, state)[0], inputs, grad.float())
    return cases


def lif_cases(length: int) -> dict[str, Run]:
    x, grad = (torch.randn(TOKENS, CHANNELS, device="cuda", dtype=HALF) for _ in range(2))
    ptr = torch.arange(0, TOKENS + 1, length, device="cuda")
    check("integrate-and-fire", [x[:256]], lambda x: lif_scan(x)[0], lambda x: lif_scan(x)[0])
    cases = {"ours": step(lambda x: lif_scan(x, ptr)[0], [x], grad)}
    if length <= LONGEST_PLAIN:
        state, half, one = x.new_zeros(TOKENS // length, CHANNELS), x.new_tensor(0.5), x.new_tensor(1.0)
        how = (1.0, "hard", "atan", None, False)
        cases[PLAIN] = step(lambda x: lif_scan_reference(x, ptr, state, half, one, *how)[0], [x], grad)
    return cases


CASES = {
    "gated linear attention": gated_cases,
    "selective scan": selective_cases,
    "WKV": wkv_cases,
    "integrate-and-fire": lif_cases,
}


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
        error = float(((got.double() - should).norm() / should.norm()).detach())
        assert error < limit, f"{name}: result {place} is off by {error:.1e}"


def on_gpu(run: Run) -> float:
    """Milliseconds from a step's first kernel to its last: the GPU sleeps while they are queued."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)  # cycles, about 10 ms
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def wall(run: Run) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begin)


def medians(cases: dict[str, Run], repeats: int, slow_repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each on the GPU and by the clock, the cases taking turns; slow ones have their turns first."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(-2, max(repeats, slow_repeats)):
        for name, run in cases.items():
            slow = name in (PLAIN, WRITTEN)
            if turn >= (0 if slow else -2) and turn < (slow_repeats if slow else repeats):
                times[name].append((on_gpu(run), wall(run)))
    # The first two turns warm up; slow cases have run once before, when their memory was measured.
    kept = {name: found if name in (PLAIN, WRITTEN) else found[2:] for name, found in times.items()}
    return {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in kept.items()}


def peak_mb(run: Run) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def profile(length: int, steps: int = 5) -> None:
    """Microseconds a step of each kernel, of gated linear attention here and in flash-linear-attention."""
    cases = gated_cases(length)
    for name in ("ours", "flash-linear-attention"):
        if name not in cases:
            continue
        for _ in range(3):
            cases[name]()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
            for _ in range(steps):
                cases[name]()
            torch.cuda.synchronize()
        found = sorted(record.key_averages(), key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in found) / steps
        print(f"\n{name}, {TOKENS // length} x {length:,} tokens: {total:,.0f} microseconds a step")
        for event in found:
            if event.self_device_time_total > 0:
                share = event.self_device_time_total / steps
                print(f"{share:9.1f}  {event.count / steps:5.1f} x  {event.key[:100]}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which scans")
    arguments.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    arguments.add_argument("--repeats", type=int, default=10)
    arguments.add_argument("--slow-repeats", type=int, default=2, help="of plain PyTorch and attention written out")
    arguments.add_argument("--profile", action="store_true", help="print the time by kernel at 16,384 tokens instead")
    arguments.add_argument("--out", type=Path, help="folder of the record, such as results/bench")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_scan.py needs a CUDA device")
    if options.profile:
        return profile(16384)
    rows: list[dict[str, Any]] = []
    for name in options.cases:
        for length in options.lengths:
            print(f"{name}, {length} tokens", flush=True)
            cases = CASES[name](length)
            memory = {case: peak_mb(run) for case, run in cases.items()}
            times = medians(cases, options.repeats, options.slow_repeats)
            ours = {
                "case": f"{name}, {TOKENS // length} x {length:,} tokens",
                "ours_ms": times["ours"][0],
                "ours_wall_ms": times["ours"][1],
                "ours_peak_mb": memory["ours"],
            }
            peers = [
                {
                    "peer": peer,
                    "peer_ms": times[peer][0],
                    "ratio": times[peer][0] / times["ours"][0],
                    "peer_wall_ms": times[peer][1],
                    "peer_peak_mb": memory[peer],
                }
                for peer in cases
                if peer != "ours"
            ]
            rows += [{**ours, **peer} for peer in peers or [{}]]
            # After each case, so that a machine that goes away leaves what was measured.
            report("gpu_scan", rows, options.out)


if __name__ == "__main__":
    main()
