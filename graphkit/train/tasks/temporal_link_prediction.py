"""Who meets whom next: links of a stream, predicted in order of time without a look at what is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.negatives import RandomNegatives
from graphkit.loader.event_loader import EventBatch, EventLoader, Negatives
from graphkit.nn.temporal.state import TemporalModel
from graphkit.train.tasks.task import Task, score_histogram
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator
from graphkit.utils.checks import check_choice, check_int


class TemporalLinkPredictionTask(Task):
    r"""Predict the destinations of a stream's events, batch after batch in order of time.

    Each step scores a batch of events against drawn destinations, :math:`\mathrm{softplus}(-s)` for the true ones plus
    the mean of :math:`\mathrm{softplus}(s)` for the others, and then shows the batch to the model. An epoch begins with
    a model that has seen nothing. Validation goes on from the state in which training ended, and the test from that
    after validation, every batch being shown after it was scored. The model of the best epoch comes with its state
    after validation.

    A model that has not seen what lies before a split, such as one without training, is shown it first. With new nodes
    in the split the test is preceded by all earlier events, those of the new nodes too, as the inductive protocol of
    `"Neighborhood-aware Scalable Temporal Network Representation Learning" <https://arxiv.org/abs/2209.01084>`_ has it.

    With several processes each scores its share of a batch, and all are shown the whole of it.

    Args:
        stream: the events.
        split: which of them are for training, validation and test.
        batch_size: events a step.
        negatives: what draws the other destinations in training; one at random among all destinations if None.
        evaluator: how validation and test are scored in every epoch; average precision and AUC against one random
            destination if None. Its first metric chooses the epoch.
        final: an evaluator that costs too much for every epoch, run once on the model of the best epoch.
        seed: of the default negatives.

    Raises:
        TypeError, ValueError: an argument of the wrong type, sizes below 1, a split of another stream.

    Example:
        >>> from graphkit.datasets import load
        >>> flights = load("nycflights")
        >>> task = TemporalLinkPredictionTask(flights.data, flights.split())
    """

    unit = "event"

    def __init__(
        self,
        stream: EventStream,
        split: EventSplit,
        batch_size: int = 200,
        negatives: Negatives | None = None,
        evaluator: TemporalLinkEvaluator | None = None,
        final: TemporalLinkEvaluator | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if not isinstance(stream, EventStream):
            raise TypeError(f"stream must be an EventStream (got {type(stream).__name__})")
        if not isinstance(split, EventSplit):
            raise TypeError(f"split must be an EventSplit (got {type(split).__name__})")
        if split.num_events != len(stream):
            raise ValueError(f"split must be of the stream of {len(stream)} events (got one of {split.num_events})")
        self.stream, self.split = stream, split
        self.batch_size = check_int(batch_size, "batch_size", 1)
        self.seed = check_int(seed, "seed", 0)
        self.negatives = RandomNegatives(stream, seed=self.seed) if negatives is None else negatives
        self.evaluator = TemporalLinkEvaluator() if evaluator is None else evaluator
        self.final = final
        self.monitor = self.evaluator.metrics[0]
        self._train = split.train

    @property
    def num_nodes(self) -> int:
        return self.stream.num_nodes

    @property
    def msg_dim(self) -> int:
        """Width of the messages."""
        return self.stream.msg_dim

    def _loader(self, epoch: int = 0) -> EventLoader:
        loader = EventLoader(self.stream, self._train, self.batch_size, negatives=self.negatives)
        loader.set_epoch(epoch)
        return loader

    def num_batches(self) -> int:
        return len(self._loader())

    def size(self, batch: EventBatch) -> int:
        return batch.src.numel()

    def epoch_size(self) -> int:
        return self._train.numel()

    def batches(self, epoch: int) -> Iterator[EventBatch]:
        self._fresh = True
        yield from self._loader(epoch)

    _fresh = True

    def loss(self, model: nn.Module, batch: EventBatch) -> Tensor:
        inner = _unwrapped(model)
        if self._fresh:
            inner.reset_state()
            self._fresh = False
        msg = self.stream.msg
        share = slice(self.rank, None, self.world_size)
        assert batch.neg is not None
        candidates = torch.cat([batch.dst[:, None], batch.neg], 1)[share]
        score = model(batch.src[share], candidates, batch.t[share], msg)
        # The processes' gradients are averaged: each sums its share and scales it to the whole batch.
        scale = self.world_size / batch.src.numel()
        loss = (F.softplus(-score[:, 0]).sum() + F.softplus(score[:, 1:]).mean(1).sum()) * scale
        extra = inner.auxiliary_loss()
        inner.update_state(batch.src, batch.dst, batch.t, batch.e_id, msg)
        return loss if extra is None else loss + extra

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return self._evaluate(model, split, self.evaluator)

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        if self.final is None:
            return {}
        inner = _unwrapped(model)
        after_validation = inner.snapshot()
        test = self._evaluate(model, "test", self.final)
        valid = self._evaluate(model, "valid", self.final)
        inner.load_snapshot(after_validation)
        return {name: {"valid": value, "test": test[name]} for name, value in valid.items()}

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, split: str, evaluator: TemporalLinkEvaluator) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        inner = _unwrapped(model)
        if split == "valid":
            self._catch_up(inner, self._train)
            return evaluator.run(inner, self.stream, self.split.valid)
        after_validation = inner.snapshot()
        seen = torch.arange(self.split.valid_stop)
        if self.split.new_nodes is not None:
            # The state has no event of the new nodes, though the last event that it has may be the same.
            inner.reset_state()
        self._catch_up(inner, seen)
        found = evaluator.run(inner, self.stream, self.split.test)
        inner.load_snapshot(after_validation)
        return found

    @torch.no_grad()
    def _catch_up(self, model: TemporalModel, events: Tensor) -> None:
        """Show the model ``events`` from the first on, unless they are what it has seen."""
        if int(model.next_event) == int(events[-1]) + 1:
            return
        model.eval()
        model.reset_state()
        for batch in EventLoader(self.stream, events, self.batch_size):
            model.update_state(batch.src, batch.dst, batch.t, batch.e_id, self.stream.msg)

    @torch.no_grad()
    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        inner = _unwrapped(model)
        after_validation = inner.snapshot()
        self._catch_up(inner, torch.arange(self.split.valid_stop))
        pos, neg = (part.float().cpu() for part in self.evaluator.scores(inner, self.stream, self.split.test))
        inner.load_snapshot(after_validation)
        return score_histogram(pos, neg)

    def to(self, device: torch.device | str) -> TemporalLinkPredictionTask:
        self.stream = self.stream.to(device)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stream}, {self.split}, batch_size={self.batch_size})"


def _unwrapped(model: Any) -> TemporalModel:
    """The model itself, out of Fabric's and DDP's wrappers."""
    while not isinstance(model, TemporalModel):
        if not hasattr(model, "module"):
            raise TypeError(f"model must be a graphkit.nn.TemporalModel (got {type(model).__name__})")
        model = model.module
    return model
