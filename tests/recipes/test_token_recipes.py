"""Recipes of GLA and SpikeGPT: what is built for each kind of problem, and runs on the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import GatedLinearAttention, SpikeGPT
from graphkit.recipes import get_recipe, gla, spikegpt
from graphkit.train import GraphClassificationTask, NextTokenTask, TokenClassificationTask

KINDS = {
    "reset-majority": TokenClassificationTask,
    "associative-recall": TokenClassificationTask,
    "help-topics": NextTokenTask,
    "digits": GraphClassificationTask,
    "pyimports": GraphClassificationTask,
}


@pytest.mark.parametrize("dataset", KINDS)
@pytest.mark.parametrize("recipe", [gla, spikegpt], ids=["gla", "spikegpt"])
def test_models_fit_their_problem(recipe, dataset):
    assert get_recipe(recipe.RECIPE.key) is recipe.RECIPE
    config = recipe.RECIPE.defaults(dataset, fast=True)
    for model in recipe.MODELS[:1] + recipe.MODELS[-2:]:
        made = recipe.build(config, model, 0)
        assert type(made.task) is KINDS[dataset]
        made.task.evaluate(made.model.eval(), "valid")


def test_rows_differ_in_their_mixer_alone():
    config = gla.RECIPE.defaults("reset-majority", fast=True)
    mixers = {name: gla.build(config, name, 0).model.mixers[0] for name in gla.MODELS}
    kinds = {name: mixer.decay for name, mixer in mixers.items() if isinstance(mixer, GatedLinearAttention)}
    assert kinds == {"GLA": "gated", "Constant decay": "constant", "No decay": "none"}
    assert mixers["Attention"].causal
    first, again = (gla.build(config, "GLA", 0).model.state_dict() for _ in range(2))
    other = gla.build(config, "GLA", 1).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_with_and_without_spikes():
    config = replace(spikegpt.RECIPE.defaults("digits", fast=True), layers=2)
    models = {name: spikegpt.build(config, name, 0).model for name in ("SpikeGPT", "RWKV")}
    for name, model in models.items():
        assert isinstance(model, SpikeGPT)
        assert model.spiking == model.binary_input == (name == "SpikeGPT")
    assert len({sum(p.numel() for p in model.parameters()) for model in models.values()}) == 1


@pytest.mark.parametrize(
    ("words", "monitor"),
    [
        (["gla", "--dataset", "reset-majority"], "Accuracy"),
        (["gla", "--dataset", "help-topics"], "Bits per character"),
        (["spikegpt", "--dataset", "help-topics"], "Bits per character"),
        (["spikegpt", "--dataset", "digits"], "Accuracy"),
    ],
)
def test_runs(words, monitor, tmp_path, capsys):
    assert cli.main(["run", *words, "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / words[0] / f"{words[2]}.json").read_text())
    assert record["monitor"] == monitor
    rows = {(row["model"], row["metric"]): row["values"][0] for row in record["rows"] if row["split"] == "test"}
    assert {model for model, _ in rows} == {*get_recipe(words[0]).models}
    if monitor != "Accuracy":
        model = get_recipe(words[0]).models[0]
        assert rows[model, "Perplexity"] == pytest.approx(2 ** rows[model, monitor], rel=1e-3)
    if words[0] == "spikegpt":
        assert 0 <= rows["SpikeGPT", "Spike rate"] <= 100
        assert ("RWKV", "Spike rate") not in rows
    if words[2] == "reset-majority":
        assert ("GLA", "Accuracy, longer") in rows
    assert "validation" in record["protocol"]
    capsys.readouterr()


def test_a_typo_is_told():
    with pytest.raises(ValueError, match="did you mean 'SpikeGPT'"):
        spikegpt.build(spikegpt.RECIPE.defaults("digits", fast=True), "SpikeGTP", 0)
