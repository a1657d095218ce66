"""Labels of events by models trained on links: how the parts are put together, and runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.datasets import load
from graphkit.recipes import _streams, get_recipe, temporal_nodes
from graphkit.recipes.temporal_nodes import MODELS, RECIPE, build

EVENTS = 1500


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The datasets' first events."""

    def first(name: str, root: str | None = None):
        dataset = load(name, root)
        return replace(dataset, data=dataset.data[:EVENTS])

    for module in (temporal_nodes, _streams):
        monkeypatch.setattr(module, "load", first)


def test_the_recipe_is_found() -> None:
    assert get_recipe("temporal_nodes") is RECIPE
    config = RECIPE.defaults()
    assert (config.dataset, config.encoder, config.use_msg) == ("nycflights", "frozen", True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("encoder", ["frozen", "tuned", "new"])
def test_what_is_trained(model: str, encoder: str) -> None:
    config = replace(RECIPE.defaults(fast=True), encoder=encoder)
    experiment, again = build(config, model, 3), build(config, model, 3)
    for name, value in experiment.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    trained = {id(p) for group in experiment.optimizer.param_groups for p in group["params"]}
    of_encoder = {id(p) for p in experiment.model.encoder.parameters()}
    assert {id(p) for p in experiment.model.parameters()} - of_encoder <= trained
    assert of_encoder.isdisjoint(trained) if encoder == "frozen" else of_encoder <= trained
    assert experiment.model.freeze == (encoder == "frozen")
    if model == "MLP" or encoder == "new":
        assert experiment.start_from is None
    else:
        assert experiment.start_from[1].model is experiment.model.encoder
    assert experiment.task.event_dim == 9
    assert build(replace(config, use_msg=False), model, 3).task.event_dim == 0


def test_the_command_runs_all_models_and_resumes(tmp_path, capsys) -> None:
    words = ["run", "temporal_nodes", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    path = tmp_path / "temporal_nodes" / "nycflights.json"
    record = json.loads(path.read_text())
    assert record["monitor"] == "AUC"
    rows = {row["model"]: row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "AUC")}
    assert tuple(rows) == MODELS
    assert all(0 < row["values"][0] < 100 for row in rows.values())
    assert {row["metric"] for row in record["rows"]} == {"AUC", "AP"}
    # The links were learned first, in a folder of their own, and are not learned again.
    folder = path.parent / "nycflights"
    links = folder / "TGN-links" / "seed0" / "checkpoint.pt"
    written = links.stat().st_mtime_ns
    (folder / "TGN" / "seed0" / "outcome.json").unlink()
    assert cli.main([*words, "--resume"]) == 0
    assert links.stat().st_mtime_ns == written
    again = json.loads(path.read_text())
    assert [row["values"] for row in again["rows"]] == [row["values"] for row in record["rows"]]
    assert "temporal_nodes on nycflights" in capsys.readouterr().out


def test_an_encoder_keeps_what_it_learned_from_links(tmp_path) -> None:
    """Its weights after the run are those of the best epoch on links."""
    from graphkit.bench.runner import RunOptions, _run_one
    from graphkit.train import make_fabric

    config = RECIPE.defaults(fast=True)
    made = []

    class Kept:
        def __getattr__(self, name):
            return getattr(RECIPE, name)

        def build(self, *arguments):
            made.append(build(*arguments))
            made.append({name: p.clone() for name, p in made[0].model.encoder.named_parameters()})
            return made[0]

    place = tmp_path / "TGN" / "seed0"
    _run_one(Kept(), config, "TGN", 0, place, RunOptions(quiet=True), make_fabric("cpu"), set())
    saved = torch.load(tmp_path / "TGN-links" / "seed0" / "checkpoint.pt", weights_only=True)["best_state"]
    for name, p in made[0].model.encoder.named_parameters():
        assert torch.equal(p, saved[name])
    assert any(not torch.equal(p, made[1][name]) for name, p in made[0].model.encoder.named_parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digits"], "digits has no protocol for temporal tasks"),
        (["--models", "GCN"], "must be one of TGN, JODIE, APAN, NAT, MLP"),
        (["--encoder", "thawed"], "encoder must be one of frozen, tuned, new"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", "temporal_nodes", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
