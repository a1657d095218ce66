"""How the cost of an event grows with the number of events before it, from 10^5 to 10^8, with a log-log plot.

A stream of 100,000 nodes, some far more active than others, is written in pieces to a temporary folder (24 bytes an
event) and read from there by memory map. Each part goes through it from the start. At 10^5, 10^6, ... events it is
timed on the batches that follow: the loader alone; the latest neighbours written and read; NAT's caches joined and
written; training steps of TGN and NAT. In between it is shown the events in large batches, without training.
``own_mb`` is the most memory that the process held by then, ``mapped_mb`` what of the file is in memory, which the
system takes back when it needs to. Run on a quiet machine: 10^8 events through all of them take half an hour.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from harness import report
from neighborhood_cache import Events, show
from temporal_peers import adam, nat, tgn, train_step

from graphkit.datasets import EventStream, RandomNegatives
from graphkit.loader import EventLoader
from graphkit.loader.event_loader import EventBatch
from graphkit.nn import NeighborBuffer, NeighborhoodCache, TemporalModel

PIECE = 1 << 20
FILL_BATCH = 1 << 14
BATCH = 200
Batch = Callable[[EventBatch], Any]


def write_stream(folder: Path, events: int, nodes: int) -> None:
    """A random stream in the files that :meth:`EventStream.open` reads; about four events a moment."""
    free = shutil.disk_usage(folder).free
    if free < 25 * events:
        sys.exit(
            f"{folder} has {free / 1e9:.1f} GB free, {events:,} events need {25 * events / 1e9:.1f}: see --largest"
        )
    names = ("src", "dst", "t")
    files = [np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int64, (events,)) for name in names]
    for first in range(0, events, PIECE):
        generator = np.random.default_rng(first)
        part = slice(first, min(first + PIECE, events))
        number = part.stop - first
        # Small ids are the most active.
        src, dst = (nodes * generator.random((2, number)) ** 2).astype(np.int64)
        for file, values in zip(files, (src, dst, np.arange(first, part.stop) // 4), strict=True):
            file[part] = values
    for file in files:
        file.flush()
    header = {"format": 1, "num_events": events, "num_nodes": nodes, "columns": names}
    (folder / "stream.json").write_text(json.dumps(header))


class Memory:
    """Memory of this process in MiB: the most of its own so far, and what it maps from files."""

    def __init__(self) -> None:
        self.process, self.own, self.mapped = psutil.Process(), 0.0, 0.0

    def look(self) -> None:
        info = self.process.memory_info()
        self.mapped = getattr(info, "shared", 0) / 2**20
        self.own = max(self.own, info.rss / 2**20 - self.mapped)


def events_of(batch: EventBatch) -> Events:
    return Events(batch.src, batch.dst, batch.t, batch.e_id)


def training(model: TemporalModel) -> tuple[Batch, Batch]:
    """What shows the model a batch, and what trains it on one."""
    optimizer = adam(model.train())

    def step(batch: EventBatch) -> None:
        assert batch.neg is not None
        train_step(model, optimizer, batch, batch.neg, None)

    return lambda batch: model.update_state(batch.src, batch.dst, batch.t, batch.e_id), step


def buffers(nodes: int) -> tuple[Batch, Batch]:
    buffer = NeighborBuffer(nodes, 10)

    def fill(batch: EventBatch) -> None:
        buffer.insert(batch.src, batch.dst, batch.t, batch.e_id)

    def step(batch: EventBatch) -> None:
        buffer.recent(torch.cat([batch.src, batch.dst]))
        fill(batch)

    return fill, step


def caches(nodes: int) -> tuple[Batch, Batch]:
    cache = NeighborhoodCache(nodes, (32, 16), replace_prob=0.7)

    def step(batch: EventBatch) -> None:
        show(cache, events_of(batch))

    return step, step


def parts(stream: EventStream) -> dict[str, Callable[[], tuple[Batch | None, Batch]]]:
    """What is measured, by name: made when its turn comes, so that only one is in memory."""
    return {
        "EventLoader": lambda: (None, lambda batch: None),
        "NeighborBuffer, insert and recent": lambda: buffers(stream.num_nodes),
        "NeighborhoodCache, join and insert": lambda: caches(stream.num_nodes),
        "TGN, training step": lambda: training(tgn(stream)),
        "NAT, training step": lambda: training(nat(stream)),
    }


def timed(batches: Iterator[EventBatch], step: Batch) -> list[float]:
    """Seconds of each batch, its loading included."""
    times, start = [], time.perf_counter()
    for batch in batches:
        step(batch)
        stop = time.perf_counter()
        times.append(stop - start)
        start = stop
    return times


def measure(
    name: str, made: tuple[Batch | None, Batch], stream: EventStream, places: list[int], batches: int, memory: Memory
) -> list[dict[str, Any]]:
    fill, step = made
    negatives = RandomNegatives(torch.arange(stream.num_nodes)) if "training" in name else None
    rows, shown = [], 0
    for place, following in zip(places, [*places[1:], len(stream)], strict=True):
        if fill is not None:
            with torch.no_grad():
                for batch in EventLoader(stream, range(shown, place), FILL_BATCH):
                    fill(batch)
                    memory.look()
        shown = min(place + batches * BATCH, following)
        times = timed(iter(EventLoader(stream, range(place, shown), BATCH, negatives=negatives)), step)
        memory.look()
        rows.append(
            {
                "case": name,
                "past_events": place,
                # The first batches compile and touch new pages.
                "us_event": 1e6 * statistics.median(times[batches // 10 :]) / BATCH,
                "own_mb": memory.own,
                "mapped_mb": memory.mapped,
            }
        )
        print(f"{name:36s} {place:>12,} events before: {rows[-1]['us_event']:8.2f} us an event", flush=True)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for name in dict.fromkeys(row["case"] for row in rows):
        chosen = [row for row in rows if row["case"] == name]
        past = [row["past_events"] for row in chosen]
        left.loglog(past, [row["us_event"] for row in chosen], marker="o", label=name)
        right.semilogx(past, [row["own_mb"] for row in chosen], marker="o")
    left.set(xlabel="events before", ylabel="microseconds an event", title=f"batches of {BATCH}")
    right.set(xlabel="events before", ylabel="MiB", title="peak memory of the process")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(which="major", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    print(f"plot    {path}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--out", type=Path, help="folder of the record and the plot; none is written without")
    arguments.add_argument("--smallest", type=int, default=5, help="exponent of the smallest number of events before")
    arguments.add_argument("--largest", type=int, default=8, help="exponent of the largest")
    arguments.add_argument("--largest-model", type=int, help="the same for TGN and NAT, if smaller")
    arguments.add_argument("--nodes", type=int, default=100_000)
    arguments.add_argument(
        "--batches", type=int, default=300, help="batches of 200 events that are timed at each place"
    )
    arguments.add_argument(
        "--folder", type=Path, help="where the stream is written; the system's temporary folder if none"
    )
    options = arguments.parse_args()
    places = [10**exponent for exponent in range(options.smallest, options.largest + 1)]
    few = [place for place in places if options.largest_model is None or place <= 10**options.largest_model]
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_stream(Path(folder), places[-1] + options.batches * BATCH, options.nodes)
        stream = EventStream.open(folder)
        for name, make in parts(stream).items():
            model = "training" in name
            gc.collect()
            rows += measure(name, make(), stream, few if model else places, options.batches, Memory())
        del stream
    report("event_scaling", rows, options.out)
    if options.out is not None:
        plot(rows, options.out / "event_scaling.png")


if __name__ == "__main__":
    main()
