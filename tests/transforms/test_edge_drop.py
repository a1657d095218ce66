"""Views with fewer edges: who is dropped, how often, and never beyond the budget."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from graphkit.transforms import AdaptiveEdgeDrop, BudgetedEdgeDrop, EdgeDrop, edge_budget, node_centrality


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph(seed: int = 0, nodes: int = 20, p: float = 0.3) -> Data:
    made = from_networkx(nx.gnp_random_graph(nodes, p, seed=seed))
    return Data(edge_index=made.edge_index, num_nodes=nodes)


def pairs(edge_index: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.t().tolist()))


# EdgeDrop ------------------------------------------------------------------------------------------------------------


def test_an_edge_is_dropped_with_its_probability() -> None:
    ring = torch.arange(20000)
    edges = torch.stack([ring, ring.roll(1)])
    kept = EdgeDrop(0.3, generator=generator()).keep(edges, 20000)
    assert abs(float(kept.double().mean()) - 0.7) < 4 * (0.21 / 20000) ** 0.5
    p = torch.tensor([0.0, 0.9]).repeat(10000)
    kept = EdgeDrop(p, generator=generator()).keep(edges, 20000)
    assert bool(kept[::2].all())
    assert abs(float(kept[1::2].double().mean()) - 0.1) < 4 * (0.09 / 10000) ** 0.5


def test_directions_are_drawn_apart_or_together() -> None:
    data = graph()
    apart = EdgeDrop(0.5, generator=generator())(data).edge_index
    assert any((b, a) not in pairs(apart) for a, b in pairs(apart))
    together = EdgeDrop(0.5, undirected=True, generator=generator())(data).edge_index
    assert 0 < together.size(1) < data.edge_index.size(1)
    assert all((b, a) in pairs(together) for a, b in pairs(together))


def test_an_undirected_edge_has_the_mean_probability_of_its_directions() -> None:
    nodes = 20000
    ends = torch.stack([torch.arange(0, nodes, 2), torch.arange(1, nodes, 2)])
    edges = torch.cat([ends, ends.flip(0)], 1)
    p = torch.cat([torch.full((nodes // 2,), 0.8), torch.zeros(nodes // 2)])
    kept = EdgeDrop(p, undirected=True, generator=generator()).keep(edges, nodes)
    assert torch.equal(kept[: nodes // 2], kept[nodes // 2 :])
    assert abs(float(kept.double().mean()) - 0.6) < 4 * (0.24 / (nodes // 2)) ** 0.5


def test_the_generator_decides_and_what_belongs_to_edges_goes_with_them() -> None:
    data = graph()
    data.x = torch.randn(20, 3)
    data.edge_attr = torch.arange(data.edge_index.size(1))
    before = data.edge_index.clone()
    views = [EdgeDrop(0.5, generator=generator(seed))(data) for seed in (1, 1, 2)]
    assert torch.equal(views[0].edge_index, views[1].edge_index)
    assert not torch.equal(views[0].edge_index, views[2].edge_index)
    assert torch.equal(data.edge_index[:, views[0].edge_attr], views[0].edge_index)
    assert views[0].x is data.x
    assert views[0].num_nodes == 20
    assert torch.equal(data.edge_index, before)


def test_no_edges_and_no_drop() -> None:
    empty = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=3)
    for transform in (
        EdgeDrop(0.5),
        EdgeDrop(0.5, True),
        AdaptiveEdgeDrop(0.5),
        BudgetedEdgeDrop(0.5, undirected=True),
    ):
        assert transform(empty).edge_index.size(1) == 0
    data = graph()
    assert torch.equal(EdgeDrop(0.0)(data).edge_index, data.edge_index)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan"), torch.tensor([0.2, 1.0]), torch.tensor([[0.1]])])
def test_a_rate_is_a_probability_below_one(p) -> None:
    for cls in (EdgeDrop, BudgetedEdgeDrop):
        with pytest.raises(ValueError, match="p must"):
            cls(p)


def test_as_many_probabilities_as_edges() -> None:
    with pytest.raises(ValueError, match="each of the 4 edges"):
        EdgeDrop(torch.tensor([0.1, 0.2]))(Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3))
    with pytest.raises(ValueError, match="data must have edge_index"):
        EdgeDrop(0.1)(Data(x=torch.ones(2, 2)))


# AdaptiveEdgeDrop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_centralities_are_those_of_networkx(seed: int) -> None:
    theirs = nx.connected_watts_strogatz_graph(15, 4, 0.5, seed=seed)
    edges = from_networkx(theirs).edge_index
    found = node_centrality(edges, 15, "degree")
    assert found.tolist() == [d for _, d in theirs.degree]
    expected = torch.tensor(list(nx.pagerank(theirs, 0.85, tol=1e-12).values()), dtype=torch.float64)
    torch.testing.assert_close(node_centrality(edges, 15, "pagerank"), expected, rtol=1e-6, atol=1e-9)
    expected = torch.tensor(list(nx.eigenvector_centrality_numpy(theirs).values()), dtype=torch.float64)
    torch.testing.assert_close(node_centrality(edges, 15, "eigenvector"), expected, rtol=1e-3, atol=1e-4)


def test_pagerank_of_a_directed_graph_with_an_end() -> None:
    theirs = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 3), (4, 0)])
    edges = torch.tensor(list(theirs.edges)).t()
    expected = nx.pagerank(theirs, 0.85, tol=1e-12)
    found = node_centrality(edges, 5, "pagerank")
    torch.testing.assert_close(found, torch.tensor([expected[i] for i in range(5)], dtype=torch.float64))
    # Nodes that reach each other in a bipartite graph: the iteration must settle.
    star = torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]])
    found = node_centrality(star, 4, "eigenvector")
    torch.testing.assert_close(found, torch.tensor([0.5, *[1 / 12**0.5] * 3], dtype=torch.float64).mul(2**0.5))


@pytest.mark.parametrize("centrality", ["degree", "pagerank", "eigenvector"])
def test_the_equation(centrality: str) -> None:
    data = graph(1)
    transform = AdaptiveEdgeDrop(0.4, centrality, cap=0.6)
    p = transform.probabilities(data.edge_index, 20)
    s = [float(v) for v in node_centrality(data.edge_index, 20, centrality).log()[data.edge_index[1]]]
    mean = sum(s) / len(s)
    w = [(max(s) - v) / (max(s) - mean) for v in s]
    expected = [min(0.6, 0.4 * v / (sum(w) / len(w))) for v in w]
    torch.testing.assert_close(p, torch.tensor(expected, dtype=torch.float64))
    assert float(p.max()) <= 0.6
    assert transform.probabilities(data.edge_index, 20) is p


def test_both_ends_count_in_an_undirected_graph() -> None:
    star = torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]])
    assert len(set(AdaptiveEdgeDrop(0.3).probabilities(star, 4).tolist())) == 2
    both = AdaptiveEdgeDrop(0.3, undirected=True).probabilities(star, 4)
    torch.testing.assert_close(both, torch.full((6,), 0.3, dtype=torch.float64))


def test_equal_centralities_are_uniform_and_another_graph_is_another() -> None:
    ring = torch.arange(6)
    edges = torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1)
    transform = AdaptiveEdgeDrop(0.25, "pagerank")
    torch.testing.assert_close(transform.probabilities(edges, 6), torch.full((12,), 0.25, dtype=torch.float64))
    data = graph()
    other = transform.probabilities(data.edge_index, 20)
    assert other.numel() == data.edge_index.size(1)
    data.edge_index[:, 0] = data.edge_index[:, 1]
    assert transform.probabilities(data.edge_index, 20) is not other


def test_adaptive_input() -> None:
    with pytest.raises(ValueError, match="centrality must be one of degree"):
        AdaptiveEdgeDrop(0.2, "closeness")
    with pytest.raises(ValueError, match=r"cap must be in \[0, 1\]"):
        AdaptiveEdgeDrop(0.2, cap=2)


# Budgets -------------------------------------------------------------------------------------------------------------


def test_the_budget_rounds_halves_to_even_and_leaves_an_edge() -> None:
    # A star of five leaves: the hub has degree 5, and half of it is 2.5.
    edges = torch.tensor([[1, 2, 3, 4, 5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]])
    assert edge_budget(edges, 7, 0.5).tolist() == [2, 0, 0, 0, 0, 0, 0]
    assert edge_budget(edges, 7, 0.3).tolist() == [2, 0, 0, 0, 0, 0, 0]
    assert edge_budget(edges, 7, 0.99).tolist() == [4, 0, 0, 0, 0, 0, 0]
    with_loop = torch.cat([edges, torch.zeros(2, 1, dtype=torch.long)], 1)
    assert edge_budget(with_loop, 7, 0.99).tolist() == [4, 0, 0, 0, 0, 0, 0]


def test_the_budget_of_single_probabilities_is_their_sum() -> None:
    edges = torch.tensor([[1, 2, 3, 4, 0], [0, 0, 0, 0, 1]])
    assert edge_budget(edges, 5, torch.tensor([0.9, 0.9, 0.1, 0.0, 0.9])).tolist() == [2, 0, 0, 0, 0]
    transform = AdaptiveEdgeDrop(0.4)
    data = graph(2)
    expected = torch.zeros(20, dtype=torch.float64)
    expected.index_add_(0, data.edge_index[1], transform.probabilities(data.edge_index, 20))
    degree = torch.bincount(data.edge_index[1], minlength=20)
    expected = torch.minimum(degree - 1, expected.round().long()).clamp(min=0)
    assert torch.equal(transform.budget(data.edge_index, 20), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.1, 0.5, 0.95]))
def test_no_node_loses_more_than_its_budget(seed: int, undirected: bool, p: float) -> None:
    data = graph(seed % 7)
    budget = torch.randint(0, 4, (20,), generator=generator(seed))
    transform = BudgetedEdgeDrop(p, budget, undirected, generator(seed))
    keep = transform.keep(data.edge_index, 20)
    lost = torch.bincount(data.edge_index[1, ~keep], minlength=20)
    assert bool((lost <= budget).all())
    if undirected:
        view = pairs(data.edge_index[:, keep])
        assert all((b, a) in view for a, b in view)


def test_a_budget_that_does_not_bind_changes_nothing() -> None:
    data = graph(3)
    for undirected in (False, True):
        free = EdgeDrop(0.5, undirected, generator(5)).keep(data.edge_index, 20)
        degree = torch.bincount(data.edge_index[1], minlength=20)
        bound = BudgetedEdgeDrop(0.5, degree, undirected, generator(5)).keep(data.edge_index, 20)
        assert torch.equal(free, bound)


def test_a_budget_that_binds_is_used_up_and_its_choice_is_random() -> None:
    star = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
    transform = BudgetedEdgeDrop(0.999, torch.tensor([2, 0, 0, 0, 0, 0, 0]), generator=generator())
    draws = torch.stack([~transform.keep(star, 7) for _ in range(3000)])
    assert bool((draws.sum(1) == 2).all())
    assert float((draws.double().mean(0) - 1 / 3).abs().max()) < 0.05


def test_self_loops_stay() -> None:
    edges = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    keep = BudgetedEdgeDrop(0.999, torch.tensor([2, 2]), generator=generator()).keep(edges, 2)
    assert keep[:2].all()


def test_budget_input() -> None:
    for budget in (torch.tensor([-1, 0]), torch.tensor([0.5]), torch.tensor([[1]])):
        with pytest.raises(ValueError, match="budget must be a vector of whole numbers"):
            BudgetedEdgeDrop(0.5, budget)
    with pytest.raises(ValueError, match="each of the 20 nodes"):
        BudgetedEdgeDrop(0.5, torch.tensor([1, 1]))(graph())
    with pytest.raises(IndexError, match="node id 9"):
        edge_budget(torch.tensor([[9], [0]]), 3, 0.5)


def test_they_tell_their_settings() -> None:
    assert repr(EdgeDrop(0.4)) == "EdgeDrop(p=0.4, undirected=False)"
    assert repr(EdgeDrop(torch.tensor([0.25, 0.75]))) == "EdgeDrop(p=[2] of mean 0.5, undirected=False)"
    assert repr(BudgetedEdgeDrop(0.4, undirected=True)) == "BudgetedEdgeDrop(p=0.4, undirected=True)"
