"""Pooling of "Hopfield Networks is All You Need" (https://arxiv.org/abs/2008.02217): bags of instances and small graphs
read out by retrieval, by attention alone, and by the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import MeanAggregation

from graphkit.datasets import load
from graphkit.nn import HopfieldPooling
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, GraphClassificationTask
from graphkit.train.pretrain import gin_encoder
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("Hopfield", "Attention", "Mean")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of all models; the first two pool by themselves, the last one behind an MLP where there are no
    edges."""

    dataset: str = "bit-bags"
    """bit-bags, or any dataset of many graphs with classes."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    beta: float = 0.25
    """Inverse temperature."""
    steps: int = 3
    """Retrievals besides the last; Attention has none."""
    heads: int = 8
    """Heads of the pooling."""
    hidden: int = 32
    """Width of a head, and of the encoder."""
    layers: int = 3
    """Layers of the encoder of graphs, a GIN."""
    dropout: float = 0.0
    """Dropout of the weights of the last retrieval."""
    lr: float = 0.01
    """Learning rate of AdamW."""
    batch_size: int = 64
    """Bags or graphs a step."""
    epochs: int = 60
    """Epochs."""


SETTINGS: dict[str, dict[str, Any]] = {
    "bit-bags": {},
    "MUTAG": {"heads": 4, "lr": 0.001, "epochs": 100},
    "PROTEINS": {"heads": 4, "lr": 0.001, "epochs": 60},
}


class SetClassifier(nn.Module):
    """An encoder of nodes, a pooling of PyG's kind, and a linear layer."""

    def __init__(self, encoder: nn.Module, takes_edges: bool, pooling: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.takes_edges = encoder, takes_edges
        self.pooling, self.head = pooling, nn.Linear(width, classes)

    def forward(self, x: Tensor, edge_index: Tensor | None, batch: Tensor, num_graphs: int) -> Tensor:
        z = self.encoder(x, edge_index) if self.takes_edges else self.encoder(x)
        return self.head(self.pooling(z, batch, dim_size=num_graphs))


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a pooling, with first weights and fold of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("graph"))
    graphs = dataset.graphs
    if graphs is None or not graphs.num_features or not dataset.info.classes:
        raise ValueError(f"{config.dataset} has no graphs with features and classes; take bit-bags, MUTAG or PROTEINS")
    task = GraphClassificationTask(graphs, graphs._data.y, split, config.batch_size, seed, dataset.info.classes)
    seed_everything(seed)
    features, hidden = graphs.num_features, config.hidden
    has_edges = dataset.info.edges > 0
    encoder: nn.Module = nn.Identity()
    if has_edges:
        encoder, features = gin_encoder(hidden, config.layers, features), hidden
    elif model == "Mean":
        encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        features = hidden
    if model == "Mean":
        pooling, width = MeanAggregation(), features
    else:
        steps = config.steps if model == "Hopfield" else 0
        width = hidden
        pooling = HopfieldPooling(
            features, width, 1, hidden, config.heads, config.beta, steps=steps, dropout=config.dropout
        )
    network = SetClassifier(encoder, has_edges, pooling, width, dataset.info.classes)
    return Experiment(task, network, torch.optim.AdamW(network.parameters(), config.lr), config.epochs)


RECIPE = Recipe(
    key="hopfield",
    config=Config,
    settings=SETTINGS,
    fast={"hidden": 8, "heads": 2, "epochs": 1},
    models=MODELS,
    build=build,
    task="graph",
    protocol="a seed draws weights and fold; test at the epoch of the best validation value, for each metric by itself",
)
