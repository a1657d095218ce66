"""The three phases of S-KAN as experiments, and the regression task."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import SKAN, kan_layers
from graphkit.train import CosineSchedule, RegressionTask, Trainer
from graphkit.train.search import SelectionTask, SKANSchedule
from graphkit.utils.seed import seed_everything


def problem(batch_size=None) -> RegressionTask:
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return RegressionTask(x, x.prod(1, keepdim=True), IndexSplit(*torch.arange(40).split([20, 10, 10])), batch_size)


def trained(experiment, folder=None, resume=False):
    """As the runner does it."""
    for number, part in enumerate(experiment.chain()):
        if number:
            part.begin()
        result = part.run(
            device="cpu", progress=False, folder=None if folder is None else folder / str(number), resume=resume
        )
    return result


def phases(epochs=10):
    seed_everything(0)
    network = SKAN([2, 3, 1], families=("rbf", "cheby"))
    schedule = SKANSchedule(epochs, (0.4, 0.4, 0.2))
    return schedule.experiment(
        problem(), network, lambda m: torch.optim.Adam(m.parameters(), 0.01), schedule=CosineSchedule
    )


def test_phases_follow_each_other():
    experiment = phases()
    first, second, third = experiment.chain()
    assert [part.max_epochs for part in (first, second, third)] == [4, 4, 2]
    result = trained(experiment)
    layers = list(kan_layers(experiment.model))
    assert all(layer.phase == "pruned" for layer in layers)
    assert experiment.num_parameters() == sum(p.numel() for p in experiment.model.parameters()) == 9 * 10 - 9 + 4
    assert 0 < result.best["Relative RMSE"]["test"] < 200
    torch.testing.assert_close(layers[0].temperature, torch.tensor(0.1))


def test_each_phase_has_a_schedule_of_its_own():
    parts = phases().chain()
    assert [part.schedule for part in parts] == [CosineSchedule(epochs) for epochs in (4, 4, 2)]
    bare = SKANSchedule(10).experiment(problem(), nn.Linear(2, 1), lambda m: torch.optim.SGD(m.parameters(), 0.1))
    assert [part.schedule for part in bare.chain()] == [None] * 3


def test_entropy_makes_a_choice_before_pruning():
    """Without it inputs that have use for several families keep them, and pruning changes the function."""
    least, moved = {}, {}
    for weight in (0.0, 0.3):
        seed_everything(0)
        network, task = SKAN([2, 3, 1]), problem()
        plan = SKANSchedule(120, (0.2, 0.7, 0.1), regularization=weight)
        first, selection, last = plan.experiment(
            task, network, lambda m: torch.optim.Adam(m.parameters(), 0.02), schedule=CosineSchedule
        ).chain()
        first.run(device="cpu", progress=False)
        selection.begin()
        selection.run(device="cpu", progress=False)
        with torch.no_grad():
            least[weight] = min(float(layer.selection_probs().max(1).values.min()) for layer in kan_layers(network))
            before = network(task.x)
            last.begin()
            moved[weight] = float((network(task.x) - before).std())
    assert least[0.3] > 0.99 > 0.7 > least[0.0]
    assert moved[0.3] < 0.02 < 0.2 < moved[0.0]


def test_temperature_sinks_from_one_epoch_by_epoch():
    task = SelectionTask(problem(), epochs=3)
    assert [batch[0] for epoch in (1, 2, 3) for batch in task.batches(epoch)] == pytest.approx([1, 0.1**0.5, 0.1])
    network = SKAN([2, 2, 1])
    loss = SelectionTask(problem(), 3, regularization=0.5)
    batch = next(iter(loss.batches(1)))
    wanted = problem().loss(network, batch[1]) + 0.5 * sum(layer.regularization() for layer in kan_layers(network))
    torch.testing.assert_close(loss.loss(network, batch), wanted)


def test_a_chain_that_is_resumed_ends_the_same(tmp_path):
    whole = trained(phases()).best
    again = phases()
    first, second, _ = again.chain()
    first.run(device="cpu", progress=False, folder=tmp_path / "0")
    second.begin()
    second.run(device="cpu", progress=False, folder=tmp_path / "1")
    # Another process begins anew and finds the checkpoints of the first two phases.
    assert trained(phases(), tmp_path, resume=True).best == whole


def test_random_families_are_those_of_the_seed():
    kept = []
    for _ in range(2):
        seed_everything(0)
        network = SKAN([2, 3, 1])
        schedule = SKANSchedule(3)
        trained(schedule.experiment(problem(), network, lambda m: torch.optim.Adam(m.parameters()), random_seed=4))
        kept.append([layer.kept_families() for layer in kan_layers(network)])
    assert kept[0] == kept[1]
    assert len({name for layer in kept[0] for name in layer}) > 1


def test_wrong_schedules():
    for fractions in ((0.5, 0.5), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0)):
        with pytest.raises(ValueError, match="fractions"):
            SKANSchedule(10, fractions)
    with pytest.raises(ValueError, match="at least 3"):
        SKANSchedule(2)
    with pytest.raises(ValueError, match="temperature"):
        SelectionTask(problem(), 3, temperature=0.0)
    with pytest.raises(ValueError, match="epochs must be in"):
        SelectionTask(problem(), 0)
    for options, error in (
        ({"epochs": 10.5}, TypeError),
        ({"fractions": (float("nan"), 0.5, 0.5)}, ValueError),
        ({"temperature": 0.0}, ValueError),
        ({"regularization": -1.0}, ValueError),
        ({"threshold": float("nan")}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            SKANSchedule(**{"epochs": 10, **options})
    assert SKANSchedule(3).lengths == (1, 1, 1)


# Regression -----------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value.expand(x.size(0), 1)


def test_relative_error_of_a_constant_and_of_the_truth():
    task = problem()
    y = task.y[task.split.valid]
    mean = Constant(float((y.mean() - task.mean) / task.scale))
    assert task.evaluate(mean, "valid")["Relative RMSE"] == pytest.approx(100, abs=1e-3)

    class Truth(nn.Module):
        def forward(self, x):
            return (x.prod(1, keepdim=True) - task.mean) / task.scale

    assert task.evaluate(Truth(), "test")["Relative RMSE"] == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(task.loss(Constant(0.0), task.split.train), torch.tensor(1.0))


def test_lower_errors_are_better():
    task = problem(batch_size=7)
    model = nn.Linear(2, 1)
    result = Trainer(5, device="cpu", progress=False).fit(model, task, torch.optim.SGD(model.parameters(), 0.1))
    values = [row["valid/Relative RMSE"] for row in result.history]
    assert result.best["Relative RMSE"]["valid"] == min(values)


def test_shares_of_processes_add_up():
    task = problem()
    model = Constant(0.3)
    whole = task.loss(model, task.split.train)
    parts = []
    for rank in range(3):
        task.rank, task.world_size = rank, 3
        parts.append(task.loss(model, task.split.train))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_wrong_rows():
    x, split = torch.rand(6, 2), IndexSplit(*torch.arange(6).split(2))
    with pytest.raises(ValueError, match="6 rows"):
        RegressionTask(x, torch.rand(5, 1), split)
    with pytest.raises(ValueError, match="differ"):
        RegressionTask(x, torch.ones(6, 1), split)
    flat = torch.tensor([[0.0], [1.0], [2.0], [2.0], [3.0], [4.0]])
    with pytest.raises(ValueError, match="differ among the valid rows"):
        RegressionTask(x, flat, split)
    with pytest.raises(ValueError, match="y must have values"):
        RegressionTask(x, flat.to("meta"), split)
    with pytest.raises(IndexError, match="outside"):
        RegressionTask(x, torch.rand(6, 1), IndexSplit(*torch.arange(9).split(3)))
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        RegressionTask(x, torch.rand(6, 1), split).loss(nn.Linear(2, 3), split.train)
