"""Result records: the JSON files that every table and figure is made from."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from graphkit.utils.io import atomic_write

#: Metrics that are costs, for which less is better.
COSTS = ("Model kB", "Buffer kB", "Latency us")
PACKAGES = ("graphkit", "torch", "torch-geometric", "numpy", "scipy", "numba", "ogb")


@dataclass
class Row:
    """One model's values of one metric, one a seed, in the unit the paper prints (percent).

    ``seconds`` is the mean time of a run, ``epoch_seconds`` that of an epoch with its evaluation.
    """

    model: str
    metric: str
    split: str
    values: list[float]
    reported: dict[str, Any] | None = None
    parameters: int = 0
    seconds: float = 0.0
    peak_mb: float | None = None
    epoch_seconds: float | None = None

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """Standard deviation over the seeds (n - 1); 0 for one seed."""
        if len(self.values) < 2:
            return 0.0
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values) / (len(self.values) - 1))


@dataclass
class Record:
    """All rows of one recipe on one dataset, with what is needed to run it again."""

    key: str
    dataset: str
    protocol: str
    command: str
    rows: list[Row]
    seeds: list[int]
    config: dict[str, Any]
    monitor: str
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    histograms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    commit: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    note: str = ""
    fast: bool = False
    headline: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def main_rows(self) -> list[Row]:
        """The test rows of the monitored metric, of those in ``headline``, and of any other that the paper gives."""
        shown = (self.monitor, *self.headline)
        return [row for row in self.rows if row.split == "test" and (row.metric in shown or row.reported)]

    def costs(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Of each of ``COSTS`` that was measured, every model's cost and test value of the monitored metric."""
        test = {(row.metric, row.model): row.mean for row in self.rows if row.split == "test"}
        found = {
            cost: {
                model: (value, test[self.monitor, model])
                for (metric, model), value in test.items()
                if metric == cost and (self.monitor, model) in test
            }
            for cost in COSTS
        }
        return {cost: models for cost, models in found.items() if models}

    def stamp(self, origin: dict[str, Any] | None = None) -> Record:
        """Fill in the time, and commit, versions and hardware of the runs (:func:`where`; those of now if None)."""
        made = origin or where()
        self.commit, self.versions, self.hardware = made["commit"] or commit(), made["versions"], made["hardware"]
        self.created = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``folder/<key>/<dataset>.json``, wholly or not at all."""
        path = Path(folder) / self.key / f"{self.dataset}.json"
        content = asdict(self)
        for row, made in zip(self.rows, content["rows"], strict=True):
            made["mean"], made["std"] = round(row.mean, 4), round(row.std, 4)
        with atomic_write(path) as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
        return path

    @staticmethod
    def load(path: str | os.PathLike) -> Record:
        """Read a record.

        Raises:
            ValueError: the file is damaged or no record; the message names it.
            FileNotFoundError: it is not there.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
            rows = [Row(**{k: v for k, v in row.items() if k not in ("mean", "std")}) for row in content.pop("rows")]
            record = Record(rows=rows, **content)
            _check(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no result record ({error}); delete it and run the recipe again") from error
        return record


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"holds {word}")


def _check(record: Record) -> None:
    """Raise a ValueError if a field that tables and figures are made from is of a wrong kind."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(what)

    for name in ("key", "dataset", "protocol", "command", "monitor", "commit", "created", "hardware", "note"):
        demand(isinstance(getattr(record, name), str), f"{name} is no text")
    for name in ("config", "versions", "curves", "histograms", "tables"):
        demand(isinstance(getattr(record, name), dict), f"{name} is no table")
    demand(bool(record.rows), "it has no rows")
    for row in record.rows:
        demand(all(isinstance(word, str) for word in (row.model, row.metric, row.split)), "a row has no names")
        demand(isinstance(row.values, list) and all(map(number, row.values)), f"values of {row.model} are no numbers")
        demand(len(row.values) == len(record.seeds), f"{row.model} has not one value a seed")
        demand(bool(row.values), f"{row.model} has no values")
        demand(number(row.parameters) and number(row.seconds), f"costs of {row.model} are no numbers")
        for cost in (row.peak_mb, row.epoch_seconds):
            demand(cost is None or number(cost), f"costs of {row.model} are no numbers")
        if row.reported is not None:
            std = row.reported.get("std")
            demand(number(row.reported["mean"]) and (std is None or number(std)), "a reported figure is no number")
    for points in record.curves.values():
        demand(all(number(value) for point in points for value in point.values()), "a curve holds no number")
    for bins in record.histograms.values():
        demand(all(number(value) for heights in bins.values() for value in heights), "a histogram holds no number")


def load_records(folder: str | os.PathLike) -> list[Record]:
    """All records below ``folder``, sorted by recipe and dataset."""
    return [Record.load(path) for path in sorted(Path(folder).glob("*/*.json")) if path.parent.name != "bench"]


def commit() -> str:
    """The commit of the source, with ``+changes`` if it was changed since.

    Outside a checkout, such as in a container, ``$GRAPHKIT_COMMIT`` if set, else empty.
    """
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        if not (here / ".git").exists():
            return os.environ.get("GRAPHKIT_COMMIT", "")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "graphkit", "datasets").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def where(device: str = "cuda") -> dict[str, Any]:
    """What a run's numbers depend on besides its settings: the commit of the source, versions and hardware."""
    return {"commit": commit(), "versions": versions(), "hardware": hardware(device)}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str = "cuda") -> str:
    """The GPUs, or where there is none or ``device`` is ``"cpu"``, the processor and the number of threads."""
    import torch  # here, so that reading records is quick

    if device == "cuda" and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def reset_peak() -> None:
    """Start measuring :func:`peak_mb` anew, where the system can (GPUs and Linux)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str = "cuda") -> float | None:
    """Peak memory in MiB: of the GPU, or where there is none or ``device`` is ``"cpu"``, of this process; None where
    the system does not tell.

    Since :func:`reset_peak` where that works, else since the start of the process.
    """
    import torch

    if device == "cuda" and torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    with contextlib.suppress(OSError):
        # The kernel's own counter: unlike that of getrusage it can be reset.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
