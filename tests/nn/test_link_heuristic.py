"""Classical link scores against networkx and dense matrices."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from samples import GOLDEN
from torch import Tensor

from graphkit.nn import LinkHeuristic, LinkPredictor, NCNDecoder, PureGNN
from graphkit.ops import NeighborIndex

NODES = 22


def sample(seed: int) -> tuple[nx.Graph, NeighborIndex, Tensor]:
    """A connected graph, its index, and pairs of distinct nodes with and without an edge."""
    graph = nx.connected_watts_strogatz_graph(NODES, 4, 0.4, seed=seed)
    edges = torch.tensor(list(graph.edges)).t()
    pairs = torch.combinations(torch.arange(NODES)).t()
    pairs = pairs[:, torch.randperm(pairs.size(1), generator=torch.Generator().manual_seed(seed))]
    return graph, NeighborIndex(torch.cat([edges, edges.flip(0)], 1), NODES), pairs


def score(kind: str, index: NeighborIndex, pairs: Tensor, **options) -> Tensor:
    out = LinkHeuristic(kind, **options)(None, index, pairs)
    assert out.shape == (pairs.size(1), 1)
    return out[:, 0].double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("aa", nx.adamic_adar_index),
        ("ra", nx.resource_allocation_index),
        ("jaccard", nx.jaccard_coefficient),
        ("cn", lambda graph, pairs: [(u, v, len(list(nx.common_neighbors(graph, u, v)))) for u, v in pairs]),
    ],
)
def test_neighbor_scores_are_those_of_networkx(seed: int, kind: str, function) -> None:
    graph, index, pairs = sample(seed)
    want = torch.tensor([float(value) for _, _, value in function(graph, pairs.t().tolist())], dtype=torch.float64)
    torch.testing.assert_close(score(kind, index, pairs), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("block_size", [1, 4, 256])
def test_katz_is_the_sum_of_matrix_powers(length: int, block_size: int) -> None:
    graph, index, pairs = sample(0)
    adjacency = nx.to_numpy_array(graph)
    total = sum(0.1**step * np.linalg.matrix_power(adjacency, step) for step in range(1, length + 1))
    got = score("katz", index, pairs, beta=0.1, length=length, block_size=block_size)
    want = torch.from_numpy(total[pairs[0].numpy(), pairs[1].numpy()])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_long_katz_is_the_closed_form() -> None:
    graph, index, pairs = sample(1)
    closed = np.linalg.inv(np.eye(NODES) - 0.05 * nx.to_numpy_array(graph)) - np.eye(NODES)
    want = torch.from_numpy(closed[pairs[0].numpy(), pairs[1].numpy()])
    torch.testing.assert_close(score("katz", index, pairs, length=40), want, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(score("katz", index, pairs), want, rtol=1e-5, atol=1e-7)  # the default stops at 5


@pytest.mark.parametrize("block_size", [3, 256])
def test_ppr_is_personalised_pagerank_both_ways(block_size: int) -> None:
    graph, index, pairs = sample(2)
    rank = [nx.pagerank(graph, 0.85, {node: 1.0}, max_iter=500, tol=1e-12) for node in range(NODES)]
    want = torch.tensor([rank[u][v] + rank[v][u] for u, v in pairs.t().tolist()], dtype=torch.float64)
    got = score("ppr", index, pairs, length=150, block_size=block_size)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    # Thirty steps leave out walks of probability 0.85^31 at most, in each direction.
    short = score("ppr", index, pairs)
    assert bool((short <= got + 1e-6).all())
    assert float((got - short).max()) <= 2 * 0.85**31


@pytest.mark.parametrize("kind", ["cn", "aa", "ra", "jaccard", "katz", "ppr"])
def test_borders(kind: str) -> None:
    index = NeighborIndex(GOLDEN, 7)  # two isolated nodes
    heuristic = LinkHeuristic(kind)
    assert heuristic(None, index, torch.zeros(2, 0, dtype=torch.long)).shape == (0, 1)
    lonely = heuristic(None, index, torch.tensor([[5, 5, 0], [6, 0, 6]]))
    assert lonely.tolist() == [[0.0], [0.0], [0.0]]
    empty = NeighborIndex(torch.zeros(2, 0, dtype=torch.long), 3)
    assert heuristic(None, empty, torch.tensor([[0], [1]])).tolist() == [[0.0]]
    pairs = torch.tensor([[0, 0, 2, 0], [1, 1, 3, 1]])
    repeated = heuristic(None, index, pairs)
    assert repeated[0] == repeated[1] == repeated[3]
    assert torch.equal(heuristic(torch.ones(7, 2), torch.cat([GOLDEN, GOLDEN], 1), pairs), repeated)


def test_bad_input() -> None:
    index = NeighborIndex(GOLDEN, 5)
    with pytest.raises(ValueError, match=r"kind must be one of.*did you mean 'jaccard'"):
        LinkHeuristic("jacard")
    for options in ({"beta": 2.0}, {"alpha": -1.0}, {"length": 0}, {"block_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be in"):
            LinkHeuristic("katz", **options)
    with pytest.raises(IndexError, match="node id 5"):
        LinkHeuristic("cn")(None, index, torch.tensor([[0], [5]]))
    with pytest.raises(ValueError, match="NeighborIndex where x is None"):
        LinkHeuristic("cn")(None, GOLDEN, torch.tensor([[0], [1]]))
    assert repr(LinkHeuristic("ppr")) == "LinkHeuristic('ppr')"


def test_it_stands_in_for_a_trained_model() -> None:
    """The same three calls as an encoder with a decoder."""
    index, pairs = NeighborIndex(GOLDEN, 5), torch.tensor([[0, 2], [1, 4]])
    for model, x in ((LinkHeuristic("cn"), None), (LinkPredictor(PureGNN(3, 4), NCNDecoder(4, 4)), torch.ones(5, 3))):
        model.reset_parameters()
        out = model.decode(model.encode(x, index), index, pairs)
        assert out.shape == (2, 1)
        assert torch.equal(out, model(x, index, pairs))
