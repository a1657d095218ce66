"""Runs a recipe: models × seeds, then a table, a record and a plot."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from graphkit.bench.plots import plot_record
from graphkit.bench.records import Record, Row, peak_mb, reset_peak, where
from graphkit.train import Experiment, FitResult, make_fabric
from graphkit.utils.checks import check_range
from graphkit.utils.io import atomic_write, check_writable

_SAVE_EVERY = 10.0  # seconds of work that a killed run may lose


class RecipeLike(Protocol):
    """What the runner needs to know of a recipe."""

    @property
    def key(self) -> str: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def reported(self) -> Mapping[tuple[str, str], Any]: ...
    @property
    def build(self) -> Callable[[Any, str, int], Experiment]: ...
    @property
    def headline(self) -> tuple[str, ...]: ...
    def models_for(self, dataset: str) -> tuple[str, ...]: ...
    def describe(self, config: Any) -> str: ...


@dataclass
class RunOptions:
    """How to run, apart from the paper's hyperparameters."""

    models: tuple[str, ...] = ()
    """Models of the table; all of the recipe's if none are named."""
    runs: int = 1
    """Seeds; each has its own split and weights."""
    first_seed: int = 0
    """The first seed; the others follow."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "32-true"
    """Precision of training: 32-true, bf16-mixed, 16-mixed or 64-true."""
    capture: bool = False
    """Record a training step as a CUDA graph: faster on a GPU where a step is many small kernels, as for streams."""
    resume: bool = False
    """Go on where a killed run stopped."""
    fast: bool = False
    """A smoke run of seconds, not a result."""
    out: str | None = None
    """Folder of the record, the plot, checkpoints and logs; runs if not given, runs/fast for a smoke run."""
    tensorboard: bool = False
    """Also log for TensorBoard (extra tensorboard)."""
    note: str = ""
    """A remark to keep in the record, such as what else the machine was doing."""
    quiet: bool = False
    """No progress bars."""
    debug: bool = False
    """Show the traceback of an error."""


def run(recipe: RecipeLike, config: Any, options: RunOptions, command: str | None = None) -> Record:
    """Train and score every model with every seed, print the table and write the record.

    A finished model and seed is kept in the output folder, and ``resume`` does not repeat it. The record is named after
    the dataset, or after ``config.label`` where a config has one, since it changes the dataset.

    Raises:
        ValueError: an option out of range.
        OSError: the output folder cannot be written (found before any training).
    """
    check_range(options.runs, "runs", 1)
    check_range(options.first_seed, "first_seed", 0)
    out = Path(options.out or ("runs/fast" if options.fast else "runs"))
    label = getattr(config, "label", config.dataset)
    folder = out / recipe.key
    check_writable(folder)
    path = folder / f"{label}.json"
    if options.fast and path.exists() and not Record.load(path).fast:
        raise ValueError(f"{path} is the record of a whole run, and --fast would replace it; choose another --out")
    table = recipe.models_for(config.dataset)
    models = options.models or table
    seeds = list(range(options.first_seed, options.first_seed + options.runs))
    for model in models:
        if model not in table:
            # A variant, a typo or a model that cannot take the dataset: better found now than after the models before
            # it have been trained.
            recipe.build(config, model, options.first_seed)
    record = Record(
        key=recipe.key,
        dataset=label,
        protocol=recipe.describe(config),
        command=command or shlex.join(["graphkit", *sys.argv[1:]]),
        rows=[],
        seeds=seeds,
        config=dataclasses.asdict(config),
        monitor="",
        note=options.note,
        fast=options.fast,
        headline=list(recipe.headline),
    )
    console = Console(stderr=True, quiet=options.quiet)
    fabric = make_fabric(options.device, options.precision)
    console.quiet = console.quiet or fabric.global_rank > 0
    origin: dict[str, Any] | None = None
    stages: set[tuple[str, int]] = set()  # what was trained first for a model, and may serve the next one
    for model in models:
        outcomes = []
        for seed in seeds:
            place = folder / label / model / f"seed{seed}"
            outcome = _load(place / "outcome.json", config, seed) if options.resume else None
            if outcome is None:
                outcome = _run_one(recipe, config, model, seed, place, options, fabric, stages)
                if fabric.global_rank == 0:
                    with atomic_write(place / "outcome.json") as file:
                        json.dump(outcome, file, allow_nan=False)
            outcomes.append(outcome)
        record.monitor = record.monitor or outcomes[0]["monitor"]
        origin = origin or outcomes[0]["where"]
        record.rows += _rows(recipe, config, model, outcomes)
        if outcomes[0]["history"]:
            columns = ("epoch", "loss", f"valid/{record.monitor}")
            record.curves[model] = [
                {name: round(row[name], 4) for name in columns if name in row} for row in outcomes[0]["history"]
            ]
        if outcomes[0]["histogram"]:
            record.histograms[model] = outcomes[0]["histogram"]
        if outcomes[0].get("table"):
            record.tables[model] = outcomes[0]["table"]
        main = next(
            row for row in record.rows if (row.model, row.metric) == (model, record.monitor) and row.split == "test"
        )
        console.print(f"  {model:<12} {record.monitor} {main.mean:.2f} ± {main.std:.2f}  ({main.seconds:.1f} s a run)")
    record.stamp(origin)
    if fabric.global_rank == 0:
        path = record.save(out)
        picture = plot_record(record, path.with_suffix(".png"))
        stdout = Console(width=None if sys.stdout.isatty() else 120)
        stdout.print(result_table(record))
        stdout.print(f"record  {path}\nplot    {picture}", highlight=False, soft_wrap=True)
    return record


def _run_one(
    recipe: RecipeLike,
    config: Any,
    model: str,
    seed: int,
    place: Path,
    options: RunOptions,
    fabric: Any,
    stages: set[tuple[str, int]],
) -> dict[str, Any]:
    experiment = recipe.build(config, model, seed)
    reset_peak()
    seconds = []  # of what is trained first, too

    def train(part: Experiment, name: str, resume: bool) -> FitResult:
        result = part.run(
            fabric=fabric,
            seed=seed,
            capture=options.capture,
            folder=place.parent.parent / name / place.name,
            resume=resume,
            save_every=_SAVE_EVERY,
            tensorboard=options.tensorboard,
            progress=not options.quiet,
            description=f"{name} seed {seed}",
        )
        seconds.append(result.seconds)
        return result

    def train_first(later: Experiment) -> None:
        if later.start_from is None:
            return
        name, first = later.start_from
        train_first(first)
        # Its own row of the table may have trained it already, with these settings or with others, or a model before.
        trained = _load(place.parent.parent / name / place.name / "outcome.json", config, seed) is not None
        train(first, name, resume=trained or (name, seed) in stages or options.resume)
        stages.add((name, seed))
        later.begin()

    train_first(experiment)
    result = train(experiment, model, options.resume)
    return {
        "config": asdict(config),
        "seed": seed,
        "monitor": experiment.task.monitor,
        "best": result.best,
        "history": result.history,
        "histogram": experiment.task.histogram(experiment.model),
        "table": experiment.task.table(experiment.model),
        "parameters": experiment.num_parameters(),
        "seconds": round(sum(seconds), 3),
        "peak_mb": peak_mb(fabric.device.type),
        "where": where(fabric.device.type),
    }


def _load(path: Path, config: Any, seed: int) -> dict[str, Any] | None:
    """A finished run's outcome, if it is whole and of the same settings."""
    try:
        outcome = json.loads(path.read_text())
        same = (outcome["config"], outcome["seed"]) == (json.loads(json.dumps(asdict(config))), seed)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return outcome if same else None


def _rows(recipe: RecipeLike, config: Any, model: str, outcomes: list[dict[str, Any]]) -> list[Row]:
    rows = []
    reported = recipe.reported.get((model, getattr(config, "label", config.dataset)))
    peaks = [o["peak_mb"] for o in outcomes if o["peak_mb"] is not None]
    epochs = [row["seconds"] for o in outcomes for row in o["history"]]
    for split in ("test", "valid"):
        for metric in outcomes[0]["best"]:
            figure = None
            if reported is not None and (split, metric) == ("test", reported.metric):
                figure = {"mean": reported.mean, "std": reported.std, "source": reported.source}
            rows.append(
                Row(
                    model=model,
                    metric=metric,
                    split=split,
                    values=[round(o["best"][metric][split], 4) for o in outcomes],
                    reported=figure,
                    parameters=outcomes[0]["parameters"],
                    seconds=round(sum(o["seconds"] for o in outcomes) / len(outcomes), 3),
                    peak_mb=max(peaks) if peaks else None,
                    epoch_seconds=round(sum(epochs) / len(epochs), 4) if epochs else None,
                )
            )
    return rows


def _cell(row: Row, runs: int) -> str:
    return f"{row.mean:.2f} ± {row.std:.2f}" if runs > 1 else f"{row.mean:.2f}"


def result_table(record: Record) -> Table:
    """The test rows as a table, a model a line, the paper's figure beside ours."""
    metrics = list(dict.fromkeys(row.metric for row in record.rows))
    runs = len(record.seeds)
    table = Table(title=f"{record.key} on {record.dataset}: test, mean ± std of {runs} run{'s' * (runs > 1)}")
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("paper", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("s / run", justify="right")
    for model in dict.fromkeys(row.model for row in record.rows):
        rows = {row.metric: row for row in record.rows if row.model == model and row.split == "test"}
        cells = [_cell(rows[metric], runs) if metric in rows else "" for metric in metrics]
        figure = next((row.reported for row in rows.values() if row.reported), None)
        paper = "" if figure is None else f"{figure['mean']:.2f}" + (f" ± {figure['std']:.2f}" if figure["std"] else "")
        any_row = next(iter(rows.values()))
        table.add_row(model, *cells, paper, f"{any_row.parameters:,}", f"{any_row.seconds:.1f}")
    return table
