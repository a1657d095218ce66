"""The degree-power convolution against message passing written out, PyG's GCN and the stated equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from samples import graphs, messy_graph
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import GCNConv, MessagePassing
from torch_geometric.utils import add_self_loops, coalesce, remove_self_loops, scatter

from graphkit.nn import DegreePowerGCNConv
from graphkit.ops import NeighborIndex

DOUBLE = torch.float64


class Written(MessagePassing):
    """The equation, one message an edge."""

    def __init__(self, alpha: float) -> None:
        super().__init__(aggr="add")
        self.alpha = alpha

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if edge_weight is None:
            edge_weight = x.new_ones(edge_index.size(1))
        edge_index, edge_weight = add_self_loops(edge_index, edge_weight, 1.0, x.size(0))
        source, target = edge_index
        degree = scatter(edge_weight, target, dim_size=x.size(0))
        weight = edge_weight * degree[source] ** self.alpha * degree[target] ** self.alpha
        if self.alpha != -0.5:
            weight = weight / scatter(weight, target, dim_size=x.size(0))[target]
        return self.propagate(edge_index, x=x, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight[:, None] * x_j


def layer(alpha: float, width: int = 5, out: int = 4) -> DegreePowerGCNConv:
    torch.manual_seed(0)
    return DegreePowerGCNConv(width, out, alpha).double()


def features(num_nodes: int, width: int = 5) -> Tensor:
    return torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def simple(seed: int) -> tuple[Tensor, int]:
    edges, num_nodes = messy_graph(seed)
    return coalesce(remove_self_loops(edges)[0], num_nodes=num_nodes), num_nodes


@pytest.mark.parametrize("seed", range(5))
def test_minus_half_on_an_undirected_graph_is_pygs_gcn(seed: int) -> None:
    edges, num_nodes = simple(seed)
    conv = layer(-0.5)
    other = GCNConv(5, 4).double()
    other.lin.weight.data.copy_(conv.linear.weight.data)
    other.bias.data.copy_(conv.bias.data)
    x = features(num_nodes)
    torch.testing.assert_close(conv(x, edges), other(x, edges), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.5, -0.3, 0.0, 0.6, 2.0])
@given(graph=graphs())
@settings(max_examples=30)
def test_message_passing_on_directed_graphs(alpha: float, graph: tuple[Tensor, int]) -> None:
    edges, num_nodes = graph
    edges = coalesce(edges, num_nodes=num_nodes)
    conv, x = layer(alpha), features(num_nodes)
    want = Written(alpha)(conv.linear(x), edges) + conv.bias
    torch.testing.assert_close(conv(x, edges), want)


@pytest.mark.parametrize("alpha", [-0.5, 0.6])
def test_weighted_edges(alpha: float) -> None:
    edges, num_nodes = messy_graph(3)  # with repeated edges, whose weights add up
    weight = torch.rand(edges.size(1), generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    weight[0] = 0
    conv, x = layer(alpha), features(num_nodes)
    want = Written(alpha)(conv.linear(x), edges, weight) + conv.bias
    torch.testing.assert_close(conv(x, edges, weight), want)
    ones = torch.ones(edges.size(1), dtype=DOUBLE)
    plain, n = simple(3)
    torch.testing.assert_close(conv(x, plain, ones[: plain.size(1)]), conv(x, plain))
    assert n == num_nodes


def test_rows_sum_to_one_and_follow_the_power_of_the_degree() -> None:
    edges, num_nodes = simple(4)
    conv = DegreePowerGCNConv(num_nodes, num_nodes, alpha=0.6, bias=False).double()
    torch.nn.init.eye_(conv.linear.weight)
    weight = conv(torch.eye(num_nodes, dtype=DOUBLE), edges)
    torch.testing.assert_close(weight.sum(1), torch.ones(num_nodes, dtype=DOUBLE))
    degree = torch.bincount(edges[1], minlength=num_nodes).double() + 1
    for i in range(num_nodes):
        heard = [*edges[0, edges[1] == i].tolist(), i]
        for j in heard:
            ratio = weight[i, j] / weight[i, heard[0]]
            torch.testing.assert_close(ratio, (degree[j] / degree[heard[0]]) ** 0.6)
        assert int((weight[i] != 0).sum()) == len(heard)


def test_nodes_hear_from_sources() -> None:
    """One edge, 0 -> 1."""
    conv, x = layer(0.6), features(2)
    out = conv(x, torch.tensor([[0], [1]])) - conv.bias
    h = conv.linear(x)
    torch.testing.assert_close(out[0], h[0])
    share = 1 / (1 + 2**0.6)  # node 0 has a degree of 1, node 1 of 2
    torch.testing.assert_close(out[1], share * h[0] + (1 - share) * h[1])


def test_every_form_of_the_graph() -> None:
    edges, num_nodes = graph = simple(5)
    one_way = edges[:, edges[0] < edges[1]]
    conv, x = layer(0.3), features(num_nodes)
    for given_edges in (edges, one_way):
        want = conv(x, given_edges)
        rows = NeighborIndex(given_edges.flip(0), num_nodes)
        for form in (EdgeIndex(given_edges), given_edges.int(), rows, torch.cat([given_edges] * 2, 1)):
            assert torch.equal(conv(x, form), want)
        order = torch.argsort(given_edges[1] * num_nodes + given_edges[0])
        weight = torch.rand(given_edges.size(1), dtype=DOUBLE)
        torch.testing.assert_close(conv(x, rows, weight[order]), conv(x, given_edges, weight))
        torch.testing.assert_close(conv(x, EdgeIndex(given_edges), weight), conv(x, given_edges, weight))
    torch.testing.assert_close(conv(x.to_sparse_csr(), edges), conv(x, edges))
    assert graph[1] == num_nodes


@pytest.mark.parametrize("alpha", [-0.5, 0.6])
def test_gradients_of_features_and_edge_weights(alpha: float) -> None:
    edges, num_nodes = simple(6)
    conv = layer(alpha, 2, 2)
    weight = torch.rand(edges.size(1), dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) + 0.1
    inputs = (features(num_nodes, 2).requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: conv(x, edges, w), inputs)


def test_weights_are_drawn_within_the_released_bounds() -> None:
    torch.manual_seed(0)
    conv = DegreePowerGCNConv(512, 16)
    for parameter in (conv.linear.weight, conv.bias):
        assert float(parameter.abs().max()) <= 0.25
    assert float(conv.linear.weight.abs().max()) > 0.24
    assert DegreePowerGCNConv(4, 2, bias=False).bias is None
    assert repr(DegreePowerGCNConv(4, 2, 0.6)) == "DegreePowerGCNConv(4, 2, alpha=0.6)"


EDGE = torch.tensor([[0], [1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DegreePowerGCNConv(0, 2), ValueError, "in_channels"),
        (lambda: DegreePowerGCNConv(2, 0), ValueError, "out_channels"),
        (lambda: DegreePowerGCNConv(2, 2, float("inf")), ValueError, "alpha"),
        (lambda: layer(0.1)(features(2, 4), EDGE), ValueError, r"x must have shape \[N, 5\]"),
        (lambda: layer(0.1)(features(1), EDGE), IndexError, "edge_index holds node id 1"),
        (lambda: layer(0.1)(features(1), EDGE, torch.ones(1)), IndexError, "edge_index holds node id 1"),
        (lambda: layer(0.1)(features(2), EDGE, torch.ones(2)), ValueError, r"edge_weight must be \[1\]"),
        (lambda: layer(0.1)(features(2), EDGE, -torch.ones(1)), ValueError, "must not be negative .got -1.0"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
