"""Event streams from the text files in which temporal graphs are published."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.datasets.events import EventStream, relabel
from graphkit.datasets.table_columns import NAMES, labels, numbers, times, whole_numbers
from graphkit.utils.checks import check_choice

_ML = ("u", "i", "ts", "label", "idx")


def read_events(
    path: str | os.PathLike, format: str = "auto", *, time_scale: float | None = None, sort: bool = False
) -> EventStream:
    """Read a text file of events, plain or ``.gz``.

    ========== =============================================================== ======================================
    format     columns                                                         nodes
    ========== =============================================================== ======================================
    ``jodie``  user, item, time, label and message, with a header              items are numbered after the users
    ``ml``     row, u, i, ts, label, idx, with a header (TGN, NAT, DyGLib)     ids begin at 1 there, at 0 here
    ``tgb``    time, source, destination and message, with a header            any text, numbered as first met
    ``snap``   source, destination, time, parted by blanks                     numbered in the order of their ids
    ``signed`` source, destination, rating, time; the rating is the message    numbered in the order of their ids
    ========== =============================================================== ======================================

    The messages of ``ml_name.csv`` are the rows ``idx`` of ``ml_name.npy`` beside it (row 0 belongs to no event), if
    that file is there. A file of the JODIE form without features has no messages.

    Names are not kept. To have them, read the table with pandas, its nodes as text, and number them by
    :func:`~graphkit.datasets.relabel`, which gives the ids of the form ``tgb``, and the names by id.

    The whole table is in memory while it is read: save a large stream once, and open it from then on.

    Args:
        path: the file.
        format: one of the above; ``"auto"`` tells them apart by name and first line.
        time_scale: times are multiplied by it and rounded to whole numbers. None: they must be whole already.
        sort: sort the events by time, those of one moment in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the form is not known, or a cell is empty or no number; the message names file and row, the first
            after the header being 0.

    Example:
        >>> stream = read_events("ml_uci.csv")  # doctest: +SKIP
    """
    path = Path(path)
    check_choice(format, "format", ("auto", *_FORMATS))
    first = _first_line(path)
    name = _recognise(path, first) if format == "auto" else format
    try:
        return _FORMATS[name](path, first, time_scale, sort)
    except (ValueError, IndexError) as error:
        # Also what pandas and NumPy say of a file that they cannot read.
        kind = IndexError if isinstance(error, IndexError) else ValueError
        raise kind(f"{path}: {error}") from error
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error})") from error


def _first_line(path: Path) -> str:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline(1 << 20)
        return line.decode("utf-8").strip()
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no text ({error})") from error


def _recognise(path: Path, first: str) -> str:
    fields = [field.strip() for field in first.split(",")]
    if path.name.startswith("ml_") and set(_ML) <= set(fields):
        return "ml"
    if fields[:3] == ["user_id", "item_id", "timestamp"]:
        return "jodie"
    if len(fields) >= 3 and fields[0].lower() in ("ts", "t", "time", "timestamp", "day"):
        return "tgb"
    if len(fields) == 4 and all(map(_is_number, fields)):
        return "signed"
    words = first.split()
    if first.startswith("#") or (len(words) == 3 and all(map(_is_number, words))):
        return "snap"
    raise ValueError(
        f"{path} has none of the known forms: its first line is {first[:60]!r}; "
        f"name its format ({', '.join(_FORMATS)}), or read it with pandas: graphkit.datasets.relabel numbers names, "
        "EventStream.from_pandas takes the table"
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _table(path: Path, **options: Any) -> Any:
    import pandas

    if int(pandas.__version__.split(".")[0]) < 3:
        # What later versions always do; the faster way may round a whole number.
        options["float_precision"] = "round_trip"
    return pandas.read_csv(path, **{"sep": ",", "header": None, "low_memory": False, **options})


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _message(table: Any, first: int) -> Tensor | None:
    """All columns from ``first`` on."""
    if table.shape[1] <= first:
        return None
    message = np.empty((len(table), table.shape[1] - first), dtype=np.float32)
    for place in range(first, table.shape[1]):
        message[:, place - first] = numbers(table[place], f"column {place}")
    return torch.from_numpy(message)


def _needs(table: Any, columns: int) -> None:
    if table.shape[1] < columns:
        raise ValueError(f"the file must have {columns} columns or more (got {table.shape[1]})")


def _jodie(path: Path, first: str, time_scale: float | None, sort: bool) -> EventStream:
    table = _table(path, skiprows=1)
    _needs(table, 3)
    user, item = whole_numbers(table[0], "user", NAMES), whole_numbers(table[1], "item", NAMES)
    # Before they are moved behind the users: a negative item would become a user.
    if item.min() < 0:
        row = int((item < 0).argmax())
        raise ValueError(f"item of row {row} must not be negative (got {item[row]})")
    num_users = int(user.max()) + 1
    y = labels(table[3], "label") if table.shape[1] > 3 else None
    return EventStream(
        _tensor(user),
        _tensor(item + num_users),
        _tensor(times(table[2], "time", time_scale)),
        _message(table, 4),
        None if y is None else _tensor(y),
        num_users + int(item.max()) + 1,
        sort=sort,
    )


def _ml(path: Path, first: str, time_scale: float | None, sort: bool) -> EventStream:
    names = [name.strip() for name in first.split(",")]
    missing = [name for name in _ML if name not in names]
    if missing:
        raise ValueError(f"the header must name {', '.join(_ML)} (got {first[:60]!r})")
    table = _table(path, skiprows=1)
    _needs(table, len(names))
    column = {name: table[names.index(name)] for name in _ML}
    ends = [whole_numbers(column[name], name, NAMES) for name in ("u", "i")]
    for name, ids in zip(("u", "i"), ends, strict=True):
        if ids.min() < 1:
            row = int((ids < 1).argmax())
            raise ValueError(f"{name} of row {row} must be 1 or more, as ids begin at 1 here (got {ids[row]})")
    message = None
    features = path.with_name(path.name.removesuffix(".gz")).with_suffix(".npy")
    if features.is_file():
        rows = whole_numbers(column["idx"], "idx")
        matrix = np.load(features, mmap_mode="r", allow_pickle=False)
        if matrix.ndim != 2 or rows.min() < 0 or rows.max() >= len(matrix):
            raise ValueError(
                f"{features.name} must be a matrix with a row for each idx from {rows.min()} to {rows.max()} "
                f"(got shape {list(matrix.shape)})"
            )
        message = torch.from_numpy(matrix[rows].astype(np.float32))
    return EventStream(
        _tensor(ends[0] - 1),
        _tensor(ends[1] - 1),
        _tensor(times(column["ts"], "ts", time_scale)),
        message,
        _tensor(labels(column["label"], "label")),
        sort=sort,
    )


def _tgb(path: Path, first: str, time_scale: float | None, sort: bool) -> EventStream:
    # As text: "007" and "7" are two nodes.
    table = _table(path, skiprows=1, dtype={1: str, 2: str}, keep_default_na=False, na_values={0: "", 3: ""})
    _needs(table, 3)
    src, dst, _ = relabel(table[1], table[2])
    t = _tensor(times(table[0], "time", time_scale))
    return EventStream(_tensor(src), _tensor(dst), t, _message(table, 3), sort=sort)


def _snap(path: Path, first: str, time_scale: float | None, sort: bool) -> EventStream:
    table = _table(path, sep=r"\s+", comment="#")
    _needs(table, 3)
    src, dst = (_tensor(whole_numbers(table[place], name, NAMES)) for place, name in enumerate(("src", "dst")))
    src, dst, _ = relabel(src, dst)
    return EventStream(src, dst, _tensor(times(table[2], "time", time_scale)), _message(table, 3), sort=sort)


def _signed(path: Path, first: str, time_scale: float | None, sort: bool) -> EventStream:
    table = _table(path)
    _needs(table, 4)
    src, dst = (_tensor(whole_numbers(table[place], name, NAMES)) for place, name in enumerate(("src", "dst")))
    src, dst, _ = relabel(src, dst)
    rating = torch.from_numpy(numbers(table[2], "rating").astype(np.float32))[:, None]
    return EventStream(src, dst, _tensor(times(table[3], "time", time_scale)), rating, sort=sort)


_FORMATS: dict[str, Callable[[Path, str, float | None, bool], EventStream]] = {
    "jodie": _jodie,
    "ml": _ml,
    "tgb": _tgb,
    "snap": _snap,
    "signed": _signed,
}
