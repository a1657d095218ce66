"""Dropout from a counter: the distribution of PyTorch's, the same mask backward, any number of threads."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from graphkit.nn.dropout import Dropout
from graphkit.ops.dropout import _dropout, dropout

DOUBLE = torch.float64


@pytest.mark.parametrize("p", [0.01, 0.05, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_share_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.rand(500, 401, dtype=dtype) + 1
    out = dropout(x, p)
    kept = out != 0
    total = x.numel()
    assert abs(float(kept.double().mean()) - (1 - p)) < 4 * (p * (1 - p) / total) ** 0.5 + 2**-16
    rounded = round(p * 65536) / 65536
    torch.testing.assert_close(out[kept], x[kept] / (1 - rounded))
    assert out.dtype == dtype


def test_entries_are_independent() -> None:
    """Patterns of four neighbours in memory, which share one random word, are as frequent as chance has them."""
    torch.manual_seed(0)
    kept = dropout(torch.ones(400_000), 0.5).view(-1, 4) != 0
    counts = torch.bincount((kept.long() * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    assert chisquare(counts.numpy()).pvalue > 1e-3
    words = kept[:, 0]
    lagged = torch.bincount(words[:-1].long() * 2 + words[1:].long(), minlength=4)
    assert chisquare(lagged.numpy()).pvalue > 1e-3
    other = dropout(torch.ones(400_000), 0.5).view(-1, 4)[:, 0] != 0
    assert chisquare(torch.bincount(words.long() * 2 + other.long(), minlength=4).numpy()).pvalue > 1e-3


def test_pytorchs_seed_decides() -> None:
    x = torch.ones(300)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(dropout(x, 0.5))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[2], dropout(x, 0.5))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (255,), (257,), (3, 5, 7)])
def test_gradients_use_the_same_mask(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=DOUBLE).requires_grad_()
    out = dropout(x, 0.4)
    assert out.shape == x.shape
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    assert torch.autograd.gradcheck(lambda x: _dropout(x, 7, 30_000), x)


def test_layout() -> None:
    """The mask follows the position in the tensor, not in memory."""
    x = torch.rand(40, 30) + 1
    torch.manual_seed(0)
    want = dropout(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(dropout(x.t().contiguous().t(), 0.5), want)


def test_threads_do_not_change_the_result() -> None:
    x = torch.rand(1000, 700)
    threads = torch.get_num_threads()
    outs = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            outs.append(dropout(x, 0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_borders() -> None:
    x = torch.rand(50) + 1
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    assert not dropout(x, 1.0).any()
    tiny = dropout(x, 1e-9)  # rounds to the smallest step, not to none or all
    assert float((tiny != 0).double().mean()) > 0.9
    assert float((dropout(x, 1 - 1e-9) != 0).double().mean()) < 0.1
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="probability"):
            dropout(x, p)
    half = dropout(x.half(), 0.5)
    assert half.dtype == torch.float16


def test_module() -> None:
    layer, x = Dropout(0.5), torch.ones(1000)
    assert layer.eval()(x) is x
    assert 400 < int((layer.train()(x) != 0).sum()) < 600
    assert repr(layer) == "Dropout(p=0.5, inplace=False)"


def test_operator_is_well_formed() -> None:
    torch.library.opcheck(_dropout, (torch.randn(4, 5, requires_grad=True), 3, 20_000))
    compiled = torch.compile(lambda x: dropout(x, 0.5), fullgraph=True, backend="aot_eager")
    out = compiled(torch.ones(1000))
    assert set(out.unique().tolist()) == {0.0, 2.0}
