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
        monitor: name of the metric that chooses the epoch (higher is better).
        rank, world_size: this process among those that share each batch.
    """

    monitor: str
    rank: int = 0
    world_size: int = 1

    @abstractmethod
    def num_batches(self) -> int:
        """Steps an epoch."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, the same on every rank."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of this rank's share of a batch; call ``model(...)`` once, so that gradients synchronise."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics of ``split`` (``"valid"`` or ``"test"``) in percent, the model in eval mode and without gradients."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Task:
        """Move the data; returns the task itself."""

    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        """Bin edges and shares of test scores by class, for a plot; empty if the task has none."""
        return {}
