"""Scans of sequences on the CPU against loops, plain PyTorch and softmax attention, and their cost as sequences grow.

Forward and backward of one sequence: the selective scan (64 channels, states of 16), gated linear attention (4 heads,
keys of 16, values of 32) and WKV (64 channels). The naive loop takes a token at a time in PyTorch; the plain form is
GraphKit's reference, which scans runs or chunks. Softmax attention is PyTorch's, causal, with the same heads. Peers are
left out for lengths at which they would take minutes or gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import allocated_mb, interleave, parser, report
from torch import Tensor
from torch.nn.functional import logsigmoid, scaled_dot_product_attention, softplus

from graphkit.ops import gla_scan, selective_scan, wkv_scan
from graphkit.ops.scan import gla_scan_reference, selective_scan_reference

Run = Callable[[], Any]
CHANNELS, SIZE, HEADS, KEY, VALUE = 64, 16, 4, 16, 32
LOOP, REST = 4096, 16384  # longest sequences of the loops, and of plain PyTorch and attention


def step(function: Callable[..., Tensor], inputs: list[Tensor]) -> Run:
    """Forward and backward."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    return lambda: torch.autograd.grad(function(*leaves).sum(), leaves)


def selective_cases(length: int) -> dict[str, Run]:
    inputs = [
        torch.randn(length, CHANNELS),
        softplus(torch.randn(length, CHANNELS)),
        -torch.rand(CHANNELS, SIZE),
        torch.randn(length, SIZE),
        torch.randn(length, SIZE),
        torch.randn(CHANNELS),
    ]
    ptr = torch.tensor([0, length])

    def loop(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
        state, rows = torch.zeros(CHANNELS, SIZE), []
        for t in range(length):
            state = torch.exp(dt[t][:, None] * a) * state + (dt[t] * x[t])[:, None] * b[t]
            rows.append(state @ c[t])
        return torch.stack(rows) + skip * x

    plain = step(lambda *t: selective_scan_reference(*t, ptr), inputs)
    cases = {"ours": step(selective_scan, inputs)}
    if length <= REST:
        cases["plain PyTorch"] = plain
    return {**cases, "naive loop": step(loop, inputs)} if length <= LOOP else cases


def gated_cases(length: int) -> dict[str, Run]:
    q, k, g = (torch.randn(length, HEADS, KEY) for _ in range(3))
    inputs = [q, k, torch.randn(length, HEADS, VALUE), logsigmoid(g) / 16]
    ptr, zero = torch.tensor([0, length]), torch.zeros(1, HEADS, KEY, VALUE)

    def loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        memory, rows = torch.zeros(HEADS, KEY, VALUE), []
        for t in range(length):
            memory = g[t].exp()[..., None] * memory + k[t][..., None] * v[t][:, None]
            rows.append((q[t][..., None] * memory).sum(1))
        return KEY**-0.5 * torch.stack(rows)

    def attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        heads = (t.transpose(0, 1)[None] for t in (q, k, v))
        return scaled_dot_product_attention(*heads, is_causal=True) + 0 * g.sum()

    plain = step(lambda *t: gla_scan_reference(*t, ptr, zero, scale=KEY**-0.5)[0], inputs)
    cases = {"ours": step(lambda *t: gla_scan(*t)[0], inputs)}
    if length <= REST:
        cases["plain PyTorch"] = plain
        cases["softmax attention"] = step(attention, inputs)
    return {**cases, "naive loop": step(loop, inputs)} if length <= LOOP else cases


def wkv_cases(length: int) -> dict[str, Run]:
    inputs = [torch.rand(CHANNELS), torch.randn(CHANNELS), *(torch.randn(length, CHANNELS) for _ in range(2))]

    def loop(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
        above, below, largest, rows = torch.zeros(CHANNELS), torch.zeros(CHANNELS), torch.full((CHANNELS,), -1e30), []
        for t in range(length):
            top = torch.maximum(largest, u + k[t])
            old, new = torch.exp(largest - top), torch.exp(u + k[t] - top)
            rows.append((old * above + new * v[t]) / (old * below + new))
            top = torch.maximum(largest - w, k[t])
            old, new = torch.exp(largest - w - top), torch.exp(k[t] - top)
            above, below, largest = old * above + new * v[t], old * below + new, top
        return torch.stack(rows)

    cases = {"ours": step(lambda w, u, k, v: wkv_scan(k, v, w, u)[0], inputs)}
    return {**cases, "naive loop": step(loop, inputs)} if length <= LOOP else cases


SCANS: dict[str, Callable[[int], dict[str, Run]]] = {
    "selective scan": selective_cases,
    "gated linear attention": gated_cases,
    "WKV": wkv_cases,
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    options = arguments.parse_args()
    rows = []
    for name, make in SCANS.items():
        for length in options.lengths:
            rows += measure(f"{name}, {length:,} tokens", make(length), length, options.repeats)
    report("scan", rows, options.out)


def measure(case: str, cases: dict[str, Run], length: int, repeats: int) -> list[dict[str, Any]]:
    grads = {name: run() for name, run in cases.items()}
    for name in set(cases) & {"plain PyTorch", "naive loop"}:
        for got, want in zip(grads["ours"], grads[name], strict=True):
            assert (got - want).norm() <= 1e-3 * want.norm() + 1e-6, f"{case}: ours differs from {name}"
    memory = {name: allocated_mb(run) for name, run in cases.items()}
    times = interleave(cases, repeats, warmup=0)
    ours = {
        "case": case,
        "ours_ms": times["ours"],
        "us_token": 1000 * times["ours"] / length,
        "ours_peak_mb": memory["ours"],
    }
    peers = [
        {"peer": name, "peer_ms": times[name], "ratio": times[name] / times["ours"], "peer_peak_mb": memory[name]}
        for name in cases
        if name != "ours"
    ]
    return [{**ours, **peer} for peer in peers or [{}]]


if __name__ == "__main__":
    main()
