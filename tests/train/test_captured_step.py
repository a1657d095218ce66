"""A recorded training step trains as one that is run kernel by kernel does."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from graphkit.datasets import EventSplit, EventStream
from graphkit.nn import NAT, MemoryDGNN
from graphkit.train import TemporalLinkPredictionTask, Trainer
from graphkit.train.captured_step import CapturedStep, _parts
from graphkit.train.tasks.task import Task

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Pair(NamedTuple):
    x: Tensor
    y: Tensor | None = None


class Lines(Task):
    """Least squares, with a last batch of another size; ``_done`` counts the steps that Python saw."""

    monitor = "Error"
    lower_is_better = ("Error",)

    def __init__(self, batches: int = 6, batch=Pair) -> None:
        self.number, self.batch = batches, batch
        self.x = torch.randn(8 * batches - 3, 4, generator=torch.Generator().manual_seed(0))
        self._done = 0

    def num_batches(self):
        return self.number

    def batches(self, epoch):
        for x in self.x.split(8):
            yield self.batch(x, x.sum(1))

    def loss(self, model, batch):
        self._done += 1
        return (model(batch[0]).squeeze(1) - batch[1]).square().mean()

    def evaluate(self, model, split):
        with torch.no_grad():
            return {"Error": float((model(self.x).squeeze(1) - self.x.sum(1)).square().mean())}

    def to(self, device):
        self.x = self.x.to(device)
        return self


def train(task, model, capture, epochs=4, clip=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(epochs, device="cuda", progress=False, capture=capture, clip_grad_norm=clip)
    return trainer.fit(model, task, optimizer)


@needs_cuda
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_recorded_step_trains_the_same(clip):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    other = copy.deepcopy(model)
    plain, recorded = Lines(), Lines()
    first = train(plain, model, False, clip=clip)
    second = train(recorded, other, True, clip=clip)
    assert plain._done == 24
    # A first batch an epoch, the odd last one, three to warm up and one that is recorded; the others were replayed.
    assert recorded._done == 4 + 4 + 3 + 1
    for one, two in zip(first.history, second.history, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["valid/Error"] == pytest.approx(two["valid/Error"], rel=1e-4)


@needs_cuda
@pytest.mark.parametrize("make", [MemoryDGNN, NAT])
def test_a_recorded_step_writes_the_same_state(make):
    generator = torch.Generator().manual_seed(0)
    src, dst = torch.randint(30, (2, 900), generator=generator)
    stream = EventStream(src, dst, torch.arange(900), torch.randn(900, 2, generator=generator))
    torch.manual_seed(0)
    model = make(stream.num_nodes, msg_dim=2)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    other = copy.deepcopy(model)
    found = []
    for network, capture in ((model, False), (other, True)):
        task = TemporalLinkPredictionTask(stream, EventSplit.make(stream), batch_size=50)
        found.append(train(task, network, capture, epochs=3))
    first, second = (result.history[-1] for result in found)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-2)
    for (name, one), (_, two) in zip(model.named_state(), other.named_state(), strict=True):
        if not one.is_floating_point():
            assert torch.equal(one, two), name


@needs_cuda
def test_what_cannot_be_recorded_is_said():
    class Waits(Lines):
        def loss(self, model, batch):
            loss = super().loss(model, batch)
            return loss if float(loss) > -1 else -loss

    with pytest.raises(ValueError, match="cannot be recorded as a CUDA graph"):
        train(Waits(), nn.Linear(4, 1), True)
    torch.cuda.synchronize()
    # The device is as good as before.
    train(Lines(), nn.Linear(4, 1), True)


@needs_cuda
@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (Lines(2), {}, "capture needs three batches"),
        (Lines(batch=lambda x, y: (x, y, 7)), {}, "got one with int"),
        (Lines(), {"schedule": lambda epochs: 1.0}, "leave out schedule"),
        (Lines(), {"precision": "16-mixed"}, "cannot scale gradients"),
    ],
)
def test_what_a_recording_does_not_do(task, options, words):
    model = nn.Linear(4, 1)
    with pytest.raises(ValueError, match=words):
        Trainer(2, device="cuda", progress=False, capture=True, **options).fit(
            model, task, torch.optim.Adam(model.parameters())
        )


def test_capture_needs_a_gpu():
    with pytest.raises(ValueError, match=r"capture needs a CUDA device \(got cpu\)"):
        Trainer(2, device="cpu", capture=True)


def test_batches_share_a_recording_by_shape_and_type():
    def same(one, two):
        return _parts(one)[1] == _parts(two)[1]

    x = torch.zeros(3, 2)
    assert same(Pair(x), Pair(x + 1))
    assert same(Pair(x, x), Pair(x, x))
    assert not same(Pair(x), Pair(x, x))
    assert not same(Pair(x), Pair(x[:2]))
    assert not same(Pair(x), Pair(x.double()))
    assert not same(Pair(x, x), (x, x))
    with pytest.raises(ValueError, match=r"batches of tensors .*SimpleNamespace"):
        _parts(Pair(x, SimpleNamespace()))


def test_replayed_batches_reach_the_recording(monkeypatch):
    """With a stand-in for the graph: what is recorded reads the places that later batches are copied to."""

    class Graph:
        def replay(self):
            self.run()

    class Recording:
        def __init__(self, graph):
            graph.run = lambda: seen.append((places(), "replayed"))

        def __enter__(self): ...
        def __exit__(self, *error): ...

    class Stream:
        def wait_stream(self, other): ...
        def __enter__(self): ...
        def __exit__(self, *error): ...

    stand_ins = {"Stream": Stream, "current_stream": Stream, "CUDAGraph": Graph, "graph": Recording}
    for name, stand_in in (*stand_ins.items(), ("stream", lambda stream: stream)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    seen = []

    def step(batch):
        seen.append((batch.x.tolist(), "run"))
        return batch.x.sum()

    captured = CapturedStep(step)
    places = lambda: captured._places[0].tolist()  # noqa: E731
    for value in range(6):
        captured(Pair(torch.full((2,), float(value))))
    captured(Pair(torch.full((3,), 9.0)))
    assert seen == [
        *(([float(v)] * 2, "run") for v in range(4)),
        *(([float(v)] * 2, "replayed") for v in (3, 4, 5)),
        ([9.0] * 3, "run"),
    ]
