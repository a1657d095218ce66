"""ViG (https://arxiv.org/abs/2405.18425): images read from both ends by gated linear attention, with what is near by a
convolution; what each part is worth, beside other mixers in the same network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphkit.nn import (
    GatedLinearAttention,
    MeanMixer,
    MixerBlock,
    SelfAttention,
    TokenMixer,
    TokenModel,
    ViG,
)
from graphkit.recipes._images import ImageConfig, experiment, image_task
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment
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


_MNIST: dict[str, Any] = {
    "patch": 4,
    "channels": 48,
    "stem": "conv",
    "silu": True,
    "batch_size": 128,
    "epochs": 15,
    "warmup": 1.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "digit_images": {},
    "MNIST": _MNIST,
    "Fashion-MNIST": {**_MNIST, "epochs": 10},
    "CIFAR-10-jpeg": {**_MNIST, "epochs": 40},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, split and choice of training images of ``seed``."""
    check_choice(model, "model", MODELS)
    task, graphs = image_task(config, seed)
    seed_everything(seed)
    network = _network(config, model, graphs.num_features, task.num_classes, graphs.tokens_per_image)
    return experiment(config, task, network)


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
    mixers: dict[str, Callable[[int], TokenMixer]] = {
        "GLA": lambda width: GatedLinearAttention(width, _dividing(heads, width // 2), bidirectional=True),
        "ViT": lambda width: SelfAttention(width, config.attention_heads),
        "MLP-Mixer": lambda width: MixerBlock(width, tokens),
        "mean": MeanMixer,
    }
    network = TokenModel(
        features,
        channels,
        classes,
        mixers[model],
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
    task="graph",
    protocol="a seed draws the weights, the split and the order of training; test at the epoch of the best validation "
    "value, for each metric by itself; no augmentation",
)
