"""Triton kernels against float64 on the CPU. Without a GPU: TRITON_INTERPRET=1 runs all but the dispatch tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import torch

from graphkit.ops import NeighborIndex, common_neighbor_count, common_neighbor_sum, common_neighbors, spmm, to_csr
from graphkit.ops.common_neighbors import _sum
from graphkit.ops.cpu import common_neighbors as cpu
from graphkit.ops.csr import ptr_to_index
from graphkit.ops.spmm import spmm_reference

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device (or TRITON_INTERPRET=1)", allow_module_level=True)
pytest.importorskip("triton")

bitmap = importlib.import_module("graphkit.ops.cuda.bitmap")
cuda_common = importlib.import_module("graphkit.ops.cuda.common_neighbors")
cuda_spmm = importlib.import_module("graphkit.ops.cuda.spmm")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
DOUBLE, SINGLE, BRAIN, HALF = torch.float64, torch.float32, torch.bfloat16, torch.float16
TOLERANCE = {DOUBLE: 1e-12, SINGLE: 2e-6, BRAIN: 1e-2, HALF: 2e-3}
CASES = [(1, SINGLE), (3, SINGLE), (64, SINGLE), (64, DOUBLE), (64, BRAIN), (64, HALF), (224, SINGLE), (256, SINGLE)]
CASES += [(300, SINGLE)]
widths = pytest.mark.parametrize(("width", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rows and pairs of the test graphs long ones."""
    monkeypatch.setattr(cuda_spmm, "_PIECE", 2)
    monkeypatch.setattr(cuda_common, "_LONG", 16)


def moved(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def assert_close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == want.shape
    error = (got.double().cpu() - want).norm() / want.norm().clamp(min=1e-30)
    assert bool(error <= TOLERANCE[dtype]), f"relative error {error:.1e}"


def matrix(rows: int, cols: int, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """CSR with empty rows and one row of a third of the entries."""
    row = torch.randint(2, rows, (entries,))
    row[: entries // 3] = 5
    csr = to_csr(row, torch.randint(0, cols, (entries,)), rows, cols)
    return csr.rowptr, csr.col


def graph(nodes: int, edges: int) -> NeighborIndex:
    """Undirected, with isolated nodes, self-loops and a hub."""
    ends = torch.randint(0, nodes - 3, (2, edges))
    ends[0, : edges // 8] = 7
    return NeighborIndex(torch.cat([ends, ends.flip(0)], 1), nodes)


def lists(first: NeighborIndex, second: NeighborIndex, pairs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return first.rowptr, first.col, second.rowptr, second.col, pairs[0], pairs[1]


def make_pairs(nodes: int, number: int) -> torch.Tensor:
    pairs = torch.randint(0, nodes, (2, number))
    pairs[:, :2] = torch.tensor([[7, nodes - 1], [7, nodes - 2]])  # the hub with itself, two isolated nodes
    return pairs


def scattered(args: tuple[torch.Tensor, ...], grad: torch.Tensor, nodes: int) -> torch.Tensor:
    ((pointer, node),) = cpu.intersect(*args, residual=False)
    return torch.zeros(nodes, grad.size(1), dtype=DOUBLE).index_add_(0, node, grad[ptr_to_index(pointer)])


@widths
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("small_limits")
def test_spmm(width: int, dtype: torch.dtype, weighted: bool) -> None:
    rowptr, col = matrix(40, 30, 300)
    x = torch.randn(30, width).to(dtype)
    weight = torch.randn(col.numel()).to(dtype) if weighted else None
    want = spmm_reference(rowptr, col, x.double(), None if weight is None else weight.double())
    assert_close(cuda_spmm.spmm(*moved(rowptr, col, x, weight)), want, dtype)


@widths
@pytest.mark.parametrize("weighted", [False, True])
def test_spmm_transposed_and_sampled_dot(width: int, dtype: torch.dtype, weighted: bool) -> None:
    rowptr, col = matrix(40, 30, 300)
    x, grad = torch.randn(30, width).to(dtype), torch.randn(40, width).to(dtype)
    weight = torch.randn(col.numel()).to(dtype) if weighted else None
    row = ptr_to_index(rowptr)
    message = grad.double()[row] if weight is None else grad.double()[row] * weight.double()[:, None]
    want = torch.zeros(30, width, dtype=DOUBLE).index_add_(0, col, message)
    assert_close(cuda_spmm.spmm_transposed(*moved(rowptr, col, grad, weight), 30), want, dtype)
    dots = (grad.double()[row] * x.double()[col]).sum(1)
    assert_close(cuda_spmm.sampled_dot(*moved(rowptr, col, grad, x)), dots, dtype)


def test_spmm_empty() -> None:
    rowptr, col = torch.zeros(5, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    out = cuda_spmm.spmm(*moved(rowptr, col, torch.randn(3, 4), None))
    assert out.shape == (4, 4)
    assert not out.any()
    assert cuda_spmm.spmm(*moved(rowptr[:1], col, torch.randn(3, 4), None)).shape == (0, 4)
    assert cuda_spmm.spmm(*moved(rowptr, col, torch.randn(3, 0), None)).shape == (4, 0)
    assert not cuda_spmm.spmm_transposed(*moved(rowptr, col, torch.randn(4, 4), None), 3).any()


@widths
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.usefixtures("small_limits")
def test_common_neighbor_sum(width: int, dtype: torch.dtype, same: bool) -> None:
    first = graph(60, 400)
    second = first if same else graph(60, 150)
    pairs = make_pairs(60, 50)
    args = lists(first, second, pairs)
    x, grad = torch.randn(60, width).to(dtype), torch.randn(50, width).to(dtype)
    want = cpu.common_neighbor_sum(*args, x.double())
    assert_close(cuda_common.common_neighbor_sum(*moved(*args, x)), want, dtype)
    got = cuda_common.common_neighbor_sum_backward(*moved(*args, grad), 60)
    assert_close(got, scattered(args, grad.double(), 60), dtype)


@pytest.mark.parametrize("dtype", [SINGLE, BRAIN, HALF])
@pytest.mark.parametrize("width", [16, 224, 256])
@pytest.mark.parametrize("same", [True, False])
@needs_cuda
def test_common_neighbor_sum_dense(width: int, dtype: torch.dtype, same: bool) -> None:
    first = graph(200, 6000)
    second = first if same else graph(200, 4000)
    args = lists(first, second, make_pairs(200, 1100))
    x, grad = torch.randn(200, width).to(dtype), torch.randn(1100, width).to(dtype)
    assert bitmap.pays(args, x)
    want = cpu.common_neighbor_sum(*args, x.double())
    assert_close(cuda_common.common_neighbor_sum(*moved(*args, x)), want, dtype)
    got = cuda_common.common_neighbor_sum_backward(*moved(*args, grad), 200)
    assert_close(got, scattered(args, grad.double(), 200), dtype)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("edges", [0, 100, 1600])
def test_intersect(residual: bool, edges: int) -> None:
    for second in (graph(60, edges), graph(60, edges // 3)):
        args = lists(graph(60, edges), second, make_pairs(60, 50))
        want = cpu.intersect(*args, residual=residual)
        got = cuda_common.intersect(*moved(*args), residual=residual)
        assert len(got) == len(want)
        for (got_ptr, got_node), (want_ptr, want_node) in zip(got, want, strict=True):
            assert torch.equal(got_ptr.cpu(), want_ptr)
            assert torch.equal(got_node.cpu(), want_node)


def test_no_pairs() -> None:
    args = lists(graph(60, 100), graph(60, 100), torch.zeros(2, 0, dtype=torch.long))
    assert cuda_common.common_neighbor_sum(*moved(*args, torch.randn(60, 8))).shape == (0, 8)
    assert not cuda_common.common_neighbor_sum_backward(*moved(*args, torch.randn(0, 8)), 60).any()
    assert [part[1].numel() for part in cuda_common.intersect(*moved(*args), residual=True)] == [0, 0, 0]


@needs_cuda
def test_gradients_through_dispatch() -> None:
    rowptr, col = moved(*matrix(12, 10, 40))
    x = torch.randn(10, 3, dtype=DOUBLE, device=DEVICE, requires_grad=True)
    weight = torch.randn(40, dtype=DOUBLE, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: spmm(rowptr, col, a, b), (x, weight), nondet_tol=1e-12)
    index = graph(20, 60).to(DEVICE)
    pairs = make_pairs(20, 15).to(DEVICE)
    x = torch.randn(20, 3, dtype=DOUBLE, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: common_neighbor_sum(index, pairs, a), x, nondet_tol=1e-12)


@needs_cuda
@pytest.mark.parametrize(("nodes", "edges", "number", "width"), [(60, 400, 50, 8), (200, 6000, 1100, 16)])
def test_direct_calls_are_the_registered_operator(nodes: int, edges: int, number: int, width: int) -> None:
    index, pairs = graph(nodes, edges).to(DEVICE), make_pairs(nodes, number).to(DEVICE)
    x = torch.randn(nodes, width, device=DEVICE, requires_grad=True)
    got, want = common_neighbor_sum(index, pairs, x), _sum(*lists(index, index, pairs), x)
    assert torch.equal(got, want)
    assert not common_neighbor_sum(index, pairs, x.detach()).requires_grad
    gradients = [torch.autograd.grad((out**2).sum(), x)[0] for out in (got, want)]
    assert_close(gradients[0], gradients[1].double().cpu(), SINGLE)


BAD_PAIR = """
import torch
from graphkit.ops import NeighborIndex, common_neighbor_sum, common_neighbors
index = NeighborIndex(torch.randint(0, 200, (2, {edges}), device="cuda"), 200)
pairs = torch.randint(0, 200, (2, 2000), device="cuda")
pairs[{end}, 1234] = {bad}
x = torch.randn(200, 16, device="cuda")
{call}
torch.cuda.synchronize()
"""


@needs_cuda
@pytest.mark.parametrize(
    ("edges", "call"),
    [
        (400, "common_neighbor_sum(index, pairs, x)"),  # one pair after the other
        (12_000, "common_neighbor_sum(index, pairs, x)"),  # matrix products
        (400, "common_neighbors(index, pairs, return_residual=True)"),
    ],
)
@pytest.mark.parametrize(("end", "bad"), [(0, 200), (1, -1)])
def test_bad_ids_are_device_assertions(edges: int, call: str, end: int, bad: int) -> None:
    """In a process of its own, which cannot use the GPU any more after that."""
    code = BAD_PAIR.format(edges=edges, call=call, end=end, bad=bad)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode != 0
    assert "edge_label_index holds a node id outside the graph" in run.stdout + run.stderr
    assert "device-side assert" in run.stderr


@needs_cuda
def test_deterministic_backward() -> None:
    index = graph(60, 400)
    args = lists(index, index, make_pairs(60, 50))
    grad = torch.randn(50, 8)
    rowptr, col = matrix(40, 30, 300)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        got = cuda_common.common_neighbor_sum_backward(*moved(*args, grad), 60)
        again = cuda_common.common_neighbor_sum_backward(*moved(*args, grad), 60)
        back = cuda_spmm.spmm_transposed(*moved(rowptr, col, torch.ones(40, 2), None), 30)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(got, again)
    assert_close(got, scattered(args, grad.double(), 60), SINGLE)
    assert torch.equal(back[:, 0].cpu(), torch.bincount(col, minlength=30).float())


@needs_cuda
def test_lists_and_counts_through_dispatch() -> None:
    index, pairs = graph(300, 3000), make_pairs(300, 200)
    want = common_neighbors(index, pairs, return_residual=True)
    got = common_neighbors(index.to(DEVICE), pairs.to(DEVICE), return_residual=True)
    for one, two in zip(got, want, strict=True):
        assert torch.equal(one.ptr.cpu(), two.ptr)
        assert torch.equal(one.node.cpu(), two.node)
    count = common_neighbor_count(index.to(DEVICE), pairs.to(DEVICE))
    assert torch.equal(count.cpu(), want.cn.ptr.diff().float())


@needs_cuda
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks(backend: str) -> None:
    index, pairs = graph(60, 400).to(DEVICE), make_pairs(60, 50).to(DEVICE)

    def loss(x: torch.Tensor) -> torch.Tensor:
        hidden = spmm(index.rowptr, index.col, x).relu()
        return (common_neighbor_sum(index, pairs, hidden) ** 2).sum()

    x = torch.randn(60, 16, device=DEVICE, requires_grad=True)
    (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=backend)(x), x)
    assert_close(got, want.double().cpu(), SINGLE)


@needs_cuda
def test_large_irregular_graph() -> None:
    """Long rows, long pairs and lists far longer than a block, with the limits as they are."""
    weight = torch.arange(1, 20_001, dtype=torch.float64) ** -0.7
    ends = torch.multinomial(weight, 400_000, replacement=True).view(2, -1)
    index = NeighborIndex(torch.cat([ends, ends.flip(0)], 1), 20_000)
    pairs = ends[:, torch.randperm(200_000)[:5000]]
    args = lists(index, index, pairs)
    x, grad = torch.randn(20_000, 64), torch.randn(5000, 64)
    assert not bitmap.pays(args, x)
    assert_close(cuda_common.common_neighbor_sum(*moved(*args, x)), cpu.common_neighbor_sum(*args, x.double()), SINGLE)
    got = cuda_common.common_neighbor_sum_backward(*moved(*args, grad), 20_000)
    assert_close(got, scattered(args, grad.double(), 20_000), SINGLE)
    want = spmm_reference(index.rowptr, index.col, x.double())
    got = cuda_spmm.spmm(*moved(index.rowptr, index.col, x, None))
    assert_close(got, want, SINGLE)
    assert torch.equal(got, cuda_spmm.spmm(*moved(index.rowptr, index.col, x, None)))
    for one, two in zip(cuda_common.intersect(*moved(*args), True), cpu.intersect(*args, True), strict=True):
        assert torch.equal(one[0].cpu(), two[0])
        assert torch.equal(one[1].cpu(), two[1])
