"""Baselines of node classification: GCN (https://arxiv.org/abs/1609.02907), GAT (https://arxiv.org/abs/1710.10903),
GraphSAGE (https://arxiv.org/abs/1706.02216) and an MLP that does not see the graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GATConv
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.datasets.registry import ENTRIES
from graphkit.nn import GNN, GraphSequential, SparseLinear
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import Experiment, NodeClassificationTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("GCN", "GAT", "SAGE", "MLP")
_READ_FEATURES = ("GAT", "MLP")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the GCN paper, which SAGE and the MLP share, and of the GAT paper."""

    dataset: str = "digits"
    """Any single graph with node classes among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split: public, geom-gcn, fixed, per-class or random; the dataset's first one for nodes if not given."""
    row_normalize: bool = False
    """Scale each node's features to sum one."""
    hidden: int = 16
    """Width of the hidden layers of GCN, SAGE and MLP."""
    layers: int = 2
    """Layers of GCN, SAGE and MLP."""
    dropout: float = 0.5
    """Dropout of the features and between layers of GCN, SAGE and MLP."""
    lr: float = 0.01
    """Learning rate of GCN, SAGE and MLP."""
    weight_decay: float = 5e-4
    """L2 penalty of the first layer of GCN, SAGE and MLP."""
    epochs: int = 200
    """Epochs of GCN, SAGE and MLP."""
    patience: int | None = None
    """Epochs without a better validation value before GCN, SAGE and MLP stop; never if not given."""
    gat_hidden: int = 8
    """Width of each head of GAT's first layer."""
    gat_heads: int = 8
    """Heads of GAT's first layer, which are concatenated."""
    gat_output_heads: int = 1
    """Heads of GAT's second layer, which are averaged."""
    gat_dropout: float = 0.6
    """Dropout of both layers' inputs and attention weights in GAT."""
    gat_lr: float = 0.005
    """Learning rate of GAT."""
    gat_weight_decay: float = 5e-4
    """L2 penalty of all weights of GAT."""
    gat_epochs: int = 1000
    """Most epochs of GAT."""
    gat_patience: int | None = 100
    """Epochs without a better validation value before GAT stops; never if not given."""


SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"hidden": 64},
    "Cora": {"row_normalize": True},
    "CiteSeer": {"row_normalize": True},
    "PubMed": {"row_normalize": True, "gat_output_heads": 8, "gat_lr": 0.01, "gat_weight_decay": 0.001},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, and a random split where there is one, of ``seed``.

    Edges get both directions and self-loops are removed: all four models bring the node itself in.
    """
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    task = NodeClassificationTask(
        _prepared(dataset.data, config.row_normalize),
        split,
        ("AUC", "Accuracy", "F1") if dataset.info.metric == "rocauc" else None,
        num_classes=dataset.info.classes,
    )
    if task.num_features == 0 and model in _READ_FEATURES:
        raise ValueError(f"{config.dataset} has no node features, which {model} needs; run GCN or SAGE")
    return experiment(config, model, task, seed)


def experiment(config: Config, model: str, task: NodeClassificationTask, seed: int) -> Experiment:
    """A model of ``MODELS`` with weights of ``seed`` on any task."""
    seed_everything(seed)
    if model == "GAT":
        network: nn.Module = _gat(config, task)
        optimizer = torch.optim.Adam(network.parameters(), config.gat_lr, weight_decay=config.gat_weight_decay)
        return Experiment(task, network, optimizer, config.gat_epochs, config.gat_patience)
    network, first = _mlp(config, task) if model == "MLP" else _gnn(config, task, model.lower())
    chosen = {id(p) for p in first}
    groups: list[dict[str, Any]] = [
        {"params": first, "weight_decay": config.weight_decay},
        {"params": [p for p in network.parameters() if id(p) not in chosen]},
    ]
    optimizer = torch.optim.Adam(groups, config.lr)
    return Experiment(task, network, optimizer, config.epochs, config.patience)


def _prepared(data: Data, row_normalize: bool) -> Data:
    transforms = [ToUndirected(), RemoveSelfLoops(), *[NormalizeFeatures()] * row_normalize]
    return Compose(transforms)(data)


def _gnn(config: Config, task: NodeClassificationTask, conv: str) -> tuple[nn.Module, list[nn.Parameter]]:
    """A GCN or GraphSAGE, and the parameters of its first layer."""
    network = GNN(
        task.num_features,
        config.hidden,
        config.layers,
        task.num_classes,
        task.num_nodes,
        conv=conv,
        input_dropout=config.dropout,
        dropout=config.dropout,
        layer_norm=False,
    )
    linears = [*network.neighbor_linears[:1], *network.root_linears[:1]]
    return network, [*(linear.weight for linear in linears), network.biases[0]]


def _mlp(config: Config, task: NodeClassificationTask) -> tuple[nn.Module, list[nn.Parameter]]:
    """An MLP on sparse features with GCN's widths and dropout, and the parameters of its first layer."""
    widths = [task.num_features, *[config.hidden] * (config.layers - 1), task.num_classes]
    linears = [SparseLinear(a, b, config.dropout) for a, b in pairwise(widths)]
    parts = [part for linear in linears for part in (linear, nn.ReLU())]
    return GraphSequential(*parts[:-1]), list(linears[0].parameters())


def _gat(config: Config, task: NodeClassificationTask) -> nn.Module:
    # PyG's layers, not its model GAT, whose output layer has as many heads as the first. The first layer's linear map
    # is ours: it drops and multiplies only what is set in sparse features.
    p, heads, width = config.gat_dropout, config.gat_heads, config.gat_hidden
    first = GATConv(task.num_features, width, heads, dropout=p)
    first.lin = SparseLinear(task.num_features, heads * width, dropout=p, bias=False)
    nn.init.xavier_uniform_(first.lin.weight)
    second = GATConv(heads * width, task.num_classes, config.gat_output_heads, concat=False, dropout=p)
    return GraphSequential(first, nn.ELU(), nn.Dropout(p), second)


# Recalled, and not compared with the papers.
_GCN = "recalled from Semi-Supervised Classification with Graph Convolutional Networks; not checked against the paper"
_GAT = "recalled from Graph Attention Networks; not checked against the paper"

RECIPE = Recipe(
    key="gcn",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 3, "hidden": 8, "gat_epochs": 3, "gat_hidden": 4, "gat_heads": 2},
    models=MODELS,
    build=build,
    task="node",
    protocol="a seed draws the weights, and the split where it is random; test at the epoch of the best validation "
    "value, for each metric by itself",
    reported={
        ("GCN", "Cora"): Reported(81.5, None, "Accuracy", _GCN),
        ("GCN", "CiteSeer"): Reported(70.3, None, "Accuracy", _GCN),
        ("GCN", "PubMed"): Reported(79.0, None, "Accuracy", _GCN),
        ("GAT", "Cora"): Reported(83.0, 0.7, "Accuracy", _GAT),
        ("GAT", "CiteSeer"): Reported(72.5, 0.7, "Accuracy", _GAT),
        ("GAT", "PubMed"): Reported(79.0, 0.3, "Accuracy", _GAT),
        ("MLP", "Cora"): Reported(55.1, None, "Accuracy", _GAT),
        ("MLP", "CiteSeer"): Reported(46.5, None, "Accuracy", _GAT),
        ("MLP", "PubMed"): Reported(71.4, None, "Accuracy", _GAT),
    },
    # GCN and SAGE learn an embedding of each node instead.
    absent={facts.name: _READ_FEATURES for facts, _ in ENTRIES.values() if not facts.features},
)
