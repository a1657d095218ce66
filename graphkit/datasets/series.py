"""Series of measurements at regular times: reading, splitting by time, and hourly flights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.datasets.shipped import local_time, nycflights
from graphkit.utils.checks import check_int

_HOUR = 3600
_AIRPORTS = ("EWR", "JFK", "LGA")


@dataclass(frozen=True)
class SeriesSplit:
    """Which rows of a series, in order of time, are forecast for training, validation and test.

    What a model reads may reach back over a border, what it forecasts may not.

    Args:
        train_stop: training rows are those before.
        valid_stop: validation rows are the next ones before.
        stop: test rows are the next ones before; those after are not used.

    Raises:
        ValueError: borders that are not ascending.

    Example:
        >>> SeriesSplit(6, 8, 10).valid
        tensor([6, 7])
    """

    train_stop: int
    valid_stop: int
    stop: int

    def __post_init__(self) -> None:
        check_int(self.train_stop, "train_stop", 1)
        check_int(self.valid_stop, "valid_stop", self.train_stop + 1)
        check_int(self.stop, "stop", self.valid_stop + 1)

    @property
    def train(self) -> Tensor:
        """``[T_train]`` rows for training."""
        return torch.arange(self.train_stop)

    @property
    def valid(self) -> Tensor:
        """``[T_valid]`` rows for validation."""
        return torch.arange(self.train_stop, self.valid_stop)

    @property
    def test(self) -> Tensor:
        """``[T_test]`` rows for the test."""
        return torch.arange(self.valid_stop, self.stop)

    @classmethod
    def by_share(cls, data: Data) -> SeriesSplit:
        """The first 60 % of the rows, the next 20 %, the rest."""
        rows = _checked(data).size(0)
        return cls(int(0.6 * rows), rows - int(0.2 * rows), rows)

    @classmethod
    def by_months(cls, data: Data) -> SeriesSplit:
        """The first 12 months of 30 days, the next 4 and the next 4, as `"Informer: Beyond Efficient Transformer for
        Long Sequence Time-Series Forecasting" <https://arxiv.org/abs/2012.07436>`_ splits ETT.

        Raises:
            ValueError: a series of less than 20 months.
        """
        rows = _checked(data).size(0)
        month = round(30 * 24 * _HOUR / int(data.t.diff().median()))
        if rows < 20 * month:
            raise ValueError(f"data must have 20 months of {month} rows (got {rows} rows)")
        return cls(12 * month, 16 * month, 20 * month)


def _checked(data: Data) -> Tensor:
    series = getattr(data, "series", None)
    if not isinstance(series, Tensor) or series.dim() != 2:
        raise ValueError("data must have series [T, V], a row a moment and a column a variable")
    return series


def read_series(path: str | Path) -> Data:
    """A table of measurements: the first column is the time, each other one a variable.

    Args:
        path: a file of comma-separated values with a line of names.

    Returns:
        :class:`~torch_geometric.data.Data` with ``series`` ``[T, V]`` float32, ``t`` ``[T]`` int64 (seconds since
        1970), ``names`` and V nodes: a variable is a node.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a value that is no number, times that do not increase; the message names the row.
    """
    import pandas

    try:
        table = pandas.read_csv(path)
        moments = pandas.to_datetime(table.iloc[:, 0]).to_numpy().astype("datetime64[s]").astype(np.int64)
        values = table.iloc[:, 1:].to_numpy(np.float32)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is no table of times and numbers ({error})") from error
    return series_data(values, moments, [str(name) for name in table.columns[1:]], str(path))


def series_data(values: np.ndarray, moments: np.ndarray, names: list[str], what: str = "series") -> Data:
    """What :func:`read_series` returns, of ``[T, V]`` values, ``[T]`` seconds and V names."""
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{what} must hold at least one row and one variable (got shape {list(values.shape)})")
    if not np.isfinite(values).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{what} holds {values[row, column]} in row {row}, {names[column]}; fill it in first")
    back = np.flatnonzero(np.diff(moments) <= 0)
    if back.size:
        raise ValueError(f"times of {what} must increase (got row {int(back[0]) + 1} not after the row before)")
    series, t = torch.from_numpy(np.ascontiguousarray(values, np.float32)), torch.from_numpy(moments)
    return Data(series=series, t=t, names=names, num_nodes=values.shape[1])


def hourly_flights() -> Data:
    """Departures from New York in 2013, counted: for each hour of local time and each of its three airports, how many
    flights were scheduled, and how many of these were cancelled or left 15 or more minutes late.

    Made of :func:`graphkit.datasets.shipped.nycflights`; the rhythm of days and weeks is that of timetables, lateness
    comes from weather and from earlier lateness.

    Shapes:
        - ``series`` ``[8760, 6]`` float32: scheduled at EWR, JFK and LGA, then late at the same
        - ``t`` ``[8760]`` int64: beginning of the hour by the clock on the wall, as if it were UTC
    """
    flights = nycflights()
    hour = torch.from_numpy(local_time(flights.t.numpy()) // _HOUR)
    first = int(np.datetime64("2013-01-01T00", "h").astype(np.int64))
    rows = 365 * 24
    airport = flights.msg[:, :3].argmax(1)
    # A flight of the last evening may belong to the next year by the clock.
    place = ((hour - first).clamp(0, rows - 1)) * 3 + airport
    scheduled = torch.bincount(place, minlength=3 * rows).view(rows, 3)
    late = torch.bincount(place, flights.y.double(), minlength=3 * rows).view(rows, 3)
    names = [*_AIRPORTS, *(f"{name} late" for name in _AIRPORTS)]
    values = torch.cat([scheduled.double(), late], 1).float().numpy()
    return series_data(values, (first + np.arange(rows)) * _HOUR, names)
