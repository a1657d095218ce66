"""The task of pointing: what is drawn, what is counted, a share of every batch, exact resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from graphkit.datasets.pointing import pointing_problem, sequence_metrics
from graphkit.nn import PointerNetwork, pointing_loss
from graphkit.train import Trainer
from graphkit.train.tasks import PointingTask

PROBLEM = pointing_problem("sort-5")


def task(**options) -> PointingTask:
    sets = [PROBLEM.draw(40, seed, 3, False) for seed in (0, 1)]
    problem = replace(PROBLEM, draw=lambda count, seed, nodes, train: PROBLEM.draw(count, seed, nodes or 3, train))
    return PointingTask(problem, *sets, **{"epoch_size": 96, "batch_size": 32, **options})


def network() -> PointerNetwork:
    torch.manual_seed(0)
    return PointerNetwork(1, 16, end_token=False, unique=True)


def run(folder, epochs: int, resume: bool = False):
    model = network()
    trainer = Trainer(epochs, device="cpu", folder=folder, resume=resume, progress=False, clip_grad_norm=2.0)
    return trainer.fit(model, task(other_sizes=(4,)), torch.optim.Adam(model.parameters(), 0.02)), model


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole, model = run(tmp_path / "whole", 6)
    assert whole.test("Exact") > 25  # chance is a sixth
    run(tmp_path / "parts", 2)
    again, other = run(tmp_path / "parts", 6, resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert again.best == whole.best
    assert set(whole.best) == {"Exact", "Share", "Exact n=4", "Share n=4"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_training_graphs_are_drawn_anew_in_every_epoch():
    one = task(seed=3)
    first, again, later, other = (list(t.batches(e)) for t, e in ((one, 1), (one, 1), (one, 2), (task(seed=4), 1)))
    assert [batch.num_graphs for batch in first] == [32, 32, 32]
    assert torch.equal(first[1].x, again[1].x)
    for changed in (later, other):
        assert not torch.equal(first[1].x, changed[1].x)


def test_shares_of_a_batch_make_the_whole():
    model = network()
    whole = task(epoch_size=33)
    batches = list(whole.batches(1))
    parts = []
    for rank in range(4):
        part = task(epoch_size=33)
        part.rank, part.world_size = rank, 4
        parts.append(list(part.batches(1)))
    for number, batch in enumerate(batches):  # the last one has a single graph
        shares = torch.stack([whole.loss(model, part[number]) for part in parts])
        torch.testing.assert_close(shares.mean(), whole.loss(model, batch))
        torch.testing.assert_close(
            whole.loss(model, batch), pointing_loss(model(batch.x, batch, batch.target), batch.target)
        )


def test_answers_are_judged_one_by_one():
    class Fixed(nn.Module):
        def decode(self, x, graphs, **options):
            assert options == {"beam": 2, "unique": True, "max_steps": 3}
            found = graphs.target.clone()
            found[::2] = found[::2].flip(1)
            return (found,)

    one = task(beam=2, unique=True)
    found = one.evaluate(Fixed(), "test")
    rows = PROBLEM.draw(40, 1, 3, False).target.numpy()
    shares = [sequence_metrics(None, row[:: -1 if i % 2 == 0 else 1], row)["share"] for i, row in enumerate(rows)]
    assert found == {"Exact": 50.0, "Share": pytest.approx(100 * sum(shares) / 40)}


def test_what_is_no_number_is_left_out():
    problem = replace(PROBLEM, judge=lambda x, found, target: {"exact": 0.0, "area": float("nan")})
    sets = [PROBLEM.draw(4, seed, None, False) for seed in (0, 1)]
    assert PointingTask(problem, *sets).evaluate(network(), "valid") == {"Exact": 0.0, "Area": 0.0}
    known = iter([0.5, float("nan"), 1.0, float("nan")])
    problem = replace(PROBLEM, judge=lambda x, found, target: {"area": next(known)})
    assert PointingTask(problem, *sets).evaluate(network(), "valid") == {"Area": 75.0}


def test_wrong_input():
    graphs = PROBLEM.draw(4, 0, None, False)
    with pytest.raises(ValueError, match="epoch_size must be in"):
        task(epoch_size=0)
    with pytest.raises(ValueError, match="split must be one of valid, test"):
        task().evaluate(network(), "train")
    del graphs.target
    with pytest.raises(ValueError, match="valid must hold graphs with their answers"):
        PointingTask(PROBLEM, graphs, graphs)
