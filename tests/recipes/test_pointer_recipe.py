"""The recipes of pointing and of Hopfield retrieval: their models, and runs on the command line."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from graphkit import cli
from graphkit.bench.records import Record, Row
from graphkit.datasets import load, registry
from graphkit.datasets.bags import bit_pattern_bags
from graphkit.datasets.pointing import PROBLEMS
from graphkit.nn import AttentionSeq2Seq, HopfieldPooling, PointerNetwork, TokenModel
from graphkit.recipes import get_recipe, hopfield, hopfield_recall, pointer_net


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """The sets of problems with 80 graphs."""
    for name in PROBLEMS:
        facts, loader = registry.ENTRIES[name]
        monkeypatch.setitem(registry.ENTRIES, name, (replace(facts, graphs=80), loader))


def small(name: str):
    return replace(pointer_net.RECIPE.defaults(name, fast=True), epoch_size=8, batch_size=8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_can_be_pointed_at(name):
    """All weights learn, the rule's answers are judged, and only models that can are scored on larger graphs."""
    config, problem = replace(small(name), other_sizes=(11,)), PROBLEMS[name]
    for model in pointer_net.MODELS:
        experiment = pointer_net.build(config, model, 0)
        if model == "Rule":
            found = experiment.task.evaluate(experiment.model, "valid")
            assert found[experiment.task.monitor] > 0 or name.startswith("sort")
            continue
        assert experiment.task.other_sizes == ((11,) if model != "Attention" or name == "digit-paths" else ())
        network = experiment.model
        assert (network.end_token, network.unique) == (problem.end_token, problem.unique)
        experiment.task.loss(network, next(experiment.task.batches(1))).backward()
        trained = {id(p) for group in experiment.optimizer.param_groups for p in group["params"]}
        assert all(id(p) in trained and p.grad is not None for p in network.parameters())


def test_rows_are_what_they_say():
    models = {name: pointer_net.build(small("convex-hull-5"), name, 0).model for name in pointer_net.MODELS}
    assert isinstance(models["Ptr-Net"].encoder, torch.nn.LSTM)
    assert isinstance(models["Set Ptr-Net"].encoder, TokenModel)
    assert isinstance(models["Attention"], AttentionSeq2Seq)
    assert type(models["Ptr-Net"]) is PointerNetwork
    assert get_recipe("pointer_net").defaults().hidden == 128


def test_greedy_paths_go_nearer_step_by_step():
    task = pointer_net.build(small("digit-paths"), "Rule", 0).task
    batch = task._graphs["valid"].batch(torch.arange(40))
    (found,) = pointer_net.Rule("digit-paths").decode(batch.x, batch)
    joined = set(map(tuple, batch.edge_index.t().tolist()))
    for row, low, answer in zip(found, batch.ptr[:-1].tolist(), batch.target, strict=True):
        steps = [low + int(node) for node in row if node >= 0]
        assert len(set(steps)) == len(steps)
        assert steps[0] == low + int(answer[0])
        assert all(pair in joined for pair in pairwise(steps))
        end = low + int(answer[answer >= 0][-1])
        # The first step goes to the neighbour nearest to the end.
        near = {n: float((batch.x[n, :-2] - batch.x[end, :-2]).norm()) for a, n in joined if a == steps[0]}
        assert near[steps[1]] == min(near.values())


def test_pointing_runs(tmp_path, capsys):
    words = ["run", "pointer_net", "--fast", "--dataset", "sort-5", "--device", "cpu", "--quiet"]
    assert cli.main([*words, "--models", "Ptr-Net", "Rule", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "pointer_net" / "sort-5.json").read_text())
    assert record["monitor"] == "Exact"
    assert "drawn anew in every epoch" in record["protocol"]
    assert {row["metric"] for row in record["rows"]} >= {"Exact", "Share"}
    assert cli.main([*words[:3], "--dataset", "digits", "--quiet", "--out", str(tmp_path)]) == 2
    assert "no protocol for pointing tasks" in capsys.readouterr().err


# Hopfield -------------------------------------------------------------------------------------------------------------


def test_a_bag_is_positive_if_it_holds_a_signal():
    bags = bit_pattern_bags(64, seed=2)
    signals = {tuple(row) for row in bags.x[bags.signal].tolist()}
    assert 1 < len(signals) <= 8
    for bag, label in zip(bags.x.view(64, 16, 8).tolist(), bags.y.tolist(), strict=True):
        assert sum(tuple(row) in signals for row in bag) == label
    assert torch.equal(bags.x, bit_pattern_bags(64, seed=2).x)
    assert not torch.equal(bags.x, bit_pattern_bags(64, seed=3).x)
    assert set(bags.x.unique().tolist()) == {-1.0, 1.0}
    stored = load("bit-bags").graphs
    assert torch.equal(stored[5].x, bit_pattern_bags().x[80:96])
    with pytest.raises(ValueError, match="num_signals must be in"):
        bit_pattern_bags(num_bits=2, num_signals=4)


@pytest.mark.parametrize("model", hopfield.MODELS)
def test_a_pooling_is_the_only_difference(model):
    config = hopfield.RECIPE.defaults(fast=True)
    experiment = hopfield.build(config, model, 0)
    pooling = experiment.model.pooling
    assert isinstance(pooling, HopfieldPooling) == (model != "Mean")
    if model != "Mean":
        assert pooling.association.steps == (3 if model == "Hopfield" else 0)
        assert float(pooling.association.beta) == 0.25
    experiment.task.loss(experiment.model, next(experiment.task.batches(1))).backward()
    assert all(p.grad is not None for p in experiment.model.parameters())


def test_recall_is_that_of_the_layer():
    config = replace(hopfield_recall.RECIPE.defaults(), patterns=200, curve=(50, 3000), betas=(4.0,))
    found = {}
    for model in hopfield_recall.MODELS:
        experiment = hopfield_recall.build(config, model, 0)
        found[model] = experiment.task.evaluate(experiment.model, "test")["Recalled"]
        table = experiment.task.table(experiment.model)
        assert (table["patterns"], table["beta"]) == ([50], [4.0])
    assert found["Hebbian"] < 10 < 70 < found["One retrieval"] <= found["Hopfield"]
    with pytest.raises(ValueError, match="patterns must be at most 1797"):
        hopfield_recall.build(replace(config, patterns=2000), "Hopfield", 0)


def test_hopfield_runs(tmp_path, capsys):
    for key, name, models in (
        ("hopfield_recall", "digits", ["Hopfield", "Hebbian"]),
        ("hopfield", "bit-bags", ["Hopfield"]),
    ):
        words = ["run", key, "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", *models]
        assert cli.main(words) == 0
        record = json.loads((tmp_path / key / f"{name}.json").read_text())
        assert {row["model"] for row in record["rows"]} == set(models)
    assert cli.main(["run", "hopfield", "--dataset", "digits", "--quiet", "--out", str(tmp_path)]) == 2
    assert "no protocol for graph tasks" in capsys.readouterr().err


def test_the_plot_of_recall(tmp_path, monkeypatch):
    """A line a model and temperature, higher where more is recalled; without a table it is told."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    script = importlib.import_module("plot_recall")
    table = {"patterns": [50, 50, 100, 100], "beta": [1.0, 4.0] * 2, "Recalled": [90, 95, 60, 80], "Error": [0] * 4}
    record = Record(
        key="hopfield_recall",
        dataset="digits",
        protocol="",
        command="",
        rows=[Row("Hopfield", "Recalled", "test", [80.0])],
        seeds=[0],
        config={},
        monitor="Recalled",
        tables={"Hopfield": table},
    )
    script.main(["--record", str(record.save(tmp_path)), "--out", str(tmp_path / "plot.svg")])
    drawn = ElementTree.parse(tmp_path / "plot.svg").getroot()
    points = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert [point[0].text for point in points][:2] == [
        "Hopfield, beta 1, 50 images: 90.0 %",
        "Hopfield, beta 1, 100 images: 60.0 %",
    ]
    heights = [float(point.get("cy")) for point in points]
    assert sorted(range(4), key=lambda i: heights[i]) == [2, 0, 3, 1]
    record.tables = {}
    with pytest.raises(ValueError, match="no table of numbers stored"):
        script.draw(record)
