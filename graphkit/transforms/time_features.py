"""The clock and the calendar as numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.utils.checks import check_choice

FREQUENCIES = ("minute", "hour", "day")


def time_features(t: Tensor, freq: str | None = None) -> Tensor:
    """Where moments are in the hour, the day, the week, the month and the year, each from -0.5 to 0.5, as forecasting
    models since `"Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting"
    <https://arxiv.org/abs/2012.07436>`_ read them. O(T).

    Args:
        t: ``[T]`` int64 seconds since 1970, increasing.
        freq: ``"minute"`` (5 features: minute, hour, weekday, day of the month, day of the year), ``"hour"`` (4,
            without the minute) or ``"day"`` (3, without the hour); by the median step of ``t`` if None.

    Returns:
        ``[T, C]`` float32.

    Raises:
        TypeError: moments that are no int64.
        ValueError: another shape or frequency, moments that do not increase.

    Example:
        >>> time_features(torch.tensor([0, 12 * 3600, 24 * 3600]), "hour")[:, 0]
        tensor([-0.5000,  0.0217, -0.5000])
    """
    if t.dtype != torch.int64:
        raise TypeError(f"t must be int64 seconds (got {t.dtype})")
    if t.dim() != 1 or not t.numel():
        raise ValueError(f"t must be a vector of at least one moment (got {list(t.shape)})")
    step = t.diff()
    if step.numel() and int(step.min()) <= 0:
        bad = int((step <= 0).nonzero()[0])
        raise ValueError(f"t must increase (got {int(t[bad + 1])} after {int(t[bad])})")
    if freq is None:
        apart = int(step.median()) if step.numel() else 3600
        freq = "minute" if apart < 3600 else "hour" if apart < 24 * 3600 else "day"
    check_choice(freq, "freq", FREQUENCIES)
    moment = t.cpu().numpy().astype("datetime64[s]")
    day, month, year = (moment.astype(f"datetime64[{unit}]") for unit in "DMY")
    columns = [
        (t.cpu().numpy() // 60 % 60) / 59,
        (t.cpu().numpy() // 3600 % 24) / 23,
        (day.astype(np.int64) + 3) % 7 / 6,  # 1 January 1970 was a Thursday; Monday is 0
        (day - month.astype("datetime64[D]")).astype(np.int64) / 30,
        (day - year.astype("datetime64[D]")).astype(np.int64) / 365,
    ]
    chosen = columns[FREQUENCIES.index(freq) :]
    return torch.from_numpy(np.stack(chosen, 1) - 0.5).float().to(t.device)
