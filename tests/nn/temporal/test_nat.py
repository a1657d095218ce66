"""NAT: an oracle of dictionaries and single entries, what the paper promises, and the contract of streaming models."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal import nat
from graphkit.nn.temporal.nat import NAT
from graphkit.ops.neighborhood_cache import hash_slot

DOUBLE = torch.float64
NODES, MSG, X = 12, 3, 2
# Slots for which the ids 0 .. NODES - 1 do not collide, see test_sizes_are_without_collision.
ROOMY = (128, 100)
both = pytest.mark.parametrize("aggr", ["attention", "sum"])


def stream(events: int, nodes: int = NODES, seed: int = 0) -> tuple[Tensor, ...]:
    """Events with self-loops, ties in time and times of the size of Unix time stamps."""
    g = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, nodes, (2, events), generator=g)
    t = torch.randint(0, 3, (events,), generator=g).cumsum(0) + 1_600_000_000
    return src, dst, t, torch.arange(events), torch.randn(events, MSG, generator=g, dtype=DOUBLE)


def make(seed: int = 0, **options: Any) -> NAT:
    torch.manual_seed(seed)
    defaults = {"msg_dim": MSG, "cache_sizes": (6, 4), "self_dim": 5, "rep_dim": 3, "pos_dim": 4, "time_dim": 2}
    return NAT(NODES, **defaults | options).double()


def play(model: NAT, events: tuple[Tensor, ...], low: int, high: int, batch: int) -> None:
    src, dst, t, e_id, msg = events
    for i in range(low, high, batch):
        part = slice(i, min(i + batch, high))
        model.update_state(src[part], dst[part], t[part], e_id[part], msg)


def query(seed: int = 1, pairs: int = 9, candidates: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, NODES, (pairs,), generator=g), torch.randint(0, NODES, (pairs, candidates), generator=g)
    return src, dst, torch.full((pairs,), 1_700_000_000)


class Dictionaries:
    """The method entry by entry, with Python dictionaries that never collide."""

    def __init__(self, model: NAT, msg: Tensor) -> None:
        self.model, self.msg = model, msg
        self.hops = [defaultdict(dict) for _ in range(3)]
        self.own = {v: torch.zeros(model.self_dim, dtype=DOUBLE) for v in range(NODES)}
        self.prev: dict[int, tuple[int, int, int]] = {}

    def event(self, node: int, e_id: int, t: int) -> Tensor:
        time = torch.cos(t * self.model.time_encoder.freq + self.model.time_encoder.phase)
        return torch.cat([self.own[node], self.msg[e_id], time])

    def entry(self, v: int, hop: int, key: int) -> Tensor:
        if key not in self.hops[hop][v]:
            return torch.zeros(self.model.cache.rep_dim, dtype=DOUBLE)
        e_id, t, rep = self.hops[hop][v][key]
        return self.model.neighbor_cell(self.model.neighbor_input(self.event(key, e_id, t))[None], rep[None])[0]

    def fresh(self, v: int) -> Tensor:
        if v not in self.prev:
            return self.own[v]
        return self.model.self_cell(self.model.self_input(self.event(*self.prev[v]))[None], self.own[v][None])[0]

    def logit(self, u: int, v: int) -> Tensor:
        joint, width = self.model.joint, self.model.cache.rep_dim
        total: dict[int, Tensor] = defaultdict(lambda: torch.zeros(joint.in_channels, dtype=DOUBLE))
        code: dict[int, int] = defaultdict(int)
        for side, v_ in ((0, u), (3, v)):
            for hop in range(3):
                for key in {v_} if hop == 0 else self.hops[hop][v_]:
                    code[key] += 2 ** (hop + side)
                    static = () if self.model.x is None else (self.model.x[key],)
                    total[key] = total[key] + torch.cat([self.entry(v_, hop, key), *static])
                    assert len(total[key]) == width + (0 if self.model.x is None else X)
        features = torch.stack([torch.cat([total[key], joint.embedding[code[key]]]) for key in total])
        heads = []
        for head in range(joint.heads):
            hidden = features @ joint.weight[head].t()
            weight = 1 if joint.attention is None else (hidden @ joint.attention[head]).softmax(0)[:, None]
            heads.append((weight * hidden).sum(0))
        pooled = torch.stack(heads).mean(0) + joint.bias
        z = torch.cat([pooled, self.fresh(u), self.fresh(v)])
        return self.model.score_out(self.model.score_hidden(z).relu())[0]

    def update(self, src: list[int], dst: list[int], t: list[int], e_id: list[int]) -> None:
        ends = set(src) | set(dst)
        own = {v: self.fresh(v) for v in ends}
        read = {
            (v, hop): {key: (*self.hops[hop][v][key][:2], self.entry(v, hop, key)) for key in self.hops[hop][v]}
            for v in ends
            for hop in (0, 1)
        }
        zero = torch.zeros(self.model.cache.rep_dim, dtype=DOUBLE)
        for s, d, time, e in zip(src, dst, t, e_id, strict=True):
            for v, other in ((s, d), (d, s)):
                self.prev[v] = (other, e, time)
                self.hops[2][v].update(read[other, 1])
                self.hops[1][v][other] = (e, time, read[v, 1].get(other, (0, 0, zero))[2])
                self.hops[0][v][v] = (e, time, read[v, 0].get(v, (0, 0, zero))[2])
        self.own.update(own)


def test_sizes_are_without_collision() -> None:
    for size in ROOMY:
        assert hash_slot(torch.arange(NODES), size).unique().numel() == NODES


@both
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("batch", [1, 7])
@torch.no_grad()
def test_equals_dictionaries(aggr: str, static: bool, batch: int) -> None:
    x = torch.randn(NODES, X, dtype=DOUBLE) if static else None
    model = make(cache_sizes=ROOMY, replace_prob=1.0, x=x, aggr=aggr).eval()
    src, dst, t, e_id, msg = events = stream(70)
    oracle = Dictionaries(model, msg)
    for i in range(0, 70, batch):
        play(model, events, i, min(i + batch, 70), batch)
        part = slice(i, i + batch)
        oracle.update(*(values[part].tolist() for values in (src, dst, t, e_id)))
    cache = model.cache
    for hop in range(3):
        entries = cache.fetch(torch.arange(NODES), hop)
        for v in range(NODES):
            held = {}
            for key, e, time, rep in zip(*(part[v] for part in entries), strict=True):
                if key >= 0:
                    held[int(key)] = (int(e), int(time), rep)
            want = oracle.hops[hop][v]
            assert {key: value[:2] for key, value in held.items()} == {key: value[:2] for key, value in want.items()}
            for key, value in want.items():
                torch.testing.assert_close(held[key][2], value[2])
    q_src, q_dst, q_t = query()
    got = model(q_src, q_dst, q_t, msg)
    for i, u in enumerate(q_src.tolist()):
        for j, v in enumerate(q_dst[i].tolist()):
            torch.testing.assert_close(got[i, j], oracle.logit(u, v))
    torch.testing.assert_close(model.embed(q_src, q_t, msg), torch.stack([oracle.fresh(v) for v in q_src.tolist()]))


@both
def test_other_and_later_events_do_not_change_logits(aggr: str) -> None:
    src, dst, t, e_id, msg = stream(60)
    asked = (src[40:], torch.stack([dst[40:], src[40:].flip(0)], 1), t[40:], msg)
    model = make(aggr=aggr).eval()
    play(model, (src, dst, t, e_id, msg), 0, 40, 8)
    want = model(*asked)
    changed = msg.clone()
    changed[40:] = 1e6
    assert torch.equal(model(*asked[:3], changed), want)
    # One pair at a time: what else is in the batch does not matter.
    alone = torch.cat([model(asked[0][i : i + 1], asked[1][i : i + 1], asked[2][i : i + 1], msg) for i in range(20)])
    torch.testing.assert_close(alone, want)


@both
@pytest.mark.parametrize("training", [False, True])
def test_queries_change_no_state(aggr: str, training: bool) -> None:
    model = make(aggr=aggr).train(training)
    events = stream(50)
    play(model, events, 0, 50, 10)
    before = model.snapshot()
    model(*query(), events[4]).sum().backward()
    model.embed(torch.arange(NODES), torch.zeros(NODES).long(), events[4])
    for name, value in model.named_state():
        assert torch.equal(value, before[name]), name


@both
def test_gradients_reach_every_parameter_and_no_state(aggr: str) -> None:
    model = make(aggr=aggr)
    events = stream(50)
    play(model, events, 0, 50, 10)
    model(*query(), events[4]).sigmoid().sum().backward()
    play(model, stream(60), 50, 60, 10)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not any(value.requires_grad for _, value in model.named_state())


@both
def test_state_may_change_before_the_backward_pass(aggr: str) -> None:
    events, gradients = stream(60), []
    for update_first in (False, True):
        model = make(aggr=aggr).eval()
        play(model, events, 0, 50, 10)
        loss = model(*query(), events[4]).sigmoid().sum()
        if update_first:
            play(model, events, 50, 60, 10)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@both
def test_snapshot_reset_and_state_dict(aggr: str) -> None:
    """Random replacements included: the draws go on from where they were."""
    events = stream(90)
    model, other = make(aggr=aggr, replace_prob=0.5).eval(), make(seed=5, aggr=aggr, replace_prob=0.5).eval()
    play(model, events, 0, 50, 10)
    snapshot, saved = model.snapshot(), {name: value.clone() for name, value in model.state_dict().items()}
    play(model, events, 50, 90, 10)
    want, end = model(*query(), events[4]), model.snapshot()
    model.load_snapshot(snapshot)
    play(model, events, 50, 90, 10)
    assert torch.equal(model(*query(), events[4]), want)
    other.load_state_dict(saved)
    play(other, events, 50, 90, 10)
    assert torch.equal(other(*query(), events[4]), want)
    model.reset_state()
    play(model, events, 0, 90, 10)
    for name, value in model.named_state():
        assert torch.equal(value, end[name]), name
    assert int(model.next_event) == 90


@both
def test_relabelling(aggr: str) -> None:
    """Without collisions the hash does not matter, and ids mean nothing."""
    model, renamed = (make(aggr=aggr, cache_sizes=ROOMY).eval() for _ in range(2))
    src, dst, t, e_id, msg = events = stream(60)
    name = torch.randperm(NODES)
    play(model, events, 0, 60, 10)
    play(renamed, (name[src], name[dst], t, e_id, msg), 0, 60, 10)
    q_src, q_dst, q_t = query()
    torch.testing.assert_close(renamed(name[q_src], name[q_dst], q_t, msg), model(q_src, q_dst, q_t, msg))


@both
def test_scoring_in_parts(aggr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(aggr=aggr).eval()
    events = stream(50)
    play(model, events, 0, 50, 10)
    want = model(*query(candidates=11), events[4])
    monkeypatch.setattr(nat, "_PAIRS", 30)
    torch.testing.assert_close(model(*query(candidates=11), events[4]), want)


def test_many_nodes_read_only_what_is_needed() -> None:
    """The way of large graphs, by distinct keys, gives what the way of small graphs, by all nodes, gives."""
    torch.manual_seed(0)
    small = NAT(NODES).double().eval()
    torch.manual_seed(0)
    large = NAT(100_000).double().eval()
    src, dst, t, e_id, _ = stream(40)
    for model in (small, large):
        model.update_state(src[:20], dst[:20], t[:20], e_id[:20])
        model.update_state(src[20:], dst[20:], t[20:], e_id[20:])
    torch.testing.assert_close(large(*query()), small(*query()))


def test_events_at_time_zero_count() -> None:
    model = make(msg_dim=0)
    zero, one = torch.tensor([[0], [1]])
    model.update_state(zero, one, torch.tensor([0]), torch.tensor([0]))
    assert model.embed(zero, zero).abs().sum() > 0
    assert model.cache.fetch(zero, hop=1).key.max() == 1


def test_unseen_nodes_and_empty_batches() -> None:
    model = make(msg_dim=0).eval()
    src, dst, t = query()
    logits = model(src, dst, t)
    assert bool(logits.isfinite().all())
    assert torch.equal(model.embed(src, t), torch.zeros(9, 5, dtype=DOUBLE))
    none = torch.empty(0, dtype=torch.int64)
    before = model.snapshot()
    model.update_state(none, none, none, none)
    assert all(torch.equal(value, before[name]) for name, value in model.named_state())
    assert model(none, none.view(0, 3), none).shape == (0, 3)
    assert model(src, dst[:, :0], t).shape == (9, 0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cache_sizes": (4, 4, 4)}, "cache_sizes"),
        ({"cache_sizes": ()}, "cache_sizes"),
        ({"cache_sizes": (0,)}, "cache_sizes"),
        ({"replace_prob": 1.5}, "replace_prob"),
        ({"rep_dim": 0}, "rep_dim"),
        ({"self_dim": 0}, "self_dim"),
        ({"msg_dim": -1}, "msg_dim"),
        ({"aggr": "mean"}, "aggr"),
        ({"dropout": -0.1}, "dropout"),
        ({"x": torch.zeros(3, 2)}, "x must"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make(**options)


def test_bad_events_change_nothing() -> None:
    model = make()
    src, dst, t, e_id, msg = stream(10)
    play(model, (src, dst, t, e_id, msg), 0, 5, 5)
    before = model.snapshot()
    rows = slice(5, 10)
    good = {"src": src[rows], "dst": dst[rows], "t": t[rows], "e_id": e_id[rows], "msg": msg}
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"t": t[rows].flip(0) - torch.arange(5)}, ValueError, "t must ascend"),
        ({"t": t[rows].float()}, TypeError, "t must be int64"),
        ({"e_id": e_id[rows].flip(0)}, ValueError, "e_id must ascend"),
        ({"src": src[rows] + NODES}, IndexError, "src"),
        ({"dst": dst[rows] - NODES}, IndexError, "src and dst"),
        ({"msg": None}, ValueError, "msg"),
        ({"msg": msg[:, 1:]}, ValueError, "msg"),
        ({"t": t}, ValueError, "t must be a vector"),
    ]
    for change, error, word in cases:
        with pytest.raises(error, match=word):
            model.update_state(**good | change)
    for name, value in model.named_state():
        assert torch.equal(value, before[name]), name
    with pytest.raises(IndexError, match="src and dst"):
        model(torch.tensor([NODES]), torch.tensor([[0]]), t[:1], msg)
    with pytest.raises(ValueError, match="shapes"):
        model(src, dst, t, msg)
    with pytest.raises(ValueError, match="msg"):
        model(src, dst[:, None], t)
