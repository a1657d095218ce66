"""TGN and NAT on a GPU: training steps at several batch sizes, whether they ever wait, and the same scores as the CPU.

    python scripts/bench/gpu_temporal.py --out results/bench

Six sections, each of which may fail without the others: scores and states after the same events on both devices;
host synchronisation in training steps (PyTorch's check raises, the profiler counts waits and copies to the host);
events per second of TGN and NAT in batches of 200 and of 2,000, step by step and with a step recorded as one CUDA
graph, beside PyG's and tgm-lib's TGN and NAT's released formulation; the neighbourhood caches alone against the rate
of a copy; and forward, state and backward apart. A random stream of 100,000 nodes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import captured, report
from temporal_peers import (
    Epoch,
    adam,
    has_tgm,
    link_loss,
    nat,
    pyg_tgn_epoch,
    released_nat_epoch,
    slices,
    tgm_tgn_epoch,
    tgn,
    train_step,
)
from torch import Tensor

from graphkit.datasets import EventStream, RandomNegatives
from graphkit.loader import EventLoader
from graphkit.loader.event_loader import EventBatch
from graphkit.nn import TemporalModel

Rows = list[dict[str, Any]]
MODELS: dict[str, Callable[[EventStream], TemporalModel]] = {
    "TGN": tgn,
    "TGN + PRES": lambda stream: tgn(stream, pres=True),
    "NAT": nat,
    "NAT without attention": lambda stream: nat(stream, "sum"),
}
# What the profiler calls it when the host waits for the device.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH")


def random_stream(nodes: int, events: int, msg_dim: int = 1) -> EventStream:
    """Small ids are the most active; about four events a moment."""
    generator = torch.Generator().manual_seed(0)
    src, dst = (nodes * torch.rand(2, events, generator=generator, dtype=torch.float64) ** 2).long()
    return EventStream(src, dst, torch.arange(events) // 4, torch.randn(events, msg_dim, generator=generator))


def trainer(model: TemporalModel, stream: EventStream, batch_size: int) -> Callable[[range], None]:
    """Trains on a range of events."""
    optimizer, negatives = adam(model.train()), RandomNegatives(stream)

    def train(events: range) -> None:
        for batch in EventLoader(stream, events, batch_size, negatives=negatives):
            assert batch.neg is not None
            train_step(model, optimizer, batch, batch.neg, stream.msg)

    return train


def captured_epoch(model: TemporalModel, stream: EventStream, batch_size: int) -> Epoch:
    """The same with the whole training step recorded once as a CUDA graph; ``events`` are whole batches."""
    optimizer, negatives = adam(model.train(), capturable=True), RandomNegatives(stream)
    static = next(iter(EventLoader(stream, range(batch_size), batch_size, negatives=negatives)))
    static = EventBatch(*(part.clone() for part in static if part is not None))
    assert static.neg is not None

    def step() -> None:
        train_step(model, optimizer, static, static.neg, stream.msg)

    graph = captured(step, model.reset_state)

    def epoch(events: int) -> None:
        model.reset_state()
        for batch in EventLoader(stream, range(events), batch_size, negatives=negatives):
            for place, part in zip(static, batch, strict=True):
                place.copy_(part)
            graph.replay()

    return epoch


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


# Sections -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def equality(device: str, nodes: int = 2000, events: int = 8000) -> Rows:
    """The same weights and events on the CPU and on ``device``: scores from one state, and states reached apart."""
    stream = random_stream(nodes, events, 3)
    there = stream.to(device)
    rows = []
    for name, make in MODELS.items():
        here = make(stream).eval()
        moved = copy.deepcopy(here).to(device)
        for batch, other in zip(slices(stream, events, 200), slices(there, events, 200), strict=True):
            here.update_state(batch.src, batch.dst, batch.t, batch.e_id, stream.msg)
            moved.update_state(other.src, other.dst, other.t, other.e_id, there.msg)
        whole, off = 0, 0.0
        for (key, want), (_, got) in zip(here.named_state(), moved.named_state(), strict=True):
            if want.is_floating_point():
                off = max(off, float((want - got.cpu()).abs().max()))
            elif not torch.equal(want, got.cpu()):
                whole += 1
                print(f"{name}: {key} differs in {int((want != got.cpu()).sum())} places")
        moved.load_snapshot({key: value.to(device) for key, value in here.snapshot().items()})
        ask = batch.src, torch.stack([batch.dst, batch.src.roll(1)], 1), batch.t + 5
        score = here(*ask, stream.msg)
        other_score = moved(*(part.to(device) for part in ask), there.msg).cpu()
        apart = float((score - other_score).abs().max())
        print(f"{name}: scores differ by up to {apart:.1e}, states by {off:.1e}", flush=True)
        rows.append(
            {
                "case": f"{name}, {device} against CPU after {events} events",
                "integer_buffers_that_differ": whole,
                "state_difference": off,
                "score_difference": apart,
                "score_size": float(score.abs().mean()),
            }
        )
    return rows


def synchronisation(device: str, nodes: int = 100_000, steps: int = 10, batch_size: int = 200) -> Rows:
    """Training steps with PyTorch told to raise where the host would wait, and what the profiler sees of waits."""
    stream = random_stream(nodes, 3 * steps * batch_size).to(device)
    rows = []
    for name, make in MODELS.items():
        train = trainer(make(stream).to(device), stream, batch_size)
        events = [range(part * steps * batch_size, (part + 1) * steps * batch_size) for part in range(3)]
        train(events[0])  # compiles
        wait(device)
        row: dict[str, Any] = {"case": f"{name}, waits in {steps} training steps"}
        try:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            train(events[1])
            row["raised"] = ""
        except RuntimeError as error:
            # Its first line; the place is in what is printed.
            row["raised"] = (str(error).splitlines() or [""])[0]
            traceback.print_exc()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        row["waits"] = waits(lambda train=train, part=events[2]: train(part), device)
        rows.append(row)
    return rows


def waits(run: Callable[[], Any], device: str) -> str:
    """What made the host wait during ``run``, with numbers."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    wait(device)
    with profile(activities=activities) as profiler:
        with record_function("steps"):
            run()
        wait(device)
    recorded = list(profiler.events())
    host = torch.autograd.DeviceType.CPU
    inside = next(event.time_range for event in recorded if event.name == "steps" and event.device_type == host)
    found = Counter(
        word
        for event in recorded
        for word in WAITS
        # The profiler's own end, and ours, come after.
        if word in event.name and inside.start <= event.time_range.start <= inside.end
    )
    return ", ".join(f"{number} {word}" for word, number in sorted(found.items())) or "none"


def turns(cases: dict[str, Epoch], events: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, epoch in cases.items():
            times[name].append(seconds(lambda epoch=epoch: epoch(events), device))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def throughput(device: str, batch_size: int = 200, nodes: int = 10_000, batches: int = 50, repeats: int = 3) -> Rows:
    """Events per second of training, the models and their peers taking turns."""
    number = batches * batch_size
    rows: Rows = []
    stream = random_stream(nodes, number).to(device)
    cases: dict[str, Epoch] = {}
    for name, make in MODELS.items():
        model = make(stream).to(device)
        train = trainer(model, stream, batch_size)

        def epoch(events: int, model=model, train=train) -> None:
            model.reset_state()
            train(range(events))

        cases[name] = epoch
        try:
            cases[f"{name}, captured"] = captured_epoch(make(stream).to(device), stream, batch_size)
        except RuntimeError:
            traceback.print_exc()
            print(f"{name} cannot be captured: left out")
    print(f"batches of {batch_size}: ours are ready", flush=True)
    peers = {"TGN from PyG's modules": pyg_tgn_epoch, "NAT's released formulation": released_nat_epoch}
    if has_tgm():
        peers["TGN from tgm-lib"] = tgm_tgn_epoch
    for name, make_epoch in peers.items():
        try:
            made = make_epoch(stream, batch_size)
            made(min(2 * batch_size, number))
            cases[name] = made
            print(f"{name} is ready", flush=True)
        except Exception:
            traceback.print_exc()
            print(f"{name} does not run on {device}: left out")
    times = turns(cases, number, repeats, device)
    rates = {name: number / value for name, value in times.items()}
    for name in MODELS:
        kind = "NAT" if name.startswith("NAT") else "TGN"
        compared = [peer for peer in peers if peer in rates and peer.startswith(kind)]
        row = {"case": f"{name}, training, batches of {batch_size}", "ours_events_s": rates[name]}
        row["ours_ms"] = 1000 * batch_size / rates[name]
        if f"{name}, captured" in rates:
            row["captured_events_s"] = rates[f"{name}, captured"]
            row["captured_ms"] = 1000 * batch_size / rates[f"{name}, captured"]
        rows += [
            {
                **row,
                "peer": peer,
                "peer_events_s": rates[peer],
                "peer_ms": 1000 * batch_size / rates[peer],
                "ratio": rates[name] / rates[peer],
            }
            for peer in compared
        ] or [row]
    return rows


def pieces(
    device: str, nodes: int = 100_000, batches: int = 50, past: int = 100_000, sizes: tuple[int, ...] = (200, 2000)
) -> Rows:
    """Milliseconds of the parts of a step, each waited for, so that together they are more than the step."""
    rows = []
    for batch_size in sizes:
        stream = random_stream(nodes, past + batches * batch_size).to(device)
        for name, make in MODELS.items():
            model = make(stream).to(device).train()
            with torch.no_grad():
                for batch in EventLoader(stream, range(past), 2000):
                    model.update_state(batch.src, batch.dst, batch.t, batch.e_id, stream.msg)
            optimizer = adam(model)
            loader = EventLoader(stream, range(past, len(stream)), batch_size, negatives=RandomNegatives(stream))
            spent = [step_parts(model, optimizer, batch, stream.msg, device) for batch in loader]
            parts = zip(
                ("forward_ms", "state_ms", "backward_ms", "optimizer_ms"), zip(*spent, strict=True), strict=True
            )
            medians = {part: 1000 * statistics.median(values[batches // 5 :]) for part, values in parts}
            rows.append({"case": f"{name}, parts of a step, batches of {batch_size}", **medians})
    return rows


def step_parts(
    model: TemporalModel, optimizer: torch.optim.Optimizer, batch: EventBatch, msg: Tensor | None, device: str
) -> tuple[float, ...]:
    """Seconds of scoring, state, backward and optimizer."""
    assert batch.neg is not None
    candidates = torch.cat([batch.dst[:, None], batch.neg], 1)
    kept: list[Tensor] = []

    def forward() -> None:
        score = model(batch.src, candidates, batch.t, msg)
        kept.append(link_loss(score[:, 0], score[:, 1:]))

    def state() -> None:
        model.update_state(batch.src, batch.dst, batch.t, batch.e_id, msg)

    optimizer.zero_grad(set_to_none=True)
    return tuple(seconds(run, device) for run in (forward, state, lambda: kept[0].backward(), optimizer.step))


def cache_rows(device: str) -> Rows:
    from neighborhood_cache import measure_all

    return [{**row, "case": f"NeighborhoodCache, {row['case']}"} for row in measure_all(1 << 19, 1 << 22, 5, device)]


SECTIONS: dict[str, Callable[[str], Rows]] = {
    "equality": equality,
    "synchronisation": synchronisation,
    "throughput": throughput,
    "throughput_large": lambda device: throughput(device, 2000),
    "cache": cache_rows,
    "pieces": pieces,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the record, such as results/bench")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_temporal.py needs a CUDA device")
    rows: Rows = []
    failed = []
    for name in options.sections:
        try:
            start = time.perf_counter()
            found = SECTIONS[name]("cuda")
            report(name, found, None)
            print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
            rows += found
        except Exception:
            traceback.print_exc()
            failed.append(name)
        if rows and options.out is not None:
            # After each section, so that a machine that goes away leaves what was measured.
            report("gpu_temporal", rows, options.out)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
