"""Random walks against their transition probabilities, and the CPU kernels against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from graphkit.ops import CSR, NeighborIndex, to_csr
from graphkit.ops.walk import neighborhood_walks, random_walk, random_walk_reference, visited_sets

N = 30
BIASES = [(1.0, 1.0), (0.3, 0.7), (0.5, 2.0), (4.0, 0.25), (1e-7, 1.0), (1e7, 1e7), (1.0, 1e-7)]


def random_edges(seed: int = 0) -> Tensor:
    """Directed, with duplicates and self-loops; the first nodes are dead ends, the last has no edge at all."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(N - 1, (2, 150), generator=generator)
    return edges[:, edges[0] > 3]


def graphs() -> list[NeighborIndex | CSR]:
    edges = random_edges()
    return [NeighborIndex(edges, N), to_csr(edges[0], edges[1], N)]


@pytest.mark.parametrize(("p", "q"), BIASES)
@pytest.mark.parametrize("kind", [0, 1])
def test_cpu_equals_reference(p: float, q: float, kind: int) -> None:
    graph = graphs()[kind]
    start = torch.arange(400) % N
    walk = random_walk(graph, start, 15, p, q, seed=1)
    assert walk.equal(random_walk_reference(graph.rowptr, graph.col, start, 15, p, q, 1))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_steps_are_edges(data: st.DataObject) -> None:
    num_nodes = data.draw(st.integers(1, 10))
    ends = st.integers(0, num_nodes - 1)
    edges = data.draw(st.lists(st.tuples(ends, ends), max_size=30))
    index = NeighborIndex(torch.tensor(edges, dtype=torch.int64).view(-1, 2).t(), num_nodes)
    start = torch.tensor(data.draw(st.lists(ends, max_size=8)), dtype=torch.int64)
    p, q = data.draw(st.sampled_from(BIASES))
    walk = random_walk(index, start, data.draw(st.integers(0, 6)), p, q)
    assert walk[:, 0].equal(start)
    before, after = walk[:, :-1].reshape(-1), walk[:, 1:].reshape(-1)
    stays = (before == after) & (index.degree[before] == 0)
    assert bool((index.has_edge(before, after) | stays).all())


def assert_fits(counts: Tensor, probability: Tensor) -> None:
    possible = probability > 0
    assert bool((counts[~possible] == 0).all())
    expected = probability[possible] * counts.sum()
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(1e-6, max(int(possible.sum()) - 1, 1))


@pytest.mark.parametrize("kind", [0, 1])
def test_uniform(kind: int) -> None:
    """A duplicate edge counts twice in a CSR, once in a NeighborIndex."""
    edges = torch.tensor([[0, 0, 0, 0], [1, 2, 2, 3]])
    graph = NeighborIndex(edges, 4) if kind == 0 else to_csr(edges[0], edges[1], 4)
    walk = random_walk(graph, torch.zeros(20_000, dtype=torch.int64), 1, seed=1)
    weight = torch.tensor([0.0, 1, 1 + kind, 1])
    assert_fits(torch.bincount(walk[:, 1], minlength=4), weight / weight.sum())


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (2.0, 0.5), (1e-7, 1.0), (1e3, 1e-3), (1.0, 100.0)])
def test_node2vec_probabilities(p: float, q: float) -> None:
    """Every second step, given the first, against the weights of the paper; a triangle with tails, and a self-loop."""
    undirected = torch.tensor([[0, 0, 1, 1, 1, 2, 3], [1, 2, 2, 3, 4, 2, 4]])
    index = NeighborIndex(torch.cat([undirected, undirected.flip(0)], 1), 5)
    walk = random_walk(index, torch.zeros(60_000, dtype=torch.int64), 2, p, q, seed=2)
    for middle in (1, 2):
        weight = torch.zeros(5)
        for end in range(5):
            if bool(index.has_edge(torch.tensor([middle]), torch.tensor([end]))):
                near = bool(index.has_edge(torch.tensor([0]), torch.tensor([end])))
                weight[end] = 1 / p if end == 0 else 1 if near else 1 / q
        counts = torch.bincount(walk[walk[:, 1] == middle, 2], minlength=5)
        probability = weight / weight.sum()
        # Where the test of fit needs more than a few expected counts.
        probability[probability * counts.sum() < 1e-3] = 0
        counts[probability == 0] = 0
        assert_fits(counts, probability)


def test_two_steps_without_bias_are_a_product_of_matrices() -> None:
    undirected = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 2, 3, 4]])
    index = NeighborIndex(torch.cat([undirected, undirected.flip(0)], 1), 5)
    step = torch.zeros(5, 5)
    step[index.row, index.col] = 1
    step /= step.sum(1, keepdim=True)
    walk = random_walk(index, torch.zeros(30_000, dtype=torch.int64), 3, seed=3)
    assert_fits(torch.bincount(walk[:, 3], minlength=5), torch.linalg.matrix_power(step, 3)[0])


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.5, 2.0)])
def test_small_cases(p: float, q: float) -> None:
    empty = NeighborIndex(torch.empty(2, 0, dtype=torch.int64), 3)
    assert random_walk(empty, torch.tensor([2]), 2, p, q).tolist() == [[2, 2, 2]]
    none = torch.empty(0, dtype=torch.int64)
    assert random_walk(empty, none, 2, p, q).shape == (0, 3)
    assert random_walk_reference(empty.rowptr, empty.col, torch.tensor([2]), 2, p, q, 0).tolist() == [[2, 2, 2]]
    loop = NeighborIndex(torch.tensor([[0], [0]]), 1)
    assert random_walk(loop, torch.tensor([0], dtype=torch.int32), 3, p, q).tolist() == [[0, 0, 0, 0]]
    assert random_walk(loop, torch.tensor([0]), 0, p, q).tolist() == [[0]]
    nobody = NeighborIndex(torch.empty(2, 0, dtype=torch.int64), 0)
    assert random_walk(nobody, none, 1, p, q).shape == (0, 2)


def test_seed_and_threads() -> None:
    index = graphs()[0]
    start = torch.arange(6000) % N
    torch.manual_seed(1)
    a, b = random_walk(index, start, 8, 0.5, 2), random_walk(index, start, 8, 0.5, 2)
    torch.manual_seed(1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4 if before == 1 else 1)
        assert random_walk(index, start, 8, 0.5, 2).equal(a)
    finally:
        torch.set_num_threads(before)
    assert not a.equal(b)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": torch.tensor([N])}, IndexError, f"start holds node id {N}"),
        ({"start": torch.tensor([-1])}, IndexError, "start holds node id -1"),
        ({"start": torch.tensor([0.0])}, TypeError, "start must be int64"),
        ({"start": torch.zeros(1, 1, dtype=torch.int64)}, ValueError, "start must be a vector"),
        ({"length": -1}, ValueError, "length must be >= 0"),
        ({"length": 1.5}, TypeError, "length must be an integer"),
        ({"p": 0.0}, ValueError, "p must be positive"),
        ({"q": -1.0}, ValueError, "q must be positive"),
        ({"p": float("nan")}, ValueError, "p must be positive"),
        ({"q": "2"}, TypeError, "q must be a number"),
        ({"graph": torch.tensor([[0], [1]])}, TypeError, "graph must be a NeighborIndex"),
    ],
)
def test_refuses(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        random_walk(**{"graph": graphs()[0], "start": torch.tensor([0]), "length": 2} | arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("p", "q"), BIASES)
def test_gpu_gives_the_same(p: float, q: float) -> None:
    edges, start = random_edges(), torch.arange(400) % N
    for device_graph, graph in (
        (NeighborIndex(edges.cuda(), N), NeighborIndex(edges, N)),
        (to_csr(edges[0].cuda(), edges[1].cuda(), N), to_csr(edges[0], edges[1], N)),
    ):
        found = random_walk(device_graph, start.cuda(), 15, p, q, seed=1)
        assert found.is_cuda
        assert found.cpu().equal(random_walk(graph, start, 15, p, q, seed=1))


def test_numbered_walks_do_not_depend_on_their_neighbours():
    graph = graphs()[0]
    start = torch.arange(6) % graph.num_nodes
    number = torch.tensor([5, 0, 3, 3, 9, 1])
    walk = random_walk(graph, start, 5, seed=4, number=number)
    assert walk[4:].equal(random_walk(graph, start[4:], 5, seed=4, number=number[4:]))
    assert random_walk(graph, start, 5, seed=4).equal(random_walk(graph, start, 5, seed=4, number=torch.arange(6)))
    assert walk.equal(random_walk_reference(graph.rowptr, graph.col, start, 5, 1, 1, 4, number))
    with pytest.raises(ValueError, match=r"number must be int64 \[6\]"):
        random_walk(graph, start, 5, number=number[:2])


def test_walks_of_a_graph_are_those_of_its_copy_in_a_batch():
    graph = graphs()[0]
    rank = torch.arange(graph.num_nodes).repeat(3)
    alone = neighborhood_walks(graph, 3, 2, 4, seed=1)
    together = neighborhood_walks(graph.repeat(3), 3, 2, 4, seed=1, rank=rank)
    for walk, batch in zip(alone, together, strict=True):
        for copy in range(3):
            part = batch[copy * graph.num_nodes : (copy + 1) * graph.num_nodes]
            assert part.equal(walk + copy * graph.num_nodes)
    lengths = [walk.shape for walk in alone]
    assert lengths == [(graph.num_nodes, 2, 4, length + 1) for length in (3, 2, 1)]


def test_sets_of_visited_nodes_by_brute_force():
    graph = graphs()[0]
    walks = neighborhood_walks(graph, 2, 3, 2, seed=0)
    ptr, member = visited_sets(walks, graph.num_nodes)
    sets = []
    for node in range(graph.num_nodes):
        sets += [sorted(set(walk[node, group].flatten().tolist())) for walk in walks for group in range(3)]
        sets.append([node])
    assert [part.tolist() for part in member.tensor_split(ptr[1:-1])] == sets
    alone = visited_sets([], 3)
    assert (alone[0].tolist(), alone[1].tolist()) == ([0, 1, 2, 3], [0, 1, 2])
