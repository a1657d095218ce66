"""Series: reading tables, splitting by time, the flights of an hour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from graphkit.datasets import SeriesSplit, load, read_series, series_data
from graphkit.datasets.shipped import local_time, nycflights


def table(tmp_path, text: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_a_table_is_read(tmp_path):
    data = read_series(table(tmp_path, "date,a,b\n1970-01-02 00:00:00,1.5,2\n1970-01-02 01:00:00,3,-4\n"))
    assert data.series.tolist() == [[1.5, 2], [3, -4]]
    assert data.t.tolist() == [24 * 3600, 25 * 3600]
    assert data.names == ["a", "b"]
    assert data.num_nodes == 2
    assert data.series.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,a\n1970-01-02,1\n1970-01-03,\n", r"holds nan in row 1, a; fill it in"),
        ("date,a\n1970-01-02,1\n1970-01-02,2\n", r"must increase .got row 1 not after"),
        ("date,a\n1970-01-02,x\n", "is no table of times and numbers"),
        ("date,a\nyesterday morning,1\n", "is no table of times and numbers"),
        ("date\n1970-01-02\n", "at least one row and one variable"),
        ("", "is no table of times and numbers"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_series(table(tmp_path, text))


def test_splits_by_time():
    hours = np.arange(24 * 30 * 21, dtype=np.int64) * 3600
    data = series_data(np.zeros((hours.size, 1), np.float32), hours, ["a"])
    months = SeriesSplit.by_months(data)
    assert (months.train_stop, months.valid_stop, months.stop) == (8640, 11520, 14400)
    share = SeriesSplit.by_share(Data(series=torch.zeros(103, 2)))
    assert (share.train_stop, share.valid_stop, share.stop) == (61, 83, 103)
    assert torch.equal(torch.cat([share.train, share.valid, share.test]), torch.arange(103))
    with pytest.raises(ValueError, match="20 months of 720 rows"):
        SeriesSplit.by_months(Data(series=data.series[:9000], t=data.t[:9000]))
    with pytest.raises(ValueError, match="valid_stop must be in"):
        SeriesSplit(5, 5, 9)
    with pytest.raises(ValueError, match="data must have series"):
        SeriesSplit.by_share(Data())


def test_flights_of_an_hour():
    data = load("nycflights-hourly").data
    flights = nycflights()
    assert data.series.shape == (8760, 6)
    assert data.t[0] == np.datetime64("2013-01-01T00:00:00").astype("datetime64[s]").astype(int)
    assert data.series[:, :3].sum() == flights.num_events
    assert data.series[:, 3:].sum() == flights.y.sum()
    assert bool((data.series[:, 3:] <= data.series[:, :3]).all())
    # One hour counted by hand: from JFK at eight by the clock on 4 July.
    clock = torch.from_numpy(local_time(flights.t.numpy()))
    begin = int(np.datetime64("2013-07-04T08:00:00").astype("datetime64[s]").astype(int))
    chosen = (clock >= begin) & (clock < begin + 3600) & (flights.msg[:, 1] == 1)
    row = int((data.t == begin).nonzero())
    assert data.series[row, [1, 4]].tolist() == [int(chosen.sum()), int(flights.y[chosen].sum())]
    assert data.names[1] == "JFK"
    # Nobody leaves at three in the morning.
    assert data.series[data.t % (24 * 3600) == 3 * 3600].sum() == 0


def test_the_transformer_temperatures(needs):
    dataset = load("ETTh1", needs("ett/ETTh1.csv"))
    assert dataset.data.names[-1] == "OT"
    assert dataset.data.series.shape == (17420, 7)
    assert bool((dataset.data.t.diff() == 3600).all())
    months = dataset.split(0)
    assert (months.train_stop, months.valid_stop, months.stop) == (8640, 11520, 14400)
    share = dataset.split(0, "series-60-20-20")
    assert (share.train_stop, share.valid_stop, share.stop) == (10452, 13936, 17420)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ETTh1 is not on disk: put it at .*ett/ETTh1.csv"):
        load("ETTh1", tmp_path)
