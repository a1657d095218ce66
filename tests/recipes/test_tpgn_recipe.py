"""The recipe of TPGN: the paper's settings, its rows, runs through the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphkit import cli
from graphkit.recipes import get_recipe
from graphkit.recipes.tpgn import MODELS, RECIPE, VARIANTS, Decay, build
from graphkit.utils.io import data_root

FAST = RECIPE.defaults("nycflights-hourly", fast=True)


def test_the_recipe_is_found_and_has_the_papers_settings():
    assert get_recipe("tpgn") is RECIPE
    config = RECIPE.defaults("ETTh1")
    assert (config.seq_len, config.horizon, config.period, config.channels, config.norm) == (168, 168, 24, 2, True)
    assert (config.lr, config.lr_decay, config.batch_size, config.epochs, config.patience) == (1e-3, 0.9, 32, 25, 5)
    assert (config.variable, config.protocol, config.label) == ("OT", "series-60-20-20", "ETTh1-OT-168")
    assert replace(config, protocol="series-months", variable="all").label == "ETTh1-all-168-months"
    assert ("TPGN", config.label) in RECIPE.reported


def test_the_learning_rate_falls_from_the_third_epoch_on():
    # Epochs done at the first step of each epoch.
    assert [round(Decay(0.9)(done), 3) for done in (0, 0.9, 1, 1.9, 2, 3)] == [1, 1, 1, 1, 0.9, 0.81]


@pytest.mark.parametrize("model", [*MODELS, *VARIANTS])
def test_a_seed_fixes_weights_and_windows_and_every_weight_is_trained(model):
    first, again, other = (build(FAST, model, seed) for seed in (0, 0, 1))
    batch = next(first.task.batches(1))
    assert torch.equal(batch, next(again.task.batches(1)))
    assert not torch.equal(batch, next(other.task.batches(1)))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert (first.optimizer is None) == (first.num_parameters() == 0)
    if first.optimizer is not None:
        first.task.loss(first.model, batch[:8]).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in first.model.parameters())


def test_the_graph_is_of_the_training_rows():
    experiment = build(FAST, "TPGN+GCN", 0)
    assert experiment.task.edge_index.shape == (2, 12)
    # How many are late at one airport goes with how many at another.
    heard = {int(s) for s, t in experiment.task.edge_index.t().tolist() if t == 3}
    assert heard & {4, 5}


def test_the_command_runs_all_models(tmp_path, capsys):
    words = ["run", "tpgn", "--fast", "--device", "cpu", "--quiet", "--out", str(tmp_path)]
    assert cli.main([*words, "--models", "TPGN", "PGN", "GLA", "Linear", "Last-period", "TPGN+GCN"]) == 0
    record = json.loads((tmp_path / "tpgn" / "nycflights-hourly-all-24.json").read_text())
    assert (record["key"], record["monitor"]) == ("tpgn", "MSE")
    rows = [row for row in record["rows"] if (row["split"], row["metric"]) == ("test", "MSE")]
    assert len(rows) == 6
    assert all(row["values"][0] > 0 for row in rows)
    assert len(record["tables"]["TPGN"]["MSE"]) == 24
    assert "tpgn on nycflights-hourly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digits"], "digits has no protocol for series tasks"),
        (["--protocol", "series-months"], "protocol must be one of series-60-20-20"),
        (["--variable", "LHR"], "variable must be one of all, EWR, JFK, LGA"),
        (["--variable", "EWR", "--models", "TPGN+GCN"], "TPGN+GCN forecasts all variables (got variable='EWR')"),
        (["--models", "TPGM"], "did you mean 'TPGN'"),
        (["--seq-len", "40"], "at least two periods of 24 rows (got 40)"),
        (["--lr-decay", "0"], "lr_decay must be in (0, 1]"),
        (["--dataset", "ETTh1", "--root", "/nowhere"], "ETTh1 is not on disk: put it at /nowhere/ett/ETTh1.csv"),
    ],
)
def test_what_a_user_gets_wrong_is_told(words, message, tmp_path, capsys):
    assert cli.main(["run", "tpgn", "--fast", "--quiet", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_papers_figure_and_size(needs):
    root = needs("ett/ETTh1.csv")
    assert data_root(str(root)).exists()
    experiment = build(replace(RECIPE.defaults("ETTh1"), root=str(root)), "TPGN", 0)
    assert experiment.num_parameters() == 431
    # Windows whose forecasts lie in the part, stride one.
    assert repr(experiment.task).endswith("windows: train=10117, valid=3317, test=3317)")
