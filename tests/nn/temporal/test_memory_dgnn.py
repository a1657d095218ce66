"""What the kinds of memory models differ in; what they share is in the contract suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal.memory_dgnn import MemoryDGNN
from graphkit.nn.temporal.memory_encoder import MemoryEncoder
from graphkit.nn.temporal.node_embedding import TimeProjectionEmbedding
from graphkit.nn.temporal.pres import PredictCorrectFilter
from graphkit.nn.temporal.temporal_attention import TemporalAttentionEmbedding

NODES, WIDTH = 10, 6
KINDS = ("tgn", "jodie", "dyrep", "apan")
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, **options: Any) -> MemoryDGNN:
    torch.manual_seed(0)
    defaults = {"memory_dim": WIDTH, "time_dim": 4, "embedding_dim": WIDTH, "num_neighbors": 3}
    return MemoryDGNN(NODES, 0, kind, **defaults | options).double()


def stream(events: int = 60) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, NODES, (2, events), generator=g)
    return src, dst, torch.randint(0, 5, (events,), generator=g).cumsum(0), torch.arange(events)


def play(model: MemoryDGNN, low: int = 0, high: int = 60, batch: int = 15) -> None:
    columns = stream()
    for start in range(low, high, batch):
        model.update_state(*(column[start : min(start + batch, high)] for column in columns))


@kinds
def test_gradients_of_the_next_batch_reach_every_parameter(kind: str) -> None:
    model = make(kind, pres=PredictCorrectFilter(NODES, WIDTH), beta=0.5)
    play(model)
    src, t = torch.arange(NODES), torch.full((NODES,), 400)
    model(src, src.flip(0)[:, None], t).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not any(value.requires_grad for _, value in model.named_state())


@kinds
def test_coherence_is_weighted_by_beta_and_dropped_by_detach(kind: str) -> None:
    losses = []
    for beta in (0.5, 1.0, 0.0):
        model = make(kind, pres=PredictCorrectFilter(NODES, WIDTH), beta=beta).eval()
        assert model.auxiliary_loss() is None
        play(model)
        model(torch.tensor([1]), torch.tensor([[2, 3]]), torch.tensor([300]))
        losses.append(model.auxiliary_loss())
        model.detach_state()
        assert model.auxiliary_loss() is None
    half, whole, none = losses
    assert none is None
    assert float(half) > 0
    torch.testing.assert_close(half * 2, whole)
    plain = make(kind)
    play(plain)
    plain(torch.tensor([1]), torch.tensor([[2, 3]]), torch.tensor([300]))
    assert plain.auxiliary_loss() is None


def test_jodie_drifts_by_the_standardised_gap() -> None:
    model = make("jodie")
    embedding = model.encoder.embedding
    assert isinstance(embedding, TimeProjectionEmbedding)
    play(model)
    src, dst, t, _ = stream()
    # Gaps count from a node's last event of earlier batches.
    gaps, last = [], {}
    for start in range(0, 60, 15):
        part = range(start, start + 15)
        gaps += [int(t[i]) - last[v] for i in part for v in (int(src[i]), int(dst[i])) if v in last]
        last |= {v: int(t[i]) for i in part for v in (int(src[i]), int(dst[i]))}
    gap = torch.tensor(gaps, dtype=torch.float64)
    node, when = torch.arange(NODES), torch.full((NODES,), 250)
    memory, update = model.encoder.memory(node)
    assert update.tolist() == [last[v] for v in range(NODES)]
    normal = ((when - update) - gap.mean()) / gap.std(correction=0)
    want = memory * (1 + embedding.lin(normal[:, None]))
    torch.testing.assert_close(model.embed(node, when), want)


def test_dyrep_messages_tell_the_greatest_of_the_neighbors_memories() -> None:
    model = make("dyrep")
    play(model, 0, 45)
    encoder = model.encoder
    assert isinstance(encoder, MemoryEncoder)
    src, dst, t, e_id = (column[45:46] for column in stream())
    u, v = int(src), int(dst)
    want = []
    with torch.no_grad():
        for node in (v, u):
            found = encoder.neighbors.recent(torch.tensor([node]))
            want.append(encoder.memory(found.n_id[found.mask])[0].amax(0))
    model.update_state(src, dst, t, e_id)
    torch.testing.assert_close(encoder.memory.store.raw[[u, v]], torch.stack(want))
    node = torch.arange(NODES)
    torch.testing.assert_close(model.embed(node, torch.full((NODES,), 500)), encoder.memory(node)[0])


def test_first_dyrep_messages_are_zero() -> None:
    model = make("dyrep")
    play(model, 0, 1)
    assert not model.encoder.memory.store.raw.any()


def test_static_features_enter_centers_and_neighbors() -> None:
    x = torch.randn(NODES, 2)
    model = make("tgn", x=x).eval()
    play(model)
    node, when = torch.tensor([0]), torch.tensor([300])
    before = model.embed(node, when)
    near = int(model.encoder.neighbors.recent(node).n_id[0, 0])
    for other in (0, near):
        model.encoder.x[other] += 1
        after = model.embed(node, when)
        assert not torch.allclose(before, after)
        before = after
    assert "encoder.x" not in model.state_dict()


def test_many_candidates_are_scored_as_one_by_one() -> None:
    model = make("tgn").eval()
    play(model)
    src, dst, t = torch.tensor([0, 3]), torch.arange(NODES).expand(2, -1), torch.tensor([200, 260])
    every = model(src, dst, t)
    for place in range(NODES):
        torch.testing.assert_close(model(src, dst[:, place : place + 1], t)[:, 0], every[:, place])


def test_settings() -> None:
    assert isinstance(make("jodie", embedding="attention").encoder.embedding, TemporalAttentionEmbedding)
    assert isinstance(make("tgn").encoder.memory.cell, torch.nn.GRUCell)
    assert isinstance(make("dyrep").encoder.memory.cell, torch.nn.RNNCell)
    assert "kind='jodie'" in repr(make("jodie"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "tng"}, "kind must be one of tgn, jodie, dyrep, apan .*did you mean 'tgn'"),
        ({"kind": "jodie", "embedding_dim": 8}, r"embedding_dim must be memory_dim=6 .*got 8"),
        ({"kind": "apan", "embedding": "time"}, "embedding must be None with kind='apan'"),
        ({"kind": "apan", "x": torch.zeros(NODES, 1)}, "x must be None with kind='apan'"),
        ({"kind": "tgn", "embedding": "mean"}, "embedding must be one of attention, sum, time, identity"),
        ({"kind": "tgn", "x": torch.zeros(3, 1)}, "x must have one row for each of 10 nodes"),
        ({"kind": "tgn", "beta": -0.1}, "beta must be in"),
        ({"kind": "tgn", "heads": 5}, "heads must divide out_channels=6"),
        ({"kind": "tgn", "pres": PredictCorrectFilter(3, WIDTH)}, "filter must be for 10 nodes"),
    ],
)
def test_bad_settings(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make(**options)


@kinds
def test_bad_events_change_nothing(kind: str) -> None:
    model = make(kind)
    play(model)
    before = model.snapshot()
    src, dst, t, e_id = (column[:2] for column in stream())
    late = torch.tensor([500, 600])
    for arguments, error in (
        ((src, dst, t, e_id + 60), ValueError),
        ((src, dst, late.flip(0), e_id + 60), ValueError),
        ((src + NODES, dst, late, e_id + 60), IndexError),
        ((src, dst - NODES, late, e_id + 60), IndexError),
        ((src, dst[:1], late, e_id + 60), ValueError),
        ((src, dst, late, e_id + 60, torch.zeros(62, 1)), ValueError),
        ((src, dst, late.float(), e_id + 60), TypeError),
    ):
        with pytest.raises(error):
            model.update_state(*arguments)
    assert all(torch.equal(before[name], value) for name, value in model.named_state())
