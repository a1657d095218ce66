"""Scans against loops in float64; packed sequences, reading from the end, gradients, limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from graphkit.ops.scan import (
    gla_scan,
    gla_scan_reference,
    linear_scan,
    linear_scan_reference,
    selective_scan,
    selective_scan_reference,
    ssd_scan,
)

PTR = torch.tensor([0, 0, 1, 4, 4, 37, 102, 102])
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 64, 133)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def order(ptr: Tensor, reverse: bool) -> list[list[int]]:
    spans = [range(int(a), int(b)) for a, b in pairwise(ptr)]
    return [list(reversed(span)) if reverse else list(span) for span in spans]


def linear_loop(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool) -> Tensor:
    out = torch.empty_like(x)
    for span in order(ptr, reverse):
        h = torch.zeros_like(x[0])
        for t in span:
            h = a[t] * h + x[t]
            out[t] = h
    return out


def selective_loop(x, dt, a, b, c, skip, ptr, reverse) -> Tensor:
    rows = {}
    for span in order(ptr, reverse):
        h = torch.zeros_like(a)
        for t in span:
            h = torch.exp(dt[t][:, None] * a) * h + (dt[t] * x[t])[:, None] * b[t]
            rows[t] = (h * c[t]).sum(1) + skip * x[t]
    return torch.stack([rows[t] for t in range(len(x))])


def gated_loop(q, k, v, g, ptr, state, scale, reverse) -> tuple[Tensor, Tensor]:
    rows, ends = {}, []
    for s, span in enumerate(order(ptr, reverse)):
        memory = state[s]
        for t in span:
            memory = g[t].exp()[..., None] * memory + k[t][..., None] * v[t][:, None]
            rows[t] = scale * (q[t][..., None] * memory).sum(1)
        ends.append(memory)
    return torch.stack([rows[t] for t in range(len(q))]), torch.stack(ends)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scan", [linear_scan, linear_scan_reference])
def test_linear_scan_equals_a_loop(scan, reverse):
    a, x = random(102, 3).sigmoid(), random(102, 3, seed=1)
    torch.testing.assert_close(scan(a, x, PTR, reverse), linear_loop(a, x, PTR, reverse))


def selective_inputs(ptr: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    n = int(ptr[-1])
    sizes = [(n, 5), (n, 5), (5, 4), (n, 4), (n, 4), (5,)]
    x, dt, a, b, c, skip = (random(*size, seed=i, dtype=dtype) for i, size in enumerate(sizes))
    return [x, torch.nn.functional.softplus(dt), -a.exp(), b, c, skip]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scan", [selective_scan, selective_scan_reference])
def test_selective_scan_equals_a_loop(scan, reverse):
    inputs = selective_inputs(PTR)
    torch.testing.assert_close(scan(*inputs, PTR, reverse), selective_loop(*inputs, PTR, reverse))


@pytest.mark.parametrize("length", LENGTHS)
def test_scans_in_float32_keep_five_digits(length):
    ptr = torch.tensor([0, length])
    inputs = selective_inputs(ptr)
    exact = selective_loop(*inputs, ptr, False)
    torch.testing.assert_close(selective_scan(*(t.float() for t in inputs)), exact.float(), atol=1e-5, rtol=1e-5)
    q, k, v = random(length, 2, 8), random(length, 2, 8, seed=1), random(length, 2, 6, seed=2)
    state = torch.zeros(1, 2, 8, 6, dtype=torch.float64)
    for tau in (16, 1, 0.05):
        g = torch.nn.functional.logsigmoid(random(length, 2, 8, seed=3)) / tau
        exact, end = gated_loop(q, k, v, g, ptr, state, 8**-0.5, False)
        found, last = gla_scan(q.float(), k.float(), v.float(), g.float())
        torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(last, end.float(), atol=1e-5, rtol=1e-5)
        found, last = gla_scan_reference(
            q.float(), k.float(), v.float(), g.float(), ptr, state.float(), scale=8**-0.5, chunk=16
        )
        torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(last, end.float(), atol=1e-5, rtol=1e-5)


def gated_inputs(ptr: Tensor, wide: bool = True) -> list[Tensor]:
    n = int(ptr[-1])
    q, k, v = random(n, 2, 4), random(n, 2, 4, seed=1), random(n, 2, 3, seed=2)
    g = torch.nn.functional.logsigmoid(random(n, 2, 4 if wide else 1, seed=3))
    return [q, k, v, g, random(ptr.numel() - 1, 2, 4, 3, seed=4)]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
def test_gla_scan_equals_a_loop(reverse, wide):
    q, k, v, g, state = gated_inputs(PTR, wide)
    expected = gated_loop(q, k, v, g, PTR, state, 0.7, reverse)
    for found in (
        gla_scan(q, k, v, g, PTR, state, scale=0.7, reverse=reverse),
        gla_scan_reference(q, k, v, g, PTR, state, scale=0.7, reverse=reverse, chunk=8),
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_the_plain_forms(reverse):
    def gradients(function, inputs):
        leaves = [t.detach().requires_grad_() for t in inputs]
        out = function(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        total = sum((o * random(*o.shape, seed=9 + i)).sum() for i, o in enumerate(out))
        return torch.autograd.grad(total, leaves)

    linear = [random(102, 3).sigmoid(), random(102, 3, seed=1)]
    cases = [
        (lambda *t: linear_scan(*t, PTR, reverse), lambda *t: linear_scan_reference(*t, PTR, reverse), linear),
        (
            lambda *t: selective_scan(*t, PTR, reverse),
            lambda *t: selective_scan_reference(*t, PTR, reverse),
            selective_inputs(PTR),
        ),
    ]
    for wide in (True, False):
        cases.append(
            (
                lambda q, k, v, g, s: gla_scan(q, k, v, g, PTR, s, reverse=reverse),
                lambda q, k, v, g, s: gla_scan_reference(q, k, v, g, PTR, s, scale=0.5, reverse=reverse),
                gated_inputs(PTR, wide),
            )
        )
    for ours, plain, inputs in cases:
        torch.testing.assert_close(gradients(ours, inputs), gradients(plain, inputs))


def test_gradcheck():
    ptr = torch.tensor([0, 2, 5])
    inputs = [t.requires_grad_() for t in selective_inputs(ptr)]
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, ptr), inputs)
    inputs = [t.requires_grad_() for t in gated_inputs(ptr)]
    assert torch.autograd.gradcheck(lambda q, k, v, g, s: gla_scan(q, k, v, g, ptr, s), inputs)
    inputs = [random(5, 2).requires_grad_(), random(5, 2, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, x: linear_scan(a, x, ptr), inputs)


def test_a_sequence_may_be_cut_anywhere_and_go_on_from_its_memory():
    q, k, v, g, _ = gated_inputs(torch.tensor([0, 40]))
    whole, end = gla_scan(q, k, v, g)
    for cut in (1, 17, 39):
        first, state = gla_scan(q[:cut], k[:cut], v[:cut], g[:cut])
        second, last = gla_scan(q[cut:], k[cut:], v[cut:], g[cut:], state=state)
        torch.testing.assert_close(torch.cat([first, second]), whole)
        torch.testing.assert_close(last, end)


def test_limits_of_gated_linear_attention():
    q, k, v, g, _ = gated_inputs(torch.tensor([0, 30]))
    kept, _ = gla_scan(q, k, v, torch.zeros_like(g), scale=1.0)
    products = torch.einsum("ihd,jhd->hij", q, k).tril()
    torch.testing.assert_close(kept, torch.einsum("hij,jhd->ihd", products, v))
    forgotten, _ = gla_scan(q, k, v, torch.full_like(g, -1e4), scale=1.0)
    torch.testing.assert_close(forgotten, (q * k).sum(-1, keepdim=True) * v)


def test_a_decay_beyond_floating_point_neither_overflows_nor_gives_nan():
    q, k, v, g, _ = (t.float() for t in gated_inputs(torch.tensor([0, 200])))
    q, g = q.requires_grad_(), (g * 300).detach().requires_grad_()
    out, _ = gla_scan(q, k, v, g)
    out.sum().backward()
    assert bool(torch.isfinite(out).all())
    assert bool(torch.isfinite(g.grad).all())


def test_ssd_is_a_selective_scan_with_one_rate_a_head():
    x, log_a = random(20, 2, 3), -random(20, 2, seed=1).exp()
    b, c = random(20, 4, seed=2), random(20, 4, seed=3)
    found = ssd_scan(x, log_a, b, c)
    for head in range(2):
        # Step widths of one and rates of the moment: a loop, since a selective scan has fixed rates.
        h = torch.zeros(3, 4, dtype=torch.float64)
        for t in range(20):
            h = log_a[t, head].exp() * h + x[t, head][:, None] * b[t]
            torch.testing.assert_close(found[t, head], h @ c[t])


def test_a_step_of_width_zero_leaves_the_state():
    x, dt, a, b, c, skip = selective_inputs(torch.tensor([0, 10]))
    dt[4] = 0
    with_pause = selective_scan(x, dt, a, b, c, skip)
    keep = [i for i in range(10) if i != 4]
    torch.testing.assert_close(with_pause[keep], selective_scan(x[keep], dt[keep], a, b[keep], c[keep], skip))


def test_compiled_and_as_an_operator():
    inputs = selective_inputs(torch.tensor([0, 6]), torch.float32)
    ptr = torch.tensor([0, 6])
    torch.library.opcheck(torch.ops.graphkit.selective_scan.default, (*inputs, ptr, False))
    q, k, v, g, state = (t.float() for t in gated_inputs(ptr))
    torch.library.opcheck(torch.ops.graphkit.gla_scan.default, (q, k, v, g, state, 1.0, ptr, True))
    torch.library.opcheck(torch.ops.graphkit.linear_scan.default, (inputs[0], inputs[1], ptr, False))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_scan(torch.ones(3, 2), torch.ones(2, 2)), "a and x must be matrices"),
        (lambda: linear_scan(torch.ones(3, 1), torch.ones(3, 1), torch.tensor([0, 2])), "ptr must ascend from 0"),
        (lambda: linear_scan(torch.ones(3, 1), torch.ones(3, 1), torch.tensor([0.0, 3])), "ptr must be a vector"),
        (lambda: gla_scan(*[torch.ones(2, 1, 3)] * 3, torch.zeros(2, 1, 2)), "g must have shape"),
        (
            lambda: gla_scan(*[torch.ones(2, 1, 3)] * 3, torch.zeros(2, 1, 3), state=torch.ones(1)),
            "state must have shape",
        ),
        (lambda: gla_scan(*[torch.ones(2, 1, 3)] * 4), "g must hold logarithms of decays, none above 0"),
        (lambda: gla_scan(torch.ones(2, 1, 3).to("meta"), *[torch.zeros(2, 1, 3)] * 3), "k is on cpu, q on meta"),
        (lambda: linear_scan(*[torch.ones(2, 3)] * 2, torch.tensor([0, 2], device="meta")), "ptr is on meta"),
        (lambda: gla_scan(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)), "q and k"),
        (lambda: selective_scan(*[torch.ones(2, 3)] * 2, torch.ones(3, 4), *[torch.ones(2, 3)] * 2), "b must have"),
        (lambda: ssd_scan(torch.ones(2, 1, 1), torch.ones(2), torch.ones(2, 1), torch.ones(2, 1)), "log_a"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
