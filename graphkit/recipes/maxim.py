"""MAXIM: clean images from noisy ones (https://arxiv.org/abs/2201.02973)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.datasets import load
from graphkit.datasets.splits import IndexSplit
from graphkit.loader import ImageGraphs
from graphkit.nn import GNN, MAXIM, OnGrids, RestorationStack
from graphkit.recipes.recipe import Recipe
from graphkit.train import CosineSchedule, Experiment, RestorationTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything, stream

MODELS = ("MAXIM", "blocks", "MLPs alone", "convolutions alone", "SAGE", "linear", "noisy")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of a small MAXIM; the paper's networks are for photographs."""

    dataset: str = "digit_images"
    """Any set of images of one size among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split the images; the dataset's first one for graphs if not given."""
    sigma: float = 0.2
    """Deviation of the noise; pixels go from 0 to 1."""
    images: int | None = None
    """Training images, drawn by the seed; all if not given."""
    held_out: int | None = None
    """Most validation and most test images, drawn by the seed; all if not given."""
    channels: int = 24
    """Width of a pixel within."""
    layers: int = 2
    """Blocks; layers of SAGE are twice as many."""
    block: int = 4
    """Block size and grid size."""
    bottlenecks: int = 1
    """Levels at the bottom of the U."""
    freq_weight: float = 0.1
    """Weight of the spectra in the loss."""
    batch: int = 64
    """Images a step."""
    lr: float = 2e-3
    """Learning rate at the start; it falls along a cosine."""
    epochs: int = 50
    """Epochs."""
    eval_every: int = 1
    """Epochs between evaluations."""


# With a block size that divides the sides and, for the U, half of them.
SETTINGS: dict[str, dict[str, Any]] = {
    "digit_images": {},
    "MNIST": {"block": 7, "images": 4000, "epochs": 20, "held_out": 2000},
    "Fashion-MNIST": {"block": 7, "images": 4000, "epochs": 20, "held_out": 2000},
}


class _LinearFilter(nn.Module):
    """The best linear map from noisy to clean images of the training images' mean and covariance (Wiener's filter)."""

    def __init__(self, images: Tensor, sigma: float) -> None:
        super().__init__()
        flat = images.flatten(1).double()
        mean = flat.mean(0)
        covariance = (flat - mean).t() @ (flat - mean) / len(flat)
        noise = max(sigma, 1e-6) ** 2 * torch.eye(len(mean), dtype=flat.dtype)
        weight = torch.linalg.solve(covariance + noise, covariance)
        self.mean, self.weight = nn.Parameter(mean.float()), nn.Parameter(weight.float())

    def forward(self, images: Tensor) -> Tensor:
        return (self.mean + (images.flatten(1) - self.mean) @ self.weight).view_as(images)


class _Change(nn.Module):
    """A network of graphs whose output is added to its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x + self.network(x, edge_index)


class _AsItIs(nn.Module):
    """What no method does."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, split and choice of training images of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("graph", config.protocol))
    assert dataset.graphs is not None
    graphs = ImageGraphs(dataset.graphs)
    parts = ((split.train, config.images), (split.valid, config.held_out), (split.test, config.held_out))
    split = IndexSplit(
        *(ids[torch.randperm(len(ids), generator=stream(seed, i))[:most]] for i, (ids, most) in enumerate(parts))
    )
    task = RestorationTask(graphs, split, config.sigma, config.batch, config.freq_weight, seed)
    seed_everything(seed)
    depth, colours = 2 * config.layers, graphs.images.size(1)
    size = (colours, config.channels, config.layers, config.block)
    network: nn.Module
    if model == "noisy":
        return Experiment(task, _AsItIs())
    if model == "linear":
        # uint8 images, as they are kept, go from 0 to 255.
        images = graphs.images[split.train]
        scale = 1.0 if images.is_floating_point() else 255.0
        return Experiment(task, OnGrids(_LinearFilter(images / scale, config.sigma)))
    if model == "SAGE":
        network = _Change(GNN(colours, config.channels, depth, colours, conv="sage", residual=True))
    elif model == "MAXIM":
        groups, bottlenecks = config.layers, config.bottlenecks
        network = OnGrids(
            MAXIM(
                colours,
                config.channels,
                depth=1,
                groups=groups,
                bottlenecks=bottlenecks,
                block=config.block,
                grid=config.block,
            )
        )
    else:
        blocks = {"blocks": "both", "MLPs alone": "mlp", "convolutions alone": "conv"}[model]
        network = OnGrids(RestorationStack(*size, blocks=blocks))
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    schedule = CosineSchedule(config.epochs)
    return Experiment(task, network, optimizer, config.epochs, eval_every=config.eval_every, schedule=schedule)


RECIPE = Recipe(
    key="maxim",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "channels": 4, "layers": 1, "images": 64, "held_out": 64},
    models=MODELS,
    build=build,
    task="graph",
    protocol="Gaussian noise, drawn anew in each training step and once for validation and test; PSNR in decibels on "
    "pixels from 0 to 1; a seed draws weights, split, training images and noise; test at the epoch of the best "
    "validation value",
    headline=(),
)
