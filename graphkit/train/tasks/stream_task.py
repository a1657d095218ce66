"""What all tasks on a stream of events share: the order in which a model is asked and shown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.loader.event_loader import EventBatch, EventLoader, Negatives
from graphkit.nn.temporal.state import StreamingModule, TemporalModel
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice

_Found = TypeVar("_Found")


class StreamTask(Task):
    """Goes through a stream batch after batch: each is asked for first and shown to the model afterwards.

    An epoch begins with a model that has seen nothing. Validation goes on from the state in which training ended, and
    the test from that after validation, every batch being shown after it was scored. The model of the best epoch comes
    with its state after validation.

    A model that has not seen what lies before a split, such as one without training, is shown it first. With new nodes
    in the split the test is preceded by all earlier events, those of the new nodes too, as the inductive protocol of
    `"Neighborhood-aware Scalable Temporal Network Representation Learning" <https://arxiv.org/abs/2209.01084>`_ has it.

    With several processes each scores its share of a batch, and all are shown the whole of it.

    Args:
        stream: the events.
        split: which of them are for training, validation and test.
        batch_size: events a step; 200 if neither this nor ``window`` is given.
        window: width of a window of time, all events of which are one step: the discrete-time view of snapshots. A
            window that a border of the split would cut belongs to the earlier part as a whole.

    Raises:
        TypeError, ValueError: an argument of the wrong type, sizes below 1, both sizes, a split of another stream or
            one that windows leave a part of empty.
    """

    unit = "event"
    #: What the model must be.
    model_type: type[StreamingModule] = TemporalModel

    def __init__(
        self, stream: EventStream, split: EventSplit, batch_size: int | None = None, window: int | None = None
    ) -> None:
        if not isinstance(stream, EventStream):
            raise TypeError(f"stream must be an EventStream (got {type(stream).__name__})")
        if not isinstance(split, EventSplit):
            raise TypeError(f"split must be an EventSplit (got {type(split).__name__})")
        if split.num_events != len(stream):
            raise ValueError(f"split must be of the stream of {len(stream)} events (got one of {split.num_events})")
        loader = EventLoader(stream, range(1), batch_size, window)
        self.batch_size, self.window = loader.batch_size, loader.window
        self.stream = stream
        self.split = split if self.window is None else _with_whole_windows(split, stream, self.window)
        self._train = self.split.train

    @property
    def num_nodes(self) -> int:
        return self.stream.num_nodes

    @property
    def msg_dim(self) -> int:
        """Width of the messages."""
        return self.stream.msg_dim

    # Training ---------------------------------------------------------------------------------------------------------

    def _loader(self, events: range | Tensor, negatives: Negatives | None = None, epoch: int = 0) -> EventLoader:
        loader = EventLoader(self.stream, events, self.batch_size, self.window, negatives=negatives)
        loader.set_epoch(epoch)
        return loader

    def num_batches(self) -> int:
        return len(self._loader(self._train))

    def size(self, batch: Any) -> int:
        return batch.src.numel()

    def epoch_size(self) -> int:
        return self._train.numel()

    def batches(self, epoch: int) -> Iterator[Any]:
        self._fresh = True
        yield from self._epoch(epoch)

    _fresh = True

    def _epoch(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch."""
        yield from self._loader(self._train)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inner = self._begin(model)
        total = self._sum(model, batch, slice(self.rank, None, self.world_size))
        # The processes' gradients are averaged: each sums its share and scales it to the whole batch.
        loss = total * (self.world_size / self.size(batch))
        if self.world_size > 1:
            # DDP waits for the gradient of every weight; a share may be empty, and a batch need not reach all weights.
            loss = loss + 0 * torch.stack([weight.sum() for weight in inner.parameters()]).sum()
        extra = inner.auxiliary_loss()
        self._after(inner, batch)
        return loss if extra is None else loss + extra

    @abstractmethod
    def _sum(self, model: nn.Module, batch: Any, share: slice) -> Tensor:
        """The sum of the losses of a share of a batch."""

    def _after(self, model: Any, batch: Any) -> None:
        """Show the model a batch once it is scored."""
        self._show_batch(model, batch)

    def _show_batch(self, model: Any, batch: EventBatch) -> None:
        model.update_state(batch.src, batch.dst, batch.t, batch.e_id, self.stream.msg)

    def _begin(self, model: nn.Module) -> Any:
        """The model itself; it has seen nothing if this is the epoch's first batch."""
        inner = self._inner(model)
        if self._fresh:
            inner.reset_state()
            self._fresh = False
        return inner

    def _inner(self, model: Any) -> Any:
        """The model itself, out of Fabric's and DDP's wrappers."""
        while not isinstance(model, self.model_type):
            if not hasattr(model, "module"):
                raise TypeError(f"model must be a graphkit.nn.{self.model_type.__name__} (got {type(model).__name__})")
            model = model.module
        return model

    # Evaluation -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _score(self, model: nn.Module, split: str, score: Callable[[Any], _Found]) -> _Found:
        """What ``score`` finds of a model that has seen what lies before ``split``, and shows it the split."""
        check_choice(split, "split", ("valid", "test"))
        inner = self._inner(model)
        was_training = inner.training
        inner.eval()
        if split == "valid":
            self._catch_up(inner, split)
            found = score(inner)
        else:
            after_validation = inner.snapshot()
            self._catch_up(inner, split)
            found = score(inner)
            inner.load_snapshot(after_validation)
        inner.train(was_training)
        return found

    def _catch_up(self, model: Any, split: str) -> None:
        """Show the model what lies before ``split``, unless that is what it has seen."""
        seen = self._train
        if split == "test":
            seen = torch.arange(self.split.valid_stop)
            if self.split.new_nodes is not None:
                # The state has no event of the new nodes, though the last event that it has may be the same.
                model.reset_state()
        if int(model.next_event) != int(seen[-1]) + 1:
            model.reset_state()
            self._show(model, seen)

    def _show(self, model: Any, events: range | Tensor) -> None:
        for batch in self._loader(events):
            self._show_batch(model, batch)

    def to(self, device: torch.device | str) -> Self:
        self.stream = self.stream.to(device)
        return self

    def __repr__(self) -> str:
        size = f"batch_size={self.batch_size}" if self.window is None else f"window={self.window}"
        return f"{type(self).__name__}({self.stream}, {self.split}, {size})"


def _with_whole_windows(split: EventSplit, stream: EventStream, window: int) -> EventSplit:
    """The split with each border moved to the end of the window that it cuts."""

    def moved(stop: int) -> int:
        last = int(stream.t[stop - 1])
        last_of_window = min(last - last % window + window - 1, torch.iinfo(torch.int64).max)
        return int(torch.searchsorted(stream.t, last_of_window, right=True))

    found = replace(split, train_stop=moved(split.train_stop), valid_stop=moved(split.valid_stop))
    for part in ("valid", "test"):
        if getattr(split, part).numel() and not getattr(found, part).numel():
            raise ValueError(f"window={window} leaves no whole window for the {part} part; choose a smaller one")
    return found
