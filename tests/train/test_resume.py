"""A run that is killed at any moment and resumed ends bit for bit like one that was not."""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import small_runs
import torch

from graphkit.train import Trainer
from graphkit.utils.io import load_tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and fork")

LIMIT = 60


def start(function, *arguments, **options):
    process = small_runs.server().Process(target=function, args=arguments, kwargs=options)
    process.start()
    return process


def finish(process) -> int:
    process.join(LIMIT)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def outcome(report: Path) -> dict:
    found = torch.load(report, weights_only=True)
    for row in found["history"]:
        row.pop("seconds")
    with open(f"{report}.csv", newline="") as file:
        found["csv"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return found


def assert_same(found: dict, expected: dict) -> None:
    assert found["best"] == expected["best"]
    assert found["history"] == expected["history"]
    assert found["csv"] == expected["csv"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name


OPTIONS = {
    "plain": {},
    "sparse evaluation": {"eval_every": 3, "max_epochs": 7},
    "early stop": {"patience": 3, "max_epochs": 40},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Outcomes of runs that were left alone."""
    folder = tmp_path_factory.mktemp("whole")
    processes = {
        name: start(small_runs.train, folder / name, folder / f"{name}.pt", **options)
        for name, options in OPTIONS.items()
    }
    assert all(finish(process) == 0 for process in processes.values())
    return {name: outcome(folder / f"{name}.pt") for name in OPTIONS}


def test_the_runs_compared_here_do_what_they_should(whole):
    assert len(whole["plain"]["history"]) == 6
    assert [row["epoch"] for row in whole["sparse evaluation"]["history"] if "valid/MRR" in row] == [3, 6, 7]
    assert 5 <= len(whole["early stop"]["history"]) < 40
    assert len({row["loss"] for row in whole["plain"]["history"]}) == 6


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 3), ("step", 20)],  # in the first epoch, then in a later one
        [("evaluate", 3), ("evaluate", 1)],
        [("write", 1), ("write", 2), ("write", 2)],  # half a checkpoint written
        [("replace", 2), ("replace", 1)],  # written, not yet moved
        [("history", 3), ("history", 2)],  # between checkpoint and history
    ],
    ids=lambda kills: kills[0][0],
)
@pytest.mark.parametrize("name", ["plain", "early stop"])
def test_killed_at_a_known_place(tmp_path, whole, kills, name):
    folder, report = tmp_path / "run", tmp_path / "report.pt"
    for kill in kills:
        process = start(small_runs.train, folder, report, kill, resume=True, **OPTIONS[name])
        assert finish(process) == -signal.SIGKILL
        assert not report.exists()
    assert finish(start(small_runs.train, folder, report, resume=True, **OPTIONS[name])) == 0
    assert_same(outcome(report), whole[name])
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("name", list(OPTIONS))
def test_killed_at_random_times(tmp_path, whole, name):
    folder, report, draw = tmp_path / "run", tmp_path / "report.pt", random.Random(name)
    folder.mkdir()
    killed = 0
    for _ in range(4):
        (folder / "started").unlink(missing_ok=True)
        process = start(small_runs.train, folder, report, resume=True, **OPTIONS[name])
        deadline = time.monotonic() + LIMIT
        while not (folder / "started").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        killed += finish(process) == -signal.SIGKILL
    assert killed > 0
    assert finish(start(small_runs.train, folder, report, resume=True, **OPTIONS[name])) == 0
    assert_same(outcome(report), whole[name])


@pytest.fixture
def finished(tmp_path, whole):
    folder = tmp_path / "run"
    assert finish(start(small_runs.train, folder, None)) == 0
    return folder


def test_a_finished_run_is_read_not_repeated(tmp_path, finished, whole):
    report, before = tmp_path / "report.pt", (finished / "checkpoint.pt").read_bytes()
    # The first step would kill it.
    assert finish(start(small_runs.train, finished, report, ("step", 1), resume=True)) == 0
    assert_same(outcome(report), whole["plain"])
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_history_that_was_lost_comes_back(tmp_path, finished, whole):
    (finished / "history.csv").unlink()
    assert finish(start(small_runs.train, finished, tmp_path / "report.pt", resume=True)) == 0
    assert_same(outcome(tmp_path / "report.pt"), whole["plain"])


def test_more_epochs_continue_the_run(tmp_path, finished, whole):
    report, longer = tmp_path / "report.pt", tmp_path / "longer.pt"
    assert finish(start(small_runs.train, finished, report, resume=True, max_epochs=9)) == 0
    assert finish(start(small_runs.train, tmp_path / "longer", longer, max_epochs=9)) == 0
    assert_same(outcome(report), outcome(longer))
    assert len(outcome(report)["history"]) == 9


def test_events_survive_a_kill_and_are_not_doubled(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps():
        events = EventAccumulator(str(tmp_path / "run"))
        events.Reload()
        return [event.step for event in events.Scalars("loss")]

    # Logged, but not yet in the checkpoint: this epoch comes again.
    process = start(small_runs.train, tmp_path / "run", None, ("replace", 3), tensorboard=True)
    assert finish(process) == -signal.SIGKILL
    assert steps() == [1, 2, 3]
    assert finish(start(small_runs.train, tmp_path / "run", None, tensorboard=True, resume=True)) == 0
    assert steps() == [1, 2, 3, 4, 5, 6]


# Checkpoints that must be refused, in this process ------------------------------------------------------------------


def make(folder: Path, **changes):
    """A trained folder's trainer, model, task and optimizer, with changes."""
    split = small_runs.small_split(changes.pop("split_seed", 0))
    task = small_runs.LinkPredictionTask(split, changes.pop("batch_size", 48), ("Hits@20", "MRR"), seed=0)
    kind, dropout, lr = changes.pop("decoder", "NCN"), changes.pop("dropout", 0.1), changes.pop("lr", 0.01)
    model = small_runs.small_model(task, kind, dropout)
    settings = {"max_epochs": 2, "device": "cpu", "progress": False, "folder": folder, "resume": True, **changes}
    return Trainer(**settings), model, task, torch.optim.Adam(model.parameters(), lr=lr)


def fit(folder: Path, **changes):
    trainer, *parts = make(folder, **changes)
    return trainer.fit(*parts)


@pytest.fixture
def trained(tmp_path):
    fit(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, r"trainer\.seed: 0 there, 1 here"),
        ({"patience": 3}, r"trainer\.patience: None there, 3 here"),
        ({"clip_grad_norm": 0.5}, r"trainer\.clip_grad_norm"),
        ({"eval_every": 2}, r"trainer\.eval_every"),
        ({"precision": "64-true"}, r"trainer\.precision"),
        ({"lr": 0.02}, r"optimizer\.groups\.0\.lr: 0\.01 there, 0\.02 here"),
        ({"dropout": 0.3}, r"model\.encoder\.dropout: 0\.1 there, 0\.3 here"),
        ({"decoder": "NCNC"}, r"model\.decoder: NCNDecoder there, NCNCDecoder here"),
        ({"batch_size": 32}, r"task\.batch_size: 48 there, 32 here"),
        ({"split_seed": 1}, r"task\.split\.train_edge_index"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(trained, changes, named):
    before = (trained / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=named) as caught:
        fit(trained, max_epochs=3, **changes)
    assert "checkpoint.pt" in str(caught.value)
    assert "another folder" in str(caught.value)
    assert (trained / "checkpoint.pt").read_bytes() == before


def test_fewer_epochs_than_the_checkpoint_has_are_refused(trained):
    with pytest.raises(ValueError, match="2 epochs, more than max_epochs=1"):
        fit(trained, max_epochs=1)


def test_an_evaluation_out_of_turn_is_refused(tmp_path):
    fit(tmp_path, max_epochs=3, eval_every=2)  # the last epoch was evaluated because it was the last
    with pytest.raises(ValueError, match="eval_every=2"):
        fit(tmp_path, max_epochs=4, eval_every=2)


def test_the_same_settings_are_accepted(trained):
    assert [row["epoch"] for row in fit(trained, max_epochs=3).history] == [1, 2, 3]


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICIOUS_FOLDER"],)


@pytest.mark.parametrize("kind", ["truncated", "random", "empty", "bit flipped", "pickle", "zipped pickle", "other"])
def test_a_damaged_checkpoint_is_refused(trained, monkeypatch, kind):
    path, proof = trained / "checkpoint.pt", trained / "executed"
    monkeypatch.setenv("MALICIOUS_FOLDER", str(proof))
    whole = path.read_bytes()
    middle = len(whole) // 2
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    elif kind == "zipped pickle":
        torch.save({"epoch": 1, "settings": Malicious()}, path)
    elif kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        random_bytes = random.Random(0).randbytes(5000)
        content = {"truncated": whole[:middle], "random": random_bytes, "empty": b"", "bit flipped": flipped}
        path.write_bytes(content[kind])
    written = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*(delete it|run without resume)"):
        fit(trained)
    assert not proof.exists()
    assert path.read_bytes() == written
    fit(trained, resume=False)
    assert load_tensors(path)["epoch"] == 2


def test_the_malicious_object_above_would_run_if_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("MALICIOUS_FOLDER", str(tmp_path / "executed"))
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "executed").exists()


# The runner ----------------------------------------------------------------------------------------------------------


def record(folder: Path) -> dict:
    content = json.loads((folder / "ncnc" / "pyimports.json").read_text())
    for row in content["rows"]:
        row.pop("seconds"), row.pop("peak_mb"), row.pop("epoch_seconds", None)
    curves = {
        model: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        for model, rows in content["curves"].items()
    }
    return {"rows": content["rows"], "curves": curves, "histograms": content["histograms"]}


def test_a_killed_command_resumes_between_models_and_within_one(tmp_path):
    words = [
        "run",
        "ncnc",
        "--models",
        "NCN",
        "GAE",
        "--fast",
        "--epochs",
        "5",
        "--hidden",
        "8",
        "--device",
        "cpu",
        "--quiet",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seeds = killed / "ncnc" / "pyimports"
    other = start(small_runs.command_line, [*words, "--out", str(whole)], tmp_path / "whole.log")
    # First while the first model trains, then as soon as the second one has begun.
    for awaited in ("NCN/seed0/checkpoint.pt", "GAE/seed0/checkpoint.pt"):
        again = [*words, "--out", str(killed), "--resume"]
        process = start(small_runs.command_line, again, tmp_path / "killed.log")
        deadline = time.monotonic() + LIMIT
        while not (seeds / awaited).exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        assert finish(process) == -signal.SIGKILL, (tmp_path / "killed.log").read_text()
        assert not (killed / "ncnc" / "pyimports.json").exists()
    assert (seeds / "NCN" / "seed0" / "outcome.json").exists()
    again = [*words, "--out", str(killed), "--resume"]
    assert finish(start(small_runs.command_line, again, tmp_path / "last.log")) == 0, (
        tmp_path / "last.log"
    ).read_text()
    assert finish(other) == 0
    assert record(killed) == record(whole)
