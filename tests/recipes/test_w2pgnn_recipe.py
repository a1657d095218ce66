"""The study of transfer and the feasibility among datasets: how they are put together, and runs on the command line."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch_geometric.data import Data

from graphkit import cli
from graphkit.bench.records import Record, Row
from graphkit.datasets import Dataset, load, registry
from graphkit.datasets.synthetic import GRAPHON_DOMAINS, GRAPHON_SOURCES, graphon_domains
from graphkit.recipes import feasibility, get_recipe, w2pgnn

NAMES = list(GRAPHON_DOMAINS)


@pytest.fixture
def small(monkeypatch):
    """The study on few graphs of each domain."""
    monkeypatch.setattr(registry, "graphon_domains", lambda: graphon_domains(60))


def test_the_recipes_are_found() -> None:
    assert get_recipe("w2pgnn") is w2pgnn.RECIPE
    assert get_recipe("feasibility") is feasibility.RECIPE
    assert w2pgnn.RECIPE.defaults().dataset == "graphon-domains"


def test_the_study(small, monkeypatch) -> None:
    config = replace(w2pgnn.RECIPE.defaults(fast=True), draws=2)
    monkeypatch.setattr(w2pgnn, "_scores", lambda *_: {"Feasibility": torch.zeros(4, 6)})
    first, again, other = (w2pgnn.build(config, "GraphCL", seed) for seed in (0, 0, 1))
    task = first.task
    assert list(task._sources) == NAMES[:GRAPHON_SOURCES]
    assert list(task._targets) == NAMES[GRAPHON_SOURCES:]
    for d, tasks in enumerate(task._targets.values(), GRAPHON_SOURCES):
        assert len(tasks) == config.draws
        for one in tasks:
            assert [one.split.train.numel(), one.split.valid.numel()] == [20, 20]
            whole = torch.cat([one.split.train, one.split.valid, one.split.test])
            assert whole.unique().numel() == whole.numel() == 60
            # Graphs of its own domain alone, and ten of each class.
            assert bool((one.y[whole] >= 0).all())
            assert int(one.y[one.split.train].sum()) == 10
            assert {int(i) // 60 for i in whole} == {d}
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    assert not torch.equal(task._targets[NAMES[5]][0].split.train, other.task._targets[NAMES[5]][0].split.train)
    assert first.optimizer is None


def test_what_is_trained(small, monkeypatch) -> None:
    config = w2pgnn.RECIPE.defaults(fast=True)
    monkeypatch.setattr(w2pgnn, "_scores", lambda *_: {"Feasibility": torch.zeros(4, 6)})
    graphs = [graph for graph in load("graphon-domains").graphs if int(graph.domain) == 0]
    experiment = w2pgnn.build(config, "GCC", 0)
    for model, views in (("GCC", ("WalkSubgraph",) * 2), ("GraphCL", ("NodeDropping", "EdgePerturbation"))):
        made = w2pgnn._pretrain(config, model, graphs, experiment.model)
        assert made.model.encoder is experiment.model
        assert tuple(view.split("(")[0] for view in made.task.views) == views
    tuned = w2pgnn._finetune(config, experiment.task._targets[NAMES[4]][0], experiment.model)
    assert tuned.model.encoder is experiment.model
    trained = {id(p) for group in tuned.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in tuned.model.parameters()}


def test_scores_of_the_planted_domains_know_their_shapes() -> None:
    """Each target with the shape of a source is nearest to that source, though densities differ."""
    graphs = graphon_domains(60)
    sets = {name: graphs[60 * d : 60 * (d + 1)] for d, name in enumerate(NAMES)}
    config = replace(w2pgnn.RECIPE.defaults(fast=True), resolution=16)
    scores = w2pgnn._scores(config, {n: sets[n] for n in NAMES[:4]}, {n: sets[n] for n in NAMES[4:]})
    assert list(scores) == ["Feasibility", "With clusters", "Density", "Clustering", "Descriptors"]
    assert all(score.shape == (4, 6) and bool((score <= 0).all()) for score in scores.values())
    assert scores["Feasibility"][:, :4].argmax(0).tolist() == [0, 1, 2, 3]
    assert bool((scores["With clusters"] >= scores["Feasibility"] - 1e-9).all())


def test_the_study_runs(small, tmp_path, capsys) -> None:
    words = ["run", "w2pgnn", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", "GraphCL"]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "w2pgnn" / "graphon-domains.json").read_text())
    rows = {row["metric"]: row["values"] for row in record["rows"] if row["split"] == "test"}
    assert record["monitor"] == "Feasibility"
    assert set(rows) >= {"Feasibility", "Feasibility rank", "Density", "Clustering", "Scratch", "Pretrained"}
    assert all(-100 <= value <= 100 for values in rows.values() for value in values)
    table = record["tables"]["GraphCL"]
    assert len(table["gain"]) == len(table["source"]) == 24
    gain = torch.tensor(table["gain"])
    assert float(gain.mean()) == pytest.approx(rows["Pretrained"][0] - rows["Scratch"][0], abs=1e-3)
    score = torch.tensor(table["Feasibility"])
    pearson = float(torch.corrcoef(torch.stack([score, gain]))[0, 1]) if float(gain.std()) else 0.0
    assert rows["Feasibility"][0] == pytest.approx(100 * pearson, abs=0.1)
    assert "correlations of scores with gains" in record["protocol"]
    assert "w2pgnn on graphon-domains" in capsys.readouterr().out


@pytest.fixture
def mutag(small, monkeypatch):
    """Planted graphs of two classes under the name of a real set."""
    plain = [Data(edge_index=g.edge_index, num_nodes=g.num_nodes, y=g.y) for g in graphon_domains(60)[-120:]]
    data, slices = registry.Graphs.collate(plain)
    found = Dataset(registry.info("MUTAG"), graphs=registry.Graphs(data, slices, "MUTAG"))
    monkeypatch.setattr(w2pgnn, "load", lambda name, root=None: found if name == "MUTAG" else load(name, root))


def test_the_study_of_named_datasets(mutag, tmp_path, capsys) -> None:
    """A set of graphs is the target, and each named dataset but itself a source."""
    names = ["pyimports", "digits", "graphon-domains", "MUTAG"]
    words = ["--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path), "--models", "GraphCL", "--sources", *names]
    assert cli.main(["run", "w2pgnn", "--dataset", "MUTAG", *words]) == 0
    record = json.loads((tmp_path / "w2pgnn" / "MUTAG.json").read_text())
    table = record["tables"]["GraphCL"]
    assert table["source"] == names[:3]
    assert set(table["target"]) == {"MUTAG"}
    assert all(value <= 0 for value in table["Feasibility"])
    assert "10 training" in record["protocol"]
    capsys.readouterr()


def test_targets_and_sources_that_make_no_study(mutag) -> None:
    config = w2pgnn.RECIPE.defaults(fast=True)
    with pytest.raises(ValueError, match=r"3 pairs to correlate \(got 1 x 1\)"):
        w2pgnn.build(replace(config, dataset="MUTAG", sources=("digits", "MUTAG")), "GraphCL", 0)
    with pytest.raises(ValueError, match=r"dataset must be graphs with edges, such as PROTEINS \(got digit_images\)"):
        w2pgnn.build(replace(config, dataset="digit_images"), "GraphCL", 0)


def test_feasibility_runs_on_shipped_graphs(tmp_path, capsys) -> None:
    words = [
        "run",
        "feasibility",
        "--fast",
        "--dataset",
        "digits",
        "--device",
        "cpu",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "feasibility" / "digits.json").read_text())
    rows = {
        row["model"]: row["mean"] for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Feasibility")
    }
    assert set(rows) == {"pyimports", "digits"}
    assert rows["pyimports"] < rows["digits"] <= 0
    assert record["protocol"].startswith("nothing is trained")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w2pgnn", "--dataset", "digits"], "digits has no protocol for graph tasks"),
        (["w2pgnn", "--models", "GCCC"], "did you mean 'GCC'"),
        (["feasibility", "--models", "digts"], "did you mean 'digits'"),
        (["feasibility", "--dataset", "nycflights"], "nycflights is a stream of events"),
        (["feasibility", "--min-nodes", "2000"], "max_nodes"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert cli.main(["run", *words, "--fast", "--quiet", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_plot_of_the_page(tmp_path, monkeypatch) -> None:
    """A point a pair, a panel a model; without a table it is told."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    script = importlib.import_module("plot_pretraining")
    table = {"source": ["a", "a", "b"], "target": ["x", "y", "x"], "Feasibility": [-0.1, -0.2, 0.0], "gain": [3, -1, 2]}
    record = Record(
        key="w2pgnn",
        dataset="graphon-domains",
        protocol="",
        command="",
        rows=[Row("GCC", "Feasibility", "test", [50.0])],
        seeds=[0],
        config={},
        monitor="Feasibility",
        tables={"GCC": table, "GraphCL": table},
    )
    place = record.save(tmp_path)
    script.main(["--record", str(place), "--out", str(tmp_path / "plot.svg")])
    drawn = ElementTree.parse(tmp_path / "plot.svg").getroot()
    points = [circle for circle in drawn.iter("{http://www.w3.org/2000/svg}circle") if len(circle)]
    assert len(points) == 6
    assert points[1][0].text == "a to y: -1.0 points"
    # Higher gains are drawn higher, more feasible pairs further right.
    assert float(points[0].get("cy")) < float(points[2].get("cy")) < float(points[1].get("cy"))
    assert float(points[1].get("cx")) < float(points[0].get("cx")) < float(points[2].get("cx"))
    record.tables = {}
    with pytest.raises(ValueError, match="no tables of pairs"):
        script.draw(record)
