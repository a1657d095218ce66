"""Forward Learning of Graph Neural Networks (https://arxiv.org/abs/2403.11004): links without backpropagation through
the layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.nn import DotDecoder, ForwardStack, LinkPredictor
from graphkit.recipes.forward_gnn import CONVS, backpropagated
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, LinkPredictionTask
from graphkit.train.local import ForwardLinkTask, TopDownLinkTask, layer_by_layer
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = (
    *(f"BP-{name}" for name in CONVS),
    *(f"SF-{name}" for name in CONVS),
    *("SF-Top2Input", "FF"),
)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of forward learning, which the baselines with backpropagation (BP) share."""

    dataset: str = "digits"
    """A graph with the protocol link-64-16-20 among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str = "link-64-16-20"
    """Way to split: one with fixed non-links."""
    hidden: int = 128
    """Width of every layer."""
    layers: int = 2
    """Number of layers."""
    heads: int = 4
    """Heads of GAT, which share the width."""
    lr: float = 0.001
    """Learning rate."""
    weight_decay: float = 5e-4
    """L2 penalty; SF-Top2Input has none."""
    epochs: int = 1000
    """Most epochs of a layer, of all layers in BP, or time steps of SF-Top2Input."""
    patience: int | None = 100
    """Evaluations without a better validation value before a layer stops; never if not given."""
    eval_every: int = 2
    """Epochs between evaluations."""
    theta: float = 2.0
    """Goodness of a pair that is as likely a link as not (FF)."""
    forward_conv: str = "gcn"
    """Layers of FF and SF-Top2Input: gcn, sage or gat."""
    infer_steps: int = 10
    """Time steps of a prediction of SF-Top2Input."""
    skip_steps: int = 2
    """The first of them, which do not count."""
    alternating: bool = True
    """Update odd and even layers of SF-Top2Input in turn."""


SETTINGS: dict[str, dict[str, Any]] = {
    # Ours, so that a first run takes minutes.
    "digits": {"hidden": 64, "epochs": 200, "patience": 25},
    "Cora": {},
    "CiteSeer": {},
    "PubMed": {},
    "CitationFull-CiteSeer": {},
    "CitationFull-Cora_ML": {},
    "Amazon-Photo": {},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with links and weights of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("link", config.protocol))
    dataset.require_features("forward learning")
    # The layers of forward learning make their input so; backpropagation gains from it, too.
    split = replace(split, x=F.normalize(split.x))
    procedure, _, kind = model.partition("-")
    conv = CONVS.get(kind, config.forward_conv)
    widths = [split.x.size(1), *[config.hidden] * config.layers]
    decay = 0.0 if kind == "Top2Input" else config.weight_decay
    optimizer = partial(torch.optim.Adam, lr=config.lr, weight_decay=decay)
    stops: dict[str, Any] = {
        "max_epochs": config.epochs,
        "patience": config.patience,
        "eval_every": config.eval_every,
    }
    if procedure == "BP":
        links = LinkPredictionTask(
            split, split.train_pos.size(1), ("AUC",), target_link_removal=False, negatives="fixed", seed=seed
        )
        seed_everything(seed)
        network = LinkPredictor(backpropagated(config, conv, widths[0], config.hidden), DotDecoder())
        return Experiment(links, network, optimizer(network.parameters()), **stops)
    if kind == "Top2Input":
        steps = TopDownLinkTask(
            split,
            num_layers=config.layers,
            infer_steps=config.infer_steps,
            skip_steps=config.skip_steps,
            alternating=config.alternating,
        )
        seed_everything(seed)
        stack = ForwardStack(widths, conv, heads=config.heads, top_channels=0, num_nodes=split.num_nodes)
        return Experiment(steps, stack, optimizer(stack.parameters()), **stops)
    task = ForwardLinkTask(split, objective="ff" if procedure == "FF" else "bce", theta=config.theta)
    seed_everything(seed)
    return layer_by_layer(task, ForwardStack(widths, conv, heads=config.heads), optimizer, name=model, **stops)


RECIPE = Recipe(
    key="forward_gnn_links",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 4, "hidden": 8},
    models=MODELS,
    build=build,
    task="link",
    protocol="a seed draws the split and the weights; each layer stops by validation, and test is at the epoch of the "
    "last layer's best validation value; times include all layers",
)
