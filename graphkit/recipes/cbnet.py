"""CBNetV2: composite backbones on graphs and on images cut into classes, pixel by pixel
(https://arxiv.org/abs/2107.00420), beside one backbone, a deeper one, a wider one and two that vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.datasets.dataset import Dataset
from graphkit.loader import ImageGraphs
from graphkit.nn import CompositeBackbone, CompositeClassifier, OnGrids, StagedGNN, pool_grid
from graphkit.recipes.recipe import Recipe
from graphkit.train import CompositeNodeTask, CompositeTokenTask, CosineSchedule, Experiment
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("CB", "CB, pruned", "CB, no assistants", "single", "deeper", "wider", "two vote")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of a residual network in stages, and of its composites."""

    dataset: str = "digits"
    """A single graph with node classes, or images with classes of pixels, among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split; the dataset's first one for nodes if not given."""
    row_normalize: bool = False
    """Scale each node's features to sum one."""
    conv: str = "sage"
    """Layers of graphs: sage or gcn. Those of images are convolutions of 3 x 3."""
    hidden: int = 64
    """Width of all stages."""
    stages: int = 4
    """Stages."""
    layers: int = 1
    """Layers of a stage."""
    backbones: int = 2
    """Copies in a composite."""
    style: str = "dhlc"
    """Connections: dhlc, slc, ahlc, allc or fcc."""
    shared: int = 1
    """First stages that are one for all copies."""
    dropout: float = 0.2
    """Dropout."""
    batch_size: int = 16
    """Images a step; a graph is taken as a whole."""
    lr: float = 3e-3
    """Learning rate; of images it falls to zero along half a cosine."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 300
    """Epochs."""
    patience: int | None = 100
    """Epochs without a better validation value before training stops."""


_CITATIONS: dict[str, Any] = {"row_normalize": True, "dropout": 0.5, "lr": 0.01, "weight_decay": 5e-4}
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {},
    "Cora": _CITATIONS,
    "CiteSeer": _CITATIONS,
    "PubMed": _CITATIONS,
    "Minesweeper": {"epochs": 1000, "patience": 200},
    "Tolokers": {"epochs": 1000, "patience": 200},
    "digit_canvases": {"hidden": 32, "dropout": 0.0, "epochs": 30, "patience": None},
}


class _Vote(nn.Module):
    """Independent networks, which are trained each by itself and whose probabilities are averaged."""

    takes_index = True

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor, graph: Any) -> Tensor | tuple[Tensor, ...]:
        logits = [network(x, graph) for network in self.networks]
        return tuple(logits) if self.training else torch.stack(logits).log_softmax(-1).logsumexp(0)


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights, and a random split where there is one, of ``seed``.

    Edges get both directions and self-loops are removed: the layers bring the node itself in. Images are grids of
    pixels, of which squares of two by two become one between stages; all stages answer together, pixel by pixel.
    """
    check_choice(model, "model", MODELS)
    weights: dict[str, tuple[float, ...] | None] = {
        "two vote": (1.0,),
        "CB, no assistants": (0.0,) * (config.backbones - 1),
    }
    task = _task(config, load(config.dataset, config.root), seed, weights.get(model))
    seed_everything(seed)
    if model == "two vote":
        network: nn.Module = _Vote([_classifier(config, task) for _ in range(2)])
    elif model == "deeper":
        network = _classifier(config, task, layers=2 * config.layers)
    elif model == "wider":
        # As many parameters as two backbones: those of a stage grow with the square of the width.
        network = _classifier(config, task, hidden=round(2**0.5 * config.hidden))
    elif model == "single":
        network = _classifier(config, task)
    else:
        shared = config.stages - 1 if model == "CB, pruned" else config.shared
        network = _classifier(config, task, backbones=config.backbones, shared=shared)
    optimizer = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = CosineSchedule(config.epochs) if isinstance(task, CompositeTokenTask) else None
    return Experiment(task, network, optimizer, config.epochs, config.patience, schedule=schedule)


def _task(
    config: Config, dataset: Dataset, seed: int, weights: tuple[float, ...] | None
) -> CompositeNodeTask | CompositeTokenTask:
    if dataset.graphs is not None and dataset.info.task == "token":
        if "image" not in dataset.graphs[0]:
            raise ValueError(f"{config.dataset} has no images; of sets of graphs take digit_canvases")
        images = ImageGraphs(dataset.graphs, kernel=None)  # convolutions of images read no edges
        return CompositeTokenTask(
            images,
            dataset.split(seed, dataset.info.protocol_for("token", config.protocol)),
            config.batch_size,
            seed,
            metrics=("Mean IoU", "Accuracy"),
            weights=weights,
        )
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    dataset.require_features("every model here")
    transforms = [ToUndirected(), RemoveSelfLoops(), *[NormalizeFeatures()] * config.row_normalize]
    return CompositeNodeTask(
        Compose(transforms)(dataset.data),
        split,
        ("AUC", "Accuracy", "F1") if dataset.info.metric == "rocauc" else None,
        num_classes=dataset.info.classes,
        weights=weights,
    )


def _classifier(
    config: Config,
    task: CompositeNodeTask | CompositeTokenTask,
    hidden: int | None = None,
    layers: int | None = None,
    backbones: int = 1,
    shared: int = 0,
) -> CompositeClassifier:
    width, on_images = hidden or config.hidden, isinstance(task, CompositeTokenTask)

    def window(inputs: int, outputs: int) -> OnGrids:
        return OnGrids(nn.Conv2d(inputs, outputs, 3, padding=1))

    def make() -> StagedGNN:
        return StagedGNN(
            task.num_features,
            width,
            config.stages,
            layers or config.layers,
            window if on_images else config.conv,
            pool_grid if on_images else None,
            config.dropout,
        )

    backbone = CompositeBackbone(
        make,
        [width] * config.stages,
        backbones,
        config.style,
        shared,
        resize="nearest" if on_images else "identity",
    )
    return CompositeClassifier(backbone, task.num_classes, config.dropout, neck=on_images)


RECIPE = Recipe(
    key="cbnet",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "hidden": 8, "stages": 3},
    models=MODELS,
    build=build,
    task=("node", "token"),
    protocol="a seed draws the weights, and the split where it is random; test at the epoch of the best validation "
    "value, for each metric by itself",
)
