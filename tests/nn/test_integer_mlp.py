"""The MLP in whole numbers: against integers of Python, its file bit for bit, rows that do not depend on others, bad
files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from graphkit.nn import CodeDistillMLP, IntegerMLP, load_integer_mlp
from graphkit.utils.cost import model_bytes


def model_of(x: Tensor, hidden: int = 6, classes: int = 3, seed: int = 0, layers: int = 2, **bits: int) -> IntegerMLP:
    torch.manual_seed(seed)
    student = CodeDistillMLP(x.size(1), hidden, classes, num_layers=layers, dropout=0.3)
    return IntegerMLP.from_student(student, x, **bits).eval()


def features(rows: int = 20, width: int = 8, seed: int = 0, signed: bool = True) -> Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return x if signed else x.relu()


def served(model: IntegerMLP, x: Tensor, folder: Path) -> Tensor:
    return torch.from_numpy(load_integer_mlp(model.save(folder / "model.npz"))(x.numpy()))


def in_python(model: IntegerMLP, x: list[list[float]]) -> list[list[Fraction]]:
    """Every sum with whole numbers and fractions of Python, which are exact."""
    rows = [[Fraction(value) for value in row] for row in x]
    layers = model.integers()
    for place, layer in enumerate(layers):
        step = Fraction(2) ** layer.input_exponent
        out = []
        for row in rows:
            # round() of a fraction is half to even.
            codes = [min(max(round(max(v, 0) / step if place else v / step), layer.low), layer.high) for v in row]
            sums = [sum(int(w) * c for w, c in zip(weight, codes, strict=True)) for weight in layer.weight]
            scaled = zip(sums, layer.bias.tolist(), layer.exponent.tolist(), strict=True)
            out.append([(total + bias) * step * Fraction(2) ** e for total, bias, e in scaled])
        rows = out
    return rows


def test_golden() -> None:
    model = IntegerMLP(2, 2, 1)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[0.5, -0.26], [0.1, 0.2]]))
        model.layers[0].bias.copy_(torch.tensor([0.0, 0.25]))
        model.layers[1].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model.layers[1].bias.zero_()
    first, second = model.integers()
    # The row of -0.26 and 0.5 needs the range from -1 on, in steps of 1/8; the other has no sign, and steps of 1/64.
    assert first.weight.tolist() == [[4, -2], [6, 13]]
    assert first.exponent.tolist() == [-3, -6]
    # Inputs from -1 to 1 need the range from -2 on, in steps of 1/64.
    assert (first.low, first.high, first.input_exponent) == (-128, 127, -6)
    assert first.bias.tolist() == [0, 1024]
    assert second.weight.tolist() == [[4, -4]]
    # 32/64 and 64/64: 1/2 * 1/2 - 1/4 = 0 and 6/128 + 13/64 + 1/4 = 1/2.
    assert model(torch.tensor([[0.5, 1.0]])).tolist() == [[-0.5]]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 40),
    layers=st.integers(1, 4),
    w_bits=st.integers(2, 8),
    a_bits=st.integers(2, 8),
    signed=st.booleans(),
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
)
def test_file_module_and_python_agree_bit_for_bit(
    tmp_path_factory, seed: int, width: int, layers: int, w_bits: int, a_bits: int, signed: bool, scale: float
) -> None:
    x = scale * features(7, width, seed, signed)
    model = model_of(x[:5], seed=seed, layers=layers, w_bits=w_bits, a_bits=a_bits)
    out = model(x)
    path = model.save(tmp_path_factory.mktemp("file") / "model.npz")
    for rows in (x.numpy(), scipy.sparse.csr_array(x.numpy())):
        assert np.array_equal(load_integer_mlp(path)(rows), out.detach().numpy())
    assert torch.equal(out, model(x.to_sparse_csr()))
    assert [[Fraction(v) for v in row] for row in out.tolist()] == in_python(model, x.tolist())


def test_sums_that_floats_do_not_hold_are_served_exactly(tmp_path) -> None:
    x = features(4, 300, signed=False)
    model = model_of(x, w_bits=8, a_bits=16)
    found = served(model, x, tmp_path)
    exactly = [value for row in in_python(model, x.tolist()) for value in row]
    for got, exact in zip(found.flatten().tolist(), exactly, strict=True):
        assert got == float(np.float32(float(exact)))


def test_a_row_does_not_depend_on_the_others(tmp_path) -> None:
    x = features()
    x[3] *= 100  # beyond the range, which was seen without it
    model = model_of(x[:3])
    whole = model(x)
    assert all(torch.equal(model(x[place : place + 1])[0], whole[place]) for place in range(len(x)))
    assert bool(whole[3].isfinite().all())


def test_many_bits_are_the_student(tmp_path) -> None:
    x = features(50)
    torch.manual_seed(0)
    student = CodeDistillMLP(8, 16, 3, code_dim=4, num_layers=3).eval()
    fine = IntegerMLP.from_student(student, x, w_bits=8, a_bits=16).eval()
    coarse = IntegerMLP.from_student(student, x, w_bits=2, a_bits=3).eval()
    logits = student(x)[0]
    torch.testing.assert_close(fine(x), logits, atol=0.02, rtol=0)
    assert float((coarse(x) - logits).abs().max()) > 0.1


def test_the_file_is_small_and_its_size_is_the_models(tmp_path) -> None:
    x = features(5, 500)
    model = model_of(x, hidden=64)
    weights, rows = 64 * 500 + 3 * 64, 64 + 3
    path = model.save(tmp_path / "model.npz")
    assert path.stat().st_size == model.model_bytes() == model_bytes(model)
    arrays = weights / 2 + rows * 5.125
    assert arrays <= path.stat().st_size <= arrays + 1600  # names and sizes of five arrays
    assert path.stat().st_size < 4 * weights / 7


def test_training_reaches_every_weight_and_fits() -> None:
    torch.manual_seed(0)
    x, y = features(60), torch.arange(60) % 3
    x = x + 2 * F.one_hot(y, 8)
    model = IntegerMLP(8, 16, 3)
    model.calibrate(x)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert losses[-1] < 0.4 * losses[0]


def test_dropout_is_after_the_rounding_and_only_in_training() -> None:
    x = features()
    model = model_of(x)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_ranges_are_in_the_state() -> None:
    x = features()
    model, other = model_of(x), IntegerMLP(8, 6, 3)
    assert not torch.equal(model.ranges, other.ranges)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model(x))


def test_sparse_features_count_their_zeros() -> None:
    x = features().relu() + 1
    x[:, 1:] = 0
    dense, sparse = model_of(x), model_of(x.to_sparse_csr())
    assert torch.equal(dense.ranges, sparse.ranges)
    assert dense.ranges[0, 0] == 0


def changed(content: bytes, **arrays: np.ndarray) -> bytes:
    with np.load(io.BytesIO(content)) as archive:
        parts = {name: archive[name] for name in archive.files}
    out = io.BytesIO()
    np.savez(out, **{name: part for name, part in (parts | arrays).items() if part is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"", "is damaged or no file of IntegerMLP.save"),
        (lambda c: b"words", "is damaged"),
        (lambda c: c[: len(c) // 2], "is damaged"),
        (lambda c: changed(c, weight=None), "weight"),
        (lambda c: changed(c, layout=np.array([9, 4, 8, 8, 6, 3], np.int32)), "layout"),
        (lambda c: changed(c, layout=np.array([1, 4, 8, 8], np.int32)), "layout"),
        (lambda c: changed(c, layout=np.array([1], np.int32)), "is damaged"),
        (lambda c: changed(c, layout=np.array([1, 4, 8, 8, -6, 3], np.int32)), "layout"),
        (lambda c: changed(c, weight=np.zeros(3, np.uint8)), "weight has"),
        (lambda c: changed(c, bias=np.zeros(9, np.int64)), "bias has"),
        # Arrays of Python objects would be unpickled.
        (lambda c: changed(c, bias=np.array([print, None], object)), "is damaged"),
    ],
)
def test_bad_files(change, message: str, tmp_path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(change(model_of(features()).to_bytes()))
    with pytest.raises(ValueError, match=message) as info:
        load_integer_mlp(path)
    assert str(path) in str(info.value)


def test_no_file_and_wrong_rows(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        load_integer_mlp(tmp_path / "none.npz")
    answer = load_integer_mlp(model_of(features()).save(tmp_path / "model.npz"))
    for x in (np.zeros(8), np.zeros((2, 7))):
        with pytest.raises(ValueError, match=r"x must have shape \[N, 8\]"):
            answer(x)
    assert answer(np.zeros((0, 8))).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IntegerMLP(0, 4, 2), "in_channels"),
        (lambda: IntegerMLP(4, 4, 2, w_bits=1), "w_bits"),
        (lambda: IntegerMLP(4, 4, 2, a_bits=17), "a_bits"),
        (lambda: IntegerMLP(4, 4, 2, dropout=1.5), "dropout"),
        (lambda: IntegerMLP(4, 4, 2)(torch.zeros(3, 5)), r"\[N, 4\]"),
        (lambda: IntegerMLP(4, 4, 2).calibrate(torch.zeros(0, 4)), "at least one row"),
        (lambda: IntegerMLP(4, 4, 2).save("model.pt"), r"must end with \.npz"),
        (lambda: IntegerMLP.from_student(CodeDistillMLP(4, 4, 2, norm="layer"), torch.zeros(3, 4)), "no norms"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_is_written_wholly_or_not_at_all(tmp_path, monkeypatch) -> None:
    path = model_of(features()).save(tmp_path / "model.npz")
    before = path.read_bytes()

    def full(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        model_of(features(), seed=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
