"""Runs on streams that are killed and resumed, and runs of several processes: weights, metrics and states."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import small_runs
import torch
from test_ddp import together
from test_resume import assert_same, finish, outcome, start
from torch import nn

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.synthetic import repeat_purchase_stream
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.nn import NAT, MemoryDGNN, PredictCorrectFilter
from graphkit.train import Trainer
from graphkit.train.tasks.temporal_link_prediction import TemporalLinkPredictionTask
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator
from graphkit.utils.seed import seed_everything

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and fork")

EPOCHS = 3
STREAM = repeat_purchase_stream(30, 20, 240, msg_dim=2)
SPLIT = EventSplit.make(STREAM)


class CountingTask(small_runs.Counting, TemporalLinkPredictionTask):
    pass


def make_task(batch_size: int = 24) -> CountingTask:
    stored = StoredNegatives.make(STREAM, torch.cat([SPLIT.valid, SPLIT.test]), 5, SPLIT.train)
    evaluators = TemporalLinkEvaluator(batch_size=20), TemporalLinkEvaluator("mrr", stored, 20)
    return CountingTask(STREAM, SPLIT, batch_size, None, *evaluators)


def make_model(kind: str, dropout: float = 0.2) -> nn.Module:
    seed_everything(0)
    nodes = STREAM.num_nodes
    if kind == "JODIE":
        return MemoryDGNN(nodes, 2, "jodie", 6, 4, 6, aggr="mean")
    if kind == "NAT":
        return NAT(nodes, 2, self_dim=6, rep_dim=3, cache_sizes=(4, 2), pos_dim=4, dropout=dropout, replace_prob=0.5)
    pres = PredictCorrectFilter(nodes, 6) if kind == "TGN+PRES" else None
    return MemoryDGNN(nodes, 2, "tgn", 6, 4, 6, 3, dropout=dropout, pres=pres)


def train(folder: Path, report: Path | None, kind: str, kill: tuple[str, int] = ("", 0), **options) -> None:
    """As :func:`small_runs.train`, on a stream."""
    torch.set_num_threads(1)
    save = small_runs.dies_at(*kill)
    task, model = make_task(), make_model(kind)
    task._kill = kill
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer = Trainer(options.pop("max_epochs", EPOCHS), device="cpu", progress=False, folder=folder, **options)
    result = trainer.fit(model, task, optimizer)
    if report is not None:
        # state_dict holds the state, too.
        assert {name for name, _ in model.named_state()} <= model.state_dict().keys()
        save({"best": result.best, "history": result.history, "weights": model.state_dict()}, report)
        Path(f"{report}.csv").write_bytes((folder / "history.csv").read_bytes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Outcomes of runs that were left alone."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in ("NAT", "TGN+PRES"):
        assert finish(start(train, folder / kind, folder / f"{kind}.pt", kind)) == 0
    return {kind: outcome(folder / f"{kind}.pt") for kind in ("NAT", "TGN+PRES")}


def test_the_runs_compared_here_do_what_they_should(whole):
    for kind, found in whole.items():
        assert len(found["history"]) == EPOCHS
        assert "MRR" in found["best"]
        assert int(found["weights"]["next_event"]) == SPLIT.valid_stop
        untrained = make_model(kind).state_dict()
        changed = [name for name, value in found["weights"].items() if not torch.equal(value, untrained[name])]
        assert len(changed) > 0.8 * len(untrained), set(untrained) - set(changed)


@pytest.mark.parametrize("kind", ["NAT", "TGN+PRES"])
def test_killed_in_an_epoch_an_evaluation_and_a_checkpoint(tmp_path, whole, kind):
    folder, report = tmp_path / "run", tmp_path / "report.pt"
    # Each goes on from what the one before has left; the last dies in the evaluation after the last epoch.
    for kill in (("step", 4), ("write", 2), ("evaluate", 1), ("step", 5), ("replace", 1), ("evaluate", 2)):
        assert finish(start(train, folder, report, kind, kill, resume=True)) == -signal.SIGKILL, kill
        assert not report.exists()
    assert finish(start(train, folder, report, kind, resume=True)) == 0
    assert_same(outcome(report), whole[kind])
    assert not list(folder.glob(".*.tmp"))


def test_a_finished_run_and_more_epochs(tmp_path, whole):
    folder, report, longer = tmp_path / "run", tmp_path / "report.pt", tmp_path / "longer.pt"
    assert finish(start(train, folder, None, "NAT", max_epochs=1)) == 0
    assert finish(start(train, folder, report, "NAT", resume=True)) == 0
    assert_same(outcome(report), whole["NAT"])
    # The first step would kill it.
    assert finish(start(train, folder, longer, "NAT", ("step", 1), resume=True)) == 0
    assert_same(outcome(longer), whole["NAT"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 12}, r"task\.batch_size: 24 there, 12 here"),
        ({"dropout": 0.3}, r"dropout\.p: 0\.2 there, 0\.3 here"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, changes, named):
    def fit(batch_size: int = 24, dropout: float = 0.2):
        model, task = make_model("NAT", dropout), make_task(batch_size)
        trainer = Trainer(1, device="cpu", progress=False, folder=tmp_path, resume=True)
        return trainer.fit(model, task, torch.optim.Adam(model.parameters(), 0.01))

    fit()
    with pytest.raises(ValueError, match=named):
        fit(**changes)


# Several processes ---------------------------------------------------------------------------------------------------


def share(folder: Path, report: Path, kind: str, batch_size: int = 24) -> None:
    """Train without dropout; ``report`` gets the outcome of every rank."""
    task, model = make_task(batch_size), make_model(kind, dropout=0.0)
    # The coherence loss is a mean over what each process reads, and so its own.
    model.beta = 0.0
    trainer = Trainer(2, device="cpu", progress=False, folder=folder)
    result = trainer.fit(model, task, torch.optim.SGD(model.parameters(), 0.1))
    saved = {"weights": model.state_dict(), "best": result.best, "history": result.history}
    torch.save(saved, f"{report}{trainer.fabric.global_rank}")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize(("kind", "batch_size"), [("TGN", 24), ("TGN+PRES", 23), ("JODIE", 24), ("NAT", 167)])
def test_two_processes_train_as_one(tmp_path, kind, batch_size):
    """One model has weights that no loss reaches; 168 events leave a batch of one, of which a process has no share."""
    assert len(SPLIT.train) == 168
    assert together(share, tmp_path / "two", tmp_path / "two_", kind, batch_size) == [0, 0]
    share(tmp_path / "one", tmp_path / "one_", kind, batch_size)
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("one_0", "two_0", "two_1"))
    for name, value in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, atol=1e-3, rtol=1e-3)
    assert first["best"] == second["best"]
    for row, wanted in zip(first["history"], one["history"], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert row["valid/AP"] == pytest.approx(wanted["valid/AP"], abs=1)
