"""Writing, joining and folding neighbourhood caches: sequential Python, set operations, torch's own cell."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.ops import neighborhood_cache as ops
from graphkit.ops.cpu import neighborhood_cache as cpu
from graphkit.ops.sample import uniform

CUDA = torch.cuda.is_available()
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(not (CUDA or INTERPRETER), reason="needs a CUDA device (or TRITON_INTERPRET=1)")
DOUBLE = torch.float64
NODES, WIDTH = 20, 3
ONE_HOP, TWO_HOPS, NESTED = [0, 1, 6], [0, 1, 5, 8], [0, 1, 13, 17]
Cache = tuple[Tensor, Tensor, Tensor, Tensor]


def empty(columns: int, nodes: int = NODES) -> Cache:
    key, e_id = torch.full((2, nodes, columns), -1).unbind()
    return key.clone(), e_id.clone(), torch.zeros(nodes, columns).long(), torch.zeros(nodes, columns, WIDTH)


def offers(rows: int, count: int, nodes: int = NODES) -> Cache:
    """One in ten is no offer."""
    key = torch.randint(0, nodes, (rows, count)).masked_fill_(torch.rand(rows, count) < 0.1, -1)
    e_id, t = torch.randint(0, 1000, (2, rows, count)).unbind()
    return key, e_id, t, torch.randn(rows, count, WIDTH)


def columns(cache: Cache, low: int, high: int) -> Cache:
    return tuple(part[:, low:high] for part in cache)  # type: ignore[return-value]


def filled(bounds: list[int], seed: int = 0, share: float = 0.7) -> Tensor:
    """Random keys, each in its own slot."""
    g = torch.Generator().manual_seed(seed)
    key = torch.full((NODES, bounds[-1]), -1)
    for low, high in pairwise(bounds[1:]):
        wanted = torch.randint(0, NODES, (NODES, 3 * (high - low)), generator=g)
        key[:, low:high].scatter_(1, ops.hash_slot(wanted, high - low), wanted)
        key[:, low:high].masked_fill_(torch.rand(NODES, high - low, generator=g) > share, -1)
    return key


def sequential(
    cache: Cache, owner: Tensor, offer: Cache, alpha: float, stream: Tensor, draw: Tensor, source: Tensor | None
) -> None:
    before = cache[0].clone()
    size, count = before.size(1), offer[0].size(1)
    for r in range(owner.numel()):
        own, row = int(owner[r]), r if source is None else int(source[r])
        for j in range(count):
            key = int(offer[0][row, j])
            if key < 0:
                continue
            m = (((key * 0x9E3779B97F4A7C15) % 2**64 >> 32) * size) >> 32
            old = int(before[own, m])
            if old in (-1, key) or float(uniform(stream, draw + r * count + j)) < alpha:
                for part, offered in zip(cache, offer, strict=True):
                    part[own, m] = offered[row, j]


# Writes ---------------------------------------------------------------------------------------------------------------


def ways() -> list[Any]:
    def triton(cache: Cache, owner: Tensor, offer: Cache, alpha: float, stream: Tensor, draw: Tensor, source: Any):
        from graphkit.ops.cuda import neighborhood_cache as cuda

        device = "cuda" if CUDA else "cpu"
        moved = [None if part is None else part.to(device) for part in (owner, source, stream, draw)]
        there = [part.to(device) for part in cache]
        cuda.insert(there, moved[0], [part.to(device) for part in offer], moved[1], alpha, moved[2], moved[3])
        for part, got in zip(cache, there, strict=True):
            part.copy_(got)

    return [
        pytest.param(ops.insert, id="numba"),
        pytest.param(ops.insert_reference, id="torch"),
        pytest.param(triton, id="triton", marks=needs_triton),
    ]


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sourced", [False, True])
@pytest.mark.parametrize(("count", "size"), [(1, 5), (6, 3), (9, 4)])
def test_insert_is_the_sequential_rule(way: Any, alpha: float, sourced: bool, count: int, size: int) -> None:
    """Bit for bit, over a stream of batches in which owners come again and slots collide."""
    torch.manual_seed(count)
    got, want = empty(8), empty(8)
    stream = ops.random_stream(3)
    for batch in range(6):
        owner, source = torch.randint(0, NODES // 2, (12,)), torch.randint(0, 12, (12,)) if sourced else None
        offer = offers(12, count + 2)
        draw = torch.tensor(batch * 1000)
        arguments = (owner, columns(offer, 1, 1 + count), alpha, stream, draw, source)
        way(columns(got, 2, 2 + size), *arguments)
        sequential(columns(want, 2, 2 + size), *arguments)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
    assert bool((got[0][:, 2 : 2 + size] >= 0).any())
    assert bool((got[0][:, [0, 1, *range(2 + size, 8)]] == -1).all())


def test_insert_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    torch.manual_seed(0)
    got, want, nodes = empty(4, 3000), empty(4, 3000), 3000
    owner, offer = torch.randint(0, nodes, (9000,)), offers(9000, 9, nodes)
    arguments = (owner, offer, 0.5, ops.random_stream(0), torch.tensor(7))
    ops.insert(got, *arguments)
    ops.insert_reference(want, *arguments)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_slots_are_spread_evenly() -> None:
    """Ids in a row, multiples of a power of two and large ids: no slot of 32 has twice its share."""
    for ids in (torch.arange(4096), torch.arange(4096) * 1024, torch.arange(4096) * 7 + 2**40):
        for size in (16, 24, 32):
            slot = ops.hash_slot(ids, size)
            assert slot.min() >= 0
            assert slot.bincount(minlength=size).max() < 2 * 4096 / size


# Joins ----------------------------------------------------------------------------------------------------------------


def sets_of(key: Tensor, bounds: list[int], row: int, node: int) -> list[set[int]]:
    hops = [set(key[row, low:high].tolist()) - {-1} for low, high in pairwise(bounds[1:])]
    return [{node}, *hops]


def brute_codes(key: Tensor, bounds: list[int], u: int, v: int, node: list[int]) -> dict[int, int]:
    code: dict[int, int] = defaultdict(int)
    for row, side in ((u, 0), (v, 3)):
        for hop, keys in enumerate(sets_of(key, bounds, row, node[row])):
            for a in keys:
                code[a] += 2 ** (hop + side)
    return code


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([ONE_HOP, TWO_HOPS, NESTED]), st.sampled_from([0.1, 0.7, 1.0]), st.booleans()
)
def test_codes_are_those_of_sets(seed: int, bounds: list[int], share: float, named: bool) -> None:
    key = filled(bounds, seed, share)
    u, v = torch.randint(0, NODES, (2, 15), generator=torch.Generator().manual_seed(seed))
    node = torch.randperm(NODES, generator=torch.Generator().manual_seed(seed)) if named else None
    names = list(range(NODES)) if node is None else node.tolist()
    code = ops.joint_codes(key, bounds, u, v, node)
    assert torch.equal(code, ops.joint_codes_reference(key, bounds, u, v, node))
    swapped = ops.joint_codes(key, bounds, v, u, node)
    count = ops.joint_histogram(key, bounds, u, v, node)
    assert torch.equal(count, ops.joint_histogram_reference(key, bounds, u, v, node))
    for p, (a, b) in enumerate(zip(u.tolist(), v.tolist(), strict=True)):
        held = torch.cat([torch.tensor([names[a]]), key[a, 1:], torch.tensor([names[b]]), key[b, 1:]])
        found = [(int(x), int(c)) for x, c in zip(held, code[p], strict=True) if c]
        want = brute_codes(key, bounds, a, b, names)
        assert len(found) == len(want)
        assert dict(found) == want
        assert sorted(int(c) for c in swapped[p] if c) == sorted(c % 8 * 8 + c // 8 for c in want.values())
        assert torch.equal(count[p], torch.tensor(list(want.values())).bincount(minlength=64).float())


@needs_triton
@pytest.mark.parametrize("bounds", [ONE_HOP, TWO_HOPS, NESTED], ids=str)
@pytest.mark.parametrize("named", [False, True])
def test_triton_histogram(bounds: list[int], named: bool) -> None:
    from graphkit.ops.cuda import neighborhood_cache as cuda

    device = "cuda" if CUDA else "cpu"
    key, (u, v) = filled(bounds), torch.randint(0, NODES, (2, 15))
    node = torch.randperm(NODES) if named else None
    want = ops.joint_histogram_reference(key, bounds, u, v, node)
    got = cuda.joint_histogram(
        key.to(device), bounds, u.to(device), v.to(device), None if node is None else node.to(device)
    )
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("bounds", [ONE_HOP, TWO_HOPS, NESTED], ids=str)
def test_attention(bounds: list[int]) -> None:
    torch.manual_seed(0)
    key, (u, v), length = filled(bounds), torch.randint(0, NODES, (2, 6)), bounds[-1]
    score, code_score, feature = (
        torch.randn(shape, dtype=DOUBLE, requires_grad=True)
        for shape in ((NODES, length, 2), (64, 2), (NODES, length, 3))
    )
    pooled, mass = ops.joint_attention(key, bounds, u, v, None, score, code_score, feature)
    for p, (a, b) in enumerate(zip(u.tolist(), v.tolist(), strict=True)):
        code = brute_codes(key, bounds, a, b, list(range(NODES)))
        logit, total = {}, {}
        for x in code:
            entries = [(row, i) for row in (a, b) for i in range(length) if (row if i == 0 else int(key[row, i])) == x]
            # A pair of a node with itself has each of its entries twice.
            logit[x] = sum(score[entry] for entry in entries) + code_score[code[x]]
            total[x] = sum(feature[entry] for entry in entries)
        weight = torch.stack(list(logit.values())).softmax(0)
        torch.testing.assert_close(pooled[p], torch.einsum("kh,kf->hf", weight, torch.stack(list(total.values()))))
        want = torch.zeros(64, 2, dtype=DOUBLE).index_add(0, torch.tensor(list(code.values())), weight)
        torch.testing.assert_close(mass[p], want.t())
    for way in (ops.joint_attention, ops.joint_attention_reference):
        torch.autograd.gradcheck(
            lambda *x, way=way: way(key, bounds, u, v, None, *x), (score, code_score, feature), fast_mode=True
        )


# The recurrent cell ---------------------------------------------------------------------------------------------------


def fold_inputs(entries: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(WIDTH, WIDTH).to(dtype)
    row, event_row = torch.randint(-1, 7, (entries,)), torch.randint(0, 9, (entries,))
    table, event, rep = (torch.randn(rows, WIDTH, dtype=dtype) for rows in (7, 9, entries))
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    learned = [part.detach().requires_grad_() for part in (table, event, *weights)]
    return [row, learned[0], event_row, learned[1], rep, *learned[2:]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (DOUBLE, 1e-14)], ids=str)
def test_fold_is_the_cell_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    inputs = fold_inputs(700, dtype)
    with torch.no_grad():
        inputs[1] *= 20  # saturated gates, too
    got, want = ops.fold(*inputs), ops.fold_reference(*inputs)
    assert bool((got[inputs[0] < 0] == 0).all())
    assert float((got - want).detach().abs().max()) <= tolerance
    direction = torch.randn_like(got)
    learned = [part for part in inputs if part.requires_grad]
    for a, b in zip(*(torch.autograd.grad((y * direction).sum(), learned) for y in (got, want)), strict=True):
        assert float((a - b).norm() / b.norm()) <= 10 * tolerance


def test_fold_gradcheck() -> None:
    torch.autograd.gradcheck(ops.fold, fold_inputs(200, DOUBLE))


def test_fold_keeps_infinity_and_nan() -> None:
    inputs = fold_inputs(4, torch.float32)
    inputs[0] = torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        inputs[1][0, 0], inputs[1][1, 0] = torch.nan, torch.inf
    got, want = ops.fold(*inputs), ops.fold_reference(*inputs)
    assert torch.equal(got.isnan(), want.isnan())
    assert bool(got[0].isnan().all())


def test_exponential_of_single_precision() -> None:
    """The kernel's own tanh against the double one."""
    x = torch.linspace(-60, 60, 200_001)
    y = x.clone().numpy()
    cpu._tanh(y, len(y))
    assert float((torch.from_numpy(y).double() - x.double().tanh()).abs().max()) < 2e-7
