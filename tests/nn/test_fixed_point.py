"""Quantisers against exact fractions, their gradients, the choice among them, packing, and whole models."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GATConv, GCNConv

from graphkit.nn import GNN
from graphkit.nn.quantize import (
    BinaryQuantizer,
    DynamicFixedPointQuantizer,
    FixedPointQuantizer,
    MixedQuantizer,
    TernaryQuantizer,
    make_quantizer,
    pack_bits,
    saturation_rates,
    straight_through_mixture,
    uniform_quantize,
    unpack_bits,
)

FORMATS = st.tuples(st.integers(0, 8), st.integers(0, 12)).filter(lambda f: sum(f) >= 1)
# Halves of the smallest step among them, which decide the rounding, and values of any size.
VALUES = st.one_of(
    st.integers(-(2**20), 2**20).map(lambda n: n / 2**13), st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


def exact(x: float, integer_bits: int, fraction_bits: int, signed: bool) -> Fraction:
    """Round half to even and clamp, in whole numbers."""
    bits = integer_bits + fraction_bits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    code = round(Fraction(x) * 2**fraction_bits)  # Python rounds fractions half to even
    return Fraction(min(max(code, low), high), 2**fraction_bits)


@settings(max_examples=100, deadline=None)
@given(FORMATS, st.booleans(), st.lists(VALUES, min_size=1, max_size=20))
def test_fixed_point_equals_exact_arithmetic(form: tuple[int, int], signed: bool, values: list[float]) -> None:
    quantizer = FixedPointQuantizer(*form)
    x = torch.tensor(values, dtype=torch.float32)
    out = quantizer(x, signed=signed)
    assert [Fraction(v) for v in out.tolist()] == [exact(v, *form, signed) for v in x.tolist()]
    assert torch.equal(quantizer(out, signed=signed), out)
    low, high = (limit / 2 ** form[1] for limit in quantizer.limits(signed))
    inside = (x >= low) & (x <= high)
    assert bool(((out - x).abs()[inside] <= 2.0 ** -(form[1] + 1)).all())
    codes, scale = quantizer.to_int(x, signed)
    assert not codes.is_floating_point()
    assert torch.equal(codes * scale, out)


def test_both_clamps_and_half_way_cases_by_hand() -> None:
    x = torch.tensor([-9.0, -8.0, -0.125, 0.125, 0.375, 7.75, 7.8, 100.0])
    assert FixedPointQuantizer(4, 2)(x).tolist() == [-8, -8, 0, 0, 0.5, 7.75, 7.75, 7.75]
    assert FixedPointQuantizer(4, 2)(x, signed=False).tolist() == [0, 0, 0, 0, 0.5, 7.75, 7.75, 15.75]


def slopes(quantizer: nn.Module, x: Tensor) -> list[float]:
    x = x.clone().requires_grad_()
    quantizer(x).sum().backward()
    return x.grad.tolist()


def test_gradients_pass_as_stated() -> None:
    x = torch.tensor([-3.0, -2.1, -2.0, 0.0, 0.9, 1.0, 1.75, 1.8, 2.0])
    assert slopes(FixedPointQuantizer(2, 2), x) == [0, 1, 1, 1, 1, 1, 1, 1, 0]  # -2.1 and 1.8 round into the range
    assert slopes(BinaryQuantizer(), x) == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert slopes(TernaryQuantizer(), x) == [1] * 9
    assert slopes(DynamicFixedPointQuantizer(4), x) == [1] * 9


def test_binary_and_ternary_by_hand() -> None:
    x = torch.tensor([1.0, -3.0, 0.0, -4.0])
    assert BinaryQuantizer()(x).tolist() == [2, -2, 2, -2]
    # The mean is 2, the threshold 1.4.
    assert TernaryQuantizer()(x).tolist() == [0, -3.5, 0, -3.5]
    assert TernaryQuantizer()(torch.zeros(3)).tolist() == [0, 0, 0]
    # The scale of another tensor.
    assert BinaryQuantizer()(x, reference=torch.tensor([5.0])).tolist() == [5, -5, 5, -5]
    assert TernaryQuantizer()(x, reference=torch.tensor([5.0, 0.1])).tolist() == [0, -5, 0, -5]
    for quantizer in (BinaryQuantizer(), TernaryQuantizer()):
        codes, scale = quantizer.to_int(x)
        assert codes.dtype == torch.int8
        assert torch.equal(codes * scale, quantizer(x))
        torch.testing.assert_close(quantizer(quantizer(x)), quantizer(x))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.lists(VALUES, min_size=1, max_size=20), st.booleans())
def test_dynamic_steps_are_powers_of_two_that_hold_all_values(bits: int, values: list[float], positive: bool) -> None:
    x = torch.tensor(values).abs() if positive else torch.tensor(values)
    quantizer = DynamicFixedPointQuantizer(bits)
    out = quantizer(x)
    codes, step = quantizer.to_int(x)
    assert torch.frexp(step)[0] == 0.5
    assert torch.equal(codes * step, out)
    assert torch.equal(quantizer(out), out)
    # The largest may be clamped by less than a step, all others are rounded.
    assert bool(((out - x).abs() <= step).all())
    used = bits if positive or bool((x >= 0).all()) else bits - 1
    largest = float(x.abs().max())
    assert largest == 0 or 2 ** (used - 1) * float(step) <= largest <= 2**used * float(step)


def test_channels_have_steps_of_their_own() -> None:
    x = torch.tensor([[1.0, -0.3], [0.01, -0.003]])
    out = DynamicFixedPointQuantizer(8, per_channel=True)(x)
    rows = [DynamicFixedPointQuantizer(8)(row) for row in x]
    assert torch.equal(out, torch.stack(rows))
    assert not torch.equal(out, DynamicFixedPointQuantizer(8)(x))


# Choices --------------------------------------------------------------------------------------------------------------

OPTIONS = ("binary", "ternary", "FIX1.3", "FIX2.6", "fp32")


def test_mixed_is_the_most_probable_option_with_the_gradient_of_the_mixture() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixed, quantizers = MixedQuantizer(OPTIONS), [make_quantizer(option) for option in OPTIONS]
    for best in range(len(OPTIONS)):
        logits = torch.linspace(-1, 0, len(OPTIONS), dtype=torch.float64)
        logits[best] = 1
        logits.requires_grad_()
        inside = x.clone().requires_grad_()
        out = mixed(inside, logits.softmax(0))
        assert torch.equal(out, quantizers[best](x))
        out.backward(grad)
        alone = x.clone().requires_grad_()
        quantizers[best](alone).backward(grad)
        assert torch.equal(inside.grad, alone.grad)
        products = torch.stack([(grad * quantizer(x)).sum() for quantizer in quantizers])
        p = logits.detach().softmax(0)
        # The derivative of sum_o softmax_o products_o.
        torch.testing.assert_close(logits.grad, p * (products - p @ products))


def test_mixed_keeps_as_much_for_six_options_as_for_two() -> None:
    def kept(options: tuple[str, ...]) -> int:
        sizes: list[int] = []
        x = torch.randn(50, 40, requires_grad=True)
        probs = torch.softmax(torch.arange(float(len(options))), 0).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            MixedQuantizer(options)(x, probs)
        return sum(sizes)

    most = 4 * 8  # the probabilities themselves
    assert abs(kept(("FIX2.2", "FIX4.4")) - kept(("FIX1.2", "FIX2.2", "FIX3.3", "FIX4.8", "FIX2.4", "FIX4.4"))) <= most


def test_saturation() -> None:
    quantizer = FixedPointQuantizer(2, 2)
    assert quantizer.saturation(torch.tensor([-3.0, 0.0, 1.0, 5.0])) == 0.5
    assert quantizer.saturation(torch.tensor([-3.0, 0.0, 1.0, 3.0]), signed=False) == 0.25
    assert quantizer.saturation(torch.tensor([])) == 0
    model = nn.Sequential(MixedQuantizer(["FIX2.2"]), MixedQuantizer(["binary"]))
    assert saturation_rates(model, torch.tensor([0.0, 9.0])) == {"0": 0.5}


# Packing --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.booleans(), st.data())
def test_packing_loses_nothing_and_takes_the_bits_it_says(bits: int, signed: bool, data) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = torch.tensor(data.draw(st.lists(st.integers(low, high), max_size=30)), dtype=torch.long)
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, codes.shape, signed), codes)


# Whole models ---------------------------------------------------------------------------------------------------------

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "GAT": GAT(6, 8, num_layers=2, out_channels=3, heads=2),
        "GCN": GCN(6, 8, num_layers=2, out_channels=3, jk="cat"),
        "GNN": GNN(6, 8, 2, 3, conv="sage"),
        "MLP": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    }


def call(model: nn.Module, x: Tensor) -> Tensor:
    inner = getattr(model, "model", model)
    return model(x) if isinstance(inner, nn.Sequential) else model(x, EDGES)


@pytest.mark.parametrize("name", ["GAT", "GCN", "GNN", "MLP"])
def test_any_model_can_be_quantised_and_trained(name: str) -> None:
    model = models()[name].eval()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    plain = call(model, x)
    torch.testing.assert_close(call(uniform_quantize(model, 32, 32), x), plain)
    errors = [
        float((call(uniform_quantize(model, w, a), x) - plain).abs().mean()) for w, a in ((16, 16), (8, 8), (3, 3))
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 1e-3
    # Nothing of it stays on the model.
    assert torch.equal(call(model, x), plain)
    quantized = uniform_quantize(model, 4, 8).train()
    call(quantized, x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_weights_and_activations_are_on_their_grids_and_logits_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    quantized = uniform_quantize(model, 3, 4)
    seen: list[Tensor] = []
    model[2].register_forward_pre_hook(lambda module, args: seen.extend([args[0], module.weight.detach()]))
    out = quantized(torch.randn(50, 6))
    # Registered first, this hook sees what comes out of the first layer and the activation.
    assert all(len(row.unique()) <= 8 for row in seen[1])
    assert len(seen[0].unique()) <= 16
    assert len(out.unique()) > 16


def test_attention_coefficients_are_quantised() -> None:
    conv = GATConv(6, 4, heads=2)
    seen: list[Tensor] = []
    quantized = uniform_quantize(conv, 32, 2)
    conv.register_message_forward_pre_hook(lambda module, args: seen.append(args[0]["alpha"]))
    quantized(torch.randn(4, 6), EDGES)
    assert len(seen[0].unique()) <= 4


def test_a_fixed_format_has_one_range_for_all() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.copy_(torch.tensor([[0.06, -3.0], [0.4, 0.07]]))
    out = uniform_quantize(layer, "FIX1.3", 32)(torch.eye(2))
    assert out.t().tolist() == [[0, -1], [0.375, 0.125]]


def test_bytes_of_a_uniform_model() -> None:
    model = GCNConv(10, 16)
    assert uniform_quantize(model, 32, 32).model_bytes() == 4 * (160 + 16)
    assert uniform_quantize(model, "FIX1.3", "FIX2.2").model_bytes() == 80 + 64
    assert uniform_quantize(model, "binary", 8).model_bytes() == 20 + 4 + 64
    # Half a byte a weight, a byte for the step of each of 16 rows, 4 for each bias.
    assert uniform_quantize(model, 4, 8).model_bytes() == 80 + 16 + 64


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FixedPointQuantizer(0, 0), ValueError, r"bits must be in \[1, 24\] \(got 0\)"),
        (lambda: FixedPointQuantizer(-1, 4), ValueError, "integer_bits must be in"),
        (lambda: FixedPointQuantizer(1.5, 4), TypeError, "integer_bits must be an integer"),
        (lambda: DynamicFixedPointQuantizer(1), ValueError, r"bits must be in \[2, 24\] \(got 1\)"),
        (lambda: make_quantizer("int8"), ValueError, "fp32, binary, ternary or FIXi.f.*got 'int8'"),
        (lambda: make_quantizer("fp32").to_int(torch.ones(2)), RuntimeError, "fp32 has no integers"),
        (lambda: MixedQuantizer([]), ValueError, "options must name at least one"),
        (lambda: MixedQuantizer(["binary", "fp32"])(torch.ones(2)), ValueError, "probs must be given for 2 options"),
        (lambda: MixedQuantizer(["binary"])(torch.ones(2), torch.ones(3)), ValueError, "one of 1 branches|shape"),
        (lambda: pack_bits(torch.tensor([8]), 3), ValueError, r"3 bits \(got 8 to 8\)"),
        (lambda: uniform_quantize(nn.Linear(2, 2), w_bits=1), ValueError, "w_bits must be from 2 to 24, or 32"),
        (lambda: uniform_quantize(nn.Linear(2, 2), a_bits=0), ValueError, r"a_bits must be .* \(got 0\)"),
        (lambda: uniform_quantize(nn.Linear(2, 2), "FIX"), ValueError, "fp32, binary, ternary or FIXi.f"),
        (lambda: uniform_quantize(torch.relu), TypeError, "model must be a torch.nn.Module"),
        (lambda: uniform_quantize(GCNConv(-1, 4)), ValueError, "called once"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_mixture_refuses_what_does_not_fit() -> None:
    from graphkit.nn.quantize import Choice

    with pytest.raises(ValueError, match="one of 1 branches"):
        straight_through_mixture([lambda: torch.ones(1)], Choice(None, 2))
