"""Two processes that share every batch train the same model as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
import torch

from graphkit.train import LinkPredictionTask, Trainer

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or sys.platform == "win32",
    reason="needs gloo and fork",
)

LIMIT = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(function, folder: Path, *arguments, world: int = 2, **options) -> list[int]:
    """Run ``function(folder / rank, ...)`` as torchrun would start it, without its seconds; the exit codes."""
    port = free_port()
    processes = []
    for rank in range(world):
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "GROUP_WORLD_SIZE": 1,
            "GROUP_RANK": 0,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "test",
        }
        process = small_runs.server().Process(
            target=as_rank, args=(variables, function, folder / f"rank{rank}", *arguments), kwargs=options
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join(LIMIT)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "a process hangs"
    return [process.exitcode for process in processes]


def as_rank(variables, function, *arguments, **options):
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    function(*arguments, **options)


def train(folder: Path, report: Path, steps: int | None = None, decoder: str = "NCN", **options):
    """Train without dropout; ``report`` gets the outcome of every rank."""
    task = LinkPredictionTask(small_runs.small_split(), options.pop("batch_size", 47), ("MRR", "AUC"))
    model = small_runs.small_model(task, decoder, dropout=0.0)
    if decoder == "NCNC":
        model.decoder.max_neighbors = (None, None)
    if steps is not None:
        task.num_batches = lambda: steps  # type: ignore[method-assign]
    trainer = Trainer(options.pop("max_epochs", 2), device="cpu", progress=False, folder=folder, **options)
    result = trainer.fit(model, task, torch.optim.SGD(model.parameters(), lr=0.1))
    torch.save(
        {"weights": model.state_dict(), "history": result.history, "best": result.best, "draw": torch.rand(1)},
        f"{report}{trainer.fabric.global_rank}",
    )


def loaded(report: str) -> dict:
    return torch.load(report, weights_only=True)


@pytest.mark.parametrize(
    ("decoder", "batch_size"), [("NCN", 47), ("NCNC", 47), ("NCN", 1)], ids=["odd batch", "completion", "empty share"]
)
def test_weights_and_losses_are_those_of_one_process(tmp_path, decoder, batch_size):
    # Three steps, since rounding grows with their number.
    options = {"steps": 3, "decoder": decoder, "batch_size": batch_size, "max_epochs": 1}
    assert together(train, tmp_path / "two", tmp_path / "two_", **options) == [0, 0]
    train(tmp_path / "one", tmp_path / "one_", **options)
    one, two = loaded(tmp_path / "one_0"), [loaded(tmp_path / f"two_{rank}") for rank in range(2)]
    untrained = small_runs.small_model(
        LinkPredictionTask(small_runs.small_split(), 47, ("MRR",)), decoder, dropout=0.0
    ).state_dict()
    for name, weight in one["weights"].items():
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name])
        assert torch.allclose(two[0]["weights"][name], weight, atol=1e-5, rtol=1e-4), name
    assert any(not torch.allclose(weight, untrained[name], atol=1e-3) for name, weight in one["weights"].items())
    assert two[0]["history"][0]["loss"] == pytest.approx(one["history"][0]["loss"], rel=1e-5)
    assert two[0]["history"][0]["valid/MRR"] == pytest.approx(one["history"][0]["valid/MRR"], rel=1e-2)
    assert two[0]["best"] == two[1]["best"]
    assert not torch.equal(two[0]["draw"], two[1]["draw"])  # dropout differs between ranks


def test_only_the_first_process_writes_and_needs_the_folder_to_resume(tmp_path):
    whole = together(train, tmp_path / "whole", tmp_path / "whole_", max_epochs=3)
    first = together(train, tmp_path / "parts", tmp_path / "part_", max_epochs=1)
    assert not (tmp_path / "parts" / "rank1").exists()
    second = together(train, tmp_path / "parts", tmp_path / "parts_", max_epochs=3, resume=True)
    assert whole == first == second == [0, 0]
    assert sorted(path.name for path in (tmp_path / "parts" / "rank0").iterdir()) == ["checkpoint.pt", "history.csv"]
    assert not (tmp_path / "parts" / "rank1").exists()
    for rank in range(2):
        expected, found = loaded(tmp_path / f"whole_{rank}"), loaded(tmp_path / f"parts_{rank}")
        for name, weight in expected["weights"].items():
            assert torch.equal(found["weights"][name], weight)
        assert found["best"] == expected["best"]
        assert len(found["history"]) == 3


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path):
    train(tmp_path / "two" / "rank0", tmp_path / "one_")
    codes = together(train, tmp_path / "two", tmp_path / "two_", resume=True)
    assert all(code != 0 for code in codes)
    assert not (tmp_path / "two_0").exists()


class Failing(LinkPredictionTask):
    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if self.rank == 1:
            if self._how == "raise":
                raise RuntimeError("only this process fails")
            loss = loss * float("nan")
        return loss


def fail(folder: Path, how: str) -> None:
    task = Failing(small_runs.small_split(), 47, ("MRR",))
    task._how = how
    model = small_runs.small_model(task, "NCN")
    trainer = Trainer(5, device="cpu", progress=False, folder=folder)
    try:
        trainer.fit(model, task, torch.optim.Adam(model.parameters()))
    except ValueError as error:
        folder.parent.mkdir(exist_ok=True)
        (folder.parent / f"message{trainer.fabric.global_rank}").write_text(str(error))
        raise


def test_an_exception_in_one_process_ends_the_other(tmp_path):
    assert all(code not in (0, None) for code in together(fail, tmp_path, "raise"))


def test_nan_in_one_process_stops_both_with_the_same_message(tmp_path):
    assert together(fail, tmp_path, "nan") == [1, 1]
    messages = [(tmp_path / f"message{rank}").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "in epoch 1" in messages[0]
    assert not (tmp_path / "rank0" / "checkpoint.pt").exists()


class Disagreeing(LinkPredictionTask):
    """Validation values that differ from rank to rank, as sums on GPUs may."""

    def evaluate(self, model, split):
        self._seen = getattr(self, "_seen", 0) + 1
        return {"MRR": float(self._seen if self.rank == 0 else -self._seen)}


def disagree(folder: Path, report: Path) -> None:
    task = Disagreeing(small_runs.small_split(), 47, ("MRR",))
    model = small_runs.small_model(task, "NCN")
    result = Trainer(5, device="cpu", progress=False, patience=2).fit(model, task, torch.optim.Adam(model.parameters()))
    torch.save(result.best, f"{report}{task.rank}")


def test_ranks_that_disagree_stop_together(tmp_path):
    # Left to itself the second rank would stop after three epochs and the first would wait for it.
    assert together(disagree, tmp_path, tmp_path / "report") == [0, 0]
    assert loaded(tmp_path / "report0") == loaded(tmp_path / "report1")


def test_torchrun_trains_through_the_command_line(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "graphkit.cli", "run", "ncnc", "--models", "NCNC", "CN", "--fast", "--epochs", "1", "--hidden", "8"]
    words += ["--device", "cpu", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=4 * LIMIT, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ncnc on pyimports: test") == 1, done.stdout
    assert done.stdout.count("record ") == 1
    record = json.loads((tmp_path / "out" / "ncnc" / "pyimports.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"NCNC", "CN"}
    leftovers = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(leftovers) == sorted(
        ["pyimports.json", "pyimports.png", "outcome.json", "outcome.json", "checkpoint.pt", "history.csv"]
    )
