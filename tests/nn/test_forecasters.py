"""Forecasters: rules, a linear map, any mixer on the tokens of SeriesTokens, neighbours along edges."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, SAGEConv

from graphkit.nn import (
    GNN,
    PGN,
    BiMamba,
    GatedLinearAttention,
    GraphForecaster,
    LinearForecast,
    Recurrent,
    RepeatForecast,
    SelfAttention,
    TokenForecaster,
    window_norm,
)
from graphkit.nn.models.forecaster import Forecaster
from graphkit.transforms import SeriesTokens


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rules():
    x = torch.arange(1.0, 13.0).view(1, 12, 1)
    rules = {(1, 1): [12] * 5, (4, 1): [9, 10, 11, 12, 9], (1, 12): [6.5] * 5, (2, 3): [9, 10, 9, 10, 9]}
    for (period, count), want in rules.items():
        assert RepeatForecast(12, 5, period, count)(x).flatten().tolist() == want
    assert not list(RepeatForecast(12, 5).parameters())


def test_the_linear_map_is_of_the_change_up_to_the_last_value():
    model = LinearForecast(6, 3).double()
    x = random(2, 6, 2)
    want = torch.stack([model.lin(x[:, :, v] - x[:, -1:, v]) + x[:, -1:, v] for v in range(2)], -1)
    torch.testing.assert_close(model(x), want)
    torch.testing.assert_close(model(x + 5), want + 5)
    assert sum(p.numel() for p in LinearForecast(168, 168).parameters()) == 28392


def test_window_norm_is_undone():
    x = 3 * random(2, 7, 4) + 5
    z, mean, root = window_norm(x)
    torch.testing.assert_close(z * root + mean, x)
    torch.testing.assert_close(z.mean(1), torch.zeros(2, 4, dtype=torch.float64))
    assert bool(torch.isfinite(window_norm(torch.ones(1, 3, 1))[0]).all())


MIXERS = {
    "pgn": lambda channels: PGN(channels, channels, 4),
    "gru": Recurrent,
    "gla": lambda channels: GatedLinearAttention(channels, 2),
    "mamba": lambda channels: BiMamba(channels, d_state=2),
    "attention": lambda channels: SelfAttention(channels, 2),
}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("time_dim", [0, 2])
def test_any_mixer_forecasts_from_the_tokens_of_a_series(mixer, time_dim):
    torch.manual_seed(0)
    model = TokenForecaster(14, 5, MIXERS[mixer], 8, patch=3, time_dim=time_dim).double()
    x, marks = random(2, 14, 3), random(2, 14, time_dim, seed=1)
    out = model(x, marks if time_dim else None)
    assert out.shape == (2, 5, 3)
    # A window and a variable at a time, by the transform.
    z, mean, root = window_norm(x)
    tokens = Batch.from_data_list(
        [
            SeriesTokens(3)(Data(series=torch.cat([z[window, :, v : v + 1], marks[window]], 1)))
            for window in range(2)
            for v in range(3)
        ]
    )
    found = model.model(tokens.x, tokens).view(2, 3, 5).transpose(1, 2)
    torch.testing.assert_close(out, found * root + mean)
    torch.testing.assert_close(model(4 * x + 7, marks), 4 * out + 7, rtol=1e-4, atol=1e-4)


def test_a_linear_map_of_a_window_is_learned():
    class Twice(Forecaster):
        """A forecaster of a user's own."""

        def __init__(self) -> None:
            super().__init__(4, 2)
            self.weight = nn.Parameter(torch.zeros(1))

        def forecast(self, x, marks):
            return self.weight * x[:, -2:]

    model = Twice()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    x = random(16, 4, 1).float()
    for _ in range(50):
        optimizer.zero_grad()
        (model(x) - 2 * x[:, -2:]).square().mean().backward()
        optimizer.step()
    assert float(model.weight) == pytest.approx(2, abs=1e-3)
    assert repr(model) == "Twice(4, 2)"


GNNS = {
    "pyg": lambda: GCNConv(8, 3),
    "pyg sage": lambda: SAGEConv(8, 3),
    "ours": lambda: GNN(8, 4, 2, 3),
}


@pytest.mark.parametrize("gnn", GNNS)
def test_neighbours_are_heard_along_edges_and_windows_do_not_meet(gnn):
    torch.manual_seed(0)
    model = GraphForecaster(LinearForecast(5, 3), GNNS[gnn]()).double().eval()
    # 0 tells 1; 2 is alone.
    edge_index = torch.tensor([[0], [1]])
    x = random(4, 5, 3).requires_grad_()
    out = model(x, None, edge_index)
    for variable, hears in ((0, [0]), (1, [0, 1]), (2, [2])):
        (found,) = torch.autograd.grad(out[2, :, variable].sum(), x, retain_graph=True)
        assert found.abs().sum(1).nonzero().tolist() == [[2, other] for other in hears]
    alone = torch.cat([model(x[i : i + 1], None, edge_index) for i in range(4)])
    torch.testing.assert_close(out, alone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RepeatForecast(10, 3, period=4, count=3), r"at most seq_len=10 .got 4 \* 3"),
        (lambda: TokenForecaster(10, 3, Recurrent, 4, patch=11), "patch must be at most seq_len=10"),
        (lambda: LinearForecast(10, 3)(torch.zeros(2, 9, 1)), r"x must have shape \[B, 10, V\] .got \[2, 9, 1\]"),
        (lambda: TokenForecaster(10, 3, Recurrent, 4, 5, time_dim=2)(torch.zeros(1, 10, 1)), "marks must have shape"),
        (lambda: GraphForecaster(LinearForecast(4, 2), GCNConv(6, 2))(torch.zeros(1, 4, 2), None), "needs the graph"),
        (
            lambda: GraphForecaster(LinearForecast(4, 2), GCNConv(6, 3))(
                torch.zeros(1, 4, 2), None, torch.tensor([[0], [1]])
            ),
            r"gnn must return \[2, 2\]",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("x", "marks", "error", "message"),
    [
        (torch.ones(1, 8, 1).long(), None, TypeError, "x must be floating point"),
        (torch.ones(1, 8, 1).double(), None, TypeError, "but the weights are torch.float32"),
        (None, None, TypeError, "x must be a torch.Tensor"),
        (torch.ones(1, 8, 1), torch.ones(1, 8, 2).to("meta"), ValueError, "marks is on meta, x on cpu"),
    ],
)
def test_windows_that_cannot_be_read(x, marks, error, message):
    with pytest.raises(error, match=message):
        LinearForecast(8, 4)(x, marks)
