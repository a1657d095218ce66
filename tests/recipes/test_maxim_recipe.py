"""MAXIM's recipe: its models, the linear filter against another library, a run through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge

from graphkit import cli
from graphkit.recipes import get_recipe
from graphkit.recipes.maxim import MODELS, RECIPE, SETTINGS, build


def test_the_recipe_is_found():
    assert get_recipe("maxim") is RECIPE
    assert RECIPE.defaults().dataset == "digit_images"
    assert all(config["block"] == 7 for name, config in SETTINGS.items() if name.endswith("MNIST"))


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_split_and_noise(model):
    config = RECIPE.defaults(fast=True)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    assert torch.equal(first.task.split.train, again.task.split.train)
    assert not torch.equal(first.task.split.train, other.task.split.train)
    assert [len(getattr(first.task.split, part)) for part in ("train", "valid", "test")] == [64, 64, 64]
    assert first.task.evaluate(first.model, "valid") == again.task.evaluate(again.model, "valid")
    if first.optimizer is not None:
        first.model.train()
        first.task.loss(first.model, next(first.task.batches(1))).backward()
        trained = [p for group in first.optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in trained} == {id(p) for p in first.model.parameters()}
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


def test_the_linear_filter_is_the_best_one_for_the_training_images():
    """Ridge regression of many noisy copies on clean images comes to the same, up to the noise that was drawn."""
    experiment = build(replace(RECIPE.defaults(), images=40, held_out=30), "linear", 0)
    task = experiment.task
    clean = task._graphs.batch(task.split.train).x.view(40, 64)
    noise = 0.2 * torch.randn(400, 40, 64, generator=torch.Generator().manual_seed(0))
    noisy = (clean + noise).flatten(0, 1)
    regression = Ridge(alpha=1e-6).fit(noisy.numpy(), clean.repeat(400, 1).numpy())
    network = experiment.model.network
    assert float((network.weight.t() - torch.from_numpy(regression.coef_)).abs().max()) < 0.05
    gain = (
        task.evaluate(experiment.model, "test")["PSNR"]
        - task.evaluate(build(replace(RECIPE.defaults(), images=40, held_out=30), "noisy", 0).model, "test")["PSNR"]
    )
    assert gain > 1


def test_a_run_writes_a_record(tmp_path):
    code = cli.main(["run", "maxim", "--fast", "--models", "blocks", "noisy", "--quiet", "--out", str(tmp_path)])
    assert code in (0, None)
    record = json.loads((tmp_path / "maxim" / "digit_images.json").read_text())
    found = {row["model"]: row["mean"] for row in record["rows"] if row["split"] == "test"}
    assert set(found) == {"blocks", "noisy"}
    assert 15 < found["noisy"] < 17
