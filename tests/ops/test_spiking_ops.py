"""Integrate-and-fire neurons: what they fire, gradients as written, resets, states, both forms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from graphkit.ops import lif_scan, spike, surrogate_slope
from graphkit.ops.spiking import RESETS, SURROGATES, lif_scan_reference

PTR = torch.tensor([0, 0, 1, 4, 20])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The half-trained neuron of SpikeGPT: v/2 + I/2.
SPIKEGPT = {"decay": 0.5, "input_scale": 0.5}


def fired(current: float, steps: int = 8) -> list[float]:
    return lif_scan(torch.full((steps, 1), current), **SPIKEGPT)[0].flatten().tolist()


def test_constant_currents():
    assert fired(0.99, 200) == [0] * 200
    assert fired(2.0) == [1] * 8  # the membrane is at the threshold, which counts
    assert fired(1.5) == [0, 1] * 4


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_slopes_are_those_of_functions_that_go_from_zero_to_one(surrogate):
    u = torch.linspace(-2000, 2000, 2_000_001, dtype=torch.float64)
    slope = surrogate_slope(u, surrogate)
    primitives = {
        "atan": lambda u: torch.atan(math.pi / 2 * 2 * u) / math.pi + 0.5,
        "sigmoid": lambda u: torch.sigmoid(4 * u),
    }
    if surrogate in primitives:
        x = random(20).requires_grad_()
        (wanted,) = torch.autograd.grad(primitives[surrogate](x).sum(), x)
        torch.testing.assert_close(surrogate_slope(x.detach(), surrogate), wanted)
    else:
        area = {"triangle": 0.3, "quadratic": 1.0, "rectangle": 0.5 * 1, "straight-through": 4000.0}[surrogate]
        assert float(torch.trapezoid(slope, u)) == pytest.approx(area, rel=1e-2)
    assert bool((slope >= 0).all())
    x = random(30).requires_grad_()
    (found,) = torch.autograd.grad((spike(x, surrogate) * 3).sum(), x)
    torch.testing.assert_close(found, 3 * surrogate_slope(x.detach(), surrogate))


def both(reset: str, surrogate: str, detach: bool):
    """Outputs and gradients of the kernel and of plain PyTorch, whose gradient is autograd's."""
    weight, last = random(20, 3, seed=5), random(4, 3, seed=6)
    found = []
    for plain in (False, True):
        x, state = (2 * random(20, 3)).requires_grad_(), random(4, 3, seed=1).requires_grad_()
        decay = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
        threshold = torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
        if plain:
            out = lif_scan_reference(x, PTR, state, decay, threshold, 0.8, reset, surrogate, None, detach)
        else:
            out = lif_scan(
                x,
                PTR,
                state,
                decay=decay,
                threshold=threshold,
                input_scale=0.8,
                reset=reset,
                surrogate=surrogate,
                detach_reset=detach,
            )
        total = (out[0] * weight).sum() + (out[1] * last).sum()
        found.append((*out, *torch.autograd.grad(total, (x, state, decay, threshold))))
    return found


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("surrogate", ["atan", "triangle"])
@pytest.mark.parametrize("reset", RESETS)
def test_gradients_go_back_in_time_as_written(reset, surrogate, detach):
    ours, plain = both(reset, surrogate, detach)
    torch.testing.assert_close(ours, plain)
    assert 0 < float(ours[0].mean()) < 1


def test_the_path_through_the_reset_makes_a_difference():
    (kept, _), (cut, _) = both("hard", "atan", False), both("hard", "atan", True)
    torch.testing.assert_close(kept[0], cut[0])
    assert not torch.allclose(kept[2], cut[2])


def test_two_steps_by_hand():
    x = torch.tensor([[2.4], [1.0]], dtype=torch.float64, requires_grad=True)
    spikes, _ = lif_scan(x, **SPIKEGPT)
    assert spikes.flatten().tolist() == [1, 0]
    (found,) = torch.autograd.grad(spikes[1, 0], x)
    h = torch.tensor([1.2, 0.5], dtype=torch.float64)
    slope = surrogate_slope(h - 1)
    # dv1/dh1 = (1 - s) - h s'; then half of it, twice half for the inputs.
    by_membrane = -1.2 * slope[0]
    wanted = torch.stack([slope[1] * 0.5 * by_membrane * 0.5, slope[1] * 0.5])
    torch.testing.assert_close(found.flatten(), wanted)


def test_sequences_begin_anew_and_go_on_from_a_state():
    x = 2 * random(20, 4)
    whole, end = lif_scan(x, PTR, decay=0.9)
    parts = [lif_scan(x[a:b], decay=0.9) for a, b in pairwise(PTR.tolist())]
    assert torch.equal(whole, torch.cat([part[0] for part in parts]))
    assert torch.equal(end, torch.cat([part[1] for part in parts]))
    one, state = lif_scan(x[:7], decay=0.9)
    two, last = lif_scan(x[7:], state=state, decay=0.9)
    assert torch.equal(torch.cat([one, two]), lif_scan(x, decay=0.9)[0])
    assert torch.equal(last, lif_scan(x, decay=0.9)[1])


def test_without_a_reset_it_is_a_linear_recurrence():
    x = random(30, 2)
    weight = 0.7 ** (torch.arange(30)[:, None] - torch.arange(30)).double()
    membrane = weight.tril() @ x
    spikes, end = lif_scan(x, decay=0.7, reset="none")
    torch.testing.assert_close(spikes, (membrane >= 1).double())
    torch.testing.assert_close(end[0], membrane[-1])


def test_half_precision_keeps_its_membranes_in_float32():
    x = (2 * random(20, 4)).bfloat16()
    exact, end = lif_scan(x.double(), PTR, decay=0.9)
    spikes, state = lif_scan(x, PTR, decay=0.9)
    assert (spikes.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(spikes.double(), exact)
    torch.testing.assert_close(state.double(), end, atol=1e-5, rtol=1e-5)


def test_as_an_operator():
    x = random(6, 3).float()
    row = torch.full((3,), 0.5)
    ptr = torch.tensor([0, 2, 6])
    arguments = (x, row, row, torch.zeros(2, 3), 1.0, "hard", "atan", 2.0, False, ptr)
    torch.library.opcheck(torch.ops.graphkit.lif_scan.default, arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: lif_scan(x[0]), r"x must be a matrix"),
        (lambda x: lif_scan(x, reset="half"), "reset must be one of"),
        (lambda x: lif_scan(x, surrogate="atn"), "did you mean 'atan'"),
        (lambda x: lif_scan(x, state=x), "state must have shape"),
        (lambda x: lif_scan(x, decay=torch.ones(2)), "decay must be a number"),
        (lambda x: spike(x, "step"), "surrogate must be one of"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(random(4, 3))
