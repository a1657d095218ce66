"""Every mixer on every kind of token graph: the same tokens, training and number of parameters, another mixer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch_geometric.transforms import Compose, RemoveSelfLoops, ToUndirected

from graphkit.datasets import PROTOCOLS, load
from graphkit.datasets.dataset import Dataset
from graphkit.loader import PackedGraphs
from graphkit.nn import (
    PGN,
    BiGatedLinearAttention,
    BiMamba,
    GatedLinearAttention,
    GatedPositionalAttention,
    Hopfield,
    MeanMixer,
    MixerBlock,
    MultiAxisGatedMLP,
    NiNBlock,
    Recurrent,
    RWKVTimeMix,
    SelectiveSSM,
    SelfAttention,
    SpikeGPTBlock,
    TokenForecaster,
    TokenMixer,
    TokenModel,
)
from graphkit.recipes._images import ImageConfig, image_task
from graphkit.recipes._tokens import PROTOCOL, NoMixing, Problem, TokenConfig, experiment, problem
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, ForecastingTask, GraphClassificationTask
from graphkit.transforms import SortTokens
from graphkit.utils.checks import check_choice, check_range
from graphkit.utils.seed import seed_everything


@dataclass(frozen=True)
class Config(TokenConfig):
    """Settings of the problems, of training and of the budget, the same for all mixers."""

    dataset: str = "digit_images"
    """Images, a text, sequences with a known answer, a series, a graph with node classes, or a set of graphs."""
    batch_size: int = 64
    """Images, windows, nodes or graphs a step."""
    layers: int = 2
    """Blocks."""
    heads: int = 2
    """Heads of mixers that have any (ViG: half as many); widths are multiples of it."""
    lr: float = 0.003
    """Highest learning rate; it falls to zero along half a cosine."""
    epochs: int = 30
    """Epochs."""
    budget: int = 40_000
    """Parameters of a model, up to a tenth more or less: each mixer gets the width that comes nearest."""
    patch: int = 2
    """Pixels a side of a token of an image; rows of a token of a series are a period."""
    images: int | None = None
    """Training images, drawn by the seed; all if not given."""
    seq_len: int = 168
    """Rows of a series that are read."""
    horizon: int = 168
    """Rows of a series that are forecast."""
    period: int = 24
    """Rows of a token of a series."""


@dataclass(frozen=True)
class Place:
    """Where a mixer is to work.

    Args:
        causal: no token may see those after it.
        tokens: tokens of the longest graph.
        heads: heads of mixers that have any.
        side: rows and columns of a grid; None if tokens have no place in one.
    """

    causal: bool
    tokens: int
    heads: int
    side: int | None


# Mixers that see both ways, and those that read in order, which every problem allows.
BOTH_WAYS: dict[str, Callable[[int, Place], TokenMixer]] = {
    "GLA": lambda c, p: GatedLinearAttention(c, p.heads, 1.0, bidirectional=not p.causal),
    "Mamba": lambda c, p: SelectiveSSM(c) if p.causal else BiMamba(c),
    "Attention": lambda c, p: SelfAttention(c, p.heads, causal=p.causal),
    "Hopfield": lambda c, p: Hopfield(c, c // p.heads, p.heads, steps=1),
    "ViG": lambda c, p: BiGatedLinearAttention(c, max(p.heads // 2, 1), "none" if p.side is None else "grid"),
    "MLP-Mixer": lambda c, p: MixerBlock(c, p.tokens),
    "NiNformer": lambda c, p: NiNBlock(c, p.tokens),
    "GPSA": lambda c, p: GatedPositionalAttention(c, p.heads),
    "MAXIM": lambda c, p: MultiAxisGatedMLP(c, _cell(p)),
}
IN_ORDER: dict[str, Callable[[int, Place], TokenMixer]] = {
    "PGN": lambda c, p: PGN(c, c, min(max(p.tokens - 1, 1), 16)),
    "LSTM": lambda c, p: Recurrent(c, "lstm"),
    "RWKV": lambda c, p: RWKVTimeMix(c),
    "SpikeGPT": lambda c, p: SpikeGPTBlock(c),
}
BASELINE = "Baseline"
MODELS = (*BOTH_WAYS, *IN_ORDER, BASELINE)
_CAUSAL_TOO = ("GLA", "Mamba", "Attention")
_GRID = ("GPSA", "MAXIM")
_NOT_CAUSAL = tuple(name for name in BOTH_WAYS if name not in _CAUSAL_TOO)


def _cell(place: Place) -> int:
    """Side of MAXIM's blocks: the divisor of the grid's side that is nearest to its root."""
    side = place.side or 1
    return min((n for n in range(1, side + 1) if side % n == 0), key=lambda n: abs(n - side**0.5))


_MNIST: dict[str, Any] = {"patch": 4, "epochs": 5, "budget": 60_000}
_TEXT: dict[str, Any] = {
    "batch_size": 32,
    "heads": 4,
    "budget": 200_000,
    "epochs": 5,
    "layers": 3,
    "dropout": 0.1,
    "warmup": 0.5,
}
# Validation chose the settings of Cora, Minesweeper and ENZYMES; docs/token_graphs.md says what was tried.
_CORA: dict[str, Any] = {
    "batch_size": 32,
    "layers": 1,
    "lr": 0.01,
    "dropout": 0.6,
    "weight_decay": 0.1,
    "epochs": 40,
    "hops": 10,
    "budget": 80_000,
}
_TU: dict[str, Any] = {"epochs": 30, "batch_size": 32, "dropout": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "digit_images": {},
    "MNIST": _MNIST,
    "Fashion-MNIST": {**_MNIST, "epochs": 3},
    "associative-recall": {"batch_size": 32, "budget": 60_000, "epochs": 20},
    "help-topics": _TEXT,
    "tiny-shakespeare": _TEXT,
    "nycflights-hourly": {"epochs": 5, "lr": 0.001},
    "ETTh1": {"epochs": 5, "lr": 0.001},
    "Cora": _CORA,
    "Minesweeper": {"batch_size": 128, "lr": 0.01, "epochs": 60, "hops": 4},
    "MUTAG": _TU,
    "PROTEINS": {**_TU, "budget": 80_000},
    "ENZYMES": {**_TU, "epochs": 100, "lr": 0.01, "dropout": 0.0},
    "NCI1": _TU,
}
_CAUSAL_SETS = ("associative-recall", "reset-majority", "help-topics", "tiny-shakespeare")
_NO_GRID = tuple(name for name in SETTINGS if name not in ("digit_images", "MNIST", "Fashion-MNIST", *_CAUSAL_SETS))


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: the same network with another mixer, as wide as the budget allows."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    served = {PROTOCOLS[name].task for name in dataset.info.protocols}
    if "series" in served:
        return _forecast(config, dataset, model, seed)
    found, side = _problem(config, dataset, served, seed)
    place = Place(found.head == "token" and "node" not in served, found.max_length, config.heads, side)
    make = _mixer(model, place, config.dataset)

    def network(channels: int) -> nn.Module:
        return TokenModel(
            found.in_channels,
            channels,
            found.out_channels,
            lambda width: make(width, place),
            config.layers,
            found.head,
            num_embeddings=found.num_embeddings,
            max_positions=found.max_length,
            dropout=config.dropout,
        )

    return experiment(config, found.task, within_budget(network, config.budget, config.heads, seed))


def _mixer(model: str, place: Place, dataset: str) -> Callable[[int, Place], TokenMixer]:
    if place.causal and model in _NOT_CAUSAL:
        raise ValueError(f"{model} sees the tokens that {dataset} asks for; take one of {', '.join(_CAUSAL_TOO)}")
    if place.side is None and model in _GRID:
        raise ValueError(f"{model} needs a grid, which the tokens of {dataset} are not on; take images")
    return {**BOTH_WAYS, **IN_ORDER, BASELINE: _nothing}[model]


def _nothing(channels: int, place: Place) -> TokenMixer:
    # A graph's answer is read from its last token, or from the mean of all; a token's from itself.
    return NoMixing(channels) if place.causal else MeanMixer(channels)


def within_budget(network: Callable[[int], nn.Module], budget: int, step: int, seed: int) -> nn.Module:
    """The network of the width, a multiple of ``step``, whose number of parameters is nearest to the budget.

    Raises:
        ValueError: none is within a tenth of it.
    """
    check_range(budget, "budget", 1)

    def size(channels: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in network(channels).parameters())

    width = step
    while size(width + step) <= budget:
        width += step
    best = min((width, width + step), key=lambda channels: abs(size(channels) - budget))
    if abs(size(best) - budget) > 0.1 * budget:
        raise ValueError(
            f"budget {budget} is more than a tenth from what widths {width} and {width + step} need "
            f"({size(width)} and {size(width + step)} parameters); give another budget"
        )
    seed_everything(seed)
    return network(best)


def _problem(config: Config, dataset: Dataset, served: set[str], seed: int) -> tuple[Problem, int | None]:
    """The task, and the side of the tokens' grid if they have one."""
    if dataset.graphs is None or "token" in served:
        return problem(config, seed), None
    if "image" in dataset.graphs[0]:
        names = ("dataset", "root", "protocol", "images", "patch", "batch_size")
        task, images = image_task(ImageConfig(**{name: getattr(config, name) for name in names}), seed)
        side = dataset.graphs[0].image.size(-1) // config.patch
        return Problem(task, "mean", None, images.num_features, task.num_classes, side * side), side
    split = dataset.split(seed, dataset.info.protocol_for("graph", config.protocol))
    prepare = Compose([ToUndirected(), RemoveSelfLoops(), SortTokens("degree")])
    graphs = PackedGraphs([prepare(graph) for graph in dataset.graphs])
    label = torch.cat([graph.y.view(-1) for graph in dataset.graphs])
    task = GraphClassificationTask(graphs, label, split, config.batch_size, seed, dataset.info.classes)
    longest = max(int(graph.num_nodes or 0) for graph in dataset.graphs)
    return Problem(task, "mean", None, graphs.num_features, task.num_classes, longest), None


def _forecast(config: Config, dataset: Dataset, model: str, seed: int) -> Experiment:
    split = dataset.split(0, dataset.info.protocol_for("series", config.protocol))
    task = ForecastingTask(dataset.data, split, config.seq_len, config.horizon, None, config.batch_size, seed)
    place = Place(False, config.seq_len // config.period, config.heads, None)
    make = _mixer(model, place, config.dataset)

    def network(channels: int) -> nn.Module:
        return TokenForecaster(
            config.seq_len,
            config.horizon,
            lambda width: make(width, place),
            channels,
            config.period,
            config.layers,
            time_dim=task.time_dim,
            dropout=config.dropout,
        )

    return experiment(config, task, within_budget(network, config.budget, config.heads, seed))


RECIPE = Recipe(
    key="mixers",
    config=Config,
    settings=SETTINGS,
    fast={
        "epochs": 1,
        "budget": 20_000,
        "layers": 1,
        "heads": 2,
        "context": 32,
        "fewer": 300,
        "hops": 2,
        "images": 200,
    },
    models=MODELS,
    build=build,
    task=("graph", "token", "text", "series", "node"),
    protocol=f"all mixers get the same tokens, learned places, feed-forward layers and training; {PROTOCOL}; graphs: "
    "nodes from low to high degree; series: a token a period, errors in percent of the training rows' variance",
    absent={**dict.fromkeys(_CAUSAL_SETS, _NOT_CAUSAL), **dict.fromkeys(_NO_GRID, _GRID)},
)
