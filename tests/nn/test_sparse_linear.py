"""The sparse linear layer is the dense one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphkit.nn import SparseLinear, sparsify
from graphkit.nn.conv.sparse_linear import sparse_dropout

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")


def words(rows: int = 12, width: int = 9, seed: int = 0) -> Tensor:
    """A bag of words with empty rows and an empty column."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    x *= torch.rand(rows, width, generator=generator) < 0.3
    x[[0, 5]] = 0
    x[:, 3] = 0
    return x


@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_dense_layer_with_gradients(bias: bool) -> None:
    x = words()
    layer = SparseLinear(9, 4, bias=bias).double()
    weight = torch.randn(12, 4, dtype=torch.float64)
    found = []
    for given in (x, x.to_sparse_csr()):
        layer.zero_grad()
        out = layer(given)
        (out * weight).sum().backward()
        found.append([out, *(p.grad.clone() for p in layer.parameters())])
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found[0][0], plain)
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(layer, {"weight": w}, x.to_sparse_csr()), layer.weight
    )


def test_dropout_of_stored_entries() -> None:
    x = words(200, 50).to_sparse_csr()
    assert sparse_dropout(x, 0.6, training=False) is x
    assert sparse_dropout(x, 0.0, training=True) is x
    torch.manual_seed(0)
    thin = sparse_dropout(x, 0.5, training=True)
    kept = thin.values() != 0
    torch.testing.assert_close(thin.values()[kept], 2 * x.values()[kept])
    assert abs(float(kept.double().mean()) - 0.5) < 0.03
    assert torch.equal(thin.col_indices(), x.col_indices())
    assert not sparse_dropout(x, 1.0, training=True).values().any()


@pytest.mark.parametrize("sparse", [False, True])
def test_dropout_is_for_training_and_keeps_the_mean(sparse: bool) -> None:
    x = words()
    given = x.to_sparse_csr() if sparse else x
    layer = SparseLinear(9, 2, dropout=0.5).double()
    want = layer.eval()(given).detach()
    assert torch.equal(layer(given), want)
    layer.train()
    torch.manual_seed(0)
    with torch.no_grad():
        outs = torch.stack([layer(given) for _ in range(1500)])
    assert bool(((outs.mean(0) - want).abs() <= 4.5 * outs.std(0) / 1500**0.5 + 1e-12).all())
    assert bool((outs.std(0) > 0).any())


def test_sparsify_chooses_by_density() -> None:
    x = torch.zeros(10, 10)
    x[0] = 1
    assert sparsify(x, 0.1).is_sparse_csr
    assert torch.equal(sparsify(x).to_dense(), x)
    x[1, 0] = 1
    assert sparsify(x, 0.1) is x
    sparse = x.to_sparse_csr()
    assert sparsify(sparse) is sparse


def test_bad_input() -> None:
    layer = SparseLinear(9, 4)
    for x in (torch.ones(3, 8), torch.ones(9), torch.ones(3, 8).to_sparse_csr()):
        with pytest.raises(ValueError, match=r"x must have shape \[N, 9\] \(got"):
            layer(x)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\] \(got 1.5\)"):
        SparseLinear(3, 2, dropout=1.5)


def test_no_rows_and_no_entries() -> None:
    layer = SparseLinear(9, 4)
    assert layer(torch.ones(0, 9)).shape == (0, 4)
    empty = torch.zeros(3, 9).to_sparse_csr()
    torch.testing.assert_close(layer(empty), layer.bias.expand(3, 4))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, ValueError, "got NoneType.; graphkit.transforms.RandomWalkEncoding"),
        (torch.ones(2, 3).long(), TypeError, "convert with .float"),
        (torch.ones(2, 3).double(), TypeError, "but the weights are torch.float32"),
        (torch.ones(2, 3, device="meta"), ValueError, "is on meta"),
    ],
)
def test_what_is_no_matrix_of_features(x, error, message):
    with pytest.raises(error, match=message):
        SparseLinear(3, 2, dropout=0.5)(x)
