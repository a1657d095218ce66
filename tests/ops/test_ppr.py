"""Personalised PageRank against the solution of its linear system."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.ops import NeighborIndex, to_csr
from graphkit.ops.ppr import NodeScores, ppr, ppr_power

N = 40


def random_edges(undirected: bool) -> Tensor:
    """The first nodes are dead ends unless undirected; the last has no edge at all."""
    edges = torch.randint(N - 1, (2, 120), generator=torch.Generator().manual_seed(0))
    return torch.cat([edges, edges.flip(0)], 1) if undirected else edges[:, edges[0] > 3]


def transitions(edges: Tensor, num_nodes: int, distinct: bool) -> Tensor:
    step = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    step.index_put_((edges[0], edges[1]), torch.ones(edges.size(1), dtype=torch.float64), accumulate=True)
    if distinct:
        step.clamp_(max=1)
    degree = step.sum(1)
    step /= degree.clamp(min=1)[:, None]
    step[degree == 0, degree == 0] = 1
    return step


def exact(step: Tensor, alpha: float) -> Tensor:
    return alpha * torch.linalg.inv(torch.eye(step.size(0), dtype=torch.float64) - (1 - alpha) * step)


def dense(scores: NodeScores, num_nodes: int) -> Tensor:
    out = torch.zeros(scores.ptr.numel() - 1, num_nodes, dtype=torch.float64)
    out[scores.batch, scores.node] = scores.value
    return out


@pytest.mark.parametrize("function", [ppr, ppr_power])
@pytest.mark.parametrize("alpha", [0.05, 0.15, 0.7])
@pytest.mark.parametrize("distinct", [True, False])
def test_converges_to_the_linear_system(function, alpha: float, distinct: bool) -> None:
    edges = random_edges(undirected=False)
    graph = NeighborIndex(edges, N) if distinct else to_csr(edges[0], edges[1], N)
    expected = exact(transitions(edges, N, distinct), alpha)
    errors = []
    for eps in (1e-2, 1e-4, 1e-8, 1e-12):
        found = dense(function(graph, torch.arange(N), alpha, eps), N)
        assert bool((found <= expected + 1e-12).all())
        assert bool((found.sum(1) <= 1 + 1e-12).all())
        errors.append(float((expected - found).max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_residual_per_degree(data: st.DataObject) -> None:
    """What push leaves behind follows from the estimate: r = e_s - (p - (1 - alpha) p P) / alpha, at live nodes."""
    num_nodes = data.draw(st.integers(1, 12))
    ends = st.integers(0, num_nodes - 1)
    edges = torch.tensor(data.draw(st.lists(st.tuples(ends, ends), max_size=40)), dtype=torch.int64).view(-1, 2).t()
    edges = torch.cat([edges, edges.flip(0)], 1)
    alpha, eps = data.draw(st.sampled_from([0.1, 0.5, 0.9])), data.draw(st.sampled_from([0.3, 1e-2, 1e-4]))
    index = NeighborIndex(edges, num_nodes)
    step = transitions(edges, num_nodes, True)
    sources = torch.arange(num_nodes)
    found = dense(ppr(index, sources, alpha, eps), num_nodes)
    residual = torch.eye(num_nodes, dtype=torch.float64) - (found - (1 - alpha) * found @ step) / alpha
    assert float(residual.min()) > -1e-9
    assert bool((residual < eps * index.degree.clamp(min=1).double() + 1e-12).all())
    # On undirected graphs the error at a node is below eps times its degree.
    assert bool((exact(step, alpha) - found <= eps * index.degree.clamp(min=1).double() + 1e-12).all())


def test_agrees_with_networkx() -> None:
    edges = random_edges(undirected=True)
    index = NeighborIndex(edges[:, edges[0] != edges[1]], N)
    graph = nx.Graph(index.edge_index.t().tolist())
    graph.remove_nodes_from([node for node in graph if graph.degree(node) == 0])
    found = dense(ppr(index, torch.tensor([5]), 0.15, 1e-9), N)[0]
    expected = nx.pagerank(graph, alpha=0.85, personalization={5: 1}, tol=1e-12)
    for node, value in expected.items():
        assert float(found[node]) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("function", [ppr, ppr_power])
@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_top_k(function, top_k: int) -> None:
    index = NeighborIndex(random_edges(undirected=True), N)
    sources = torch.tensor([7, 0, N - 1, 7])
    whole, best = function(index, sources), function(index, sources, top_k=top_k)
    for i in range(len(sources)):
        a, b = whole.ptr[i], min(whole.ptr[i] + top_k, whole.ptr[i + 1])
        c, d = best.ptr[i], best.ptr[i + 1]
        assert whole.node[a:b].equal(best.node[c:d])
        assert whole.value[a:b].equal(best.value[c:d])
        values = whole.value[whole.ptr[i] : whole.ptr[i + 1]]
        assert bool((values.diff() <= 0).all())
    assert whole.node[whole.ptr[2] : whole.ptr[3]].tolist() == [N - 1]


def test_equal_values_come_by_node() -> None:
    star = torch.tensor([[0, 0, 0, 0], [4, 2, 3, 1]])
    scores = ppr(NeighborIndex(star, 5), torch.tensor([0]), 0.1, 1e-3, top_k=3)
    assert scores.node.tolist() == [1, 2, 3]
    assert ppr(NeighborIndex(star, 5), torch.tensor([0]), 0.1, 1e-3).node.tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("function", [ppr, ppr_power])
def test_small_cases(function) -> None:
    empty = NeighborIndex(torch.empty(2, 0, dtype=torch.int64), 3)
    none = torch.empty(0, dtype=torch.int64)
    assert function(empty, none).ptr.tolist() == [0]
    scores = function(empty, torch.tensor([2, 0], dtype=torch.int32))
    assert (scores.node.tolist(), scores.value.tolist()) == ([2, 0], [1, 1])
    loop = function(NeighborIndex(torch.tensor([[0], [0]]), 1), torch.tensor([0]), 0.3, 1e-9)
    assert loop.value.tolist() == pytest.approx([1])
    nobody = NeighborIndex(torch.empty(2, 0, dtype=torch.int64), 0)
    assert function(nobody, none).node.numel() == 0


def test_a_source_is_always_in_its_own_list() -> None:
    """Even if its degree alone keeps it below the threshold."""
    star = torch.tensor([[0] * 9, list(range(1, 10))])
    assert ppr(NeighborIndex(star, 10), torch.tensor([0]), 0.2, 0.5).node.tolist() == [0]


def test_threads_do_not_matter() -> None:
    index = NeighborIndex(random_edges(undirected=True), N)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(ppr(index, torch.arange(N)))
    finally:
        torch.set_num_threads(before)
    assert all(a.equal(b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("function", [ppr, ppr_power])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": torch.tensor([N])}, IndexError, f"sources holds node id {N}"),
        ({"sources": torch.tensor([-1])}, IndexError, "sources holds node id -1"),
        ({"sources": torch.tensor(1)}, ValueError, "sources must be a vector"),
        ({"sources": torch.tensor([0.5])}, TypeError, "sources must be int64"),
        ({"alpha": 0.0}, ValueError, "alpha must be in \\(0, 1\\)"),
        ({"alpha": 1}, ValueError, "alpha must be in \\(0, 1\\)"),
        ({"alpha": "a"}, TypeError, "alpha must be a number"),
        ({"eps": 0.0}, ValueError, "eps must be in \\(0, 1\\)"),
        ({"eps": float("nan")}, ValueError, "eps must be in \\(0, 1\\)"),
        ({"top_k": 0}, ValueError, "top_k must be >= 1"),
        ({"top_k": 2.0}, TypeError, "top_k must be an integer"),
        ({"graph": random_edges(True)}, TypeError, "graph must be a NeighborIndex"),
    ],
)
def test_refuses(function, arguments: dict, error: type, message: str) -> None:
    index = NeighborIndex(random_edges(undirected=True), N)
    with pytest.raises(error, match=message):
        function(**{"graph": index, "sources": torch.tensor([0])} | arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("top_k", [None, 3])
def test_gpu(top_k: int | None) -> None:
    edges = random_edges(undirected=False)
    found = ppr(NeighborIndex(edges.cuda(), N), torch.arange(N).cuda(), top_k=top_k)
    expected = ppr_power(NeighborIndex(edges, N), torch.arange(N), top_k=top_k)
    assert found.value.is_cuda
    assert found.ptr.cpu().equal(expected.ptr)
    torch.testing.assert_close(found.value.cpu(), expected.value)
