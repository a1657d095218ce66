"""What pre-training is worth, and whether a score foretells it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.train.experiment import Experiment
from graphkit.train.tasks.graph_classification import GraphClassificationTask
from graphkit.train.tasks.task import Task
from graphkit.train.trainer import make_fabric
from graphkit.utils.checks import check_choice

Pretrain = Callable[[Sequence[Data], nn.Module], Experiment]
FineTune = Callable[[GraphClassificationTask, nn.Module], Experiment]


class TransferTask(Task):
    r"""Correlation, over all pairs of a source and a target, of scores with the gain of pre-training.

    The gain of a pair is the accuracy on the target after pre-training on the source and fine-tuning, minus the
    accuracy after fine-tuning from the same first weights without pre-training; a mean over the target's tasks, in
    points. The model that is evaluated is the encoder with its first weights: it is copied, and nothing is trained in
    place. Every
    training is an :class:`~graphkit.train.Experiment` of its own, whose epoch its own validation part chooses; the
    gains of ``"valid"`` are those of validation parts, and of ``"test"`` those of test parts at the same epochs.

    The metrics are, in percent, Pearson's correlation under the name of each score, Spearman's of the first one as
    ``"<name> rank"``, and ``"Scratch"`` and ``"Pretrained"``, mean accuracies over targets and over pairs.
    S + (S + 1) T R trainings are run once, for S sources and T targets of R tasks each.

    Args:
        sources: graphs to pre-train on, by name.
        targets: tasks of each target, by name, such as several draws of a few training graphs.
        scores: matrices ``[S, T]`` by name, higher where pre-training should help more; the first is the one to watch.
        pretrain: makes the experiment that pre-trains an encoder, which must be a part of its model.
        finetune: makes the experiment that trains an encoder, a part of its model, on a target's task.
        seed: seed of the trainings.

    Raises:
        ValueError: nothing to correlate, or scores of another shape.

    Example:
        >>> task = TransferTask(sources, targets, {"Feasibility": score}, pretrain, finetune)  # doctest: +SKIP
        >>> task.evaluate(encoder, "test")  # doctest: +SKIP
        {'Feasibility': 81.2, 'Feasibility rank': 77.0, 'Scratch': 70.1, 'Pretrained': 74.9}
    """

    unit = "training"

    def __init__(
        self,
        sources: Mapping[str, Sequence[Data]],
        targets: Mapping[str, Sequence[GraphClassificationTask]],
        scores: Mapping[str, Tensor],
        pretrain: Pretrain,
        finetune: FineTune,
        seed: int = 0,
    ) -> None:
        if len(sources) * len(targets) < 3:
            raise ValueError(
                f"sources and targets must make 3 pairs to correlate (got {len(sources)} x {len(targets)})"
            )
        if not scores:
            raise ValueError("scores must hold at least one matrix (got none)")
        for name, score in scores.items():
            if score.shape != (len(sources), len(targets)):
                raise ValueError(
                    f"scores[{name!r}] must have shape [{len(sources)}, {len(targets)}] (got {list(score.shape)})"
                )
        self.monitor = next(iter(scores))
        self.scores = {name: score.double() for name, score in scores.items()}
        self.seed = seed
        self._sources, self._targets = dict(sources), {name: list(tasks) for name, tasks in targets.items()}
        self._pretrain, self._finetune = pretrain, finetune
        self._device = torch.device("cpu")
        self._measured: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def num_batches(self) -> int:
        return 0

    def batches(self, epoch: int) -> Iterator[Any]:
        """None: the trainings are experiments of their own."""
        return iter(())

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} is only evaluated; give the experiment no optimizer")

    def to(self, device: torch.device | str) -> TransferTask:
        self._device = torch.device(device)
        return self

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        scratch, pretrained = self._measure(model)
        gain = pretrained[split] - scratch[split]
        found = {name: 100 * correlation(score, gain) for name, score in self.scores.items()}
        found[f"{self.monitor} rank"] = 100 * correlation(_ranks(self.scores[self.monitor]), _ranks(gain))
        return found | {"Scratch": float(scratch[split].mean()), "Pretrained": float(pretrained[split].mean())}

    def table(self, model: nn.Module) -> dict[str, list[Any]]:
        """A line a pair: source, target, every score, and the gain on the test parts."""
        scratch, pretrained = self._measure(model)
        gain = pretrained["test"] - scratch["test"]
        pairs = [(source, target) for source in self._sources for target in self._targets]
        columns: dict[str, list[Any]] = {"source": [a for a, _ in pairs], "target": [b for _, b in pairs]}
        for name, score in self.scores.items():
            columns[name] = [round(value, 5) for value in score.flatten().tolist()]
        columns["gain"] = [round(value, 4) for value in gain.flatten().tolist()]
        return columns

    def _measure(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Accuracies by part, from scratch ``[T]`` and pre-trained ``[S, T]``."""
        if self._measured is not None:
            return self._measured
        if self.world_size > 1:
            raise ValueError(f"{type(self).__name__} runs in one process (got {self.world_size})")
        fabric = make_fabric("cpu" if self._device.type == "cpu" else "cuda")
        options = {"fabric": fabric, "seed": self.seed, "progress": False}
        encoders = [copy.deepcopy(model)]
        for graphs in self._sources.values():
            encoder = copy.deepcopy(model)
            self._pretrain(graphs, encoder).run(**options)
            encoders.append(encoder)
        parts = ("valid", "test")
        found = {part: torch.zeros(len(encoders), len(self._targets), dtype=torch.float64) for part in parts}
        for column, tasks in enumerate(self._targets.values()):
            for row, encoder in enumerate(encoders):
                for task in tasks:
                    best = self._finetune(task, copy.deepcopy(encoder)).run(**options).best[task.monitor]
                    for part in parts:
                        found[part][row, column] += best[part] / len(tasks)
        self._measured = ({p: found[p][0] for p in parts}, {p: found[p][1:] for p in parts})
        return self._measured

    def __repr__(self) -> str:
        names = ", ".join(self.scores)
        return f"{type(self).__name__}(sources={len(self._sources)}, targets={len(self._targets)}, scores=({names}))"


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of all entries; 0 where one of the two does not vary."""
    a, b = a.double().flatten() - a.double().mean(), b.double().flatten() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-12 else 0.0


def _ranks(values: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(rankdata(values.flatten().numpy())))
