"""The buffer of latest neighbours: windows, samples, hops."""

from __future__ import annotations

import pytest
import torch

from graphkit.nn.temporal.neighbor_buffer import NeighborBuffer


def filled() -> NeighborBuffer:
    """Node 0 met 1, 2, 3, 4 at times 10, 20, 30, 40; it keeps three."""
    buffer = NeighborBuffer(6, size=3)
    buffer.insert(torch.zeros(4, dtype=torch.int64), torch.arange(1, 5), torch.arange(10, 50, 10), torch.arange(4))
    return buffer


def test_recent_within_a_window() -> None:
    node = torch.tensor([0, 0, 0, 2])
    found = filled().recent(node, size=2, since=torch.tensor([0, 40, 41, 20]))
    assert found.mask.tolist() == [[True, True], [True, False], [False, False], [True, False]]
    assert found.n_id[0].tolist() == [4, 3]
    assert found.e_id[0].tolist() == [3, 2]
    assert found.t[3, 0] == 20


def test_neighbors_of_neighbors() -> None:
    buffer = filled()
    first = buffer.recent(torch.tensor([3]))
    second = buffer.recent(first.n_id.view(-1))
    assert first.n_id[first.mask].tolist() == [0]
    assert second.n_id[0].tolist() == [4, 3, 2]


def test_samples_are_uniform_over_what_is_kept() -> None:
    buffer, generator = filled(), torch.Generator().manual_seed(0)
    found = buffer.sample(torch.tensor([0, 5, 1]), 3000, generator)
    assert found.mask.all(1).tolist() == [True, False, True]
    assert not found.mask[1].any()
    share = torch.bincount(found.n_id[0], minlength=6) / 3000
    assert share[[0, 1, 5]].tolist() == [0, 0, 0]
    assert (share[2:5] - 1 / 3).abs().max() < 5 * (2 / 9 / 3000) ** 0.5
    assert set(found.n_id[2].tolist()) == {0}
    assert torch.equal(found.t[0], found.n_id[0] * 10)


def test_reset_and_snapshot() -> None:
    buffer = filled()
    kept = buffer.snapshot()
    buffer.reset_state()
    assert not buffer.recent(torch.arange(6)).mask.any()
    buffer.load_snapshot(kept)
    assert buffer.recent(torch.tensor([0])).n_id.tolist() == [[4, 3, 2]]


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="size must be in"):
        NeighborBuffer(3, size=0)
    with pytest.raises(ValueError, match=r"size must be in \[1, 3\] \(got 4\)"):
        filled().recent(torch.tensor([0]), size=4)
