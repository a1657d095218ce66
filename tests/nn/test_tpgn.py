"""TPGN: against convolutions put together by hand, groups of variables, scale and shift, sizes that do not divide."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphkit.nn import TPGN


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(*arguments, **options) -> TPGN:
    torch.manual_seed(0)
    return TPGN(*arguments, **options).double()


@pytest.mark.parametrize(
    ("horizon", "channels", "parameters"),
    [(168, 2, 431), (336, 2, 431 + 5 * 7)],  # five inputs, width two and bias one, of each further period
)
def test_number_of_parameters(horizon, channels, parameters):
    assert sum(p.numel() for p in TPGN(168, horizon, channels=channels).parameters()) == parameters


def by_hand(model: TPGN, x: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """One variable, by the convolutions of the paper."""
    mean, root = x.mean(1, keepdim=True), (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    rows, phases, width = model.rows, model.period, 1 + marks.size(2)
    table = torch.cat([(x - mean) / root, marks], 2).view(x.size(0), rows, phases, width)
    # Down each column: rows of zeros first, the last row left out.
    columns = table.permute(0, 2, 3, 1).flatten(0, 1)  # [B P, width, R]
    before = F.pad(columns[..., :-1], (rows - 1, 0))
    history = F.conv1d(before, model.history.history_weight[0], model.history.history_bias[0])
    both = torch.cat([columns, history], 1).transpose(1, 2) @ model.history.gate_weight[0] + model.history.gate_bias[0]
    gate, new = both.chunk(2, -1)
    gate, history = gate.sigmoid(), history.transpose(1, 2)
    out = gate * history + (1 - gate) * new.tanh()  # [B P, R, d]
    kernel = model.lin_long.weight[0].view(rows, -1, model.channels).permute(2, 1, 0)
    long = F.conv1d(out.transpose(1, 2), kernel, model.lin_long.bias[0])[..., 0].view(x.size(0), phases, -1)
    # Along each row.
    kernel = model.lin_row.weight[0].view(phases, width, -1).permute(2, 1, 0)
    row = F.conv1d(table.flatten(0, 1).transpose(1, 2), kernel, model.lin_row.bias[0])[..., 0]
    kernel = model.lin_short.weight[0].view(rows, -1, model.channels).permute(2, 1, 0)
    short = F.conv1d(row.view(x.size(0), rows, -1).transpose(1, 2), kernel, model.lin_short.bias[0])[..., 0]
    both = torch.cat([short[:, None].expand_as(long), long], -1)
    found = both @ model.lin_out.weight[0] + model.lin_out.bias[0]  # [B, P, periods]
    return found.transpose(1, 2).flatten(1)[..., None] * root + mean


def test_is_the_papers_network():
    model, x, marks = made(20, 15, period=5, channels=3), random(4, 20, 1), random(4, 20, 4, seed=1)
    torch.testing.assert_close(model(x, marks), by_hand(model, x, marks))


def test_each_variable_has_weights_of_its_own():
    x, marks = random(2, 12, 3), random(2, 12, 2, seed=1)
    model = made(12, 8, period=4, num_vars=3, time_dim=2)
    whole = model(x, marks)
    for variable in range(3):
        alone = made(12, 8, period=4, time_dim=2)
        weights = {name: value[variable : variable + 1] for name, value in model.state_dict().items()}
        alone.load_state_dict(weights)
        torch.testing.assert_close(alone(x[..., variable : variable + 1], marks), whole[..., variable : variable + 1])


def test_shared_weights_read_every_variable_alike():
    x, marks = random(2, 12, 3), random(2, 12, 2, seed=1)
    shared = made(12, 8, period=4, time_dim=2, share_weights=True)
    alone = made(12, 8, period=4, time_dim=2)
    alone.load_state_dict(shared.state_dict())
    want = torch.cat([alone(part, marks) for part in x.split(1, -1)], -1)
    torch.testing.assert_close(shared(x, marks), want)


@pytest.mark.parametrize("short_branch", [True, False])
def test_scale_and_shift_of_a_window_are_those_of_its_forecast(short_branch):
    model = made(24, 12, period=6, time_dim=1, short_branch=short_branch)
    x, marks = 10 * random(3, 24, 1), random(3, 24, 1, seed=1)
    torch.testing.assert_close(model(4 * x - 7, marks), 4 * model(x, marks) - 7, rtol=1e-5, atol=1e-5)
    plain = made(24, 12, period=6, time_dim=1, norm=False, short_branch=short_branch)
    assert (plain(4 * x - 7, marks) - (4 * plain(x, marks) - 7)).abs().max() > 0.1


def test_sizes_that_the_period_does_not_divide():
    """Filled up at the front with the first value, which the mean does not count, and cut at the end."""
    odd, even = made(10, 7, period=4, time_dim=2), made(12, 8, period=4, time_dim=2)
    even.load_state_dict(odd.state_dict())
    x, marks = random(2, 10, 1), random(2, 10, 2, seed=1)
    mean, root = x.mean(1, keepdim=True), (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    z = (x - mean) / root
    filled, times = (torch.cat([part[:, :1], part[:, :1], part], 1) for part in (z, marks))
    even.norm = False
    torch.testing.assert_close(odd(x, marks), even(filled, times)[:, :7] * root + mean)


def test_without_the_short_branch_phases_do_not_meet():
    model = made(12, 4, period=4, time_dim=0, norm=False, short_branch=False)
    x = random(1, 12, 1).requires_grad_()
    (found,) = torch.autograd.grad(model(x)[0, 1, 0], x)
    assert found.flatten().nonzero().flatten().tolist() == [1, 5, 9]
    model = made(12, 4, period=4, time_dim=0, norm=False)
    (found,) = torch.autograd.grad(model(x)[0, 1, 0], x)
    assert bool((found != 0).all())


def test_reset_draws_every_weight_anew():
    model = made(12, 8, period=4)
    before = [weight.clone() for weight in model.parameters()]
    model.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TPGN(40, 8, period=24), r"at least two periods of 24 rows .got 40"),
        (lambda: TPGN(48, 8, channels=0), "channels must be in"),
        (lambda: TPGN(48, 8)(torch.zeros(2, 48, 1)), r"marks must have shape \[2, 48, 4\] .got none"),
        (lambda: TPGN(48, 8)(torch.zeros(2, 48, 1), torch.zeros(2, 48, 3)), r"\[2, 48, 4\] .got \[2, 48, 3\]"),
        (lambda: TPGN(48, 8)(torch.zeros(2, 47, 1)), r"x must have shape \[B, 48, 1\] .got \[2, 47, 1\]"),
        (lambda: TPGN(48, 8, num_vars=2)(torch.zeros(2, 48, 1)), r"x must have shape \[B, 48, 2\]"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
