"""The clock and the calendar, against Python's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.transforms import time_features


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=5, unique=True))
def test_are_those_of_pythons_calendar(seconds):
    seconds = sorted(seconds)
    want = []
    for moment in seconds:
        at = datetime.fromtimestamp(moment, UTC)
        year_day = at.timetuple().tm_yday - 1
        want.append([at.minute / 59, at.hour / 23, at.weekday() / 6, (at.day - 1) / 30, year_day / 365])
    found = time_features(torch.tensor(seconds), "minute")
    torch.testing.assert_close(found, torch.tensor(want) - 0.5)
    assert torch.equal(time_features(torch.tensor(seconds), "hour"), found[:, 1:])
    assert torch.equal(time_features(torch.tensor(seconds), "day"), found[:, 2:])


@pytest.mark.parametrize(("step", "width"), [(300, 5), (3600, 4), (86400, 3)])
def test_the_step_says_what_is_read(step, width):
    assert time_features(step * torch.arange(9)).shape == (9, width)


@pytest.mark.parametrize(
    ("t", "freq", "error", "message"),
    [
        (torch.tensor([5, 5]), None, ValueError, r"t must increase .got 5 after 5"),
        (torch.tensor([0.0, 1.0]), None, TypeError, "t must be int64"),
        (torch.zeros(0).long(), None, ValueError, "at least one moment"),
        (torch.tensor([0, 1]), "week", ValueError, "freq must be one of minute, hour, day"),
    ],
)
def test_wrong_input(t, freq, error, message):
    with pytest.raises(error, match=message):
        time_features(t, freq)
