"""Forward Learning of Graph Neural Networks (https://arxiv.org/abs/2403.11004): classes of nodes without
backpropagation through the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch_geometric.data import Data
from torch_geometric.nn import GAT
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import GNN, ForwardStack
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, NodeClassificationTask
from graphkit.train.local import ForwardForwardTask, SingleForwardTask, TopDownTask, layer_by_layer
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

CONVS = {"GCN": "gcn", "SAGE": "sage", "GAT": "gat"}
MODELS = (
    *(f"BP-{name}" for name in CONVS),
    *(f"SF-{name}" for name in CONVS),
    *("SF-Top2Input", "SF-Top2Loss", "FF-LA", "FF-VN"),
)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of forward learning, which the baselines with backpropagation (BP) share."""

    dataset: str = "digits"
    """A graph with node classes and the protocol five-fold among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str = "five-fold"
    """Way to split: five-fold, or another one of the dataset for nodes."""
    hidden: int = 128
    """Width of every layer."""
    layers: int = 2
    """Number of layers of all models but FF-LA."""
    label_layers: int = 1
    """Number of layers of FF-LA, whose validation value further ones lower."""
    heads: int = 4
    """Heads of GAT, which share the width."""
    lr: float = 0.001
    """Learning rate."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    epochs: int = 1000
    """Most epochs of a layer, of all layers in BP, or time steps of the top-down models."""
    patience: int | None = 100
    """Evaluations without a better validation value before a layer stops; never if not given."""
    eval_every: int = 2
    """Epochs between evaluations."""
    tau: float = 1.0
    """Temperature of the softmax over virtual nodes (SF)."""
    direction: str = "to_virtual"
    """Edges between nodes and virtual nodes (SF): to_virtual, or both, with which a node sees its own label."""
    theta: float = 2.0
    """Goodness of an input that is as likely positive as negative (FF)."""
    num_negatives: int | None = None
    """Wrong labels of each training node (FF); all if not given."""
    label_conv: str = "gcn"
    """Layers of FF-LA: gcn, sage or gat."""
    virtual_conv: str = "sage"
    """Layers of FF-VN: gcn, sage or gat."""
    use_val_labels: bool = False
    """Show labels of validation nodes when test nodes are scored, as released (FF)."""
    top_down_conv: str = "gcn"
    """Layers of the top-down models: gcn, sage or gat."""
    infer_steps: int = 10
    """Time steps of a prediction of SF-Top2Input."""
    skip_steps: int = 2
    """The first of them, which do not count."""
    alternating: bool = True
    """Update odd and even layers of SF-Top2Input in turn."""
    clip_grad_norm: float = 1.0
    """Largest gradient norm of a layer of SF-Top2Loss."""


# Digits: ours, so that a first run takes minutes.
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"hidden": 64, "epochs": 200, "patience": 25},
    "Cora": {},
    "CiteSeer": {},
    "PubMed": {},
    "CitationFull-CiteSeer": {},
    "CitationFull-Cora_ML": {},
    "Amazon-Photo": {},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights of ``seed`` on its fold.

    Backpropagation gets features of unit length, which the layers of the others make themselves: with features that
    sum to one its validation values are lower.
    """
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    dataset.require_features("forward learning")
    data, classes = prepared(dataset.data), dataset.info.classes
    optimizer = partial(torch.optim.Adam, lr=config.lr, weight_decay=config.weight_decay)
    procedure, kind = model.split("-", 1)
    if procedure == "BP":
        data.x = F.normalize(data.x)
        task = NodeClassificationTask(data, split, num_classes=classes)
        seed_everything(seed)
        network = backpropagated(config, CONVS[kind], task.num_features, classes)
        return _at_once(config, task, network, optimizer)
    if kind.startswith("Top2"):
        return _top_down(config, kind.removeprefix("Top2").lower(), data, split, classes, seed, optimizer)
    local: NodeClassificationTask
    if procedure == "SF":
        conv, layers = CONVS[kind], config.layers
        local = SingleForwardTask(
            data, split, num_classes=classes, tau=config.tau, direction=config.direction, seed=seed
        )
    else:
        conv, layers = (
            (config.label_conv, config.label_layers) if kind == "LA" else (config.virtual_conv, config.layers)
        )
        local = ForwardForwardTask(
            data,
            split,
            num_classes=classes,
            mode="label" if kind == "LA" else "virtual",
            num_negatives=config.num_negatives,
            theta=config.theta,
            use_val_labels=config.use_val_labels,
            seed=seed,
        )
    seed_everything(seed)
    stack = ForwardStack([local.num_features, *[config.hidden] * layers], conv, heads=config.heads)
    return layer_by_layer(
        local,
        stack,
        optimizer,
        name=model,
        max_epochs=config.epochs,
        patience=config.patience,
        eval_every=config.eval_every,
    )


def prepared(data: Data) -> Data:
    """Both directions of each edge, no self-loops, features of a node summing to one."""
    return Compose([ToUndirected(), RemoveSelfLoops(), NormalizeFeatures()])(data)


def backpropagated(config: Any, conv: str, in_channels: int, out_channels: int) -> nn.Module:
    """The same layers as one network without local losses."""
    if conv == "gat":
        return GAT(in_channels, config.hidden, config.layers, out_channels, heads=config.heads)
    return GNN(in_channels, config.hidden, config.layers, out_channels, conv=conv, layer_norm=False)


def _top_down(
    config: Config,
    kind: str,
    data: Data,
    split: Any,
    classes: int,
    seed: int,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> Experiment:
    task = TopDownTask(
        data,
        split,
        num_layers=config.layers,
        top_down=kind,
        infer_steps=config.infer_steps,
        skip_steps=config.skip_steps,
        alternating=config.alternating,
        num_classes=classes,
        tau=config.tau,
        direction=config.direction,
        seed=seed,
    )
    seed_everything(seed)
    stack = ForwardStack(
        [task.num_features, *[config.hidden] * config.layers],
        config.top_down_conv,
        heads=config.heads,
        top_channels=classes if kind == "input" else None,
        num_nodes=task.num_nodes,
    )
    experiment = _at_once(config, task, stack, optimizer)
    experiment.clip_grad_norm = config.clip_grad_norm if kind == "loss" else None
    return experiment


def _at_once(
    config: Config, task: NodeClassificationTask, network: nn.Module, optimizer: Callable[..., Optimizer]
) -> Experiment:
    # The gradients of the layers of a stack are clipped apart.
    parts = network.layers if isinstance(network, ForwardStack) else [network]
    groups = [{"params": part.parameters()} for part in parts]
    return Experiment(task, network, optimizer(groups), config.epochs, config.patience, eval_every=config.eval_every)


RECIPE = Recipe(
    key="forward_gnn",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 4, "hidden": 8, "num_negatives": 2},
    models=MODELS,
    build=build,
    task="node",
    protocol="a seed chooses the fold and draws the weights; each layer stops by validation, and test is at the epoch "
    "of the last layer's best validation value, for each metric by itself; times include all layers",
)
