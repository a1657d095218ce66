"""Heads on temporal encoders, and forecasts from the last targets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphkit.nn import NAT, MemoryDGNN, PersistentForecast, Popularity, TemporalModel, TemporalNodeClassifier

NODES = 12
EVENTS = (
    torch.tensor([0, 1, 2, 0, 1, 3, 0, 2]),
    torch.tensor([5, 6, 5, 7, 8, 9, 5, 6]),
    torch.tensor([1, 2, 4, 4, 7, 9, 9, 12]) + 2**40,
    torch.arange(8),
)
MSG = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
NODE, TIME = torch.tensor([0, 1, 4, 0]), torch.tensor([13, 13, 20, 25]) + 2**40


def memory(kind: str) -> Callable[[], TemporalModel]:
    return lambda: MemoryDGNN(NODES, 3, kind, 6, 6, 6, num_neighbors=3)


ENCODERS = {kind: memory(kind) for kind in ("tgn", "jodie", "dyrep", "apan")}
ENCODERS["nat"] = lambda: NAT(NODES, 3, self_dim=6, rep_dim=3, cache_sizes=(4, 2), embed_dim=5)


def model(kind: str = "tgn", **options) -> TemporalNodeClassifier:
    torch.manual_seed(0)
    return TemporalNodeClassifier(ENCODERS[kind](), 6, 3, hidden_channels=5, **options)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("event_dim", [0, 2])
def test_logits_are_an_mlp_of_the_embedding(kind: str, event_dim: int) -> None:
    net = model(kind, event_dim=event_dim, dropout=0.5).eval()
    net.update_state(*EVENTS, MSG)
    assert int(net.next_event) == int(net.encoder.next_event) == 8
    told = torch.randn(4, 2) if event_dim else None
    z = net.encoder.embed(NODE, TIME, MSG)
    z = z if told is None else torch.cat([z, told], 1)
    want = net.lin_out(torch.relu(net.lin_hidden(z)))
    state = net.snapshot()
    torch.testing.assert_close(net(NODE, TIME, MSG, told), want)
    assert all(torch.equal(value, state[name]) for name, value in net.snapshot().items())
    net.reset_state()
    assert int(net.next_event) == int(net.encoder.next_event) == 0
    # What a new model of these weights says.
    new = model(kind, event_dim=event_dim).eval()
    torch.testing.assert_close(net(NODE, TIME, MSG, told), new(NODE, TIME, MSG, told))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("freeze", [False, True])
def test_gradients(kind: str, freeze: bool) -> None:
    """They reach the head, and the encoder unless it is frozen; the encoder's dropout is then off."""
    net = model(kind, freeze=freeze).train()
    assert net.encoder.training != freeze
    assert net.dropout.training
    net.update_state(*EVENTS, MSG)
    net(NODE, TIME, MSG).sum().backward()
    of_head = [p.grad for part in (net.lin_hidden, net.lin_out) for p in part.parameters()]
    assert all(bool((grad != 0).any()) for grad in of_head)
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in net.encoder.parameters()) != freeze
    assert all(p.requires_grad for p in net.encoder.parameters())
    assert not any(value.requires_grad for _, value in net.named_state())


def test_state_round_trip() -> None:
    net, other = model().eval(), model("tgn").eval()
    net.update_state(*(part[:5] for part in EVENTS), MSG)
    other.load_state_dict(net.state_dict())
    for each in (net, other):
        each.update_state(*(part[5:] for part in EVENTS), MSG)
    assert torch.equal(net(NODE, TIME, MSG), other(NODE, TIME, MSG))
    other.reset_parameters()
    assert not torch.equal(net(NODE, TIME, MSG), other(NODE, TIME, MSG))
    assert torch.equal(net.encoder.embed(NODE, TIME, MSG), other.encoder.embed(NODE, TIME, MSG))


class Costly(Popularity):
    def auxiliary_loss(self) -> Tensor:
        return torch.ones(())


def test_auxiliary_loss_is_the_encoders_unless_frozen() -> None:
    assert float(TemporalNodeClassifier(Costly(NODES), 1, 2).auxiliary_loss()) == 1
    assert TemporalNodeClassifier(Costly(NODES), 1, 2, freeze=True).auxiliary_loss() is None


def test_wrong_heads() -> None:
    encoder = ENCODERS["tgn"]()
    with pytest.raises(TypeError, match=r"encoder must be a graphkit.nn.TemporalModel \(got Linear\)"):
        TemporalNodeClassifier(nn.Linear(2, 2), 2, 2)
    for name in ("in_channels", "out_channels", "hidden_channels"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            TemporalNodeClassifier(encoder, **{"in_channels": 6, "out_channels": 2, name: 0})
    with pytest.raises(ValueError, match="dropout must be"):
        TemporalNodeClassifier(encoder, 6, 2, dropout=2)
    net = TemporalNodeClassifier(encoder, 6, 2, event_dim=3)
    with pytest.raises(ValueError, match=r"event_msg must have shape \[4, event_dim=3\] \(got \[4, 0\]\)"):
        net(NODE, TIME, MSG)
    with pytest.raises(ValueError, match=r"\(got \[4, 2\]\)"):
        net(NODE, TIME, MSG, torch.zeros(4, 2))
    with pytest.raises(IndexError, match="n_id"):
        net(NODE + NODES, TIME, MSG, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="must ascend"):
        net.update_state(*(part.flip(0) for part in EVENTS), MSG)
    assert int(net.next_event) == 0


@pytest.mark.parametrize("window", [1, 2, 7])
def test_forecast_is_the_moving_average(window: int) -> None:
    """By the formula, a number at a time."""
    draw = torch.Generator().manual_seed(window)
    net = PersistentForecast(NODES, 4, window)
    want: dict[int, Tensor] = {}
    for moment in range(6):
        n_id = torch.randperm(NODES - 1, generator=draw)[:5]
        y = torch.rand(5, 4, generator=draw, dtype=torch.float64)
        net.update_targets(n_id, torch.full_like(n_id, moment), y)
        for node, row in zip(n_id.tolist(), y, strict=True):
            want[node] = ((window - 1) * want[node] + row) / window if node in want else row
    every = torch.arange(NODES)
    found = net(every, torch.full_like(every, 9)).double()
    for node, row in enumerate(found):
        torch.testing.assert_close(row, want.get(node, torch.zeros(4).double()), atol=1e-6, rtol=1e-6)
    assert not found[-1].any()
    net.update_state(*EVENTS)
    assert int(net.next_event) == 8
    assert torch.equal(net(every, every).double(), found)
    net.reset_state()
    assert not net(every, every).any()
    net.update_targets(every[:1], every[:1], torch.ones(1, 4))
    assert net(every[:1], every[:1]).tolist() == [[1.0] * 4]


def test_wrong_forecasts() -> None:
    for name in ("num_nodes", "num_classes", "window"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            PersistentForecast(**{"num_nodes": 3, "num_classes": 2, name: 0})
    net = PersistentForecast(3, 2)
    for bad in (-1, 3):
        node = torch.tensor([bad])
        with pytest.raises(IndexError, match=f"n_id holds node id {bad}"):
            net(node, node)
        with pytest.raises(IndexError, match=f"n_id holds node id {bad}"):
            net.update_targets(node, node, torch.ones(1, 2))
    assert repr(net) == "PersistentForecast(3, num_classes=2, window=1)"
