"""Node compactness: the bounds it is made of, and that it tells trained nodes from others."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphkit.analysis import node_compactness
from graphkit.nn import GCNBoundPropagation, GCNEncoder, adjacency_bounds, contrast_vectors
from graphkit.ops import NeighborIndex
from graphkit.transforms import BudgetedEdgeDrop

RING = torch.arange(10)
EDGES = torch.cat([torch.stack([RING, RING.roll(shift)]) for shift in (1, -1, 2, -2)], 1)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    encoder, x = GCNEncoder(6, out_channels=4, activation="prelu"), torch.randn(10, 6)
    return encoder, x, adjacency_bounds(EDGES, 10, drop_rate=0.4)


def test_it_is_the_bound_of_the_contrast_with_the_reference(parts) -> None:
    encoder, x, bounds = parts
    z = encoder(x, EDGES)
    found = node_compactness(encoder, x, EDGES, z, bounds)
    expected = GCNBoundPropagation(encoder).score(x, EDGES, contrast_vectors(z), bounds)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    index = NeighborIndex(EDGES.flip(0), 10)
    torch.testing.assert_close(node_compactness(encoder, x, index, z, bounds), found)


def test_certified_is_below_what_views_within_the_budget_have(parts) -> None:
    encoder, x, bounds = parts
    z = encoder(x, EDGES).detach()
    certified = node_compactness(encoder, x, EDGES, z, bounds, certified=True)
    drop = BudgetedEdgeDrop(0.6, bounds.budget, generator=torch.Generator().manual_seed(0))
    w = contrast_vectors(z)
    for _ in range(50):
        view = drop(Data(edge_index=EDGES, num_nodes=10)).edge_index
        score = node_compactness(encoder, x, view, z, bounds)
        true = (w * encoder(x, view)).sum(1)
        assert bool((certified <= score + 1e-5).all())
        assert bool((score <= true + 1e-5).all())


def test_nodes_that_are_all_alike_have_none(parts) -> None:
    encoder, _, bounds = parts
    x = torch.ones(10, 6)
    z = encoder(x, EDGES)
    assert float(node_compactness(encoder, x, EDGES, z, bounds).abs().max()) < 1e-5


def test_wrong_input(parts) -> None:
    encoder, x, bounds = parts
    z = encoder(x, EDGES)
    with pytest.raises(TypeError, match="GCNEncoder"):
        node_compactness(GCN(6, 4, 2), x, EDGES, z, bounds)
    with pytest.raises(ValueError, match="bounds were not computed for"):
        node_compactness(encoder, x, torch.tensor([[0], [5]]), z, bounds)
    single = adjacency_bounds(torch.empty(2, 0, dtype=torch.long), 1, drop_rate=0.1)
    with pytest.raises(ValueError, match="at least two nodes"):
        node_compactness(encoder, x[:1], torch.empty(2, 0, dtype=torch.long), z[:1], single)
