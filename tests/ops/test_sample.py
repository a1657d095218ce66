"""Neighbour sampling against enumeration, and the CPU kernels against plain PyTorch."""

from __future__ import annotations

import itertools
import multiprocessing
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils import k_hop_subgraph

from graphkit.ops import sample as ops
from graphkit.ops import to_csr
from graphkit.ops.sample import induced_edges, sample_neighbors, sample_subgraph, sampling_graph

N = 40


def random_edges(num_edges: int = 240, num_nodes: int = N, seed: int = 0) -> Tensor:
    """Duplicates, self-loops and nodes without edges included: the last four nodes have none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_nodes - 4, (2, num_edges), generator=generator)


def reference():
    return (
        mock.patch.object(ops, "_sample", ops._sample_reference),
        mock.patch.object(ops.cpu, "NodeTable", ops._NodeTable),
    )


def star(degree: int, **attributes: Tensor) -> ops.SamplingGraph:
    """Node 0 with neighbours 1 .. degree, edge i to node i + 1."""
    nodes = torch.arange(1, degree + 1)
    return sampling_graph(torch.stack([nodes, torch.zeros_like(nodes)]), degree + 1, **attributes)


def assert_fits(counts: Tensor, expected: Tensor) -> None:
    """Chi-square test at a level that a correct sampler fails once in a million seeds; the seeds are fixed."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(1e-6, counts.numel() - 1)


VARIANTS = {
    "plain": ({}, None),
    "weight": ({"weight": torch.rand(240, generator=torch.Generator().manual_seed(1))}, None),
    "zero weights": ({"weight": torch.arange(240) % 3}, None),
    "edge time": ({"time": torch.arange(240) * 37 % 100}, 20),
    "float time": ({"time": (torch.arange(240) * 37 % 100) / 10}, 2.5),
    "node time": ({"node_time": torch.arange(N) * 7 % 100}, None),
    "weight and time": ({"time": torch.arange(240) * 37 % 100, "weight": torch.arange(240) % 5 + 0.5}, 50),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_cpu_equals_reference(variant: str) -> None:
    attributes, window = VARIANTS[variant]
    graph = sampling_graph(random_edges(), N, **attributes)
    seeds = torch.randint(N, (30,), generator=torch.Generator().manual_seed(2))
    times = None
    if graph.time is not None:
        times = (torch.arange(30) * 13 % 100).to(graph.time.dtype) / (10 if graph.time.is_floating_point() else 1)
        times = times.to(graph.time.dtype)
    options = itertools.product((-1, 0, 1, 3, 100), (False, True), ("uniform", "last"), (None, window), (False, True))
    for count, replace, strategy, width, disjoint in options:
        arguments = {
            "replace": replace, "seed_time": times, "strategy": strategy, "window": width, "disjoint": disjoint
        }  # fmt: skip
        fast = sample_subgraph(graph, seeds, [count, count], seed=5, **arguments)
        sampler, table = reference()
        with sampler, table:
            slow = sample_subgraph(graph, seeds, [count, count], seed=5, **arguments)
        for a, b in zip(fast, slow, strict=True):
            assert a.equal(b) if isinstance(a, Tensor) else a == b, arguments


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_layout(data: st.DataObject) -> None:
    """Every sampled edge is an edge; counts, order and numbers are as promised."""
    num_nodes = data.draw(st.integers(1, 12))
    ends = st.integers(0, num_nodes - 1)
    edges = data.draw(st.lists(st.tuples(ends, ends), max_size=40))
    edge_index = torch.tensor(edges, dtype=torch.int64).view(-1, 2).t().contiguous()
    seeds = torch.tensor(data.draw(st.lists(ends, max_size=6)), dtype=torch.int64)
    counts = data.draw(st.lists(st.integers(-1, 4), min_size=1, max_size=3))
    replace, disjoint = data.draw(st.booleans()), data.draw(st.booleans())
    graph = sampling_graph(edge_index, num_nodes)
    out = sample_subgraph(graph, seeds, counts, replace=replace, disjoint=disjoint, seed=data.draw(st.integers(0, 99)))
    assert edge_index[:, out.edge].equal(torch.stack([out.node[out.row], out.node[out.col]]))
    assert out.node[: seeds.numel()].equal(seeds)
    assert bool((out.col.diff() >= 0).all())
    assert sum(out.num_sampled_nodes) == out.node.numel()
    assert sum(out.num_sampled_edges) == out.edge.numel()
    if disjoint:
        assert out.batch is not None
        assert out.batch[out.row].equal(out.batch[out.col])
        assert out.batch[: seeds.numel()].equal(torch.arange(seeds.numel()))
        keys = out.batch * num_nodes + out.node
        assert keys.unique().numel() == keys.numel()
    else:
        new = out.node[seeds.numel() :]
        assert torch.cat([seeds.unique(), new]).unique().numel() == seeds.unique().numel() + new.numel()
    degree = torch.bincount(edge_index[1], minlength=num_nodes)
    begin, place = 0, 0
    for count, nodes, num_edges in zip(counts, out.num_sampled_nodes, out.num_sampled_edges, strict=False):
        expected = degree[out.node[begin : begin + nodes]]
        if count >= 0:
            expected = (expected > 0) * count if replace else expected.clamp(max=count)
        got = torch.bincount(out.col[place : place + num_edges] - begin, minlength=nodes)
        assert got.equal(expected)
        begin, place = begin + nodes, place + num_edges
    if not replace:
        pairs = torch.stack([out.col, out.edge])
        assert pairs.unique(dim=1).size(1) == pairs.size(1)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_all_neighbors_is_k_hop_subgraph(hops: int) -> None:
    edge_index = random_edges(80)
    seeds = torch.tensor([3, 17, 39])
    out = sample_subgraph(sampling_graph(edge_index, N), seeds, [-1] * hops)
    nodes, _, _, mask = k_hop_subgraph(seeds, hops, edge_index, num_nodes=N, directed=True)
    assert out.node.sort().values.equal(nodes)
    # PyG marks the edges of each hop as well, but also those into nodes that it met before; these are ours already.
    assert out.edge.sort().values.equal(mask.nonzero().view(-1))


@pytest.mark.parametrize("path", ["cpu", "reference"])
@pytest.mark.parametrize(("degree", "count"), [(7, 3), (20, 1), (9, 8)])
def test_uniform_sets(path: str, degree: int, count: int) -> None:
    """Every set of neighbours is equally likely."""
    draws = 20_000
    graph, seeds = star(degree), torch.zeros(draws, dtype=torch.int64)
    sampler, table = reference()
    if path == "reference":
        with sampler, table:
            found = sample_neighbors(graph, seeds, count, seed=1)
    else:
        found = sample_neighbors(graph, seeds, count, seed=1)
    sets = (1 << found.node.view(draws, count)).sum(1)
    _, counts = sets.unique(return_counts=True)
    possible = len(list(itertools.combinations(range(degree), count)))
    assert counts.numel() == possible
    assert_fits(counts, torch.full((possible,), draws / possible))


@pytest.mark.parametrize("count", [300, 1100])
def test_uniform_large_samples(count: int) -> None:
    """Both ways of drawing more than a few (Floyd, a pass over the row)."""
    degree, draws = 1200 if count == 1100 else 5000, 400
    found = sample_neighbors(star(degree), torch.zeros(draws, dtype=torch.int64), count, seed=2)
    taken = found.node.view(draws, count)
    assert bool((taken.sort(1).values.diff(dim=1) > 0).all())
    # Inclusion counts have variance draws * f * (1 - f), and sum to a constant.
    counts, f = torch.bincount(found.edge, minlength=degree), count / degree
    statistic = float(((counts - draws * f) ** 2).sum() / (draws * f * (1 - f))) * (degree - 1) / degree
    assert chi2.isf(1 - 1e-6, degree - 1) < statistic < chi2.isf(1e-6, degree - 1)


def test_uniform_with_replacement() -> None:
    found = sample_neighbors(star(10), torch.zeros(5000, dtype=torch.int64), 4, replace=True, seed=3)
    first, second = found.edge.view(5000, 4)[:, :2].t()
    assert_fits(torch.bincount(first * 10 + second, minlength=100), torch.full((100,), 50.0))


def test_weighted() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0, 0.0, 6.0])
    graph, seeds = star(5, weight=weight), torch.zeros(30_000, dtype=torch.int64)
    share = weight[weight > 0] / weight.sum()
    kinds = torch.tensor([0, 1, 2, 4])
    one = torch.bincount(sample_neighbors(graph, seeds, 1, seed=4).edge, minlength=5)
    assert one[3] == 0
    assert_fits(one[kinds], share * 30_000)
    again = torch.bincount(sample_neighbors(graph, seeds, 2, replace=True, seed=5).edge, minlength=5)
    assert_fits(again[kinds], share * 60_000)
    # Two without replacement: the second in proportion to what the first left.
    pairs = sample_neighbors(graph, seeds, 2, seed=6).edge.view(-1, 2)
    counts, expected = [], []
    for a, b in itertools.permutations(range(4), 2):
        counts.append(int(((pairs[:, 0] == kinds[a]) & (pairs[:, 1] == kinds[b])).sum()))
        expected.append(float(share[a] * share[b] / (1 - share[a])) * 30_000)
    assert_fits(torch.tensor(counts), torch.tensor(expected))


def test_weighted_with_replacement_in_time() -> None:
    graph = star(4, weight=torch.tensor([1.0, 1.0, 2.0, 4.0]), time=torch.tensor([0, 5, 10, 20]))
    seeds = torch.zeros(20_000, dtype=torch.int64)
    found = sample_neighbors(graph, seeds, 1, replace=True, seed_time=seeds + 10, window=10, seed=7)
    counts = torch.bincount(found.edge, minlength=4)
    assert counts[0] == 0
    assert counts[3] == 0
    assert_fits(counts[1:3], torch.tensor([1, 2]) / 3 * 20_000)


def test_time() -> None:
    graph = star(4, time=torch.tensor([10, 40, 20, 30]))

    def found(now: int, count: int = -1, **options) -> list[int]:
        out = sample_neighbors(graph, torch.tensor([0]), count, seed_time=torch.tensor([now]), **options)
        return out.edge.tolist()

    assert found(9) == []
    assert found(30) == [0, 2, 3]
    assert found(100, 2, strategy="last") == found(100, 2, strategy="latest") == [3, 1]
    assert found(30, 2, strategy="last") == [2, 3]
    assert found(30, window=10) == [3]
    assert found(30, window=11) == [2, 3]
    assert {tuple(sorted(found(30, 2, seed=i))) for i in range(50)} == {(0, 2), (0, 3), (2, 3)}
    with pytest.raises(ValueError, match="seed_time must be given"):
        sample_neighbors(graph, torch.tensor([0]), 1)


def test_every_hop_respects_the_time_of_the_seed() -> None:
    # 2 -> 1 at 30, 1 -> 0 at 10.
    graph = sampling_graph(torch.tensor([[1, 2], [0, 1]]), 3, time=torch.tensor([10, 30]))
    out = sample_subgraph(graph, torch.tensor([0, 0]), [-1, -1], seed_time=torch.tensor([20, 30]))
    assert out.batch is not None
    assert out.node[out.batch == 0].tolist() == [0, 1]
    assert out.node[out.batch == 1].tolist() == [0, 1, 2]


def test_duplicate_edges_are_neighbors_of_their_own() -> None:
    graph = sampling_graph(torch.tensor([[1, 1, 0], [0, 0, 0]]), 2)
    out = sample_subgraph(graph, torch.tensor([0]), [-1])
    assert sorted(out.edge.tolist()) == [0, 1, 2]
    assert sorted(out.row.tolist()) == [0, 1, 1]


def test_duplicate_seeds_keep_their_places() -> None:
    graph = sampling_graph(torch.tensor([[1], [0]]), 2)
    out = sample_subgraph(graph, torch.tensor([0, 0]), [-1])
    assert out.node.tolist() == [0, 0, 1]
    assert out.row.tolist() == [2, 2]
    assert out.col.tolist() == [0, 1]


@pytest.mark.parametrize("num_nodes", [0, 1, 5])
@pytest.mark.parametrize("disjoint", [False, True])
def test_no_edges_and_no_seeds(num_nodes: int, disjoint: bool) -> None:
    graph = sampling_graph(torch.empty(2, 0, dtype=torch.int64), num_nodes)
    seeds = torch.arange(num_nodes)
    out = sample_subgraph(graph, seeds, [3, -1], disjoint=disjoint)
    assert out.node.equal(seeds)
    assert out.edge.numel() == 0
    assert out.num_sampled_nodes == [num_nodes, 0, 0]
    full = sampling_graph(random_edges(), N)
    assert sample_subgraph(full, seeds[:0], [3, -1], disjoint=disjoint).node.numel() == 0
    assert sample_neighbors(full, seeds[:0], 3).ptr.tolist() == [0]


def test_accepts_csr_edge_index_and_int32() -> None:
    edge_index = random_edges()
    csr = to_csr(edge_index[1], edge_index[0], N)
    seeds = torch.arange(10)
    expected = sample_neighbors(sampling_graph(edge_index, N), seeds, 3, seed=1)
    others = [
        sample_neighbors(csr, seeds, 3, seed=1),
        sample_neighbors(sampling_graph(edge_index.int(), N), seeds.int(), 3, seed=1),
        sample_neighbors(sampling_graph(EdgeIndex(edge_index, sparse_size=(N, N)), N), seeds, 3, seed=1),
    ]
    for other in others:
        assert all(a.equal(b) for a, b in zip(expected, other, strict=True))


def test_is_sorted() -> None:
    edge_index, time = random_edges(), torch.arange(240) * 37 % 100
    order = torch.argsort(edge_index[1] * 1000 + time, stable=True)
    a = sampling_graph(edge_index, N, time=time)
    b = sampling_graph(edge_index[:, order], N, time=time[order], is_sorted=True)
    assert a.col.equal(b.col)
    assert a.perm.equal(order)
    with pytest.raises(ValueError, match="out of the order by target node"):
        sampling_graph(edge_index, N, is_sorted=True)
    with pytest.raises(ValueError, match="out of the order by \\(target node, time\\)"):
        sampling_graph(edge_index[:, order], N, time=-time[order], is_sorted=True)


@pytest.mark.parametrize("induced", [induced_edges, ops._induced_reference])
def test_induced_edges(induced) -> None:
    edge_index = random_edges()
    graph = sampling_graph(edge_index, N)
    nodes, targets = torch.randperm(N, generator=torch.Generator().manual_seed(0)).split(N // 2)
    for ends in (nodes, targets):
        row, col, edge = induced(graph, nodes, ends)
        inside = torch.isin(edge_index[0], nodes) & torch.isin(edge_index[1], ends)
        assert edge.sort().values.equal(inside.nonzero().view(-1))
        assert edge_index[:, edge].equal(torch.stack([nodes[row], ends[col]]))


def test_large_sample_grows_its_table() -> None:
    """The plain array, the hash table and growing from one to the other number nodes alike."""
    size = 60_000
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(size, (2, 300_000), generator=generator)
    graph = sampling_graph(edge_index, size)
    seeds = torch.arange(64)
    fast = sample_subgraph(graph, seeds, [10, 10, 10, 10], seed=1)
    sampler, table = reference()
    with sampler, table:
        slow = sample_subgraph(graph, seeds, [10, 10, 10, 10], seed=1)
    assert all(a.equal(b) for a, b in zip(fast[:4], slow[:4], strict=True))


def test_threads_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(5000, (2, 100_000), generator=generator)
    graph = sampling_graph(edge_index, 5000)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(sample_subgraph(graph, torch.arange(4000), [10, 10], seed=1))
    finally:
        torch.set_num_threads(before)
    assert results[0].edge.equal(results[1].edge)


def test_seed() -> None:
    graph, seeds = sampling_graph(random_edges(), N), torch.arange(36)
    torch.manual_seed(3)
    a, b = sample_neighbors(graph, seeds, 2), sample_neighbors(graph, seeds, 2)
    torch.manual_seed(3)
    assert sample_neighbors(graph, seeds, 2).edge.equal(a.edge)
    assert not a.edge.equal(b.edge)
    c, d = (sample_neighbors(graph, seeds, 2, seed=torch.Generator().manual_seed(3)) for _ in range(2))
    assert c.edge.equal(d.edge)
    assert sample_neighbors(graph, seeds, 2, seed=2**64 + 5).edge.equal(sample_neighbors(graph, seeds, 2, seed=5).edge)


def _in_worker(queue) -> None:
    graph = sampling_graph(random_edges(), N)
    queue.put(sample_subgraph(graph, torch.arange(36), [5, 5], seed=1).edge.tolist())


def test_after_fork() -> None:
    graph = sampling_graph(random_edges(), N)
    expected = sample_subgraph(graph, torch.arange(36), [5, 5], seed=1).edge.tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_in_worker, args=(queue,))
    worker.start()
    assert queue.get(timeout=60) == expected
    worker.join()


EDGES = torch.tensor([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"edge_index": torch.tensor([[0], [3]])}, IndexError, "node id 3"),
        ({"edge_index": torch.tensor([[-1], [0]])}, IndexError, "node id -1"),
        ({"edge_index": torch.rand(2, 3)}, TypeError, "int64"),
        ({"edge_index": torch.tensor([0, 1])}, ValueError, "shape"),
        ({"num_nodes": -1}, ValueError, "num_nodes must be >= 0"),
        ({"num_nodes": (3, 2)}, IndexError, "edge_index\\[1\\] holds node id 2"),
        ({"weight": torch.tensor([1.0, -1.0])}, ValueError, "weight holds -1.0 at \\[1\\]"),
        ({"weight": torch.tensor([1.0, torch.inf])}, ValueError, "weight holds inf"),
        ({"weight": torch.tensor([torch.nan, 1.0])}, ValueError, "weight holds NaN at \\[0\\]"),
        ({"weight": torch.ones(3)}, ValueError, "weight must have one value per edge"),
        ({"weight": [1, 2]}, TypeError, "weight must be a torch.Tensor"),
        ({"time": torch.ones(2, 1)}, ValueError, "time must have one value per edge, shape \\[2\\]"),
        ({"time": torch.ones(2, dtype=torch.bool)}, TypeError, "time must be integer or floating"),
        ({"node_time": torch.ones(2)}, ValueError, "node_time must have one value per source node, shape \\[3\\]"),
        ({"time": torch.ones(2), "node_time": torch.ones(3)}, ValueError, "exclude each other"),
    ],
)
def test_sampling_graph_refuses(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sampling_graph(**{"edge_index": EDGES, "num_nodes": 3} | arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seeds": torch.tensor([3])}, IndexError, "seeds holds node id 3"),
        ({"seeds": torch.tensor([-2])}, IndexError, "seeds holds node id -2"),
        ({"seeds": torch.tensor([0.0])}, TypeError, "seeds must be int64"),
        ({"seeds": torch.tensor([True, False, True])}, TypeError, "got a mask"),
        ({"seeds": torch.tensor([[0]])}, ValueError, "seeds must be a vector"),
        ({"seeds": [0]}, TypeError, "seeds must be a torch.Tensor"),
        ({"num_neighbors": []}, ValueError, "at least one hop"),
        ({"num_neighbors": 3}, TypeError, "a list with one number a hop"),
        ({"num_neighbors": [3, -2]}, ValueError, "num_neighbors\\[1\\] must be >= 0, or -1"),
        ({"num_neighbors": [2.5]}, TypeError, "num_neighbors\\[0\\] must be an integer"),
        ({"strategy": "newest"}, ValueError, "strategy must be one of"),
        ({"seed_time": torch.tensor([1])}, ValueError, "needs times"),
        ({"window": 3}, ValueError, "window needs times"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"graph": EDGES}, TypeError, "graph must be a SamplingGraph"),
        ({"graph": sampling_graph(EDGES, (2, 3))}, ValueError, "one kind of node"),
    ],
)
def test_sample_subgraph_refuses(arguments: dict, error: type, message: str) -> None:
    given_ = {"graph": sampling_graph(EDGES, 3), "seeds": torch.tensor([0]), "num_neighbors": [2]}
    with pytest.raises(error, match=message):
        sample_subgraph(**given_ | arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed_time": torch.tensor([1, 2])}, ValueError, "seed_time must have one value per seed"),
        ({"seed_time": torch.tensor([1.5])}, TypeError, "seed_time must be integer"),
        ({"window": 0}, ValueError, "window must be positive"),
        ({"window": 0.5}, ValueError, "window must be an integer"),
        ({"window": float("nan")}, ValueError, "window must be positive"),
        ({"window": "1"}, TypeError, "window must be a number"),
    ],
)
def test_temporal_arguments_refused(arguments: dict, error: type, message: str) -> None:
    graph = sampling_graph(EDGES, 3, time=torch.tensor([1, 2]))
    with pytest.raises(error, match=message):
        sample_neighbors(graph, torch.tensor([0]), 1, **{"seed_time": torch.tensor([5])} | arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", VARIANTS)
def test_gpu_gives_the_same(variant: str) -> None:
    attributes, window = VARIANTS[variant]
    graph = sampling_graph(random_edges(), N, **attributes)
    device_graph = sampling_graph(random_edges().cuda(), N, **attributes)
    seeds = torch.randint(N, (30,), generator=torch.Generator().manual_seed(2))
    times = None if graph.time is None else torch.full((30,), 60).to(graph.time.dtype)
    for count, replace, strategy in itertools.product((-1, 0, 3), (False, True), ("uniform", "last")):
        options = {"replace": replace, "seed_time": times, "strategy": strategy, "window": window, "seed": 5}
        found = sample_subgraph(device_graph, seeds.cuda(), [count, count], **options)
        expected = sample_subgraph(graph, seeds, [count, count], **options)
        assert found.node.is_cuda
        for a, b in zip(found, expected, strict=True):
            assert a.cpu().equal(b) if isinstance(a, Tensor) else a == b, (variant, options)
    edge = induced_edges(device_graph, torch.arange(20).cuda())[2]
    assert edge.cpu().sort().values.equal(induced_edges(graph, torch.arange(20))[2].sort().values)
