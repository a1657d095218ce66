"""ConViT (https://arxiv.org/abs/2103.10697): attention that starts as a convolution, where images are few; beside the
same without that start, with gates that stay where they are, and the Vision Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphkit.nn import ConViT, GatedPositionalAttention
from graphkit.recipes._images import ImageConfig, experiment, image_task
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("ConViT", "ConViT-fixed-gates", "ConViT-random-start", "ViT")


@dataclass(frozen=True)
class Config(ImageConfig):
    """Hyperparameters for few small images; the paper's models are :meth:`graphkit.nn.ConViT.of_size`."""

    protocol: str | None = "few-shot"
    """Way to split the images: few-shot (ten of each class for training) or images."""
    patch: int = 1
    """Pixels a side of a token."""
    heads: int = 9
    """Heads; squares of whole numbers start as full convolutions."""
    head_dim: int = 4
    """Channels a head."""
    layers: int = 3
    """Blocks."""
    local_layers: int = 2
    """How many of them attend by places, too, from the first on; the class token joins after them."""
    locality: float = 1.0
    """How sharply heads look at their offsets at the start."""
    head: str = "class"
    """What answers: class (a class token) or mean (the mean of the tokens)."""
    mlp_ratio: float = 2.0
    """Hidden width of the MLPs as a multiple of a token's."""
    drop_path: float = 0.0
    """Stochastic depth of the last block."""
    epochs: int = 150
    """Epochs."""
    warmup: float = 10.0
    """Epochs in which the learning rate rises."""
    eval_every: int = 5
    """Epochs between evaluations."""


_LARGER: dict[str, Any] = {"patch": 4, "head_dim": 8, "layers": 4, "local_layers": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    # Better than a class token by validation, for ConViT and for ViT.
    "digit_images": {"head": "mean"},
    "MNIST": _LARGER,
    "Fashion-MNIST": _LARGER,
    "CIFAR-10-jpeg": _LARGER,
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, split and choice of training images of ``seed``."""
    check_choice(model, "model", MODELS)
    task, graphs = image_task(config, seed)
    seed_everything(seed)
    network = ConViT(
        graphs.num_features,
        task.num_classes,
        graphs.tokens_per_image,
        config.heads,
        config.head_dim,
        config.layers,
        0 if model == "ViT" else config.local_layers,
        locality=config.locality,
        local_init=model != "ConViT-random-start",
        head=config.head,
        mlp_ratio=config.mlp_ratio,
        drop_path=config.drop_path,
    )
    if model == "ConViT-fixed-gates":
        for part in network.modules():
            if isinstance(part, GatedPositionalAttention):
                part.gating.requires_grad_(False)
    return experiment(config, task, network)


RECIPE = Recipe(
    key="convit",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "warmup": 1.0, "eval_every": 1, "patch": 4, "heads": 4, "head_dim": 2},
    models=MODELS,
    build=build,
    task="graph",
    protocol="a seed draws the weights, the split and the order of training; test at the epoch of the best validation "
    "value, for each metric by itself; no augmentation",
)
