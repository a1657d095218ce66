"""What state a node is in at each of its events: labels of a stream's events, predicted in order of time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.loader.event_loader import EventBatch
from graphkit.nn.temporal.node_head import TemporalNodeModel
from graphkit.train.metrics import average_precision, roc_auc
from graphkit.train.tasks.stream_task import StreamTask


class TemporalNodeClassificationTask(StreamTask):
    """Predict the label of each event, a label of its source at that time, from the events before its batch.

    Dynamic node classification as in `"Predicting Dynamic Embedding Trajectory in Temporal Interaction Networks"
    <https://arxiv.org/abs/1908.01207>`_ and `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
    <https://arxiv.org/abs/2006.10637>`_. The loss is the mean cross-entropy of a batch; the batch is shown to the model
    afterwards, without its labels. With two classes the metrics are ``AUC`` (of the ROC curve), which chooses the
    epoch, and ``AP``, average precision, which says more where label 1 is rare; with more classes it is ``Accuracy``.
    They are taken over all events of a split, in percent. State is kept as
    :class:`~graphkit.train.tasks.stream_task.StreamTask` says.

    Args:
        stream: the events; ``y`` holds class numbers.
        split: which of them are for training, validation and test.
        batch_size: events a step; 200 if neither this nor ``window`` is given.
        window: width of a window of time, all events of which are one step.
        use_msg: give the model the messages of the events in question. Only if they are known before the labels.

    Raises:
        TypeError, ValueError: an argument of the wrong type, labels that are no class numbers, two classes of which a
            part of the split has one only.

    Example:
        >>> from graphkit.datasets import load
        >>> flights = load("nycflights")
        >>> task = TemporalNodeClassificationTask(flights.data, flights.split(), use_msg=True)
        >>> task.num_classes, task.monitor
        (2, 'AUC')
    """

    model_type = TemporalNodeModel

    def __init__(
        self,
        stream: EventStream,
        split: EventSplit,
        batch_size: int | None = None,
        window: int | None = None,
        *,
        use_msg: bool = False,
    ) -> None:
        super().__init__(stream, split, batch_size, window)
        self.num_classes = _count_classes(stream.y, len(stream))
        if use_msg and stream.msg is None:
            raise ValueError("use_msg=True, but the stream has no messages")
        self.use_msg = use_msg
        for part in ("train", "valid", "test"):
            ids: Tensor = getattr(self.split, part)
            found = self._labels(ids.to(stream.device)).unique()
            if ids.numel() == 0 or (found.numel() == 1 and (part == "train" or self.num_classes == 2)):
                raise ValueError(f"all events of the {part} part have label {found.tolist()}; two classes are needed")
        self.monitor = "AUC" if self.num_classes == 2 else "Accuracy"

    @property
    def event_dim(self) -> int:
        """Width of what the model is told of the events in question."""
        return self.stream.msg_dim if self.use_msg else 0

    def _labels(self, e_id: Tensor) -> Tensor:
        assert self.stream.y is not None
        return self.stream.y.index_select(0, e_id)

    def _logits(self, model: nn.Module, batch: EventBatch, share: slice) -> Tensor:
        stream, e_id = self.stream, batch.e_id[share]
        told = stream.msg.index_select(0, e_id) if self.use_msg and stream.msg is not None else None
        out = model(batch.src[share], batch.t[share], stream.msg, told)
        if out.shape != (e_id.numel(), self.num_classes):
            raise ValueError(
                f"model must return logits [{e_id.numel()}, {self.num_classes}], a row an event and a column a class "
                f"(got {list(out.shape)})"
            )
        return out

    def _sum(self, model: nn.Module, batch: EventBatch, share: slice) -> Tensor:
        return F.cross_entropy(self._logits(model, batch, share), self._labels(batch.e_id[share]), reduction="sum")

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        logit, y = self._score(model, split, lambda inner: self._run(inner, getattr(self.split, split)))
        bad = int((~torch.isfinite(logit)).any(1).sum())
        if bad:
            raise ValueError(f"the logits of {bad} {split} events are not finite; did training diverge?")
        if self.num_classes > 2:
            return {"Accuracy": 100 * float((logit.argmax(1) == y).double().mean())}
        score = logit[:, 1] - logit[:, 0]
        pos, neg = score[y == 1], score[y == 0]
        return {"AUC": 100 * roc_auc(pos, neg), "AP": 100 * average_precision(pos, neg)}

    def _run(self, model: Any, events: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels of events; the model has seen them afterwards."""
        logits, labels = [], []
        for batch in self._loader(events):
            logits.append(self._logits(model, batch, slice(None)))
            labels.append(self._labels(batch.e_id))
            self._show_batch(model, batch)
        return torch.cat(logits), torch.cat(labels)


def _count_classes(y: Any, num_events: int) -> int:
    if not isinstance(y, Tensor) or y.shape != (num_events,) or y.is_floating_point() or y.dtype == torch.bool:
        got = f"{list(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else y
        raise ValueError(f"stream.y must hold one class number an event, int64 [{num_events}] (got {got})")
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high < 1:
        raise ValueError(f"stream.y must hold class numbers from 0 on, two at least (got {low} to {high})")
    return high + 1
