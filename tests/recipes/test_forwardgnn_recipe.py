"""Forward learning of nodes and links: settings of the paper, what each model is made of, and runs by command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import ForwardStack
from graphkit.recipes import forward_gnn, forward_gnn_links, get_recipe
from graphkit.train.local import ForwardForwardTask, ForwardLinkTask, SingleForwardTask, TopDownLinkTask, TopDownTask

RECIPES = {"forward_gnn": forward_gnn, "forward_gnn_links": forward_gnn_links}
DEPTHS = {"forward_gnn": ("layers", "label_layers"), "forward_gnn_links": ("layers",)}
CASES = [(key, model) for key, module in RECIPES.items() for model in module.MODELS]


@pytest.mark.parametrize("key", RECIPES)
def test_the_recipe_is_found_and_has_the_papers_settings(key: str) -> None:
    recipe = get_recipe(key)
    config = recipe.defaults("Cora")
    assert (config.hidden, config.heads, config.lr, config.weight_decay) == (128, 4, 0.001, 5e-4)
    assert (config.epochs, config.eval_every, config.patience) == (1000, 2, 100)
    assert (config.theta, config.infer_steps, config.skip_steps, config.alternating) == (2.0, 10, 2, True)
    assert "64/16/20" in recipe.describe(config)
    assert recipe.defaults().dataset == "digits"


@pytest.mark.parametrize(("key", "model"), CASES)
def test_a_seed_fixes_weights_and_split(key: str, model: str) -> None:
    module = RECIPES[key]
    config = module.RECIPE.defaults("digits", fast=True)
    first, again, other = (module.build(config, model, seed) for seed in (0, 0, 1))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    part = "train" if key == "forward_gnn" else "train_pos"
    assert torch.equal(getattr(first.task.split, part), getattr(again.task.split, part))
    assert not torch.equal(getattr(first.task.split, part), getattr(other.task.split, part))


@pytest.mark.parametrize(("key", "model"), CASES)
def test_what_a_model_is_made_of(key: str, model: str) -> None:
    module = RECIPES[key]
    last = module.build(
        replace(module.RECIPE.defaults("digits", fast=True), **{name: 3 for name in DEPTHS[key]}), model, 0
    )
    chain = last.chain()
    tasks = {
        "forward_gnn": {"SF": SingleForwardTask, "FF": ForwardForwardTask, "SF-Top2": TopDownTask},
        "forward_gnn_links": {"SF": ForwardLinkTask, "FF": ForwardLinkTask, "SF-Top2": TopDownLinkTask},
    }[key]
    if model.startswith("BP"):
        assert len(chain) == 1
        assert not isinstance(last.model, ForwardStack)
        return
    assert len(last.model.layers) == 3
    if "Top2" in model:
        assert type(last.task) is tasks["SF-Top2"]
        assert len(chain) == 1
        assert last.task.num_batches() == 3
        return
    assert type(last.task) is tasks[model[:2]]
    assert [len(stage.model.layers) for stage in chain] == [1, 2, 3]
    for depth, stage in enumerate(chain):
        (group,) = stage.optimizer.param_groups
        mine = {id(p) for p in last.model.layers[depth].parameters()}
        assert {id(p) for p in group["params"]} == mine


def test_groups_and_penalties() -> None:
    config = forward_gnn.RECIPE.defaults("digits", fast=True)
    loss = forward_gnn.build(config, "SF-Top2Loss", 0)
    assert (loss.clip_grad_norm, len(loss.optimizer.param_groups)) == (1.0, 2)
    assert forward_gnn.build(config, "SF-Top2Input", 0).clip_grad_norm is None
    config = forward_gnn_links.RECIPE.defaults("digits", fast=True)
    decay = {
        m: forward_gnn_links.build(config, m, 0).optimizer.param_groups[0]["weight_decay"] for m in ("SF-GCN", "FF")
    }
    assert decay == {"SF-GCN": 5e-4, "FF": 5e-4}
    assert forward_gnn_links.build(config, "SF-Top2Input", 0).optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(("key", "monitor"), [("forward_gnn", "Accuracy"), ("forward_gnn_links", "AUC")])
def test_the_command_runs_all_models(key: str, monitor: str, tmp_path, capsys) -> None:
    words = ["run", key, "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / key / "digits.json").read_text())
    assert (record["key"], record["dataset"], record["monitor"]) == (key, "digits", monitor)
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", monitor)]
    assert [row["model"] for row in rows] == list(RECIPES[key].MODELS)
    for row in rows:
        assert 0 <= row["values"][0] <= 100
        assert row["parameters"] > 0
    # The first layer has a folder of its own, and its time counts.
    place = tmp_path / key / "digits"
    assert (place / "SF-GCN.layer1" / "seed0" / "checkpoint.pt").is_file()
    last = json.loads((place / "SF-GCN" / "seed0" / "outcome.json").read_text())
    assert last["seconds"] > sum(row["seconds"] for row in last["history"])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forward_gnn", "--models", "SF-GIN"], "must be one of BP-GCN"),
        (["forward_gnn", "--protocol", "link"], "protocol must be one of"),
        (["forward_gnn", "--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["forward_gnn", "--models", "SF-GAT", "--hidden", "9"], "heads=4"),
        (["forward_gnn_links", "--models", "SF"], "must be one of BP-GCN"),
        (["forward_gnn_links", "--protocol", "link", "--models", "SF-GCN"], "train_neg"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", words[0], "--fast", "--quiet", "--out", str(tmp_path), *words[1:]]) == 2
    assert message in capsys.readouterr().err


def test_real_graphs(needs) -> None:
    root = str(needs("planetoid/Cora"))
    config = replace(forward_gnn.RECIPE.defaults("Cora", fast=True), root=root)
    task = forward_gnn.build(config, "SF-GCN", 0).task
    assert [len(part) for part in (task.split.train, task.split.valid, task.split.test)] == [1733, 433, 542]
    assert task.sparse_x.is_sparse_csr
    config = replace(forward_gnn_links.RECIPE.defaults("Cora", fast=True), root=root)
    split = forward_gnn_links.build(config, "SF-GCN", 0).task.split
    sizes = [part.size(1) for part in (split.train_pos, split.valid_pos, split.test_pos)]
    assert sizes == [3379, 844, 1055]
    assert [part.size(1) for part in (split.train_neg, split.valid_neg, split.test_neg)] == sizes
