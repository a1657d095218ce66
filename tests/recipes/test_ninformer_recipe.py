"""NiNformer's recipe: images and nodes, its models, a run through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.recipes import get_recipe
from graphkit.recipes.ninformer import MODELS, RECIPE, build


def test_the_recipe_has_the_settings_of_the_authors_script():
    assert get_recipe("ninformer") is RECIPE
    config = RECIPE.config()
    assert (config.patch, config.channels, config.hidden, config.layers, config.dropout) == (4, 256, 512, 4, 0.5)
    assert (config.lr, config.batch, config.epochs) == (1e-3, 128, 100)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dataset", ["digit_images", "digits"])
def test_models_of_images_and_of_nodes(dataset, model):
    config = replace(RECIPE.defaults(fast=True), dataset=dataset, hops=2)
    first, again = (build(config, model, 0) for _ in range(2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert torch.equal(first.task.split.train, again.task.split.train)
    first.model.train()
    first.task.loss(first.model, next(first.task.batches(1))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in first.model.parameters())
    assert 0 <= first.task.evaluate(first.model, "valid")["Accuracy"] <= 100


def test_the_protocol_goes_with_the_dataset():
    assert "test images" in RECIPE.describe(RECIPE.defaults("digit_images"))
    assert "public split" in RECIPE.describe(RECIPE.defaults("Cora"))


def test_a_run_writes_a_record(tmp_path):
    code = cli.main(["run", "ninformer", "--fast", "--models", "NiNformer", "mean", "--quiet", "--out", str(tmp_path)])
    assert code in (0, None)
    record = json.loads((tmp_path / "ninformer" / "digit_images.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"NiNformer", "mean"}
