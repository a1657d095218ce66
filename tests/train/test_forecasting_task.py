"""Forecasting: windows within their parts, errors against loops, learning, exact resume, shares of processes."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

from graphkit.datasets import SeriesSplit, load
from graphkit.nn import TPGN, GraphForecaster, LinearForecast, RepeatForecast
from graphkit.train import Experiment, ForecastingTask, Trainer

SPLIT = SeriesSplit(300, 400, 500)


def waves(rows: int = 520) -> Data:
    """Two variables: a wave of a period of 12 that stops and starts, and noise."""
    hours = torch.arange(rows)
    generator = torch.Generator().manual_seed(0)
    wave = (hours * (2 * torch.pi / 12)).sin() * (1 + 0.5 * (hours // 50 % 2)) + 3
    noise = torch.randn(rows, generator=generator)
    return Data(
        series=torch.stack([wave + 0.1 * noise, noise], 1), t=3600 * hours, names=["wave", "noise"], num_nodes=2
    )


def task(**options) -> ForecastingTask:
    options = {"seq_len": 24, "pred_len": 10, **options}
    return ForecastingTask(waves(), options.pop("split", SPLIT), **options)


def test_values_are_standardised_by_the_training_rows_alone():
    changed = waves()
    changed.series[300:] *= 100
    first, again = task(), ForecastingTask(changed, SPLIT, 24, 10)
    assert torch.equal(first.mean, again.mean)
    known = first._windows.series[:300]
    torch.testing.assert_close(known.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.std(0, correction=0), torch.ones(2))


def test_what_is_forecast_lies_within_its_part():
    """Also the first row and the last of each part is forecast."""
    found = task()
    for part, (first, stop) in {"train": (24, 300), "valid": (300, 400), "test": (400, 500)}.items():
        begins = range(*found.spans[part])
        assert begins[0] + 24 == first
        assert begins[-1] + 24 + 10 == stop
    rows = torch.cat([*found.batches(1)]).sort().values
    assert torch.equal(rows, torch.arange(300 - 33))


def test_errors_are_those_of_all_windows():
    model, found = RepeatForecast(24, 10, 12), task(batch_size=3)
    squared, absolute = [], []
    series = (waves().series - found.mean) / found.std
    for begin in range(400 - 24, 500 - 34 + 1):
        gap = model(series[None, begin : begin + 24])[0] - series[begin + 24 : begin + 34]
        squared.append(gap.square())
        absolute.append(gap.abs())
    assert len(squared) == 91  # 24 windows at once leave a part of 19
    metrics = found.evaluate(model, "test")
    assert metrics["MSE"] == pytest.approx(100 * float(torch.stack(squared).mean()), rel=1e-5)
    assert metrics["MAE"] == pytest.approx(100 * float(torch.stack(absolute).mean()), rel=1e-5)
    table = found.table(model)
    assert table["steps_ahead"] == list(range(1, 11))
    assert table["MSE"] == pytest.approx((100 * torch.stack(squared).mean((0, 2))).tolist(), abs=1e-3)


def test_a_long_horizon_has_a_table_of_parts():
    found = task(pred_len=60).table(RepeatForecast(24, 60))
    assert len(found["MSE"]) == 24
    assert found["steps_ahead"][0] == 2


def test_one_variable_is_read_alone():
    found = task(variable=1)
    assert found.num_variables == 1
    both = task()
    torch.testing.assert_close(found._windows.series, both._windows.series[:, 1:])
    assert found.num_batches() == both.num_batches() == -(-267 // 32)


def test_shares_of_processes_are_the_whole_batch():
    found, model = task(), LinearForecast(24, 10)
    batch = torch.arange(7)
    whole = found.loss(model, batch)
    found.world_size = 3
    parts = []
    for found.rank in range(3):
        parts.append(found.loss(model, batch))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    found.rank = 2
    assert found.loss(model, batch[:2]) == 0


def tpgn(seed: int = 0) -> TPGN:
    torch.manual_seed(seed)
    return TPGN(24, 10, period=12, channels=3, num_vars=2)


def fit(folder, epochs: int, resume: bool = False):
    model = tpgn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = Trainer(
        epochs, device="cpu", folder=folder, resume=resume, progress=False, schedule=lambda done: 0.9 ** int(done)
    )
    return trainer.fit(model, task(), optimizer), model


def test_a_wave_is_learned_and_resume_is_exact(tmp_path):
    whole, model = fit(tmp_path / "whole", 6)
    rule = task().evaluate(RepeatForecast(24, 10), "test")["MSE"]
    assert whole.test("MSE") < 0.7 * rule
    assert whole.best["MSE"]["valid"] == min(row["valid/MSE"] for row in whole.history)
    fit(tmp_path / "parts", 3)
    again, other = fit(tmp_path / "parts", 6, resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert again.best == whole.best
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_another_series_is_not_resumed(tmp_path):
    fit(tmp_path, 1)
    other = waves()
    other.series[:, 0] += 1
    model = tpgn()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    experiment = Experiment(ForecastingTask(other, SPLIT, 24, 10), model, optimizer, max_epochs=2)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        experiment.run(device="cpu", folder=tmp_path, resume=True, progress=False)


def test_a_model_of_graphs_gets_the_graph_of_the_variables():
    data = waves()
    data.edge_index = torch.tensor([[0], [1]])  # the wave tells the noise
    found = ForecastingTask(data, SPLIT, 24, 10)
    model = GraphForecaster(LinearForecast(24, 10), GCNConv(34, 10))
    windows = found._windows.batch(slice(0, 2))
    windows = windows._replace(x=windows.x.detach().clone().requires_grad_())
    out = found.forecast(model, windows)
    assert torch.autograd.grad(out[..., 1].sum(), windows.x, retain_graph=True)[0][..., 0].abs().sum() > 0
    assert torch.autograd.grad(out[..., 0].sum(), windows.x)[0][..., 1].abs().sum() == 0
    assert set(found.evaluate(model, "valid")) == {"MSE", "MAE"}
    with pytest.raises(ValueError, match="data must have edge_index"):
        task().evaluate(model, "valid")


def test_rules_on_the_transformer_temperatures(needs):
    """Of the oil temperature, 168 hours from 168; the same to three digits as a program of its own found."""
    dataset = load("ETTh1", needs("ett/ETTh1.csv"))
    found = ForecastingTask(dataset.data, dataset.split(0, "series-60-20-20"), 168, 168, variable=6)
    for (period, count), want in {(1, 1): 16.3, (24, 1): 16.5, (168, 1): 19.8, (1, 168): 12.7}.items():
        assert found.evaluate(RepeatForecast(168, 168, period, count), "test")["MSE"] == pytest.approx(want, abs=0.06)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: task(split=(1, 2, 3)), TypeError, "split must be a graphkit.datasets.SeriesSplit"),
        (lambda: task(split=SeriesSplit(300, 400, 600)), ValueError, r"series of 520 rows .got one of 600"),
        (lambda: task(split=SeriesSplit(30, 400, 500)), ValueError, "split.train has no window of .* = 34 rows"),
        (lambda: task(split=SeriesSplit(300, 305, 500)), ValueError, "split.valid has no window"),
        (lambda: task(variable=2), ValueError, "variable must be in"),
        (lambda: ForecastingTask(Data(), SPLIT, 24, 10), ValueError, "data must have series"),
        (lambda: ForecastingTask(Data(series=torch.rand(500, 1)), SPLIT, 24, 10), ValueError, r"t \[500\]"),
        (lambda: task().evaluate(LinearForecast(24, 9), "valid"), ValueError, r"must return forecasts \[91, 10, 2\]"),
        (lambda: task().evaluate(LinearForecast(24, 10), "all"), ValueError, "split must be one of"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nan_is_refused_before_training():
    data = waves()
    data.series[450, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 450"):
        ForecastingTask(data, SPLIT, 24, 10)
