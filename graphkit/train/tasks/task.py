"""What a task is: one kind of problem with its split, its loss and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Task(ABC):
    """Owns data, loss and metrics of one problem; :class:`~graphkit.train.Trainer` owns the loop.

    A task is stateless between epochs: what it draws in an epoch depends on its seed and the epoch's number alone, so
    that a run can be resumed at any epoch. ``rank`` and ``world_size`` are set by the trainer; a task gives each rank
    its share of every batch.

    Attributes:
        monitor: name of the metric that chooses the epoch.
        lower_is_better: names of the metrics of which the lowest value is the best; of all others it is the highest.
        rank, world_size: this process among those that share each batch.
        unit: what the progress bar counts; see :meth:`size`.
    """

    monitor: str
    lower_is_better: tuple[str, ...] = ()
    unit: str = "step"
    rank: int = 0
    world_size: int = 1

    @abstractmethod
    def num_batches(self) -> int:
        """Steps an epoch."""

    def size(self, batch: Any) -> int:
        """How many units of progress a batch is; one step unless a task says more."""
        return 1

    def epoch_size(self) -> int:
        """Units of progress an epoch."""
        return self.num_batches()

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, the same on every rank."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of this rank's share of a batch; call ``model(...)`` once, so that gradients synchronise."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics of ``split`` (``"valid"`` or ``"test"``), shares in percent; eval mode, without gradients."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Task:
        """Move the data; returns the task itself."""

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Metrics that cost too much for every epoch, of the model of the best one: name to ``valid`` and ``test``."""
        return {}

    def observe(self, model: nn.Module) -> dict[str, float]:
        """Numbers to follow beside the metrics, after each evaluation of validation; they choose nothing."""
        return {}

    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        """Bin edges and shares of test scores by class, for a plot; empty if the task has none."""
        return {}

    def table(self, model: nn.Module) -> dict[str, list[Any]]:
        """Columns of equal length that belong to the result, such as a line a pair of graphs; empty without."""
        return {}


def score_histogram(pos: Tensor, neg: Tensor) -> dict[str, list[float]]:
    """Bin edges, and the shares of true links' and non-links' scores in each bin."""
    low, high = torch.aminmax(torch.cat([pos, neg]))
    edges = torch.linspace(float(low), max(float(high), float(low) + 1e-6), 41)
    shares = {"links": torch.histogram(pos, edges).hist, "non-links": torch.histogram(neg, edges).hist}
    rounded = {name: [round(float(v), 5) for v in hist / hist.sum()] for name, hist in shares.items()}
    return {"edges": [round(float(e), 4) for e in edges], **rounded}
