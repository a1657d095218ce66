"""Negatives that every model of a benchmark is ranked against: drawn once, stored, found by event."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from graphkit.datasets.events import EventStream
from graphkit.datasets.unpickle import load_pickle
from graphkit.ops import NeighborIndex
from graphkit.ops.cpu.stored_negatives import draw
from graphkit.utils.checks import check_int, check_range
from graphkit.utils.io import atomic_write
from graphkit.utils.seed import stream as random_stream

_ARRAYS = ("src", "dst", "t", "ptr", "negatives")


@dataclass(frozen=True, eq=False, repr=False)
class StoredNegatives:
    """Negative destinations of events, known by ``(src, dst, t)``, as in the `"Temporal Graph Benchmark for Machine
    Learning on Temporal Graphs" <https://arxiv.org/abs/2307.01026>`_.

    Make them with :meth:`make`, or read those that the benchmark published with :meth:`load_tgb`. Rows are sorted by
    ``(t, src, dst)`` and distinct: equal events share their negatives.

    Args:
        src, dst, t: ``[Q]`` int64 arrays, the events.
        ptr: ``[Q + 1]`` where the negatives of each begin and end.
        negatives: ``[M]`` destinations.

    Example:
        >>> stream = EventStream(torch.tensor([0, 0, 0]), torch.tensor([1, 3, 2]), torch.tensor([5, 6, 7]))
        >>> stored = StoredNegatives.make(stream, range(2, 3), num_neg=5, history=range(2))
        >>> candidates, mask = stored.query(stream.src[2:], stream.dst[2:], stream.t[2:])
        >>> candidates[mask].sort().values
        tensor([1, 3])
    """

    src: np.ndarray
    dst: np.ndarray
    t: np.ndarray
    ptr: np.ndarray
    negatives: np.ndarray
    _times: np.ndarray = field(init=False)
    _pairs: np.ndarray = field(init=False)
    _codes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        q = len(self.src)
        if not (self.dst.shape == self.t.shape == (q,) and self.ptr.shape == (q + 1,)):
            raise ValueError(f"src, dst and t must have one length, ptr one more (got {self._shapes()})")
        if q == 0:
            raise ValueError("there must be at least one event (got none)")
        if self.ptr[0] != 0 or self.ptr[-1] != len(self.negatives) or (np.diff(self.ptr) < 0).any():
            raise ValueError(f"ptr must ascend from 0 to the number of negatives, {len(self.negatives)}")
        if min(self.src.min(), self.dst.min(), self.negatives.min(initial=0)) < 0:
            raise ValueError("node ids must not be negative")
        object.__setattr__(self, "_times", np.unique(self.t))
        object.__setattr__(self, "_pairs", np.unique(self._pair(self.src, self.dst)))
        object.__setattr__(self, "_codes", self._code(self.src, self.dst, self.t)[0])
        if (np.diff(self._codes) <= 0).any():
            raise ValueError("events must be sorted by (t, src, dst) and distinct")

    def _shapes(self) -> str:
        return ", ".join(f"{name} {list(getattr(self, name).shape)}" for name in _ARRAYS)

    @property
    def _base(self) -> int:
        return max(int(self.src.max()), int(self.dst.max())) + 1

    def _pair(self, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
        return src * self._base + dst

    def _code(self, src: np.ndarray, dst: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One number for each event, and whether its time and its pair occur at all."""
        pair = self._pair(src, dst)
        time_at = np.searchsorted(self._times, t).clip(max=len(self._times) - 1)
        pair_at = np.searchsorted(self._pairs, pair).clip(max=len(self._pairs) - 1)
        # An id out of range could make another pair's number.
        inside = (np.minimum(src, dst) >= 0) & (np.maximum(src, dst) < self._base)
        known = inside & (self._times[time_at] == t) & (self._pairs[pair_at] == pair)
        return time_at * len(self._pairs) + pair_at, known

    @classmethod
    def make(
        cls,
        stream: EventStream,
        events: range | Tensor,
        num_neg: int,
        history: range | Tensor | None = None,
        share: float = 0.5,
        seed: int = 0,
    ) -> StoredNegatives:
        """Draw negatives for ``events`` (the same for a seed, whatever the machine or the number of threads).

        Candidates are the distinct destinations of the stream, without those that are true destinations of the same
        source at the same time. With ``history`` (the strategy ``hist_rnd``) up to ``share * num_neg`` negatives are
        destinations that the source met there, and the others none of those; without it (``rnd``) all are drawn alike.
        No negative of an event is drawn twice; where fewer than asked are left, all are taken. O(num_neg log E) an
        event.

        TGB's own generator takes all ids from the smallest destination to the largest. That is the same where each of
        them is a destination; elsewhere it also draws nodes that never are, which are easy to tell. To compare with a
        leaderboard, rank against the published negatives (:meth:`load_tgb`).

        Args:
            stream: all events.
            events: ids of those to draw for (validation, or test).
            num_neg: negatives an event. TGB takes 100 for tgbl-review, 20 for tgbl-coin, tgbl-comment and
                tgbl-flight, and for tgbl-wiki more than there are destinations.
            history: ids of the training events, or None.
            share: of the historical negatives.
            seed: of the draw.

        Raises:
            ValueError, IndexError: an argument out of range, or no events.
        """
        check_int(num_neg, "num_neg", 1)
        check_range(share, "share", 0, 1)
        src, dst, t = (_part(column, events, "events") for column in (stream.src, stream.dst, stream.t))
        if len(src) == 0:
            raise ValueError("events must hold at least one event (got none)")
        order = np.lexsort((dst, src, t))
        src, dst, t = src[order], dst[order], t[order]
        fresh = np.concatenate([[True], (src[1:] != src[:-1]) | (dst[1:] != dst[:-1]) | (t[1:] != t[:-1])])
        src, dst, t = src[fresh], dst[fresh], t[fresh]
        first_of_group = np.concatenate([[True], (src[1:] != src[:-1]) | (t[1:] != t[:-1])])
        true_ptr = np.append(first_of_group.nonzero()[0], len(src))
        candidates = stream.destinations.cpu().numpy()
        # Negatives are drawn by their place among the candidates.
        place = np.zeros(stream.num_nodes, np.int64)
        place[candidates] = np.arange(len(candidates))
        past_ptr, past = np.zeros(stream.num_nodes + 1, np.int64), np.empty(0, np.int64)
        if history is not None:
            met = torch.from_numpy(place[_part(stream.dst, history, "history")])
            index = NeighborIndex(
                torch.stack([torch.from_numpy(_part(stream.src, history, "history")), met]), len(place)
            )
            past_ptr, past = index.rowptr.numpy(), index.col.numpy()
        key = int(torch.randint(-(2**63), 2**63 - 1, (), generator=random_stream(seed)))
        ptr, drawn = draw(
            src,
            first_of_group.cumsum() - 1,
            true_ptr,
            place[dst],
            past_ptr,
            past,
            len(candidates),
            num_neg,
            int(num_neg * share),
            key,
        )
        small = stream.num_nodes <= 2**31
        return cls(src, dst, t, ptr, candidates.astype(np.int32 if small else np.int64)[drawn])

    # Files ------------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write an ``.npz`` file, wholly or not at all."""
        with atomic_write(path, "wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: str | os.PathLike) -> StoredNegatives:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in _ARRAYS})
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} holds no stored negatives, or is damaged ({error})") from error

    @classmethod
    def load_tgb(cls, *paths: str | os.PathLike) -> StoredNegatives:
        """Read negatives that TGB published (``tgbl-wiki_val_ns_v2.pkl`` and ``tgbl-wiki_test_ns_v2.pkl``, one of them
        or both), without running code in the files.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file is damaged, or holds anything but destinations by ``(src, dst, t)``.
        """
        keys, lists = [], []
        for path in paths:
            table = load_pickle(path)
            try:
                keys.append(np.array(list(table), dtype=np.int64).reshape(len(table), -1))
                lists += [np.asarray(values).reshape(-1) for values in table.values()]
                # Lists that begin with an empty one are stored as float64; ids are exact in it.
                ids = np.concatenate(lists).astype(np.int64)
                if keys[-1].shape[1] != 3 or not np.array_equal(ids, np.concatenate(lists)):
                    raise ValueError
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path} must hold lists of destinations by (src, dst, t)") from error
        if not paths:
            raise TypeError("load_tgb needs the path of a file (got none)")
        src, dst, t = np.concatenate(keys).T
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        order = np.lexsort((dst, src, t))
        start = (np.cumsum(lengths) - lengths)[order]
        ptr = np.concatenate([np.zeros(1, np.int64), lengths[order].cumsum()])
        place = np.arange(ptr[-1]) + np.repeat(start - ptr[:-1], lengths[order])
        small = ids.max(initial=0) < 2**31
        return cls(src[order], dst[order], t[order], ptr, ids[place].astype(np.int32 if small else np.int64))

    # Look up ----------------------------------------------------------------------------------------------------------

    def query(self, src: Tensor, dst: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The negatives of a batch of events, in rows filled up with the true destination.

        Shapes:
            - ``src``, ``dst``, ``t`` ``[B]``
            - output: candidates ``[B, n]`` int64, and mask ``[B, n]`` bool, False where a row is filled up

        Raises:
            KeyError: an event has no stored negatives; the message names the first.
        """
        keys = [value.detach().cpu().numpy() for value in (src, dst, t)]
        code, known = self._code(*keys)
        row = np.searchsorted(self._codes, code).clip(max=len(self._codes) - 1)
        known &= self._codes[row] == code
        if not known.all():
            bad = int((~known).argmax())
            event = tuple(int(column[bad]) for column in keys)
            raise KeyError(f"no negatives are stored for the event (src, dst, t) = {event}")
        start, size = self.ptr[row], self.ptr[row + 1] - self.ptr[row]
        column = np.arange(int(size.max(initial=0)))
        mask = column < size[:, None]
        found = np.broadcast_to(keys[1][:, None], mask.shape).copy()
        found[mask] = self.negatives[(start[:, None] + column)[mask]]
        return torch.from_numpy(found).to(src.device), torch.from_numpy(mask).to(src.device)

    def __len__(self) -> int:
        return len(self.src)

    def __repr__(self) -> str:
        return f"StoredNegatives(events={len(self)}, negatives={len(self.negatives)})"


def _part(column: Tensor, ids: range | Tensor, name: str) -> np.ndarray:
    if isinstance(ids, range):
        if ids.step != 1 or (len(ids) and (ids.start < 0 or ids.stop > column.numel())):
            raise IndexError(f"{name} {ids} is outside the stream of {column.numel()} events")
        return column[ids.start : ids.stop].cpu().numpy()
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= column.numel()):
        raise IndexError(f"{name} holds an id outside the stream of {column.numel()} events")
    return column[ids].cpu().numpy()
