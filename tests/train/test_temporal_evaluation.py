"""Evaluation in order of time: figures against plain counting and TGB's evaluator; what a model sees, and when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from graphkit.datasets.events import EventStream
from graphkit.datasets.negatives import RandomNegatives
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.nn.temporal.state import TemporalModel
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator

NODES, EVENTS = 15, 50


def random_stream(seed: int = 0) -> EventStream:
    draw = torch.Generator().manual_seed(seed)
    src, dst = (torch.randint(low, high, (EVENTS,), generator=draw) for low, high in ((0, 5), (5, NODES)))
    t = torch.randint(30, (EVENTS,), generator=draw).sort().values
    return EventStream(src, dst, t, msg=torch.randn(EVENTS, 2, generator=draw))


class Recorder(TemporalModel):
    """Scores by how often a pair was shown, plus noise of the pair; writes down what it is asked and shown."""

    def __init__(self) -> None:
        super().__init__(NODES)
        self.weight = nn.Parameter(torch.rand(NODES, NODES, generator=torch.Generator().manual_seed(1)))
        self.register_state("met", NODES, NODES)
        self.log: list[tuple[str, list[int]]] = []

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert msg is not None
        assert msg.shape == (EVENTS, 2)
        self.log.append(("score", t.tolist()))
        return self.met[src[:, None], dst] + self.weight[src[:, None], dst]

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.log.append(("show", t.tolist()))
        self.met.index_put_((src, dst), torch.ones(src.numel()), accumulate=True)
        super().update_state(src, dst, t, e_id, msg)


def expected(stream: EventStream, events: range, size: int, candidates: dict[int, list[int]]):
    """Scores of each batch, event by event: [(true, [others])]."""
    model, met, batches = Recorder(), np.zeros((NODES, NODES)), []
    for start in range(events.start, events.stop, size):
        batch = range(start, min(start + size, events.stop))
        weight = model.weight.detach().numpy()
        pairs = [(int(stream.src[i]), int(stream.dst[i])) for i in batch]
        scores = (met.astype(np.float32) + weight).astype(np.float64)
        batches.append(
            [(scores[u, v], [scores[u, w] for w in candidates[i]]) for i, (u, v) in zip(batch, pairs, strict=True)]
        )
        for u, v in pairs:
            met[u, v] += 1
    return batches


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [7, 200])
def test_average_precision(count: int, size: int) -> None:
    stream, events = random_stream(), range(8, EVENTS)
    negatives = RandomNegatives(stream, count, seed=3)
    drawn = {i: negatives.draw(torch.tensor([i]))[0].tolist() for i in events}
    batches = expected(stream, events, size, drawn)

    def figures(rows) -> tuple[float, float]:
        score = [true for true, _ in rows] + [other for _, others in rows for other in others]
        label = [1] * len(rows) + [0] * (len(score) - len(rows))
        return average_precision_score(label, score), roc_auc_score(label, score)

    whole = figures([row for batch in batches for row in batch])
    by_batch = np.mean([figures(batch) for batch in batches], axis=0)
    evaluator = TemporalLinkEvaluator(negatives=negatives, batch_size=size)
    got = evaluator.run(Recorder(), stream, events)
    assert list(got) == list(evaluator.metrics) == ["AP", "AUC", "AP/batch", "AUC/batch"]
    assert list(got.values()) == pytest.approx([100 * value for value in (*whole, *by_batch)], abs=1e-4)
    assert (size == 200) == (got["AP"] == pytest.approx(got["AP/batch"]))
    pos, neg = evaluator.scores(Recorder(), stream, events)
    assert pos.tolist() == pytest.approx([true for batch in batches for true, _ in batch])
    assert neg.tolist() == pytest.approx([other for batch in batches for _, others in batch for other in others])


@pytest.mark.parametrize("num_neg", [4, 100])
def test_reciprocal_rank(num_neg: int) -> None:
    """Rows of unequal length; the padding must not count."""
    stream, events = random_stream(1), range(8, EVENTS)
    stored = StoredNegatives.make(stream, events, num_neg, range(8))
    found, mask = stored.query(stream.src[8:], stream.dst[8:], stream.t[8:])
    others = {i: row[kept].tolist() for i, row, kept in zip(events, found, mask, strict=True)}
    batches = expected(stream, events, 6, others)
    rank = [
        1 + (sum(n > true for n in row) + sum(n >= true for n in row)) / 2 for batch in batches for true, row in batch
    ]
    evaluator = TemporalLinkEvaluator("mrr", stored, batch_size=6)
    got = evaluator.run(Recorder(), stream, events)
    assert list(got) == list(evaluator.metrics) == ["MRR", "Hits@10"]
    assert got["MRR"] == pytest.approx(100 * np.mean([1 / r for r in rank]))
    assert got["Hits@10"] == pytest.approx(100 * np.mean([r <= 10 for r in rank]))
    pos, neg = evaluator.scores(Recorder(), stream, events)
    assert pos.numel() == len(events)
    assert neg.numel() == sum(map(len, others.values()))


def test_like_tgb() -> None:
    """TGB's evaluator on the same scores, event by event."""
    official = pytest.importorskip("tgb.linkproppred.evaluate", reason="py-tgb is not installed").Evaluator("tgbl-wiki")
    stream, events = random_stream(2), range(8, EVENTS)
    stored = StoredNegatives.make(stream, events, 6, range(8))
    found, mask = stored.query(stream.src[8:], stream.dst[8:], stream.t[8:])
    others = {i: row[kept].tolist() for i, row, kept in zip(events, found, mask, strict=True)}
    figures = [
        official.eval({"y_pred_pos": np.array([true]), "y_pred_neg": np.array([row]), "eval_metric": ["mrr"]})
        for batch in expected(stream, events, 10, others)
        for true, row in batch
    ]
    got = TemporalLinkEvaluator("mrr", stored, batch_size=10).run(Recorder(), stream, events)
    assert got["MRR"] == pytest.approx(100 * np.mean([figure["mrr"] for figure in figures]), abs=1e-4)
    assert got["Hits@10"] == pytest.approx(100 * np.mean([figure["hits@10"] for figure in figures]), abs=1e-4)


def test_equal_scores() -> None:
    """A model that cannot tell anything apart has rank 1 + n / 2."""

    class Constant(TemporalModel):
        def forward(self, src, dst, t, msg=None):
            return torch.zeros(dst.shape)

    stream = random_stream(3)
    stored = StoredNegatives.make(stream, range(20, EVENTS), 4)
    got = TemporalLinkEvaluator("mrr", stored).run(Constant(NODES), stream, range(20, EVENTS))
    assert got == {"MRR": pytest.approx(100 / 3), "Hits@10": 100}
    flat = TemporalLinkEvaluator().run(Constant(NODES), stream, range(20, EVENTS))
    assert flat == {name: pytest.approx(50) for name in flat}


@pytest.mark.parametrize("protocol", ["ap", "mrr"])
@pytest.mark.parametrize("training", [True, False])
def test_order_and_mode(protocol: str, training: bool) -> None:
    """A batch is scored, then shown; the mode comes back; the model ends where the events end."""
    stream, events = random_stream(4), range(11, 37)
    negatives = StoredNegatives.make(stream, events, 3) if protocol == "mrr" else None
    model = Recorder().train(training)
    TemporalLinkEvaluator(protocol, negatives, batch_size=9).run(model, stream, events)
    assert model.training == training
    assert int(model.next_event) == 37
    times = [stream.t[start : min(start + 9, 37)].tolist() for start in range(11, 37, 9)]
    assert model.log == [(kind, batch) for batch in times for kind in ("score", "show")]
    assert model.weight.grad is None


def test_seed_draws_the_negatives() -> None:
    stream = random_stream(5)
    first, again, other = (TemporalLinkEvaluator(seed=seed).run(Recorder(), stream) for seed in (0, 0, 1))
    assert first == again
    assert first["AP"] != other["AP"]


def test_ids_need_not_be_successive() -> None:
    stream, events = random_stream(6), torch.tensor([3, 4, 9, 20, 21, 40])
    model = Recorder()
    TemporalLinkEvaluator(batch_size=4).run(model, stream, events)
    assert [times for kind, times in model.log if kind == "show"] == [stream.t[e].tolist() for e in events.split(4)]


def test_bad_input() -> None:
    stream = random_stream(7)
    stored = StoredNegatives.make(stream, range(20, 30), 3)
    with pytest.raises(ValueError, match="protocol must be one of ap, mrr"):
        TemporalLinkEvaluator("auc")
    with pytest.raises(TypeError, match=r"negatives must be StoredNegatives for protocol='mrr' \(got NoneType\)"):
        TemporalLinkEvaluator("mrr")
    with pytest.raises(TypeError, match="negatives must be None or an object with draw"):
        TemporalLinkEvaluator("ap", stored)
    with pytest.raises(TypeError, match="draw"):
        TemporalLinkEvaluator("ap", 3)
    with pytest.raises(ValueError, match="batch_size"):
        TemporalLinkEvaluator(batch_size=0)
    evaluator = TemporalLinkEvaluator("mrr", stored)
    with pytest.raises(ValueError, match="at least one event"):
        evaluator.run(Recorder(), stream, range(0))
    model = Recorder()
    model.train()
    with pytest.raises(KeyError, match="no negatives are stored for the event"):
        evaluator.run(model, stream, range(25, 40))
    assert model.training
    evaluator.run(model, stream, range(20, 30))
    with pytest.raises(ValueError, match="the model has seen event 29 and those to score begin with 20"):
        evaluator.run(model, stream, range(20, 30))
    broken = Recorder()
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match="scores are not finite"):
        TemporalLinkEvaluator().run(broken, stream)
    broken.reset_state()
    worst = evaluator.run(broken, stream, range(20, 30))
    assert worst["MRR"] == pytest.approx(25)  # last of four
