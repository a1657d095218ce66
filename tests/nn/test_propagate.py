"""Message passing without weights against PyG, dense algebra and closed forms."""

from __future__ import annotations

import pytest
import torch
from samples import all_pairs, messy_graph
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import GCNConv, SimpleConv
from torch_geometric.utils import coalesce, remove_self_loops, to_dense_adj

from graphkit.nn import PureConv, propagate
from graphkit.nn.conv.propagate import dropout_edges
from graphkit.ops import NeighborIndex

DOUBLE = torch.float64


def graph(seed: int = 0, loops: bool = False) -> tuple[Tensor, int]:
    """Undirected with isolated nodes, every edge once."""
    edges, num_nodes = messy_graph(seed)
    return coalesce(edges if loops else remove_self_loops(edges)[0], num_nodes=num_nodes), num_nodes


def features(num_nodes: int, width: int = 5) -> Tensor:
    return torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def dense(edges: Tensor, num_nodes: int) -> Tensor:
    return to_dense_adj(edges, max_num_nodes=num_nodes)[0].double().clamp(max=1)


@pytest.mark.parametrize("seed", range(5))
def test_gcn_is_pygs_with_identity_weights(seed: int) -> None:
    edges, num_nodes = graph(seed)
    assert int(NeighborIndex(edges, num_nodes).degree.min()) == 0, "an isolated node is part of the test"
    conv = GCNConv(5, 5, bias=False).double()
    torch.nn.init.eye_(conv.lin.weight)
    x = features(num_nodes)
    got = PureConv("gcn")(x, edges)
    torch.testing.assert_close(got, conv(x, edges))
    isolated = NeighborIndex(edges, num_nodes).degree == 0
    assert torch.equal(got[isolated], x[isolated])


@pytest.mark.parametrize("aggr", ["sum", "mean", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_other_aggregations_are_pygs(seed: int, aggr: str) -> None:
    edges, num_nodes = graph(seed, loops=True)
    x = features(num_nodes)
    # PyG sends along (source, target); a row here lists what a node hears from.
    want = SimpleConv(aggr)(x, edges.flip(0))
    torch.testing.assert_close(PureConv(aggr)(x, edges), want)


@pytest.mark.parametrize("loops", [False, True])
def test_walk_is_the_mean_with_the_node_itself(loops: bool) -> None:
    edges, num_nodes = graph(1, loops)
    walk = dense(edges, num_nodes) + torch.eye(num_nodes, dtype=DOUBLE)
    x = features(num_nodes)
    torch.testing.assert_close(PureConv("walk")(x, edges), walk / walk.sum(1, keepdim=True) @ x)


def test_gcn_adds_one_loop_to_the_graph_as_it_is() -> None:
    edges, num_nodes = graph(1, loops=True)
    adjacency = dense(edges, num_nodes)
    assert bool(adjacency.diag().any())
    adjacency = adjacency + torch.eye(num_nodes, dtype=DOUBLE)
    scale = adjacency.sum(1).rsqrt()
    x = features(num_nodes)
    torch.testing.assert_close(propagate(x, edges), scale[:, None] * (adjacency @ (scale[:, None] * x)))


@pytest.mark.parametrize("aggr", ["gcn", "sum"])
def test_edge_scale_weighs_every_edge(aggr: str) -> None:
    edges, num_nodes = graph(2)
    adjacency = 1.7 * dense(edges, num_nodes)
    x = features(num_nodes)
    if aggr == "gcn":
        adjacency = adjacency + torch.eye(num_nodes, dtype=DOUBLE)
        scale = adjacency.sum(1).rsqrt()
        adjacency = scale[:, None] * adjacency * scale
    torch.testing.assert_close(propagate(x, edges, aggr, edge_scale=1.7), adjacency @ x)


@pytest.mark.parametrize("aggr", ["mean", "max"])
def test_edge_scale_cancels_in_averages(aggr: str) -> None:
    edges, num_nodes = graph(2)
    x = features(num_nodes)
    assert torch.equal(propagate(x, edges, aggr, edge_scale=1.7), propagate(x, edges, aggr))


@pytest.mark.parametrize("aggr", ["gcn", "sum", "mean", "max"])
def test_every_form_of_the_graph(aggr: str) -> None:
    edges, num_nodes = graph(3)
    x = features(num_nodes)
    want = propagate(x, edges, aggr)
    for form in (EdgeIndex(edges), NeighborIndex(edges, num_nodes), edges.int(), torch.cat([edges, edges], 1)):
        assert torch.equal(propagate(x, form, aggr), want)


@pytest.mark.parametrize("aggr", ["gcn", "sum", "mean", "max"])
def test_gradients(aggr: str) -> None:
    edges, num_nodes = graph(3)
    assert torch.autograd.gradcheck(lambda x: propagate(x, edges, aggr), features(num_nodes, 2).requires_grad_())


def test_dropped_edges_are_scaled_up() -> None:
    """The expected sum over neighbours is the sum without dropout."""
    edges, num_nodes = graph(4)
    index, x = NeighborIndex(edges, num_nodes), features(num_nodes, 1)
    assert dropout_edges(index, 0.4, training=False) == (index, 1.0)
    assert dropout_edges(index, 0.0, training=True) == (index, 1.0)
    torch.manual_seed(0)
    draws = []
    for _ in range(1500):
        thin, scale = dropout_edges(index, 0.4, training=True)
        assert scale == pytest.approx(1 / 0.6)
        draws.append(propagate(x, thin, "sum", scale))
    stacked = torch.stack(draws)
    error = (stacked.mean(0) - propagate(x, index, "sum")).abs()
    assert bool((error <= 4.5 * stacked.std(0) / 1500**0.5).all())
    none, scale = dropout_edges(index, 1.0, training=True)
    assert (none.num_edges, scale) == (0, 1.0)


def test_bad_input() -> None:
    edges = all_pairs(3)
    with pytest.raises(ValueError, match=r"one of gcn, walk, sum, mean, max \(got 'summ'\); did you mean 'sum'"):
        PureConv("summ")
    with pytest.raises(ValueError, match="aggr"):
        propagate(torch.ones(3, 1), edges, "add")
    with pytest.raises(IndexError, match="node id 2"):
        propagate(torch.ones(2, 1), edges)
    assert repr(PureConv("mean")) == "PureConv(aggr='mean')"
