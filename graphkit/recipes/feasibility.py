"""Feasibility of pre-training, from W2PGNN (https://arxiv.org/abs/2303.16458), among named datasets: which of them
could have generated graphs like those of another one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from graphkit.analysis import FeasibilityResult, GraphonEstimator, PretrainFeasibility
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.datasets import info, load
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, Task
from graphkit.utils.checks import check_choice

# The shipped graphs; --models takes any dataset of one graph or of many.
MODELS = ("pyimports", "digits")


@dataclass(frozen=True)
class Config:
    """How graphs are drawn and their graphons made."""

    dataset: str = "pyimports"
    """The downstream dataset."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    graphs: int = 1000
    """Most ego-nets, or graphs, of each dataset; drawn by seed, others for the downstream dataset."""
    num_hops: int = 2
    """How far ego-nets reach."""
    min_nodes: int = 16
    """Ego-nets of fewer nodes are left out: they are dense just because they are small."""
    max_nodes: int = 1000
    """Ego-nets of more nodes are left out."""
    resolution: int = 16
    """Squares a side of the graphons."""
    clusters: int = 5
    """Clusters of graphs with like topology."""


class FeasibilityTask(Task):
    """A score that is known without training, as a task that is only evaluated: 100 times the feasibility with all
    bases and with each alone. There are no labels, so that validation and test are the same."""

    monitor = "Feasibility"

    def __init__(self, scorer: PretrainFeasibility, source: Sequence[Data], target: Sequence[Data]) -> None:
        self._scorer, self._source, self._target = scorer, source, target

    @cached_property
    def result(self) -> FeasibilityResult:
        """Found once, when it is asked for."""
        return self._scorer.score(self._source, self._target)

    def num_batches(self) -> int:
        return 0

    def batches(self, epoch: int) -> Any:
        return iter(())

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} is only evaluated; give the experiment no optimizer")

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        return {"Feasibility": 100 * self.result.score} | {
            f"Basis {name}": -100 * distance for name, distance in self.result.distances.items()
        }

    def to(self, device: torch.device | str) -> FeasibilityTask:
        return self


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: pre-training on the dataset ``model``, with graphs drawn by ``seed``."""
    limits = (config.graphs, config.num_hops, config.min_nodes, config.max_nodes)
    source = dataset_graphs(load(info(model).name, config.root), *limits, 2 * seed)
    target = dataset_graphs(load(config.dataset, config.root), *limits, 2 * seed + 1)
    scorer = PretrainFeasibility(
        ("all", "topology"),
        estimator=GraphonEstimator(resolution=config.resolution),
        clusters=config.clusters,
        seed=seed,
    )
    return Experiment(FeasibilityTask(scorer, source, target), nn.Identity())


RECIPE = Recipe(
    key="feasibility",
    config=Config,
    settings={"pyimports": {}, "digits": {}},
    fast={"graphs": 60, "clusters": 2},
    models=MODELS,
    build=build,
    task=None,
    protocol="nothing is trained: 100 times the feasibility of pre-training on the ego-nets of each graph for the "
    "dataset's own, 0 being the best; a seed draws the nodes",
)
