"""Mini-batches of events in order of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from graphkit.datasets.events import CHUNK, EventStream
from graphkit.utils.checks import INDEX_DTYPES, check_choice, check_int


class EventBatch(NamedTuple):
    """Successive events of a stream.

    Args:
        src: ``[B]`` sources.
        dst: ``[B]`` destinations.
        t: ``[B]`` times, ascending.
        e_id: ``[B]`` places in the stream, which are the rows of its messages and labels.
        neg: ``[B, n]`` destinations that the sources did not choose, or None.
    """

    src: Tensor
    dst: Tensor
    t: Tensor
    e_id: Tensor
    neg: Tensor | None = None


class Negatives(Protocol):
    """What draws negatives for a loader, for example :class:`~graphkit.datasets.RandomNegatives`."""

    def draw(self, e_id: Tensor, epoch: int = 0) -> Tensor:
        """``[B, n]`` destinations for the events ``e_id`` ``[B]``."""


class EventLoader:
    """Goes through a stream, or a part of it, in batches of successive events.

    A batch is scored as a whole before the model is shown any of its events, so no score depends on an event of its own
    batch. It may depend on an event of the same moment in the batch before; ``ties="together"`` rules that out, and so
    do windows. Batches must not be shuffled, and messages are to be read (``stream.msg[e_id]``) only for events that
    were shown.

    With ``window`` a batch is what happens in one window of time, a snapshot of the discrete-time view: windows are
    ``[k * window, (k + 1) * window)`` for whole ``k``, whatever part of the stream is read, and empty ones are skipped.

    Batches of a whole stream or of a range are views of it: nothing is copied, and memory does not grow with the number
    of events (8 bytes a batch with windows or ties together).

    Args:
        stream: the events.
        events: ids of the events to go through, ascending: a range, or int64 ``[n]``; all if None.
        batch_size: number of events of a batch; 200 if neither this nor ``window`` is given.
        window: width of a window in the unit of ``t``, instead of ``batch_size``.
        ties: ``"split"`` cuts after ``batch_size`` events; ``"together"`` goes on to the last event of that moment.
        negatives: adds ``neg``; it depends on the epoch that :meth:`set_epoch` says, 0 at first.

    Raises:
        TypeError, ValueError: wrong types, ids that do not ascend, sizes below 1, both sizes given.
        IndexError: an event outside the stream.

    Example:
        >>> stream = EventStream(torch.tensor([0, 1, 0]), torch.tensor([2, 2, 3]), torch.tensor([5, 5, 9]))
        >>> [batch.e_id.tolist() for batch in EventLoader(stream, batch_size=1, ties="together")]
        [[0, 1], [2]]
        >>> [batch.t.tolist() for batch in EventLoader(stream, range(1, 3), window=10)]
        [[5, 9]]
    """

    def __init__(
        self,
        stream: EventStream,
        events: range | Tensor | None = None,
        batch_size: int | None = None,
        window: int | None = None,
        ties: str = "split",
        negatives: Negatives | None = None,
    ) -> None:
        if not isinstance(stream, EventStream):
            raise TypeError(f"stream must be an EventStream (got {type(stream).__name__})")
        if window is not None and batch_size is not None:
            raise ValueError(f"give batch_size or window, not both (got {batch_size} and {window})")
        check_choice(ties, "ties", ("split", "together"))
        self.stream = stream
        self.negatives = negatives
        self.epoch = 0
        self._ids = _check_events(events, stream)
        self.batch_size, self.window = None, None
        if window is not None:
            self.window = check_int(window, "window", 1)
        else:
            self.batch_size = check_int(200 if batch_size is None else batch_size, "batch_size", 1)
        self._bounds: np.ndarray | None = None
        if window is not None or ties == "together":
            part = slice(self._ids.start, self._ids.stop) if isinstance(self._ids, range) else self._ids
            t = stream.t[part].cpu()
            self._bounds = _windows(t, self.window) if self.window else _together(t.numpy(), self.batch_size or 1)

    def set_epoch(self, epoch: int) -> None:
        """Draw the negatives of ``epoch`` from now on."""
        self.epoch = check_int(epoch, "epoch", 0)

    def __len__(self) -> int:
        if self._bounds is not None:
            return len(self._bounds) - 1
        assert self.batch_size is not None
        return -(-len(self._ids) // self.batch_size)

    def __iter__(self) -> Iterator[EventBatch]:
        for index in range(len(self)):
            if self._bounds is not None:
                start, stop = int(self._bounds[index]), int(self._bounds[index + 1])
            else:
                assert self.batch_size is not None
                start = index * self.batch_size
                stop = min(start + self.batch_size, len(self._ids))
            yield self._batch(start, stop)

    def _batch(self, start: int, stop: int) -> EventBatch:
        stream = self.stream
        if isinstance(self._ids, range):
            first, last = self._ids.start + start, self._ids.start + stop
            e_id = torch.arange(first, last, device=stream.device)
            src, dst, t = (column[first:last] for column in (stream.src, stream.dst, stream.t))
        else:
            e_id = self._ids[start:stop]
            src, dst, t = (column[e_id] for column in (stream.src, stream.dst, stream.t))
        neg = None if self.negatives is None else self.negatives.draw(e_id, self.epoch)
        return EventBatch(src, dst, t, e_id, neg)

    def __repr__(self) -> str:
        size = f"window={self.window}" if self.window else f"batch_size={self.batch_size}"
        return f"EventLoader(events={len(self._ids)}, {size}, batches={len(self)})"


def _check_events(events: range | Tensor | None, stream: EventStream) -> range | Tensor:
    if events is None:
        return range(len(stream))
    if isinstance(events, range):
        if events.step != 1:
            raise ValueError(f"events must be a range of successive ids (got {events})")
        if len(events) and (events.start < 0 or events.stop > len(stream)):
            raise IndexError(f"events {events} are outside the stream of {len(stream)}")
        return events
    if not isinstance(events, Tensor) or events.dim() != 1 or events.dtype not in INDEX_DTYPES:
        got = f"{list(events.shape)} of {events.dtype}" if isinstance(events, Tensor) else type(events).__name__
        raise TypeError(f"events must be a range or int64 ids [n] (got {got})")
    if events.numel() == 0:
        return range(0)
    first, last = int(events[0]), int(events[-1])
    if not bool((events[1:] > events[:-1]).all()):
        bad = int((events[1:] <= events[:-1]).nonzero()[0])
        raise ValueError(f"events must ascend (got {int(events[bad + 1])} after {int(events[bad])})")
    if first < 0 or last >= len(stream):
        raise IndexError(f"events holds {first if first < 0 else last}, outside the stream of {len(stream)}")
    if last - first + 1 == events.numel():
        return range(first, last + 1)
    return events.long().to(stream.device)


def _windows(t: Tensor, window: int) -> np.ndarray:
    """Where batches begin, and the end: wherever an event is in another window than the one before."""
    starts = [np.zeros(1, dtype=np.int64)]
    for place in range(0, t.numel(), CHUNK):
        before = max(place - 1, 0)
        index = t[before : place + CHUNK] // window
        starts.append(((index[1:] != index[:-1]).nonzero().view(-1) + before + 1).numpy())
    return np.concatenate([*starts, np.full(1, t.numel())]) if t.numel() else np.zeros(1, dtype=np.int64)


def _together(t: np.ndarray, batch_size: int) -> np.ndarray:
    """Where batches begin, and the end, none of them parting events of one moment."""
    bounds = [0]
    while bounds[-1] < len(t):
        last = t[min(bounds[-1] + batch_size, len(t)) - 1]
        bounds.append(int(np.searchsorted(t, last, side="right")))
    return np.array(bounds, dtype=np.int64)
