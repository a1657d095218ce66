"""Triton kernels of the scans against float64 on the CPU. Without a GPU: TRITON_INTERPRET=1 runs them, slowly."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from torch import Tensor

from graphkit.ops import gla_scan, lif_scan, linear_scan, selective_scan, wkv_scan
from graphkit.ops.spiking import _SHARPNESS, SURROGATES
from graphkit.ops.wkv import empty_state

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device (or TRITON_INTERPRET=1)", allow_module_level=True)
pytest.importorskip("triton")

gated = importlib.import_module("graphkit.ops.cuda.gated_scan")
recurrent = importlib.import_module("graphkit.ops.cuda.recurrent_scan")
state = importlib.import_module("graphkit.ops.cuda.state_scan")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
PTRS = [[0, 0, 1, 4, 4, 37, 102, 102], [0, 133], [0, 16, 32, 80]]
SINGLE, BRAIN = torch.float32, torch.bfloat16
TOLERANCE = {SINGLE: 3e-6, BRAIN: 2e-2, torch.float16: 2e-3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(got: Tensor, want: Tensor, dtype: torch.dtype, factor: float = 1) -> None:
    assert got.dtype == dtype
    assert got.shape == want.shape
    error = (got.double().cpu() - want).norm() / want.norm().clamp(min=1e-30)
    assert bool(error <= factor * TOLERANCE[dtype]), f"relative error {error:.1e}"


def gradients(out: list[Tensor], grads: list[Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    total = sum(((o * g).sum() for o, g in zip(out, grads, strict=True)), torch.zeros(()))
    return torch.autograd.grad(total, inputs)


def gated_inputs(ptr: Tensor, heads: int, width: int, depth: int, wide: bool, tau: float) -> list[Tensor]:
    n = int(ptr[-1])
    q, k, v = random(n, heads, width), random(n, heads, width, seed=1), random(n, heads, depth, seed=2)
    g = torch.nn.functional.logsigmoid(random(n, heads, width if wide else 1, seed=3)) / tau
    return [q, k, v, g, random(ptr.numel() - 1, heads, width, depth, seed=4)]


# Each is a set of kernels of its own, whose compilation takes most of the time.
@pytest.mark.parametrize(
    ("ptr", "heads", "width", "depth", "wide", "tau", "reverse", "dtype"),
    [
        (PTRS[0], 2, 4, 3, True, 1, False, SINGLE),
        (PTRS[1], 1, 70, 66, True, 16, True, SINGLE),
        (PTRS[1], 1, 16, 16, False, 0.05, False, SINGLE),
        (PTRS[2], 2, 20, 33, True, 0.05, True, SINGLE),
        # The interpreter would multiply the bits of bfloat16.
        (PTRS[1], 1, 70, 66, True, 16, False, BRAIN if CUDA else torch.float16),
    ],
)
def test_gated_scan(ptr, heads, width, depth, wide, tau, reverse, dtype):
    ptr = torch.tensor(ptr)
    inputs = gated_inputs(ptr, heads, width, depth, wide, tau)
    inputs[:3] = [t.to(dtype) for t in inputs[:3]]
    exact = [t.double().requires_grad_() for t in inputs]
    want = gla_scan(*exact[:4], ptr, exact[4], scale=0.7, reverse=reverse)
    grads = [
        random(*t.shape, seed=7 + i).to(t0.dtype) for i, (t, t0) in enumerate(zip(want, inputs[2::2], strict=True))
    ]
    want_grads = gradients(list(want), [g.double() for g in grads], exact)
    moved, there = [t.to(DEVICE) for t in inputs], ptr.to(DEVICE)
    out, end, kept = gated.gla_scan(*moved, 0.7, there, reverse)
    assert kept.shape == (out.size(0), heads, 64)
    assert_close(out, want[0].detach(), dtype)
    assert_close(end, want[1].detach(), SINGLE, factor=1 if dtype == SINGLE else 1e4)
    found = gated.gla_scan_backward(*(g.to(DEVICE) for g in grads), *moved, kept, 0.7, there, reverse)
    for i, (got, should) in enumerate(zip(found, want_grads, strict=True)):
        # The gradient of strong gates is a small difference of large numbers.
        of_gate = 100 if i == 3 else 1
        assert_close(got, should, inputs[i].dtype, factor=of_gate * (1 if dtype == inputs[i].dtype else 1e4))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ptr", PTRS)
def test_linear_scan(ptr, reverse):
    ptr = torch.tensor(ptr)
    a, x = random(int(ptr[-1]), 37).sigmoid(), random(int(ptr[-1]), 37, seed=1)
    exact = [t.double().requires_grad_() for t in (a, x)]
    want = linear_scan(*exact, ptr, reverse)
    grad = random(*want.shape, seed=2)
    want_grads = gradients([want], [grad.double()], exact)
    a, x, grad, ptr = (t.to(DEVICE) for t in (a, x, grad, ptr))
    h = state.linear_scan(a, x, ptr, reverse)
    assert_close(h, want.detach(), SINGLE)
    for got, should in zip(state.linear_scan_backward(grad, a, h, ptr, reverse), want_grads, strict=True):
        assert_close(got, should, SINGLE)


def selective_inputs(ptr: Tensor, channels: int, size: int) -> list[Tensor]:
    n = int(ptr[-1])
    dt, a = torch.nn.functional.softplus(random(n, channels, seed=1)), -random(channels, size, seed=2).exp()
    return [random(n, channels), dt, a, random(n, size, seed=3), random(n, size, seed=4), random(channels, seed=5)]


@pytest.mark.parametrize(
    ("ptr", "size", "reverse"), [(PTRS[0], 3, False), (PTRS[0], 3, True), (PTRS[1], 3, False), (PTRS[2], 16, True)]
)
def test_selective_scan(ptr, size, reverse):
    ptr = torch.tensor(ptr)
    inputs = selective_inputs(ptr, 10, size)
    exact = [t.double().requires_grad_() for t in inputs]
    want = selective_scan(*exact, ptr, reverse)
    grad = random(*want.shape, seed=6)
    want_grads = gradients([want], [grad.double()], exact)
    moved, there = [t.to(DEVICE) for t in inputs], ptr.to(DEVICE)
    assert_close(state.selective_scan(*moved, there, reverse), want.detach(), SINGLE)
    found = state.selective_scan_backward(grad.to(DEVICE), *moved, there, reverse)
    for got, should in zip(found, want_grads, strict=True):
        assert_close(got, should, SINGLE)


def wkv_inputs(ptr: Tensor, channels: int, scale: float, carried: bool) -> list[Tensor]:
    n, sequences = int(ptr[-1]), ptr.numel() - 1
    k, v, u = scale * random(n, channels), random(n, channels, seed=1), random(channels, seed=2)
    w = random(channels, seed=3).exp()
    before = torch.stack([random(sequences, channels, seed=4), random(sequences, channels, seed=5).exp()], 1)
    exponent = scale * random(sequences, 1, channels, seed=6)
    return [k, v, w, u, torch.cat([before, exponent], 1) if carried else empty_state(sequences, k)]


@pytest.mark.parametrize(
    ("ptr", "scale", "carried", "dtype"),
    [
        ([0, 0, 1, 4, 4, 37], 1, False, SINGLE),
        ([0, 1, 1, 66], 60, True, SINGLE),
        ([0, 32, 35], 1, True, BRAIN),
    ],
)
def test_wkv_scan(ptr, scale, carried, dtype):
    ptr = torch.tensor(ptr)
    *inputs, before = wkv_inputs(ptr, 18 if scale == 1 else 3, scale, carried)
    inputs[:2] = [t.to(dtype) for t in inputs[:2]]
    exact = [t.double().requires_grad_() for t in inputs]
    want, want_end = wkv_scan(*exact, ptr, before.double())
    grad = random(*want.shape, seed=7).to(dtype)
    want_grads = gradients([want], [grad.double()], exact)
    moved, there = [t.to(DEVICE) for t in (*inputs, before)], ptr.to(DEVICE)
    y, end = recurrent.wkv_scan(*moved, there)
    # Keys of 60 have errors of their own size in exponents.
    factor = scale
    assert_close(y, want.detach(), dtype, factor)
    some = ptr.diff() > 0
    assert torch.equal(end[~some].cpu(), before[~some])
    for got, should in zip(end[some].unbind(1), want_end[some].unbind(1), strict=True):
        assert_close(got, should, SINGLE, factor)
    found = recurrent.wkv_scan_backward(grad.to(DEVICE), *moved, there)
    for got, should, given in zip(found, want_grads, inputs, strict=True):
        assert_close(got, should, given.dtype, factor)


RESETS = [("hard", False), ("soft", False), ("hard", True), ("soft", True), ("none", False), ("hard", False)]


# Every surrogate and every reset: each pair would be a kernel of its own.
@pytest.mark.parametrize(
    ("surrogate", "reset", "detach", "dtype"),
    [
        *((name, *how, SINGLE) for name, how in zip(SURROGATES, RESETS, strict=True)),
        ("atan", "hard", False, BRAIN),
    ],
)
def test_lif_scan(surrogate, reset, detach, dtype):
    ptr = torch.tensor([0, 0, 1, 4, 4, 41])
    x = (2 * random(41, 70)).to(dtype)
    inputs = [x, random(5, 70, seed=1), random(70, seed=2).sigmoid(), random(70, seed=3).exp()]
    how = {"reset": reset, "surrogate": surrogate, "detach_reset": detach, "input_scale": 0.8}
    grads = [random(*x.shape, seed=7).to(dtype), random(*inputs[1].shape, seed=8)]

    def plain(width: torch.dtype) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        given = [t.to(width).requires_grad_() for t in inputs]
        out = lif_scan(given[0], ptr, given[1], decay=given[2], threshold=given[3], **how)
        return out, gradients(list(out), [g.to(width) for g in grads], given)

    want, want_grads = plain(torch.float64)
    _, single_grads = plain(SINGLE)
    x, before, decay, threshold, there = (t.to(DEVICE) for t in (*inputs, ptr))
    spikes, h, end = recurrent.lif_scan(x, decay, threshold, before, 0.8, reset, there)
    assert spikes.dtype == dtype
    assert torch.equal(spikes.double().cpu(), want[0].detach())
    assert_close(end, want[1].detach(), SINGLE)
    given = (*(g.to(DEVICE) for g in grads), h, decay, threshold, before)
    found = recurrent.lif_scan_backward(*given, 0.8, reset, surrogate, _SHARPNESS[surrogate], detach, there)
    for got, i in zip(found, (0, 2, 3, 1), strict=True):
        # Gradients of all tokens cancel in those of decay and threshold: the kernel may be off by what float32 is off.
        off = (single_grads[i].double() - want_grads[i]).norm() / want_grads[i].norm()
        assert_close(got, want_grads[i], inputs[i].dtype, min(max(1.0, 1.5 * float(off) / TOLERANCE[SINGLE]), 2.0))


def test_no_tokens():
    ptr = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    inputs = [t.to(DEVICE) for t in gated_inputs(ptr.cpu(), 2, 4, 3, True, 1)]
    out, end, kept = gated.gla_scan(*inputs, 1.0, ptr, False)
    assert out.shape == (0, 2, 3)
    torch.testing.assert_close(end, inputs[4])
    *zeros, back = gated.gla_scan_backward(out, end, *inputs, kept, 1.0, ptr, False)
    assert all(z.numel() == 0 for z in zeros)
    torch.testing.assert_close(back, end)
    inputs = [t.to(DEVICE) for t in selective_inputs(ptr.cpu(), 4, 2)]
    found = state.selective_scan_backward(state.selective_scan(*inputs, ptr, False), *inputs, ptr, False)
    assert [t.shape for t in found] == [t.shape for t in inputs]
    assert not any(t.any() for t in found)
    assert state.linear_scan(inputs[0], inputs[1], ptr, False).shape == (0, 4)
    *inputs, before = (t.to(DEVICE) for t in wkv_inputs(ptr.cpu(), 3, 1, True))
    y, end = recurrent.wkv_scan(*inputs, before, ptr)
    torch.testing.assert_close(end, before)
    found = recurrent.wkv_scan_backward(y, *inputs, before, ptr)
    assert [t.shape for t in found] == [t.shape for t in inputs]
    assert not any(t.any() for t in found)
    before, row = random(2, 3).to(DEVICE), random(3).to(DEVICE)
    spikes, h, end = recurrent.lif_scan(y, row, row, before, 1.0, "hard", ptr)
    torch.testing.assert_close(end, before)
    found = recurrent.lif_scan_backward(spikes, end, h, row, row, before, 1.0, "hard", "atan", 2.0, False, ptr)
    assert [t.shape for t in found] == [y.shape, row.shape, row.shape, before.shape]
    torch.testing.assert_close(found[3], end)


@needs_cuda
def test_public_functions_take_the_kernels_and_do_not_wait(monkeypatch):
    ptr = torch.tensor(PTRS[0])
    inputs = [t.cuda().requires_grad_() for t in gated_inputs(ptr, 2, 4, 3, True, 1)]
    others = [t.cuda().requires_grad_() for t in selective_inputs(ptr, 10, 3)]
    *sums, before = (t.cuda().requires_grad_() for t in wkv_inputs(ptr, 18, 1, True))
    there = ptr.cuda()
    seen = []
    kernels = {gated: ["gla_scan"], state: ["selective_scan", "linear_scan"], recurrent: ["wkv_scan", "lif_scan"]}
    for module, name in ((module, name) for module, names in kernels.items() for name in names):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, plain=plain, name=name, **k: seen.append(name) or plain(*a, **k))

    def step() -> None:
        out, end = gla_scan(*inputs[:4], there, inputs[4])
        total = out.sum() + end.sum() + selective_scan(*others, there).sum()
        total += wkv_scan(*sums, there, before)[0].sum() + lif_scan(sums[1], there)[1].sum()
        total += lif_scan(sums[0], decay=0.9)[0].sum()  # numbers for tensors, and one sequence
        (total + linear_scan(others[0].sigmoid(), others[0], there).sum()).backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert set(seen) == {name for names in kernels.values() for name in names}
    assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs + others + sums)
