"""WKV against a loop and against attention with a mask of distances; limits, states, gradients, large keys."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from graphkit.ops import wkv_scan
from graphkit.ops.wkv import empty_state, wkv_scan_reference, wkv_step

PTR = torch.tensor([0, 0, 1, 4, 4, 37, 102, 102])


def inputs(tokens: int = 102, channels: int = 5, scale: float = 1.0, dtype=torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    k, v = (torch.randn(tokens, channels, generator=random, dtype=torch.float64) for _ in range(2))
    w = torch.rand(channels, generator=random, dtype=torch.float64)
    u = torch.randn(channels, generator=random, dtype=torch.float64)
    return [part.to(dtype) for part in (scale * k, v, w, u)]


def as_attention(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Softmax over the tokens so far, for one sequence: the oracle."""
    place = torch.arange(len(k))
    distance = (place[:, None] - place - 1).to(k.dtype)
    score = k[None] - distance[..., None] * w
    score[place, place] = u + k
    score = score.masked_fill((place > place[:, None])[..., None], -torch.inf)
    return (score.softmax(1) * v[None]).sum(1)


def oracle(k, v, w, u, ptr) -> Tensor:
    parts = [as_attention(k[a:b], v[a:b], w, u) for a, b in pairwise(ptr.tolist()) if b > a]
    return torch.cat(parts)


def reference(k, v, w, u, ptr):
    return wkv_scan_reference(k, v, w, u, ptr, empty_state(ptr.numel() - 1, k))


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("scan", [wkv_scan, reference])
def test_it_is_attention_that_fades(scan, scale):
    k, v, w, u = inputs(scale=scale)
    torch.testing.assert_close(scan(k, v, w, u, PTR)[0], oracle(k, v, w, u, PTR))


@pytest.mark.parametrize("scan", [wkv_scan, reference])
def test_in_float32_and_with_keys_of_sixty(scan):
    k, v, w, u = inputs()
    k = 60 * k.sign()
    exact = oracle(k, v, w, u, PTR)
    found, state = scan(*(part.float() for part in (k, v, w, u)), PTR)
    torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)
    assert bool(torch.isfinite(state[PTR.diff() > 0]).all())


def test_the_first_output_is_the_first_value_and_keys_may_be_shifted():
    k, v, w, u = inputs()
    out, _ = wkv_scan(k, v, w, u)
    torch.testing.assert_close(out[0], v[0])
    torch.testing.assert_close(wkv_scan(k + 7, v, w, u)[0], out)


def test_limits_of_forgetting():
    k, v, _, u = inputs(20, 2)
    # At once: this token and the one before.
    out, _ = wkv_scan(k, v, torch.full((2,), 1e3, dtype=k.dtype), u)
    weight = torch.stack([k[:-1], u + k[1:]]).softmax(0)
    torch.testing.assert_close(out[1:], weight[0] * v[:-1] + weight[1] * v[1:])
    # Never, and no key of its own: the mean so far by keys.
    zero = torch.zeros(2, dtype=k.dtype)
    out, _ = wkv_scan(k, v, zero, zero)
    torch.testing.assert_close(out, (k.exp() * v).cumsum(0) / k.exp().cumsum(0))


@pytest.mark.parametrize("scan", [wkv_scan, wkv_scan_reference])
def test_a_sequence_may_be_cut_anywhere_and_go_on(scan):
    k, v, w, u = inputs(40)
    ptr = torch.tensor([0, 40])
    whole, end = reference(k, v, w, u, ptr)
    for cut in (1, 17, 39):
        first, state = scan(k[:cut], v[:cut], w, u, torch.tensor([0, cut]), empty_state(1, k))
        second, last = scan(k[cut:], v[cut:], w, u, torch.tensor([0, 40 - cut]), state)
        torch.testing.assert_close(torch.cat([first, second]), whole)
        torch.testing.assert_close(last[:, :2] * last[:, 2:].exp(), end[:, :2] * end[:, 2:].exp())
    state = empty_state(1, k)
    for t in range(40):
        out, state = wkv_step(k[t : t + 1], v[t : t + 1], w, u, state)
        torch.testing.assert_close(out[0], whole[t])


def test_an_empty_sequence_keeps_its_state():
    k, v, w, u = inputs(3)
    state = torch.rand(2, 3, 5, dtype=k.dtype)
    for scan in (wkv_scan, wkv_scan_reference):
        torch.testing.assert_close(scan(k, v, w, u, torch.tensor([0, 0, 3]), state)[1][0], state[0])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gradients(scale):
    def gradients(function):
        leaves = [part.requires_grad_() for part in inputs(scale=scale)]
        out = function(*leaves)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        return torch.autograd.grad((out * weight).sum(), leaves)

    wanted = gradients(lambda *t: oracle(*t, PTR))
    torch.testing.assert_close(gradients(lambda *t: wkv_scan(*t, PTR)[0]), wanted)
    torch.testing.assert_close(gradients(lambda *t: reference(*t, PTR)[0]), wanted)


def test_gradcheck_from_a_state():
    leaves = [part.requires_grad_() for part in inputs(5, 2)]
    state = wkv_scan(*inputs(6, 2), torch.tensor([0, 2, 6]))[1]
    assert torch.autograd.gradcheck(lambda *t: wkv_scan(*t, torch.tensor([0, 2, 5]), state)[0], leaves)


def test_gradients_of_large_keys_in_float32_are_finite():
    k, v, w, u = (part.requires_grad_() for part in inputs(200, scale=200.0, dtype=torch.float32))
    wkv_scan(k, v, w, u)[0].square().sum().backward()
    assert all(bool(torch.isfinite(part.grad).all()) for part in (k, v, w, u))


def test_half_precision_keeps_its_sums_in_float32():
    k, v, w, u = inputs(40, dtype=torch.bfloat16)
    exact, end = wkv_scan(*(part.double() for part in (k, v, w, u)))
    out, state = wkv_scan(k, v, w, u)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.double(), exact, atol=0, rtol=2**-8)
    torch.testing.assert_close(state.double(), end, atol=1e-5, rtol=1e-5)
    step, _ = wkv_step(k[:1], v[:1], w, u, state)
    assert step.dtype == torch.bfloat16


def test_as_an_operator():
    k, v, w, u = inputs(6, dtype=torch.float32)
    state, ptr = empty_state(2, k), torch.tensor([0, 2, 6])
    torch.library.opcheck(torch.ops.graphkit.wkv_scan.default, (k, v, w, u, state, ptr))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, v, w, u: wkv_scan(k, v[1:], w, u), "k and v must be matrices"),
        (lambda k, v, w, u: wkv_scan(k, v, w[1:], u), "w must have shape"),
        (lambda k, v, w, u: wkv_scan(k, v, w, u[1:]), "u must have shape"),
        (lambda k, v, w, u: wkv_scan(k, v, -w, u), "w must not be negative"),
        (lambda k, v, w, u: wkv_scan(k, v, w, u, state=torch.zeros(2, 3, 5)), "state must have shape"),
        (lambda k, v, w, u: wkv_scan(k, v, w, u, torch.tensor([0, 3])), "ptr must ascend"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*inputs(6))
