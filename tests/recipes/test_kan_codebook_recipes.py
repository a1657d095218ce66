"""Recipes of KANs and of codebooks: fast runs, equal parameters, stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from graphkit.bench.runner import RunOptions, run
from graphkit.nn import codebooks, kan_layers
from graphkit.recipes import get_recipe
from graphkit.recipes.s_kan import widest

QUIET = {"fast": True, "quiet": True, "device": "cpu"}


def test_functions_in_three_phases(tmp_path):
    recipe = get_recipe("s_kan")
    options = RunOptions(("S-KAN", "S-KAN-full", "S-KAN-random", "KAN", "MLP", "MLP-large"), out=str(tmp_path), **QUIET)
    record = run(recipe, recipe.defaults("fit-wave", fast=True), options, "test")
    sizes = {row.model: row.parameters for row in record.rows}
    # A network 2-5-1: 15 edges of 8 functions and a base, 6 biases; of four families also a choice for 7 inputs.
    assert sizes["S-KAN"] == sizes["S-KAN-random"] == sizes["KAN"] == 15 * 9 + 6
    assert sizes["S-KAN-full"] == 15 * 33 + 6 + 4 * 7
    assert 100 < sizes["MLP"] <= 150
    assert 450 < sizes["MLP-large"] <= sizes["S-KAN-full"]
    assert {row.metric for row in record.rows} == {"Relative RMSE"}


@pytest.mark.parametrize("conv", ["gin", "gcn"])
def test_maps_of_convolutions(conv, tmp_path):
    recipe = get_recipe("s_kan")
    config = replace(recipe.defaults("digits", fast=True), conv=conv, epochs=3, parameters=3500)
    for model in ("S-KAN-full", "MLP"):
        experiment = recipe.build(config, model, 0)
        assert len(list(kan_layers(experiment.model))) == (4 if model != "MLP" else 0)
        result = experiment.run(device="cpu", progress=False)
        assert 0 <= result.best["Accuracy"]["test"] <= 100


def test_images():
    recipe = get_recipe("s_kan")
    config = replace(recipe.defaults("digit_images", fast=True), epochs=1, patch=4, parameters=6000)
    for model in ("KAN", "MLP"):
        experiment = recipe.build(config, model, 0)
        assert experiment.num_parameters() <= 6000
        assert "Accuracy" in experiment.run(device="cpu", progress=False).best


def test_widest():
    assert widest(lambda width: nn.Linear(3, width), 43) == 10
    assert widest(lambda width: nn.Linear(3, width), 44) == 11
    with pytest.raises(ValueError, match="at least 4"):
        widest(lambda width: nn.Linear(3, width), 3)


def test_codes_of_states_and_of_classes(tmp_path):
    recipe = get_recipe("codebook_features")
    config = replace(recipe.defaults("state-machine", fast=True), channels=8, layers=1, batch_size=1024)
    experiment = recipe.build(config, "k=8", 0)
    assert [layer.groups for layer in codebooks(experiment.model).values()] == [2, 1]
    found = experiment.run(device="cpu", progress=False).best
    assert {"Bits per character", "Valid transitions", "Control", "Code precision", "Active codes"} <= {*found}
    options = RunOptions(("Plain", "k=1"), out=str(tmp_path), **QUIET)
    record = run(recipe, replace(recipe.defaults("digits", fast=True), epochs=4), options, "test")
    rows = {(row.model, row.metric): row.mean for row in record.rows if row.split == "test"}
    assert rows["Plain", "Active codes"] == 0 < rows["k=1", "Active codes"] <= 20
    assert rows["k=1", "Code precision"] > rows["k=1", "Precision by chance"]


def test_texts_of_other_writers_are_refused():
    recipe = get_recipe("codebook_features")
    with pytest.raises(ValueError, match="not the text of a state machine"):
        recipe.build(replace(recipe.defaults(fast=True), dataset="help-topics"), "Plain", 0)
