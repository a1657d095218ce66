"""Windows of a series: what a forecaster reads, and what follows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.utils.checks import check_int


class ForecastBatch(NamedTuple):
    """B windows.

    Attributes:
        x: ``[B, L, V]`` what is read.
        marks: ``[B, L, C]`` clock and calendar of what is read, or None.
        y: ``[B, T, V]`` what follows.
    """

    x: Tensor
    marks: Tensor | None
    y: Tensor


class ForecastWindows:
    """All windows of a series, each one row further than the one before.

    A window is never stored: consecutive ones are views of the series, others are copied batch by batch.

    Args:
        series: ``[rows, V]`` measurements at regular times.
        seq_len: rows L that a forecaster reads.
        pred_len: rows T that follow.
        marks: ``[rows, C]`` features of the times, see :func:`graphkit.transforms.time_features`.

    Raises:
        TypeError: measurements that are no floating-point numbers.
        ValueError: fewer rows than a window has, NaN or infinity, marks of another number of rows.

    Example:
        >>> windows = ForecastWindows(torch.arange(6.0)[:, None], seq_len=3, pred_len=2)
        >>> len(windows), windows.batch(torch.tensor([1])).y.flatten()
        (2, tensor([4., 5.]))
    """

    def __init__(self, series: Tensor, seq_len: int, pred_len: int, marks: Tensor | None = None) -> None:
        self.seq_len, self.pred_len = check_int(seq_len, "seq_len", 1), check_int(pred_len, "pred_len", 1)
        if not isinstance(series, Tensor) or not series.is_floating_point():
            raise TypeError(f"series must be a floating-point tensor (got {getattr(series, 'dtype', type(series))})")
        if series.dim() != 2:
            raise ValueError(f"series must have shape [rows, variables] (got {list(series.shape)})")
        rows, size = series.size(0), seq_len + pred_len
        if rows < size:
            raise ValueError(
                f"series must have at least seq_len + pred_len = {size} rows, those of a window (got {rows})"
            )
        if marks is not None and (marks.dim() != 2 or marks.size(0) != rows):
            raise ValueError(f"marks must have shape [{rows}, C], a row for each of series (got {list(marks.shape)})")
        broken = ~torch.isfinite(series).all(1)
        if bool(broken.any()):
            raise ValueError(f"series holds NaN or infinity in row {int(broken.nonzero()[0])}; fill it in first")
        self.series, self.marks = series, marks
        self._windows = series.unfold(0, size, 1).transpose(1, 2)
        self._marks = None if marks is None else marks.unfold(0, seq_len, 1).transpose(1, 2)

    def __len__(self) -> int:
        return self._windows.size(0)

    def batch(self, index: Tensor | slice) -> ForecastBatch:
        """The windows that begin at these rows: a view for a slice, a copy for row numbers ``[B]``.

        Raises:
            IndexError: a row where no window begins.
        """
        both = self._windows[index]
        marks = None if self._marks is None else self._marks[: len(self)][index]
        return ForecastBatch(both[:, : self.seq_len], marks, both[:, self.seq_len :])

    def to(self, device: torch.device | str) -> ForecastWindows:
        """The same on a device."""
        marks = None if self.marks is None else self.marks.to(device)
        return ForecastWindows(self.series.to(device), self.seq_len, self.pred_len, marks)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, seq_len={self.seq_len}, pred_len={self.pred_len})"
