"""Bounds of a GCN's output under deleted edges: brute force over all deletions, closed limits, golden values."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GCN, GCNConv
from torch_geometric.utils import subgraph

from graphkit.nn import (
    GNN,
    AdjacencyBounds,
    GCNBoundPropagation,
    GCNEncoder,
    adjacency_bounds,
    contrast_vectors,
)
from graphkit.nn.bounds import induced_index
from graphkit.ops import NeighborIndex
from graphkit.utils.describe import describe

DOUBLE = torch.float64
PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
#: A triangle with a tail and a chord less: seven undirected edges, six nodes.
GRAPH = torch.tensor([[0, 0, 1, 2, 3, 3, 4], [1, 2, 2, 3, 4, 5, 5]])


def both(ends: Tensor) -> Tensor:
    return torch.cat([ends, ends.flip(0)], 1)


def encoder(seed: int, activation: str = "relu", features: int = 3, hidden: int = 5, out: int = 4) -> GCNEncoder:
    torch.manual_seed(seed)
    made = GCNEncoder(features, hidden, out, activation).double()
    for bias in (made.bias1, made.bias2):
        torch.nn.init.normal_(bias, std=0.3)
    return made


def features(num_nodes: int, seed: int, width: int = 3) -> Tensor:
    return torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def deletions(ends: Tensor, budget: Tensor, undirected: bool) -> list[Tensor]:
    """Every view within the budget, as PyG's edges. ``ends``: undirected edges once, or directed ones."""
    views = []
    for gone in itertools.product([False, True], repeat=ends.size(1)):
        lost = torch.zeros_like(budget)
        for (source, target), away in zip(ends.t().tolist(), gone, strict=True):
            lost[target] += away
            lost[source] += away and undirected
        if bool((lost <= budget).all()):
            left = ends[:, ~torch.tensor(gone)]
            views.append(both(left) if undirected else left)
    return views


def side_by_side(graphs: list[Tensor], num_nodes: int) -> Tensor:
    """One graph of separate copies."""
    return torch.cat([edges + place * num_nodes for place, edges in enumerate(graphs)], 1)


class Case:
    """All views of a small graph within a budget, as one graph of copies, so that one call bounds them all."""

    def __init__(self, seed: int, activation: str, undirected: bool = True, ends: Tensor = GRAPH) -> None:
        self.n = n = int(ends.max()) + 1
        whole = both(ends) if undirected else ends
        degree = torch.bincount(whole[1], minlength=n)
        draw = torch.Generator().manual_seed(seed)
        budget = torch.randint(0, 3, (n,), generator=draw)
        budget[2:4].clamp_(min=1)  # one edge, at least, may go
        self.budget = torch.minimum(budget, degree)
        self.views = deletions(ends, self.budget, undirected)
        self.copies = len(self.views)
        self.encoder, self.x = encoder(seed, activation), features(n, seed)
        self.w = torch.randn(n, 4, generator=draw, dtype=DOUBLE)
        self.bounds = adjacency_bounds(whole, n, self.budget, undirected=undirected)
        self.all_x, self.all_w = self.x.repeat(self.copies, 1), self.w.repeat(self.copies, 1)
        self.union = side_by_side([whole] * self.copies, n)
        self.view = side_by_side(self.views, n)
        self.all_bounds = adjacency_bounds(
            self.union, n * self.copies, self.budget.repeat(self.copies), undirected=undirected
        )
        self.true = (self.all_w * self.encoder(self.all_x, self.view)).sum(1).detach().view(self.copies, n)

    def scores(self, bound: str = "crown") -> Tensor:
        propagation = GCNBoundPropagation(self.encoder)
        found = propagation.score(self.all_x, self.view, self.all_w, self.all_bounds, bound)
        return found.detach().view(self.copies, self.n)


# (a) 1 and 3: soundness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "prelu"])
@pytest.mark.parametrize("seed", range(20))
def test_scores_are_below_the_truth_in_every_view(seed: int, activation: str) -> None:
    case = Case(seed, activation)
    score = case.scores()
    assert case.copies > 1
    assert bool((score <= case.true + 1e-9).all())
    certified = GCNBoundPropagation(case.encoder).certified(case.x, case.w, case.bounds)
    assert bool((certified <= case.true.min(0).values + 1e-9).all())
    assert bool((certified <= score.min(0).values + 1e-9).all())


@pytest.mark.parametrize("seed", range(5))
def test_single_directions_may_go_where_the_graph_is_directed(seed: int) -> None:
    case = Case(seed, "prelu", undirected=False, ends=both(GRAPH)[:, [0, 1, 2, 3, 7, 8, 9]])
    assert bool((case.scores() <= case.true + 1e-9).all())
    certified = GCNBoundPropagation(case.encoder).certified(case.x, case.w, case.bounds)
    assert bool((certified <= case.true.min(0).values + 1e-9).all())


@pytest.mark.parametrize("undirected", [True, False])
def test_every_entry_of_every_view_is_within_its_bounds(undirected: bool) -> None:
    case = Case(3, "relu", undirected, GRAPH if undirected else both(GRAPH)[:, [0, 1, 2, 3, 7, 8, 9]])
    n, bounds = case.n, case.bounds
    source, target = bounds.edge_index
    reached = torch.full((bounds.lower.numel(),), float("inf"), dtype=DOUBLE)
    for view in case.views:
        matrix = torch.eye(n, dtype=DOUBLE)
        matrix[view[1], view[0]] = 1
        scale = matrix.sum(1).rsqrt()
        entry = (scale[:, None] * matrix * scale)[target, source]
        assert bool((bounds.lower <= entry + 1e-12).all())
        assert bool((entry <= bounds.upper + 1e-12).all())
        reached = torch.minimum(reached, entry)
    # Sharp from below: an entry's bound is zero where some view has it at zero, and there alone.
    assert torch.equal(reached == 0, bounds.lower == 0)


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_preactivations_are_within_their_intervals(activation: str) -> None:
    for seed in range(5):
        case = Case(seed, activation)
        found = GCNBoundPropagation(case.encoder).preactivation_bounds(case.x, case.bounds)
        weights = case.encoder
        for view in case.views:
            matrix = torch.eye(case.n, dtype=DOUBLE)
            matrix[view[1], view[0]] = 1
            scale = matrix.sum(1).rsqrt()
            matrix = scale[:, None] * matrix * scale
            first = matrix @ case.x @ weights.linear1.weight.t() + weights.bias1
            second = matrix @ weights.activate(first) @ weights.linear2.weight.t() + weights.bias2
            for value, low, high in ((first, *found[:2]), (second, *found[2:])):
                assert bool((low <= value + 1e-9).all())
                assert bool((value <= high + 1e-9).all())


def test_the_released_form_is_no_lower_bound() -> None:
    """Coefficients of a neighbour in place of the root's, and intervals from the whole graph, break the promise."""
    above = outside = 0
    for seed in range(20):
        case = Case(seed, "relu")
        above += int((case.scores("released") > case.true + 1e-6).sum())
        low, high = GCNBoundPropagation(case.encoder).preactivation_bounds(case.all_x, case.all_bounds, sound=False)[2:]
        hidden = case.encoder.activate(_first_layer(case))
        second = _propagated(case, hidden @ case.encoder.linear2.weight.t()) + case.encoder.bias2
        outside += int(((second < low - 1e-6) | (second > high + 1e-6)).sum())
    assert above > 0
    assert outside > 0


def _propagated(case: Case, h: Tensor) -> Tensor:
    conv = GCNConv(h.size(1), h.size(1), bias=False).double()
    conv.lin.weight.data = torch.eye(h.size(1), dtype=DOUBLE)
    return conv(h, case.view)


def _first_layer(case: Case) -> Tensor:
    return _propagated(case, case.all_x @ case.encoder.linear1.weight.t()) + case.encoder.bias1


# (a) 2: limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_without_a_budget_the_bound_is_the_value(activation: str) -> None:
    net, x, edges = encoder(1, activation), features(6, 1), both(GRAPH)
    bounds = adjacency_bounds(edges, 6, torch.zeros(6, dtype=torch.long))
    propagation = GCNBoundPropagation(net)
    low1, high1, low2, high2 = propagation.preactivation_bounds(x, bounds)
    assert torch.equal(low1, high1)
    torch.testing.assert_close(low2, high2)
    w = contrast_vectors(net(x, edges))
    true = (w * net(x, edges)).sum(1)
    torch.testing.assert_close(propagation.score(x, edges, w, bounds), true)
    torch.testing.assert_close(propagation.certified(x, w, bounds), true.detach())


def test_a_linear_network_is_bounded_by_itself() -> None:
    net, x, edges = encoder(2, "prelu"), features(6, 2), both(GRAPH)
    torch.nn.init.ones_(net.slope)
    bounds = adjacency_bounds(edges, 6, drop_rate=0.6)
    view = edges[:, [0, 1, 3, 5, 8, 9, 12]]
    w = torch.randn(6, 4, dtype=DOUBLE)
    score = GCNBoundPropagation(net).score(x, view, w, bounds)
    torch.testing.assert_close(score, (w * net(x, view)).sum(1))


def test_golden_values() -> None:
    net = GCNEncoder(2, 2, 2).double()
    with torch.no_grad():
        net.linear1.weight.copy_(torch.tensor([[1, -0.5], [-1, 1]]))
        net.bias1.copy_(torch.tensor([0.1, -0.2]))
        net.linear2.weight.copy_(torch.tensor([[1, -1], [0.5, 1]]))
        net.bias2.copy_(torch.tensor([0, 0.1]))
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=DOUBLE)

    def near(found: Tensor, expected: list) -> None:
        torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=2e-6)

    z = net(x, PATH)
    w = contrast_vectors(z).detach()
    near(w, [[0.247999, -0.231619], [-0.006042, 0.036234], [-0.241957, 0.195385]])
    propagation = GCNBoundPropagation(net)
    fixed = adjacency_bounds(PATH, 3, torch.zeros(3, dtype=torch.long), undirected=True)
    near(propagation.score(x, PATH, w, fixed), [0.032453, 0.012084, 0.022414])
    near(propagation.certified(x, w, fixed), [0.032453, 0.012084, 0.022414])
    bounds = adjacency_bounds(PATH, 3, torch.tensor([1, 2, 1]), undirected=True)
    low, high, _, _ = propagation.preactivation_bounds(x, bounds)
    near(low, [[0.1, -1.2], [-0.4, -0.866667], [-0.15, -0.2]])
    near(high, [[1.1, 0.3], [1.433333, 0.8], [0.6, 0.8]])
    near(propagation.score(x, PATH, w, bounds), [-0.084754, 0.001743, -0.203226])
    view = PATH[:, 2:]
    near(propagation.score(x, view, w, bounds), [0.045040, 0.005539, -0.144744])
    near((w * net(x, view)).sum(1), [0.122247, 0.016305, 0.087923])
    near(propagation.certified(x, w, bounds), [-0.486724, -0.040733, -0.464336])


# (a) 5 and 6: gradients, symmetry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_gradients_are_finite_at_zero_and_without_width(activation: str) -> None:
    net, x = encoder(0, activation), torch.zeros(6, 3, dtype=DOUBLE)
    for bias in (net.bias1, net.bias2):
        torch.nn.init.zeros_(bias)
    for rate in (0.0, 0.5):
        bounds = adjacency_bounds(both(GRAPH), 6, drop_rate=rate)
        net.zero_grad()
        GCNBoundPropagation(net).score(x, both(GRAPH), torch.ones(6, 4, dtype=DOUBLE), bounds).sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_scores_follow_the_nodes() -> None:
    net, x, edges = encoder(4), features(6, 4), both(GRAPH)
    w = torch.randn(6, 4, dtype=DOUBLE)
    budget = torch.tensor([1, 0, 1, 2, 1, 0])
    order = torch.randperm(6)
    place = order.argsort()
    propagation = GCNBoundPropagation(net)
    here, there = adjacency_bounds(edges, 6, budget), adjacency_bounds(place[edges], 6, budget[order])
    for bound in ("crown", "released"):
        score = propagation.score(x, edges, w, here, bound)
        moved = propagation.score(x[order], place[edges], w[order], there, bound)
        torch.testing.assert_close(moved, score[order])
    certified = propagation.certified(x, w, here)
    torch.testing.assert_close(propagation.certified(x[order], w[order], there), certified[order])


def test_sparse_features_and_index_give_the_same() -> None:
    net, edges = encoder(5), both(GRAPH)
    x = features(6, 5).clamp(min=0)
    w = torch.randn(6, 4, dtype=DOUBLE)
    index = NeighborIndex(edges.flip(0), 6)
    bounds, of_index = adjacency_bounds(edges, 6, drop_rate=0.5), adjacency_bounds(index, 6, drop_rate=0.5)
    assert torch.equal(bounds.upper, of_index.upper)
    propagation = GCNBoundPropagation(net)
    expected = propagation.score(x, edges, w, bounds)
    torch.testing.assert_close(propagation.score(x.to_sparse_csr(), index, w, of_index), expected)
    single = GCNBoundPropagation(encoder(5).float()).score(x.float(), edges, w.float(), bounds)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


# Sub-graphs ----------------------------------------------------------------------------------------------------------


def test_induced_bounds_are_those_of_the_sub_graph() -> None:
    edges, nodes = both(GRAPH), torch.tensor([0, 2, 3, 5])
    bounds = adjacency_bounds(edges, 6, torch.tensor([2, 0, 1, 3, 1, 2]))
    found = bounds.induced(nodes)
    inside, _ = subgraph(nodes, edges, relabel_nodes=True, num_nodes=6)
    degree = torch.bincount(inside[1], minlength=4)
    expected = adjacency_bounds(inside, 4, torch.minimum(torch.tensor([2, 1, 3, 2]), degree))
    assert torch.equal(found.edge_index, expected.edge_index)
    assert torch.equal(found.lower, expected.lower)
    assert torch.equal(found.upper, expected.upper)
    index = induced_index(NeighborIndex(edges.flip(0), 6), nodes)
    assert torch.equal(index.edge_index, NeighborIndex(inside.flip(0), 4).edge_index)
    assert induced_index(index, nodes[:0]).num_edges == 0


def test_bounds_stay_as_they_are() -> None:
    bounds = adjacency_bounds(PATH, 3, drop_rate=0.5)
    before = describe(bounds)
    middle, half = bounds.halves(torch.float32)
    torch.testing.assert_close((middle + half).double(), bounds.upper)
    assert describe(bounds) == before  # a run that is resumed is compared by this
    assert isinstance(bounds, AdjacencyBounds)
    assert bounds.to("cpu") is bounds
    assert bounds.edge_index.tolist() == [[0, 1, 0, 1, 2, 1, 2], [0, 0, 1, 1, 1, 2, 2]]


# The encoder ---------------------------------------------------------------------------------------------------------


def test_the_encoder_is_two_of_pygs_layers_also_on_directed_views() -> None:
    torch.manual_seed(0)
    net, x = GCNEncoder(3, 6, 4, "prelu"), torch.randn(6, 3)
    for bias in (net.bias1, net.bias2):
        torch.nn.init.normal_(bias)
    edges = both(GRAPH)[:, [0, 2, 3, 4, 9, 10, 13]]
    first, second, act = GCNConv(3, 6), GCNConv(6, 4), torch.nn.PReLU()
    pairs = ((first, net.linear1, net.bias1), (second, net.linear2, net.bias2))
    for conv, linear, bias in pairs:
        conv.lin.weight.data, conv.bias.data = linear.weight.data, bias.data
    expected = act(second(act(first(x, edges)), edges))
    torch.testing.assert_close(net(x, edges), expected)
    torch.testing.assert_close(net(x.to_sparse_csr(), NeighborIndex(edges.flip(0), 6)), expected)


def test_the_slope_stays_where_the_bounds_hold() -> None:
    net = GCNEncoder(3, 6, 4, "prelu")
    for slope, used in ((-0.5, 0), (0.3, 0.3), (2, 1)):
        torch.nn.init.constant_(net.slope, slope)
        assert float(net.negative_slope) == pytest.approx(used)
        assert net.activate(torch.tensor([-2.0])).item() == pytest.approx(-2 * used)


# (c) wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [GCN(3, 4, num_layers=2), GNN(3, 4, 2), torch.nn.Linear(3, 4)])
def test_only_the_two_layer_encoder_can_be_bounded(other) -> None:
    with pytest.raises(TypeError, match=r"encoder must be a graphkit\.nn\.GCNEncoder"):
        GCNBoundPropagation(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of budget and drop_rate"),
        ({"budget": torch.tensor([1, 1, 1]), "drop_rate": 0.1}, "one of budget and drop_rate"),
        ({"drop_rate": 1.0}, r"p must be in \[0, 1\)"),
        ({"budget": torch.tensor([1, 3, 1])}, r"budget of node 1 must be in \[0, 2\] \(got 3\)"),
        ({"budget": torch.tensor([1, -1, 1])}, "budget of node 1"),
        ({"budget": torch.tensor([1, 1])}, "3 whole numbers"),
        ({"budget": torch.tensor([1.0, 1, 1])}, "3 whole numbers"),
    ],
)
def test_budgets(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adjacency_bounds(PATH, 3, **arguments)


def test_graphs() -> None:
    with pytest.raises(ValueError, match="no self-loops"):
        adjacency_bounds(torch.tensor([[0, 0], [0, 1]]), 2, drop_rate=0.1)
    with pytest.raises(ValueError, match="both directions"):
        adjacency_bounds(torch.tensor([[0], [1]]), 2, drop_rate=0.1, undirected=True)
    with pytest.raises(IndexError, match="node id 5"):
        adjacency_bounds(torch.tensor([[0], [5]]), 2, drop_rate=0.1)


def test_what_does_not_fit_together() -> None:
    net, x = encoder(0), features(3, 0)
    propagation, bounds = GCNBoundPropagation(net), adjacency_bounds(PATH, 3, drop_rate=0.5)
    w = torch.zeros(3, 4, dtype=DOUBLE)
    with pytest.raises(ValueError, match="view has edges that bounds were not computed for"):
        propagation.score(x, torch.tensor([[0], [2]]), w, bounds)
    with pytest.raises(ValueError, match="bounds are of a graph of 3 nodes, x has 2 rows"):
        propagation.score(x[:2], PATH, w, bounds)
    with pytest.raises(ValueError, match=r"w must have shape \[3, 4\]"):
        propagation.certified(x, w[:2], bounds)
    with pytest.raises(ValueError, match="bound must be one of crown, released"):
        propagation.score(x, PATH, w, bounds, "ibp")
    with pytest.raises(ValueError, match="at least two nodes"):
        contrast_vectors(torch.ones(1, 4))
    with pytest.raises(ValueError, match="activation must be one of relu, prelu"):
        GCNEncoder(3, activation="tanh")
    with pytest.raises(ValueError, match="out_channels must be in"):
        GCNEncoder(3, 8, out_channels=0)


def test_contrast_vectors_are_differences_from_the_others_mean() -> None:
    z = features(5, 0)
    unit = z / z.norm(dim=1, keepdim=True)
    expected = torch.stack([unit[i] - unit[torch.arange(5) != i].mean(0) for i in range(5)])
    torch.testing.assert_close(contrast_vectors(z), expected)
