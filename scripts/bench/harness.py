"""What the benchmarks share: graphs to measure on, interleaved timing, peak memory, tables and records."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from graphkit.bench.records import hardware, versions
from graphkit.utils.io import atomic_write


def power_law_graph(num_nodes: int, num_entries: int, exponent: float = 2.5, seed: int = 0) -> Tensor:
    """An undirected Chung-Lu graph with power-law degrees: both directions, about ``num_entries`` columns."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.arange(10, num_nodes + 10, dtype=torch.float64) ** (-1 / (exponent - 1))
    bounds = torch.cumsum(weight, 0)
    draws = torch.rand(2, int(num_entries * 0.53), generator=generator, dtype=torch.float64) * bounds[-1]
    ends = torch.searchsorted(bounds, draws).clamp_(max=num_nodes - 1)
    # Without the shuffle small ids would be the hubs, which real graphs' ids do not tell.
    ends = torch.randperm(num_nodes, generator=generator)[ends]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    key = (low * num_nodes + high)[low != high].unique()
    key = key[torch.randperm(key.numel(), generator=generator)[: num_entries // 2]]
    pairs = torch.stack([key // num_nodes, key % num_nodes])
    return torch.cat([pairs, pairs.flip(0)], dim=1)


def interleave(cases: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, float]:
    """Median milliseconds of each case, the cases taking turns in this one process."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        for name, function in cases.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def captured(step: Callable[[], Any], before: Callable[[], Any] | None = None) -> torch.cuda.CUDAGraph:
    """``step`` as a CUDA graph, after it ran three times on a stream of its own, ``before`` each time and once more.

    The graph keeps ``step``, and so the optimizer it calls: their memory is what the graph reads and writes.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            if before is not None:
                before()
            step()
    torch.cuda.current_stream().wait_stream(side)
    if before is not None:
        before()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.step = step  # type: ignore[attr-defined]
    return graph


def allocated_mb(function: Callable[[], Any]) -> float:
    """Most memory the process held during ``function`` beyond what it held before, in MiB (sampled every ms).

    Memory that was freed before is given back to the system first, or taking it again would not show.
    """
    import ctypes
    import threading

    import psutil

    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return (max(peak, process.memory_info().rss) - before) / 2**20


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--repeats", type=int, default=7, help="timed turns of each case")
    made.add_argument("--out", type=Path, help="folder of the record, such as results/bench; none is written without")
    return made


def report(name: str, rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print the rows as a table and, if asked for, write ``out/name.json``."""
    table = Table(title=f"{name}  ({hardware()})")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if out is not None:
        command = shlex.join(["python", *sys.argv])
        content = {"name": name, "command": command, "versions": versions(), "hardware": hardware(), "rows": rows}
        with atomic_write(out / f"{name}.json") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
        print(f"record  {out / name}.json")


def _cell(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
