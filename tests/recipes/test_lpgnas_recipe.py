"""The recipe of the search for layers and bit widths: models, stages, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import LowPrecisionGNN
from graphkit.recipes import get_recipe
from graphkit.recipes.lpgnas import BASELINES, MODELS, RECIPE, SEARCHED, UNIFORM, build


def test_the_recipe_is_found_and_has_its_schedule() -> None:
    assert get_recipe("lpgnas") is RECIPE
    config = RECIPE.defaults("Cora")
    assert config.protocol == "full"
    assert (config.search_steps, config.arch_start, config.quant_start, config.noise_steps) == (400, 40, 80, 200)
    assert (config.lr, config.weight_decay, config.controller_lr, config.noise) == (5e-3, 5e-4, 3e-3, 1.0)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_can_be_built_and_learns_all_its_weights(model: str) -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), model, 0)
    if experiment.start_from is not None:
        experiment = experiment.start_from[1]
    parameters = [p for group in experiment.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in experiment.model.parameters()}
    assert len(parameters) == len({id(p) for p in parameters})


def test_the_searches_differ_in_the_weight_of_the_sizes_alone() -> None:
    config = RECIPE.defaults("digits", fast=True)
    stages = {model: build(config, model, 0).start_from for model in SEARCHED}
    assert {model: stage[1].task.beta for model, stage in stages.items()} == SEARCHED
    assert len({stage[0] for stage in stages.values()}) == len(SEARCHED)
    first = stages["LPGNAS-0"][1].model.state_dict()
    for name, weight in stages["LPGNAS-1"][1].model.state_dict().items():
        assert torch.equal(weight, first[name]), name


def test_post_training_quantisation_starts_from_the_trained_gat() -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), "GAT-W4A4-PTQ", 0)
    name, first = experiment.start_from
    assert name == "GAT"
    assert experiment.model.model is first.model
    assert experiment.optimizer is None
    before = [p.detach().clone() for p in first.model.parameters()]
    experiment.begin()
    assert all(torch.equal(a, b) for a, b in zip(before, first.model.parameters(), strict=True))


def test_the_command_runs_all_models_and_tells_sizes(tmp_path, capsys) -> None:
    words = ["run", "lpgnas", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "lpgnas" / "digits.json").read_text())
    rows = {(row["model"], row["metric"]): row for row in record["rows"] if row["split"] == "test"}
    assert list(dict.fromkeys(model for model, _ in rows)) == list(MODELS)
    for model in MODELS:
        assert rows[model, "Model kB"]["values"][0] > 0
        assert rows[model, "Buffer kB"]["values"][0] > 0
        assert 0 <= rows[model, "Accuracy"]["values"][0] <= 100
    for model in BASELINES:
        assert rows[model, "Model kB"]["values"][0] == pytest.approx(4e-3 * rows[model, "Model kB"]["parameters"])
    gat = rows["GAT", "Model kB"]["values"][0]
    sizes = [rows[model, "Model kB"]["values"][0] for model in UNIFORM]
    assert gat > sizes[0] > sizes[1] == sizes[2] == sizes[3] > sizes[4]
    assert "Buffer kB" in capsys.readouterr().out
    # What was searched is what is trained: a part of the supernet's weights.
    found = json.loads((tmp_path / "lpgnas" / "digits" / "LPGNAS-1" / "seed0" / "outcome.json").read_text())
    assert found["parameters"] == rows["LPGNAS-1", "Accuracy"]["parameters"]


def test_a_resumed_run_searches_no_second_time(tmp_path) -> None:
    words = ["run", "lpgnas", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", "LPGNAS-0.1"]
    assert cli.main(words) == 0
    place = tmp_path / "lpgnas" / "digits" / "LPGNAS-0.1" / "seed0"
    first = json.loads((place / "outcome.json").read_text())
    search = place.parent.parent / "LPGNAS-0.1-search" / "seed0" / "checkpoint.pt"
    written = search.stat().st_mtime_ns
    (place / "outcome.json").unlink()
    assert cli.main([*words, "--resume"]) == 0
    again = json.loads((place / "outcome.json").read_text())
    assert (again["best"], again["parameters"]) == (first["best"], first["parameters"])
    assert search.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "LPGNAS"], "must be one of GCN, GAT, SAGE, JKNet"),
        (["--models", "LPGNAS-0", "--arch-start", "9"], "arch_start must be at most quant_start=2 (got 9)"),
        (["--models", "LPGNAS-0", "--controller", "deep"], "controller must be one of table, chained"),
        (["--models", "LPGNAS-0", "--base-channels", "12"], "heads must divide"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "lpgnas", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_all_other_nodes_of_a_citation_graph_are_for_training(needs) -> None:
    root = needs("planetoid/Cora")
    config = replace(RECIPE.defaults("Cora", fast=True), root=str(root))
    experiment = build(config, "LPGNAS-0", 0)
    split = experiment.task.split
    assert [len(part) for part in (split.train, split.valid, split.test)] == [1208, 500, 1000]
    found = build(config, "Random", 0).start_from[1]
    assert isinstance(found.model.candidates[0], LowPrecisionGNN)
    assert found.model(found.task.features(found.model), found.task.graph).shape == (2, 2708, 7)
