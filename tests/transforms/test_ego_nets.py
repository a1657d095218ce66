"""Ego-nets against PyG's own subgraphs, node by node."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import messy_graph
from torch_geometric.data import Batch, Data
from torch_geometric.utils import k_hop_subgraph, remove_self_loops, to_undirected

from graphkit.transforms import ego_nets
from graphkit.transforms.ego_nets import EgoNets


@given(seed=st.integers(0, 10_000), hops=st.integers(1, 3), entries=st.sampled_from([1, 60, 2**20]))
@settings(max_examples=25, deadline=None)
def test_same_subgraphs_as_pyg(seed: int, hops: int, entries: int) -> None:
    edge_index, num_nodes = messy_graph(seed)
    clean = remove_self_loops(to_undirected(edge_index, num_nodes=num_nodes))[0]
    before, ego_nets._ENTRIES = ego_nets._ENTRIES, entries  # pieces of one root, of some, of all
    try:
        egos = EgoNets(hops)(Data(edge_index=edge_index, num_nodes=num_nodes))
    finally:
        ego_nets._ENTRIES = before
    assert len(egos) == num_nodes
    for root, ego in enumerate(egos):
        nodes, edges, place, _ = k_hop_subgraph(root, hops, clean, relabel_nodes=True, num_nodes=num_nodes)
        assert torch.equal(ego.n_id, nodes)
        assert torch.equal(ego.root_index, place)
        assert ego.num_nodes == nodes.numel()
        assert set(map(tuple, ego.edge_index.t().tolist())) == set(map(tuple, edges.t().tolist()))
        assert ego.num_edges == edges.unique(dim=1).size(1)


def test_directions_are_ignored() -> None:
    star = Data(edge_index=torch.tensor([[1, 2, 3], [0, 0, 0]]), num_nodes=5)
    egos = EgoNets(num_hops=2)(star)
    assert [ego.num_nodes for ego in egos] == [4, 4, 4, 4, 1]
    assert egos[4].edge_index.shape == (2, 0)
    assert all(ego.num_edges == 6 for ego in egos[:4])


def test_large_ones_are_left_out() -> None:
    star = Data(edge_index=torch.tensor([[1, 2, 3], [0, 0, 0]]), num_nodes=4)
    egos = EgoNets(num_hops=1, max_nodes=2)(star)
    assert [int(ego.n_id[ego.root_index]) for ego in egos] == [1, 2, 3]
    with pytest.raises(ValueError, match="none of 4 ego-nets has from min_nodes=1 to max_nodes=1 nodes"):
        EgoNets(num_hops=1, max_nodes=1)(star)


def test_small_ones_are_left_out() -> None:
    path = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=6)
    egos = EgoNets(num_hops=1, min_nodes=3)(path)
    assert [int(ego.n_id[ego.root_index]) for ego in egos] == [1, 2]


def test_a_share_of_the_roots() -> None:
    edge_index, num_nodes = messy_graph(3)
    data = Data(edge_index=edge_index, num_nodes=num_nodes)
    whole = EgoNets(1)(data)
    some = EgoNets(1, ratio=0.4, seed=1)(data)
    roots = [int(ego.n_id[ego.root_index]) for ego in some]
    assert len(roots) == round(0.4 * num_nodes)
    assert roots == sorted(set(roots))
    for root, ego in zip(roots, some, strict=True):
        assert torch.equal(ego.edge_index, whole[root].edge_index)
    assert roots == [int(ego.n_id[ego.root_index]) for ego in EgoNets(1, ratio=0.4, seed=1)(data)]
    assert roots != [int(ego.n_id[ego.root_index]) for ego in EgoNets(1, ratio=0.4, seed=2)(data)]
    assert len(EgoNets(1, ratio=1e-6)(data)) == 1


def test_they_batch() -> None:
    edge_index, num_nodes = messy_graph(4)
    egos = EgoNets(2)(Data(edge_index=edge_index, num_nodes=num_nodes))
    batch = Batch.from_data_list(egos)
    assert torch.equal(batch.n_id[batch.root_index], torch.arange(num_nodes))
    assert torch.equal(batch[5].edge_index, egos[5].edge_index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_hops": 0}, "num_hops"),
        ({"max_nodes": 0}, "max_nodes"),
        ({"min_nodes": 5, "max_nodes": 4}, "max_nodes"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EgoNets(**arguments)


def test_bad_graphs() -> None:
    with pytest.raises(TypeError, match="edge_index"):
        EgoNets()([1, 2])
    with pytest.raises(ValueError, match="num_nodes=0"):
        EgoNets()(Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=0))
    with pytest.raises(IndexError, match="node id 3"):
        EgoNets()(Data(edge_index=torch.tensor([[0], [3]]), num_nodes=2))


def test_repr() -> None:
    assert repr(EgoNets(ratio=0.5)) == "EgoNets(num_hops=2, max_nodes=1000, ratio=0.5)"
