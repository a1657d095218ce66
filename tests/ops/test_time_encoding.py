"""Time encodings against exact cosines, with gradients."""

from __future__ import annotations

import math

import pytest
import torch

from graphkit.ops.time_encoding import _encode, time_encoding, time_encoding_reference

DOUBLE = torch.float64


def test_small_differences_between_large_times_survive() -> None:
    """Angles of 10^9 in float32 are off by tens of radians."""
    freq, phase = 10 ** -torch.linspace(0, 9, 37), torch.randn(37)
    dt = torch.randint(0, 10**9, (200,))
    want = torch.tensor(
        [[math.cos(math.fmod(d * w + b, 2 * math.pi)) for w, b in zip(freq.tolist(), phase.tolist(), strict=True)]
         for d in dt.tolist()], dtype=DOUBLE,
    )  # fmt: skip
    for encode in (time_encoding, time_encoding_reference):
        torch.testing.assert_close(encode(dt, freq, phase).double(), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("width", [1, 16, 100])
def test_double_precision(width: int) -> None:
    freq, phase = torch.rand(width, dtype=DOUBLE) * 3, torch.randn(width, dtype=DOUBLE)
    dt = torch.linspace(-50, 50, 101, dtype=DOUBLE)
    torch.testing.assert_close(
        time_encoding(dt, freq, phase), torch.cos(dt[:, None] * freq + phase), rtol=0, atol=1e-12
    )


def test_gradients() -> None:
    freq, phase = torch.rand(2, 7, dtype=DOUBLE).requires_grad_().unbind()
    dt = torch.tensor([0, 3, -4, 11])
    assert torch.autograd.gradcheck(lambda w, b: time_encoding(dt, w, b), (freq, phase))
    torch.library.opcheck(_encode, (dt, freq.detach().requires_grad_(), phase.detach().requires_grad_()))


def test_other_precisions_and_no_times() -> None:
    freq = torch.rand(5)
    low = time_encoding(torch.tensor([7]), freq.bfloat16(), torch.zeros(5).bfloat16())
    assert low.dtype == torch.bfloat16
    assert time_encoding(torch.empty(0, dtype=torch.int64), freq, freq).shape == (0, 5)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"freq and phase vectors of one length \(got \[2\], \[3\] and \[4\]\)"):
        time_encoding(torch.zeros(2), torch.zeros(3), torch.zeros(4))
