"""The command line from end to end: help, errors, a smoke run, resuming, full disks, the report."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import pytest

from graphkit import __version__
from graphkit.bench.catalog import papers
from graphkit.bench.records import Record
from graphkit.cli import main
from graphkit.datasets import available
from graphkit.recipes import get_recipe
from graphkit.train import Trainer

RUN = ["run", "ncnc", "--fast", "--quiet", "--device", "cpu", "--models", "NCN", "CN"]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and printed text of a finished smoke run."""
    folder = tmp_path_factory.mktemp("runs")
    made = subprocess.run(
        [sys.executable, "-m", "graphkit.cli", *RUN, "--out", str(folder)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return folder, made.stdout


def fails(words: list[str], capsys) -> str:
    """Run a command that must fail as a user's mistake does; returns what it said."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in captured.err
    return captured.err + captured.out


# Help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_usage(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("run KEY", "papers", "datasets", "bench", "report"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"graphkit {__version__}\n"


@pytest.mark.parametrize("command", ["papers", "datasets", "report"])
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: graphkit {command}")
    assert "--no-" not in out


def test_help_of_bench(capsys):
    assert main(["bench", "--help"]) == 0
    assert "usage: graphkit bench" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["run"], ["run", "--help"]])
def test_run_lists_its_keys(words, capsys):
    assert main(words) == 0
    assert "ncnc" in capsys.readouterr().out


def test_help_of_a_recipe_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["run", "ncnc", "--dataset", "cora", "--help"])
    out = capsys.readouterr().out.replace("│", " ")  # there are borders in a terminal only
    flat = " ".join(out.split())
    assert "Neural Common Neighbor with Completion for Link Prediction" in flat
    assert "NCNC, NCN, GAE" in flat
    assert "Protocol:" in flat
    flags = re.findall(r"^ +(--[a-z][^ ,]*)", out, re.MULTILINE)
    assert flags[0] == "--dataset"
    assert flags.index("--models") < flags.index("--runs") < flags.index("--encoder") < flags.index("--epochs")
    assert "(default: Cora)" in flat
    scale = get_recipe("ncnc").settings["Cora"]["scale"]
    assert f"factor of the logit. (default: {scale})" in flat
    assert not any("." in flag for flag in flags)  # no --config.hidden
    assert len(flags) == len(set(flags))


def test_every_flag_has_help(capsys):
    with pytest.raises(SystemExit):
        main(["run", "ncnc", "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    entries = " ".join(lines).split(" --")[1:]
    assert not [entry for entry in entries if "(default" in entry and len(entry.split("(default")[0].split()) < 3]


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["rum"], ["COMMAND", "did you mean 'run'"]),
        (["run", "ncncc"], ["did you mean 'ncnc'"]),
        (["run", "ncnc", "--dataset", "Croa"], ["did you mean 'Cora'"]),
        (["run", "ncnc", "--dataset"], ["--dataset"]),
        (["run", "ncnc", "--hiden", "3"], ["--hiden"]),
        (["run", "ncnc", "--hidden", "many"], ["many"]),
        (["run", "ncnc", "--runs", "0"], ["runs must be", "got 0"]),
        (["run", "ncnc", "--first-seed", "-1"], ["first_seed", "got -1"]),
        (["papers", "nccn"], ["did you mean 'ncnc'"]),
        (["papers", "--status", "finished"], ["status must be one of planned, started, done"]),
        (["datasets", "--rot", "x"], ["--rot"]),
        (["bench", "comon_neighbors"], ["did you mean 'common_neighbors'"]),
    ],
)
def test_mistakes(words, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = fails(words, capsys)
    assert all(part in text for part in parts), text


def test_a_misspelt_model_is_found_before_anything_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it trained"))
    text = fails(["run", "ncnc", "--fast", "--models", "NCN", "NCNCC", "--out", str(tmp_path)], capsys)
    assert "did you mean 'NCNC'" in text


@pytest.mark.parametrize("command", ["run", "report"])
def test_unwritable_folder(command, capsys, tmp_path, record_folder):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "below")
    words = [*RUN, "--out", place] if command == "run" else ["report", "--results", str(record_folder), "--out", place]
    text = fails(words, capsys)
    assert "cannot write" in text
    assert str(tmp_path / "file") in text


def test_debug_shows_the_traceback(capsys):
    assert main(["run", "ncnc", "--dataset", "Croa", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_report_without_records(capsys, tmp_path):
    assert "graphkit run ncnc --out" in fails(["report", "--results", str(tmp_path)], capsys)


# A smoke run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def record_folder(finished):
    return finished[0]


def test_record_of_a_run(finished):
    folder, _ = finished
    content = json.loads((folder / "ncnc" / "pyimports.json").read_text())
    assert content.keys() >= {
        *("key", "dataset", "protocol", "command", "commit", "created", "versions", "hardware", "rows"),
    }
    assert (content["key"], content["dataset"], content["fast"]) == ("ncnc", "pyimports", True)
    assert content["command"] == f"graphkit {' '.join(RUN)} --out {folder}"
    for row in content["rows"]:
        assert row.keys() == {
            *("model", "metric", "split", "values", "mean", "std", "reported"),
            *("parameters", "seconds", "peak_mb", "epoch_seconds"),
        }
        assert len(row["values"]) == len(content["seeds"]) == 1
        assert 0 <= row["mean"] <= 100
    assert {row["model"] for row in content["rows"]} == {"NCN", "CN"}
    assert {row["split"] for row in content["rows"]} == {"test", "valid"}
    learned, counted = (next(r for r in content["rows"] if r["model"] == name) for name in ("NCN", "CN"))
    assert learned["parameters"] > 0
    assert counted["parameters"] == 0
    assert Record.load(folder / "ncnc" / "pyimports.json").rows[0].model == "NCN"


def test_table_and_plot_of_a_run(finished):
    folder, printed = finished
    assert "ncnc on pyimports" in printed
    assert "NCN" in printed
    assert "Hits@100" in printed
    assert str(folder / "ncnc" / "pyimports.json") in printed
    assert (folder / "ncnc" / "pyimports.png").read_bytes().startswith(b"\x89PNG")


def test_resume_does_not_train_again(finished, monkeypatch, capsys):
    folder, _ = finished
    before = Record.load(folder / "ncnc" / "pyimports.json")
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it trained again"))
    assert main([*RUN, "--out", str(folder), "--resume"]) == 0
    after = Record.load(folder / "ncnc" / "pyimports.json")
    assert after.rows == before.rows
    assert after.curves == before.curves


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}"])
def test_a_broken_outcome_is_made_again(broken, finished, monkeypatch):
    folder, _ = finished
    outcome = folder / "ncnc" / "pyimports" / "CN" / "seed0" / "outcome.json"
    before = json.loads(outcome.read_text())["best"]
    outcome.write_text(broken)
    assert main([*RUN, "--out", str(folder), "--resume"]) == 0
    assert json.loads(outcome.read_text())["best"] == before


@pytest.mark.parametrize("place", ["dump", "fsync", "replace"])
def test_full_disk_leaves_the_earlier_record(place, finished, monkeypatch, capsys):
    folder, _ = finished
    path = folder / "ncnc" / "pyimports.json"
    before = path.read_bytes()
    real = {"dump": json.dump, "fsync": os.fsync, "replace": os.replace}[place]

    def full(*arguments, **options):
        if place == "fsync" and os.fstat(arguments[0]).st_size < 1000:
            return real(*arguments)  # the probe for a writable folder
        if place == "replace" and str(arguments[1]) != str(path):
            return real(*arguments)
        if place == "dump":
            arguments[1].write('{"key": "ncnc", ')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(json if place == "dump" else os, place, full)
    assert "No space left" in fails([*RUN, "--out", str(folder), "--resume"], capsys)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_smoke_run_does_not_replace_a_whole_run(finished, tmp_path, capsys, monkeypatch):
    record = Record.load(finished[0] / "ncnc" / "pyimports.json")
    record.fast = False
    before = record.save(tmp_path).read_bytes()
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it trained"))
    assert "--fast would replace it" in fails([*RUN, "--out", str(tmp_path)], capsys)
    assert (tmp_path / "ncnc" / "pyimports.json").read_bytes() == before


def test_report_of_a_run(finished, tmp_path, capsys):
    assert main(["report", "--results", str(finished[0]), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "ncnc on pyimports" in text
    assert "smoke run" in text


# Tables --------------------------------------------------------------------------------------------------------------


def test_papers(capsys):
    assert main(["papers"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 120
    assert "…" not in out
    assert {paper.key for paper in papers()} <= {line.split()[0] for line in lines if line.strip()}
    words = out.split()
    assert all(word in words for paper in papers() for word in paper.title.split() if "-" not in word)


def test_papers_of_a_status(capsys):
    assert main(["papers", "--status", "planned"]) == 0
    assert " done " not in capsys.readouterr().out.split("\n\n")[0]


def test_one_paper(capsys):
    assert main(["papers", "ncnc"]) == 0
    out = capsys.readouterr().out
    assert "graphkit.nn.NCNCDecoder" in out
    assert "graphkit run ncnc" in out


def test_papers_with_results(finished, tmp_path, capsys):
    record = Record.load(finished[0] / "ncnc" / "pyimports.json")
    row = record.main_rows()[0]
    row.reported = {"mean": 12.34, "std": 0.56, "source": "a table"}
    record.save(tmp_path)
    assert main(["papers", "--results", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{row.mean:.2f}" in out
    assert "12.34 ± 0.56" in out
    assert "1 of 68 papers" in out


def test_papers_without_results(tmp_path, capsys):
    assert main(["papers", "--results", "--folder", str(tmp_path)]) == 0
    assert "graphkit run ncnc --out" in " ".join(capsys.readouterr().out.split())


def test_datasets(tmp_path, capsys):
    assert main(["datasets", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    table, summary = out.split("\n\n")
    lines = {line.split()[0]: line.split() for line in table.splitlines()}
    assert max(map(len, table.splitlines())) <= 120
    assert {facts.name for facts, _ in available()} <= lines.keys()
    assert lines["pyimports"][-1] == "yes"
    assert lines["Cora"][-1] == "no"
    assert str(tmp_path) in summary
    assert "GRAPHKIT_ROOT" in summary


def test_reader_that_stops_early():
    """``graphkit papers | head -1`` ends without a complaint."""
    command = f"{sys.executable} -m graphkit.cli papers | head -1"
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert made.stdout.startswith("key")
    assert made.stderr == ""
