"""The node-classification baselines: settings, models, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GATConv

from graphkit import cli
from graphkit.datasets import load
from graphkit.recipes import gcn, get_recipe
from graphkit.recipes.gcn import MODELS, RECIPE, build


def test_the_recipe_is_found_and_has_the_papers_settings() -> None:
    assert get_recipe("gcn") is RECIPE
    config = RECIPE.defaults("Cora")
    assert (config.hidden, config.dropout, config.lr, config.weight_decay, config.epochs) == (16, 0.5, 0.01, 5e-4, 200)
    assert (config.gat_hidden, config.gat_heads, config.gat_output_heads, config.gat_lr) == (8, 8, 1, 0.005)
    pubmed = RECIPE.defaults("pubmed")
    assert (pubmed.gat_output_heads, pubmed.gat_lr, pubmed.gat_weight_decay) == (8, 0.01, 0.001)
    assert RECIPE.defaults().dataset == "digits"


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_and_split(model: str) -> None:
    config = RECIPE.defaults("digits", fast=True)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert torch.equal(first.task.split.train, again.task.split.train)
    assert not torch.equal(first.task.split.train, other.task.split.train)
    assert first.task.logits(first.model).shape == (1797, 10)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_is_trained_and_has_a_gradient(model: str) -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), model, 0)
    parameters = [p for group in experiment.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in experiment.model.parameters()}
    assert len(parameters) == len({id(p) for p in parameters})
    experiment.model.train()
    experiment.task.loss(experiment.model, next(experiment.task.batches(1))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)


@pytest.mark.parametrize("model", ["GCN", "SAGE", "MLP"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_penalty_is_on_the_first_layer_alone(model: str, layers: int) -> None:
    config = replace(RECIPE.defaults("digits", fast=True), layers=layers)
    experiment = build(config, model, 0)
    first, rest = experiment.optimizer.param_groups
    assert (first["weight_decay"], rest["weight_decay"]) == (5e-4, 0)
    widths = {p.size(1) for p in first["params"] if p.dim() == 2}
    assert widths == {64}
    assert all(p.dim() == 1 or p.size(1) != 64 for p in rest["params"])


def test_gat_is_the_papers_network() -> None:
    """Against PyG's layers put together by hand."""
    experiment = build(RECIPE.defaults("digits"), "GAT", 0)
    model, task = experiment.model.eval(), experiment.task
    first, second = GATConv(64, 8, 8), GATConv(64, 10, 1, concat=False)
    weights = iter(model.state_dict().values())
    for layer in (first, second):
        names = list(layer.state_dict())
        layer.load_state_dict(dict(zip(names, weights, strict=False)))
    expected = second(nn.functional.elu(first(task.x, task.edge_index)), task.edge_index)
    torch.testing.assert_close(task.logits(model), expected, atol=1e-5, rtol=1e-5)


def test_the_mlp_does_not_see_the_graph() -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), "MLP", 0)
    task, model = experiment.task, experiment.model.eval()
    before = task.logits(model)
    task.edge_index = task.edge_index[:, :10]
    task.__dict__.pop("graph")
    assert torch.equal(task.logits(model), before)


def test_the_protocol_is_the_first_for_nodes_or_the_one_asked_for() -> None:
    # The first protocol of this graph is for links.
    config = RECIPE.defaults("pyimports", fast=True)
    assert build(config, "MLP", 0).task.split.train.numel() == 20 * 12
    assert build(replace(config, protocol="random"), "MLP", 0).task.split.train.numel() > 2000


def test_the_command_runs_all_models(tmp_path, capsys) -> None:
    words = ["run", "gcn", "--fast", "--runs", "2", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "gcn" / "digits.json").read_text())
    assert (record["key"], record["dataset"], record["monitor"]) == ("gcn", "digits", "Accuracy")
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Accuracy")]
    assert [row["model"] for row in rows] == list(MODELS)
    for row in rows:
        assert len(row["values"]) == 2
        assert all(0 <= value <= 100 for value in row["values"])
        assert row["parameters"] > 0
    assert "gcn on digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["--protocol", "public"], "protocol must be one of random, per-class, unseen-nodes, five-fold (got 'public')"),
        (["--protocol", "link"], "protocol must be one of random, per-class, unseen-nodes, five-fold (got 'link')"),
        (["--models", "GIN"], "must be one of GCN, GAT, SAGE, MLP"),
        (["--dropout", "2"], "dropout must be in [0, 1] (got 2.0)"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "gcn", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_models_that_read_features_are_refused_before_others_are_trained(tmp_path, capsys, monkeypatch) -> None:
    assert RECIPE.models_for("polblogs") == ("GCN", "SAGE")
    assert RECIPE.models_for("digits") == MODELS

    def without_features(name, root):
        dataset = load("digits")
        return replace(dataset, data=Data(edge_index=dataset.data.edge_index, y=dataset.data.y, num_nodes=1797))

    monkeypatch.setattr(gcn, "load", without_features)
    words = ["run", "gcn", "--fast", "--dataset", "polblogs", "--protocol", "random", "--device", "cpu", "--quiet"]
    words += ["--out", str(tmp_path)]
    assert cli.main([*words, "--models", "GCN", "GAT"]) == 2
    assert "PolBlogs has no node features, which GAT needs; run GCN or SAGE" in capsys.readouterr().err
    assert not (tmp_path / "gcn" / "PolBlogs").exists()


def test_the_public_split_and_the_papers_figures(needs, tmp_path) -> None:
    root = needs("planetoid/Cora")
    words = ["run", "gcn", "--fast", "--dataset", "Cora", "--root", str(root), "--models", "GCN", "GAT"]
    assert cli.main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "gcn" / "Cora.json").read_text())
    figures = {row["model"]: row["reported"]["mean"] for row in record["rows"] if row["reported"]}
    assert figures == {"GCN": 81.5, "GAT": 83.0}
    task = build(replace(RECIPE.defaults("Cora", fast=True), root=str(root)), "GCN", 3).task
    assert [len(part) for part in (task.split.train, task.split.valid, task.split.test)] == [140, 500, 1000]
    assert task.sparse_x.layout == torch.sparse_csr
    torch.testing.assert_close(task.x.sum(1), torch.ones(2708))
