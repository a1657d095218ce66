"""A training epoch of TGN and NAT on CollegeMsg, against PyG, tgm-lib and NAT's released formulation.

TGN with memory, time and embedding of width 100, ten neighbours, two heads, batches of 200; NAT with caches of 32 and
16 slots and batches of 100. One random negative an event, Adam, the same loss. An epoch is the training part of the
stream: forward, state, backward and optimizer. The stream has no messages; all are given one column of zeros, without
which PyG's memory does not run. tgm-lib is skipped where it is not installed. Run on a quiet machine.
"""

from __future__ import annotations

import warnings
from typing import Any

from harness import allocated_mb, interleave, parser, report
from temporal_peers import (
    NAT_BATCH,
    TGN_BATCH,
    Epoch,
    check_released,
    has_tgm,
    loader_epoch,
    nat,
    plain_epoch,
    pyg_tgn_epoch,
    released_nat_epoch,
    tgm_tgn_epoch,
    tgn,
    with_messages,
)

from graphkit.datasets import EventStream, load


def read(name: str) -> tuple[str, EventStream]:
    """The dataset, or a shipped one if it is not on the disk."""
    try:
        stream = load(name).data
    except FileNotFoundError as error:
        print(f"{error}; measured on nycflights instead")
        name, stream = "nycflights", load("nycflights").data
    assert isinstance(stream, EventStream)
    return name, stream


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dataset", default="uci", help="any event stream among `graphkit datasets`")
    arguments.add_argument("--batches", type=int, help="only so many of TGN's batches; NAT gets the same events")
    options = arguments.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    name, stream = read(options.dataset)
    events = int(0.7 * len(stream))
    if options.batches:
        events = min(options.batches * TGN_BATCH, events)
    check_released()
    rows = measure(with_messages(stream), events, options.repeats)
    part = "epoch" if options.batches is None else f"{options.batches} batches"
    report("temporal_epoch", [{**row, "case": f"{row['case']}, {part} on {name}"} for row in rows], options.out)


def measure(stream: EventStream, events: int, repeats: int) -> list[dict[str, Any]]:
    loop, loader, pres = "TGN, plain loop", "TGN, EventLoader", "TGN + PRES, EventLoader"
    own, own_sum = "NAT, EventLoader", "NAT without attention, EventLoader"
    modules, tgm, released = "TGN from PyG's modules", "TGN from tgm-lib", "NAT's released formulation"
    cases: dict[str, Epoch] = {
        loop: plain_epoch(stream, tgn(stream), TGN_BATCH),
        loader: loader_epoch(stream, tgn(stream), TGN_BATCH),
        pres: loader_epoch(stream, tgn(stream, pres=True), TGN_BATCH),
        modules: pyg_tgn_epoch(stream),
        own: loader_epoch(stream, nat(stream), NAT_BATCH),
        own_sum: loader_epoch(stream, nat(stream, "sum"), NAT_BATCH),
        released: released_nat_epoch(stream),
    }
    compared = [
        (loop, modules),
        (loader, modules),
        (pres, loader),
        (own, released),
        (own_sum, released),
        (own, modules),
    ]
    if has_tgm():
        cases[tgm] = tgm_tgn_epoch(stream)
        compared[2:2] = [(loop, tgm), (loader, tgm)]
    for epoch in cases.values():
        epoch(min(events, TGN_BATCH))  # compiles, and makes the optimizers' state
    # The whole epoch, which also warms up.
    memory = {name: allocated_mb(lambda epoch=epoch: epoch(events)) for name, epoch in cases.items()}
    runs = {name: (lambda epoch=epoch: epoch(events)) for name, epoch in cases.items()}
    times = interleave(runs, repeats, warmup=0)
    return [
        {
            "case": ours,
            "events": events,
            "ours_ms": times[ours],
            "peer": peer,
            "peer_ms": times[peer],
            "ratio": times[peer] / times[ours],
            "ours_events_s": 1000 * events / times[ours],
            "peer_events_s": 1000 * events / times[peer],
            "ours_peak_mb": memory[ours],
            "peer_peak_mb": memory[peer],
        }
        for ours, peer in compared
    ]


if __name__ == "__main__":
    main()
