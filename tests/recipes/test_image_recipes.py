"""Recipes of ViG and ConViT: the same data and settings for all rows, what differs between them, runs, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from graphkit import cli
from graphkit.nn import BiGatedLinearAttention, ConViT, GatedPositionalAttention, SelfAttention, TokenModel, ViG
from graphkit.recipes import convit, get_recipe, vig
from graphkit.transforms import ImageTokens


@pytest.mark.parametrize("module", [vig, convit])
def test_rows_differ_in_the_model_alone(module):
    assert get_recipe(module.RECIPE.key) is module.RECIPE
    assert module.RECIPE.defaults().dataset == "digit_images"
    config = module.RECIPE.defaults(fast=True)
    made = [module.build(config, model, 3) for model in module.MODELS]
    again, other = module.build(config, module.MODELS[0], 3), module.build(config, module.MODELS[0], 4)
    for name, weight in made[0].model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    for one in made:
        assert torch.equal(one.task.split.train, made[0].task.split.train)
        assert (one.max_epochs, one.schedule, one.clip_grad_norm) == (2, made[0].schedule, 5.0)
        trained = {id(p) for group in one.optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in one.model.parameters() if p.requires_grad}
        assert [group["weight_decay"] for group in one.optimizer.param_groups] == [config.weight_decay, 0.0]
        assert all(p.dim() <= 1 for p in one.optimizer.param_groups[1]["params"])
    assert not torch.equal(made[0].task.split.test, other.task.split.test)


def test_models_of_vig():
    config = replace(vig.RECIPE.defaults(fast=True), channels=36)
    models = {name: vig.build(config, name, 0).model for name in vig.MODELS}
    full, far, one = (models[name] for name in ("ViG", "ViG-not-local", "ViG-one-gate"))
    assert all(isinstance(model, ViG) for model in (full, far, one))
    assert far.mixers[0].conv is None
    assert full.mixers[0].lin_gate.out_features == 2 * one.mixers[0].lin_gate.out_features
    first = full.state_dict()["feed_forwards.0.lin_in.weight"]
    assert first.std() == pytest.approx(0.02, rel=0.1)
    kinds = {name: type(model.mixers[0]).__name__ for name, model in models.items()}
    assert kinds["ViT"] == "SelfAttention"
    assert kinds["mean"] == "MeanMixer"
    assert models["GLA"].mixers[0].bidirectional
    assert not models["MLP-Mixer"].feed_forwards
    assert all(isinstance(model, TokenModel) and model.position is not None for model in models.values())


def test_models_of_convit():
    config = convit.RECIPE.defaults()
    models = {name: convit.build(config, name, 0).model for name in convit.MODELS}
    assert all(isinstance(model, ConViT) for model in models.values())

    def mixers(name):
        return [type(block.mixer) for block in models[name].blocks]

    assert mixers("ConViT") == [GatedPositionalAttention] * 2 + [SelfAttention]
    assert mixers("ViT") == [SelfAttention] * 3
    start, frozen, random = (
        models[name].blocks[0].mixer for name in ("ConViT", "ConViT-fixed-gates", "ConViT-random-start")
    )
    assert start.gating.requires_grad
    assert not frozen.gating.requires_grad
    assert torch.equal(start.lin_v.weight, torch.eye(36))
    assert not torch.equal(random.lin_v.weight, torch.eye(36))
    task = convit.build(config, "ViT", 0).task
    assert task.split.train.numel() == 100
    assert replace(config, protocol="images").protocol == "images"
    assert convit.build(replace(config, protocol="images"), "ViT", 0).task.split.train.numel() > 700
    assert convit.build(replace(config, protocol="images", images=50), "ViT", 0).task.split.train.numel() == 50


def test_a_graph_that_is_a_grid_is_read_as_an_image():
    torch.manual_seed(0)
    model = TokenModel(3, 8, 2, lambda width: BiGatedLinearAttention(width, heads=2), num_layers=1)
    x = torch.randn(12, 3)
    data = ImageTokens()(Data(image=torch.rand(1, 3, 4)))
    out = vig.OneGrid(model, 12, side=4)(x, data.edge_index)
    torch.testing.assert_close(out, model(x, data))


def test_minesweeper(needs):
    root = str(needs("heterophilous/minesweeper"))
    config = replace(vig.RECIPE.defaults("Minesweeper", fast=True), root=root)
    made = vig.build(config, "ViG", 0)
    # Every edge of the graph leads to one of the eight around, so that the places are right.
    step = made.model.pos[made.task.edge_index[0]] - made.model.pos[made.task.edge_index[1]]
    assert int(step.abs().max()) == 1
    assert made.task.monitor == "AUC"
    assert made.task.loss(made.model, made.task.split.train).isfinite()


@pytest.mark.parametrize(("key", "model"), [("vig", "ViG"), ("convit", "ConViT")])
def test_runs_from_the_command_line(key, model, tmp_path, capsys):
    words = ["run", key, "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", model]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / key / "digit_images.json").read_text())
    rows = {row["metric"]: row["mean"] for row in record["rows"] if row["split"] == "test"}
    assert 0 <= rows["Accuracy"] <= 100
    assert ("10 training and 10 validation" in record["protocol"]) == (key == "convit")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vig", "--dataset", "digits"], "digits has no protocol for graph tasks"),
        (["vig", "--dataset", "graphon-domains"], "graphon-domains has no images"),
        (["vig", "--patch", "3"], "patch=3 divides"),
        (["convit", "--models", "ConVit"], "did you mean 'ConViT'"),
        (["convit", "--local-layers", "3", "--head", "class"], "for the class token to see the image"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words, message, tmp_path, capsys):
    assert cli.main(["run", *words, "--fast", "--quiet", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_large_grid_goes_without_models_of_all_pairs():
    recipe = get_recipe("vig")
    assert recipe.models_for("digit_images") == recipe.models
    assert set(recipe.models) - set(recipe.models_for("minesweeper")) == {"ViT", "MLP-Mixer"}
