"""What recipes of image models share: the images as grids of tokens, and how models are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from graphkit.datasets import load
from graphkit.datasets.splits import IndexSplit
from graphkit.loader import ImageGraphs
from graphkit.train import CosineSchedule, Experiment, GraphClassificationTask
from graphkit.train.tasks import Task
from graphkit.utils.seed import stream


@dataclass(frozen=True)
class ImageConfig:
    """Settings of the images and of training, the same for all models of a table."""

    dataset: str = "digit_images"
    """A set of images among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split the images: images or few-shot (ten of each class for training)."""
    images: int | None = None
    """Training images, drawn by the seed; all if not given."""
    patch: int = 2
    """Pixels a side of a token."""
    batch_size: int = 64
    """Images a step."""
    lr: float = 0.002
    """Highest learning rate; it falls to zero along half a cosine."""
    warmup: float = 2.0
    """Epochs in which the learning rate rises."""
    weight_decay: float = 0.05
    """Weight decay of AdamW, of matrices alone."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    epochs: int = 40
    """Epochs."""
    eval_every: int = 1
    """Epochs between evaluations."""


def image_task(config: ImageConfig, seed: int) -> tuple[GraphClassificationTask, ImageGraphs]:
    """The classification of a dataset's images, and the images."""
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("graph", config.protocol))
    if dataset.graphs is None or "image" not in dataset.graphs[0]:
        raise ValueError(f"{config.dataset} has no images; take digit_images, MNIST or Fashion-MNIST")
    order = torch.randperm(split.train.numel(), generator=stream(seed, 11))[: config.images]
    split = IndexSplit(split.train[order], split.valid, split.test)
    graphs = ImageGraphs(dataset.graphs, config.patch, kernel=None)  # no model here reads edges
    task = GraphClassificationTask(graphs, graphs["y"], split, config.batch_size, seed, dataset.info.classes)
    return task, graphs


def experiment(config: ImageConfig, task: Task, network: nn.Module) -> Experiment:
    """AdamW with a cosine schedule, as image transformers are trained."""
    weights = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, config.lr)
    schedule = CosineSchedule(config.epochs, config.warmup)
    return Experiment(
        task,
        network,
        optimizer,
        config.epochs,
        clip_grad_norm=config.clip,
        eval_every=config.eval_every,
        schedule=schedule,
    )
