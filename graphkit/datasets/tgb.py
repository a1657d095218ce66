"""Link streams of the Temporal Graph Benchmark, read from its raw files: offline, from a read-only folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphkit.datasets.cache import cached
from graphkit.datasets.event_readers import read_events
from graphkit.datasets.events import CHUNK, EventStream, relabel
from graphkit.datasets.table_columns import times
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.utils.checks import check_choice
from graphkit.utils.io import data_root

_URL = "https://object-arbutus.alliancecan.ca/swift/v1/14c95234f6cd4a21a47deafe20cce2a7/tgb"


def load_tgb(name: str, root: str | os.PathLike | None = None) -> EventStream:
    """The events of a link dataset of the `"Temporal Graph Benchmark for Machine Learning on Temporal Graphs"
    <https://arxiv.org/abs/2307.01026>`_, with the node ids, times and messages of the ``py-tgb`` package.

    Files lie in ``root/tgb/tgbl_wiki`` (and so on), as TGB's archive has them. The split is
    :meth:`~graphkit.datasets.EventSplit.make`'s, the negatives are :func:`load_tgb_negatives`'s.

    ============= ================================================================================
    dataset       messages
    ============= ================================================================================
    tgbl-wiki     172 features of the edit
    tgbl-review   log2 of the rating
    tgbl-coin     log2 of the amount
    tgbl-comment  number of words / 5,000 (once, where ``py-tgb`` has it twice), and score
    tgbl-flight   characters of call sign and aircraft type, as numbers
    ============= ================================================================================

    Args:
        name: one of the table above.
        root: folder of the datasets; ``$GRAPHKIT_ROOT`` if None.

    Raises:
        ValueError: no such dataset, or a damaged file.
        FileNotFoundError: the file is not there; the message says where it comes from.

    Example:
        >>> stream = load_tgb("tgbl-wiki")  # doctest: +SKIP
    """
    check_choice(name, "name", tuple(TGB))
    path = _wanted(name, TGB[name].events, root)

    def build() -> dict[str, Any]:
        stream = TGB[name].read(path)
        return {column: getattr(stream, column) for column in ("src", "dst", "t", "msg", "num_nodes")}

    return EventStream(**cached(f"tgb/{path.parent.name}", lambda: [path], build))


def load_tgb_negatives(name: str, root: str | os.PathLike | None = None) -> StoredNegatives:
    """The published negatives of a dataset of :func:`load_tgb`, for its validation and test events.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_tgb`.
    """
    check_choice(name, "name", tuple(TGB))
    version = TGB[name].version
    return StoredNegatives.load_tgb(
        *(_wanted(name, f"{name}_{part}_ns{version}.pkl", root) for part in ("val", "test"))
    )


def _wanted(name: str, file: str, root: str | os.PathLike | None) -> Path:
    path = data_root(root) / "tgb" / name.replace("-", "_") / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} needs {path}, which is not there; unpack {TGB[name].url} into {path.parent} "
            "(GraphKit does not download it)"
        )
    return path


# Files ----------------------------------------------------------------------------------------------------------------


def _wiki(path: Path) -> EventStream:
    stream = read_events(path, "jodie")
    return EventStream(stream.src, stream.dst, stream.t, stream.msg, num_nodes=stream.num_nodes)


def _weighted(path: Path) -> EventStream:
    stream = read_events(path, "tgb")
    weight = _messages(path, stream, 1)
    return _with(stream, torch.where(weight == 0, 1, weight).double().log2())


def _comment(path: Path) -> EventStream:
    stream = read_events(path, "tgb")
    return _with(stream, _messages(path, stream, 2) / torch.tensor([5000.0, 1.0]))


def _flight(path: Path) -> EventStream:
    import pandas

    table = pandas.read_csv(
        path, header=None, skiprows=1, dtype={1: str, 2: str, 3: str, 4: str}, keep_default_na=False
    )
    if table.shape[1] != 5:
        raise ValueError(f"{path} must have 5 columns (got {table.shape[1]})")
    sign, kind = table[3].str.slice(0, 8), table[4].where(table[4].str.len() <= 8, "")
    text = sign.str.ljust(8, "!") + kind.str.ljust(8, "!")
    message = torch.empty(len(table), 16)
    for start in range(0, len(table), CHUNK):
        part = np.char.upper(text[start : start + CHUNK].to_numpy().astype("U16")).view(np.uint32).reshape(-1, 16)
        code = part.astype(np.int64)
        digit, blank = (code >= ord("0")) & (code <= ord("9")), code == ord("!")
        # Letters begin above the digits, at 30.
        message[start : start + CHUNK] = torch.from_numpy(
            np.where(digit, code - ord("0"), np.where(blank, -1, code - ord("A") + 30))
        )
    try:
        src, dst = map(torch.from_numpy, relabel(table[1], table[2])[:2])
        t = torch.from_numpy(times(table[0], "time", None))
        return EventStream(src, dst, t, message)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from error


def _messages(path: Path, stream: EventStream, width: int) -> Tensor:
    if stream.msg is None or stream.msg_dim != width:
        raise ValueError(f"{path} must have {3 + width} columns (got {3 + stream.msg_dim})")
    return stream.msg


def _with(stream: EventStream, msg: Tensor) -> EventStream:
    return EventStream(stream.src, stream.dst, stream.t, msg, num_nodes=stream.num_nodes)


class _Files(NamedTuple):
    """What TGB publishes of a dataset."""

    events: str
    version: str
    archive: str
    read: Callable[[Path], EventStream]

    @property
    def url(self) -> str:
        return f"{_URL}/{self.archive}"


#: By name: files, address and reader.
TGB = {
    "tgbl-wiki": _Files("tgbl-wiki_edgelist_v2.csv", "_v2", "tgbl-wiki-v2.zip", _wiki),
    "tgbl-review": _Files("tgbl-review_edgelist_v2.csv", "_v2", "tgbl-review-v2.zip", _weighted),
    "tgbl-coin": _Files("tgbl-coin_edgelist_v2.csv", "_v2", "tgbl-coin-v2.zip", _weighted),
    "tgbl-comment": _Files("tgbl-comment_edgelist.csv", "", "tgbl-comment.zip", _comment),
    "tgbl-flight": _Files("tgbl-flight_edgelist_v2.csv", "_v2", "tgbl-flight-v2.zip", _flight),
}
