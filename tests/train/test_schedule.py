"""Schedules of the learning rate: values, what the optimizer does, exact resume."""

from __future__ import annotations

import math

import pytest
import torch
from test_trainer import Weight, fit

from graphkit.train import CosineSchedule

BETTER = {"A": [1.0, 2.0, 3.0, 4.0]}


def test_cosine():
    schedule = CosineSchedule(10, warmup=2, floor=0.1)
    assert schedule(1) == 0.5
    assert schedule(2) == 1
    assert schedule(4) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule(10) == pytest.approx(0.1)
    assert schedule(11) == pytest.approx(0.1)


def test_the_factor_follows_the_steps():
    schedule = CosineSchedule(4)
    _, model, _ = fit(BETTER, steps=2, schedule=schedule)
    # The gradient is one, so the weight is minus the sum of the learning rates.
    assert model.weight.item() == pytest.approx(-sum(schedule(i / 2) for i in range(8)), rel=1e-5)


def final(epochs, resume, folder):
    """AdamW, whose steps depend on all steps before; stopped after two of four epochs if asked to."""
    from test_trainer import Scripted

    from graphkit.train import Trainer

    torch.manual_seed(0)
    model = Weight()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trainer = Trainer(
        4, device="cpu", progress=False, folder=folder, resume=resume, schedule=CosineSchedule(4, warmup=1)
    )

    def stop(epoch, row):
        if epoch == epochs:
            raise KeyboardInterrupt

    trainer.fit(model, Scripted({"A": [1, 2, 3, 4]}), optimizer, stop)
    return model.weight.item(), optimizer.param_groups[0]["lr"]


def test_resume_is_exact(tmp_path):
    whole = final(None, False, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        final(2, False, tmp_path / "parts")
    assert final(None, True, tmp_path / "parts") == whole


def test_another_schedule_is_another_run(tmp_path):
    fit(BETTER, folder=tmp_path, schedule=CosineSchedule(4))
    with pytest.raises(ValueError, match="schedule"):
        fit(BETTER, folder=tmp_path, resume=True, schedule=CosineSchedule(5))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"epochs": 2, "warmup": 2}, {"epochs": 2, "floor": 2}])
def test_wrong_numbers(bad):
    with pytest.raises(ValueError, match="got"):
        CosineSchedule(**bad)
