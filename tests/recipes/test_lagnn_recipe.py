"""The recipe of local augmentation: settings, the chain from the generator on, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.datasets import load
from graphkit.nn import GRAND, LAGCN, LAGCNII
from graphkit.recipes import get_recipe
from graphkit.recipes.lagnn import MODELS, RECIPE, VARIANTS, build
from graphkit.train import AugmentedNetwork, LocalAugmentationTask, NeighborFeatureTask


def test_the_recipe_is_found_and_has_the_papers_settings() -> None:
    assert get_recipe("lagnn") is RECIPE
    cora, pubmed = RECIPE.defaults("Cora"), RECIPE.defaults("pubmed")
    assert (cora.epochs, cora.lr, cora.hidden, cora.dropout, cora.generated, cora.samples) == (2000, 0.01, 8, 0.5, 1, 4)
    assert (pubmed.epochs, pubmed.lr, pubmed.hidden, pubmed.generated, pubmed.gat_heads) == (300, 0.02, 4, 3, 2)
    assert (cora.cvae_hidden, cora.cvae_latent, cora.cvae_lr, cora.cvae_batch_size, cora.cvae_epochs) == (
        256,
        10,
        0.01,
        64,
        10,
    )
    assert (cora.gcnii_layers, cora.gcnii_consistency, pubmed.gcnii_conv_decay) == (64, 0, 5e-4)
    assert (pubmed.grand_batch_norm, pubmed.grand_lr, pubmed.grand_order) == (True, 0.2, 5)
    assert RECIPE.defaults().dataset == "digits"


@pytest.mark.parametrize("model", [*MODELS, *VARIANTS])
def test_every_parameter_of_the_network_is_trained_and_none_of_the_generator(model: str) -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), model, 0)
    parameters = [p for group in experiment.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in experiment.model.parameters()}
    assert len(parameters) == len({id(p) for p in parameters})
    experiment.model.train()
    experiment.task.loss(experiment.model, next(experiment.task.batches(1))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
    assert (experiment.start_from is not None) == model.startswith("LA")
    if experiment.start_from is not None:
        name, first = experiment.start_from
        assert name == "CVAE"
        assert isinstance(first.task, NeighborFeatureTask)
        assert first.model is experiment.task.cvae
        assert all(p.grad is None for p in first.model.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_fixes_weights_generator_and_split(model: str) -> None:
    config = RECIPE.defaults("digits", fast=True)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    for one, two in zip(first.chain(), again.chain(), strict=True):
        for name, weight in one.model.state_dict().items():
            assert torch.equal(weight, two.model.state_dict()[name]), name
    assert torch.equal(first.task.split.train, again.task.split.train)
    assert not torch.equal(first.task.split.train, other.task.split.train)


def test_models_of_a_seed_have_the_same_generator() -> None:
    config = RECIPE.defaults("digits", fast=True)
    weights = [build(config, model, 3).start_from[1].model.state_dict() for model in ("LAGCN", "LAGAT", "LAGRAND")]
    for other in weights[1:]:
        assert all(torch.equal(value, weights[0][name]) for name, value in other.items())


@pytest.mark.parametrize("name", ["GCN", "GAT", "GCNII"])
@pytest.mark.parametrize("dataset", ["Cora", "PubMed"])
def test_a_baseline_is_as_wide_as_all_branches(name: str, dataset: str) -> None:
    config = replace(RECIPE.defaults(dataset), dataset="digits", gcnii_layers=2, row_normalize=False)
    plain, augmented = build(config, name, 0).model, build(config, f"LA{name}", 0).model.network
    assert (plain.num_generated, augmented.num_generated) == (0, config.generated)
    sizes = [sorted(p.shape for p in model.rest.parameters()) for model in (plain, augmented)]
    assert sizes[0] == sizes[1]


def test_larger_features_are_scaled_for_the_generator_alone(monkeypatch) -> None:
    config = replace(RECIPE.defaults("digits", fast=True), row_normalize=True)
    plain = build(config, "LAGCN", 0).task
    dataset = load("digits")
    dataset.data.x = dataset.data.x * 3
    monkeypatch.setattr("graphkit.recipes.lagnn.load", lambda *_: dataset)
    scaled = build(config, "LAGCN", 0).task
    torch.testing.assert_close(scaled.condition, plain.condition)
    torch.testing.assert_close(scaled.x, plain.x)
    torch.testing.assert_close(build(config, "GCN", 0).task.x, plain.x)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        build(replace(config, row_normalize=False), "LAGCN", 0)


def test_models_and_tasks() -> None:
    config = RECIPE.defaults("digits", fast=True)
    made = {model: build(config, model, 0) for model in ("GCN", "LAGCN", "LAGCNII", "GRAND", "LAGRAND")}
    assert isinstance(made["GCN"].model, LAGCN)
    assert isinstance(made["LAGCN"].model, AugmentedNetwork)
    assert isinstance(made["LAGRAND"].model, GRAND)
    assert (made["GCN"].task.num_samples, made["GCN"].task.weight) == (1, 0)
    assert (made["GRAND"].task.num_samples, made["GRAND"].task.weight) == (4, 1)
    assert isinstance(made["LAGRAND"].task, LocalAugmentationTask)
    assert made["LAGRAND"].task.fixed
    assert build(config, "LAGCN-NoConsistency", 0).task.weight == 0
    assert build(config, "LAGCN-NoSharpening", 0).task.temperature == 1
    assert build(replace(config, gcnii_consistency=0.0), "LAGCNII", 0).task.weight == 0
    layers, rest = made["LAGCNII"].optimizer.param_groups[1], made["LAGCNII"].optimizer.param_groups[0]
    assert (layers["weight_decay"], rest["weight_decay"]) == (0.01, 5e-4)
    assert isinstance(made["LAGCNII"].model.network, LAGCNII)
    assert len(layers["params"]) == config.gcnii_layers


def test_the_released_score_gets_the_labels_of_training_nodes_alone() -> None:
    config = replace(RECIPE.defaults("digits", fast=True), selector="agreement")
    experiment = build(config, "LAGCN", 0)
    critic, generator, _ = experiment.chain()
    selector = generator.task.selector
    assert (selector.name, generator.task.monitor, selector.passes) == ("Agreement", "Agreement", 4)
    assert selector.critic is critic.model
    assert torch.equal(selector.nodes, experiment.task.split.train)
    assert torch.equal(selector.labels, experiment.task.y[selector.nodes])


@pytest.mark.parametrize("selector", ["bald", "last"])
def test_other_ways_to_choose_the_generator(selector: str, tmp_path) -> None:
    words = ["run", "lagnn", "--fast", "--models", "LAGCN", "--selector", selector, "--device", "cpu", "--quiet"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    folder = tmp_path / "lagnn" / "digits"
    assert (folder / "CVAE" / "seed0" / "checkpoint.pt").exists()
    assert (folder / "critic" / "seed0" / "checkpoint.pt").exists() == (selector != "last")
    history = (folder / "CVAE" / "seed0" / "history.csv").read_text().splitlines()
    assert ("valid/BALD" in history[0]) == (selector == "bald")
    if selector == "last":
        assert history[1].endswith(",") or ",," in history[1], "the first epoch is not evaluated"


def test_the_command_runs_all_models(tmp_path, capsys) -> None:
    words = ["run", "lagnn", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "lagnn" / "digits.json").read_text())
    assert (record["key"], record["dataset"], record["monitor"]) == ("lagnn", "digits", "Likelihood")
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Accuracy")]
    assert [row["model"] for row in rows] == list(MODELS)
    assert all(0 <= row["values"][0] <= 100 for row in rows)
    assert "lagnn on digits" in capsys.readouterr().out


def test_models_of_a_run_share_the_generators_training(tmp_path, monkeypatch) -> None:
    passes = []
    batches = NeighborFeatureTask.batches
    monkeypatch.setattr(
        NeighborFeatureTask, "batches", lambda task, epoch: (passes.append(epoch), batches(task, epoch))[1]
    )
    words = ["run", "lagnn", "--fast", "--models", "LAGCN", "LAGAT", "--runs", "2", "--device", "cpu", "--quiet"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    assert passes == [1, 2, 1, 2], "two epochs for each seed, whatever the number of models"


def test_a_run_resumed_after_the_generator_is_the_same(tmp_path) -> None:
    words = ["run", "lagnn", "--fast", "--models", "LAGCN", "--device", "cpu", "--quiet", "--out"]
    values = []
    for name in ("whole", "part"):
        assert cli.main([*words, str(tmp_path / name)]) == 0
        if name == "part":
            # As if it had been killed after the generator was trained.
            for path in (tmp_path / name / "lagnn" / "digits" / "LAGCN" / "seed0").iterdir():
                path.unlink()
            assert cli.main([*words, str(tmp_path / name), "--resume"]) == 0
        record = json.loads((tmp_path / name / "lagnn" / "digits.json").read_text())
        values.append([(row["metric"], row["split"], row["values"]) for row in record["rows"]])
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["--models", "LAGIN"], "must be one of GCN, LAGCN"),
        (["--selector", "loss"], "selector must be one of elbo, bald, agreement, last"),
        (["--models", "LAGCN", "--pool-size", "3"], "pool_size must be at least the 5 samples"),
        (["--models", "LAGCN", "--samples", "1"], "num_samples must be >= 2"),
        (["--models", "LAGCN", "--generated", "-1"], "num_generated"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "lagnn", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_public_split_and_the_papers_figures(needs, tmp_path) -> None:
    root = needs("planetoid/Cora")
    words = ["run", "lagnn", "--fast", "--dataset", "Cora", "--root", str(root), "--models", "GCN", "LAGCN"]
    assert cli.main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "lagnn" / "Cora.json").read_text())
    figures = {row["model"]: row["reported"]["mean"] for row in record["rows"] if row["reported"]}
    assert figures == {"GCN": 81.5, "LAGCN": 84.6}
    task = build(replace(RECIPE.defaults("Cora", fast=True), root=str(root)), "LAGCN", 3).task
    assert [len(part) for part in (task.split.train, task.split.valid, task.split.test)] == [140, 500, 1000]
    torch.testing.assert_close(task.x.sum(1), torch.ones(2708))
    assert float(task.condition.values().max()) == 1, "the generator sees the features as they are"
