"""Pruning by shared features and by vectors, views that recover a part, and edges to similar nodes: against loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import graphs, messy_graph
from torch import Tensor
from torch_geometric.data import Data

from graphkit.transforms import CosinePrune, JaccardPrune, add_similar_edges, random_recover
from graphkit.transforms.prune import jaccard
from graphkit.transforms.undirected import undirected_edges


def words(num_nodes: int, width: int = 9, seed: int = 0) -> Tensor:
    """Binary features; the last node has none."""
    x = (torch.rand(num_nodes, width, generator=torch.Generator().manual_seed(seed)) < 0.35).float()
    x[-1] = 0
    return x


def simple_graph(seed: int) -> tuple[Tensor, int]:
    """Undirected, each edge once in both directions, with isolated nodes."""
    edges, num_nodes = messy_graph(seed)
    pairs = {(min(u, v), max(u, v)) for u, v in edges.t().tolist() if u != v}
    kept = torch.tensor(sorted(pairs), dtype=torch.long).view(-1, 2).t()
    return torch.cat([kept, kept.flip(0)], 1), num_nodes


def edge_set(edge_index: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.t().tolist()))


def share(x: Tensor, i: int, j: int) -> float:
    """The definition."""
    one, other = ({place for place, value in enumerate(x[node].tolist()) if value} for node in (i, j))
    return len(one & other) / len(one | other) if one | other else 0.0


# Jaccard -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0])
def test_jaccard_is_a_double_loop(seed: int, threshold: float) -> None:
    edges, num_nodes = simple_graph(seed)
    x = words(num_nodes, seed=seed)
    out = JaccardPrune(threshold)(Data(x=x, edge_index=edges))
    want = {(i, j) for i, j in edge_set(edges) if share(x, i, j) >= threshold}
    assert edge_set(out.edge_index) == want
    assert edge_set(out.removed_edge_index) == edge_set(edges) - want
    assert out.edge_index.size(1) + out.removed_edge_index.size(1) == edges.size(1)
    assert all((j, i) in want for i, j in want)


@given(graph=graphs(), seed=st.integers(0, 99))
def test_jaccard_of_any_graph(graph: tuple[Tensor, int], seed: int) -> None:
    """Directed graphs, self-loops and repeated edges, too."""
    edges, num_nodes = graph
    x = words(num_nodes, 4, seed)
    want = [share(x, i, j) for i, j in edges.t().tolist()]
    assert jaccard(x, edges).tolist() == want
    assert jaccard(x.to_sparse_csr(), edges).tolist() == want


def test_an_edge_at_the_threshold_stays_for_jaccard_and_goes_for_cosine() -> None:
    # Two of four words in common; vectors at 60 degrees.
    x = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    data = Data(x=x, edge_index=torch.tensor([[0, 1], [1, 0]]))
    assert JaccardPrune(0.5)(data).edge_index.size(1) == 2
    assert JaccardPrune(0.5 + 1e-12)(data).edge_index.size(1) == 0
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert CosinePrune(1.0, vectors)(data).edge_index.size(1) == 0
    assert CosinePrune(1.0 - 1e-6, vectors)(data).edge_index.size(1) == 2
    right_angle = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert CosinePrune(0.0, right_angle)(data).edge_index.size(1) == 0


def test_what_belongs_to_edges_goes_with_them() -> None:
    edges, num_nodes = simple_graph(1)
    size = edges.size(1)
    data = Data(x=words(num_nodes), edge_index=edges, edge_attr=torch.arange(size), y=torch.arange(num_nodes))
    out = JaccardPrune(0.2)(data)
    assert 0 < out.edge_index.size(1) < size
    assert torch.equal(edges[:, out.edge_attr], out.edge_index)
    assert torch.equal(out.y, data.y)
    # The graph that was given stays as it is.
    assert data.edge_index.size(1) == size
    assert "removed_edge_index" not in data


def test_pruned_twice() -> None:
    """Also where as many edges went as stayed, so that they look like an edge attribute."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    first = JaccardPrune(0.5)(Data(x=x, edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])))
    assert edge_set(first.removed_edge_index) == {(1, 2), (2, 1)}
    second = CosinePrune(0.0, torch.tensor([[1.0], [-1.0], [1.0]]))(first)
    assert second.edge_index.size(1) == 0
    assert edge_set(second.removed_edge_index) == {(0, 1), (1, 0)}


def test_binarize() -> None:
    x = words(12) * 0.7
    edges, _ = simple_graph(0)
    data = Data(x=x, edge_index=edges % 12)
    with pytest.raises(ValueError, match=r"data.x must hold zeros and ones alone \(got 0.69.*binarize=True"):
        JaccardPrune(0.2)(data)
    plain = JaccardPrune(0.2)(Data(x=(x != 0).float(), edge_index=data.edge_index))
    assert torch.equal(JaccardPrune(0.2, binarize=True)(data).edge_index, plain.edge_index)


def test_a_graph_without_features() -> None:
    data = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
    assert JaccardPrune(0.0)(data).edge_index.size(1) == 2
    with pytest.raises(ValueError, match=r"data.x must be a matrix .* a threshold of 0 needs none"):
        JaccardPrune(0.1)(data)


# Cosine --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.3])
def test_cosine_is_a_double_loop(threshold: float) -> None:
    edges, num_nodes = simple_graph(2)
    h = torch.randn(num_nodes, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = CosinePrune(threshold, h)(Data(edge_index=edges, num_nodes=num_nodes))
    want = {(i, j) for i, j in edge_set(edges) if float(h[i] @ h[j] / (h[i].norm() * h[j].norm())) > threshold}
    assert edge_set(out.edge_index) == want
    assert edge_set(out.removed_edge_index) == edge_set(edges) - want
    assert 0 < len(want) < edges.size(1)


# Views ---------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 30), ratio=st.floats(0, 1))
def test_a_view_lies_between_the_pruned_and_the_whole_graph(seed: int, ratio: float) -> None:
    edges, num_nodes = simple_graph(seed)
    pruned = JaccardPrune(0.3)(Data(x=words(num_nodes, seed=seed), edge_index=edges))
    view = random_recover(pruned.edge_index, pruned.removed_edge_index, ratio, torch.Generator().manual_seed(seed))
    found = edge_set(view)
    assert edge_set(pruned.edge_index) <= found <= edge_set(edges)
    assert len(found) == view.size(1)
    assert all((j, i) in found for i, j in found)
    assert (view.size(1) - pruned.edge_index.size(1)) // 2 == math.floor(
        ratio * (pruned.removed_edge_index.size(1) // 2) + 1e-9
    )


def test_the_share_that_comes_back_is_meant_in_decimals() -> None:
    removed = undirected_star(100)
    assert random_recover(removed[:, :0], removed, 0.29).size(1) == 58  # 0.29 * 100 is a little less than 29


def undirected_star(leaves: int) -> Tensor:
    leaf = torch.arange(1, leaves + 1)
    out = torch.stack([torch.zeros_like(leaf), leaf])
    return torch.cat([out, out.flip(0)], 1)


def test_views_differ_and_their_seed_fixes_them() -> None:
    removed = undirected_star(50)
    one, again, other = (
        edge_set(random_recover(removed[:, :0], removed, 0.5, torch.Generator().manual_seed(seed)))
        for seed in (0, 0, 1)
    )
    assert one == again != other


# Similar nodes -------------------------------------------------------------------------------------------------------


def cosines(h: Tensor) -> list[list[float]]:
    unit = h / h.norm(dim=1, keepdim=True)
    return (unit @ unit.t()).tolist()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_similar_edges_are_a_loop(seed: int, k: int, include_self: bool) -> None:
    edges, num_nodes = simple_graph(seed + 10)
    h = torch.randn(num_nodes, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    degree = [sum(u == node for u, _ in edge_set(edges)) for node in range(num_nodes)]
    eligible = [node for node in range(num_nodes) if degree[node] > 1]
    if len(eligible) - (not include_self) < k:
        pytest.skip("too few nodes to pick from")
    near = cosines(h)
    want = edge_set(edges)
    for i in range(num_nodes):
        others = [j for j in eligible if include_self or j != i]
        # As released: the node itself, with a cosine of 1, takes a place and is dropped afterwards.
        picked = sorted(others, key=lambda j: -near[i][j] if j != i else -2)[:k]
        want |= {(j, i) for j in picked if j != i}
    out = add_similar_edges(h, edges, k, include_self=include_self, block_size=4)
    assert edge_set(out) == want
    assert out.size(1) == len(want)
    assert torch.equal(out, add_similar_edges(h, edges, k, include_self=include_self))


def test_one_pick_of_nodes_that_may_be_picked_adds_nothing() -> None:
    ring = torch.arange(8)
    edges = torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1)
    # Copies of one vector: a node is its own first pick among equals.
    h = torch.ones(8, 3)
    assert edge_set(add_similar_edges(h, edges, k=1)) == edge_set(edges)
    assert len(edge_set(add_similar_edges(torch.eye(8), edges, k=1, include_self=False))) > 0


def test_loners_are_not_picked() -> None:
    edges, num_nodes = simple_graph(12)
    h = torch.randn(num_nodes, 3, generator=torch.Generator().manual_seed(0))
    degree = torch.bincount(edges[0], minlength=num_nodes)
    new = edge_set(add_similar_edges(h, edges, k=3)) - edge_set(edges)
    assert new
    assert all(degree[source] > 1 for source, _ in new)
    assert any(degree[target] <= 1 for _, target in new)


# Undirected edges ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 30))
def test_undirected_edges_once(seed: int) -> None:
    edges, num_nodes = simple_graph(seed)
    twice = torch.cat([edges, edges[:, :3], edges[:, :3].flip(0)], 1)
    pairs = undirected_edges(twice, num_nodes)
    assert edge_set(pairs) == {(u, v) for u, v in edge_set(edges) if u < v}
    assert pairs.size(1) == len(edge_set(pairs))


LINE = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: undirected_edges(LINE[:, :3], 3), ValueError, "both directions of every edge .got 1 -> 2 alone"),
        (lambda: undirected_edges(torch.tensor([[2], [2]]), 3), ValueError, "self-loops .got 1, the first at node 2"),
        (lambda: undirected_edges(LINE, 2), IndexError, "node id 2"),
        (lambda: JaccardPrune(-0.1), ValueError, "threshold must be in"),
        (lambda: JaccardPrune(1.1), ValueError, "threshold must be in"),
        (lambda: CosinePrune(1.1, torch.ones(3, 1)), ValueError, "threshold must be in"),
        (lambda: CosinePrune(0, torch.ones(2, 1))(Data(edge_index=LINE, num_nodes=3)), ValueError, "3 rows.*got 2"),
        (lambda: JaccardPrune(0.1)(Data(x=torch.ones(3, 1))), ValueError, "must have edge_index"),
        (lambda: random_recover(LINE, LINE, 1.5), ValueError, "ratio must be in"),
        (lambda: random_recover(LINE, LINE, -0.1), ValueError, "ratio must be in"),
        (lambda: random_recover(LINE, LINE[:, :1]), ValueError, "removed_edge_index must hold both directions"),
        (lambda: add_similar_edges(torch.ones(3, 2), LINE, -1), ValueError, "k must be in"),
        (lambda: add_similar_edges(torch.ones(3, 2), LINE, 2), ValueError, "k=2 needs.*got 1 in all"),
        (lambda: add_similar_edges(torch.ones(3, 2), LINE, 1, include_self=False), ValueError, "k=1 needs"),
        (lambda: add_similar_edges(torch.ones(2, 2), LINE, 1), IndexError, "edge_index holds node id 2"),
        (lambda: add_similar_edges(None, LINE, 1), ValueError, "embedding must be a matrix .*got NoneType"),
        (lambda: add_similar_edges(torch.ones(3, 2), None, 1), TypeError, "edge_index must be .*got NoneType"),
        (lambda: add_similar_edges(torch.ones(3, 2), LINE.to("meta"), 1), ValueError, "edge_index is on meta"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_repr() -> None:
    assert repr(JaccardPrune(0.1)) == "JaccardPrune(0.1)"
    assert repr(CosinePrune(0.1, torch.ones(3, 2))) == "CosinePrune(0.1, embedding=[3, 2])"
