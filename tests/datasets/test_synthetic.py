"""Generated graphs are what they say."""

from __future__ import annotations

import pytest
import torch

from graphkit.datasets.synthetic import random_geometric_graph


@pytest.mark.parametrize("radius", [0.05, 0.3, 2.0])
def test_random_geometric_graph(radius: float) -> None:
    data = random_geometric_graph(60, radius, seed=3)
    near = torch.cdist(data.pos.double(), data.pos.double()) <= radius
    near.fill_diagonal_(False)
    got = torch.zeros_like(near)
    got[data.edge_index[0], data.edge_index[1]] = True
    assert torch.equal(got, near)
    assert data.num_edges == int(near.sum())
    assert torch.equal(data.x, torch.ones(60, 1))
    again, other = random_geometric_graph(60, radius, seed=3), random_geometric_graph(60, radius, seed=4)
    assert torch.equal(again.pos, data.pos)
    assert torch.equal(again.edge_index, data.edge_index)
    assert not torch.equal(other.pos, data.pos)
    assert 0 <= float(data.pos.min()) < float(data.pos.max()) <= 1


def test_random_geometric_graph_without_edges() -> None:
    assert random_geometric_graph(1, 0.1).edge_index.shape == (2, 0)
    with pytest.raises(ValueError, match="num_nodes"):
        random_geometric_graph(0, 0.1)
    with pytest.raises(ValueError, match="radius"):
        random_geometric_graph(5, 0.0)
