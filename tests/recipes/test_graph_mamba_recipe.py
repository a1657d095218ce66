"""The recipe of Graph Mamba: rows, groups of weights, tasks of nodes and of graphs, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.datasets import Dataset, info
from graphkit.datasets.pyg import Graphs
from graphkit.datasets.ring_transfer import ring_transfer
from graphkit.nn import BiMamba, GraphMambaNet, SelectiveSSM
from graphkit.recipes import get_recipe, graph_mamba
from graphkit.recipes.graph_mamba import MODELS, RECIPE, VARIANTS, build
from graphkit.train.pretrain import GraphEncoder


def test_the_recipe_is_found_and_defaults_are_the_cards() -> None:
    assert get_recipe("graph_mamba") is RECIPE
    config = RECIPE.config()
    assert (config.hidden, config.m, config.s, config.num_walks, config.epochs) == (64, 4, 4, 4, 300)
    assert (config.lr, config.weight_decay, config.warmup, config.clip) == (1e-3, 1e-4, 10, 1.0)
    assert RECIPE.defaults().dataset == "digits"


def test_rows_differ_in_what_their_names_say() -> None:
    config = RECIPE.defaults("digits", fast=True)
    found = {name: build(config, name, 0).model for name in (*MODELS[:5], *VARIANTS)}
    whole = found["GMN"]
    assert isinstance(whole.layers[0].mixer, BiMamba)
    assert whole.order == "degree"
    assert isinstance(found["GMN-OneWay"].layers[0].mixer, SelectiveSSM)
    assert isinstance(found["GMN-OneWay"].token_mixers[0], SelectiveSSM)
    assert found["GMN-NoMPNN"].layers[0].conv is None
    assert found["GMN-PageRank"].order == "pagerank"
    assert found["GMN-RandomOrder"].order == "random"
    assert found["GatedGCN"].layers[0].mixer is None
    assert found["GatedGCN"].encoder is None
    plain = build(config, "GCN", 0).model
    assert (plain.layers[0].mixer, type(plain.layers[0].conv).__name__) == (None, "_GCN")
    wide = build(replace(config, gcn_hidden=12, gcn_layers=2), "GCN", 0).model
    assert (wide.hidden_channels, len(wide.layers)) == (12, 2)
    assert found["GMN-NoTokens"].encoder is None
    assert found["GMN-NoTokens"].layers[0].mixer is not None
    assert found["GMN-NoEncoding"].in_channels == whole.in_channels - config.walk_encoding


@pytest.mark.parametrize("model", ["GMN", "GIN"])
def test_a_seed_fixes_the_run_and_every_weight_is_trained(model: str) -> None:
    config = RECIPE.defaults("digits", fast=True)
    first, again = (build(config, model, 3) for _ in range(2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    grouped = [p for group in first.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in first.model.parameters()}
    first.model.train()
    first.task.loss(first.model, next(first.task.batches(1))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in grouped)


def test_rates_and_skips_do_not_decay() -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), "GMN", 0)
    free = {id(p) for p in experiment.optimizer.param_groups[1]["params"]}
    assert experiment.optimizer.param_groups[1]["weight_decay"] == 0
    names = {name.rsplit(".", 1)[-1] for name, p in experiment.model.named_parameters() if id(p) in free}
    assert names == {"log_rate", "skip"}


@pytest.fixture
def few_rings(monkeypatch):
    data, slices = Graphs.collate(ring_transfer(40, 16))
    dataset = Dataset(info("ring-transfer"), graphs=Graphs(data, slices))
    monkeypatch.setattr(graph_mamba, "load", lambda name, root: dataset)


def test_graphs_are_read_at_their_first_node(few_rings) -> None:
    config = RECIPE.defaults("ring-transfer", fast=True)
    gmn, gin = (build(config, model, 0) for model in ("GMN", "GIN"))
    assert isinstance(gmn.model, GraphMambaNet)
    assert isinstance(gin.model, GraphEncoder)
    batch = gin.task._graphs.batch(torch.arange(2))
    for experiment in (gmn, gin):
        model = experiment.model.eval()
        changed = batch.x.clone()
        changed[1] += 1  # a neighbour of the first graph's first node
        before = model(batch.x, batch.edge_index, batch.batch, 2)
        after = model(changed, batch.edge_index, batch.batch, 2)
        assert not torch.equal(before[0], after[0])
        torch.testing.assert_close(before[1], after[1])
    far = batch.x.clone()
    far[8] += 1  # what stands opposite
    heard = [
        not torch.allclose(
            e.model(far, batch.edge_index, batch.batch, 2), e.model(batch.x, batch.edge_index, batch.batch, 2)
        )
        for e in (gmn, gin)
    ]
    assert heard == [True, False]


def test_features_are_standardized_over_all_graphs() -> None:
    config = replace(RECIPE.defaults("digits", fast=True), standardize=True, walk_encoding=0)
    x = build(config, "GCN", 0).task.x
    varies = x.std(0) > 0.5
    torch.testing.assert_close(x.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0)[varies], torch.ones(int(varies.sum())))


def test_a_resumed_run_is_the_same_run(tmp_path) -> None:
    def run(folder, epochs: int, resume: bool = False):
        experiment = build(replace(RECIPE.defaults("digits", fast=True), resample=True), "GMN", 0)
        experiment.max_epochs = epochs
        return experiment.run(device="cpu", folder=folder, resume=resume, progress=False), experiment.model

    whole, model = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 2)
    again, other = run(tmp_path / "parts", 3, resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_the_command_runs_all_models(tmp_path, capsys) -> None:
    words = ["run", "graph_mamba", "--fast", "--epochs", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "graph_mamba" / "digits.json").read_text())
    assert record["protocol"].startswith("48/32/20 %")
    rows = [row["model"] for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Accuracy")]
    assert rows == list(MODELS)


def test_real_graphs_and_the_papers_figures(needs, tmp_path) -> None:
    root = str(needs("heterophilous/minesweeper"))
    config = replace(RECIPE.defaults("Minesweeper", fast=True), root=root)
    task = build(config, "GCN", 12).task
    assert task.metrics[0] == "AUC"
    assert not torch.equal(task.split.train, build(config, "GCN", 13).task.split.train)
    assert torch.equal(task.split.train, build(config, "GCN", 2).task.split.train)
    assert RECIPE.reported["GMN", "Minesweeper"].mean == 91.01


def test_sets_of_graphs(needs) -> None:
    root = str(needs("tu/MUTAG"))
    experiment = build(replace(RECIPE.defaults("MUTAG", fast=True), root=root), "GIN", 0)
    assert experiment.task.num_graphs == 188
    assert experiment.task.num_classes == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--order", "up"], "order must be one of"),
        (["--dataset", "triadic-closure"], "triadic-closure has no protocol for node tasks"),
        (["--models", "GPS"], "must be one of GMN"),
        (["--walk-encoding", "-1"], "walk_encoding must be in"),
        (["--dataset", "graphon-domains", "--walk-encoding", "0"], "has no node features; ask for walk_encoding"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "graph_mamba", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
