"""PGN: against explicit loops, limits of the gate, edges, the length of gradient paths, going on from a state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.data import Data

from graphkit.nn import PGN, PGNConv, lag_edges
from graphkit.nn.mixer import GatedHistory, pgn
from graphkit.ops import TokenLayout


def made(*arguments, **options) -> GatedHistory:
    torch.manual_seed(0)
    return GatedHistory(*arguments, **options).double()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("window", "rows"), [(1, 5), (3, 9), (8, 9), (20, 9), (4, 1), (6, 40)])
@pytest.mark.parametrize("groups", [1, 2])
def test_history_is_the_double_loop_over_rows(window, rows, groups):
    cell = made(3, 4, window, groups)
    z = random(groups, 2, rows, 3)
    want = cell.history_bias[:, None, None].repeat(1, 2, rows, 1)
    for row in range(rows):
        for before in range(max(0, row - window), row):
            tap = cell.history_weight[..., window - (row - before)]
            want[:, :, row] = want[:, :, row] + torch.einsum("gni,goi->gno", z[:, :, before], tap)
    torch.testing.assert_close(cell.history(z), want)


def test_matrix_and_convolution_are_one(monkeypatch):
    cell, z = made(3, 4, 7), random(1, 2, 12, 3).requires_grad_()
    dense = cell(z)
    weights = [z, *cell.parameters()]
    first = torch.autograd.grad(dense.square().sum(), weights)
    monkeypatch.setattr(pgn, "_FEW", 1)
    sparse = cell(z)
    torch.testing.assert_close(sparse, dense)
    for a, b in zip(torch.autograd.grad(sparse.square().sum(), weights), first, strict=True):
        torch.testing.assert_close(a, b)


def test_a_row_changes_itself_through_the_gate_and_later_ones():
    cell, z = made(3, 4, 6), random(1, 1, 7, 3)
    changed = z.clone()
    changed[:, :, 3] += 1
    history = (cell.history(changed) - cell.history(z)).abs().sum((0, 1, 3))
    assert history[:4].eq(0).all()
    assert history[4:].gt(0).all()
    out = (cell(changed) - cell(z)).abs().sum((0, 1, 3))
    assert out[:3].eq(0).all()
    assert out[3:].gt(0).all()


def with_gate(bias: float) -> GatedHistory:
    """A gate that is shut or open whatever it reads."""
    cell = made(3, 4, 6)
    with torch.no_grad():
        cell.gate_weight[..., :4] = 0
        cell.gate_bias[..., :4] = bias
    return cell


def test_an_open_gate_is_a_linear_autoregression_of_the_past():
    cell = with_gate(1e3)
    a, b, zero = random(1, 2, 7, 3), random(1, 4, 7, 3)[:, 2:], torch.zeros(1, 2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(cell(a), cell.history(a))
    torch.testing.assert_close(cell(2 * a + b) - cell(zero), 2 * (cell(a) - cell(zero)) + cell(b) - cell(zero))
    now = a.clone()
    now[:, :, -1] += 1
    torch.testing.assert_close(cell(now), cell(a))


def test_a_shut_gate_is_tanh_of_an_affine_map():
    cell = with_gate(-1e3)
    a, b, zero = random(1, 2, 7, 3), random(1, 4, 7, 3)[:, 2:], torch.zeros(1, 2, 7, 3, dtype=torch.float64)
    at = [cell(z).atanh() for z in (zero, a, b, 0.5 * a + 0.5 * b)]
    torch.testing.assert_close(at[3] - at[0], 0.5 * (at[1] - at[0]) + 0.5 * (at[2] - at[0]))
    both = torch.cat([a, cell.history(a)], -1)[0]
    torch.testing.assert_close(cell(a)[0], (both @ cell.gate_weight[0, :, 4:] + cell.gate_bias[0, 4:]).tanh())


@pytest.mark.parametrize("seed", range(3))
def test_the_first_row_is_as_near_as_the_last_but_one(seed):
    """Gradient norms of the last output: of one size in PGN, smaller by orders of magnitude in an LSTM."""
    torch.manual_seed(seed)
    z = torch.randn(64, 16, dtype=torch.float64, requires_grad=True)

    def ratio(out: torch.Tensor) -> float:
        norms = torch.autograd.grad(out.square().sum(), z)[0].norm(dim=1)
        return float(norms[0] / norms[-2])

    assert 0.1 < ratio(PGN(16, 16, window=63).double()(z)[-1]) < 10
    assert ratio(nn.LSTM(16, 16).double()(z)[0][-1]) < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    window=st.integers(1, 6),
    period=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_edges_of_all_lags_are_the_mixer(lengths, window, period, seed):
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    ptr = torch.tensor([0, *lengths]).cumsum(0)
    layout = TokenLayout(ptr, torch.randperm(count, generator=generator))
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    mixer, conv = PGN(3, 4, window, period).double(), PGNConv(3, 4, window).double()
    conv.load_state_dict(mixer.state_dict())
    edge_index, lag = lag_edges(layout, window, period)
    torch.testing.assert_close(conv(x, edge_index, lag), mixer(x, layout))
    assert edge_index.size(1) == sum(min(window, place // period) for length in lengths for place in range(length))


def test_phases_do_not_meet():
    x = random(12, 2).requires_grad_()
    mixer = PGN(2, 2, window=5, period=4).double()
    (found,) = torch.autograd.grad(mixer(x)[9].sum(), x)
    assert found.abs().sum(1).nonzero().flatten().tolist() == [1, 5, 9]


def test_a_sequence_goes_on_from_the_state_wherever_it_is_cut():
    x, mixer = random(11, 2), PGN(2, 3, window=3, period=2).double()
    whole, state = mixer(x), None
    for row in x[:6]:
        _, state = mixer.step(row[None], state)
    assert state.shape == (1, 6, 2)
    rest = []
    for row in x[6:]:
        out, state = mixer.step(row[None], state)
        rest.append(out[0])
    torch.testing.assert_close(torch.stack(rest), whole[6:])


def test_nodes_in_order_of_time():
    """A PyG graph whose nodes have times."""
    x, order = random(6, 2), torch.tensor([3, 0, 5, 1, 4, 2])
    mixer = PGN(2, 2, window=5).double()
    mixed = mixer(x[order], Data(x=x[order], time=order.double()))
    torch.testing.assert_close(mixed, mixer(x)[order])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PGN(2, 2, window=0), ValueError, r"window must be in .* .got 0"),
        (lambda: PGN(2, 2, window=2, period=0), ValueError, r"period must be in .* .got 0"),
        (lambda: GatedHistory(2, 2, 2)(torch.zeros(2, 1, 4, 2)), ValueError, r"z must have shape \[1, N, R, 2\]"),
        (
            lambda: PGNConv(2, 2, 2)(torch.zeros(3, 4), torch.zeros(2, 0).long()),
            ValueError,
            r"x must have shape \[N, 2",
        ),
        (
            lambda: PGNConv(2, 2, 2)(torch.zeros(3, 2), torch.tensor([[0], [1]]), torch.tensor([3])),
            ValueError,
            r"lag must be in \[1, 2\] .got 3 to 3",
        ),
        (
            lambda: PGNConv(2, 2, 2)(torch.zeros(3, 2), torch.tensor([[0], [1]]), torch.tensor([1, 1])),
            ValueError,
            r"lag must have shape \[1\]",
        ),
        (lambda: PGNConv(2, 2, 2)(torch.zeros(3, 2), torch.tensor([[0], [3]])), IndexError, "node id 3"),
        (lambda: lag_edges(torch.tensor([0, 3]), 0), ValueError, "window must be in"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
