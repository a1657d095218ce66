"""Who meets whom next: links of a stream, predicted in order of time without a look at what is predicted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.negatives import RandomNegatives
from graphkit.loader.event_loader import EventBatch, Negatives
from graphkit.train.tasks.stream_task import StreamTask
from graphkit.train.tasks.task import score_histogram
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator
from graphkit.utils.checks import check_int


class TemporalLinkPredictionTask(StreamTask):
    r"""Predict the destinations of a stream's events, batch after batch in order of time.

    Each step scores a batch of events against drawn destinations, :math:`\mathrm{softplus}(-s)` for the true ones plus
    the mean of :math:`\mathrm{softplus}(s)` for the others, and then shows the batch to the model. State is kept as
    :class:`~graphkit.train.tasks.stream_task.StreamTask` says.

    Args:
        stream: the events.
        split: which of them are for training, validation and test.
        batch_size: events a step; 200 if neither this nor ``window`` is given.
        negatives: what draws the other destinations in training; one at random among all destinations if None.
        evaluator: how validation and test are scored in every epoch; average precision and AUC against one random
            destination if None, window by window if there is a ``window``. Its first metric chooses the epoch.
        final: an evaluator that costs too much for every epoch, run once on the model of the best epoch.
        window: width of a window of time, all events of which are one step: the discrete-time view of snapshots, in
            which no score depends on an event of its own window. Evaluators given need the same ``window``.
        seed: of the default negatives.

    Raises:
        TypeError, ValueError: an argument of the wrong type, sizes below 1, a split of another stream.

    Example:
        >>> from graphkit.datasets import load
        >>> flights = load("nycflights")
        >>> task = TemporalLinkPredictionTask(flights.data, flights.split())
        >>> daily = TemporalLinkPredictionTask(flights.data, flights.split(), window=24 * 60 * 60)
        >>> daily.num_batches()
        256
    """

    def __init__(
        self,
        stream: EventStream,
        split: EventSplit,
        batch_size: int | None = None,
        negatives: Negatives | None = None,
        evaluator: TemporalLinkEvaluator | None = None,
        final: TemporalLinkEvaluator | None = None,
        *,
        window: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(stream, split, batch_size, window)
        self.seed = check_int(seed, "seed", 0)
        self.negatives = RandomNegatives(stream, seed=self.seed) if negatives is None else negatives
        self.evaluator = TemporalLinkEvaluator(window=window) if evaluator is None else evaluator
        self.final = final
        for name, given in (("evaluator", self.evaluator), ("final", final)):
            if given is not None and given.window != self.window:
                raise ValueError(f"{name} must have the task's window={self.window} (got {given.window})")
        self.monitor = self.evaluator.metrics[0]

    def _epoch(self, epoch: int) -> Iterator[EventBatch]:
        yield from self._loader(self._train, self.negatives, epoch)

    def _sum(self, model: nn.Module, batch: EventBatch, share: slice) -> Tensor:
        assert batch.neg is not None
        candidates = torch.cat([batch.dst[:, None], batch.neg], 1)[share]
        score = model(batch.src[share], candidates, batch.t[share], self.stream.msg)
        return F.softplus(-score[:, 0]).sum() + F.softplus(score[:, 1:]).mean(1).sum()

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return self._evaluate(model, split, self.evaluator)

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        if self.final is None:
            return {}
        inner = self._inner(model)
        after_validation = inner.snapshot()
        test = self._evaluate(model, "test", self.final)
        valid = self._evaluate(model, "valid", self.final)
        inner.load_snapshot(after_validation)
        return {name: {"valid": value, "test": test[name]} for name, value in valid.items()}

    def _evaluate(self, model: nn.Module, split: str, evaluator: TemporalLinkEvaluator) -> dict[str, float]:
        return self._score(model, split, lambda inner: evaluator.run(inner, self.stream, getattr(self.split, split)))

    @torch.no_grad()
    def catch_up(self, model: nn.Module, until: int | None = None) -> None:
        """Show the model the events that it has not seen yet, so that it knows all that happened before ``until``.

        After training a model is left as it was after validation; this shows it the rest of the stream. It is reset and
        shown all events from the first on if it has seen later ones, or if the split has new nodes, whose events
        training leaves out.

        Args:
            model: the model, on the device of the stream.
            until: the first event that is not shown; all are if None.

        Raises:
            ValueError: ``until`` is beyond the stream.
        """
        until = len(self.stream) if until is None else check_int(until, "until", 0, len(self.stream))
        inner = self._inner(model)
        was_training = inner.training
        inner.eval()
        if self.split.new_nodes is not None or int(inner.next_event) > until:
            inner.reset_state()
        self._show(inner, range(int(inner.next_event), until))
        inner.train(was_training)

    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        found = self._score(model, "test", lambda inner: self.evaluator.scores(inner, self.stream, self.split.test))
        pos, neg = (part.float().cpu() for part in found)
        return score_histogram(pos, neg)
