"""Triton kernels of the scans against float64 on the CPU. Without a GPU: TRITON_INTERPRET=1 runs those in float32."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from torch import Tensor

from graphkit.ops import gla_scan, linear_scan, selective_scan

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device (or TRITON_INTERPRET=1)", allow_module_level=True)
pytest.importorskip("triton")

gated = importlib.import_module("graphkit.ops.cuda.gated_scan")
state = importlib.import_module("graphkit.ops.cuda.state_scan")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
PTRS = [[0, 0, 1, 4, 4, 37, 102, 102], [0, 133], [0, 16, 32, 80]]
SINGLE, BRAIN = torch.float32, torch.bfloat16
TOLERANCE = {SINGLE: 3e-6, BRAIN: 2e-2}


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


# The interpreter multiplies the bits of bfloat16.
@pytest.mark.parametrize(
    "dtype", [pytest.param(SINGLE, id="float32"), pytest.param(BRAIN, id="bfloat16", marks=needs_cuda)]
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("ptr", "heads", "width", "depth", "wide", "tau"),
    [
        (PTRS[0], 2, 4, 3, True, 1),
        (PTRS[1], 1, 70, 66, True, 16),
        (PTRS[1], 1, 16, 16, False, 0.05),
        (PTRS[2], 2, 20, 33, True, 0.05),
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
    out, end = gated.gla_scan(*moved, 0.7, there, reverse)
    assert_close(out, want[0].detach(), dtype)
    assert_close(end, want[1].detach(), SINGLE, factor=1 if dtype == SINGLE else 1e4)
    found = gated.gla_scan_backward(*(g.to(DEVICE) for g in grads), *moved, 0.7, there, reverse)
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


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [3, 16])
@pytest.mark.parametrize("ptr", PTRS)
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


def test_no_tokens():
    ptr = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    inputs = [t.to(DEVICE) for t in gated_inputs(ptr.cpu(), 2, 4, 3, True, 1)]
    out, end = gated.gla_scan(*inputs, 1.0, ptr, False)
    assert out.shape == (0, 2, 3)
    torch.testing.assert_close(end, inputs[4])
    *zeros, back = gated.gla_scan_backward(out, end, *inputs, 1.0, ptr, False)
    assert all(z.numel() == 0 for z in zeros)
    torch.testing.assert_close(back, end)
    inputs = [t.to(DEVICE) for t in selective_inputs(ptr.cpu(), 4, 2)]
    found = state.selective_scan_backward(state.selective_scan(*inputs, ptr, False), *inputs, ptr, False)
    assert [t.shape for t in found] == [t.shape for t in inputs]
    assert not any(t.any() for t in found)
    assert state.linear_scan(inputs[0], inputs[1], ptr, False).shape == (0, 4)


@needs_cuda
def test_public_functions_take_the_kernels_and_do_not_wait(monkeypatch):
    ptr = torch.tensor(PTRS[0])
    inputs = [t.cuda().requires_grad_() for t in gated_inputs(ptr, 2, 4, 3, True, 1)]
    others = [t.cuda().requires_grad_() for t in selective_inputs(ptr, 10, 3)]
    there = ptr.cuda()
    seen = []
    for module, name in ((gated, "gla_scan"), (state, "selective_scan"), (state, "linear_scan")):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, plain=plain, name=name, **k: seen.append(name) or plain(*a, **k))

    def step() -> None:
        out, end = gla_scan(*inputs[:4], there, inputs[4])
        total = out.sum() + end.sum() + selective_scan(*others, there).sum()
        (total + linear_scan(others[0].sigmoid(), others[0], there).sum()).backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {"gla_scan", "selective_scan", "linear_scan"} <= set(seen)
    assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs + others)
