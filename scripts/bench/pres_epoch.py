"""A training epoch of TGN with and without PRES at growing batch sizes, and a plot of it beside the accuracy.

TGN as in ``temporal_epoch``: width 100, ten neighbours, two heads. The case is a batch size, its peer the smallest one
of the same model. Average precision is read from the record of the recipe ``pres``, where there is one. Run on a quiet
machine.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from harness import interleave, parser, report
from temporal_epoch import read
from temporal_peers import loader_epoch, tgn, with_messages

SIZES = (200, 400, 800, 1600)
MODELS = {"TGN": False, "TGN+PRES": True}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dataset", default="uci", help="any event stream among `graphkit datasets`")
    arguments.add_argument("--events", type=int, help="only so many; the training part if not given")
    arguments.add_argument(
        "--results", type=Path, default=Path("results/pres"), help="folder with the records of the recipe pres"
    )
    options = arguments.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    name, stream = read(options.dataset)
    events, stream = options.events or int(0.7 * len(stream)), with_messages(stream)
    epochs = {
        f"{model}@{size}": loader_epoch(stream, tgn(stream, pres=pres), size)
        for model, pres in MODELS.items()
        for size in SIZES
    }
    for epoch in epochs.values():
        epoch(min(events, max(SIZES)))  # compiles, and makes the optimizers' state
    runs = {case: (lambda epoch=epoch: epoch(events)) for case, epoch in epochs.items()}
    times = interleave(runs, options.repeats, warmup=1)
    rows = []
    for case, milliseconds in times.items():
        smallest = f"{case.split('@')[0]}@{SIZES[0]}"
        rows.append(
            {
                "case": f"{case}, epoch on {name}",
                "ours_ms": milliseconds,
                "peer": smallest,
                "peer_ms": times[smallest],
                "ratio": times[smallest] / milliseconds,
                "ours_events_s": 1000 * events / milliseconds,
            }
        )
    report("pres_epoch", rows, options.out)
    record = options.results / f"{name}.json"
    if options.out is not None and record.is_file():
        plot(times, json.loads(record.read_text()), options.out / "pres_epoch.png")


def plot(times: dict[str, float], record: dict[str, Any], path: Path) -> None:
    """Average precision and time of an epoch against the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    precision = {row["model"]: row for row in record["rows"] if row["metric"] == "AP" and row["split"] == "test"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for model in MODELS:
        there = [size for size in SIZES if f"{model}@{size}" in precision]
        rows = [precision[f"{model}@{size}"] for size in there]
        left.errorbar(there, [row["mean"] for row in rows], [row["std"] for row in rows], marker="o", capsize=4)
        right.plot(SIZES, [times[f"{model}@{size}"] / 1000 for size in SIZES], marker="o", label=model)
    left.set(ylabel=f"average precision on {record['dataset']}, percent", title="mean and deviation of the runs")
    right.set(ylabel="seconds of a training epoch", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="events of a batch", xscale="log", xticks=SIZES)
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)
    print(f"plot    {path}")


if __name__ == "__main__":
    main()
