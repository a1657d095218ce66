"""Attention over neighbours against a loop and against its plain form, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.ops.neighbor_attention import _attend, neighbor_attention, neighbor_attention_reference

DOUBLE = torch.float64
LEARNED = ("query", "x", "freq", "phase")


def sample(n=5, m=7, size=3, queries=9, heads=2, width=4, edge=3, time=5, keep=True, dtype=DOUBLE, seed=0) -> dict:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=DOUBLE).to(dtype)

    mask = torch.rand(n, size, generator=g) < 0.7
    mask[0] = False
    row = torch.randint(n, (queries,), generator=g)
    row[:1] = 0
    return {
        "query": normal(heads, n, width + edge + time),
        "x": normal(m, width),
        "index": torch.randint(m, (n, size), generator=g),
        "mask": mask,
        "since": torch.randint(50, (n, size), generator=g),
        "row": row,
        "t": torch.randint(50, 100, (queries,), generator=g),
        "freq": normal(time).abs(),
        "phase": normal(time),
        "edge": normal(6, edge) if edge else None,
        "e_id": torch.randint(6, (n, size), generator=g) if edge else None,
        "keep": (torch.rand(queries, heads, size, generator=g) < 0.6).to(dtype) / 0.6 if keep else None,
    }


def one_by_one(a: dict) -> torch.Tensor:
    heads = a["query"].size(0)
    out = torch.zeros(heads, a["row"].numel(), a["query"].size(2), dtype=a["x"].dtype)
    for q, r in enumerate(a["row"].tolist()):
        places = [k for k in range(a["mask"].size(1)) if a["mask"][r, k]]
        keys = []
        for k in places:
            angle = float(a["t"][q] - a["since"][r, k]) * a["freq"] + a["phase"]
            parts = [a["x"][a["index"][r, k]], angle.cos()]
            if a["edge"] is not None:
                parts.insert(1, a["edge"][a["e_id"][r, k]])
            keys.append(torch.cat(parts))
        for h in range(heads):
            weights = [math.exp(float(a["query"][h, r] @ key)) for key in keys]
            for k, w, key in zip(places, weights, keys, strict=True):
                factor = 1 if a["keep"] is None else a["keep"][q, h, k]
                out[h, q] += w / sum(weights) * factor * key
    return out


@given(
    st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 4, 33]), st.sampled_from([0, 3]), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_equals_a_loop(size, heads, width, edge, keep, seed) -> None:
    a = sample(size=size, heads=heads, width=width, edge=edge, keep=keep, seed=seed)
    want = one_by_one(a)
    torch.testing.assert_close(neighbor_attention(**a), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(neighbor_attention_reference(**a), want, rtol=1e-9, atol=1e-9)
    assert not want[:, a["row"] == 0].any()


@pytest.mark.parametrize("threads", [1, 3])
def test_float32_and_its_gradients_equal_the_plain_form(threads: int) -> None:
    a = sample(n=90, m=300, size=10, queries=400, width=40, time=30, edge=0, dtype=torch.float32)
    learned = [a[name].requires_grad_() for name in LEARNED]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = neighbor_attention(**a)
        direction = torch.randn_like(got)
        gradients = torch.autograd.grad(got, learned, direction)
    finally:
        torch.set_num_threads(before)
    want = neighbor_attention_reference(**a)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for name, g, w in zip(LEARNED, gradients, torch.autograd.grad(want, learned, direction), strict=True):
        assert float((g - w).norm() / w.norm()) < 1e-4, name


@pytest.mark.parametrize("edge", [0, 3])
@pytest.mark.parametrize("keep", [False, True])
def test_gradcheck(edge: int, keep: bool) -> None:
    a = sample(n=3, m=4, size=2, queries=4, width=2, time=2, edge=edge, keep=keep, seed=3)
    a["t"] = torch.randint(50, 55, (4,))
    a["since"] = a["since"] % 5 + 45
    learned = [a.pop(name).requires_grad_() for name in LEARNED]
    assert torch.autograd.gradcheck(
        lambda *values: neighbor_attention(**dict(zip(LEARNED, values, strict=True)), **a), learned
    )


def test_registration() -> None:
    a = sample(n=3, m=4, size=2, queries=4)
    order = ("query", "x", "index", "mask", "since", "edge", "e_id", "row", "t", "freq", "phase", "keep")
    torch.library.opcheck(_attend, tuple(a[name] for name in order))


def test_no_queries() -> None:
    a = sample(queries=1)
    a["row"], a["t"], a["keep"] = a["row"][:0], a["t"][:0], a["keep"][:0]
    a["x"].requires_grad_()
    out = neighbor_attention(**a)
    out.sum().backward()
    assert out.shape == (2, 0, 12)
    assert not a["x"].grad.any()


def test_bad_shapes() -> None:
    a = sample()
    with pytest.raises(ValueError, match=r"query must have shape \[heads, n, 12\].*got \[2, 5, 11\]"):
        neighbor_attention(**{**a, "query": a["query"][..., :-1]})
    with pytest.raises(ValueError, match="e_id must be given with edge"):
        neighbor_attention(**{**a, "e_id": None})
