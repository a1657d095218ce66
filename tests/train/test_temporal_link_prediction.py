"""Links of a stream as a task: what the model has seen when, and what comes back after an evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.negatives import RandomNegatives
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.nn import EdgeBank, MemoryDGNN, TemporalModel
from graphkit.train import Trainer
from graphkit.train.tasks.temporal_link_prediction import TemporalLinkPredictionTask
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator

NODES, EVENTS, BATCH = 12, 100, 16
Shown = tuple[int, ...]


def make_stream(seed: int = 0) -> EventStream:
    draw = torch.Generator().manual_seed(seed)
    src, dst = (torch.randint(low, high, (EVENTS,), generator=draw) for low, high in ((0, 5), (5, NODES)))
    t = torch.randint(3, (EVENTS,), generator=draw).cumsum(0)
    return EventStream(src, dst, t, msg=torch.randn(EVENTS, 2, generator=draw), num_nodes=NODES)


STREAM = make_stream()
SPLIT = EventSplit(60, 80, EVENTS)
HIDING = EventSplit.make(STREAM, 0.2, 0.2, new_nodes=0.2, seed=1)


class Recorder(TemporalModel):
    """Keeps the ids of the events that it was shown in its state, and notes them at each question."""

    def __init__(self) -> None:
        super().__init__(NODES)
        self.weight = nn.Parameter(torch.rand(NODES, NODES, generator=torch.Generator().manual_seed(1)))
        self.register_state("shown", EVENTS, fill=-1, dtype=torch.int64)
        self.register_state("number", dtype=torch.int64)
        self.log: list[tuple[str, Shown, list[int]]] = []

    @property
    def events(self) -> Shown:
        return tuple(self.shown[: int(self.number)].tolist())

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.log.append(("train" if self.training else "eval", self.events, t.tolist()))
        return self.weight[src[:, None], dst]

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        assert e_id.numel()
        self.check_events(src, dst, t, e_id)
        self.shown[int(self.number) : int(self.number) + e_id.numel()] = e_id
        self.number += e_id.numel()
        super().update_state(src, dst, t, e_id, msg)


def make_task(split: EventSplit = SPLIT, **options) -> TemporalLinkPredictionTask:
    evaluator = TemporalLinkEvaluator(batch_size=7)
    return TemporalLinkPredictionTask(STREAM, split, BATCH, **{"evaluator": evaluator, **options})


def epoch(task: TemporalLinkPredictionTask, model: TemporalModel, number: int = 1) -> list[float]:
    model.train()
    return [float(task.loss(model, batch).detach()) for batch in task.batches(number)]


def batches_of(events: Tensor, size: int, before: Shown = ()) -> list[tuple[Shown, list[int]]]:
    """What has been seen at each batch, and the times of the batch."""
    found, seen = [], list(before)
    for batch in events.split(size):
        found.append((tuple(seen), STREAM.t[batch].tolist()))
        seen += batch.tolist()
    return found


@pytest.mark.parametrize("split", [SPLIT, HIDING], ids=["transductive", "inductive"])
def test_a_batch_is_scored_before_it_is_shown_and_an_epoch_begins_anew(split: EventSplit) -> None:
    task, model = make_task(split), Recorder()
    for number in (1, 2):
        model.log.clear()
        losses = epoch(task, model, number)
        assert model.log == [("train", *row) for row in batches_of(split.train, BATCH)]
        assert model.events == tuple(split.train.tolist())
        assert len(losses) == task.num_batches() == math.ceil(len(split.train) / BATCH)
        assert sum(map(task.size, task.batches(number))) == task.epoch_size() == len(split.train)


def test_an_epoch_that_was_broken_off_leaves_nothing() -> None:
    task, model = make_task(), Recorder()
    for batch, _ in zip(task.batches(1), range(2), strict=False):
        task.loss(model, batch)
    assert model.number > 0
    model.log.clear()
    epoch(task, model)
    assert model.log[0][1] == ()


def test_validation_goes_on_and_the_test_comes_back() -> None:
    task, model = make_task(), Recorder()
    epoch(task, model)
    model.log.clear()
    task.evaluate(model, "valid")
    train, valid = tuple(range(60)), tuple(range(80))
    assert model.log == [("eval", *row) for row in batches_of(SPLIT.valid, 7, train)]
    assert model.events == valid
    before = model.snapshot()
    for _ in range(2):
        model.log.clear()
        task.evaluate(model, "test")
        assert model.log == [("eval", *row) for row in batches_of(SPLIT.test, 7, valid)]
        assert all(torch.equal(value, before[name]) for name, value in model.named_state())
    assert model.training


def test_a_model_without_training_is_shown_what_came_before() -> None:
    task = make_task()
    for split, first in (("valid", 60), ("test", 80)):
        model = Recorder()
        task.evaluate(model, split)
        assert model.log[0][1] == tuple(range(first))
        assert model.log[0][0] == "eval"


def test_the_inductive_test_comes_after_all_earlier_events() -> None:
    task, model = make_task(HIDING), Recorder()
    new = HIDING.new_events
    assert new is not None
    epoch(task, model)
    model.log.clear()
    task.evaluate(model, "valid")
    known = tuple(HIDING.train.tolist())
    assert model.log == [("eval", *row) for row in batches_of(HIDING.valid, 7, known)]
    assert not new[list(model.events)].any()
    after, before = model.events, model.snapshot()
    model.log.clear()
    task.evaluate(model, "test")
    assert model.log == [("eval", *row) for row in batches_of(HIDING.test, 7, tuple(range(HIDING.valid_stop)))]
    assert new[HIDING.test].all()
    assert new[: HIDING.valid_stop].any()
    assert model.events == after
    assert all(torch.equal(value, before[name]) for name, value in model.named_state())


@pytest.mark.parametrize("kind", ["tgn", "bank"])
def test_evaluation_is_the_same_each_time(kind: str) -> None:
    torch.manual_seed(0)
    model = MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, 3) if kind == "tgn" else EdgeBank(NODES)
    task = make_task(HIDING)
    if kind == "tgn":
        epoch(task, model)
    state = model.snapshot()
    found = []
    for _ in range(3):
        model.load_snapshot(state)
        found.append((task.evaluate(model, "valid"), task.evaluate(model, "test"), task.evaluate(model, "test")))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == found[0][2]


def test_no_score_depends_on_what_comes_later() -> None:
    """Losses of an epoch on two streams that part at event 40: those before are equal, those after are not."""
    other = make_stream(1)
    columns = [torch.cat([mine[:40], its[:60]]) for mine, its in ((STREAM.src, other.src), (STREAM.dst, other.dst))]
    t = torch.cat([STREAM.t[:40], STREAM.t[39] + other.t[:60]])
    changed = EventStream(*columns, t, torch.cat([STREAM.msg[:40], other.msg[:60]]), num_nodes=NODES)
    found = []
    for data in (STREAM, changed):
        torch.manual_seed(0)
        model = MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, 3, dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        task = TemporalLinkPredictionTask(data, SPLIT, 8, RandomNegatives(torch.arange(5, NODES)))
        losses = []
        for batch in task.batches(1):
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found.append(losses)
    assert found[0][:5] == found[1][:5]
    assert all(a != b for a, b in zip(found[0][5:], found[1][5:], strict=True))


def test_the_loss_is_what_the_equation_says() -> None:
    """softplus(-s) of the true ones plus the mean of softplus(s) of the others, and the model's own term."""

    class Extra(Recorder):
        def auxiliary_loss(self):
            return torch.tensor(3.0)

    task = make_task(negatives=RandomNegatives(STREAM, count=3, seed=4))
    model, plain = Extra(), Recorder()
    batch = next(iter(task.batches(1)))
    assert batch.neg.shape == (BATCH, 3)
    w = model.weight
    true, others = w[batch.src, batch.dst], w[batch.src[:, None], batch.neg]
    want = (1 + (-true).exp()).log().mean() + (1 + others.exp()).log().mean()
    assert float(task.loss(plain, batch).detach()) == pytest.approx(float(want.detach()), rel=1e-6)
    assert float(task.loss(model, batch).detach()) == pytest.approx(float(want.detach()) + 3, rel=1e-6)


def test_epochs_draw_other_negatives() -> None:
    task = make_task()
    first, again, second = ([b.neg.tolist() for b in task.batches(number)] for number in (1, 1, 2))
    assert first == again
    assert first != second
    assert [b.neg.tolist() for b in make_task(seed=1).batches(1)] != first


def stored() -> TemporalLinkEvaluator:
    negatives = StoredNegatives.make(STREAM, range(60, EVENTS), 5, range(60))
    return TemporalLinkEvaluator("mrr", negatives, 7)


def test_final_metrics_are_of_the_best_epoch_and_leave_the_state() -> None:
    torch.manual_seed(0)
    task, model = make_task(final=stored()), MemoryDGNN(NODES, 2, "jodie", 6, 4, 6, 3)
    trainer = Trainer(3, device="cpu", progress=False)
    result = trainer.fit(model, task, torch.optim.Adam(model.parameters(), 0.01))
    best = result.best["AP"]
    assert set(result.best) == {"AP", "AUC", "AP/batch", "AUC/batch", "MRR", "Hits@10"}
    assert (
        result.best["MRR"]["epoch"]
        == best["epoch"]
        == 1 + max(range(3), key=lambda e: (result.history[e]["valid/AP"], -e))
    )
    # The model comes with the state after validation, from which the test follows.
    assert int(model.next_event) == 80
    assert task.evaluate(model, "test")["AP"] == best["test"]
    before = model.snapshot()
    again = task.final_metrics(model)
    assert again["MRR"] == {name: result.best["MRR"][name] for name in ("valid", "test")}
    assert all(torch.equal(value, before[name]) for name, value in model.named_state())
    # By hand: a model that was shown training and validation.
    model.reset_state()
    model.eval()
    for batch in SPLIT.train.split(BATCH):
        model.update_state(STREAM.src[batch], STREAM.dst[batch], STREAM.t[batch], batch, STREAM.msg)
    assert stored().run(model, STREAM, SPLIT.valid)["MRR"] == again["MRR"]["valid"]


def test_a_rule_needs_no_training() -> None:
    task, model = make_task(final=stored()), EdgeBank(NODES)
    result = Trainer(5, device="cpu", progress=False).fit(model, task)
    assert result.history == []
    fresh = EdgeBank(NODES)
    for batch in torch.arange(60).split(9):
        fresh.update_state(STREAM.src[batch], STREAM.dst[batch], STREAM.t[batch], batch)
    evaluator = TemporalLinkEvaluator(batch_size=7)
    assert evaluator.run(fresh, STREAM, SPLIT.valid)["AP"] == result.best["AP"]["valid"]
    assert evaluator.run(fresh, STREAM, SPLIT.test)["AP"] == result.best["AP"]["test"]
    assert result.best["MRR"]["test"] > 0


def test_histogram_leaves_the_state() -> None:
    task, model = make_task(), EdgeBank(NODES)
    task.evaluate(model, "valid")
    before = model.snapshot()
    shares = task.histogram(model)
    assert sum(shares["links"]) == pytest.approx(1, abs=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.named_state())


def test_progress_counts_events(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar:
        def __init__(self, total, initial, unit, **options):
            self.total, self.unit, self.steps = total, unit, []
            bars.append(self)

        def update(self, number):
            self.steps.append(number)

        def set_postfix(self, values):
            pass

        def close(self):
            pass

    monkeypatch.setattr("graphkit.train.trainer.tqdm", Bar)
    model = Recorder()
    Trainer(2, device="cpu").fit(model, make_task(), torch.optim.SGD(model.parameters(), 0.1))
    assert (bars[0].total, bars[0].unit) == (120, "event")
    assert bars[0].steps == [16, 16, 16, 12] * 2


def test_catch_up_shows_what_was_not_seen() -> None:
    task, model = make_task(), Recorder()
    epoch(task, model)
    task.evaluate(model, "valid")
    task.catch_up(model, 90)
    assert model.events == tuple(range(90))
    for _ in range(2):
        task.catch_up(model)
        assert model.events == tuple(range(EVENTS))
    assert model.training
    task.catch_up(model, 7)  # back to an earlier moment
    assert model.events == tuple(range(7))
    daily = TemporalLinkPredictionTask(STREAM, SPLIT, window=5)
    daily.catch_up(model)
    daily.catch_up(model)
    assert model.events == tuple(range(EVENTS))
    for until in (-1, EVENTS + 1):
        with pytest.raises(ValueError, match="until must be in"):
            task.catch_up(model, until)


def test_catch_up_shows_events_of_new_nodes() -> None:
    task, model = make_task(HIDING), Recorder()
    epoch(task, model)
    task.evaluate(model, "valid")
    assert HIDING.new_events is not None
    assert not HIDING.new_events[list(model.events)].any()
    task.catch_up(model)
    assert model.events == tuple(range(EVENTS))


def test_catch_up_is_in_evaluation_mode_and_without_gradient() -> None:
    seen = []

    class Watching(Recorder):
        def update_state(self, *events: Tensor) -> None:  # type: ignore[override]
            seen.append((self.training, torch.is_grad_enabled()))
            super().update_state(*events)

    make_task().catch_up(Watching())
    assert set(seen) == {(False, False)}


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"stream must be an EventStream \(got Tensor\)"):
        TemporalLinkPredictionTask(STREAM.src, SPLIT)
    with pytest.raises(TypeError, match=r"split must be an EventSplit \(got tuple\)"):
        TemporalLinkPredictionTask(STREAM, (60, 80))
    with pytest.raises(ValueError, match=r"split must be of the stream of 100 events \(got one of 90\)"):
        TemporalLinkPredictionTask(STREAM, EventSplit(60, 80, 90))
    with pytest.raises(ValueError, match="batch_size"):
        TemporalLinkPredictionTask(STREAM, SPLIT, 0)
    with pytest.raises(ValueError, match="seed"):
        TemporalLinkPredictionTask(STREAM, SPLIT, seed=-1)
    with pytest.raises(TypeError, match=r"model must be a graphkit.nn.TemporalModel \(got Linear\)"):
        make_task().evaluate(nn.Linear(2, 2), "valid")
    with pytest.raises(ValueError, match="split must be one of valid, test"):
        make_task().evaluate(Recorder(), "train")
    model = Recorder()
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        make_task().evaluate(model, "valid")


def test_repr_names_the_stream() -> None:
    assert repr(make_task()).startswith("TemporalLinkPredictionTask(EventStream(events=100")
