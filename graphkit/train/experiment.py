"""One model on one task with its training settings: what a recipe builds and the runner runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphkit.train.tasks.task import Task
from graphkit.train.trainer import FitResult, Trainer


@dataclass
class Experiment:
    """Everything needed to train and score one model with one seed.

    Args:
        task: the problem.
        model: the network; its weights were drawn under the seed.
        optimizer: None for a model without training.
        max_epochs: epochs.
        patience: evaluations without improvement before stopping; None never.
        clip_grad_norm: largest gradient norm of each parameter group; None leaves gradients alone.
        eval_every: epochs between evaluations.
        schedule: factor of the learning rates by the epochs done, see :class:`~graphkit.train.Trainer`.
        start_from: name and experiment of what is trained first: a model of the same shape, which lends its weights, or
            a part of ``model``, or a module that ``task`` uses. It may start from another one in turn.
        measure: further values of the trained model by name, such as its size, beside its metrics; not of a split.
        ties: which of several epochs with the same validation value counts, ``"first"`` or ``"last"``.
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    max_epochs: int = 0
    patience: int | None = None
    clip_grad_norm: float | None = None
    eval_every: int = 1
    schedule: Callable[[float], float] | None = None
    start_from: tuple[str, Experiment] | None = None
    measure: Callable[[Experiment], dict[str, float]] | None = None
    ties: str = "first"

    def run(self, **trainer: Any) -> FitResult:
        """Train and evaluate; ``trainer`` are further arguments of :class:`~graphkit.train.Trainer`."""
        loop = Trainer(
            self.max_epochs,
            patience=self.patience,
            ties=self.ties,
            clip_grad_norm=self.clip_grad_norm,
            eval_every=self.eval_every,
            schedule=self.schedule,
            **trainer,
        )
        result = loop.fit(self.model, self.task, self.optimizer)
        if self.measure is not None:
            epoch = result.best[self.task.monitor]["epoch"]
            measured = self.measure(self)
            result.best |= {name: {"epoch": epoch, "valid": v, "test": v} for name, v in measured.items()}
        return result

    def begin(self) -> None:
        """Take over the weights of what ``start_from`` trained, unless that is a part of the model or of the task."""
        if self.start_from is None:
            return
        first = self.start_from[1].model
        holders = [self.model, *(value for value in vars(self.task).values() if isinstance(value, nn.Module))]
        own = {id(tensor) for holder in holders for tensor in (*holder.parameters(), *holder.buffers())}
        if not all(id(tensor) in own for tensor in (*first.parameters(), *first.buffers())):
            self.model.load_state_dict(first.state_dict())

    def chain(self) -> list[Experiment]:
        """What is to be trained, in order: what this one starts from, and this one last."""
        return [*([] if self.start_from is None else self.start_from[1].chain()), self]

    def num_parameters(self) -> int:
        """Parameters, frozen ones included, as leaderboards count them."""
        return sum(p.numel() for p in self.model.parameters())
