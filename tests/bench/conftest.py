"""A small record without training; the benchmark scripts, imported and run."""

from __future__ import annotations

import importlib
import json
import runpy
import sys

import pytest

from graphkit.bench.records import Record, Row
from graphkit.bench.report import load_benchmarks
from graphkit.bench.scripts import FOLDER


@pytest.fixture
def record() -> Record:
    """Two models, three seeds; one figure of the paper is near, one is far."""
    near = {"mean": 89.65, "std": 1.36, "source": "a paper, table 2"}
    far = {"mean": 40.0, "std": None, "source": "a paper, table 2"}
    return Record(
        key="ncnc",
        dataset="Cora",
        protocol="random split",
        command="graphkit run ncnc --dataset Cora --runs 3",
        rows=[
            Row("NCNC", "Hits@100", "test", [89.0, 90.5, 88.25], near, 58370, 12.5, 900.5),
            Row("NCNC", "MRR", "test", [30.0, 31.0, 32.0], None, 58370, 12.5, 900.5),
            Row("NCNC", "Hits@100", "valid", [90.0, 91.0, 92.0], None, 58370, 12.5, 900.5),
            Row("CN", "Hits@100", "test", [33.0, 33.5, 34.0], far),
        ],
        seeds=[0, 1, 2],
        config={"dataset": "Cora", "root": None, "hidden": 256},
        monitor="Hits@100",
        curves={"NCNC": [{"epoch": 1, "loss": 0.7, "valid/Hits@100": 50.0}, {"epoch": 2, "valid/Hits@100": 60.0}]},
        histograms={"NCNC": {"edges": [0.0, 0.5, 1.0], "links": [0.2, 0.8], "non-links": [0.9, 0.1]}},
        commit="0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        versions={"python": "3.11.7", "torch": "2.13.0"},
        hardware="a processor, 1 threads",
        note="a quiet machine",
    )


@pytest.fixture
def scripts(monkeypatch):
    """Imports a script, as another script does."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def rows_of(scripts, monkeypatch, tmp_path):
    """Runs a script with arguments; the rows of its record, which the report must be able to read."""

    def run(name: str, *arguments: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(tmp_path)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        assert [benchmark.name for benchmark in load_benchmarks(tmp_path)] == [name]
        return json.loads((tmp_path / f"{name}.json").read_text())["rows"]

    return run
