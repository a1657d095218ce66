"""Columns of pandas frames as numbers, exactly or with an error that names the row; rows count from 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphkit.utils.checks import check_range

# Float64 holds every whole number up to here.
EXACT = 2**53
# Of columns of node ids that hold something else.
NAMES = "graphkit.datasets.relabel numbers names"
_PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DATES = {"datetime64", "datetime", "date"}


def numbers(column: Any, name: str, hint: str = "") -> np.ndarray:
    """The cells of a pandas column as int64 where all are whole numbers, else as float64.

    Raises:
        ValueError: a cell is empty or no number; the message names the row and ends in ``hint`` if it is no number.
    """
    import pandas

    if column.dtype.kind in "mM" or isinstance(column.dtype, pandas.PeriodDtype):
        raise ValueError(f"{name} must hold numbers (got dates of type {column.dtype})")
    values = column.to_numpy()
    if values.dtype == bool or np.issubdtype(values.dtype, np.signedinteger):
        return values.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating):
        found = values.astype(np.float64)
    else:
        parsed = pandas.to_numeric(column, errors="coerce")
        if np.issubdtype(parsed.to_numpy().dtype, np.signedinteger):
            return parsed.to_numpy().astype(np.int64)
        found = parsed.to_numpy(np.float64, na_value=np.nan)
    bad = np.isnan(found)
    if bad.any():
        check_filled(values, name)
        row = int(bad.argmax())
        raise ValueError(f"{name} of row {row} must be a number (got {values[row]!r}){hint and f'; {hint}'}")
    return found


def check_filled(values: np.ndarray, name: str) -> None:
    """Refuse an array of cells with an empty one: missing, or a text without a character."""
    import pandas

    empty = pandas.isna(values)
    if values.dtype.kind in "OUT":
        empty |= values == ""
    if empty.any():
        row = int(empty.argmax())
        # Where a file is cut short.
        last = ", the last one," if row == len(values) - 1 else ""
        raise ValueError(f"{name} of row {row}{last} is empty")


def whole_numbers(column: Any, name: str, hint: str = "") -> np.ndarray:
    """The cells of a pandas column as int64, exactly.

    Raises:
        ValueError: a cell is no whole number, or too large for its float64 to be exact; the message names the row.
    """
    return _whole(numbers(column, name, hint), name, "a fraction is none")


def _whole(values: np.ndarray, name: str, remedy: str) -> np.ndarray:
    if values.dtype == np.int64:
        return values
    large = ~(np.abs(values) <= EXACT)
    bad = large | (values != np.floor(values))
    if bad.any():
        row = int(bad.argmax())
        if large[row]:
            remedy = "beyond 2^53 a number is exact only without a decimal point"
        raise ValueError(f"{name} of row {row} must be a whole number (got {float(values[row])!r}); {remedy}")
    return values.astype(np.int64)


def times(column: Any, name: str, time_scale: float | None) -> np.ndarray:
    """The cells of a pandas column as int64 times, multiplied by ``time_scale`` and rounded if it is not None.

    Dates count as seconds since 1970 in UTC, which is also the zone of those that name none; durations as seconds.
    """
    import pandas

    if time_scale is not None:
        check_range(time_scale, "time_scale", 0, low_open=True)
    is_date = column.dtype.kind == "M" or (column.dtype == object and pandas.api.types.infer_dtype(column) in _DATES)
    if is_date or column.dtype.kind == "m":
        return _seconds(column, name, is_date, time_scale)
    values = numbers(column, name, "pandas.to_datetime parses dates, for EventStream.from_pandas")
    if time_scale is None:
        return _whole(values, name, "time_scale=1 rounds times, time_scale=1000 keeps three decimal places")
    if values.dtype == np.int64 and float(time_scale).is_integer():
        largest = max(int(values.max(initial=0)), -int(values.min(initial=0)))
        if largest * int(time_scale) >= 2**63:
            raise ValueError(f"time_scale={time_scale} takes {name} beyond int64 (its largest is {largest})")
        return values * int(time_scale)
    return _rounded(values * time_scale, name, time_scale)


def _rounded(scaled: np.ndarray, name: str, time_scale: float) -> np.ndarray:
    scaled = np.rint(scaled)
    if not bool((np.abs(scaled) <= EXACT).all()):
        raise ValueError(f"time_scale={time_scale} takes {name} beyond 2^53, where float64 is not exact")
    return scaled.astype(np.int64)


def _seconds(column: Any, name: str, is_date: bool, time_scale: float | None) -> np.ndarray:
    """Dates or durations as seconds; the unit in which pandas keeps them differs from version to version."""
    import pandas

    check_filled(column.to_numpy(), name)
    if is_date:
        values = pandas.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy()
    else:
        values = pandas.to_timedelta(column).to_numpy()
    parts = _PARTS[np.datetime_data(values.dtype)[0]]
    whole, rest = np.divmod(values.view(np.int64), parts)
    if time_scale is None:
        if rest.any():
            row = int((rest != 0).argmax())
            # What divides the second finely enough for all rows.
            scale = next(s for s in _PARTS.values() if not (rest % max(parts // s, 1)).any())
            raise ValueError(
                f"{name} of row {row} is {column.iloc[row]}, no whole second; time_scale={scale} keeps all"
            )
        return whole
    if not float(time_scale).is_integer():
        return _rounded((whole + rest / parts) * time_scale, name, time_scale)
    largest = int(np.abs(whole).max(initial=0)) + 1
    if largest * int(time_scale) >= 2**63:
        raise ValueError(f"time_scale={time_scale} takes {name} beyond int64 (its largest is {largest} seconds)")
    return whole * int(time_scale) + np.rint(rest / parts * time_scale).astype(np.int64)


def labels(column: Any, name: str) -> np.ndarray:
    """The cells of a pandas column as int64 if all are whole numbers, else as float32."""
    values = numbers(column, name)
    whole = values.dtype == np.int64 or bool((values == np.floor(values)).all())
    return values.astype(np.int64 if whole else np.float32)
