"""Kolmogorov-Arnold layers: bases against scipy, selection, pruning, convolution, and where they can be put."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline as ScipySpline
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, GINConv

from graphkit.nn import (
    SKAN,
    SelectableKANConv2d,
    SelectableKANLinear,
    SelfAttention,
    TokenModel,
    basis,
    kan_layers,
    prune_families,
    select_families,
    set_temperature,
)
from graphkit.nn.kan import FAMILIES, selectable
from graphkit.transforms import ImageTokens
from graphkit.utils.seed import seed_everything


@pytest.fixture(autouse=True)
def _seed():
    seed_everything(0)


# Families -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "order"), [(5, 3), (1, 1), (2, 2), (7, 0), (3, 5)])
def test_splines_are_those_of_scipy_and_add_up_to_one(grid, order):
    knots = -1 + (np.arange(grid + 2 * order + 1) - order) * 2 / grid
    x = np.linspace(-5, 5, 1001)[:-1]
    x = x[np.abs((x + 1) * grid / 2 % 1) > 1e-9] if order == 0 else x  # which side a step belongs to is a convention
    wanted = [
        np.nan_to_num(ScipySpline.basis_element(knots[g : g + order + 2], extrapolate=False)(x))
        for g in range(grid + order)
    ]
    found = basis("bspline", grid, order)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, np.stack(wanted, -1), atol=1e-12)
    inside = np.abs(x) < 1
    np.testing.assert_allclose(found[inside].sum(-1), 1, atol=1e-12)
    assert not found[np.abs(x) > 1 + 2 * order / grid].any()


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e30, 1e30))
def test_splines_are_finite_and_at_most_one_anywhere(x):
    found = basis("bspline")(torch.tensor(x))
    assert bool(((found >= 0) & (found <= 1)).all())


def test_polynomials_are_those_of_scipy():
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    degree = np.arange(8)
    np.testing.assert_allclose(basis("cheby")(x), scipy.special.eval_chebyt(degree, x[:, None]), atol=1e-12)
    u = torch.tanh(x)[:, None].numpy()
    np.testing.assert_allclose(basis("jacobi")(x), scipy.special.eval_jacobi(degree, 1, 1, u), atol=1e-12)
    monic = scipy.special.eval_legendre(degree, u) * 2.0**degree / scipy.special.comb(2 * degree, degree)
    np.testing.assert_allclose(basis("gram").double()(x).detach(), monic, atol=1e-6)


def test_slope_of_chebyshev_is_finite_at_the_ends():
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    basis("cheby", 1, 3)(x)[:, 3].sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([9.0, 9.0]))  # T_n' = n² at 1


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_all_families(name):
    family = basis(name).double()
    assert family(torch.zeros(2, 3).double()).shape == (2, 3, 8)
    # Away from knots, where pieces meet.
    x = (torch.rand(2, 6, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert torch.autograd.gradcheck(family, (x,))
    if name not in ("relu",):
        assert torch.autograd.gradgradcheck(family, (x,))


def test_bumps_have_their_height_and_support():
    # At its centre each bump is 1; at the ends of its support 0.
    centre = torch.linspace(-2, 2, 8)
    torch.testing.assert_close(basis("rbf")(centre).diagonal(), torch.ones(8))
    torch.testing.assert_close(basis("rswaf")(torch.linspace(-1.2, 0.2, 8)).diagonal(), torch.ones(8))
    low = -1 + (torch.arange(8) - 3) * 0.4
    relu = basis("relu")
    torch.testing.assert_close(relu(low + 0.8).diagonal(), torch.ones(8))
    assert float(relu(low).diagonal().abs().max()) < 1e-10
    # The integral of the square of the Mexican hat is its width, and that of the hat is zero.
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    hat = basis("wavelet").double()(x)
    width = 2 / 7
    torch.testing.assert_close(
        torch.trapezoid(hat.square(), x, dim=0), torch.full((8,), width).double(), rtol=1e-4, atol=0
    )
    assert float(torch.trapezoid(hat, x, dim=0).abs().max()) < 1e-6


# The layer ------------------------------------------------------------------------------------------------------------


def by_loops(layer: SelectableKANLinear, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(x.size(0), layer.out_channels, dtype=x.dtype)
    probs = layer.selection_probs()
    for n, o, i in itertools.product(range(x.size(0)), range(layer.out_channels), range(layer.in_channels)):
        out[n, o] += layer.base_weight[o, i] * F.silu(x[n, i])
        for m, name in enumerate(layer.families):
            values = layer.bases[name](x[n, i])
            out[n, o] += probs[i, m] * (layer.coefficients[name][i, :, o] * values).sum()
    return out + layer.bias


@pytest.mark.parametrize("per", ["node", "layer"])
def test_layer_is_the_sum_over_edges_and_families(per):
    layer = SelectableKANLinear(3, 2, per=per).double()
    nn.init.normal_(layer.logits)
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_loops(layer, x))
    torch.testing.assert_close(layer(x.view(2, 2, 3)), layer(x).view(2, 2, 2))


def test_blocks_change_neither_values_nor_gradients(monkeypatch):
    layer = SelectableKANLinear(3, 2).double()
    x = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)

    def run():
        layer.zero_grad()
        out = layer(x)
        out.square().sum().backward()
        return [out.detach(), x.grad.clone(), *(p.grad.clone() for p in layer.parameters())]

    whole = run()
    x.grad = None
    monkeypatch.setattr(selectable, "_BLOCK", 3 * 32 * 7)  # seven rows
    for a, b in zip(whole, run(), strict=True):
        torch.testing.assert_close(a, b)


def test_memory_does_not_hold_the_values_of_all_rows(monkeypatch):
    layer = SelectableKANLinear(8, 4)
    x = torch.randn(500, 8)
    kept = []

    def bytes_saved():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            layer(x)
        return max(kept)

    assert bytes_saved() >= 500 * 8 * 8
    monkeypatch.setattr(selectable, "_BLOCK", 100 * 8 * 32)
    assert bytes_saved() <= 500 * 8


def test_one_family_is_a_plain_kan_and_equal_weights_are_a_mean():
    layer = SelectableKANLinear(3, 2, base="gelu").double()
    x = torch.randn(6, 3, dtype=torch.float64)
    singles = []
    for name in layer.families:
        single = SelectableKANLinear(3, 2, (name,), base="gelu").double()
        assert single.logits is None
        single.base_weight.data, single.coefficients[name].data = layer.base_weight, layer.coefficients[name]
        values = single.bases[name](x)
        wanted = torch.einsum("nig,igo->no", values, single.coefficients[name]) + F.gelu(x) @ single.base_weight.t()
        torch.testing.assert_close(single(x), wanted)
        singles.append(single(x))
    torch.testing.assert_close(layer(x), torch.stack(singles).mean(0))


def test_temperature_sharpens_the_selection():
    network = SKAN([2, 3, 1])
    layer = next(kan_layers(network))
    layer.logits.data[:, 2] = 1.0
    soft = layer.selection_probs()
    set_temperature(network, 0.1)
    hard = layer.selection_probs()
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    assert float(hard[0, 2]) > 0.999 > float(soft[0, 2])


def test_losing_families_stand_still():
    layer = SelectableKANLinear(2, 1, ("rbf", "cheby"))
    layer.logits.data = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    layer.select()
    assert layer.frozen.tolist() == [[False, True], [False, False]]
    before = layer(torch.ones(1, 2))
    layer(torch.rand(4, 2)).sum().backward()
    grad = layer.coefficients["cheby"].grad
    assert float(grad[0].abs().max()) == 0 < float(grad[1].abs().max())
    assert layer.logits.grad.abs().sum() > 0
    layer.phase = "full"
    torch.testing.assert_close(layer(torch.ones(1, 2)), before)


@pytest.mark.parametrize("per", ["node", "layer"])
def test_pruning_keeps_the_output_of_a_certain_layer(per):
    options = {"families": ("bspline", "gram", "rbf"), "per": per}
    layer = SelectableKANLinear(4, 3, **options).double()
    layer.logits.data = 200.0 * F.one_hot(torch.tensor([0, 2, 2, 0] if per == "node" else [2]), 3).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    before = layer(x)
    layer.select()
    layer.prune()
    torch.testing.assert_close(layer(x), before)
    # Base and bias, and eight coefficients an edge; the learned recurrence of the family that nobody keeps is gone.
    assert sum(p.numel() for p in layer.parameters()) == 4 * 3 + 3 + 8 * 4 * 3
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    fresh = SelectableKANLinear(4, 3, **options).double()
    fresh.load_state_dict(layer.state_dict())
    assert fresh.kept_families() == layer.kept_families()
    assert fresh.phase == "pruned"
    torch.testing.assert_close(fresh(x), before)
    other = SelectableKANLinear(4, 3, **options).double()
    other.select()
    other.prune(torch.tensor([1, 1, 1, 1]))
    assert {*other.coefficients} == {"gram"}
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), before)


def test_pruning_folds_the_weight_into_the_coefficients():
    layer = SelectableKANLinear(1, 1, ("rbf", "cheby"))
    layer.logits.data = torch.tensor([[1.0, 0.0]])
    wanted = layer.coefficients["rbf"].detach() * torch.tensor([1.0, 0.0]).softmax(0)[0]
    layer.select()
    layer.prune()
    torch.testing.assert_close(layer.coefficients["rbf"].detach(), wanted)


def test_pruning_to_named_families():
    layer = SelectableKANLinear(3, 1, ("rbf", "cheby"))
    layer.select()
    layer.prune(torch.tensor([1, 0, 1]))
    assert layer.kept_families() == ["cheby", "rbf", "cheby"]
    network = SKAN([2, 5, 1])
    select_families(network)
    prune_families(network, torch.Generator().manual_seed(1))
    again = SKAN([2, 5, 1])
    select_families(again)
    prune_families(again, torch.Generator().manual_seed(1))
    assert [part.kept_families() for part in kan_layers(network)] == [p.kept_families() for p in kan_layers(again)]


def test_range_is_fitted_to_the_data():
    layer = SelectableKANLinear(2, 1, ("bspline",))
    x = torch.rand(1000, 2) * torch.tensor([10.0, 0.1]) + 50
    assert float(layer.bases["bspline"](x).sum()) == 0
    layer.fit_range(x)
    mapped = (x - layer.center) * layer.scale
    assert float((mapped.abs() <= 1).float().mean()) == pytest.approx(0.98, abs=0.005)


def test_activation_is_the_function_on_an_edge():
    layer = SelectableKANLinear(3, 2, ("rbf", "cheby"))
    nn.init.normal_(layer.logits)
    points = torch.linspace(-1, 1, 9)

    def difference():
        x = torch.zeros(9, 3)
        x[:, 1] = points
        return layer(x)[:, 0] - layer(torch.zeros(1, 3))[0, 0]

    for prune in (False, True):
        if prune:
            layer.select()
            layer.prune()
        found = layer.activation(1, 0, points) - layer.activation(1, 0, torch.zeros(1))
        torch.testing.assert_close(found, difference().detach(), atol=1e-5, rtol=1e-5)


def test_regularization():
    layer = SelectableKANLinear(2, 1, ("rbf", "cheby"))
    for weight in layer.coefficients.values():
        nn.init.constant_(weight, -0.5)
    torch.testing.assert_close(layer.regularization(), 0.5 + torch.tensor(2.0).log())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="did you mean 'cheby'"):
        SelectableKANLinear(2, 2, ("chebi",))
    for families, message in (((), "at least one family"), (("rbf", "rbf"), "once")):
        with pytest.raises(ValueError, match=message):
            SelectableKANLinear(2, 2, families)
    with pytest.raises(ValueError, match="grid must be in"):
        basis("rbf", grid=0)
    with pytest.raises(ValueError, match="order must be in"):
        SelectableKANLinear(2, 2, order=-1)
    layer = SelectableKANLinear(2, 2)
    with pytest.raises(ValueError, match="select before it"):
        layer.prune()
    layer.select()
    with pytest.raises(IndexError, match=r"\[0, 4\)"):
        layer.prune(torch.tensor([0, 4]))
    layer.prune()
    with pytest.raises(ValueError, match="pruned layer"):
        layer.select()
    with pytest.raises(ValueError, match="widths"):
        SKAN([3])
    with pytest.raises(ValueError, match="odd"):
        SelectableKANConv2d(3, kernel=2)


BAD = [
    (torch.zeros(3, 4), ValueError, r"x must have shape \[.*2\] \(got \[3, 4\]\)"),
    (torch.tensor([[0.0, torch.nan]]), ValueError, r"x holds nan at \[0, 1\]"),
    (torch.tensor([[torch.inf, 0.0]]), ValueError, r"x holds inf at \[0, 0\]"),
    (torch.zeros(3, 2).double(), TypeError, "x is torch.float64, but the weights are torch.float32"),
    (torch.zeros(3, 2).long(), TypeError, "x must be floating point .got torch.int64"),
    (torch.zeros(3, 2, device="meta"), ValueError, "x is on meta, weights on cpu"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD)
@pytest.mark.parametrize(
    "make",
    [lambda: SelectableKANLinear(2, 2).forward, lambda: SKAN([2, 3, 1]), lambda: SelectableKANLinear(2, 2).fit_range],
)
def test_rows_that_do_not_fit(make, x, error, message):
    with pytest.raises(error, match=message):
        make()(x)


def test_what_is_refused_leaves_no_trace():
    network = SKAN([2, 3, 1], norm="batch")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for x, error, message in BAD:
        with pytest.raises(error, match=message):
            network(x)
    layer = SelectableKANLinear(2, 2)
    with pytest.raises(ValueError, match="x holds nan"):
        layer.fit_range(torch.full((3, 2), torch.nan))
    assert torch.equal(layer.scale, torch.ones(2))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def selected() -> SelectableKANLinear:
    layer = SelectableKANLinear(2, 2)
    layer.select()
    return layer


GRID = Data(pos=torch.cartesian_prod(torch.arange(2), torch.arange(3)), num_nodes=6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SelectableKANLinear(2, 2)(None), TypeError, "x must be a torch.Tensor .got NoneType"),
        (lambda: SelectableKANLinear(2, 2)(torch.zeros(1, 2).to_sparse_csr()), TypeError, "x must be dense"),
        (lambda: SKAN([2, 1], norm="batch")(torch.zeros(1, 3, 2)), ValueError, r"\[N, 2\] with norm='batch'"),
        (lambda: SKAN(3), TypeError, "widths must list .*got 3"),
        (lambda: selected().prune([0, 1]), TypeError, "families must be a tensor of int64 .*got list"),
        (lambda: selected().prune(torch.tensor([0.0, 1.5])), TypeError, "families must be .*got torch.float32"),
        (lambda: selected().prune(torch.tensor([0])), ValueError, r"families must have shape \[2\]"),
        (lambda: selected().activation(0, 0, torch.tensor([torch.nan])), ValueError, r"x holds nan at \[0\]"),
        (lambda: selected().activation(0.5, 0, torch.zeros(1)), TypeError, "input must be an integer"),
        (lambda: selected().activation(0, 2, torch.zeros(1)), IndexError, r"output must be in \[0, 2\) .got 2"),
        (lambda: set_temperature(SKAN([2, 1]), 0.0), ValueError, "temperature must be in .*got 0"),
        (lambda: set_temperature(SKAN([2, 1]), torch.nan), ValueError, "temperature must be in .*got nan"),
        (lambda: SelectableKANConv2d(2)(torch.zeros(6, 2)), ValueError, "needs pos"),
        (
            lambda: SelectableKANConv2d(2)(torch.full((6, 2), torch.nan), GRID),
            ValueError,
            r"x holds nan at \[0, 0\]",
        ),
        (lambda: SelectableKANConv2d(2)(torch.zeros(5, 2), GRID), ValueError, "6 tokens, but x has 5 rows"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Elsewhere ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution_is_unfold_and_a_layer(kernel):
    conv = SelectableKANConv2d(3, 4, kernel)
    image = torch.randn(2, 3, 4, 5)
    windows = F.unfold(image, kernel, padding=kernel // 2).transpose(1, 2)
    tokens = Batch.from_data_list([ImageTokens()(Data(image=one)) for one in image])
    torch.testing.assert_close(conv(tokens.x, tokens).view(2, 20, 4), conv.lin(windows))


def test_it_is_a_linear_map_inside_convolutions_of_pyg():
    ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    x = torch.randn(4, 3)
    conv = GCNConv(3, 5)
    conv.lin = SelectableKANLinear(3, 5)
    identity = GCNConv(3, 3, bias=False)
    identity.lin.weight.data = torch.eye(3)
    # The map goes before the normalised sum, as a linear one does.
    sums = GCNConv(5, 5, bias=False)
    sums.lin.weight.data = torch.eye(5)
    torch.testing.assert_close(conv(x, ring), sums(conv.lin(x), ring) + conv.bias)
    gin = GINConv(SKAN([3, 4, 2], norm="batch"))
    assert gin(x, ring).shape == (4, 2)
    gin.reset_parameters()


def test_it_is_the_feed_forward_layer_of_a_token_model():
    model = TokenModel(
        3, 8, 2, SelfAttention, feed_forward=lambda channels: SKAN([channels, 4, channels], norm="layer")
    )
    assert len(list(kan_layers(model))) == 4
    out = model(torch.randn(5, 3), torch.tensor([0, 2, 5]))
    out.sum().backward()
    select_families(model)
    prune_families(model)
    assert model(torch.randn(5, 3)).shape == (5, 2)


def test_learned_families_beat_random_ones_on_a_bump_and_a_polynomial():
    """A narrow bump in one input, T_7 in the other: each asks for another family. Trained in the three phases."""

    def target(x):
        bump = torch.exp(-((x[:, :1] - 0.3) ** 2) / (2 * 0.1**2))
        return bump + torch.cos(7 * torch.arccos(x[:, 1:].clamp(-1, 1)))

    def fit(network, x, steps, lr, cool=False):
        optimizer = torch.optim.Adam(network.parameters(), lr)
        for step in range(steps):
            if cool:
                set_temperature(network, 0.1 ** (step / steps))
            optimizer.zero_grad()
            F.mse_loss(network(x), target(x)).backward()
            optimizer.step()

    wins = 0
    for seed in range(5):
        seed_everything(seed)
        x, test = torch.rand(300, 2) * 2 - 1, torch.rand(300, 2) * 2 - 1
        network = SKAN([2, 1], families=("relu", "cheby"), grid=9, order=1)
        fit(network, x, 90, 0.04)
        select_families(network)
        fit(network, x, 50, 0.04, cool=True)
        states, errors = network.state_dict(), []
        learned = next(kan_layers(network)).selection_probs().argmax(1)
        others = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        others = others[(others != learned).any(1)]
        for families in (learned, others[seed % 3]):
            copy = SKAN([2, 1], families=("relu", "cheby"), grid=9, order=1)
            copy.load_state_dict(states)
            select_families(copy)
            next(kan_layers(copy)).prune(families)
            fit(copy, x, 30, 0.02)
            with torch.no_grad():
                errors.append(float(F.mse_loss(copy(test), target(test))))
        wins += errors[0] < errors[1]
    assert wins >= 4
