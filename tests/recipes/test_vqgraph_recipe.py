"""The recipe of VQGraph: settings, who teaches whom, both protocols through the command line."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import CodeDistillMLP
from graphkit.recipes import get_recipe
from graphkit.recipes.vqgraph import MODELS, RECIPE, TEACHERS, VARIANTS, build

pytestmark = pytest.mark.filterwarnings("ignore:only .* codes are in use")


def test_the_recipe_is_found_and_starts_offline() -> None:
    assert get_recipe("vqgraph") is RECIPE
    assert RECIPE.defaults().dataset == "digits"
    assert get_recipe("vqgraph_inductive").defaults("CPF-Cora").protocol == "unseen-nodes"
    assert not get_recipe("vqgraph_inductive").reported
    assert RECIPE.reported["VQGraph", "CPF-Cora"].mean == 83.93


@pytest.mark.parametrize("model", MODELS + VARIANTS)
def test_a_seed_fixes_weights_and_split(model: str) -> None:
    config = RECIPE.defaults("digits", fast=True)
    first, again, other = (build(config, model, seed) for seed in (0, 0, 1))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert torch.equal(first.task.split.train, again.task.split.train)
    assert not torch.equal(first.task.split.train, other.task.split.train)
    parameters = [p for group in first.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in first.model.parameters()}


@pytest.mark.parametrize("model", TEACHERS)
def test_students_see_no_graph_and_their_teacher_is_trained_first(model: str) -> None:
    experiment = build(RECIPE.defaults("digits", fast=True), model, 0)
    assert isinstance(experiment.model, CodeDistillMLP)
    name, first = experiment.start_from
    assert name == TEACHERS[model]
    assert experiment.task.teacher is first.model
    before = experiment.model.state_dict()
    experiment.begin()  # a teacher lends no weights
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())
    # The same settings as in the teacher's own row, whose checkpoint it takes.
    alone = build(RECIPE.defaults("digits", fast=True), name, 0)
    assert all(torch.equal(v, alone.model.state_dict()[k]) for k, v in first.model.state_dict().items())


def test_variants() -> None:
    config = RECIPE.defaults("digits", fast=True)
    released = build(config, "VQGraph-released", 0).task
    assert (released.w_code, released.tau, released.relation, released.schedule) == (1e-8, 4.0, "released", "sweeps")
    assert build(config, "VQGraph-soft", 0).task.terms == ("soft",)
    assert build(replace(config, w_hard=0.3), "VQGraph", 0).task.terms == ("code", "hard", "soft")


@pytest.mark.parametrize(
    ("key", "models"), [("vqgraph", MODELS), ("vqgraph_inductive", ("MLP", "VQGraph-teacher", "VQGraph"))]
)
def test_the_command_runs(key: str, models: tuple[str, ...], tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = ["run", key, "--fast", "--epochs", "2", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
        assert cli.main([*words, "--models", *models]) == 0
    record = json.loads((tmp_path / key / "digits.json").read_text())
    assert record["monitor"] == "Accuracy"
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "Accuracy")]
    assert [row["model"] for row in rows] == list(models)
    unseen = [row for row in record["rows"] if row["metric"] == "Accuracy unseen"]
    assert len(unseen) == (0 if key == "vqgraph" else 2 * len(models))
    history = (tmp_path / key / "digits" / "VQGraph-teacher" / "seed0" / "history.csv").read_text()
    assert "perplexity" in history.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["--protocol", "link"], "protocol must be one of"),
        (["--models", "GIN"], "must be one of SAGE, GCN, MLP"),
        (["--relation", "dot"], "relation must be one of"),
        (["--num-codes", "0"], "num_codes must be"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    models = [] if "--models" in words else ["--models", "VQGraph"]
    assert cli.main(["run", "vqgraph", "--fast", "--quiet", "--out", str(tmp_path), *models, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_papers_figures_stand_beside_ours(needs, tmp_path) -> None:
    root = needs("cpf")
    words = ["run", "vqgraph", "--fast", "--dataset", "CPF-Cora", "--root", str(root), "--models", "SAGE", "VQGraph"]
    assert cli.main([*words, "--code-dim", "16", "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "vqgraph" / "CPF-Cora.json").read_text())
    figures = {row["model"]: row["reported"]["mean"] for row in record["rows"] if row["reported"]}
    assert figures == {"SAGE": 80.64, "VQGraph": 83.93}
