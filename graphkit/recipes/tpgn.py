"""PGN and TPGN (https://arxiv.org/abs/2409.17703): forecasts of long series, beside other mixers of tokens, a linear
map and rules without parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphkit.datasets import load
from graphkit.nn import (
    GNN,
    PGN,
    TPGN,
    GatedLinearAttention,
    GraphForecaster,
    LinearForecast,
    Recurrent,
    RepeatForecast,
    SelectiveSSM,
    SelfAttention,
    TokenForecaster,
    TokenMixer,
)
from graphkit.nn.models.forecaster import Forecaster
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import Experiment, ForecastingTask
from graphkit.transforms import CorrelationGraph
from graphkit.utils.checks import check_choice, check_range
from graphkit.utils.seed import seed_everything

MIXERS: dict[str, Callable[[int, int], TokenMixer]] = {
    "PGN": lambda channels, tokens: PGN(channels, channels, max(tokens - 1, 1)),
    "GRU": lambda channels, tokens: Recurrent(channels, "gru"),
    "LSTM": lambda channels, tokens: Recurrent(channels, "lstm"),
    "GLA": lambda channels, tokens: GatedLinearAttention(channels),
    "Mamba": lambda channels, tokens: SelectiveSSM(channels),
    "Attention": lambda channels, tokens: SelfAttention(channels),
}
RULES = ("Last-value", "Last-period", "Last-window", "Window-mean")
MODELS = ("TPGN", "TPGN-long", *MIXERS, "Linear", *RULES)
# For series of several variables, by name.
VARIANTS = ("TPGN+GCN",)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the paper, and of the mixers that it is compared with."""

    dataset: str = "nycflights-hourly"
    """Any series among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split: series-60-20-20 (the paper's) or series-months; the dataset's first one if not given."""
    variable: str = "all"
    """The only variable that is read and forecast, by name; or all."""
    seq_len: int = 168
    """Rows that are read."""
    horizon: int = 168
    """Rows that are forecast; the paper has 168, 336, 720 and 1440."""
    period: int = 24
    """Rows of a period, and of a token of the mixers."""
    channels: int = 2
    """Width of TPGN; for ETTh1 the paper has 2, and 8 for a horizon of 1440."""
    norm: bool = True
    """TPGN standardises each window by itself."""
    share_weights: bool = False
    """All variables have the same weights in TPGN."""
    token_channels: int = 16
    """Width of the networks of mixers."""
    token_layers: int = 1
    """Blocks of the networks of mixers."""
    neighbors: int = 2
    """Variables that each one hears from in TPGN+GCN, by correlation."""
    lr: float = 1e-3
    """Learning rate."""
    lr_decay: float = 0.9
    """Factor of the learning rate after each epoch from the second on."""
    batch_size: int = 32
    """Windows a step."""
    epochs: int = 25
    """Most epochs."""
    patience: int | None = 5
    """Epochs without a better validation value before training stops; never if not given."""

    @property
    def label(self) -> str:
        """Name of the record: the dataset, what is forecast, how far, and how it is split if not as in the paper."""
        split = "" if self.protocol in (None, "series-60-20-20") else f"-{self.protocol.removeprefix('series-')}"
        return f"{self.dataset}-{self.variable.replace(' ', '_')}-{self.horizon}{split}"


SETTINGS: dict[str, dict[str, Any]] = {
    "nycflights-hourly": {},
    "ETTh1": {"variable": "OT", "protocol": "series-60-20-20"},
}


@dataclass(frozen=True)
class Decay:
    """The factor of the learning rate: 1 in the first two epochs, then lower by ``factor`` in each."""

    factor: float

    def __post_init__(self) -> None:
        check_range(self.factor, "lr_decay", 0, 1, low_open=True)

    def __call__(self, epochs: float) -> float:
        return self.factor ** max(int(epochs) - 1, 0)


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` or ``VARIANTS`` with weights and an order of windows of ``seed``."""
    check_choice(model, "model", (*MODELS, *VARIANTS))
    dataset = load(config.dataset, config.root)
    split = dataset.split(0, dataset.info.protocol_for("series", config.protocol))
    data, variable = dataset.data, None
    if config.variable != "all":
        check_choice(config.variable, "variable", ("all", *data.names))
        variable = data.names.index(config.variable)
    if model in VARIANTS:
        if variable is not None:
            raise ValueError(f"{model} forecasts all variables (got variable={config.variable!r}); take variable all")
        data = CorrelationGraph(config.neighbors, split.train_stop)(data)
    task = ForecastingTask(data, split, config.seq_len, config.horizon, variable, config.batch_size, seed)
    seed_everything(seed)
    network = _network(config, model, task)
    if not any(True for _ in network.parameters()):
        return Experiment(task, network)
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    return Experiment(task, network, optimizer, config.epochs, config.patience, schedule=Decay(config.lr_decay))


def _network(config: Config, model: str, task: ForecastingTask) -> nn.Module:
    length, horizon, period = config.seq_len, config.horizon, config.period
    if model in MIXERS:
        tokens = length // period
        return TokenForecaster(
            length,
            horizon,
            lambda channels: MIXERS[model](channels, tokens),
            config.token_channels,
            period,
            config.token_layers,
            time_dim=task.time_dim,
        )
    if model == "Linear":
        return LinearForecast(length, horizon)
    if model in RULES:
        rule = dict(zip(RULES, ((1, 1), (period, 1), (length, 1), (1, length)), strict=True))[model]
        return RepeatForecast(length, horizon, *rule)
    tpgn: Forecaster = TPGN(
        length,
        horizon,
        period,
        config.channels,
        task.num_variables,
        task.time_dim,
        config.norm,
        config.share_weights,
        short_branch=model != "TPGN-long",
    )
    if model in VARIANTS:
        return GraphForecaster(tpgn, GNN(length + horizon, config.token_channels, 2, horizon))
    return tpgn


_PAPER = "PGN: The RNN's New Successor is Effective for Long-Range Time Series Forecasting, table of results, times 100"

RECIPE = Recipe(
    key="tpgn",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 1, "seq_len": 48, "horizon": 24, "token_channels": 8, "batch_size": 256},
    models=MODELS,
    build=build,
    task="series",
    protocol="standardised by the training rows; mean errors over all windows of a part, in percent of the variance "
    "(MSE) and the standard deviation (MAE) of the training rows; a seed draws weights and the order of windows; test "
    "at the epoch of the best validation value, for each metric by itself",
    headline=("MSE", "MAE"),
    reported={
        ("TPGN", f"ETTh1-OT-{horizon}"): Reported(value, None, "MSE", _PAPER)
        for horizon, value in ((168, 10.61), (336, 11.10), (720, 13.46), (1440, 13.43))
    },
)
