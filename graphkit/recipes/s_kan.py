"""Activation Space Selectable Kolmogorov-Arnold Networks (https://arxiv.org/abs/2408.08338): functions, nodes of a
graph and images, at equal numbers of parameters after pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch_geometric.nn import GCNConv, GINConv
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import PROTOCOLS, info, load
from graphkit.nn import SKAN, GraphSequential, SelectableKANConv2d, SparseLinear, TokenModel
from graphkit.recipes._images import ImageConfig, image_task
from graphkit.recipes.recipe import Recipe
from graphkit.train import CosineSchedule, Experiment, NodeClassificationTask, RegressionTask
from graphkit.train.search import SKANSchedule
from graphkit.train.tasks import Task
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

_ALL = ("bspline", "rbf", "cheby", "wavelet")
Families = tuple[str, ...] | None
# Families of a model; None is an MLP.
FAMILIES: dict[str, Families] = {
    "MLP": None,
    "MLP-large": None,
    "KAN": ("bspline",),
    "KAN-rbf": ("rbf",),
    "KAN-cheby": ("cheby",),
    "KAN-wavelet": ("wavelet",),
    "S-KAN": _ALL,
    "S-KAN-full": _ALL,
    "S-KAN-random": _ALL,
}
MODELS = tuple(FAMILIES)


@dataclass(frozen=True)
class Config(ImageConfig):
    """Settings of the networks and of training, the same for all models of a table."""

    dataset: str = "fit-exp"
    """A function to fit, a graph with node classes, or a set of images among `graphkit datasets`."""
    parameters: int = 150
    """Most parameters of an MLP and of a KAN with one family, whose hidden layer is as wide as they allow; S-KAN has
    that width. MLP-large has those of S-KAN with all families."""
    grid: int = 5
    """Each family has three functions more than this."""
    conv: str = "gin"
    """Convolution on graphs, whose map is an MLP or a KAN: gin or gcn."""
    hidden: int = 16
    """Width of node features and between the convolutions of a graph."""
    dropout: float = 0.5
    """Dropout on graphs."""
    layers: int = 2
    """Convolutions of images."""
    batch_size: int = 64
    """Images a step; functions and graphs are taken as a whole."""
    lr: float = 0.01
    """Highest learning rate."""
    warmup: float = 0.0
    """Epochs in which the learning rate rises."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    epochs: int = 1500
    """Epochs of all phases."""
    full: float = 0.1
    """Share of the epochs in which everything learns."""
    selective: float = 0.1
    """Share of the epochs in which families are chosen; the rest comes after pruning."""
    regularization: float = 0.1
    """Weight of the coefficients' size and of the selection's entropy while families are chosen."""
    threshold: float = 0.5
    """Families below this share of an equal weight stand still while families are chosen."""
    temperature: float = 0.1
    """Temperature of the selection just before pruning."""
    eval_every: int = 10
    """Epochs between evaluations."""


# A choice takes some steps, of which graphs and images have fewer than functions.
_LONG: dict[str, Any] = {"full": 0.5, "selective": 0.3}
_GRAPH: dict[str, Any] = {
    **_LONG,
    "parameters": 26000,
    "weight_decay": 0.01,
    "lr": 0.005,
    "epochs": 200,
    "eval_every": 1,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "fit-exp": {},
    "fit-product": {},
    "fit-wave": {},
    "fit-bump": {},
    "Cora": _GRAPH,
    "digits": {**_GRAPH, "parameters": 3500, "dropout": 0.2},
    "digit_images": {
        **_LONG,
        "parameters": 5500,
        "weight_decay": 0.05,
        "lr": 0.003,
        "epochs": 30,
        "warmup": 1,
        "eval_every": 1,
    },
    "MNIST": {
        **_LONG,
        "parameters": 10500,
        "weight_decay": 0.05,
        "lr": 0.003,
        "epochs": 10,
        "warmup": 1,
        "eval_every": 1,
        "patch": 4,
    },
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a network whose maps are MLPs, KANs of one family or of several. ``S-KAN`` goes through all
    phases, ``S-KAN-full`` keeps all families, ``S-KAN-random`` keeps random ones.

    All KANs are as wide as the parameters allow for one family, which is what is left of S-KAN after pruning.
    """
    check_choice(model, "model", MODELS)
    task, make = _problem(config, seed)
    families = FAMILIES[model]
    width = widest(partial(make, _ALL[:1]), config.parameters)
    if families is None:
        most = config.parameters if model == "MLP" else _size(make(_ALL, width))
        width = widest(partial(make, None), most)
    seed_everything(seed)
    network = make(families, width)

    def optimizer(trained: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(trained.parameters(), config.lr, weight_decay=config.weight_decay)

    def schedule(epochs: int) -> CosineSchedule:
        return CosineSchedule(epochs, min(config.warmup, epochs / 2))

    options: dict[str, Any] = {"clip_grad_norm": config.clip}
    if model not in ("S-KAN", "S-KAN-random"):
        options |= {"eval_every": config.eval_every, "schedule": schedule(config.epochs)}
        return Experiment(task, network, optimizer(network), config.epochs, **options)
    phases = SKANSchedule(
        config.epochs,
        (config.full, config.selective, 1 - config.full - config.selective),
        config.threshold,
        config.temperature,
        config.regularization,
    )
    # Both share the phases before pruning.
    found = phases.experiment(
        task, network, optimizer, random_seed=seed if model == "S-KAN-random" else None, schedule=schedule, **options
    )
    found.eval_every = config.eval_every
    return found


def widest(make: Callable[[int], nn.Module], parameters: int) -> int:
    """The largest width of which ``make(width)`` has at most so many parameters.

    Raises:
        ValueError: width 1 has more.
    """

    def size(width: int) -> int:
        return _size(make(width))

    if size(1) > parameters:
        raise ValueError(f"parameters must be at least {size(1)}, those of width 1 (got {parameters})")
    low, high = 1, 2
    while size(high) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return low


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _problem(config: Config, seed: int) -> tuple[Task, Callable[[Families, int], nn.Module]]:
    """The task of a dataset, and a network for it by its families and its width."""
    served = {PROTOCOLS[name].task for name in info(config.dataset).protocols}
    if "graph" in served:
        task, graphs = image_task(config, seed)

        def image_network(families: Families, width: int) -> nn.Module:
            def conv(channels: int) -> SelectableKANConv2d:
                if families is not None:
                    return SelectableKANConv2d(channels, families=families, grid=config.grid)
                made = SelectableKANConv2d(channels, families=("rbf",), grid=1, order=0)
                made.lin = nn.Sequential(nn.Linear(9 * channels, channels), nn.SiLU())  # type: ignore[assignment]
                return made

            network = TokenModel(
                graphs.num_features, width, task.num_classes, conv, config.layers, "mean", feed_forward=False
            )
            return network

        return task, image_network
    dataset = load(config.dataset, config.root)
    if "regression" in served:
        split = dataset.split(seed)
        points = RegressionTask(dataset.data.x, dataset.data.y, split, seed=seed)
        inputs, outputs = dataset.data.x.size(1), dataset.data.y.size(1)

        def function_network(families: Families, width: int) -> nn.Module:
            if families is not None:
                return SKAN([inputs, width, outputs], families=families, grid=config.grid)
            linears = [nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, outputs)]
            return nn.Sequential(linears[0], nn.SiLU(), linears[1], nn.SiLU(), linears[2])

        return points, function_network
    check_choice(config.conv, "conv", ("gin", "gcn"))
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    dataset.require_features("every model here")
    graph = Compose([ToUndirected(), RemoveSelfLoops(), NormalizeFeatures()])(dataset.data)
    nodes = NodeClassificationTask(graph, split, num_classes=dataset.info.classes)

    def graph_network(families: Families, width: int) -> nn.Module:
        def mapping(inputs: int, outputs: int) -> nn.Module:
            if families is not None:
                return SKAN([inputs, width, outputs], norm="batch", families=families, grid=config.grid)
            parts = (nn.BatchNorm1d(inputs), nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))
            return nn.Sequential(*parts)

        def conv(inputs: int, outputs: int) -> nn.Module:
            if config.conv == "gin":
                return GINConv(mapping(inputs, outputs))
            made = GCNConv(inputs, outputs)
            made.lin = mapping(inputs, outputs)
            return made

        return GraphSequential(
            SparseLinear(nodes.num_features, config.hidden, config.dropout),
            conv(config.hidden, config.hidden),
            nn.Dropout(config.dropout),
            conv(config.hidden, nodes.num_classes),
        )

    return nodes, graph_network


RECIPE = Recipe(
    key="s_kan",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 6, "full": 0.4, "eval_every": 1, "images": 40, "warmup": 0.0},
    models=MODELS,
    build=build,
    task=("regression", "node", "graph"),
    protocol="a seed draws the weights, the order of training and random splits; KANs of one width, as S-KAN is "
    "after pruning; test at the epoch of the best validation value, of S-KAN after pruning",
)
