"""Which events of a stream are for training, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.datasets.events import CHUNK, EventStream
from graphkit.utils.checks import check_range
from graphkit.utils.seed import stream as random_stream


@dataclass(frozen=True, eq=False)
class EventSplit:
    """A stream cut at two moments: training before the first, validation between them, test after the second.

    The inductive split also hides some nodes, as in `"Inductive Representation Learning on Temporal Graphs"
    <https://arxiv.org/abs/2002.07962>`_ and `"Neighborhood-aware Scalable Temporal Network Representation Learning"
    <https://arxiv.org/abs/2209.01084>`_: training and validation have only the events between known nodes, test only
    those with at least one new node. Before the test such a model is shown all events of the first two ranges.

    Args:
        train_stop: the first event after training.
        valid_stop: the first event after validation.
        num_events: number of events of the stream.
        new_nodes: ``[N]`` bool, the nodes hidden during training; None in the transductive split.
        new_events: ``[E]`` bool, the events that touch one of them; None in the transductive split.

    Example:
        >>> t = torch.arange(10)
        >>> split = EventSplit.make(EventStream(t % 3, t % 4, t))
        >>> split
        EventSplit(train=7, valid=1, test=2)
        >>> split.ranges[2]
        range(8, 10)
    """

    train_stop: int
    valid_stop: int
    num_events: int
    new_nodes: Tensor | None = None
    new_events: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.train_stop <= self.valid_stop <= self.num_events:
            raise ValueError(
                "a split must have 0 < train_stop <= valid_stop <= num_events "
                f"(got {self.train_stop}, {self.valid_stop}, {self.num_events})"
            )

    @classmethod
    def make(
        cls, stream: EventStream, valid: float = 0.15, test: float = 0.15, new_nodes: float = 0.0, seed: int = 0
    ) -> EventSplit:
        """Cut ``stream`` at quantiles of its times.

        Training ends with the last event not after the quantile 1 - valid - test of the times, validation with the last
        one not after 1 - test (NumPy's quantiles, interpolated), so that events of one moment are in one part.

        Args:
            stream: the events.
            valid, test: shares of the events.
            new_nodes: share of all nodes with an event that are hidden during training, drawn among those that have an
                event after training. 0 is the transductive split.
            seed: of that draw.

        Raises:
            ValueError: shares outside [0, 1], or a part would be empty.
        """
        check_range(valid, "valid", 0, 1)
        check_range(test, "test", 0, 1)
        check_range(new_nodes, "new_nodes", 0, 1)
        if not isinstance(stream, EventStream):
            raise TypeError(f"stream must be an EventStream (got {type(stream).__name__})")
        if valid + test >= 1:
            raise ValueError(f"valid + test must be less than 1 (got {valid} + {test})")
        # Rounded, because 1 - 0.15 - 0.15 is not the number 0.7.
        train_stop, valid_stop = (_stop(stream.t, round(share, 12)) for share in (1 - valid - test, 1 - test))
        if new_nodes:
            hidden = _draw_nodes(stream, train_stop, new_nodes, seed)
            touched = torch.cat(
                [hidden[a] | hidden[b] for a, b in zip(stream.src.split(CHUNK), stream.dst.split(CHUNK), strict=True)]
            )
            split = cls(train_stop, valid_stop, len(stream), hidden, touched)
        else:
            split = cls(train_stop, valid_stop, len(stream))
        for name, share in (("train", 1), ("valid", valid), ("test", test)):
            if share and not split._size(name):
                raise ValueError(
                    f"the {name} part is empty: {len(stream)} events at {int(stream.t.unique().numel())} different "
                    f"times are too few for valid={valid}, test={test}, new_nodes={new_nodes}"
                )
        return split

    @property
    def ranges(self) -> tuple[range, range, range]:
        """All events of the three spans of time, new nodes or not."""
        return (
            range(self.train_stop),
            range(self.train_stop, self.valid_stop),
            range(self.valid_stop, self.num_events),
        )

    @property
    def train(self) -> Tensor:
        """Ids of the training events, ascending."""
        return self._ids("train")

    @property
    def valid(self) -> Tensor:
        """Ids of the validation events, ascending."""
        return self._ids("valid")

    @property
    def test(self) -> Tensor:
        """Ids of the test events, ascending."""
        return self._ids("test")

    def _span(self, part: str) -> range:
        return self.ranges[("train", "valid", "test").index(part)]

    def _kept(self, part: str) -> Tensor | None:
        """Which events of a span belong to its part; None: all."""
        if self.new_events is None:
            return None
        span = self._span(part)
        touched = self.new_events[span.start : span.stop]
        return touched if part == "test" else ~touched

    def _ids(self, part: str) -> Tensor:
        span, kept = self._span(part), self._kept(part)
        return torch.arange(span.start, span.stop) if kept is None else kept.nonzero().view(-1) + span.start

    def _size(self, part: str) -> int:
        kept = self._kept(part)
        return len(self._span(part)) if kept is None else int(kept.sum())

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part}={self._size(part)}" for part in ("train", "valid", "test"))
        hidden = "" if self.new_nodes is None else f", new_nodes={int(self.new_nodes.sum())}"
        return f"EventSplit({sizes}{hidden})"


def _stop(t: Tensor, share: float) -> int:
    """How many of the sorted times are not above their quantile ``share``. O(log E)."""
    place = (t.numel() - 1) * share
    below = math.floor(place)
    low, high = int(t[below]), int(t[min(below + 1, t.numel() - 1)])
    # Between two times the quantile cuts after the first, wherever it lies; it can reach the second by rounding only.
    # As numpy.quantile rounds; where float64 would not tell times apart, from the first of the two on.
    base = low if high >= 2**53 else 0
    first, second, part = float(low - base), float(high - base), place - below
    border = second - (second - first) * (1 - part)
    last = high if border >= second else low
    return int(torch.searchsorted(t, last, right=True))


def _draw_nodes(stream: EventStream, train_stop: int, share: float, seed: int) -> Tensor:
    """``[N]`` bool: nodes with an event after training, as many as ``share`` of all that have an event."""
    seen, late = (torch.zeros(stream.num_nodes, dtype=torch.bool, device=stream.device) for _ in range(2))
    for ids in (stream.src, stream.dst):
        for piece in ids.split(CHUNK):
            seen[piece] = True
        for piece in ids[train_stop:].split(CHUNK):
            late[piece] = True
    wanted = int(share * int(seen.sum()))
    pool = late.nonzero().view(-1)
    if not 0 < wanted <= pool.numel():
        raise ValueError(
            f"new_nodes={share} would hide {wanted} of {int(seen.sum())} nodes; from 1 to {pool.numel()} can be, which "
            "have an event after training"
        )
    hidden = torch.zeros_like(seen)
    hidden[pool[torch.randperm(pool.numel(), generator=random_stream(seed))[:wanted].to(pool.device)]] = True
    return hidden
