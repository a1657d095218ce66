"""The leaderboard scripts hand on what they are given, and the summary says what a leaderboard asks for."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from graphkit.bench.records import Record, Row
from graphkit.datasets import info
from graphkit.datasets.tgb import TGB
from graphkit.recipes import get_recipe

HOME = Path(__file__).parents[1]
SCRIPTS = sorted(path for board in ("ogb", "tgb") for path in (HOME / "scripts" / board).glob("*.sh"))
SCRIPTS = [path for path in SCRIPTS if path.stem != "common"]
RECIPES = {"ogb": ("ogbl", "ncnc", 10, "NCN NCNC"), "tgb": ("tgbl", "nat", 5, "NAT TGN TGN+PRES EdgeBank")}


@pytest.fixture(scope="module")
def summary():
    spec = importlib.util.spec_from_file_location("ogb_summary", HOME / "scripts" / "ogb" / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(**changes) -> Record:
    reported = {"mean": 84.11, "std": 3.67, "source": "table 2"}
    rows = [
        Row("NCN", "Hits@20", "test", [80.0 + seed for seed in range(10)], None, 1000, 60.0, 2048.0),
        Row("NCN", "Hits@20", "valid", [70.0] * 10, None, 1000, 60.0, 2048.0),
        Row("NCNC", "Hits@20", "test", [84.0] * 10, reported, 1200, 60.0, 2048.0),
        Row("NCNC", "Hits@20", "valid", [72.0] * 10, None, 1200, 60.0, 2048.0),
    ]
    content = {
        "key": "ncnc",
        "dataset": "ogbl-ddi",
        "protocol": "OGB's",
        "command": "graphkit run ncnc --dataset ogbl-ddi --runs 10",
        "rows": rows,
        "seeds": list(range(10)),
        "config": {"dataset": "ogbl-ddi", "completion_epochs": 2},
        "monitor": "Hits@20",
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": "1 x a GPU",
    }
    return Record(**{**content, **changes})


def test_summary(summary):
    text = summary.summary(record())
    ncn, ncnc = text.split("method       ")[1:]
    assert "test         84.50 ± 3.03" in ncn  # sqrt(sum((i - 4.5)^2) / 9)
    assert "validation   70.00 ± 0.00" in ncn
    assert "in the paper 84.11 ± 3.67" in ncnc
    assert "parameters   1,000" in ncn
    assert "parameters   1,200" in ncnc
    for word in ("1 x a GPU", "torch 2.13.0", "0123456789ab", "--runs 10", "https://arxiv.org/abs/2302.00890"):
        assert word in text
    assert "Not to be submitted" not in text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"fast": True}, "--fast"),
        ({"commit": "0123456789ab+changes"}, "not committed"),
        ({"commit": ""}, "commit"),
    ],
)
def test_summary_warns(summary, changes, word):
    last = summary.summary(record(**changes)).splitlines()[-1]
    assert last.startswith("Not to be submitted: ")
    assert word in last


def test_summary_wants_ten_seeds(summary):
    few = record(seeds=[0])
    for row in few.rows:
        row.values = row.values[:1]
    text = summary.summary(few)
    assert "80.00 (one seed)" in text
    assert "1 of 10 seeds" in text


def test_summary_of_no_record(summary, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["summary.py", str(tmp_path / "none.json")])
    assert summary.main() == 2
    assert "none.json" in capsys.readouterr().err


def test_summary_of_another_metric(summary):
    few = record(seeds=list(range(5)), monitor="AP")
    for row in few.rows:
        row.values = row.values[:5]
    text = summary.summary(few, seeds=5, metric="Hits@20")
    assert "Not to be submitted" not in text
    assert "chosen by    best validation AP" in text
    assert "test         82.00" in text
    with pytest.raises(ValueError, match="ncnc on ogbl-ddi has no MRR"):
        summary.summary(few, metric="MRR")


def leaderboard(tmp_path, board: str, *arguments: str) -> list[str]:
    """The commands that a script would run, through a stand-in for Python."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    code = (
        f'set -euo pipefail; source scripts/{board}/common.sh; PY={stand_in}; leaderboard some-data --models NCN "$@"'
    )
    done = subprocess.run(["bash", "-c", code, "x", *arguments], cwd=HOME, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("board", list(RECIPES))
@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        ([], "runs/{}"),
        (["--fast"], "runs/{}-fast"),
        (["--out", "x", "--fast"], "x"),
        (["--fast", "--out=y"], "y"),
    ],
)
def test_leaderboard(tmp_path, board, arguments, out):
    train, summarise = leaderboard(tmp_path, board, *arguments)
    _, key, seeds, _ = RECIPES[board]
    out = out.format(board)
    given = " ".join(["--models NCN", *arguments])
    assert train == f"-m graphkit.cli run {key} --dataset some-data --runs {seeds} {given} --out {out}"
    options = " --seeds 5 --metric MRR" if board == "tgb" else ""
    assert summarise == f"scripts/ogb/summary.py{options} {out}/{key}/some-data.json"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_script(path):
    board, name, text = path.parent.name, path.stem, path.read_text()
    prefix, key, _, models = RECIPES[board]
    assert path.stat().st_mode & 0o111
    assert f"./scripts/{board}/{name}.sh --resume" in text
    assert f'leaderboard {prefix}-{name} --models {models} "$@"' in text
    assert info(f"{prefix}-{name}").metric
    assert set(models.split()) <= set(get_recipe(key).models)
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", list(TGB))
def test_tgb_scripts_name_the_files(name):
    text = (HOME / "scripts" / "tgb" / f"{name.removeprefix('tgbl-')}.sh").read_text()
    files = TGB[name]
    wanted = [files.archive, files.events, *(f"{name}_{part}_ns{files.version}.pkl" for part in ("val", "test"))]
    assert all(word in text for word in (*wanted, name.replace("-", "_")))
