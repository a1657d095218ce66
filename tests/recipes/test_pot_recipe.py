"""The recipe of POT: published settings, what each model is made of, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.recipes import get_recipe
from graphkit.recipes.pot_gcl import MODELS, PUBLISHED, RECIPE, VARIANTS, build, hyperparameters
from graphkit.train import COSTA, GCA, GRACE, ProGCL
from graphkit.transforms import AdaptiveEdgeDrop, BudgetedEdgeDrop, EdgeDrop

FAST = {"hidden": 8, "proj": 8, "epochs": 2, "start": 2, "probe_epochs": 20}


def test_the_recipe_is_found_and_has_the_published_settings() -> None:
    assert get_recipe("pot_gcl") is RECIPE
    grace = hyperparameters(RECIPE.defaults("Cora"), "GRACE")
    assert (grace.lr, grace.hidden, grace.proj, grace.activation) == (5e-4, 128, 128, "relu")
    assert (grace.p1, grace.p2, grace.tau, grace.epochs, grace.kappa) == (0.4, 0.3, 0.9, 200, 0.2)
    progcl = hyperparameters(RECIPE.defaults("PubMed"), "ProGCL")
    assert (progcl.lr, progcl.tau, progcl.epochs, progcl.start) == (1e-3, 0.5, 2000, 600)
    assert hyperparameters(RECIPE.defaults("Cora"), "COSTA").weight_decay == 0
    # COSTA mixes before it contrasts, and its optimizer has no penalty.
    assert all(methods["COSTA"].weight_decay == 0 for methods in PUBLISHED.values())
    assert all(methods["GRACE"].weight_decay == 1e-5 for methods in PUBLISHED.values())
    assert RECIPE.defaults("PubMed").batch_size == 4096
    assert RECIPE.defaults().dataset == "digits"
    assert all(set(methods) == {"GRACE", "GCA", "ProGCL", "COSTA"} for methods in PUBLISHED.values())


def test_what_is_given_counts_before_what_is_published() -> None:
    config = replace(RECIPE.defaults("Cora"), lr=0.1, weight_decay=0.0, kappa=0.0)
    method = hyperparameters(config, "GCA")
    assert (method.lr, method.weight_decay, method.kappa, method.tau) == (0.1, 0.0, 0.0, 0.9)


@pytest.mark.parametrize(
    ("model", "kind", "view"),
    [
        ("GRACE", GRACE, EdgeDrop),
        ("GRACE+POT", GRACE, EdgeDrop),
        ("GCA", GCA, AdaptiveEdgeDrop),
        ("ProGCL+POT", ProGCL, AdaptiveEdgeDrop),
        ("ProGCL-mix", ProGCL, AdaptiveEdgeDrop),
        ("COSTA+POT-released", COSTA, EdgeDrop),
    ],
)
def test_models(model: str, kind: type, view: type) -> None:
    config = replace(RECIPE.defaults("digits", fast=True), **FAST)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    task = first.task
    assert type(first.model) is kind
    assert [type(part) for part in task.views] == [view, view]
    assert (task.pot is not None) == ("+POT" in model)
    if task.pot is not None:
        assert task.pot.bound == ("released" if model.endswith("released") else "crown")
        assert task.pot.encoder is first.model.encoder
    for name, weight in first.model.encoder.state_dict().items():
        assert torch.equal(weight, again.model.encoder.state_dict()[name])
    assert not torch.equal(first.model.encoder.linear1.weight, other.model.encoder.linear1.weight)
    assert not torch.equal(task.split.train, other.task.split.train)
    assert first.eval_every == first.max_epochs == 2


def test_with_and_without_pot_start_from_the_same_weights() -> None:
    config = replace(RECIPE.defaults("digits", fast=True), **FAST)
    one, two = (build(config, model, 3).model.state_dict() for model in ("GRACE", "GRACE+POT"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_budgeted_views_are_within_the_bounds() -> None:
    config = replace(RECIPE.defaults("digits", fast=True), **FAST, budgeted=True, p1=0.6)
    for model in ("GRACE+POT", "GCA+POT"):
        task = build(config, model, 0).task
        assert all(isinstance(view, BudgetedEdgeDrop) for view in task.views)
        for epoch in range(3):
            (views,) = task.batches(epoch)
            for view, bounds in zip(views, task.pot.bounds, strict=True):
                lost = task.graph.degree - torch.bincount(view.edge_index[1], minlength=task.num_nodes)
                assert bool((lost <= bounds.budget).all())


def test_the_command_runs_every_method(tmp_path, capsys) -> None:
    models = ("GRACE", "GCA+POT", "ProGCL+POT", "COSTA+POT")
    words = ["run", "pot_gcl", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", *models]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "pot_gcl" / "digits.json").read_text())
    assert (record["key"], record["dataset"], record["monitor"]) == ("pot_gcl", "digits", "Accuracy")
    rows = [row for row in record["rows"] if row["split"] == "test"]
    assert list(dict.fromkeys(row["model"] for row in rows)) == list(models)
    metrics = {row["metric"] for row in rows}
    assert metrics == {"Accuracy", "F1", "Compactness", "Unit compactness", "Certified"}
    assert set(record["histograms"]) == set(models)
    assert "certified" in record["histograms"]["GRACE"]
    assert "pot_gcl on digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "triadic-closure"], "no protocol for node tasks"),
        (["--models", "BGRL"], f"must be one of {', '.join(MODELS + VARIANTS)[:20]}"),
        (["--kappa", "2"], "kappa must be in [0, 1]"),
        (["--p1", "1"], "p must be in [0, 1)"),
        (["--activation", "tanh"], "activation must be one of relu, prelu"),
        (["--models", "GCA", "--centrality", "closeness"], "centrality must be one of"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "pot_gcl", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_public_split_and_the_papers_figures(needs, tmp_path) -> None:
    root = needs("planetoid/Cora")
    words = ["run", "pot_gcl", "--fast", "--dataset", "Cora", "--root", str(root), "--models", "GRACE", "GRACE+POT"]
    assert cli.main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "pot_gcl" / "Cora.json").read_text())
    figures = {row["model"]: row["reported"]["mean"] for row in record["rows"] if row["reported"]}
    assert figures == {"GRACE": 78.2, "GRACE+POT": 79.2}
