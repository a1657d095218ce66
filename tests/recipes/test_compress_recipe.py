"""The chain from a graph network to whole numbers: who starts from whom, what is measured, and the command."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.nn import CodeDistillMLP, IntegerMLP
from graphkit.recipes import compress, get_recipe
from graphkit.recipes.compress import MODELS, RECIPE, VARIANTS, build
from graphkit.train import AugmentedClassifier

pytestmark = pytest.mark.filterwarnings("ignore:only .* codes are in use")
FAST = RECIPE.defaults("digits", fast=True)
CHAINS = {
    "GCN": [],
    "LAGCN": ["CVAE"],
    "Tokenizer": ["CVAE", "LAGCN"],
    "Student": ["CVAE", "LAGCN", "Tokenizer"],
    "Student-int": ["CVAE", "LAGCN", "Tokenizer", "Student"],
    "MLP": [],
    "Student-untaught": ["Tokenizer-untaught"],
    "Student-int-PTQ": ["CVAE", "LAGCN", "Tokenizer", "Student"],
}


def test_the_recipe_is_found_and_starts_offline() -> None:
    assert get_recipe("compress") is RECIPE
    assert RECIPE.defaults().dataset == "digits"
    assert RECIPE.defaults("Cora").protocol == "public"
    assert RECIPE.models == MODELS


@pytest.mark.parametrize("model", MODELS + VARIANTS)
def test_stages_and_their_weights(model: str) -> None:
    experiment, again = build(FAST, model, 0), build(FAST, model, 0)
    names, stage = [], experiment
    while stage.start_from is not None:
        name, stage = stage.start_from
        names.insert(0, name)
    assert names == CHAINS[model]
    for name, weight in experiment.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    # A stage of a chain is what its own row trains, so that a checkpoint of one serves the other.
    for name, stage in zip(names[1:], experiment.chain()[1:], strict=False):
        alone = build(FAST, name, 0) if name in MODELS else stage
        assert stage.measure is None
        assert all(torch.equal(v, alone.model.state_dict()[k]) for k, v in stage.model.state_dict().items())


def test_who_teaches_whom() -> None:
    student = build(FAST, "Student", 0)
    tokenizer = student.start_from[1]
    lagcn = tokenizer.start_from[1]
    assert student.task.teacher is tokenizer.model
    assert isinstance(tokenizer.task.teacher, AugmentedClassifier)
    assert tokenizer.task.teacher.network is lagcn.model
    assert build(FAST, "Student-untaught", 0).start_from[1].task.teacher is None
    integer = build(FAST, "Student-int", 0)
    assert integer.task.teacher is integer.start_from[1].task.teacher
    assert integer.task.terms == ("soft",)


def test_rounding_starts_from_the_trained_student() -> None:
    experiment = build(replace(FAST, w_bits=8, a_bits=16), "Student-int", 0)
    student = experiment.start_from[1].model
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.5)
    experiment.begin()
    assert isinstance(experiment.model, IntegerMLP)
    x = experiment.task.x
    logits = student.eval()(x)[0]
    torch.testing.assert_close(experiment.model.eval()(x), logits, atol=0.05, rtol=0)
    learned = {id(p) for group in experiment.optimizer.param_groups for p in group["params"]}
    assert learned == {id(p) for p in experiment.model.parameters()}
    assert build(FAST, "Student-int-PTQ", 0).max_epochs == 0


@pytest.mark.parametrize("model", ["GCN", "LAGCN", "Tokenizer", "Student", "Student-int"])
def test_one_node_is_answered_as_in_the_whole_graph(model: str, monkeypatch) -> None:
    experiment = build(FAST, model, 0)
    if model == "Student-int":
        experiment.begin()
    network = experiment.model.eval()
    if model == "Tokenizer":
        network.quantizer._ready = True
    with torch.no_grad():
        whole, alone, size = compress._server(experiment.task, network)
        out = whole()
        logits = torch.as_tensor(out[0] if isinstance(out, tuple) else out)
        for node in (0, 7, 1796):
            torch.testing.assert_close(torch.as_tensor(alone(node)), logits[node : node + 1], atol=1e-5, rtol=1e-4)
    parameters = sum(p.numel() for p in network.parameters())
    assert size > 4 * parameters if model == "Tokenizer" else size <= 4 * parameters
    if isinstance(network, CodeDistillMLP):
        assert size == 4 * (64 * 16 + 16 + 16 * 10 + 10)


def test_the_command_runs_and_trains_each_stage_once(tmp_path, monkeypatch) -> None:
    trained = []
    fit = compress.Experiment.run

    def counted(self, **options):
        result = fit(self, **options)
        trained.append((options["description"], options["resume"]))
        return result

    monkeypatch.setattr(compress.Experiment, "run", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.main(["run", "compress", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == 0
    fresh = [name for name, resumed in trained if not resumed]
    assert fresh == [f"{name} seed 0" for name in ("GCN", "CVAE", "LAGCN", "Tokenizer", "Student", "Student-int")]
    record = json.loads((tmp_path / "compress" / "digits.json").read_text())
    assert record["monitor"] == "Accuracy"
    found = {(row["model"], row["metric"]): row["mean"] for row in record["rows"] if row["split"] == "test"}
    assert {model for model, _ in found} == set(MODELS)
    for metric in ("Model kB", "Latency us", "Graph us"):
        assert all(found[model, metric] > 0 for model in MODELS)
    assert found["Student-int", "Model kB"] < found["Student", "Model kB"]
    assert (tmp_path / "compress" / "digits.png").stat().st_size > 1000


def test_a_stopped_chain_goes_on_as_if_it_had_not(tmp_path) -> None:
    def run(folder: str, *words: str) -> dict:
        flags = ["--fast", "--device", "cpu", "--quiet", "--models", "Student-int", "--out", str(tmp_path / folder)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert cli.main(["run", "compress", *flags, *words]) == 0
        outcome = tmp_path / folder / "compress" / "digits" / "Student-int" / "seed0" / "outcome.json"
        found = json.loads(outcome.read_text())
        return {name: found["best"][name] for name in ("Accuracy", "Likelihood", "Model kB")} | {
            "losses": [row["loss"] for row in found["history"]]
        }

    run("stopped", "--int-epochs", "1")
    assert run("stopped", "--int-epochs", "3", "--resume") == run("whole", "--int-epochs", "3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nycflights"], "nycflights has no protocol for node tasks"),
        (["--models", "GIN"], "must be one of GCN, LAGCN, Tokenizer"),
        (["--w-bits", "1", "--models", "Student-int"], "w_bits must be"),
        (["--protocol", "unseen-nodes", "--models", "LAGCN"], "split hides nodes"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words: list[str], message: str, tmp_path, capsys) -> None:
    models = [] if "--models" in words else ["--models", "GCN"]
    assert cli.main(["run", "compress", "--fast", "--quiet", "--out", str(tmp_path), *models, *words]) == 2
    assert message in capsys.readouterr().err
