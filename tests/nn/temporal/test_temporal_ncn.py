"""Common neighbours over time beside a temporal model."""

from __future__ import annotations

import torch

from graphkit.datasets.synthetic import triadic_closure_stream
from graphkit.loader import EventLoader
from graphkit.nn.temporal.memory_dgnn import MemoryDGNN
from graphkit.nn.temporal.nat import NAT
from graphkit.nn.temporal.temporal_ncn import TemporalNCN

NODES = 30


def shown(model, events: int = 120, batch_size: int = 20):
    stream = triadic_closure_stream(num_nodes=NODES, num_events=events, seed=3)
    for batch in EventLoader(stream, batch_size=batch_size):
        model.update_state(batch.src, batch.dst, batch.t, batch.e_id)
    return stream


def build(kind: str = "tgn") -> TemporalNCN:
    torch.manual_seed(1)
    if kind == "nat":
        return TemporalNCN(NAT(NODES, self_dim=6), 6, 8).eval()
    plain = MemoryDGNN(NODES, 0, kind, memory_dim=6, time_dim=6, embedding_dim=6)
    return TemporalNCN(plain, 6, 8, cache_sizes=(32,)).eval()


def test_it_adds_the_decoder_on_embeddings_as_of_the_last_event():
    model = build()
    stream = shown(model)
    last = torch.zeros(NODES, dtype=torch.long)
    for src, dst, t in zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), strict=True):
        last[src] = last[dst] = t
    assert torch.equal(model.last_seen[:NODES], last)
    src, dst, t = torch.tensor([0, 5]), torch.tensor([[1, 2, 3], [9, 5, 0]]), torch.tensor([120, 130])
    every = torch.arange(NODES)
    z = model.model.embed(every, last)
    want = model.model(src, dst, t) + model.decoder(z, src, dst, t)
    torch.testing.assert_close(model(src, dst, t), want)


def test_any_encoder_will_do_and_every_weight_learns():
    src, dst, t = torch.tensor([0, 5, 7]), torch.tensor([[1, 2], [9, 4], [3, 8]]), torch.tensor([120, 130, 140])
    for kind in ("tgn", "jodie", "nat"):
        model = build(kind)
        shown(model)
        model(src, dst, t).square().sum().backward()
        missing = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert not missing, (kind, missing)


def test_friends_in_common_change_the_score_and_others_do_not():
    model = build()
    src, dst, t, e_id = torch.tensor([[0, 1], [2, 2], [3, 4], [0, 1]])
    model.update_state(src, dst, t, e_id)
    _, weight = model.decoder.common(torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([9, 9]))
    assert (weight > 0).any(1).tolist() == [True, False]
