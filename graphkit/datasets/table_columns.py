"""Columns of pandas frames as numbers, exactly or with an error that names the row."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphkit.utils.checks import check_range

# Float64 holds every whole number up to here.
EXACT = 2**53


def numbers(column: Any, name: str) -> np.ndarray:
    """The cells of a pandas column as int64 where all are whole numbers, else as float64.

    Raises:
        ValueError: a cell is empty or no number; the message names the row.
    """
    import pandas

    values = column.to_numpy()
    if values.dtype == bool or np.issubdtype(values.dtype, np.signedinteger):
        return values.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating):
        found = values.astype(np.float64)
    else:
        found = pandas.to_numeric(column, errors="coerce").to_numpy()
        if np.issubdtype(found.dtype, np.signedinteger):
            return found.astype(np.int64)
        found = found.astype(np.float64)
    missing = np.isnan(found)
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(f"{name} of event {row} must be a number (got {values[row]!r}); is the file cut short?")
    return found


def whole_numbers(column: Any, name: str) -> np.ndarray:
    """The cells of a pandas column as int64, exactly.

    Raises:
        ValueError: a cell is no whole number, or too large for its float64 to be exact; the message names the row.
    """
    values = numbers(column, name)
    if values.dtype == np.int64:
        return values
    large = ~(np.abs(values) <= EXACT)
    bad = large | (values != np.floor(values))
    if bad.any():
        row = int(bad.argmax())
        remedy = "beyond 2^53 a number is exact only without a decimal point" if large[row] else "a fraction is none"
        raise ValueError(f"{name} of event {row} must be a whole number (got {float(values[row])!r}); {remedy}")
    return values.astype(np.int64)


def times(column: Any, name: str, time_scale: float | None) -> np.ndarray:
    """The cells of a pandas column as int64 times, multiplied by ``time_scale`` and rounded if it is not None."""
    if time_scale is None:
        try:
            return whole_numbers(column, name)
        except ValueError as error:
            raise ValueError(
                f"{error}; time_scale=1 rounds times, time_scale=1000 keeps three decimal places"
            ) from error
    check_range(time_scale, "time_scale", 0, low_open=True)
    values = numbers(column, name)
    if values.dtype == np.int64 and float(time_scale).is_integer():
        largest = max(int(values.max(initial=0)), -int(values.min(initial=0)))
        if largest * int(time_scale) >= 2**63:
            raise ValueError(f"time_scale={time_scale} takes {name} beyond int64 (its largest is {largest})")
        return values * int(time_scale)
    scaled = np.rint(values * time_scale)
    if not bool((np.abs(scaled) <= EXACT).all()):
        raise ValueError(f"time_scale={time_scale} takes {name} beyond 2^53, where float64 is not exact")
    return scaled.astype(np.int64)


def labels(column: Any, name: str) -> np.ndarray:
    """The cells of a pandas column as int64 if all are whole numbers, else as float32."""
    values = numbers(column, name)
    whole = values.dtype == np.int64 or bool((values == np.floor(values)).all())
    return values.astype(np.int64 if whole else np.float32)
