"""Negatives of events: destinations that a source did not choose."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.sample import draw_places, draw_seed, mix, search
from graphkit.utils.checks import INDEX_DTYPES, check_int

# Node ids of which any two make one int64.
_MAX_NODES = 3_000_000_000


class RandomNegatives:
    """Uniform destinations, as TGN and NAT are trained and evaluated with.

    What an event gets depends on the seed, the epoch and the event's id alone: neither on the batches, nor on the
    device, nor on what was drawn before. The true destination may be among them, as in the published protocols; with
    ``n`` candidates it is so with probability ``1 / n``.

    Args:
        destinations: a stream, whose distinct destinations are the candidates, or ``[n]`` int64 candidates.
        count: negatives of each event.
        seed: another seed, other negatives.

    Raises:
        TypeError, ValueError: candidates of another type or none, ``count`` below 1.

    Example:
        >>> negatives = RandomNegatives(torch.tensor([5, 6, 7]), count=4)
        >>> negatives.draw(torch.tensor([0, 1])).shape
        torch.Size([2, 4])
    """

    def __init__(self, destinations: EventStream | Tensor, count: int = 1, seed: int = 0) -> None:
        found = destinations.destinations if isinstance(destinations, EventStream) else destinations
        if not isinstance(found, Tensor) or found.dim() != 1 or found.dtype not in INDEX_DTYPES:
            raise TypeError(f"destinations must be an EventStream or int64 ids [n] (got {type(found).__name__})")
        if found.numel() == 0:
            raise ValueError("destinations must hold at least one candidate (got none)")
        self.destinations = found.long()
        self.count = check_int(count, "count", 1)
        self.seed = draw_seed(seed)

    def draw(self, e_id: Tensor, epoch: int = 0) -> Tensor:
        """``[B, count]`` destinations for the events ``e_id`` ``[B]``, where ``e_id`` is. O(B count)."""
        if self.destinations.device != e_id.device:
            self.destinations = self.destinations.to(e_id.device)  # once: a stream stays where it is
        size = torch.full_like(e_id, self.destinations.numel())
        return self.destinations[draw_places(_streams(self.seed, epoch, e_id), size, self.count, replace=True)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(candidates={self.destinations.numel()}, count={self.count})"


class _KnownPairNegatives:
    """Destinations that form one of certain pairs with the source of the event, but not at its time.

    Pairs are rows of destinations, one a source. The destinations that are true at the time of an event are some places
    of the row of its source; a draw among the others is a draw from a shorter row, moved behind each of those places
    that is not after it.
    """

    def __init__(self, stream: EventStream, pairs: Tensor, count: int, seed: int) -> None:
        """``pairs``: ascending keys ``src * num_nodes + dst``."""
        self.stream = stream
        self.random = RandomNegatives(stream, count, seed)
        self.count = self.random.count
        nodes = stream.num_nodes
        self._col = pairs % nodes
        self._rowptr = counts_to_ptr(torch.bincount(pairs // nodes, minlength=nodes))
        self._times = stream.t.unique_consecutive()
        # Events whose pair is known, each once: by source and time, then by place in the row.
        keys = _pair_keys(stream)
        place = torch.searchsorted(pairs, keys)
        known = (pairs[place.clamp(max=max(pairs.numel() - 1, 0))] == keys) if pairs.numel() else keys < 0
        group, place = self._groups(known.nonzero().view(-1)), place[known]
        by_place = torch.argsort(place, stable=True)
        order = by_place[torch.argsort(group[by_place], stable=True)]
        group, place = group[order], place[order]
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = (group[1:] != group[:-1]) | (place[1:] != place[:-1])
        self._group, place = group[first], place[first]
        # How many places of the shorter row lie before each.
        rank = torch.arange(place.numel(), device=place.device) - torch.searchsorted(self._group, self._group)
        self._before = place - self._rowptr[self._group // max(self._times.numel(), 1)] - rank

    def _groups(self, e_id: Tensor) -> Tensor:
        """One number for the source and the time of an event."""
        stream = self.stream
        return stream.src[e_id] * self._times.numel() + torch.searchsorted(self._times, stream.t[e_id])

    def draw(self, e_id: Tensor, epoch: int = 0) -> Tensor:
        """``[B, count]`` destinations for the events ``e_id`` ``[B]``. O(B count log E)."""
        fallback = self.random.draw(e_id, epoch)
        if self._col.numel() == 0:
            return fallback
        src, group = self.stream.src[e_id], self._groups(e_id)
        low, high = torch.searchsorted(self._group, group), torch.searchsorted(self._group, group, right=True)
        start = self._rowptr[src]
        size = self._rowptr[src + 1] - start - (high - low)
        # Another stream of numbers than that of the random ones.
        place = draw_places(_streams(~self.random.seed, epoch, e_id), size, self.count, replace=False)
        turn = torch.arange(self.count, device=e_id.device)
        place = torch.where(size[:, None] > self.count, place, turn)
        low, high = low[:, None].expand_as(place), high[:, None].expand_as(place)
        place = place + search(self._before, low, high, place) - low
        found = self._col[(start[:, None] + place).clamp(max=self._col.numel() - 1)]
        return torch.where(turn < size[:, None], found, fallback)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pairs={self._col.numel()}, count={self.count})"


class HistoricalNegatives(_KnownPairNegatives):
    """Destinations that the source met in training, but does not meet at the time of the event.

    From `"Towards Better Evaluation for Dynamic Link Prediction" <https://arxiv.org/abs/2207.10128>`_: a model
    that only remembers which edges exist cannot tell these from the true ones. The paper draws whole edges. Here the
    source stays that of the event, as in `"Temporal Graph Benchmark" <https://arxiv.org/abs/2307.01026>`_, so that all
    candidates of an event are destinations of one source. Without replacement; where a source has too few, the rest are
    :class:`RandomNegatives`.

    Args:
        stream: the events.
        split: its training events are the history.
        count: negatives of each event.
        seed: another seed, other negatives; they depend on nothing but seed, epoch and event.

    Raises:
        ValueError: a split of another stream, ``count`` below 1.

    Example:
        >>> t = torch.arange(20)
        >>> stream = EventStream(t % 2, 2 + t % 5, t)
        >>> negatives = HistoricalNegatives(stream, EventSplit.make(stream), count=3)
        >>> negatives.draw(torch.tensor([19])).shape
        torch.Size([1, 3])
    """

    def __init__(self, stream: EventStream, split: EventSplit, count: int = 1, seed: int = 0) -> None:
        _check_split(stream, split)
        super().__init__(stream, _pair_keys(stream)[split.train.to(stream.device)].unique(), count, seed)


class InductiveNegatives(_KnownPairNegatives):
    """Destinations that the source meets in the time of the test and did not meet in training, but not at this time.

    From `"Towards Better Evaluation for Dynamic Link Prediction" <https://arxiv.org/abs/2207.10128>`_, with the source
    of the event as in :class:`HistoricalNegatives`, which see for the arguments.

    Example:
        >>> t = torch.arange(20)
        >>> stream = EventStream(t % 2, 2 + t, t)
        >>> InductiveNegatives(stream, EventSplit.make(stream)).draw(torch.tensor([19])).shape
        torch.Size([1, 1])
    """

    def __init__(self, stream: EventStream, split: EventSplit, count: int = 1, seed: int = 0) -> None:
        _check_split(stream, split)
        keys = _pair_keys(stream)
        known = keys[split.train.to(stream.device)].unique()
        late = keys[split.valid_stop :].unique()
        place = torch.searchsorted(known, late).clamp(max=known.numel() - 1)
        super().__init__(stream, late[known[place] != late], count, seed)


def _check_split(stream: EventStream, split: EventSplit) -> None:
    if split.num_events != len(stream):
        raise ValueError(f"split is of a stream of {split.num_events} events (this one has {len(stream)})")
    if max(stream.num_nodes, len(stream)) > _MAX_NODES:
        raise ValueError(f"stream must have at most {_MAX_NODES} nodes and events (got {stream})")


def _pair_keys(stream: EventStream) -> Tensor:
    return stream.src * stream.num_nodes + stream.dst


def _streams(seed: int, epoch: int, e_id: Tensor) -> Tensor:
    """A random stream for each event; :func:`~graphkit.ops.sample.uniform` draws from it."""
    return mix(e_id + _key(seed, epoch))


@lru_cache(maxsize=16)
def _key(seed: int, epoch: int) -> int:
    return int(mix(mix(torch.tensor(seed)) + check_int(epoch, "epoch", 0)))
