"""Tasks on a stream: what a model has seen when it is asked, figures against other libraries, targets by counting."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor, nn

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.node_targets import NodePropertyTargets, node_property_targets
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.nn import (
    MemoryDGNN,
    PersistentForecast,
    TemporalModel,
    TemporalNodeClassifier,
    TemporalNodeModel,
)
from graphkit.train import (
    TemporalLinkEvaluator,
    TemporalLinkPredictionTask,
    TemporalNodeClassificationTask,
    TemporalNodePropertyTask,
    Trainer,
)
from graphkit.train.metrics import ndcg_at_k
from graphkit.utils.seed import seed_everything

NODES, EVENTS = 15, 200


def random_stream(seed: int = 0, classes: int = 2, last: int = 150) -> EventStream:
    draw = torch.Generator().manual_seed(seed)
    src, dst = (torch.randint(low, high, (EVENTS,), generator=draw) for low, high in ((0, 5), (5, NODES)))
    t = torch.randint(last, (EVENTS,), generator=draw).sort().values
    y = torch.randint(classes, (EVENTS,), generator=draw)
    return EventStream(src, dst, t, torch.randn(EVENTS, 2, generator=draw), y, NODES)


class Recorder(TemporalNodeModel):
    """Logits by how often a node was shown and by its parameters; writes down what it is asked and shown."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(NODES, classes, generator=torch.Generator().manual_seed(1)))
        self.register_state("count", NODES)
        self.log: list[tuple[str, Any]] = []

    def forward(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None, event_msg: Tensor | None = None) -> Tensor:
        self.log.append(("ask", t.tolist()))
        self.told = event_msg
        score = self.weight[n_id] * (1 + self.count[n_id, None])
        return score if event_msg is None else score + nn.functional.pad(event_msg[:, :1], (0, score.size(1) - 1))

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.log.append(("show", e_id.tolist()))
        self.count.index_add_(0, src, torch.ones(src.numel()))
        super().update_state(src, dst, t, e_id, msg)

    def shown(self) -> list[int]:
        return [e_id for kind, ids in self.log if kind == "show" for e_id in ids]

    def update_targets(self, n_id: Tensor, t: Tensor, y: Tensor) -> None:
        self.log.append(("target", (int(t[0]), n_id.tolist())))


def train(model: nn.Module, task: Any, epochs: int = 1, **options: Any):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    return Trainer(epochs, device="cpu", progress=False, **options).fit(model, task, optimizer)


# Labels of events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("use_msg", [False, True])
def test_figures_of_labels(classes: int, use_msg: bool) -> None:
    """Event by event in Python, for a model whose state is a count."""
    stream = random_stream(0, classes)
    split = EventSplit.make(stream)
    task = TemporalNodeClassificationTask(stream, split, batch_size=7, use_msg=use_msg)
    model = Recorder(classes)
    weight, count, scores, labels = model.weight.detach().double().numpy(), np.zeros(NODES), [], []
    for start in range(0, split.train_stop, 7):
        for i in range(start, min(start + 7, split.train_stop)):
            count[int(stream.src[i])] += 1
    for start in range(split.train_stop, split.valid_stop, 7):
        batch = range(start, min(start + 7, split.valid_stop))
        for i in batch:
            node = int(stream.src[i])
            scores.append(weight[node] * (1 + count[node]))
            scores[-1][0] += float(stream.msg[i, 0]) if use_msg else 0
            labels.append(int(stream.y[i]))
        for i in batch:
            count[int(stream.src[i])] += 1
    scores = np.array(scores)
    got = task.evaluate(model, "valid")
    if classes == 2:
        margin = scores[:, 1] - scores[:, 0]
        want = {"AUC": roc_auc_score(labels, margin), "AP": average_precision_score(labels, margin)}
    else:
        want = {"Accuracy": accuracy_score(labels, scores.argmax(1))}
    assert task.monitor == next(iter(want))
    assert got == {name: pytest.approx(100 * value, abs=1e-4) for name, value in want.items()}
    assert task.event_dim == (2 if use_msg else 0)
    assert (model.told is None) != use_msg


def test_loss_of_labels() -> None:
    """The mean cross-entropy of the batch; shares of two processes average to it."""
    stream = random_stream(1)
    task = TemporalNodeClassificationTask(stream, EventSplit.make(stream), batch_size=20)
    batch = next(task.batches(1))
    weight = Recorder().weight.detach()
    whole = float(task.loss(Recorder(), batch))
    assert whole == pytest.approx(float(nn.functional.cross_entropy(weight[batch.src], stream.y[:20])))
    shares = []
    task.world_size = 2
    for task.rank in (0, 1):
        next(task.batches(1))
        model = Recorder()
        shares.append(float(task.loss(model, batch)))
        assert model.log[-1] == ("show", list(range(20)))
    assert sum(shares) / 2 == pytest.approx(whole)


@pytest.mark.parametrize("window", [None, 10])
def test_order_of_labels(window: int | None) -> None:
    """An epoch begins with nothing seen; a batch is asked, then shown; the test leaves the state after validation."""
    stream = random_stream(2)
    size = {"window": window} if window else {"batch_size": 9}
    task = TemporalNodeClassificationTask(stream, EventSplit.make(stream), **size)
    model = Recorder()
    result = train(model, task, 2)
    assert set(result.best) == {"AUC", "AP"}
    shown = [ids for kind, ids in model.log if kind == "show"]
    epochs = "".join(kind[0] for kind, _ in model.log)
    assert set(epochs[::2]) == {"a"}
    assert set(epochs[1::2]) == {"s"}
    assert sum(ids[0] == 0 for ids in shown) == 2
    assert int(model.next_event) == task.split.valid_stop
    first = shown[: 1 + next(i for i, ids in enumerate(shown) if ids[-1] == EVENTS - 1)]
    assert list(chain(*first)) == list(range(EVENTS))
    state = model.snapshot()
    before = task.evaluate(model, "test")
    for name, value in model.snapshot().items():
        assert torch.equal(value, state[name])
    # From nothing, and in another mode: the same.
    model.reset_state()
    model.train()
    assert task.evaluate(model, "test") == before
    assert model.training


def test_new_nodes_are_shown_before_the_test() -> None:
    stream = random_stream(3)
    split = EventSplit.make(stream, new_nodes=0.2, seed=1)
    task = TemporalNodeClassificationTask(stream, split, batch_size=9)
    model = Recorder()
    task.evaluate(model, "valid")
    assert model.shown() == [*split.train.tolist(), *split.valid.tolist()]
    model.log.clear()
    task.evaluate(model, "test")
    assert model.shown() == [*range(split.valid_stop), *split.test.tolist()]


def changed(stream: EventStream, chosen: Tensor) -> EventStream:
    """Other destinations, messages and labels for the chosen events; sources and times stay, being what is asked."""
    dst = torch.where(chosen, (stream.dst - 5 + 1) % 10 + 5, stream.dst)
    return EventStream(
        stream.src, dst, stream.t, torch.where(chosen[:, None], -3 * stream.msg, stream.msg), 1 - stream.y, NODES
    )


@pytest.mark.parametrize("window", [None, 10])
def test_no_label_is_predicted_from_its_own_batch_or_from_labels(window: int | None) -> None:
    stream = random_stream(4)
    size = {"window": window} if window else {"batch_size": 9}
    task = TemporalNodeClassificationTask(stream, EventSplit.make(stream), **size)
    encoder = MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, num_neighbors=3)
    model = TemporalNodeClassifier(encoder, 6, 2).eval()
    batches = list(task._loader(range(EVENTS)))
    for place in (3, len(batches) - 2):
        chosen = torch.zeros(EVENTS, dtype=torch.bool)
        chosen[batches[place].e_id[0] :] = True
        logits = []
        for data in (stream, changed(stream, chosen)):
            other = TemporalNodeClassificationTask(data, task.split, **size)
            model.reset_state()
            with torch.no_grad():
                logits.append(other._run(model, range(EVENTS))[0])
        stop = int(batches[place].e_id[-1]) + 1
        assert torch.equal(logits[0][:stop], logits[1][:stop])
        assert not torch.equal(logits[0][stop:], logits[1][stop:])


def test_a_head_learns_from_what_was_seen() -> None:
    """The label is whether the source's last destination was even; the frozen encoder's weights stay."""
    seed_everything(0)
    draw = torch.Generator().manual_seed(5)
    src, dst = torch.arange(300) % 5, torch.randint(5, NODES, (300,), generator=draw)
    msg = (dst % 2 * 2 - 1).float()[:, None]
    last, y = defaultdict(int), []
    for u, v in zip(src.tolist(), dst.tolist(), strict=True):
        y.append(last[u])
        last[u] = v % 2
    stream = EventStream(src, dst, torch.arange(300), msg, torch.tensor(y), NODES)
    task = TemporalNodeClassificationTask(stream, EventSplit.make(stream), batch_size=5)
    encoder = MemoryDGNN(NODES, 1, "tgn", 8, 4, 8, num_neighbors=2)
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    model = TemporalNodeClassifier(encoder, 8, 2, dropout=0.0, freeze=True)
    assert train(model, task, 5).test("AUC") > 95
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())
    assert all(p.grad is None for p in encoder.parameters())


def test_a_run_of_labels_resumes(tmp_path) -> None:
    stream = random_stream(6)
    task = TemporalNodeClassificationTask(stream, EventSplit.make(stream), batch_size=20)

    def model() -> TemporalNodeClassifier:
        seed_everything(0)
        return TemporalNodeClassifier(MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, num_neighbors=3), 6, 2)

    whole, parts = model(), model()
    want = train(whole, task, 4)
    train(model(), task, 2, folder=tmp_path)
    got = train(parts, task, 4, folder=tmp_path, resume=True)
    assert got.best == want.best
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_wrong_tasks_of_labels() -> None:
    stream = random_stream(7)
    split = EventSplit.make(stream)
    make = TemporalNodeClassificationTask
    bare = EventStream(stream.src, stream.dst, stream.t)
    with pytest.raises(ValueError, match="must hold one class number an event"):
        make(bare, split)
    with pytest.raises(ValueError, match="class numbers from 0 on, two at least"):
        make(EventStream(stream.src, stream.dst, stream.t, y=0 * stream.y), split)
    with pytest.raises(ValueError, match="use_msg=True, but the stream has no messages"):
        make(EventStream(stream.src, stream.dst, stream.t, y=stream.y), split, use_msg=True)
    late = stream.y.clone()
    late[split.valid_stop :] = 0
    with pytest.raises(ValueError, match=r"all events of the test part have label \[0\]"):
        make(EventStream(stream.src, stream.dst, stream.t, y=late), split)
    with pytest.raises(ValueError, match="give batch_size or window, not both"):
        make(stream, split, 3, 3)
    task = make(stream, split)
    with pytest.raises(TypeError, match=r"model must be a graphkit\.nn.TemporalNodeModel"):
        task.evaluate(nn.Linear(2, 2), "valid")
    with pytest.raises(ValueError, match="split must be one of valid, test"):
        task.evaluate(Recorder(), "train")
    with pytest.raises(ValueError, match=r"must return logits \[\d+, 2\]"):
        task.evaluate(Recorder(3), "valid")
    broken = Recorder()
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match=r"logits of \d+ valid events are not finite"):
        task.evaluate(broken, "valid")


# Gain of a ranking ----------------------------------------------------------------------------------------------------


def rankings(seed: int, ties: bool) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    score = torch.randn(40, 14, generator=draw)
    if ties:
        score = score.round()
    gain = torch.rand(40, 14, generator=draw) * (torch.rand(40, 14, generator=draw) < 0.3)
    gain[0] = 0
    score[1] = 0
    return score, gain


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 14, 100])
def test_gain_is_scikit_learns(k: int, ties: bool) -> None:
    score, gain = rankings(k, ties)
    want = [ndcg_score(y[None].numpy(), s[None].numpy(), k=k) for s, y in zip(score, gain, strict=True)]
    assert ndcg_at_k(score, gain, k).tolist() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_gain_is_the_benchmarks(ties: bool) -> None:
    module = pytest.importorskip("tgb.nodeproppred.evaluate", reason="py-tgb is not installed")
    score, gain = rankings(0, ties)
    want = module.Evaluator("tgbn-trade").eval({"y_true": gain, "y_pred": score, "eval_metric": ["ndcg"]})
    assert float(ndcg_at_k(score, gain, 10).mean()) == pytest.approx(want["ndcg"], abs=1e-6)


def test_gain_of_wrong_input() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ndcg_at_k(torch.zeros(2, 3), torch.zeros(2, 4), 10)
    with pytest.raises(ValueError, match="k must be"):
        ndcg_at_k(torch.zeros(2, 3), torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match="must not be negative"):
        ndcg_at_k(torch.zeros(2, 3), -torch.ones(2, 3), 10)


# Targets --------------------------------------------------------------------------------------------------------------


def counted(stream: EventStream, window: int) -> dict[tuple[int, int], dict[int, float]]:
    """Shares by destination of each (window, source)."""
    found: dict[tuple[int, int], Counter] = defaultdict(Counter)
    for u, v, t in zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), strict=True):
        found[t // window * window, u][v] += 1
    first, last = (int(t) // window * window for t in (stream.t[0], stream.t[-1]))
    return {
        key: {v: n / sum(count.values()) for v, n in count.items()}
        for key, count in sorted(found.items())
        if first < key[0] < last
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0, 2**40]))
def test_targets_are_counts(seed: int, window: int, shift: int) -> None:
    stream = random_stream(seed)
    stream = EventStream(stream.src, stream.dst, stream.t + shift, num_nodes=NODES)
    want = counted(stream, window)
    if not want:
        with pytest.raises(ValueError, match="no whole window"):
            node_property_targets(stream, window)
        return
    targets = node_property_targets(stream, window)
    assert list(zip(targets.t.tolist(), targets.n_id.tolist(), strict=True)) == list(want)
    y = targets.rows(0, len(targets))
    names = stream.destinations.tolist()
    for row, shares in zip(y.tolist(), want.values(), strict=True):
        assert {names[c]: v for c, v in enumerate(row) if v} == pytest.approx(shares)
    dense = NodePropertyTargets(targets.n_id, targets.t, y, window)
    middle = len(targets) // 2
    assert torch.equal(dense.rows(middle, len(targets)), targets.rows(middle, len(targets)))
    assert targets.rows(middle, middle).shape == (0, len(names))


def test_wrong_targets() -> None:
    node, t, y = torch.tensor([0, 1, 0]), torch.tensor([5, 5, 9]), torch.eye(3)
    assert len(NodePropertyTargets(node, t, y, 4)) == 3
    with pytest.raises(ValueError, match=r"t must ascend \(got 5 after 9\)"):
        NodePropertyTargets(node, t.flip(0), y, 4)
    with pytest.raises(ValueError, match="node 0 has two at 5"):
        NodePropertyTargets(0 * node, t, y, 4)
    with pytest.raises(ValueError, match="not negative"):
        NodePropertyTargets(node, t, -y, 4)
    with pytest.raises(ValueError, match=r"shapes \[M\], \[M\] and \[M, C\]"):
        NodePropertyTargets(node, t, y[:2], 4)
    with pytest.raises(ValueError, match="window"):
        NodePropertyTargets(node, t, y, 0)
    with pytest.raises(TypeError, match="n_id must be an int64 tensor"):
        NodePropertyTargets(node.float(), t, y, 4)
    with pytest.raises(TypeError, match="stream must be"):
        node_property_targets(node, 3)


# Coming windows -------------------------------------------------------------------------------------------------------


def weekly(seed: int = 0, window: int = 5) -> tuple[EventStream, EventSplit, NodePropertyTargets]:
    stream = random_stream(seed)
    return stream, EventSplit.make(stream), node_property_targets(stream, window)


def test_parts_of_targets() -> None:
    """By brute force: all events of a window lie in its part."""
    stream, split, targets = weekly()
    task = TemporalNodePropertyTask(stream, split, targets)
    parts = dict(zip(("train", "valid", "test"), split.ranges, strict=True))
    times = targets.t.unique().tolist()
    for part, span in parts.items():
        asked = [
            i
            for i, t in enumerate(times)
            if all(e in span for e in range(EVENTS) if t <= int(stream.t[e]) < t + targets.window)
        ]
        assert list(task._moments[part]) == asked
    assert sum(len(moments) for moments in task._moments.values()) < len(times)
    assert task.num_batches() == len(task._moments["train"])
    assert task.epoch_size() == sum(task.size(b) for b in task.batches(1))


def test_order_of_targets() -> None:
    """Asked with exactly the events before, and the targets whose window is over; each shown once, in order."""
    stream, split, targets = weekly(1)
    task = TemporalNodePropertyTask(stream, split, targets, batch_size=4)
    model = Recorder(targets.num_classes)
    result = train(model, task, 2)
    assert set(result.best) == {"NDCG@10"}
    assert sum(ids[0] == 0 for kind, ids in model.log if kind == "show") == 2
    end = next(i for i, (_, ids) in enumerate(model.log) if i and ids == [0, 1, 2, 3])
    events, known, asked = [], [], []
    for kind, what in model.log[:end]:
        if kind == "show":
            events += what
        elif kind == "target":
            known.append(what[0])
        else:
            now = what[0]
            asked.append(now)
            assert set(what) == {now}
            assert events == [e for e in range(EVENTS) if int(stream.t[e]) < now]
            assert known == [t for t in targets.t.unique().tolist() if t + targets.window <= now]
    times = targets.t.unique().tolist()
    assert asked == [times[i] for moments in task._moments.values() for i in moments]
    state = model.snapshot()
    before = task.evaluate(model, "test")
    assert all(torch.equal(value, state[name]) for name, value in model.snapshot().items())
    model.reset_state()
    assert task.evaluate(model, "test") == before


@pytest.mark.parametrize("average", [1, 7])
def test_forecasts_are_the_benchmarks(average: int) -> None:
    """The baselines in plain Python: a moment is asked, and its targets are known at the next."""
    stream, split, targets = weekly(2)
    task = TemporalNodePropertyTask(stream, split, targets)
    model = PersistentForecast(NODES, targets.num_classes, average)
    forecast: dict[int, np.ndarray] = {}
    y, times = targets.rows(0, len(targets)).double().numpy(), targets.t.unique().tolist()
    found: dict[str, list[float]] = {"train": [], "valid": [], "test": []}
    for number, t in enumerate(times):
        rows = (targets.t == t).nonzero().view(-1).tolist()
        nodes = targets.n_id[rows].tolist()
        blank = np.zeros(targets.num_classes)
        score = ndcg_score(y[rows], np.stack([forecast.get(n, blank) for n in nodes]), k=10)
        for part, moments in task._moments.items():
            if number in moments:
                found[part].append(score)
        for row, n in zip(rows, nodes, strict=True):
            forecast[n] = ((average - 1) * forecast[n] + y[row]) / average if n in forecast else y[row]
    result = Trainer(0, device="cpu", progress=False).fit(model, task)
    assert result.best["NDCG@10"]["valid"] == pytest.approx(100 * np.mean(found["valid"]), abs=1e-4)
    assert result.best["NDCG@10"]["test"] == pytest.approx(100 * np.mean(found["test"]), abs=1e-4)


def test_loss_of_targets_and_gradients() -> None:
    stream, split, targets = weekly(3)
    task = TemporalNodePropertyTask(stream, split, targets)
    first = next(task.batches(1))
    n_id, _, y = task._targets(first)
    model = Recorder(targets.num_classes)
    loss = task.loss(model, first)
    seen = torch.bincount(stream.src[: int(model.next_event)], minlength=NODES)
    logit = model.weight.detach()[n_id] * (1 + seen[n_id, None])
    want = -(y * logit.log_softmax(1)).sum(1).mean()
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    encoder = MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, num_neighbors=3)
    head = TemporalNodeClassifier(encoder, 6, targets.num_classes)
    for batch in task.batches(1):
        last = task.loss(head, batch)
    last.backward()
    assert all(bool(p.grad.isfinite().all()) for p in encoder.encoder.parameters())
    assert any(bool((p.grad != 0).any()) for p in encoder.encoder.parameters())


def test_a_run_of_targets_resumes(tmp_path) -> None:
    stream, split, targets = weekly(4)
    task = TemporalNodePropertyTask(stream, split, targets)

    def model() -> TemporalNodeClassifier:
        seed_everything(0)
        return TemporalNodeClassifier(MemoryDGNN(NODES, 2, "jodie", 6, 6, 6), 6, targets.num_classes)

    want = train(model(), task, 4)
    train(model(), task, 2, folder=tmp_path)
    assert train(model(), task, 4, folder=tmp_path, resume=True).best == want.best


def test_wrong_tasks_of_targets() -> None:
    stream, split, targets = weekly(5)
    with pytest.raises(TypeError, match="targets must be NodePropertyTargets"):
        TemporalNodePropertyTask(stream, split, targets.y)
    with pytest.raises(ValueError, match="no new nodes"):
        TemporalNodePropertyTask(stream, EventSplit.make(stream, new_nodes=0.2), targets)
    with pytest.raises(ValueError, match="no target has its whole window in the valid part"):
        TemporalNodePropertyTask(stream, split, node_property_targets(stream, 25))
    late = NodePropertyTargets(targets.n_id + NODES, targets.t, targets.y, targets.window)
    with pytest.raises(IndexError, match=r"targets.n_id must be in \[0, 15\)"):
        TemporalNodePropertyTask(stream, split, late)


# Links by snapshots ---------------------------------------------------------------------------------------------------


class LinkRecorder(TemporalModel):
    """Scores by how often a pair was shown, and writes down what it is asked and shown."""

    def __init__(self) -> None:
        super().__init__(NODES)
        self.weight = nn.Parameter(torch.rand(NODES, NODES, generator=torch.Generator().manual_seed(1)))
        self.register_state("met", NODES, NODES)
        self.log: list[tuple[str, list[int]]] = []

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.log.append(("ask", t.tolist()))
        return self.met[src[:, None], dst] + self.weight[src[:, None], dst]

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.log.append(("show", t.tolist()))
        self.met.index_put_((src, dst), torch.ones(src.numel()), accumulate=True)
        super().update_state(src, dst, t, e_id, msg)


@pytest.mark.parametrize("window", [1, 7, 12])
def test_a_window_is_scored_before_any_of_it_is_shown(window: int) -> None:
    """Over training, validation and test, also where a border of the split cuts a window."""
    stream = random_stream(8)
    split = EventSplit.make(stream)
    task = TemporalLinkPredictionTask(stream, split, window=window)
    model = LinkRecorder()
    train(model, task)
    epoch, shown, asked = [], [], []
    for kind, t in model.log:
        windows = {time // window for time in t}
        assert len(windows) == 1
        if kind == "ask":
            asked += t
            assert not shown or max(shown) < min(windows)
        else:
            shown += windows
            epoch += t
    assert asked == epoch == stream.t.tolist()
    assert len(shown) == len(set(shown)) == len(set((stream.t // window).tolist()))
    assert task.num_batches() == len(set((stream.t[: task.split.train_stop] // window).tolist()))


@pytest.mark.parametrize("seed", [20, 22, 23])
def test_a_cut_window_belongs_to_the_earlier_part(seed: int) -> None:
    stream = random_stream(seed)
    split = EventSplit.make(stream)
    moved = TemporalLinkPredictionTask(stream, split, window=8).split
    for before, after in ((split.train_stop, moved.train_stop), (split.valid_stop, moved.valid_stop)):
        index = stream.t // 8
        assert after == int((index <= index[before - 1]).sum()) >= before
    assert moved.train_stop > split.train_stop
    with pytest.raises(ValueError, match="window=60 leaves no whole window for the test part"):
        TemporalLinkPredictionTask(stream, split, window=60)
    hidden = EventSplit.make(stream, new_nodes=0.2)
    part = TemporalLinkPredictionTask(stream, hidden, window=8).split
    assert bool(hidden.new_events[part.test].all())


def test_scores_do_not_depend_on_events_of_their_window() -> None:
    """Other destinations in a window change only what is asked after it."""
    stream, window = random_stream(10), 10
    model = MemoryDGNN(NODES, 2, "tgn", 6, 4, 6, num_neighbors=3)
    place = 6
    chosen = stream.t // window == place

    class Same:
        """The same candidates for both streams."""

        def draw(self, e_id: Tensor, epoch: int = 0) -> Tensor:
            return e_id[:, None] % 10 + 5

    found = []
    for data in (stream, changed(stream, chosen)):
        model.reset_state()
        found.append(TemporalLinkEvaluator("ap", Same(), window=window).scores(model, data)[1])
    before, after = stream.t // window <= place, stream.t // window > place
    # Not bit for bit, since the true destinations are embedded with the others.
    torch.testing.assert_close(found[0][before], found[1][before])
    assert float((found[0][after] - found[1][after]).abs().max()) > 1e-3


def test_metrics_of_windows_are_those_of_batches() -> None:
    """With one event a window, windows are batches of one."""
    stream = random_stream(11)
    stream = EventStream(stream.src, stream.dst, torch.arange(EVENTS), stream.msg, num_nodes=NODES)
    stored = StoredNegatives.make(stream, range(50, EVENTS), 5)
    for protocol, negatives in (("ap", None), ("mrr", stored)):
        by_window = TemporalLinkEvaluator(protocol, negatives, window=1).run(LinkRecorder(), stream, range(50, EVENTS))
        by_batch = TemporalLinkEvaluator(protocol, negatives, 1).run(LinkRecorder(), stream, range(50, EVENTS))
        assert by_window == by_batch
    assert repr(TemporalLinkEvaluator(window=3)) == "TemporalLinkEvaluator('ap', window=3)"


def test_wrong_windows() -> None:
    stream = random_stream(12)
    split = EventSplit.make(stream)
    with pytest.raises(ValueError, match="give batch_size or window, not both"):
        TemporalLinkEvaluator(batch_size=3, window=3)
    with pytest.raises(ValueError, match="window must be"):
        TemporalLinkEvaluator(window=0)
    with pytest.raises(ValueError, match=r"evaluator must have the task's window=5 \(got None\)"):
        TemporalLinkPredictionTask(stream, split, window=5, evaluator=TemporalLinkEvaluator())
    with pytest.raises(ValueError, match=r"final must have the task's window=None \(got 5\)"):
        TemporalLinkPredictionTask(stream, split, final=TemporalLinkEvaluator(window=5))
    model = LinkRecorder()
    index = (stream.t // 10 == 3).nonzero().view(-1)
    middle = int(index[1])
    TemporalLinkEvaluator().run(model, stream, range(middle))
    with pytest.raises(ValueError, match=f"the model has seen event {middle - 1}, which is in one window of 10"):
        TemporalLinkEvaluator(window=10).run(model, stream, range(middle, EVENTS))
