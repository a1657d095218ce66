"""The table of mixers: one budget, models that apply, smoke runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import TokenModel
from graphkit.recipes.mixers import BOTH_WAYS, IN_ORDER, MODELS, RECIPE, Place, _cell, build, within_budget

OFFLINE = ("digit_images", "associative-recall", "help-topics", "nycflights-hourly")


@pytest.mark.parametrize("dataset", OFFLINE)
def test_all_models_have_the_same_number_of_parameters_up_to_a_tenth(dataset):
    config = RECIPE.defaults(dataset)
    for model in RECIPE.models_for(dataset):
        experiment = build(config, model, 0)
        assert abs(experiment.num_parameters() / config.budget - 1) <= 0.1, model
        assert all(p.device.type == "cpu" for p in experiment.model.parameters())


def test_models_that_do_not_apply_are_left_out_and_say_why():
    assert RECIPE.models_for("digit_images") == MODELS
    assert set(RECIPE.models_for("MUTAG")) == set(MODELS) - {"GPSA", "MAXIM"}
    assert set(RECIPE.models_for("help-topics")) == {"GLA", "Mamba", "Attention", *IN_ORDER, "Baseline"}
    config = RECIPE.defaults("help-topics", fast=True)
    with pytest.raises(ValueError, match="Hopfield sees the tokens that help-topics asks for"):
        build(config, "Hopfield", 0)
    with pytest.raises(ValueError, match="MAXIM needs a grid"):
        build(RECIPE.defaults("nycflights-hourly", fast=True), "MAXIM", 0)
    with pytest.raises(ValueError, match="model must be one of"):
        build(config, "Hyena", 0)


def test_models_of_texts_do_not_see_what_comes():
    config = RECIPE.defaults("help-topics", fast=True)
    for model in RECIPE.models_for("help-topics"):
        network = build(config, model, 0).model.eval()
        assert isinstance(network, TokenModel)
        ids = torch.arange(20) % network.num_embeddings
        other = ids.clone()
        other[12:] = 0
        torch.testing.assert_close(network(ids)[:12], network(other)[:12], msg=model)


def test_width_of_a_budget():
    made = within_budget(lambda channels: torch.nn.Linear(channels, 10, bias=False), 205, 2, 0)
    assert made.weight.shape == (10, 20)
    with pytest.raises(ValueError, match="budget 5 is more than a tenth from what widths 2 and 4 need"):
        within_budget(lambda channels: torch.nn.Linear(channels, 10, bias=False), 5, 2, 0)


def test_every_mixer_keeps_its_width():
    for name, make in {**BOTH_WAYS, **IN_ORDER}.items():
        mixer = make(16, Place(False, 9, 4, 3))
        assert (mixer.in_channels, mixer.out_channels) == (16, 16), name
    assert [_cell(Place(False, n * n, 1, n)) for n in (4, 6, 7, 8, 16)] == [2, 2, 1, 2, 4]


def test_a_seed_fixes_weights():
    config = replace(RECIPE.defaults("digit_images", fast=True), images=50)
    first, again, other = (build(config, "GLA", seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("dataset", OFFLINE)
def test_smoke_run(dataset, tmp_path):
    words = ["run", "mixers", "--dataset", dataset, "--fast", "--quiet", "--out", str(tmp_path)]
    short = ["--seq-len", "48", "--horizon", "24", "--batch-size", "512"] if dataset == "nycflights-hourly" else []
    cli.main([*words, *short, "--models", "LSTM", "Baseline"])
    record = json.loads((tmp_path / "mixers" / f"{dataset}.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"LSTM", "Baseline"}
