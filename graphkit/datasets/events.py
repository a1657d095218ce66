"""Events in order of time: who met whom, when, and with what message."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphkit.datasets.table_columns import NAMES, check_filled, labels, numbers, times, whole_numbers
from graphkit.utils.checks import INDEX_DTYPES, check_int

# Events that are looked at together: memory does not grow with the stream.
CHUNK = 1 << 20
_HEADER = "stream.json"
_FORMAT = 1
_COLUMNS = ("src", "dst", "t", "msg", "y")


@dataclass(frozen=True, eq=False, repr=False)
class EventStream:
    """Events sorted by time; the store that all parts for temporal graphs work on.

    An event is known by its place in the stream, ``e_id``, which is also its row of ``msg``. A slice ``stream[a:b]`` is
    a stream of its own, a view that counts from 0 again. To train or evaluate on a part, give the whole stream and the
    ids of the part to :class:`~graphkit.loader.EventLoader`: so ids stay those of the whole stream.

    Events of one moment keep the order in which they are given. Repeated events and self-loops are kept. Times are
    whole numbers from 0 to 2^63 - 1, so that no difference of two overflows, and are never rounded.

    Args:
        src: ``[E]`` source nodes, int64 (or int32) from 0 on.
        dst: ``[E]`` destination nodes, likewise.
        t: ``[E]`` times, int64 (or int32), not negative, ascending unless ``sort``.
        msg: ``[E, D]`` message of each event, finite; kept as float32. None if events carry none.
        y: ``[E]`` label of each event, or None.
        num_nodes: ids are in ``[0, num_nodes)``; the largest id + 1 if None.
        sort: sort the events by time, those of one moment in the given order.

    Raises:
        TypeError: a column is no tensor or has another type.
        ValueError: no event, columns of different lengths or devices, a time that is negative or before the one of the
            event before, a message that is not finite. The message names the first such event.
        IndexError: a node id outside ``[0, num_nodes)``; the message names the first such event.

    Example:
        >>> stream = EventStream(torch.tensor([0, 1, 0]), torch.tensor([2, 2, 3]), torch.tensor([5, 5, 9]))
        >>> stream
        EventStream(events=3, nodes=4, msg_dim=0, t=5..9)
        >>> stream[1:].src
        tensor([1, 0])
    """

    src: Tensor
    dst: Tensor
    t: Tensor
    msg: Tensor | None = None
    y: Tensor | None = None
    num_nodes: int = None  # type: ignore[assignment]
    _: KW_ONLY
    sort: InitVar[bool] = False

    def __post_init__(self, sort: bool) -> None:
        columns = self._columns()
        for name, column in columns.items():
            _check_column(name, column, columns["src"])
        for name in ("src", "dst", "t"):
            object.__setattr__(self, name, columns[name].detach().long())
        if self.msg is not None:
            object.__setattr__(self, "msg", self.msg.detach().float())
        if sort:
            order = torch.argsort(self.t, stable=True)
            for name, column in self._columns().items():
                object.__setattr__(self, name, column[order])
        if self.num_nodes is None:
            object.__setattr__(self, "num_nodes", 1 + max(_max(self.src), _max(self.dst), 0))
        else:
            object.__setattr__(self, "num_nodes", check_int(self.num_nodes, "num_nodes", 1))
        self._check_values(_COLUMNS)

    @classmethod
    def _trusted(cls, num_nodes: int, **columns: Tensor | None) -> EventStream:
        """A stream of columns that were checked before."""
        stream = object.__new__(cls)
        for name in _COLUMNS:
            object.__setattr__(stream, name, columns.get(name))
        object.__setattr__(stream, "num_nodes", num_nodes)
        return stream

    def _columns(self) -> dict[str, Tensor]:
        """The columns that are there."""
        return {
            name: getattr(self, name)
            for name in _COLUMNS
            if name in ("src", "dst", "t") or getattr(self, name) is not None
        }

    def _check_values(self, names: Sequence[str]) -> None:
        """Look at every value, in pieces, and name the first bad event."""
        for start in range(0, self.num_events, CHUNK):
            piece = slice(start, start + CHUNK)
            for name in ("src", "dst"):
                ids = getattr(self, name)[piece]
                low, high = (int(value) for value in torch.aminmax(ids))
                if low < 0 or high >= self.num_nodes:
                    bad = _first((ids < 0) | (ids >= self.num_nodes))
                    raise IndexError(
                        f"{name} of event {start + bad} is {int(ids[bad])}, outside [0, {self.num_nodes}); "
                        "graphkit.datasets.relabel numbers nodes from 0"
                    )
            # The last time of the piece before comes first, so that the border is looked at, too.
            before = max(start - 1, 0)
            t = self.t[before : piece.stop]
            if int(t.min()) < 0:
                bad = _first(t < 0)
                raise ValueError(f"t of event {before + bad} is {int(t[bad])}; times must not be negative, shift them")
            falls = t[1:] < t[:-1]
            if bool(falls.any()):
                bad = _first(falls)
                raise ValueError(
                    f"t must not decrease: event {before + bad + 1} is at {int(t[bad + 1])}, the one before at "
                    f"{int(t[bad])}; sort=True sorts the events"
                )
            if self.msg is not None and "msg" in names:
                finite = torch.isfinite(self.msg[piece])
                if not bool(finite.all()):
                    bad = _first(~finite.all(1))
                    value = float(self.msg[start + bad][~finite[bad]][0])
                    raise ValueError(f"msg of event {start + bad} holds {value}; clean or impute it first")

    # Sizes ------------------------------------------------------------------------------------------------------------

    @property
    def num_events(self) -> int:
        """Number of events ``E``."""
        return self.src.numel()

    @property
    def msg_dim(self) -> int:
        """Width ``D`` of the messages; 0 if there are none."""
        return 0 if self.msg is None else self.msg.size(1)

    @property
    def device(self) -> torch.device:
        """Where the columns are."""
        return self.src.device

    def __len__(self) -> int:
        return self.num_events

    def __repr__(self) -> str:
        span = f", t={int(self.t[0])}..{int(self.t[-1])}" if len(self) else ""
        labels = "" if self.y is None else ", y"
        return f"EventStream(events={len(self)}, nodes={self.num_nodes}, msg_dim={self.msg_dim}{labels}{span})"

    @cached_property
    def destinations(self) -> Tensor:
        """The distinct destinations, ascending: the candidates of random negatives, users never being among them in a
        stream of users and items. O(E + N) once, with N bytes of memory."""
        seen = torch.zeros(self.num_nodes, dtype=torch.bool, device=self.device)
        for ids in self.dst.split(CHUNK):
            seen[ids] = True
        return seen.nonzero().view(-1)

    # Other forms ------------------------------------------------------------------------------------------------------

    def __getitem__(self, events: slice) -> EventStream:
        if not isinstance(events, slice) or events.step not in (None, 1):
            raise TypeError(f"a stream takes slices [a:b] of successive events (got {events!r})")
        columns = {name: column[events] for name, column in self._columns().items()}
        return self._trusted(self.num_nodes, **columns)

    def to(self, device: str | torch.device) -> EventStream:
        """The same stream on ``device``."""
        columns = {name: column.to(device) for name, column in self._columns().items()}
        return self._trusted(self.num_nodes, **columns)

    @classmethod
    def from_temporal_data(cls, data: TemporalData, num_nodes: int | None = None, *, sort: bool = False) -> EventStream:
        """A stream of PyG's :class:`~torch_geometric.data.TemporalData`; messages of width 0 become None."""
        if not isinstance(data, TemporalData):
            raise TypeError(f"data must be a TemporalData of PyG (got {type(data).__name__})")
        msg = data.msg if "msg" in data else None
        if msg is not None and msg.dim() == 2 and msg.size(1) == 0:
            msg = None
        y = data.y if "y" in data else None
        return cls(data.src, data.dst, data.t, msg, y, num_nodes, sort=sort)  # type: ignore[arg-type]

    def to_temporal_data(self) -> TemporalData:
        """As PyG's :class:`~torch_geometric.data.TemporalData`, sharing memory; no messages become width 0."""
        columns = self._columns()
        columns.setdefault("msg", torch.empty(len(self), 0, device=self.device))
        return TemporalData(**columns)

    @classmethod
    def from_pandas(
        cls,
        frame: Any,
        src: str = "src",
        dst: str = "dst",
        t: str = "t",
        msg: Sequence[str] = (),
        y: str | None = None,
        num_nodes: int | None = None,
        *,
        time_scale: float | None = None,
        sort: bool = False,
    ) -> EventStream:
        """A stream of the rows of a pandas frame.

        Args:
            frame: one row an event.
            src, dst, y: names of columns; ids must be numbers from 0 on (:func:`relabel` numbers anything else).
            t: name of the column of times: whole numbers or dates. Dates become seconds since 1970 in UTC, whatever
                the unit in which pandas keeps them; those without a time zone are taken for UTC.
            msg: names of the columns that form the message.
            num_nodes, sort: as in :class:`EventStream`.
            time_scale: times are multiplied by it and rounded to whole numbers, so that 1000 turns dates into
                milliseconds. None: numbers, and the seconds of dates, must be whole already.

        Raises:
            KeyError: no such column.
            ValueError: a cell that is empty or no number, or no whole one among ids and times; the message names the
                row. Dates that are text; ``pandas.to_datetime`` parses them.

        Example:
            >>> import pandas
            >>> frame = pandas.DataFrame({"src": [0, 1], "dst": [2, 2], "time": [0.5, 1.0], "price": [3, 4]})
            >>> EventStream.from_pandas(frame, t="time", msg=["price"], time_scale=2)
            EventStream(events=2, nodes=3, msg_dim=1, t=1..2)
        """
        for name in (src, dst, t, *msg, *([] if y is None else [y])):
            if name not in frame.columns:
                raise KeyError(f"frame has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
        message = None
        if msg:
            message = torch.from_numpy(
                np.stack([numbers(frame[name], name).astype(np.float32) for name in msg], axis=1)
            )
        return cls(
            torch.from_numpy(whole_numbers(frame[src], src, NAMES)),
            torch.from_numpy(whole_numbers(frame[dst], dst, NAMES)),
            torch.from_numpy(times(frame[t], t, time_scale)),
            message,
            None if y is None else torch.from_numpy(labels(frame[y], y)),
            num_nodes,  # type: ignore[arg-type]
            sort=sort,
        )

    # Files ------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Write one ``.npy`` file a column and a small header, wholly or not at all, for :meth:`open`.

        Raises:
            FileExistsError: ``folder`` is there and holds files.
            OSError: it cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} exists; a stream is written to a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        columns = self._columns()
        header = {"format": _FORMAT, "num_events": len(self), "num_nodes": self.num_nodes, "columns": list(columns)}
        try:
            temporary.mkdir()
            for name, column in columns.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, column.cpu().numpy(), allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            with (temporary / _HEADER).open("w", encoding="utf-8") as text:
                json.dump(header, text)
                text.flush()
                os.fsync(text.fileno())
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @classmethod
    def open(cls, folder: str | os.PathLike) -> EventStream:
        """A stream that :meth:`save` wrote, left on the disk: memory does not grow with the number of events.

        Sizes and types are compared with the header, then ids and times are read through once in pieces. Messages are
        not read until they are used. Do not write into the columns.

        Raises:
            FileNotFoundError: there is no stream.
            ValueError, IndexError: a file is damaged or cut short, or holds a bad event.
        """
        folder = Path(folder)
        path = folder / _HEADER
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no event stream: there is no {_HEADER}")
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            known = header["format"] == _FORMAT
            num_events, num_nodes = check_int(header["num_events"], "", 1), check_int(header["num_nodes"], "", 1)
            names = [name for name in _COLUMNS if name in header["columns"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if not known:
            raise ValueError(f"{path} has format {header['format']}, this version reads {_FORMAT}")
        columns = {name: _open_column(folder / f"{name}.npy", name, num_events) for name in names}
        if not {"src", "dst", "t"} <= columns.keys():
            raise ValueError(f"{path} must list src, dst and t (got {', '.join(names)})")
        stream = cls._trusted(num_nodes, **columns)
        try:
            stream._check_values(("src", "dst", "t"))
        except (ValueError, IndexError) as error:
            raise type(error)(f"{folder}: {error}") from error
        return stream


def _check_column(name: str, column: Any, first: Any) -> None:
    if not isinstance(column, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor (got {type(column).__name__})")
    if name in ("src", "dst", "t") and column.dtype not in INDEX_DTYPES:
        raise TypeError(f"{name} must be int64 or int32 (got {column.dtype}); float32 is not exact beyond 2^24")
    if name == "msg" and not column.is_floating_point():
        raise TypeError(f"msg must be floating point (got {column.dtype}); convert with .float()")
    dim, shape = (2, "[E, D]") if name == "msg" else (1, "[E]")
    if column.dim() != dim:
        raise ValueError(f"{name} must have shape {shape} (got {list(column.shape)})")
    if column.size(0) != first.size(0):
        raise ValueError(f"{name} must have one row an event (got {column.size(0)} rows, src has {first.size(0)})")
    if column.device != first.device:
        raise ValueError(f"{name} must be where src is (got {column.device}, src is on {first.device})")
    if column.size(0) == 0:
        raise ValueError("a stream must hold at least one event (got none)")


def _max(values: Tensor) -> int:
    return max(int(piece.max()) for piece in values.split(CHUNK))


def _first(mask: Tensor) -> int:
    """Place of the first true value."""
    return int(mask.nonzero()[0])


def _open_column(path: Path, name: str, num_events: int) -> Tensor:
    try:
        try:
            # Copy on write, so that writing by mistake neither reaches the disk nor kills the process.
            column = np.lib.format.open_memmap(path, mode="c")
        except OSError:
            if not path.is_file():
                raise
            # Linux refuses copy on write of what is larger than its memory.
            column = np.lib.format.open_memmap(path, mode="r")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensor = torch.from_numpy(column)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error})") from error
    wanted = {"msg": torch.float32, "y": tensor.dtype}.get(name, torch.int64)
    if tensor.dtype != wanted or tensor.dim() != 1 + (name == "msg") or tensor.size(0) != num_events:
        raise ValueError(
            f"{path} must hold {num_events} rows of {wanted} (got {list(tensor.shape)} of {tensor.dtype}); "
            "it is not of this stream"
        )
    return tensor


@overload
def relabel(src: Tensor, dst: Tensor, bipartite: bool = False) -> tuple[Tensor, Tensor, Tensor]: ...


@overload
def relabel(src: Any, dst: Any, bipartite: bool = False) -> tuple[np.ndarray, np.ndarray, Any]: ...


def relabel(src: Any, dst: Any, bipartite: bool = False) -> tuple[Any, Any, Any]:
    """Number nodes 0, 1, ..., whatever their ids or names are, and keep the names. O(E log E) at most.

    Tensors are numbered in the order of their ids. Columns of a table (of pandas or NumPy, with numbers, texts, or
    anything else that can be a key of a dict) are numbered as they first occur, the source of an event before its
    destination. ``7``, ``"7"`` and ``"007"`` are three names.

    Args:
        src: ``[E]`` source of each event.
        dst: ``[E]`` destination of each event.
        bipartite: sources and destinations are of two kinds, such as users and items, even where they share a name:
            sources are numbered first, and destinations after them.

    Returns:
        ``src`` and ``dst`` with new ids, and ``[N]`` the name of each new id: a tensor for tensors, else a
        ``pandas.Index``, whose ``get_loc`` finds the id of a name and ``get_indexer`` the ids of many. A name of both
        kinds is found in the sources' part, ``names[:src.max() + 1]``, or in the rest.

    Raises:
        ValueError: columns of different lengths, or an empty cell; the message names the row.

    Example:
        >>> import pandas
        >>> table = pandas.DataFrame({"user": ["ann", "bob", "ann"], "item": ["tea", "pie", "pie"], "t": [1, 2, 3]})
        >>> src, dst, names = relabel(table["user"], table["item"], bipartite=True)
        >>> EventStream.from_pandas(table.assign(src=src, dst=dst))
        EventStream(events=3, nodes=4, msg_dim=0, t=1..3)
        >>> list(names), names.get_loc("pie")
        (['ann', 'bob', 'tea', 'pie'], 3)
        >>> relabel(torch.tensor([7, 90]), torch.tensor([90, 12]))
        (tensor([0, 2]), tensor([2, 1]), tensor([ 7, 12, 90]))
    """
    if len(src) != len(dst):
        raise ValueError(f"src and dst must have one length (got {len(src)} and {len(dst)})")
    if isinstance(src, Tensor):
        if bipartite:
            (sources, src), (destinations, dst) = (torch.unique(ids, return_inverse=True) for ids in (src, dst))
            return src, dst + sources.numel(), torch.cat([sources, destinations])
        names, inverse = torch.unique(torch.cat([src, dst]), return_inverse=True)
        return inverse[: src.numel()], inverse[src.numel() :], names
    import pandas

    ends = [pandas.Series(column).to_numpy() for column in (src, dst)]
    for name, cells in zip(("src", "dst"), ends, strict=True):
        check_filled(cells, name)
    if ends[0].dtype != ends[1].dtype:
        # What both would be turned into may not tell large numbers apart.
        ends = [cells.astype(object) for cells in ends]
    if bipartite:
        (src, sources), (dst, destinations) = (pandas.factorize(cells) for cells in ends)
        dst, names = dst + len(sources), np.concatenate([sources, destinations])
    else:
        ids, names = pandas.factorize(np.stack(ends, axis=1).reshape(-1))
        src, dst = ids.reshape(-1, 2).T
    return (
        np.ascontiguousarray(src, np.int64),
        np.ascontiguousarray(dst, np.int64),
        pandas.Index(names, tupleize_cols=False),
    )
