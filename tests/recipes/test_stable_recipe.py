"""The recipe of robust node classification: settings, attacks, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.datasets import load
from graphkit.recipes import get_recipe
from graphkit.recipes.stable import DEFENCES, MODELS, RECIPE, build, defence
from graphkit.train import STABLE


def test_the_recipe_is_found_and_has_the_released_settings() -> None:
    assert get_recipe("stable") is RECIPE
    config = RECIPE.defaults("Cora-meta-0.20")
    assert (config.embed, config.contrast_lr, config.contrast_patience, config.fuse) == (512, 1e-3, 20, "sum_logits")
    assert (config.hidden, config.dropout, config.lr, config.weight_decay, config.epochs) == (16, 0.5, 0.01, 5e-4, 200)
    found = defence(config)
    assert (found.alpha, found.k, found.jaccard, found.cosine, found.beta) == (0.6, 7, 0.03, 0.25, 2.0)
    assert RECIPE.defaults().dataset == "pyimports"


@pytest.mark.parametrize(
    ("dataset", "attack", "rate", "graph", "row"),
    [
        ("Cora-LCC", "none", 0.2, "Cora", 0),
        ("Cora-LCC", "prbcd", 0.2, "Cora", 4),
        ("Cora-LCC", "dice", 0.5, "Cora", 4),
        ("Cora-LCC", "random", 0.1, "Cora", 2),
        ("CiteSeer-meta-0.05", "none", 0.2, "CiteSeer", 1),
        ("CiteSeer-meta-0.25", "none", 0.2, "CiteSeer", 4),
        ("PolBlogs", "none", 0.2, "PolBlogs", 0),
        ("PolBlogs-meta-0.15", "none", 0.2, "PolBlogs", 3),
        ("Cora-nettack-5", "none", 0.2, "Cora", 1),
    ],
)
def test_settings_follow_the_graph_and_the_rate(dataset: str, attack: str, rate: float, graph: str, row: int) -> None:
    config = replace(RECIPE.defaults(dataset), attack=attack, rate=rate)
    assert defence(config) == DEFENCES[graph][row]
    assert defence(replace(config, k=2, alpha=0.0)) == replace(DEFENCES[graph][row], k=2, alpha=0.0)


def test_where_the_released_power_fails_it_is_chosen_by_validation() -> None:
    config = RECIPE.defaults("PolBlogs-meta-0.20")
    released = DEFENCES["PolBlogs"][4]
    assert released.alpha == 2.0
    assert defence(config) == replace(released, alpha=0.5)
    assert defence(replace(config, alpha=2.0)) == released


@pytest.mark.parametrize("dataset", ["pyimports", "Cora", "Coauthor-CS", "PubMed-meta-0.10"])
def test_other_graphs_have_the_defaults(dataset: str) -> None:
    found = defence(RECIPE.defaults(dataset))
    assert (found.alpha, found.k, found.jaccard, found.cosine, found.beta) == (-0.3, 5, 0.03, 0.1, 2.0)


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_and_attack(model: str) -> None:
    config = replace(RECIPE.defaults("digits", fast=True), attack="dice", rate=0.3)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert torch.equal(first.task.edge_index, again.task.edge_index)
    assert not torch.equal(first.task.edge_index, other.task.edge_index)
    clean = load("digits").data.edge_index
    assert first.task.edge_index.size(1) != clean.size(1) or not torch.equal(first.task.edge_index, clean)


def test_what_each_model_sees() -> None:
    config = replace(RECIPE.defaults("digits", fast=True), gcn_jaccard=0.8)
    edges = {model: build(config, model, 0).task.edge_index.size(1) for model in MODELS}
    whole = load("digits").data.edge_index.size(1)
    assert 0 < edges["Jaccard-GCN"] < whole
    assert {edges[model] for model in MODELS if model != "Jaccard-GCN"} == {whole}
    experiment = build(config, "STABLE", 0)
    assert isinstance(experiment.model, STABLE)
    assert experiment.start_from[1].model is experiment.model.encoder
    assert experiment.start_from[1].max_epochs == 3


def test_prbcd_is_searched_once_for_all_models() -> None:
    from graphkit.recipes import stable

    stable._prbcd.cache_clear()
    config = replace(RECIPE.defaults("digits", fast=True), attack="prbcd", rate=0.05)
    edges = [build(config, model, 0).task.edge_index for model in ("GCN", "GAT")]
    assert torch.equal(*edges)
    assert stable._prbcd.cache_info().misses == 1
    clean = set(map(tuple, load("digits").data.edge_index.t().tolist()))
    changed = clean ^ set(map(tuple, edges[0].t().tolist()))
    assert 0 < len(changed) <= 2 * int(0.05 * len(clean) / 2)


def test_the_command_runs_all_models_and_names_the_attack(tmp_path, capsys) -> None:
    words = ["run", "stable", "--fast", "--dataset", "digits", "--attack", "random", "--rate", "0.1"]
    words += ["--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "stable" / "digits+random-0.10.json").read_text())
    assert (record["key"], record["dataset"], record["monitor"]) == ("stable", "digits+random-0.10", "Accuracy")
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Accuracy")]
    assert [row["model"] for row in rows] == list(MODELS)
    assert all(0 <= row["values"][0] <= 100 for row in rows)
    # The first stage has a folder of its own, and resuming repeats nothing.
    folder = tmp_path / "stable" / "digits+random-0.10"
    written = (folder / "STABLE-contrast" / "seed0" / "checkpoint.pt").stat().st_mtime_ns
    (folder / "STABLE" / "seed0" / "outcome.json").unlink()
    assert cli.main([*words, "--resume"]) == 0
    assert (folder / "STABLE-contrast" / "seed0" / "checkpoint.pt").stat().st_mtime_ns == written
    again = json.loads((tmp_path / "stable" / "digits+random-0.10.json").read_text())
    assert [row["values"] for row in again["rows"]] == [row["values"] for row in record["rows"]]
    assert "stable on digits+random-0.10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["--attack", "meta"], "attack must be one of none, random, dice, prbcd"),
        (["--attack", "dice", "--rate", "1.5"], "rate must be in [0, 1] (got 1.5)"),
        (["--models", "RGCN"], "must be one of STABLE, Jaccard-GCN"),
        (["--k", "-1"], "k must be in"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "stable", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["Cora-meta-0.05", "PolBlogs-meta-0.05"])
def test_published_graphs_and_figures(needs, tmp_path, dataset: str) -> None:
    root = needs("robustness/cora.npz")
    words = ["run", "stable", "--fast", "--dataset", dataset, "--root", str(root), "--device", "cpu", "--quiet"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "stable" / f"{dataset}.json").read_text())
    figures = {row["model"]: row["reported"]["mean"] for row in record["rows"] if row["reported"]}
    expected = {"STABLE": 81.4, "GCN": 76.36, "Jaccard-GCN": 80.23} if "Cora" in dataset else {"STABLE": 93.8}
    assert figures == expected
    # A graph without features keeps all edges in every pruning.
    config = replace(RECIPE.defaults(dataset, fast=True), root=str(root))
    edges = {model: build(config, model, 0).task.edge_index.size(1) for model in MODELS}
    assert (edges["Jaccard-GCN"] == edges["GCN"]) == ("PolBlogs" in dataset)
