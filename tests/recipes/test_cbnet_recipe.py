"""The recipe of composite backbones: its models and their sizes, the vote, a run through the command line."""

from __future__ import annotations

import json

import pytest
import torch

from graphkit import cli
from graphkit.recipes import get_recipe
from graphkit.recipes.cbnet import MODELS, RECIPE, build


def size(model: str) -> int:
    return build(RECIPE.defaults("digits"), model, 0).num_parameters()


def test_models_of_one_budget():
    assert get_recipe("cbnet") is RECIPE
    single, wider, deeper, two, composite = (size(m) for m in ("single", "wider", "deeper", "two vote", "CB"))
    assert two == 2 * single
    assert single < size("CB, pruned") < composite
    assert wider == pytest.approx(2 * single, rel=0.15)
    assert deeper == pytest.approx(2 * single, rel=0.15)
    assert size("CB, no assistants") == composite


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_and_all_are_trained(model):
    config = RECIPE.defaults("digits", fast=True)
    first, again = (build(config, model, 0) for _ in range(2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    first.model.train()
    first.task.loss(first.model, first.task.split.train).backward()
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
