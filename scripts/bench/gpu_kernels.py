"""Speed and memory of the CUDA kernels against plain PyTorch and torch.sparse, interleaved in one process.

    python scripts/bench/gpu_kernels.py --out gpu_kernels.json

Times are medians from CUDA events. ``ours_ms`` and ``peer_ms`` are for calls one after another, as in a training loop:
launches and argument checks count where the GPU has to wait for them. ``op_ms`` is what the GPU spends on the operator
alone. ``gb_s`` counts the bytes that must move (features of the hits, the lists that are
read through, the output) over ``op_ms``; compare it with the copy rate in the title.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphkit.ops import NeighborIndex, common_neighbor_count, common_neighbor_sum, common_neighbors, spmm
from graphkit.ops.common_neighbors import _intersect_reference, common_neighbor_sum_reference
from graphkit.utils.io import atomic_write

Run = Callable[[], Any]


def power_law(nodes: int, entries: int, exponent: float, closed: float, device: str) -> tuple[NeighborIndex, Tensor]:
    """Chung-Lu graph, expected degrees ~ rank ** -exponent in random node order, and its edges.

    A share ``closed`` of the edges joins a node with a neighbour's neighbour, so that edges have common neighbours.
    """
    weight = torch.arange(1, nodes + 1, dtype=torch.float64, device=device) ** -exponent
    cumulative = weight[torch.randperm(nodes, device=device)].cumsum(0)
    drawn = torch.rand(2, int(entries * (1 - closed) / 2), dtype=torch.float64, device=device) * cumulative[-1]
    ends = torch.searchsorted(cumulative, drawn).clamp_(max=nodes - 1)
    index = NeighborIndex(torch.cat([ends, ends.flip(0)], 1), nodes)
    start, middle = ends[:, torch.randint(ends.size(1), (entries // 2 - ends.size(1),), device=device)]
    step = (torch.rand(middle.numel(), dtype=torch.float64, device=device) * index.degree[middle]).long()
    ends = torch.cat([ends, torch.stack([start, index.col[index.rowptr[middle] + step]])], 1)
    ends = ends[:, ends[0] != ends[1]]
    return NeighborIndex(torch.cat([ends, ends.flip(0)], 1), nodes), ends


def mixed_pairs(index: NeighborIndex, ends: Tensor, number: int) -> Tensor:
    """Half edges, half random pairs, shuffled: what a link predictor scores in a training step."""
    edges = ends[:, torch.randint(ends.size(1), (number // 2,), device=ends.device)]
    pairs = torch.cat([edges, torch.randint(index.num_nodes, (2, number - number // 2), device=ends.device)], 1)
    return pairs[:, torch.randperm(number, device=ends.device)]


def medians(runs: list[Run], repeats: int, queued: bool = False) -> list[float]:
    """Milliseconds of each, taken in turn: of five calls in a row, or of one whose launches are ``queued`` up front."""
    for run in runs * 2:
        run()
    calls = 1 if queued else 5
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, row in zip(runs, times, strict=True):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            if queued:
                torch.cuda._sleep(4_000_000)
            start.record()
            for _ in range(calls):
                run()
            stop.record()
            stop.synchronize()
            row.append(start.elapsed_time(stop) / calls)
    return [statistics.median(row) for row in times]


def peak_mb(run: Run) -> float:
    """Memory that one call takes at its height, beyond what was held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def copy_rate() -> float:
    """GB/s of a device-to-device copy, bytes read plus bytes written."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    (time,) = medians([lambda: target.copy_(source)], 10, queued=True)
    return 2 * source.numel() * 4 / time / 1e6


def both(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Run:
    """Forward and backward of ``function``."""
    x = x.clone().requires_grad_()

    def run() -> Tensor:
        return torch.autograd.grad(function(x), x, grad)[0]

    return run


def compare(case: str, ours: Run, peer: str, other: Run, op: Run | None, moved: float, repeats: int) -> dict[str, Any]:
    got, want = ours(), other()
    error = float((got - want).norm() / want.norm()) if isinstance(got, Tensor) else 0.0
    del got, want
    ours_ms, peer_ms = medians([ours, other], repeats)
    (op_ms,) = medians([op], repeats, queued=True) if op is not None else (None,)
    row = {"case": case, "ours_ms": ours_ms, "op_ms": op_ms, "peer": peer, "peer_ms": peer_ms}
    row |= {"ratio": peer_ms / ours_ms, "gb_s": moved / op_ms / 1e6 if op_ms and moved else None}
    row |= {"ours_peak_mb": peak_mb(ours), "peer_peak_mb": peak_mb(other), "difference": error}
    print_row(row)
    return row


def print_row(row: dict[str, Any]) -> None:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    print(
        f"{row['case']:62s} {row['ours_ms']:8.3f} {number(row['op_ms'], '8.3f'):>8s} {row['peer_ms']:9.3f} "
        f"{row['ratio']:6.1f}x {number(row['gb_s'], '6.0f'):>6s} {row['ours_peak_mb']:8.0f} {row['peer_peak_mb']:8.0f} "
        f"{row['difference']:.0e}  {row['peer']}",
        flush=True,
    )


def pair_rows(name: str, index: NeighborIndex, pairs: Tensor, width: int, repeats: int) -> list[dict[str, Any]]:
    x = torch.randn(index.num_nodes, width, device="cuda")
    grad = torch.randn(pairs.size(1), width, device="cuda")
    hits = float(common_neighbor_count(index, pairs).double().sum())
    listed = float(torch.minimum(*index.degree[pairs]).sum())
    moved = hits * width * 4 + listed * 8 + grad.numel() * 4
    print(f"{name}: {hits / pairs.size(1):.1f} hits and {listed / pairs.size(1):.1f} candidates a pair")
    op = torch.ops.graphkit.common_neighbor_sum
    graph = (index.rowptr, index.col, index.rowptr, index.col, pairs[0], pairs[1])
    name = f"{name}, {pairs.size(1) // 1024}k pairs"
    sizes = f"{name}, F={width}"
    peer = "plain PyTorch"
    rows = [
        compare(
            f"common_neighbor_sum, {sizes}",
            lambda: common_neighbor_sum(index, pairs, x),
            peer,
            lambda: common_neighbor_sum_reference(index, pairs, x),
            lambda: op(*graph, x),
            moved,
            repeats,
        ),
        compare(
            f"  forward + backward, {sizes}",
            both(lambda value: common_neighbor_sum(index, pairs, value), x, grad),
            peer,
            both(lambda value: common_neighbor_sum_reference(index, pairs, value), x, grad),
            both(lambda value: op(*graph, value), x, grad),
            2 * moved,
            repeats,
        ),
        compare(
            f"common_neighbors with residuals, {name}",
            lambda: common_neighbors(index, pairs, return_residual=True),
            peer,
            lambda: _intersect_reference(index, index, pairs[0], pairs[1], True),
            None,
            0,
            repeats,
        ),
    ]
    return rows


def spmm_rows(name: str, index: NeighborIndex, width: int, repeats: int) -> list[dict[str, Any]]:
    x = torch.randn(index.num_nodes, width, device="cuda")
    grad = torch.randn(index.num_nodes, width, device="cuda")
    weight = torch.rand(index.num_edges, device="cuda")
    shape = (index.num_nodes, index.num_nodes)
    matrix = torch.sparse_csr_tensor(index.rowptr, index.col, weight, shape)
    ones = torch.sparse_csr_tensor(index.rowptr, index.col, torch.ones_like(weight), shape)
    moved = (index.num_edges * width + grad.numel()) * 4 + index.num_edges * 8
    peer = "torch.sparse CSR @ x"

    def ours(value: Tensor, weights: Tensor | None = None) -> Tensor:
        return spmm(index.rowptr, index.col, value, weights)

    sizes = f"{name}, F={width}"
    rows = [
        compare(f"spmm, {sizes}", lambda: ours(x), peer, lambda: ones @ x, lambda: ours(x), moved, repeats),
        compare(
            f"spmm, weights, {sizes}",
            lambda: ours(x, weight),
            peer,
            lambda: matrix @ x,
            lambda: ours(x, weight),
            moved + index.num_edges * 4,
            repeats,
        ),
    ]
    try:
        run = both(lambda value: ours(value, weight), x, grad)
        other = both(lambda value: matrix @ value, x, grad)
        rows.append(compare(f"  forward + backward, {sizes}", run, peer, other, run, 0, repeats))
    except RuntimeError as error:
        print(f"  forward + backward: {peer} skipped ({error})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the record, such as results/bench")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_kernels.py needs a CUDA device")
    torch.manual_seed(0)
    rate = copy_rate()
    print(f"{torch.cuda.get_device_name()}: copy {rate:.0f} GB/s")
    print(
        f"{'case':62s} {'ours ms':>8s} {'op ms':>8s} {'peer ms':>9s} {'ratio':>7s} {'GB/s':>6s} {'ours MB':>8s}", end=""
    )
    print(f" {'peer MB':>8s} diff   peer")
    rows: list[dict[str, Any]] = []
    for name, nodes, entries, exponent, closed, numbers, width in (
        ("power law 236k/2M", 236_000, 2_320_000, 0.6, 0.5, (65_536, 1_048_576), 64),
        ("dense 4.3k/2.1M", 4_267, 2_350_000, 0.4, 0.0, (49_152,), 224),
    ):
        index, ends = power_law(nodes, entries, exponent, closed, "cuda")
        print(f"{name}: {index.num_edges} entries, largest degree {int(index.degree.max())}")
        for number in numbers:
            rows += pair_rows(name, index, mixed_pairs(index, ends, number), width, options.repeats)
        rows += spmm_rows(name, index, width, options.repeats)
    if options.out:
        record = {
            "name": "gpu_kernels",
            "command": shlex.join(["python", *sys.argv]),
            "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
            "hardware": f"{torch.cuda.get_device_name()}, copies {rate:.0f} GB/s",
            "rows": rows,
        }
        with atomic_write(options.out / "gpu_kernels.json") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
