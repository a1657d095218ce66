"""Windows of a series: against slices, without copies."""

from __future__ import annotations

import pytest
import torch

from graphkit.loader import ForecastWindows


def test_windows_are_slices_of_the_series():
    series, marks = torch.rand(20, 3), torch.rand(20, 2)
    windows = ForecastWindows(series, 5, 4, marks)
    assert len(windows) == 12
    chosen = torch.tensor([11, 0, 7, 7])
    batch = windows.batch(chosen)
    for i, row in enumerate(chosen.tolist()):
        assert torch.equal(batch.x[i], series[row : row + 5])
        assert torch.equal(batch.marks[i], marks[row : row + 5])
        assert torch.equal(batch.y[i], series[row + 5 : row + 9])
    for one, other in zip(windows.batch(slice(3, 9)), windows.batch(torch.arange(3, 9)), strict=True):
        assert torch.equal(one, other)
    assert ForecastWindows(series, 5, 4).batch(slice(0, 2)).marks is None


def test_consecutive_windows_are_views():
    series = torch.rand(1000, 3)
    windows = ForecastWindows(series, 50, 20, series)
    for part in windows.batch(slice(100, 600)):
        assert part.untyped_storage().data_ptr() == series.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ForecastWindows(torch.rand(8, 1), 5, 4), ValueError, r"= 9 rows, those of a window .got 8"),
        (lambda: ForecastWindows(torch.rand(9), 5, 4), ValueError, r"shape \[rows, variables\] .got \[9\]"),
        (lambda: ForecastWindows(torch.ones(9, 1).long(), 5, 4), TypeError, "floating-point"),
        (lambda: ForecastWindows(torch.rand(9, 1), 5, 4, torch.rand(8, 1)), ValueError, r"shape \[9, C\]"),
        (lambda: ForecastWindows(torch.tensor([[0.0], [torch.nan]]), 1, 1), ValueError, "NaN or infinity in row 1"),
        (lambda: ForecastWindows(torch.rand(9, 1), 0, 4), ValueError, "seq_len must be in"),
        (lambda: ForecastWindows(torch.rand(9, 1), 5, 4).batch(torch.tensor([1])), IndexError, "out of"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
