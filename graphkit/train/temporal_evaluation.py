"""How well a model of a stream tells the true destinations of events from others, in order of time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from graphkit.datasets.events import EventStream
from graphkit.datasets.negatives import RandomNegatives
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.loader.event_loader import EventLoader, Negatives
from graphkit.nn.temporal.state import TemporalModel
from graphkit.train.metrics import average_precision, rank_per_source, roc_auc
from graphkit.utils.checks import check_choice, check_int

METRICS = {"ap": ("AP", "AUC", "AP/batch", "AUC/batch"), "mrr": ("MRR", "Hits@10")}


class TemporalLinkEvaluator:
    """Scores successive batches of events and shows each to the model once it is scored.

    With protocol ``"ap"`` each event comes with drawn destinations (one, as a rule), and true and drawn ones are told
    apart by a threshold: ``AP`` and ``AUC`` over all events, and ``AP/batch`` and ``AUC/batch``, the means over
    batches, which is what many papers report. The two differ, because a threshold need not suit every batch.

    With protocol ``"mrr"`` each true destination is ranked among stored negatives, as in the `"Temporal Graph Benchmark
    for Machine Learning on Temporal Graphs" <https://arxiv.org/abs/2307.01026>`_: ``MRR``, the mean reciprocal rank
    (ties count half), and ``Hits@10``. They do not depend on what else is in a batch, except for what the model has
    seen when it scores it.

    All figures are in percent.

    Args:
        protocol: ``"ap"`` or ``"mrr"``.
        negatives: for ``"ap"`` what draws destinations (``draw(e_id)``), one at random if None; for ``"mrr"``
            :class:`~graphkit.datasets.StoredNegatives` of all events to score.
        batch_size: events that are scored before the model is shown any of them; 200 if neither this nor ``window`` is
            given.
        window: width of a window of time, all events of which are scored before the model is shown any of them, so that
            no score depends on an event of its own window.
        seed: of the default negatives.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> from graphkit.nn.temporal.edge_bank import EdgeBank
        >>> node = torch.tensor([0, 1, 0, 1])
        >>> stream = EventStream(node, node + 2, torch.arange(4))
        >>> stored = StoredNegatives.make(stream, range(4), num_neg=1)
        >>> TemporalLinkEvaluator("mrr", stored, batch_size=2).run(EdgeBank(4), stream, range(4))["Hits@10"]
        100.0
    """

    def __init__(
        self,
        protocol: str = "ap",
        negatives: Negatives | StoredNegatives | None = None,
        batch_size: int | None = None,
        *,
        window: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.protocol = check_choice(protocol, "protocol", tuple(METRICS))
        stored = isinstance(negatives, StoredNegatives)
        if stored != (protocol == "mrr") or not (stored or negatives is None or hasattr(negatives, "draw")):
            what = "StoredNegatives" if protocol == "mrr" else "None or an object with draw(e_id)"
            raise TypeError(f"negatives must be {what} for protocol={protocol!r} (got {type(negatives).__name__})")
        self.negatives = negatives
        if window is not None and batch_size is not None:
            raise ValueError(f"give batch_size or window, not both (got {batch_size} and {window})")
        self.window = None if window is None else check_int(window, "window", 1)
        self.batch_size = None
        if window is None:
            self.batch_size = check_int(200 if batch_size is None else batch_size, "batch_size", 1)
        self.seed = check_int(seed, "seed", 0)
        self.progress = progress

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what :meth:`run` returns."""
        return METRICS[self.protocol]

    def run(self, model: TemporalModel, stream: EventStream, events: range | Tensor | None = None) -> dict[str, float]:
        """The metrics over ``events`` of ``stream``; the model has seen them afterwards.

        Args:
            model: scores pairs; must not have seen any of ``events``, and goes back to training mode if it was in it.
            stream: all events, best where the model is.
            events: ids of those to score, ascending; all if None.

        Raises:
            ValueError: no events, the model has seen some or part of their first window, scores that are no numbers.
            KeyError: an event without stored negatives.
        """
        batches = self._batches(model, stream, events)
        if self.protocol == "mrr":
            rank = torch.cat([rank_per_source(pos, neg, mask) for pos, neg, mask in batches])
            found = (float((1 / rank).mean()), float((rank <= 10).double().mean()))
        else:
            scores = [(pos, neg.flatten()) for pos, neg, _ in batches]
            pos, neg = (torch.cat(part) for part in zip(*scores, strict=True))
            _check_numbers(pos, neg)
            by_batch = np.mean([(average_precision(*part), roc_auc(*part)) for part in scores], axis=0)
            found = (average_precision(pos, neg), roc_auc(pos, neg), *by_batch.tolist())
        return {name: 100 * value for name, value in zip(self.metrics, found, strict=True)}

    def scores(
        self, model: TemporalModel, stream: EventStream, events: range | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All scores of true destinations ``[P]`` and of others ``[M]``; otherwise as :meth:`run`."""
        pos, neg = [], []
        for true, others, mask in self._batches(model, stream, events):
            pos.append(true)
            neg.append(others.flatten() if mask is None else others[mask])
        return torch.cat(pos), torch.cat(neg)

    @torch.no_grad()
    def _batches(
        self, model: TemporalModel, stream: EventStream, events: range | Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Scores ``[B]`` and ``[B, n]`` of each batch, and which of the latter count (None: all)."""
        drawn = RandomNegatives(stream, seed=self.seed) if self.negatives is None else self.negatives
        loader = EventLoader(
            stream,
            events,
            self.batch_size,
            self.window,
            negatives=None if isinstance(drawn, StoredNegatives) else drawn,
        )
        if len(loader) == 0:
            raise ValueError(f"events must hold at least one event (got {events})")
        first, seen = 0 if events is None else int(events[0]), int(model.next_event)
        if first < seen:
            raise ValueError(
                f"the model has seen event {seen - 1} and those to score begin with {first}; reset its state, or load "
                "a snapshot from before"
            )
        if (
            self.window is not None
            and seen
            and int(stream.t[first]) // self.window == int(model.last_time) // self.window
        ):
            raise ValueError(
                f"the model has seen event {seen - 1}, which is in one window of {self.window} with event {first}, the "
                "first to score; begin with a window of its own"
            )
        device = model.next_event.device
        msg = None if stream.msg is None else stream.msg.to(device)
        was_training = model.training
        model.eval()
        try:
            for src, dst, t, e_id, neg in tqdm(loader, desc="evaluation", leave=False, disable=not self.progress):
                if isinstance(self.negatives, StoredNegatives):
                    neg, mask = self.negatives.query(src, dst, t)
                else:
                    mask = None
                assert neg is not None
                src, dst, t, e_id, neg = (value.to(device) for value in (src, dst, t, e_id, neg))
                score = model(src, torch.cat([dst[:, None], neg], 1), t, msg)
                yield score[:, 0], score[:, 1:], None if mask is None else mask.to(device)
                model.update_state(src, dst, t, e_id, msg)
        finally:
            model.train(was_training)

    def __repr__(self) -> str:
        size = f"batch_size={self.batch_size}" if self.window is None else f"window={self.window}"
        return f"{type(self).__name__}({self.protocol!r}, {size})"


def _check_numbers(*scores: Tensor) -> None:
    bad = sum(int((~torch.isfinite(part)).sum()) for part in scores)
    if bad:
        raise ValueError(
            f"{bad} of {sum(part.numel() for part in scores)} scores are not finite; did training diverge?"
        )
