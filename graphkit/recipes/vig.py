"""ViG (https://arxiv.org/abs/2405.18425): images read from both ends by gated linear attention, with what is near by a
convolution; what each part is worth, beside other mixers in the same network; and a game's field, a class a pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.datasets import load
from graphkit.nn import (
    BiGatedLinearAttention,
    GatedLinearAttention,
    MeanMixer,
    MixerBlock,
    SelfAttention,
    TokenMixer,
    TokenModel,
    ViG,
)
from graphkit.ops import TokenLayout
from graphkit.recipes._images import ImageConfig, experiment, image_task
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, NodeClassificationTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("ViG", "ViG-not-local", "ViG-one-gate", "GLA", "ViT", "MLP-Mixer", "mean")


@dataclass(frozen=True)
class Config(ImageConfig):
    """Hyperparameters for small images; the paper's models are :meth:`graphkit.nn.ViG.of_size`."""

    channels: int = 36
    """Width of a token."""
    layers: int = 2
    """Blocks."""
    heads: int = 3
    """Heads of ViG and GLA."""
    attention_heads: int = 4
    """Heads of the Vision Transformer."""
    stem: str = "linear"
    """How ViG makes tokens of patches: linear or conv; other models have a linear map."""
    silu: bool = False
    """Further nonlinearities in ViG, as in the paper's tiny model."""
    drop_path: float = 0.0
    """Stochastic depth of the last block."""


# Few steps: ViG learns faster with a linear stem, which leaves the first sums small, and a larger learning rate (by
# validation on a part of Fashion-MNIST).
_MNIST: dict[str, Any] = {
    "patch": 4,
    "channels": 48,
    "silu": True,
    "batch_size": 128,
    "lr": 0.006,
    "epochs": 15,
    "warmup": 1.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "digit_images": {},
    "MNIST": _MNIST,
    "Fashion-MNIST": {**_MNIST, "epochs": 10},
    "CIFAR-10-jpeg": {**_MNIST, "epochs": 40},
    "Minesweeper": {
        "channels": 48,
        "layers": 3,
        "lr": 0.003,
        "epochs": 100,
        "warmup": 10.0,
        "weight_decay": 0.0,
        "eval_every": 5,
    },
}
# Rows of Minesweeper's grid, one node after the other.
_SIDE = 100


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, split and choice of training images of ``seed``.

    Minesweeper's nodes are a grid, which is read as one image with a class to tell of each pixel.
    """
    check_choice(model, "model", MODELS)
    if config.dataset.lower() == "minesweeper":
        return _nodes(config, model, seed)
    task, graphs = image_task(config, seed)
    seed_everything(seed)
    network = _network(config, model, graphs.num_features, task.num_classes, graphs.tokens_per_image)
    return experiment(config, task, network)


class OneGrid(nn.Module):
    """A model of tokens on a graph whose nodes are a grid row by row, ``side`` a row."""

    pos: Tensor
    ptr: Tensor

    def __init__(self, model: nn.Module, num_nodes: int, side: int) -> None:
        super().__init__()
        self.model = model
        place = torch.arange(num_nodes)
        self.register_buffer("pos", torch.stack([place // side, place % side], 1), persistent=False)
        self.register_buffer("ptr", torch.tensor([0, num_nodes]), persistent=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.model(x, TokenLayout(self.ptr, pos=self.pos, edge_index=edge_index))


def _nodes(config: Config, model: str, seed: int) -> Experiment:
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    task = NodeClassificationTask(dataset.data, split, ("AUC", "Accuracy"))
    seed_everything(seed)
    mixer = _mixers(config, task.num_nodes)[model]
    size = (task.num_features, config.channels, task.num_classes)
    network = TokenModel(*size, mixer, config.layers, drop_path=config.drop_path)
    return experiment(config, task, OneGrid(network, task.num_nodes, _SIDE))


def _mixers(config: Config, tokens: int) -> dict[str, Callable[[int], TokenMixer]]:
    def vig(local: str = "grid", own_gates: bool = True) -> Callable[[int], TokenMixer]:
        return partial(BiGatedLinearAttention, heads=config.heads, local=local, silu=config.silu, own_gates=own_gates)

    return {
        "ViG": vig(),
        "ViG-not-local": vig(local="none"),
        "ViG-one-gate": vig(own_gates=False),
        "GLA": lambda width: GatedLinearAttention(width, _dividing(config.heads, width // 2), bidirectional=True),
        "ViT": lambda width: SelfAttention(width, config.attention_heads),
        "MLP-Mixer": lambda width: MixerBlock(width, tokens),
        "mean": MeanMixer,
    }


def _network(config: Config, model: str, features: int, classes: int, tokens: int) -> nn.Module:
    channels, heads = config.channels, config.heads
    if model.startswith("ViG"):
        return ViG(
            features,
            channels,
            classes,
            tokens,
            config.patch,
            heads,
            config.layers,
            local="none" if model == "ViG-not-local" else "grid",
            own_gates=model != "ViG-one-gate",
            silu=config.silu,
            stem=config.stem,
            drop_path=config.drop_path,
        )
    network = TokenModel(
        features,
        channels,
        classes,
        _mixers(config, tokens)[model],
        config.layers,
        head="mean",
        max_positions=tokens,
        feed_forward=model != "MLP-Mixer",  # it has its own
        drop_path=config.drop_path,
    )
    assert network.position is not None
    nn.init.trunc_normal_(network.position.weight, std=0.02)
    return network


def _dividing(heads: int, width: int) -> int:
    """The most heads up to ``heads`` that divide a width."""
    return max(count for count in range(1, heads + 1) if width % count == 0)


RECIPE = Recipe(
    key="vig",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "warmup": 1.0, "channels": 12, "layers": 1, "images": 128},
    models=MODELS,
    build=build,
    task=("graph", "node"),
    protocol="a seed draws the weights, the split and the order of training; test at the epoch of the best validation "
    "value, for each metric by itself; no augmentation",
    # Attention and weights for each pair of places take gigabytes for ten thousand tokens.
    absent={"Minesweeper": ("ViT", "MLP-Mixer")},
)
