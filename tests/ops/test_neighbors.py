"""Neighbour lists against Python sets, networkx and SciPy."""

from __future__ import annotations

import copy
import pickle

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import all_pairs, graphs, messy_graph, neighbor_sets
from scipy.stats import chisquare
from torch_geometric import EdgeIndex

from graphkit.ops import NeighborIndex


def sets_of(index: NeighborIndex) -> list[set[int]]:
    return neighbor_sets(index.edge_index, index.num_nodes)


def is_sorted(index: NeighborIndex) -> bool:
    return bool((index.keys.diff() > 0).all())


@given(graphs(), st.sampled_from([torch.int64, torch.int32]))
@settings(deadline=None, max_examples=60)
def test_equals_python_sets(graph, dtype) -> None:
    edge_index, num_nodes = graph
    index, want = NeighborIndex(edge_index.to(dtype), num_nodes), neighbor_sets(*graph)
    assert sets_of(index) == want
    assert is_sorted(index)
    assert index.degree.tolist() == [len(s) for s in want]
    assert index.num_edges == sum(map(len, want))
    u, v = all_pairs(num_nodes)
    assert index.has_edge(u, v).tolist() == [int(b) in want[int(a)] for a, b in zip(u, v, strict=True)]
    place = index.find(u, v)
    found = place >= 0
    assert torch.equal(index.edge_index[:, place[found]], torch.stack([u, v])[:, found])
    assert index.find(u.int(), v.int()).tolist() == place.tolist()


@given(graphs(), st.data())
@settings(deadline=None, max_examples=40)
def test_expand(graph, data) -> None:
    index, want = NeighborIndex(*graph), neighbor_sets(*graph)
    nodes = data.draw(st.lists(st.integers(0, graph[1] - 1), max_size=8))
    batch, neighbor = index.expand(torch.tensor(nodes, dtype=torch.long))
    pairs = [(place, w) for place, node in enumerate(nodes) for w in sorted(want[node])]
    assert list(zip(batch.tolist(), neighbor.tolist(), strict=True)) == pairs


@given(graphs(), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_copies_side_by_side(graph, copies) -> None:
    edge_index, num_nodes = graph
    repeated = NeighborIndex(*graph).repeat(copies)
    everywhere = torch.cat([edge_index + copy * num_nodes for copy in range(copies)], 1)
    expected = NeighborIndex(everywhere, copies * num_nodes)
    assert repeated.num_nodes == expected.num_nodes
    assert torch.equal(repeated.rowptr, expected.rowptr)
    assert torch.equal(repeated.col, expected.col)
    with pytest.raises(ValueError, match="copies must be >= 1"):
        repeated.repeat(0)


@given(graphs(), st.data())
@settings(deadline=None, max_examples=60)
def test_without(graph, data) -> None:
    index, want = NeighborIndex(*graph), neighbor_sets(*graph)
    node = st.integers(0, graph[1] - 1)
    gone = data.draw(st.lists(st.tuples(node, node), max_size=10))
    pairs = torch.tensor(gone, dtype=torch.long).view(-1, 2).t()
    before = index.edge_index
    smaller = index.without(pairs)
    for u, v in gone:
        want[u].discard(v)
        want[v].discard(u)
    assert sets_of(smaller) == want
    assert is_sorted(smaller)
    assert torch.equal(index.edge_index, before)
    assert torch.equal(index.without(pairs.int()).keys, smaller.keys)


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_two_hop_and_transposed(graph) -> None:
    index, near = NeighborIndex(*graph), neighbor_sets(*graph)
    far = index.two_hop()
    assert sets_of(far) == [set().union(*(near[w] for w in near[v])) for v in range(graph[1])]
    assert is_sorted(far)
    back = index.transposed()
    assert torch.equal(index.row[back.perm], back.col)
    assert torch.equal(NeighborIndex.from_csr(back.rowptr, back.col, graph[1]).row, index.col[back.perm])


@pytest.mark.parametrize("seed", range(3))
def test_two_hop_equals_networkx(seed: int) -> None:
    graph = nx.gnp_random_graph(25, 0.1, seed=seed)
    edges = torch.tensor(list(graph.edges)).view(-1, 2).t()
    far = NeighborIndex(torch.cat([edges, edges.flip(0)], 1), 25).two_hop()
    power = nx.to_numpy_array(graph) @ nx.to_numpy_array(graph)
    assert torch.equal(far.edge_index, torch.from_numpy(power).nonzero().t())


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
def test_made_and_changed_on_a_device(seed: int, device: str) -> None:
    """A GPU sorts, searches and masks by other means to the same lists."""
    edge_index, num_nodes = messy_graph(seed)
    index, want = NeighborIndex(edge_index.to(device), num_nodes), neighbor_sets(edge_index, num_nodes)
    assert index.device.type == device
    assert is_sorted(index)
    assert sets_of(index) == want
    u, v = all_pairs(num_nodes).to(device)
    there = [int(b) in want[int(a)] for a, b in zip(u, v, strict=True)]
    assert index.has_edge(u, v).tolist() == index.has_edge(u.int(), v.int()).tolist() == there
    back = index.transposed()
    assert torch.equal(index.row[back.perm], back.col)
    assert torch.equal(index.col[back.perm].sort().values, index.col[back.perm])
    assert neighbor_sets(index.without(edge_index[:, :4].to(device)).edge_index, num_nodes) == neighbor_sets(
        NeighborIndex(edge_index, num_nodes).without(edge_index[:, :4]).edge_index, num_nodes
    )
    thin = index.dropout(0.5)
    assert bool(index.has_edge(*thin.edge_index).all())
    assert is_sorted(thin)
    assert sets_of(index.two_hop()) == [set().union(*(want[w] for w in want[v])) for v in range(num_nodes)]
    drawn = index.sample_non_edges(50, torch.Generator().manual_seed(0))
    assert drawn.device.type == device
    on_cpu = NeighborIndex(edge_index, num_nodes).sample_non_edges(50, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.cpu(), on_cpu)


def test_dropout() -> None:
    edge_index, num_nodes = messy_graph(0)
    index = NeighborIndex(edge_index, num_nodes)
    assert index.dropout(0.0) is index
    assert index.dropout(0.7, training=False) is index
    assert index.dropout(1.0).num_edges == 0
    torch.manual_seed(0)
    kept = torch.zeros(index.num_edges)
    both = 0
    trials = 2000
    for _ in range(trials):
        thin = index.dropout(0.3)
        assert is_sorted(thin)
        place = index.find(*thin.edge_index)
        assert int(place.min()) >= 0
        kept[place] += 1
        both += int((thin.find(thin.col, thin.row) >= 0).sum())
    share = kept / trials
    assert float((share - 0.7).abs().max()) < 5 * (0.21 / trials) ** 0.5
    # Directions are dropped independently: 0.7² of the edges keep both, and loops are their own reverse.
    loops = int((index.row == index.col).sum())
    expected = 0.49 * (index.num_edges - loops) + 0.7 * loops
    assert abs(both / trials - expected) < 0.02 * expected


@pytest.mark.parametrize("seed", range(5))
def test_non_edges_are_exact(seed: int) -> None:
    index = NeighborIndex(*messy_graph(seed))
    pairs = index.sample_non_edges(500, torch.Generator().manual_seed(1))
    assert pairs.shape == (2, 500)
    assert not index.has_edge(*pairs).any()
    assert not (pairs[0] == pairs[1]).any()
    assert torch.equal(pairs, index.sample_non_edges(500, torch.Generator().manual_seed(1)))
    assert not torch.equal(pairs, index.sample_non_edges(500, torch.Generator().manual_seed(2)))


def test_non_edges_are_uniform() -> None:
    edge_index, num_nodes = messy_graph(3)
    index = NeighborIndex(edge_index, num_nodes)
    u, v = all_pairs(num_nodes)
    free = (~index.has_edge(u, v) & (u != v)).nonzero().view(-1)
    drawn = index.sample_non_edges(200 * free.numel(), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn[0] * num_nodes + drawn[1], minlength=num_nodes**2)[free]
    assert int(counts.sum()) == drawn.size(1)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_non_edges_of_dense_graphs() -> None:
    """Self-loops take no place among the pairs of distinct nodes."""
    pairs = torch.combinations(torch.arange(4)).t()[:, 1:]
    loops = torch.arange(4).repeat(2, 1)
    index = NeighborIndex(torch.cat([pairs, pairs.flip(0), loops], 1), 4)
    drawn = {tuple(pair) for pair in index.sample_non_edges(60, torch.Generator().manual_seed(0)).t().tolist()}
    assert drawn == {(0, 1), (1, 0)}
    assert index.sample_non_edges(0).shape == (2, 0)
    full = NeighborIndex(all_pairs(4), 4)
    for few in (full, NeighborIndex(torch.zeros(2, 0, dtype=torch.long), 1)):
        with pytest.raises(ValueError, match="too dense for negatives: 0 of"):
            few.sample_non_edges(1)


def test_an_edge_index_keeps_its_index() -> None:
    edges = EdgeIndex([[0, 1, 1, 2], [1, 0, 2, 1]])
    index = NeighborIndex.of(edges, 4)
    assert NeighborIndex.of(edges, 4) is index
    assert NeighborIndex.of(edges, 5) is not index
    assert NeighborIndex.of(edges, 5).num_nodes == 5
    assert NeighborIndex.of(index, 4) is index
    plain = edges.as_tensor()
    assert torch.equal(NeighborIndex.of(plain, 4).keys, index.keys)
    with pytest.raises(ValueError, match="4 nodes, the features 7 rows"):
        NeighborIndex.of(index, 7)


@pytest.mark.parametrize("write", [lambda e: e.__setitem__((0, 0), 3), lambda e: e.as_tensor().__setitem__((0, 0), 3)])
def test_a_changed_edge_index_is_read_again(write) -> None:
    edges = EdgeIndex([[0, 1, 1, 2], [1, 0, 2, 1]])
    before = NeighborIndex.of(edges, 4)
    write(edges)
    after = NeighborIndex.of(edges, 4)
    assert after is not before
    assert sets_of(after) == [set(), {0, 2}, {1}, {1}]
    assert NeighborIndex.of(edges, 4) is after


def test_inputs_and_copies() -> None:
    edge_index, num_nodes = messy_graph(1)
    before = edge_index.clone()
    index = NeighborIndex(edge_index, num_nodes)
    assert torch.equal(edge_index, before)
    assert edge_index._version == 0
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index)), index.to("cpu")):
        assert torch.equal(other.keys, index.keys)
    assert index.to("cpu") is index
    assert repr(index) == f"NeighborIndex(num_nodes={num_nodes}, num_edges={index.num_edges})"


@pytest.mark.parametrize("num_nodes", [0, 1, 3])
def test_no_edges(num_nodes: int) -> None:
    none = torch.zeros(2, 0, dtype=torch.long)
    index = NeighborIndex(none, num_nodes)
    assert index.rowptr.tolist() == [0] * (num_nodes + 1)
    assert index.edge_index.shape == (2, 0)
    for other in (index.without(none), index.dropout(0.5), index.two_hop()):
        assert other.num_edges == 0
        assert other.num_nodes == num_nodes
    nodes = torch.arange(num_nodes)
    assert not index.has_edge(nodes, nodes).any()
    assert index.expand(nodes)[1].numel() == 0


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_with_self_loops(graph) -> None:
    index, want = NeighborIndex(*graph), neighbor_sets(*graph)
    looped = index.with_self_loops()
    assert sets_of(looped) == [own | {node} for node, own in enumerate(want)]
    assert is_sorted(looped)
    assert looped.degree.tolist() == [len(own) for own in sets_of(looped)]
    assert index.with_self_loops() is looped


EDGES = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: NeighborIndex(EDGES, 1), IndexError, r"edge_index holds node id 1, outside \[0, 1\)"),
        (lambda: NeighborIndex(-EDGES, 2), IndexError, "node id -1"),
        (lambda: NeighborIndex(EDGES.float(), 2), TypeError, "int64 or int32.*float32"),
        (lambda: NeighborIndex(EDGES[0], 2), ValueError, r"shape \[2, num_pairs\] \(got \[2\]\)"),
        (lambda: NeighborIndex([[0], [1]], 2), TypeError, "got list"),
        (lambda: NeighborIndex(EDGES, -1), ValueError, "num_nodes.*-1"),
        (lambda: NeighborIndex(EDGES, 2**33), ValueError, "num_nodes"),
        (lambda: NeighborIndex(EDGES, 2).without(torch.tensor([[0], [2]])), IndexError, "pairs holds node id 2"),
        (lambda: NeighborIndex(EDGES, 2).without(EDGES.t()[:1]), ValueError, "pairs must have shape"),
        (lambda: NeighborIndex(EDGES, 2).has_edge(EDGES[0], EDGES[1] + 5), IndexError, "node id 6"),
        (lambda: NeighborIndex(EDGES, 2).find(EDGES[0], EDGES[1] - 1), IndexError, "node id -1"),
        (lambda: NeighborIndex(EDGES, 2).find(EDGES[0], EDGES[1][:1]), ValueError, "vectors of one length"),
        (lambda: NeighborIndex(EDGES, 2).dropout(1.5), ValueError, r"p must be in \[0, 1\] \(got 1.5\)"),
    ],
)
def test_bad_input(action, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        action()
