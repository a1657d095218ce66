"""The three phases in which selectable Kolmogorov-Arnold layers choose their families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn.kan import kan_layers, prune_families, select_families, set_temperature
from graphkit.train.experiment import Experiment
from graphkit.train.search.lpgnas import SearchedExperiment
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_int, check_range
from graphkit.utils.seed import stream


class SelectionTask(Task):
    """Any task in the selective phase: the temperature of the selection sinks from 1, epoch by epoch.

    Args:
        task: the task.
        epochs: epochs of the phase.
        temperature: temperature of the last epoch.
        regularization: weight of :meth:`~graphkit.nn.SelectableKANLinear.regularization` in the loss.

    Raises:
        ValueError: a temperature that is not in (0, 1], a negative weight, or no epochs.
    """

    def __init__(self, task: Task, epochs: int, temperature: float = 0.1, regularization: float = 0.0) -> None:
        self.task, self.epochs = task, check_int(epochs, "epochs", 1)
        self.temperature = check_range(temperature, "temperature", 0, 1, low_open=True)
        self.regularization = check_range(regularization, "regularization", 0)
        self.monitor, self.unit = task.monitor, task.unit
        self.lower_is_better = task.lower_is_better

    def num_batches(self) -> int:
        return self.task.num_batches()

    def size(self, batch: Any) -> int:
        return self.task.size(batch[1])

    def epoch_size(self) -> int:
        return self.task.epoch_size()

    def batches(self, epoch: int) -> Iterator[Any]:
        """Batches of the task, each with the temperature of the epoch."""
        part = (epoch - 1) / max(self.epochs - 1, 1)
        for batch in self.task.batches(epoch):
            yield self.temperature ** min(part, 1.0), batch

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.task.rank, self.task.world_size = self.rank, self.world_size
        set_temperature(model, batch[0])
        loss = self.task.loss(model, batch[1])
        if self.regularization:
            loss = loss + self.regularization * sum(layer.regularization() for layer in kan_layers(model))
        return loss

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return self.task.evaluate(model, split)

    def to(self, device: torch.device | str) -> SelectionTask:
        self.task = self.task.to(device)
        return self


@dataclass(frozen=True)
class SKANSchedule:
    """How long each phase of `"Activation Space Selectable Kolmogorov-Arnold Networks"
    <https://arxiv.org/abs/2408.08338>`_ takes, and how it ends.

    Args:
        epochs: epochs in all.
        fractions: shares of the full, the selective and the pruned phase.
        threshold: families of a weight below this share of an equal one stand still in the selective phase.
        temperature: temperature of the selection at the end of the selective phase.
        regularization: weight of the layers' regularisation in the selective phase. Without it inputs that have use
            for two families keep both at about equal weights, as low as the temperature sinks, and pruning takes half
            of a function away; with it the weights are one-hot before.

    Raises:
        TypeError: epochs that are no whole number.
        ValueError: fractions that are not three positive numbers of sum 1, fewer than three epochs, or another number
            out of range.

    Example:
        >>> SKANSchedule(100).lengths
        (50, 30, 20)
    """

    epochs: int
    fractions: tuple[float, float, float] = (0.5, 0.3, 0.2)
    threshold: float = 0.5
    temperature: float = 0.1
    regularization: float = 0.0

    def __post_init__(self) -> None:
        positive = all(part > 0 for part in self.fractions)
        if len(self.fractions) != 3 or not positive or not abs(sum(self.fractions) - 1) <= 1e-6:
            raise ValueError(f"fractions must be three positive numbers of sum 1 (got {self.fractions})")
        if check_int(self.epochs, "epochs") < 3:
            raise ValueError(f"epochs must be at least 3, one a phase (got {self.epochs})")
        check_range(self.threshold, "threshold", 0, 1)
        check_range(self.temperature, "temperature", 0, 1, low_open=True)
        check_range(self.regularization, "regularization", 0)

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Epochs of the three phases, at least one each."""
        full, selective = (max(1, round(self.epochs * part)) for part in self.fractions[:2])
        full = min(full, self.epochs - 2)
        selective = min(selective, self.epochs - full - 1)
        return full, selective, self.epochs - full - selective

    def experiment(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        name: str = "S-KAN",
        random_seed: int | None = None,
        schedule: Callable[[int], Callable[[float], float]] | None = None,
        **options: Any,
    ) -> Experiment:
        """The three phases as a chain of experiments, each of which goes on with the model of the one before.

        Only the last one chooses its epoch by validation: the first two are one training that ends when it ends. A
        model without selectable layers trains in three parts, too.

        Args:
            task: the task.
            model: a model with :class:`~graphkit.nn.SelectableKANLinear` somewhere.
            optimizer: makes the optimizer of a phase.
            name: what the first two phases are called.
            random_seed: prune to random families of this seed instead: what the selection is worth.
            schedule: makes the factor of the learning rates of a phase from its epochs, such as
                :class:`~graphkit.train.CosineSchedule`. Each phase has one of its own: under one for all together the
                rate is next to nothing when the network is pruned, and it cannot learn to do without what it lost.
            options: further arguments of the :class:`~graphkit.train.Experiment` of each phase.
        """
        full, selective, pruned = self.lengths
        factors = [None if schedule is None else schedule(epochs) for epochs in self.lengths]
        first = Experiment(task, model, optimizer(model), full, eval_every=full, schedule=factors[0], **options)

        def select(trained: nn.Module) -> Experiment:
            select_families(trained, self.threshold)
            return Experiment(task, trained, optimizer(trained))

        def prune(trained: nn.Module) -> Experiment:
            prune_families(trained, None if random_seed is None else stream(random_seed, 5))
            return Experiment(task, trained, optimizer(trained))

        selection = SelectionTask(task, selective, self.temperature, self.regularization)
        second = SearchedExperiment(
            selection,
            model,
            None,
            selective,
            eval_every=selective,
            start_from=(f"{name}-phase-1", first),
            make=select,
            schedule=factors[1],
            **options,
        )
        return SearchedExperiment(
            task,
            model,
            None,
            pruned,
            start_from=(f"{name}-phase-2", second),
            make=prune,
            schedule=factors[2],
            **options,
        )
