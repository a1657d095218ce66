"""The recipe of composite backbones: its models and their sizes, the vote, a run through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from graphkit import cli
from graphkit.datasets import load
from graphkit.recipes import cbnet, get_recipe, s_kan
from graphkit.recipes.cbnet import MODELS, RECIPE, build


@pytest.mark.parametrize("dataset", ["digits", "digit_canvases"])
def test_models_of_one_budget(dataset):
    assert get_recipe("cbnet") is RECIPE
    config = RECIPE.defaults(dataset)
    size = {model: build(config, model, 0).num_parameters() for model in MODELS}
    assert size["two vote"] == 2 * size["single"]
    assert size["single"] < size["CB, pruned"] < size["CB"] == size["CB, no assistants"]
    assert size["wider"] == pytest.approx(2 * size["single"], rel=0.15)
    assert size["deeper"] == pytest.approx(2 * size["single"], rel=0.15)


@pytest.mark.parametrize("dataset", ["digits", "digit_canvases"])
@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_and_all_are_trained(model, dataset):
    config = RECIPE.defaults(dataset, fast=True)
    first, again = (build(config, model, 0) for _ in range(2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    first.model.train()
    first.task.loss(first.model, next(iter(first.task.batches(1)))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in first.model.parameters())


def test_a_vote_averages_probabilities():
    experiment = build(RECIPE.defaults("digits", fast=True), "two vote", 0)
    task, model = experiment.task, experiment.model.eval()
    one, two = (network(task.features(model), task.graph) for network in model.networks)
    want = (one.softmax(-1) + two.softmax(-1)) / 2
    torch.testing.assert_close(task.logits(model).softmax(-1), want)
    assert not torch.allclose(one, two)


def test_a_run_writes_a_record(tmp_path):
    code = cli.main(["run", "cbnet", "--fast", "--models", "CB", "single", "--quiet", "--out", str(tmp_path)])
    assert code in (0, None)
    record = json.loads((tmp_path / "cbnet" / "digits.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"CB", "single"}


def test_a_run_on_canvases(tmp_path):
    words = ["--dataset", "digit_canvases", "--fast", "--epochs", "1", "--batch-size", "250", "--models", "CB"]
    assert cli.main(["run", "cbnet", *words, "--quiet", "--out", str(tmp_path)]) in (0, None)
    record = json.loads((tmp_path / "cbnet" / "digit_canvases.json").read_text())
    assert {row["metric"] for row in record["rows"]} == {"Mean IoU", "Accuracy"}
    with pytest.raises(ValueError, match="reset-majority has no images"):
        build(RECIPE.defaults("reset-majority"), "CB", 0)


@pytest.mark.parametrize("recipe", [cbnet, s_kan])
def test_a_graph_without_features_is_refused(recipe, monkeypatch):
    def without_features(name, root):
        dataset = load("digits")
        return replace(dataset, data=Data(edge_index=dataset.data.edge_index, y=dataset.data.y, num_nodes=1797))

    monkeypatch.setattr(recipe, "load", without_features)
    with pytest.raises(ValueError, match="digits has no node features, which every model here needs"):
        recipe.build(replace(recipe.RECIPE.defaults("polblogs"), protocol="random"), recipe.MODELS[0], 0)
