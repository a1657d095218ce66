"""What nodes will do in the time to come, asked window after window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.node_targets import NodePropertyTargets
from graphkit.nn.temporal.node_head import TemporalNodeModel
from graphkit.train.metrics import ndcg_at_k
from graphkit.train.tasks.stream_task import StreamTask


class TemporalNodePropertyTask(StreamTask):
    r"""Predict how nodes' interactions in a coming window of time are distributed over classes.

    The node property prediction of the `"Temporal Graph Benchmark for Machine Learning on Temporal Graphs"
    <https://arxiv.org/abs/2307.01026>`_. A step is a moment at which there are targets: the model has been shown the
    events before it, and is asked for its nodes. The loss is the cross-entropy with the target's distribution,
    :math:`-\sum_c y_c \log \mathrm{softmax}(s)_c`; the metric is ``NDCG@10``, a mean over the nodes of a moment and
    then over moments. A target is shown to the model (``update_targets``) when its window is over, not earlier.

    A target belongs to the part of the split that has all events of its window. Those whose window a border cuts are
    asked in no part: in the benchmark they count for training or validation, whose targets then tell of later parts.

    Args:
        stream: the events.
        split: which of them are for training, validation and test; without new nodes.
        targets: what is asked when.
        batch_size: events that are shown to the model at a time.

    Raises:
        TypeError, ValueError: an argument of the wrong type, a split with new nodes, a part without targets.

    Example:
        >>> from graphkit.datasets import load
        >>> from graphkit.datasets.node_targets import node_property_targets
        >>> flights = load("nycflights")
        >>> weekly = node_property_targets(flights.data, window=7 * 24 * 60 * 60)
        >>> TemporalNodePropertyTask(flights.data, flights.split(), weekly).num_batches()
        36
    """

    model_type = TemporalNodeModel
    unit = "target"
    monitor = "NDCG@10"

    def __init__(
        self, stream: EventStream, split: EventSplit, targets: NodePropertyTargets, batch_size: int = 200
    ) -> None:
        super().__init__(stream, split, batch_size)
        if not isinstance(targets, NodePropertyTargets):
            raise TypeError(f"targets must be NodePropertyTargets (got {type(targets).__name__})")
        if int(targets.n_id.min()) < 0 or int(targets.n_id.max()) >= stream.num_nodes:
            raise IndexError(f"targets.n_id must be in [0, {stream.num_nodes}), the nodes of the stream")
        if split.new_nodes is not None:
            raise ValueError("split must have no new nodes: the events of a window are for all nodes or none")
        self.targets = targets
        # Of each moment: its first target, the first event that is not before it or not in its window, and how many
        # moments' targets are known by then.
        moment, size = targets.t.cpu().unique_consecutive(return_counts=True)
        time = stream.t.cpu()
        begin, end = torch.searchsorted(time, moment), torch.searchsorted(time, moment + targets.window)
        self._row = [0, *size.cumsum(0).tolist()]
        self._begin_event: list[int] = begin.tolist()
        self._known: list[int] = torch.searchsorted(moment + targets.window, moment, right=True).tolist()
        inside = {
            "train": end <= split.train_stop,
            "valid": (begin >= split.train_stop) & (end <= split.valid_stop),
            "test": begin >= split.valid_stop,
        }
        self._moments: dict[str, range] = {}
        for part, mask in inside.items():
            ids = mask.nonzero().view(-1).tolist()
            if not ids:
                raise ValueError(f"no target has its whole window in the {part} part of the split")
            self._moments[part] = range(ids[0], ids[-1] + 1)

    @property
    def num_classes(self) -> int:
        return self.targets.num_classes

    # Training ---------------------------------------------------------------------------------------------------------

    def num_batches(self) -> int:
        return len(self._moments["train"])

    def size(self, batch: int) -> int:
        return self._row[batch + 1] - self._row[batch]

    def epoch_size(self) -> int:
        return sum(self.size(moment) for moment in self._moments["train"])

    def _epoch(self, epoch: int) -> Iterator[int]:
        """The moments of training, by number."""
        yield from self._moments["train"]

    def loss(self, model: nn.Module, batch: int) -> Tensor:
        self._advance(self._begin(model), batch)
        return super().loss(model, batch)

    def _sum(self, model: nn.Module, batch: int, share: slice) -> Tensor:
        n_id, t, y = (part[share] for part in self._targets(batch))
        logit = model(n_id, t, self.stream.msg)
        return F.cross_entropy(logit, y.to(logit.dtype), reduction="sum")

    def _after(self, model: Any, batch: int) -> None:
        """Nothing: what happens in the window comes before the next moment."""

    # Evaluation -------------------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return {"NDCG@10": 100 * self._score(model, split, lambda inner: self._run(inner, split))}

    def _run(self, model: Any, split: str) -> float:
        found = []
        for moment in range(self._before(split) + 1, self._moments[split].stop):
            self._advance(model, moment)
            if moment in self._moments[split]:
                n_id, t, y = self._targets(moment)
                score = model(n_id, t, self.stream.msg)
                if not bool(torch.isfinite(score).all()):
                    raise ValueError(f"scores of {split} targets are not finite; did training diverge?")
                found.append(ndcg_at_k(score, y, 10).mean())
        return float(torch.stack(found).mean())

    def _before(self, split: str) -> int:
        """The last moment of the part before."""
        return self._moments["train" if split == "valid" else "valid"][-1]

    def _catch_up(self, model: Any, split: str) -> None:
        last = self._before(split)
        if int(model.next_event) != self._begin_event[last]:
            model.reset_state()
            for moment in range(last + 1):
                self._advance(model, moment)

    @torch.no_grad()
    def _advance(self, model: Any, moment: int) -> None:
        """Show a model that was brought to the moment before what becomes known until ``moment``."""
        event, known = (self._begin_event[moment - 1], self._known[moment - 1]) if moment else (0, 0)
        self._show(model, range(event, self._begin_event[moment]))
        for past in range(known, self._known[moment]):
            model.update_targets(*self._targets(past))

    def _targets(self, moment: int) -> tuple[Tensor, Tensor, Tensor]:
        start, stop = self._row[moment], self._row[moment + 1]
        return self.targets.n_id[start:stop], self.targets.t[start:stop], self.targets.rows(start, stop)

    def to(self, device: torch.device | str) -> TemporalNodePropertyTask:
        self.targets = self.targets.to(device)
        return super().to(device)
