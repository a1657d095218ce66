"""NiNformer: images and nodes' surroundings classified by gates that are MLP-Mixers
(https://arxiv.org/abs/2403.02411), beside a Vision Transformer, an MLP-Mixer and the mean of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch_geometric.transforms import NormalizeFeatures

from graphkit.datasets import load
from graphkit.datasets.splits import IndexSplit
from graphkit.loader import ImageGraphs, PackedGraphs
from graphkit.nn import MeanMixer, MixerBlock, NiNformer, SelfAttention, TokenModel
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, GraphClassificationTask
from graphkit.transforms import HopTokens
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything, stream

MODELS = ("NiNformer", "MLP-Mixer", "ViT", "mean")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the authors' script (width 256, 512 within MLPs, four blocks, dropout 0.5, patches of 4,
    Adam 0.001, 128 images a step, 100 epochs), and of small data where they are too large."""

    dataset: str = "digit_images"
    """A set of images, or a single graph with node classes, among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split; the dataset's first one for graphs or nodes if not given."""
    patch: int = 4
    """Pixels a side of a token."""
    hops: int = 3
    """Of a node: tokens besides itself, each the mean of its surroundings so far away."""
    images: int | None = None
    """Training images, drawn by the seed; all if not given."""
    channels: int = 256
    """Width of a token."""
    hidden: int = 512
    """Width within the MLPs of NiNformer and MLP-Mixer."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of the Vision Transformer."""
    dropout: float = 0.5
    """Dropout."""
    batch: int = 128
    """Images, or nodes, a step."""
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 100
    """Epochs."""
    eval_every: int = 1
    """Epochs between evaluations."""


_CITATIONS: dict[str, Any] = {"channels": 64, "hidden": 64, "layers": 1, "epochs": 200, "weight_decay": 5e-4}
SETTINGS: dict[str, dict[str, Any]] = {
    "digit_images": {"patch": 2, "channels": 36, "hidden": 72, "layers": 2, "dropout": 0.1, "batch": 32, "epochs": 40},
    "MNIST": {"channels": 64, "hidden": 128, "dropout": 0.1, "epochs": 20},
    "Fashion-MNIST": {"channels": 64, "hidden": 128, "dropout": 0.1, "epochs": 20},
    "Cora": _CITATIONS,
    "CiteSeer": _CITATIONS,
    "PubMed": _CITATIONS,
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights and split of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    if dataset.graphs is not None:
        split = dataset.split(seed, dataset.info.protocol_for("graph", config.protocol))
        order = torch.randperm(split.train.numel(), generator=stream(seed, 11))[: config.images]
        split = IndexSplit(split.train[order], split.valid, split.test)
        images = ImageGraphs(dataset.graphs, config.patch)
        graphs: PackedGraphs = images
        y, tokens = images["y"], images.tokens_per_image
    else:
        split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
        graphs = PackedGraphs(HopTokens(config.hops)(NormalizeFeatures()(dataset.data)))
        y, tokens = dataset.data.y, config.hops + 1
    task = GraphClassificationTask(graphs, y, split, config.batch, seed, dataset.info.classes)
    seed_everything(seed)
    network = _network(config, model, graphs.num_features, tokens, dataset.info.classes)
    optimizer = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)
    return Experiment(task, network, optimizer, config.epochs, clip_grad_norm=1.0, eval_every=config.eval_every)


def _network(config: Config, model: str, features: int, tokens: int, classes: int) -> nn.Module:
    size, hidden, dropout = (features, config.channels, classes), config.hidden, config.dropout
    if model == "NiNformer":
        return NiNformer(features, config.channels, tokens, classes, hidden, config.layers, dropout)
    if model == "MLP-Mixer":
        return TokenModel(
            *size,
            lambda channels: MixerBlock(channels, tokens, hidden, dropout),
            config.layers,
            head="mean",
            feed_forward=False,
        )
    if model == "ViT":
        return TokenModel(
            *size,
            lambda channels: SelfAttention(channels, config.heads),
            config.layers,
            head="mean",
            max_positions=tokens,
            dropout=dropout,
        )
    return TokenModel(*size, MeanMixer, config.layers, head="mean", dropout=dropout)


RECIPE = Recipe(
    key="ninformer",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "channels": 8, "hidden": 8, "layers": 1, "images": 128},
    models=MODELS,
    build=build,
    task=("graph", "node"),
    protocol="a seed draws weights and split; test at the epoch of the best validation value, for each metric by "
    "itself",
)
