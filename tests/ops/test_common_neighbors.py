"""Shared and one-sided neighbours against Python sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GOLDEN, Sets, all_pairs, graphs, messy_graph, neighbor_sets
from torch import Tensor

from graphkit.ops import (
    NeighborIndex,
    NodeLists,
    common_neighbor_count,
    common_neighbor_sum,
    common_neighbors,
)
from graphkit.ops.common_neighbors import (
    _intersect_reference,
    _sum,
    _sum_backward,
    common_neighbor_sum_reference,
    subsample,
)
from graphkit.ops.cpu import common_neighbors as cpu

DOUBLE = torch.float64


def parts(lists: NodeLists) -> list[list[int]]:
    return [lists.node[a:b].tolist() for a, b in zip(lists.ptr[:-1], lists.ptr[1:], strict=True)]


def oracle(first: Sets, second: Sets, pairs: Tensor) -> tuple[list[list[int]], ...]:
    """Intersections and both differences, without the two ends."""
    found: tuple[list[list[int]], ...] = ([], [], [])
    for i, j in pairs.t().tolist():
        near, far = first[i] - {i, j}, second[j] - {i, j}
        for part, nodes in zip(found, (near & far, near - far, far - near), strict=True):
            part.append(sorted(nodes))
    return found


def check(first: NeighborIndex, second: NeighborIndex | None, sets: tuple[Sets, Sets], pairs: Tensor) -> None:
    want = oracle(*sets, pairs)
    found = common_neighbors(first, pairs, return_residual=True, other=second)
    assert (parts(found.cn), parts(found.res_src), parts(found.res_dst)) == want
    alone = common_neighbors(first, pairs, other=second)
    assert parts(alone.cn) == want[0]
    assert alone.res_src is None
    assert alone.res_dst is None
    reference = _intersect_reference(first, first if second is None else second, *pairs, True)
    assert tuple(parts(part) for part in reference) == want
    count = common_neighbor_count(first, pairs, second)
    assert count.tolist() == [len(nodes) for nodes in want[0]]
    # Sums of one-hot features are indicators of the sets.
    indicator = common_neighbor_sum(first, pairs, torch.eye(first.num_nodes), second)
    assert [row.nonzero().view(-1).tolist() for row in indicator] == want[0]
    assert set(indicator.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("seed", range(50))
def test_equals_python_sets(seed: int) -> None:
    edge_index, num_nodes = messy_graph(seed)
    sets = neighbor_sets(edge_index, num_nodes)
    check(NeighborIndex(edge_index, num_nodes), None, (sets, sets), all_pairs(num_nodes))


@given(graphs(), st.data())
@settings(deadline=None, max_examples=50)
def test_directed_and_two_graphs(graph, data) -> None:
    """Nothing is assumed about reverse edges, and the second node may live in another graph."""
    edge_index, num_nodes = graph
    node = st.integers(0, num_nodes - 1)
    others = data.draw(st.lists(st.tuples(node, node), max_size=40))
    other = torch.tensor(others, dtype=torch.long).view(-1, 2).t()
    sets = neighbor_sets(edge_index, num_nodes), neighbor_sets(other, num_nodes)
    first, second = NeighborIndex(edge_index, num_nodes), NeighborIndex(other, num_nodes)
    check(first, None, (sets[0], sets[0]), all_pairs(num_nodes))
    check(first, second, sets, all_pairs(num_nodes))


@pytest.mark.parametrize("swap", [False, True])
def test_hub_beside_a_leaf(swap: bool) -> None:
    """Lists of very different length take another path: the short one is searched in the long one."""
    generator = torch.Generator().manual_seed(0)
    hub = torch.stack([torch.zeros(150, dtype=torch.long), torch.randperm(299, generator=generator)[:150] + 1])
    rest = torch.randint(300, (2, 250), generator=generator)
    # Some neighbours of the leaves lie past the hub's last one, before its first, and at its ends.
    extra = torch.tensor([[1, 1, 1, 2, 2], [299, 298, 0, 2, 0]])
    edges = torch.cat([hub, rest, extra], 1)
    edges = torch.cat([edges, edges.flip(0)], 1)
    pairs = torch.stack([torch.zeros(300, dtype=torch.long), torch.arange(300)])
    sets = neighbor_sets(edges, 300)
    assert len(sets[0]) > 8 * min(len(sets[1]), len(sets[2]))
    index = NeighborIndex(edges, 300)
    check(index, None, (sets, sets), pairs.flip(0) if swap else pairs)


def test_golden_graph() -> None:
    index = NeighborIndex(GOLDEN, 5)
    found = common_neighbors(index, torch.tensor([[0], [1]]), return_residual=True)
    assert (parts(found.cn), parts(found.res_src), parts(found.res_dst)) == ([[2]], [[3]], [[4]])
    assert found.cn.batch.tolist() == [0]
    assert found.cn.weight is None


@given(graphs(), st.sampled_from([1, 3, 64, 70]), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_kernel_equals_reference(graph, width, seed) -> None:
    edge_index, num_nodes = graph
    index = NeighborIndex(torch.cat([edge_index, edge_index.flip(0)], 1), num_nodes)
    x = torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    pairs = all_pairs(num_nodes)
    want = common_neighbor_sum_reference(index, pairs, x)
    torch.testing.assert_close(common_neighbor_sum(index, pairs, x), want, rtol=0, atol=1e-12)
    torch.testing.assert_close(common_neighbor_sum(index, pairs.int(), x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_other_precisions(dtype: torch.dtype, limit: float) -> None:
    index = NeighborIndex(*messy_graph(7))
    x = torch.randn(index.num_nodes, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = common_neighbor_sum(index, all_pairs(index.num_nodes), x)
    want = common_neighbor_sum_reference(index, all_pairs(index.num_nodes), x.double())
    assert got.dtype == dtype
    assert float((got.double() - want).norm() / want.norm()) < limit


@pytest.mark.parametrize("two", [False, True])
def test_gradients(two: bool) -> None:
    index = NeighborIndex(*messy_graph(2))
    other = index.two_hop() if two else None
    pairs = all_pairs(index.num_nodes)[:, ::7]
    x = torch.randn(index.num_nodes, 2, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: common_neighbor_sum(index, pairs, x, other), x)


def test_operators_are_well_formed() -> None:
    index = NeighborIndex(*messy_graph(2))
    pairs = all_pairs(index.num_nodes)[:, ::7]
    graph = (index.rowptr, index.col, index.rowptr, index.col, pairs[0], pairs[1])
    x = torch.randn(index.num_nodes, 2, dtype=DOUBLE)
    torch.library.opcheck(_sum, (*graph, x.requires_grad_()))
    grad = torch.randn(pairs.size(1), 2, dtype=DOUBLE)
    torch.library.opcheck(_sum_backward, (*graph, grad, index.num_nodes), test_utils=("test_schema", "test_faketensor"))


def test_compiles_without_graph_breaks() -> None:
    index = NeighborIndex(*messy_graph(2))
    pairs = all_pairs(index.num_nodes)[:, ::5]

    def loss(x: Tensor) -> Tensor:
        return (common_neighbor_sum(index, pairs, x.relu()) ** 2).sum()

    x = torch.randn(index.num_nodes, 4, requires_grad=True)
    (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(got, want)


def test_threads_do_not_change_the_result() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(400, (2, 6000), generator=generator)
    ends[0, :300] = 5
    index = NeighborIndex(torch.cat([ends, ends.flip(0)], 1), 400)
    pairs = torch.randint(400, (2, 3000), generator=generator)
    x = torch.randn(400, 16, generator=generator, requires_grad=True)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            out = common_neighbor_sum(index, pairs, x)
            lists = common_neighbors(index, pairs, return_residual=True)
            found.append([out, *torch.autograd.grad(out.sum(), x), *(part for one in lists for part in one[:2])])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# Subsampling ---------------------------------------------------------------------------------------------------------


def test_subsample_is_unbiased() -> None:
    """Over 2000 seeds the weighted sums are within 3 standard errors of the exact ones."""
    num_nodes = 30
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0)) < 0.4
    index = NeighborIndex(adjacency.nonzero().t(), num_nodes)
    pairs = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    x = torch.randn(num_nodes, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def total(lists: NodeLists) -> Tensor:
        weight = torch.ones(lists.node.numel(), dtype=DOUBLE) if lists.weight is None else lists.weight.double()
        return torch.zeros(pairs.size(1), dtype=DOUBLE).index_add_(0, lists.batch, weight * x[lists.node])

    exact = common_neighbors(index, pairs, return_residual=True).res_src
    assert bool((exact.ptr.diff() > 3).all())
    draws = []
    for seed in range(2000):
        torch.manual_seed(seed)
        thin = common_neighbors(index, pairs, return_residual=True, max_neighbors=3).res_src
        assert thin.ptr.diff().tolist() == [3] * 4
        draws.append(total(thin))
    stacked = torch.stack(draws)
    error = (stacked.mean(0) - total(exact)).abs()
    assert bool((error < 3 * stacked.std(0) / 2000**0.5).all())


def test_subsample_keeps_short_lists() -> None:
    lists = NodeLists(torch.tensor([0, 2, 2, 7]), torch.tensor([4, 6, 1, 2, 3, 5, 8]))
    assert subsample(lists, None) is lists
    same = subsample(lists, 5)
    assert parts(same) == parts(lists)
    assert same.weight.tolist() == [1.0] * 7
    thin = subsample(lists, 2)
    assert thin.ptr.tolist() == [0, 2, 2, 4]
    assert thin.node[:2].tolist() == [4, 6]
    assert set(thin.node[2:].tolist()) <= {1, 2, 3, 5, 8}
    assert thin.weight.tolist() == [1.0, 1.0, 2.5, 2.5]


def test_subsample_caps_only_the_residuals() -> None:
    index = NeighborIndex(*messy_graph(11))
    pairs = all_pairs(index.num_nodes)
    full = common_neighbors(index, pairs, return_residual=True)
    thin = common_neighbors(index, pairs, return_residual=True, max_neighbors=1)
    assert torch.equal(full.cn.node, thin.cn.node)
    assert int(thin.res_dst.ptr.diff().max()) == 1
    assert torch.equal(thin.res_dst.ptr.diff(), full.res_dst.ptr.diff().clamp(max=1))


# Borders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [1, 5])
def test_empty(num_nodes: int) -> None:
    none = torch.zeros(2, 0, dtype=torch.long)
    empty, index = NeighborIndex(none, num_nodes), NeighborIndex(all_pairs(num_nodes), num_nodes)
    x = torch.randn(num_nodes, 3, requires_grad=True)
    for graph, pairs in ((empty, all_pairs(num_nodes)), (index, none), (empty, none)):
        found = common_neighbors(graph, pairs, return_residual=True)
        assert found.cn.ptr.numel() == pairs.size(1) + 1
        out = common_neighbor_sum(graph, pairs, x)
        assert out.shape == (pairs.size(1), 3)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert not gradient.any()
    assert common_neighbor_sum(index, all_pairs(num_nodes), x[:, :0]).shape == (num_nodes**2, 0)


INDEX = NeighborIndex(GOLDEN, 5)
PAIR = torch.tensor([[0], [1]])


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: common_neighbors(INDEX, PAIR + 4), IndexError, r"edge_label_index holds node id 5, outside \[0, 5\)"),
        (lambda: common_neighbor_sum(INDEX, PAIR - 1, torch.eye(5)), IndexError, "node id -1"),
        (lambda: common_neighbors(INDEX, PAIR.float()), TypeError, "float32"),
        (lambda: common_neighbors(INDEX, PAIR[0]), ValueError, r"got \[1\]"),
        (lambda: common_neighbors(INDEX, PAIR, max_neighbors=0), ValueError, "max_neighbors.*got 0"),
        (lambda: common_neighbor_sum(INDEX, PAIR, torch.eye(4)), ValueError, r"num_nodes=5.*got \[4, 4\]"),
        (lambda: common_neighbor_sum(INDEX, PAIR, torch.ones(5)), ValueError, r"got \[5\]"),
        (
            lambda: common_neighbors(INDEX, PAIR, other=NeighborIndex(PAIR, 2)),
            ValueError,
            r"other must have the 5 nodes of the graph \(got 2\)",
        ),
    ],
)
def test_bad_input(action, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        action()


def test_kernel_needs_no_sorted_pairs() -> None:
    """The kernels read the graph alone; the pairs may repeat and come in any order."""
    index = NeighborIndex(*messy_graph(5))
    pairs = torch.randint(index.num_nodes, (2, 40), generator=torch.Generator().manual_seed(0))
    pairs = torch.cat([pairs, pairs.flip(1)], 1)
    graph = (index.rowptr, index.col, index.rowptr, index.col)
    for pointer, node in cpu.intersect(*graph, *pairs, residual=True):
        lists = parts(NodeLists(pointer, node))
        assert lists[:40] == lists[40:][::-1]
