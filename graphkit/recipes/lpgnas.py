"""Learned Low Precision Graph Neural Networks (https://arxiv.org/abs/2009.09232)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GraphSAGE
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import LowPrecisionGNN, uniform_quantize
from graphkit.nn.models.low_precision import low_precision_space
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import Experiment
from graphkit.train.search import (
    LPGNASSearch,
    LPGNASSupernet,
    RandomCandidates,
    RandomSearchTask,
    SearchedExperiment,
    SizedNodeClassificationTask,
)
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

BASELINES = ("GCN", "GAT", "SAGE", "JKNet")
# Bits of weights and activations of a GAT: trained with them, or rounded after training (PTQ), the last one to a range
# that does not follow the values.
UNIFORM: dict[str, tuple[Any, Any]] = {
    "GAT-W8A8": (8, 8),
    "GAT-W4A8": (4, 8),
    "GAT-W4A4": (4, 4),
    "GAT-W4A4-PTQ": (4, 4),
    "GAT-W4A4-fixed-PTQ": ("FIX1.3", "FIX2.2"),
}
# Weight of the sizes in the search.
SEARCHED = {"LPGNAS-0": 0.0, "LPGNAS-0.01": 0.01, "LPGNAS-0.1": 0.1, "LPGNAS-1": 1.0}
MODELS = (*BASELINES, *UNIFORM, "Random", *SEARCHED)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the baselines and of the search. The paper's were not available; these are ours."""

    dataset: str = "digits"
    """Any single graph with features and node classes among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split; the dataset's first one for nodes if not given."""
    row_normalize: bool = False
    """Scale each node's features to sum one."""
    hidden: int = 64
    """Hidden width of the baselines; GAT's heads share it."""
    gat_heads: int = 8
    """Heads of GAT."""
    layers: int = 2
    """Layers of the baselines."""
    jk_layers: int = 3
    """Layers of JKNet, whose outputs are concatenated."""
    base_channels: int = 32
    """Hidden width of which a quarter, a half, one and two are searched."""
    blocks: int = 2
    """Blocks of the searched networks."""
    dropout: float = 0.5
    """Dropout of all models."""
    lr: float = 0.005
    """Learning rate of weights."""
    weight_decay: float = 5e-4
    """L2 penalty of weights."""
    epochs: int = 400
    """Most epochs of a final model."""
    patience: int | None = 100
    """Epochs without a better validation value before it stops; never if not given."""
    controller: str = "chained"
    """chained (a decision depends on those before) or table (free logits)."""
    controller_lr: float = 0.003
    """Learning rate of the controllers."""
    search_steps: int = 400
    """Steps of a search."""
    arch_start: int = 40
    """Steps before the choice of layers moves."""
    quant_start: int = 80
    """Steps before the choice of bit widths moves."""
    noise_steps: int = 200
    """Steps over which the noise of the choices sinks to zero."""
    noise: float = 1.0
    """Deviation of that noise at first."""
    single_level: bool = False
    """Let the controllers learn from training nodes instead of validation nodes."""
    sample_grad: bool = False
    """Estimate the controllers' gradients by one other option of each decision instead of all."""
    candidates: int = 8
    """Networks of the random search."""
    candidate_epochs: int = 100
    """Epochs of each of them."""
    random_beta: float = 0.1
    """Weight of the sizes in the random search."""


SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {},
    "Cora": {"protocol": "full"},
    "CiteSeer": {"protocol": "full"},
    "PubMed": {"protocol": "full"},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table. Searched models are trained from scratch after their search."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    dataset.require_features("every model here")
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    transforms = [ToUndirected(), RemoveSelfLoops(), *[NormalizeFeatures()] * config.row_normalize]
    graph = (Compose(transforms)(dataset.data), split)
    options: dict[str, Any] = {"num_classes": dataset.info.classes}
    task = SizedNodeClassificationTask(*graph, **options)
    seed_everything(seed)
    if model in BASELINES:
        return _trained(config, task, _baseline(config, task, model))
    if model in UNIFORM:
        network = _baseline(config, task, "GAT")
        quantized = uniform_quantize(network, *UNIFORM[model])
        if not model.endswith("PTQ"):
            return _trained(config, task, quantized)
        return Experiment(task, quantized, start_from=("GAT", _trained(config, task, network)))

    def final(found: LowPrecisionGNN) -> Experiment:
        seed_everything(seed)
        return _trained(config, task, LowPrecisionGNN(found.genotype, config.dropout))

    if model == "Random":
        space = low_precision_space(config.base_channels, task.num_classes, config.blocks)
        candidates = RandomCandidates(task.num_features, space, config.candidates, seed, config.dropout)
        search_task = RandomSearchTask(*graph, beta=config.random_beta, **options)
        stage = _trained(config, search_task, candidates)
        stage.max_epochs = stage.eval_every = config.candidate_epochs
        stage.patience = None
        return _searched(config, task, ("Random-search", stage), lambda _: final(search_task.best(candidates)))
    supernet = LPGNASSupernet(
        task.num_features,
        config.base_channels,
        task.num_classes,
        config.blocks,
        controller=config.controller,
        dropout=config.dropout,
        sample_grad=config.sample_grad,
    )
    search = LPGNASSearch(
        supernet,
        SEARCHED[model],
        config.search_steps,
        config.arch_start,
        config.quant_start,
        config.noise_steps,
        noise=config.noise,
        lr=config.lr,
        weight_decay=config.weight_decay,
        controller_lr=config.controller_lr,
        single_level=config.single_level,
    )
    stage = search.experiment(*graph, **options)
    return _searched(config, task, (f"{model}-search", stage), lambda _: final(LowPrecisionGNN(supernet.genotype())))


def _trained(config: Config, task: Any, network: nn.Module) -> Experiment:
    optimizer = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)
    return Experiment(task, network, optimizer, config.epochs, config.patience)


def _searched(config: Config, task: Any, stage: tuple[str, Experiment], make: Any) -> Experiment:
    return SearchedExperiment(task, stage[1].model, None, config.epochs, config.patience, start_from=stage, make=make)


def _baseline(config: Config, task: SizedNodeClassificationTask, model: str) -> nn.Module:
    sizes = (task.num_features, config.hidden)
    options: dict[str, Any] = {"out_channels": task.num_classes, "dropout": config.dropout}
    if model == "JKNet":
        return GCN(*sizes, config.jk_layers, jk="cat", **options)
    if model == "GAT":
        return GAT(*sizes, config.layers, heads=config.gat_heads, **options)
    return {"GCN": GCN, "SAGE": GraphSAGE}[model](*sizes, config.layers, **options)


_RECALLED = "recalled from a comparison that quotes the paper; not checked, and its split and its sizes are not known"

RECIPE = Recipe(
    key="lpgnas",
    config=Config,
    settings=SETTINGS,
    fast={
        "hidden": 16,
        "gat_heads": 2,
        "base_channels": 8,
        "epochs": 2,
        "search_steps": 4,
        "arch_start": 1,
        "quant_start": 2,
        "noise_steps": 3,
        "candidates": 2,
        "candidate_epochs": 2,
    },
    models=MODELS,
    build=build,
    task="node",
    protocol="a seed draws the weights, the candidates and the split where it is random; searches see training and "
    "validation nodes alone; test at the epoch of the best validation value",
    reported={
        ("LPGNAS-0.1", "Cora"): Reported(89.8, 0.0, "Accuracy", _RECALLED),
        ("GAT", "Cora"): Reported(88.9, 0.0, "Accuracy", _RECALLED),
    },
    headline=("Model kB", "Buffer kB"),
)
