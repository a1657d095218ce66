"""The training loop: which epoch is chosen, what is kept, and what is refused."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from torch import nn

from graphkit.nn import GNN, LinkHeuristic, LinkPredictor, NCNCDecoder, NCNDecoder, PureGNN
from graphkit.train import Experiment, LinkPredictionTask, Task, Trainer, make_fabric
from graphkit.utils.io import load_tensors


class Scripted(Task):
    """One weight is moved by a known amount a step; validation values are read from a script, an epoch each."""

    monitor = "A"

    def __init__(self, script: dict[str, list[float]], steps: int = 2) -> None:
        self._script, self._steps = script, steps
        self._epoch = 0
        self._asked: list[tuple[int, str]] = []

    def num_batches(self):
        return self._steps

    def batches(self, epoch):
        self._epoch = epoch
        yield from range(self._steps)

    def loss(self, model, batch):
        return model(torch.ones(1, 1)).sum()

    def evaluate(self, model, split):
        model.eval()
        self._asked.append((self._epoch, split))
        values = {name: row[self._epoch - 1] for name, row in self._script.items()}
        return values if split == "valid" else {name: 100 * self._epoch + i for i, name in enumerate(values)}

    def to(self, device):
        return self


class Weight(nn.Linear):
    """The gradient of the weight is 1, so that it tells how many steps of SGD were taken."""

    def __init__(self):
        super().__init__(1, 1, bias=False)
        nn.init.zeros_(self.weight)


def fit(script, steps=2, folder=None, model=None, **options):
    task = Scripted(script, steps)
    model = model or Weight()
    options = {"max_epochs": len(next(iter(script.values()))), "device": "cpu", "progress": False, **options}
    result = Trainer(folder=folder, **options).fit(model, task, torch.optim.SGD(model.parameters(), lr=1.0))
    return result, model, task


# Which epoch is chosen -----------------------------------------------------------------------------------------------


def test_best_epoch_of_each_metric_and_the_weights_of_the_monitored_one():
    result, model, _ = fit({"A": [1, 3, 2, 2.5], "B": [5, 1, 7, 6]})
    assert result.best["A"] == {"epoch": 2, "valid": 3, "test": 200}
    assert result.best["B"] == {"epoch": 3, "valid": 7, "test": 301}
    assert result.test("B") == 301
    assert model.weight.item() == -4  # two steps in each of two epochs
    assert not model.training


def test_of_equal_epochs_the_first_counts():
    result, model, _ = fit({"A": [1, 2, 2, 2]})
    assert result.best["A"]["epoch"] == 2
    assert model.weight.item() == -4


def test_of_equal_epochs_the_last_counts_if_asked_for():
    result, model, task = fit({"A": [2, 1, 2, 1, 1, 1]}, ties="last", patience=2)
    assert result.best["A"] == {"epoch": 3, "valid": 2, "test": 300}
    assert model.weight.item() == -6
    assert len(result.history) == 5  # the tie counts as an improvement
    assert [epoch for epoch, split in task._asked if split == "test"] == [1, 3]


def test_ties_are_part_of_what_a_resumed_run_must_share(tmp_path):
    fit({"A": [1, 2, 3]}, folder=tmp_path, max_epochs=2)
    with pytest.raises(ValueError, match="ties"):
        fit({"A": [1, 2, 3]}, folder=tmp_path, resume=True, ties="last")


def test_test_is_scored_only_at_a_new_best():
    _, _, task = fit({"A": [2, 1, 3, 3, 2], "B": [1, 1, 1, 1, 9]})
    assert [epoch for epoch, split in task._asked if split == "test"] == [1, 3, 5]
    assert [epoch for epoch, split in task._asked if split == "valid"] == [1, 2, 3, 4, 5]


def test_eval_every_and_always_the_last_epoch():
    result, _, task = fit({"A": [9, 1, 9, 3, 2]}, eval_every=2)
    assert [epoch for epoch, split in task._asked if split == "valid"] == [2, 4, 5]
    assert result.best["A"]["epoch"] == 4
    assert ["valid/A" in row for row in result.history] == [False, True, False, True, True]


def test_of_a_metric_of_errors_the_lowest_value_is_the_best():
    task = Scripted({"A": [3, 1, 2], "B": [3, 1, 2]})
    task.lower_is_better = ("A",)
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = Trainer(3, device="cpu", progress=False).fit(model, task, optimizer)
    assert (result.best["A"]["epoch"], result.best["B"]["epoch"]) == (2, 1)
    assert model.weight.item() == -4


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (None, 8)])
def test_patience_counts_evaluations_without_a_better_monitor(patience, epochs):
    # B improves all the time and does not matter.
    script = {"A": [1, 2, 2, 3, 1, 1, 1, 1], "B": list(range(8))}
    result, _, _ = fit(script, patience=patience)
    assert len(result.history) == epochs


def test_patience_with_eval_every():
    result, _, _ = fit({"A": [5, 4, 3, 2, 1, 0, 0, 0]}, patience=2, eval_every=2)
    assert len(result.history) == 6  # evaluated at 2 (best), 4 and 6


def test_patience_is_counted_over_a_resume(tmp_path):
    falling = [5, 4, 3, 2, 1, 0, 0, 0, 0, 0]
    fit({"A": falling}, folder=tmp_path, patience=4, max_epochs=3)
    result, model, _ = fit({"A": falling}, folder=tmp_path, patience=4, max_epochs=10, resume=True)
    assert len(result.history) == 5
    assert result.best["A"]["epoch"] == 1
    assert model.weight.item() == -2
    assert fit({"A": falling}, folder=tmp_path, patience=4, max_epochs=10, resume=True)[0].history == result.history


def test_no_epochs_only_evaluates():
    model = Weight()
    task = Scripted({"A": [4.0]})
    for optimizer in (None, torch.optim.SGD(model.parameters(), lr=1.0)):
        task._epoch = 1
        result = Trainer(0, device="cpu", progress=False).fit(model, task, optimizer)
        assert result.best == {"A": {"epoch": 0, "valid": 4.0, "test": 100}}
        assert result.history == []
        assert model.weight.item() == 0
        assert not model.training


# Loss, gradients, numbers --------------------------------------------------------------------------------------------


class Parabola(Scripted):
    def __init__(self, losses):
        super().__init__({"A": [float(i) for i in range(9)]}, steps=1)
        self._losses = losses

    def loss(self, model, batch):
        return self._losses[self._epoch - 1](model.weight.sum())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda w: w * math.nan, "the loss became nan in epoch 3"),
        (lambda w: w * 0 + math.inf, "the loss became inf in epoch 3"),
        # The loss is 0 and its slope infinite: only the weights show it.
        (lambda w: (w - w.detach()).abs().sqrt(), "weights became NaN or infinite in epoch 3"),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_numbers_that_are_not_finite_stop_the_run_and_leave_the_checkpoint(tmp_path, bad, message):
    def good(w):
        return w * 1.0

    model = Weight()
    trainer = Trainer(5, device="cpu", progress=False, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        trainer.fit(model, Parabola([good, good, bad, good, good]), torch.optim.SGD(model.parameters(), lr=1.0))
    saved = load_tensors(tmp_path / "checkpoint.pt")
    assert saved["epoch"] == 2
    assert float(saved["model"]["weight"]) == -2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_metric_that_is_not_finite_is_an_error(tmp_path, value):
    with pytest.raises(ValueError, match="valid A is"):
        fit({"A": [1.0, value, 3.0]}, folder=tmp_path)
    assert load_tensors(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_a_monitor_that_is_not_evaluated_is_an_error():
    with pytest.raises(ValueError, match=r"task.monitor must be one of the metrics B \(got 'A'\)"):
        fit({"B": [1.0]})


def test_a_task_without_batches_is_an_error():
    with pytest.raises(ValueError, match="no batch in epoch 1"):
        fit({"A": [1.0]}, steps=0)


def test_gradients_are_clipped_in_each_group_by_itself():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Weight(), Weight()

        def forward(self, x):
            return 30 * self.a(x) + 0.1 * self.b(x)

    model = Pair()
    optimizer = torch.optim.SGD([{"params": model.a.parameters()}, {"params": model.b.parameters()}], lr=1.0)
    trainer = Trainer(1, device="cpu", progress=False, clip_grad_norm=2.0)
    trainer.fit(model, Scripted({"A": [1.0]}, steps=1), optimizer)
    assert model.a.weight.item() == pytest.approx(-2.0, rel=1e-5)
    assert model.b.weight.item() == pytest.approx(-0.1, rel=1e-5)  # one norm for both would have shrunk this too


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps():
    result, _, _ = fit({"A": [1.0, 2.0]}, steps=3)
    assert [row["loss"] for row in result.history] == [-1.0, -4.0]  # weights 0, -1, -2, then -3, -4, -5


def test_random_numbers_follow_from_the_seed_alone():
    def run(seed, before):
        torch.manual_seed(before)
        np.random.seed(before)  # noqa: NPY002
        task = LinkPredictionTask(small_runs.small_split(), 48, ("MRR",))
        model = small_runs.small_model(task)
        torch.rand(before)
        result = Trainer(2, device="cpu", progress=False, seed=seed).fit(
            model, task, torch.optim.Adam(model.parameters())
        )
        return [(row["loss"], row["valid/MRR"]) for row in result.history], torch.rand(3)

    (first, after), (second, after_second), (other, _) = run(0, 1), run(0, 5), run(1, 1)
    assert first == second
    assert torch.equal(after, after_second)
    assert first != other


# Files ---------------------------------------------------------------------------------------------------------------


def test_history_has_a_row_an_epoch(tmp_path):
    result, _, _ = fit({"A": [1.0, 3.0, 2.0]}, folder=tmp_path, eval_every=2)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["valid/A"] for row in rows] == ["", "3.0", "2.0"]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in result.history]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "history.csv"]


def test_values_of_other_libraries_can_be_saved_and_read_back(tmp_path):
    values = [np.float64(1.5), torch.tensor(2.5), np.float32(3.5)]
    fit({"A": values}, folder=tmp_path)
    result, _, _ = fit({"A": [*values, 9]}, folder=tmp_path, resume=True)
    assert [row["valid/A"] for row in result.history] == [1.5, 2.5, 3.5, 9.0]


def test_state_that_is_no_tensor_is_kept(tmp_path):
    class Noted(Weight):
        _note = ("fresh",)

        def get_extra_state(self):
            return {"note": list(self._note)}

        def set_extra_state(self, state):
            self._note = state["note"]

    model = Noted()
    model._note = ["trained"]
    fit({"A": [1.0]}, folder=tmp_path, model=model)
    again = Noted()
    fit({"A": [1.0]}, folder=tmp_path, model=again, resume=True)
    assert again._note == ["trained"]


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, _, _ = fit({"A": [1.0, 3.0]}, folder=tmp_path, tensorboard=True)
    fit({"A": [1.0, 3.0, 2.0]}, folder=tmp_path, tensorboard=True, resume=True)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("valid/A")] == [(1, 1.0), (2, 3.0), (3, 2.0)]
    assert [event.value for event in events.Scalars("loss")][:2] == [row["loss"] for row in result.history]


def test_no_events_unless_asked_for(tmp_path):
    fit({"A": [1.0]}, folder=tmp_path)
    assert not list(tmp_path.glob("events*"))


def test_the_progress_bar_can_be_turned_off(capsys):
    fit({"A": [1.0]}, progress=False)
    assert capsys.readouterr().err == ""
    fit({"A": [1.0]}, progress=True, description="a bar")
    assert "a bar" in capsys.readouterr().err


def test_callback_comes_after_the_checkpoint(tmp_path):
    seen = []

    def note(epoch, row):
        seen.append((epoch, row["valid/A"], load_tensors(tmp_path / "checkpoint.pt")["epoch"]))

    model = Weight()
    task = Scripted({"A": [1.0, 2.0]})
    trainer = Trainer(2, device="cpu", progress=False, folder=tmp_path)
    trainer.fit(model, task, torch.optim.SGD(model.parameters(), lr=1.0), on_epoch_end=note)
    assert seen == [(1, 1.0, 1), (2, 2.0, 2)]


@pytest.mark.parametrize(("patience", "stop"), [(None, 4), (1, 3)])
def test_checkpoints_keep_their_distance_but_for_the_first_and_the_last(tmp_path, patience, stop):
    saved = []

    def note(epoch, row):
        saved.append(load_tensors(tmp_path / "checkpoint.pt")["epoch"])

    model, task = Weight(), Scripted({"A": [1.0, 2.0, 2.0, 2.0]})
    trainer = Trainer(4, device="cpu", progress=False, folder=tmp_path, save_every=1e6, patience=patience)
    trainer.fit(model, task, torch.optim.SGD(model.parameters(), lr=1.0), on_epoch_end=note)
    assert saved == [1] * (stop - 1) + [stop]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == stop + 1
    again = Trainer(4, device="cpu", progress=False, folder=tmp_path, patience=patience, resume=True)
    model = Weight()
    result = again.fit(model, Scripted({"A": [1.0, 2.0, 2.0, 2.0]}), torch.optim.SGD(model.parameters(), lr=1.0))
    assert len(result.history) == stop


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".checkpoint.pt.123-abcd.tmp").write_text("half")
    (tmp_path / "checkpoint.pt.notes").write_text("mine")
    fit({"A": [1.0]}, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.notes", "history.csv"]


def test_a_folder_that_cannot_be_made_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file.*choose another folder"):
        fit({"A": [1.0]}, folder=tmp_path / "file" / "run")


@pytest.mark.skipif(sys.platform == "win32", reason="needs file size limits")
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path):
    run = small_runs.server().Process(target=full_disk, args=(tmp_path,))
    run.start()
    run.join(60)
    assert run.exitcode == 0
    message = (tmp_path / "message").read_text()
    assert "cannot write" in message
    assert "checkpoint.pt" in message
    assert "free some space" in message
    assert not list(tmp_path.glob(".*.tmp"))
    assert [row["epoch"] for row in fit({"A": [1.0, 2.0]}, folder=tmp_path, resume=True)[0].history] == [1, 2]


def full_disk(folder: Path) -> None:
    import resource
    import signal

    fit({"A": [1.0]}, folder=folder)
    before = (folder / "checkpoint.pt").read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        fit({"A": [1.0, 2.0]}, folder=folder, resume=True)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        (folder / "message").write_text(str(error))
    assert (folder / "checkpoint.pt").read_bytes() == before


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"max_epochs": -1}, ValueError, r"max_epochs must be in .*\(got -1\)"),
        ({"max_epochs": 2.5}, TypeError, r"max_epochs must be an integer \(got 2.5\)"),
        ({"max_epochs": True}, TypeError, "max_epochs"),
        ({"eval_every": 0}, ValueError, "eval_every"),
        ({"patience": 0}, ValueError, "patience"),
        ({"ties": "latest"}, ValueError, "ties must be one of first, last"),
        ({"seed": -1}, ValueError, "seed"),
        ({"clip_grad_norm": 0.0}, ValueError, "clip_grad_norm"),
        ({"clip_grad_norm": math.nan}, ValueError, "clip_grad_norm"),
        ({"resume": True}, ValueError, "folder must be given"),
        ({"tensorboard": True}, ValueError, "folder must be given"),
        ({"device": "tpu9"}, ValueError, r"device must be .*\(got 'tpu9'\)"),
    ],
)
def test_arguments_out_of_range(options, error, named):
    with pytest.raises(error, match=named):
        Trainer(**{"max_epochs": 1, "device": "cpu", **options})


def test_whole_numbers_of_numpy_are_accepted():
    trainer = Trainer(np.int64(3), seed=np.int32(2), device="cpu")
    assert (trainer.max_epochs, trainer.seed) == (3, 2)
    assert type(trainer.seed) is int  # anything else could not be read back from a checkpoint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(ValueError, match="device='cuda', but PyTorch sees no GPU"):
        make_fabric("cuda")


def test_a_world_size_without_a_launcher_is_no_launch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert make_fabric("cpu").world_size == 1


# Precision -----------------------------------------------------------------------------------------------------------


def decoder(name):
    if name == "NCN":
        return NCNDecoder(8, 8, use_residual=True)
    return NCNCDecoder(8, 8, learn_prior=True)


@pytest.mark.parametrize("kind", ["dense", "sparse", "none"])
@pytest.mark.parametrize("name", ["NCN", "NCNC"])
def test_precisions_train_the_same_model(kind, name):
    split = small_runs.small_split(features=None if kind == "none" else 30)
    if kind == "sparse":
        split.x.mul_(torch.rand(split.x.shape, generator=torch.Generator().manual_seed(0)) < 0.05)

    def run(precision, seed=0):
        task = LinkPredictionTask(split, 48, ("AUC",))
        assert kind == "none" or task.x.is_sparse_csr == (kind == "sparse")
        torch.manual_seed(seed)
        encoder = (PureGNN if name == "NCN" else GNN)(task.num_features, 8, 2, num_nodes=120)
        model = LinkPredictor(encoder, decoder(name))
        trainer = Trainer(2, device="cpu", precision=precision, progress=False)
        return [row["loss"] for row in trainer.fit(model, task, torch.optim.Adam(model.parameters())).history]

    expected = run("32-true")
    other = run("32-true", seed=1)
    assert run("64-true") == pytest.approx(expected, rel=1e-3)
    assert run("bf16-mixed") == pytest.approx(expected, rel=2e-2)
    assert run("bf16-true") == pytest.approx(expected, rel=5e-2)
    assert other != pytest.approx(expected, rel=1e-3)


def test_evaluation_is_in_full_precision():
    split = small_runs.small_split()
    scores = {}
    for precision in ("32-true", "bf16-mixed"):
        task = LinkPredictionTask(split, 48, ("MRR",))
        model = small_runs.small_model(task, "NCN")
        result = Trainer(0, device="cpu", precision=precision, progress=False).fit(
            model, task, torch.optim.Adam(model.parameters())
        )
        scores[precision] = result.best
    assert scores["32-true"] == scores["bf16-mixed"]


# Experiment ----------------------------------------------------------------------------------------------------------


def test_experiment_passes_its_settings_on():
    task = Scripted({"A": [3, 2, 1, 2, 0, 0, 0]})
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    experiment = Experiment(task, model, optimizer, 7, patience=1, ties="last", clip_grad_norm=0.5, eval_every=2)
    result = experiment.run(device="cpu", progress=False)
    assert (len(result.history), result.best["A"]["epoch"]) == (6, 4)  # evaluated at 2, 4 (as good) and 6
    assert model.weight.item() == pytest.approx(-4.0, rel=1e-4)  # eight clipped steps
    assert experiment.num_parameters() == 1


def test_experiment_measures_the_trained_model():
    model = Weight()
    task = Scripted({"A": [3, 4, 1, 0]})
    seen = []

    def measure(experiment):
        seen.append(experiment)
        return {"Size": 2.5}

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    experiment = Experiment(task, model, optimizer, 4, measure=measure)
    result = experiment.run(device="cpu", progress=False)
    assert seen == [experiment]
    assert result.best["Size"] == {"epoch": 2, "valid": 2.5, "test": 2.5}


def test_experiment_without_training():
    task = LinkPredictionTask(small_runs.small_split(), 48, ("Hits@20",))
    experiment = Experiment(task, LinkHeuristic("cn"))
    result = experiment.run(device="cpu", progress=False)
    assert 0 <= result.test("Hits@20") <= 100
    assert experiment.num_parameters() == 0
