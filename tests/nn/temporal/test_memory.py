"""The memory of temporal graph networks against one dictionary a node."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal.memory import TGNMemory
from graphkit.nn.temporal.message_store import MessageStore
from graphkit.nn.temporal.pres import PredictCorrectFilter

DOUBLE = torch.float64
NODES, MSG, WIDTH, TIME = 14, 3, 5, 4


def stream(events: int, nodes: int = NODES - 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Events with ties and self-loops, at times like Unix time stamps; the last two nodes are never seen."""
    g = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, nodes, (2, events), generator=g)
    t = torch.randint(0, 3, (events,), generator=g).cumsum(0) + 1_600_000_000
    return src, dst, t, torch.arange(events), torch.randn(events, MSG, generator=g, dtype=DOUBLE)


def make(seed: int = 0, **options: Any) -> TGNMemory:
    torch.manual_seed(seed)
    return TGNMemory(NODES, **({"msg_dim": MSG, "memory_dim": WIDTH, "time_dim": TIME} | options)).double()


class Dictionaries:
    """The method node by node: a memory, the time it is of, and a list of pending raw messages."""

    def __init__(self, model: TGNMemory, msg: Tensor) -> None:
        self.model, self.msg = model, msg
        self.memory: dict[int, Tensor] = {}
        self.time: dict[int, int] = {}
        self.pending: dict[int, list[tuple[int, Tensor, int]]] = {}

    def read(self, node: int) -> tuple[Tensor, int]:
        old, before = self.memory.get(node, torch.zeros(WIDTH, dtype=DOUBLE)), self.time.get(node, 0)
        if not self.pending.get(node):
            return old, before
        encoder, model = self.model.time_encoder, self.model
        messages = [
            torch.cat([old, other, self.msg[e], torch.cos((t - before) * encoder.freq + encoder.phase)])
            for t, other, e in self.pending[node][-1 if model.store.aggr == "last" else 0 :]
        ]
        message = torch.stack(messages).mean(0)
        if model.mlp is not None:
            message = model.mlp(message)
        return model.cell(message[None], old[None])[0], self.pending[node][-1][0]

    @torch.no_grad()
    def update(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor) -> None:
        events = list(zip(src.tolist(), dst.tolist(), t.tolist(), e_id.tolist(), strict=True))
        now = {v: self.read(v) for u, w, _, _ in events for v in (u, w)}
        for v, (memory, time) in now.items():
            self.memory[v], self.time[v], self.pending[v] = memory, time, []
        for u, w, when, e in events:
            for v, other in ((u, w), (w, u)):
                self.pending[v].append((when, now[other][0], e))


@pytest.mark.parametrize(
    ("aggr", "message", "cell"), list(itertools.product(["last", "mean"], ["identity", "mlp"], ["gru", "rnn"]))
)
def test_equals_dictionaries(aggr: str, message: str, cell: str) -> None:
    model = make(aggr=aggr, message=message, cell=cell)
    src, dst, t, e_id, msg = stream(400)
    oracle = Dictionaries(model, msg)
    everyone = torch.arange(NODES).flip(0)
    sizes = torch.randint(1, 30, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    start = 0
    while start < 400:
        part = slice(start, start + sizes.pop())
        model.update_state(src[part], dst[part], t[part], e_id[part], msg)
        oracle.update(src[part], dst[part], t[part], e_id[part])
        start = part.stop
    memory, last_update = model(everyone)
    for place, node in enumerate(everyone.tolist()):
        want, time = oracle.read(node)
        # Cosines of angles of 10^9 differ by the rounding of the angle.
        torch.testing.assert_close(memory[place], want, rtol=0, atol=1e-5)
        assert int(last_update[place]) == time


def test_long_stream_equals_dictionaries() -> None:
    """5,000 events, over which a message to a wrong node would show up everywhere."""
    model = make()
    src, dst, t, e_id, msg = stream(5000, seed=2)
    t = t - 1_600_000_000
    oracle = Dictionaries(model, msg)
    for start in range(0, 5000, 200):
        part = slice(start, start + 200)
        model.update_state(src[part], dst[part], t[part], e_id[part], msg)
        oracle.update(src[part], dst[part], t[part], e_id[part])
    for node in range(NODES):
        torch.testing.assert_close(model(torch.tensor([node]))[0][0], oracle.read(node)[0], rtol=0, atol=1e-9)


def test_one_event_at_a_time_is_sequential() -> None:
    """With batches of one, each event reads memories that hold all events before it."""
    model = make()
    src, dst, t, e_id, msg = stream(60, seed=3)
    keep = src != dst
    src, dst, t, e_id = src[keep], dst[keep], t[keep], e_id[keep]
    s, time = torch.zeros(NODES, WIDTH, dtype=DOUBLE), torch.zeros(NODES, dtype=torch.int64)
    # What each node's last event told it, to be applied when it is next met.
    told: list[tuple[Tensor, int] | None] = [None] * NODES
    with torch.no_grad():
        for i, (u, v) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
            part = slice(i, i + 1)
            model.update_state(src[part], dst[part], t[part], e_id[part], msg)
            for node in (u, v):
                if told[node] is not None:
                    raw, when = told[node]
                    phi = torch.cos((when - time[node]) * model.time_encoder.freq + model.time_encoder.phase)
                    s[node] = model.cell(torch.cat([s[node], raw, phi])[None], s[node][None])[0]
                    time[node] = when
            told[u] = torch.cat([s[v], msg[e_id[i]]]), int(t[i])
            told[v] = torch.cat([s[u], msg[e_id[i]]]), int(t[i])
    torch.testing.assert_close(model.memory, s, rtol=0, atol=1e-5)
    assert torch.equal(model.last_update, time)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_nodes_without_a_message_stay_bit_for_bit(cell: str) -> None:
    model = make(cell=cell)
    model.memory[3], model.last_update[3] = 0.25, 77
    model.update_state(torch.tensor([0]), torch.tensor([1]), torch.tensor([100]), torch.tensor([0]), stream(1)[4])
    memory, last_update = model(torch.tensor([3, 0, 5]))
    assert torch.equal(memory[0], torch.full((WIDTH,), 0.25, dtype=DOUBLE))
    assert not memory[2].any()
    assert memory[1].any()
    assert last_update.tolist() == [77, 100, 0]


def test_repeated_nodes_read_the_same_and_only_ends_are_written() -> None:
    model = make()
    src, dst, t, e_id, msg = stream(50)
    for part in (slice(0, 25), slice(25, 50)):
        model.update_state(src[part], dst[part], t[part], e_id[part], msg)
    memory, _ = model(torch.tensor([2, 4, 2]))
    torch.testing.assert_close(memory[0], memory[2], rtol=0, atol=1e-12)
    before = model.memory.clone()
    model(torch.arange(NODES))
    assert torch.equal(model.memory, before)
    one = torch.tensor([2]), torch.tensor([4]), t[-1:] + 1, torch.tensor([49])
    model.update_state(*one, msg)
    changed = (model.memory != before).any(1).nonzero().view(-1).tolist()
    assert changed == [2, 4]
    torch.testing.assert_close(model.memory[[2, 4]], memory[:2].detach())


@pytest.mark.parametrize("message", ["identity", "mlp"])
def test_gradients(message: str) -> None:
    model = make(message=message)
    src, dst, t, e_id, msg = stream(20)
    model.update_state(src[:10], dst[:10], t[:10], e_id[:10], msg)
    model.update_state(src[10:], dst[10:], t[10:], e_id[10:], msg)
    model(torch.arange(NODES))[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not any(value.requires_grad for _, value in model.named_state())


@pytest.mark.parametrize("aggr", ["last", "mean"])
def test_filter_sees_each_update_once(aggr: str) -> None:
    """What the filter is told is what was stored: old and new memory and the time between, once a node."""
    calls: list[tuple[Tensor, ...]] = []

    class Recorder(PredictCorrectFilter):
        def track(self, n_id, s_old, s_bar, dt, component=0, mask=None, s_new=None) -> None:
            calls.append((n_id[mask], s_old[mask], s_bar[mask], dt[mask], s_new[mask]))

        def correct(self, n_id, s_old, s_new, dt) -> Tensor:
            return s_new + 1

    model = make(aggr=aggr, filter=Recorder(NODES, WIDTH))
    plain = make(aggr=aggr)
    src, dst, t, e_id, msg = stream(30, seed=5)
    model.update_state(src[:15], dst[:15], t[:15], e_id[:15], msg)
    plain.update_state(src[:15], dst[:15], t[:15], e_id[:15], msg)
    assert calls[0][0].numel() == 0
    before, then = model.memory.clone(), model.store.time.clone()
    model.update_state(src[15:], dst[15:], t[15:], e_id[15:], msg)
    plain.update_state(src[15:], dst[15:], t[15:], e_id[15:], msg)
    node, old, new, gap, computed = calls[1]
    ends = set(src[15:].tolist()) | set(dst[15:].tolist())
    assert sorted(node.tolist()) == sorted(ends & (set(src[:15].tolist()) | set(dst[:15].tolist())))
    assert torch.equal(old, before[node])
    assert torch.equal(new, model.memory[node])
    assert torch.equal(computed, plain.memory[node])
    assert torch.equal(new, computed + 1)
    assert torch.equal(gap, then[node])
    assert model.coherence_loss() is None
    model(torch.arange(NODES))
    assert float(model.coherence_loss()) > 0


def test_store_of_means() -> None:
    store = MessageStore(4, 2, "mean").double()
    raw = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], dtype=DOUBLE)
    store.put(torch.tensor([2, 1, 2]), torch.tensor([5, 6, 7]), raw)
    found = store.pending(torch.tensor([2, 1, 0]))
    torch.testing.assert_close(found.raw, torch.tensor([[3.0, 5.5], [3.0, 4.0], [0.0, 0.0]], dtype=DOUBLE))
    assert found.t.tolist() == [7, 6, 0]
    assert found.has.tolist() == [True, True, False]
    store.put(torch.tensor([2]), torch.tensor([8]), raw[:1])
    assert torch.equal(store.pending(torch.tensor([2])).raw, raw[:1])


def test_bad_options() -> None:
    for options, word in (
        ({"message": "sum"}, "message must be one of identity, mlp"),
        ({"aggr": "max"}, "aggr must be one of last, mean"),
        ({"cell": "lstm"}, "cell must be one of gru, rnn"),
        ({"memory_dim": 0}, "memory_dim must be in"),
        ({"filter": PredictCorrectFilter(NODES, WIDTH + 1)}, "filter must be for 14 nodes and memory_dim=5"),
    ):
        with pytest.raises(ValueError, match=word):
            make(**options)
