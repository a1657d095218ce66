"""Result records: the JSON files that every table and figure is made from."""

from __future__ import annotations

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
from typing import Any

import torch

from graphkit.utils.io import atomic_write

PACKAGES = ("graphkit", "torch", "torch-geometric", "numpy", "scipy", "numba", "ogb")


@dataclass
class Row:
    """One model's values of one metric, one a seed, in the unit the paper prints (percent)."""

    model: str
    metric: str
    split: str
    values: list[float]
    reported: dict[str, Any] | None = None
    parameters: int = 0
    seconds: float = 0.0
    peak_mb: float | None = None

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

    def stamp(self) -> Record:
        """Fill in commit, time, versions and hardware."""
        self.commit, self.versions, self.hardware = commit(), versions(), hardware()
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
            ValueError: the file is damaged or no record.
        """
        try:
            content = json.loads(Path(path).read_text())
            rows = [Row(**{k: v for k, v in row.items() if k not in ("mean", "std")}) for row in content.pop("rows")]
            return Record(rows=rows, **content)
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no result record ({error}); delete it and run the recipe again") from error


def load_records(folder: str | os.PathLike) -> list[Record]:
    """All records below ``folder``, sorted by recipe and dataset."""
    return [Record.load(path) for path in sorted(Path(folder).glob("*/*.json")) if path.parent.name != "bench"]


def commit() -> str:
    """The commit of the source, with ``+changes`` if it was changed since; empty outside a checkout."""
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        if not (here / ".git").exists():
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "graphkit", "datasets").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def hardware() -> str:
    """The GPU, or the processor and the number of threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def peak_mb() -> float | None:
    """Peak memory so far: of the GPU if there is one, else of this process; None where the system does not tell."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
