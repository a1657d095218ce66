"""APAN against mailboxes that are Python lists."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal.apan import APANEncoder
from graphkit.nn.temporal.pres import PredictCorrectFilter

DOUBLE = torch.float64
NODES, MSG, WIDTH, MAILS, NEAR = 9, 3, 4, 3, 2


def make(msg_dim: int = MSG) -> APANEncoder:
    torch.manual_seed(0)
    model = APANEncoder(NODES, msg_dim, WIDTH, MAILS, NEAR, heads=2).double().eval()
    torch.nn.init.normal_(model.norm.weight)
    return model


class Lists:
    """The method node by node."""

    def __init__(self, model: APANEncoder, msg: Tensor) -> None:
        self.model, self.msg = model, msg
        self.z = torch.zeros(NODES, WIDTH, dtype=DOUBLE)
        self.last = [0] * NODES
        self.box: list[list[tuple[Tensor, int]]] = [[] for _ in range(NODES)]
        self.near: list[list[int]] = [[] for _ in range(NODES)]

    def phi(self, dt: int) -> Tensor:
        encoder = self.model.time_encoder
        return torch.cos(dt * encoder.freq + encoder.phase)

    @torch.no_grad()
    def embed(self, node: int, t: int) -> Tensor:
        model = self.model
        f = self.z[node] + self.phi(t - self.last[node])
        attended = torch.zeros(WIDTH, dtype=DOUBLE)
        if self.box[node]:
            keys = []
            for rank, (mail, when) in enumerate(self.box[node]):
                content = mail[:WIDTH] + (model.lin_msg(mail[WIDTH:]) if model.lin_msg is not None else 0)
                keys.append(content + self.phi(t - when) + model.position.weight[rank])
            k, v, q = model.lin_key(torch.stack(keys)), model.lin_value(torch.stack(keys)), model.lin_query(f)
            half = WIDTH // 2
            for part in (slice(0, half), slice(half, WIDTH)):
                weight = (k[:, part] @ q[part] / math.sqrt(half)).softmax(0)
                attended[part] = weight @ v[:, part]
        return model.lin_out(model.lin_hidden(model.norm(torch.cat([f, attended]))).relu())

    def update(self, src: list[int], dst: list[int], t: list[int], e_id: list[int]) -> None:
        events = list(zip(src, dst, t, e_id, strict=True))
        latest = {v: when for u, w, when, _ in events for v in (u, w)}
        new = {v: self.embed(v, when) for v, when in latest.items()}
        for v, when in latest.items():
            self.z[v], self.last[v] = new[v], when
        mails: dict[int, list[Tensor]] = {v: [] for v in latest}
        for u, w, _, e in events:
            mail = torch.cat([new[u] + new[w], self.msg[e]])
            mails[u].append(mail)
            mails[w].append(mail)
        inbox: dict[int, list[tuple[Tensor, int]]] = {}
        for v, own in mails.items():
            mean = torch.stack(own).mean(0)
            for receiver in (v, *self.near[v][:NEAR]):
                inbox.setdefault(receiver, []).append((mean, latest[v]))
        for v, got in inbox.items():
            mail = torch.stack([m for m, _ in got]).mean(0), max(when for _, when in got)
            self.box[v] = [mail, *self.box[v]][:MAILS]
        for u, w, _, _ in events:
            self.near[u].insert(0, w)
            if u != w:
                self.near[w].insert(0, u)


@pytest.mark.parametrize("msg_dim", [0, MSG])
def test_equals_lists(msg_dim: int) -> None:
    """Self-loops, ties, repeated ends, repeated neighbours, and a node that is never seen."""
    model = make(msg_dim)
    g = torch.Generator().manual_seed(1)
    src, dst = torch.randint(0, NODES - 1, (2, 120), generator=g)
    t = torch.randint(0, 3, (120,), generator=g).cumsum(0) + 1_600_000
    msg = torch.randn(120, msg_dim, generator=g, dtype=DOUBLE)
    oracle, everyone = Lists(model, msg), torch.arange(NODES)
    for part in torch.arange(120).split([1, 7, 20, 2, 40, 30, 20]):
        now = int(t[part[-1]]) + 5
        model.update_state(src[part], dst[part], t[part], part, msg if msg_dim else None)
        oracle.update(src[part].tolist(), dst[part].tolist(), t[part].tolist(), part.tolist())
        got = model(everyone, everyone, torch.full((NODES,), now))
        want = torch.stack([oracle.embed(v, now) for v in range(NODES)])
        torch.testing.assert_close(got, want, rtol=0, atol=1e-8)
        torch.testing.assert_close(model.embedding, oracle.z, rtol=0, atol=1e-8)


def test_dropout_does_not_reach_the_state() -> None:
    src, dst, t, e_id = (torch.randint(0, NODES, (20,)) for _ in range(4))
    t = t.sort().values
    states = []
    for training in (True, False):
        model = make(0).train(training)
        model.update_state(src, dst, t, e_id)
        states.append(model.snapshot())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"heads must divide channels=4 \(got 3\)"):
        APANEncoder(NODES, 0, 4, heads=3)
    with pytest.raises(ValueError, match="filter must be for 9 nodes and memory_dim=4"):
        APANEncoder(NODES, 0, 4, filter=PredictCorrectFilter(NODES, 5))
