"""Orders of nodes against networkx and closed forms."""

from __future__ import annotations

from itertools import pairwise

import networkx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from graphkit.transforms import SortTokens

KEYS = ("degree", "zagreb", "core", "pagerank", "eigenvector", "bfs", "rcm", "fiedler", "random")


def karate() -> Data:
    return Data(edge_index=from_networkx(networkx.karate_club_graph()).edge_index, num_nodes=34)


def sequence(data: Data, key: str) -> list[int]:
    return torch.argsort(SortTokens(key)(data).order).tolist()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("num_nodes", [1, 5, 34, 100])
def test_an_order_is_a_permutation(key, num_nodes):
    graph = networkx.gnp_random_graph(num_nodes, 0.08, seed=1)
    data = Data(edge_index=from_networkx(graph).edge_index, num_nodes=num_nodes)
    assert sorted(sequence(data, key)) == list(range(num_nodes))
    assert sequence(data, key) == sequence(data.clone(), key)


@pytest.mark.parametrize(
    ("key", "measure"),
    [
        ("degree", lambda g: dict(g.degree())),
        ("zagreb", lambda g: {v: sum(g.degree(v) * g.degree(u) for u in g[v]) for v in g}),
        ("core", networkx.core_number),
        ("pagerank", lambda g: networkx.pagerank(g, weight=None, tol=1e-12)),
        ("eigenvector", lambda g: networkx.eigenvector_centrality_numpy(g, weight=None)),
    ],
)
def test_central_nodes_come_last(key, measure):
    value = measure(networkx.karate_club_graph())
    found = [value[i] for i in sequence(karate(), key)]
    assert all(a <= b + 1e-9 for a, b in pairwise(found))


def test_bfs_goes_by_distance_from_the_hub():
    away = networkx.single_source_shortest_path_length(networkx.karate_club_graph(), 33)
    found = [away[i] for i in sequence(karate(), "bfs")]
    assert found == sorted(found)


def test_fiedler_and_cuthill_mckee_unroll_a_path():
    generator = torch.Generator().manual_seed(0)
    name = torch.randperm(80, generator=generator)
    step = torch.stack([name[:-1], name[1:]])
    data = Data(edge_index=torch.cat([step, step.flip(0)], 1), num_nodes=80)
    for key in ("fiedler", "rcm"):
        found = sequence(data, key)
        assert found in (name.tolist(), name.flip(0).tolist())


def test_curves_on_a_grid():
    rows, columns = (part.flatten() for part in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    pos = torch.stack([rows, columns], 1)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    raster = pos[sequence(Data(pos=pos), "raster")]
    assert raster.tolist() == sorted(pos.tolist())
    for key in ("zigzag", "hilbert"):
        walk = pos[sequence(Data(pos=pos), key)]
        assert walk.diff(dim=0).abs().sum(1).tolist() == [1] * 15
    # A Hilbert curve ends a quarter before it begins the next.
    quarters = (pos[sequence(Data(pos=pos), "hilbert")] // 2).tolist()
    assert len({tuple(q) for q in quarters[:4]}) == 1


def test_ties_are_broken_by_features_whatever_the_ids():
    x = torch.tensor([[3.0], [1.0], [2.0]])
    data = Data(x=x, edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]))
    order = SortTokens("degree")(data.clone()).order
    back = torch.tensor([2, 0, 1])
    moved = Data(x=x[back], edge_index=data.edge_index)
    assert torch.equal(SortTokens("degree")(moved).order, order[back])


def test_wrong_input():
    with pytest.raises(ValueError, match="did you mean 'degree'"):
        SortTokens("degre")
    with pytest.raises(ValueError, match="must have pos for key='hilbert'"):
        SortTokens("hilbert")(Data(x=torch.ones(2, 1)))
    with pytest.raises(ValueError, match="must have num_nodes"):
        SortTokens("random")(Data())


@pytest.mark.parametrize("key", ["raster", "zigzag", "hilbert"])
def test_where_a_grid_begins_makes_no_difference(key):
    pos = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    want = SortTokens(key)(Data(pos=pos, num_nodes=16)).order
    for start in (-1, -6, 9):
        assert SortTokens(key)(Data(pos=pos + start, num_nodes=16)).order.tolist() == want.tolist()
    with pytest.raises(ValueError, match=r"data\.pos must hold the row and column"):
        SortTokens(key)(Data(pos=pos.float(), num_nodes=16))


@pytest.mark.parametrize("key", ["degree", "pagerank", "eigenvector", "bfs", "rcm", "fiedler", "hilbert"])
def test_no_nodes_have_no_order(key):
    empty = torch.empty(0, 2, dtype=torch.int64)
    assert SortTokens(key)(Data(edge_index=empty.t(), pos=empty, num_nodes=0)).order.tolist() == []
