"""Every public model of event streams keeps its contract, and the contract suite catches models that do not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphkit.nn
from graphkit.nn import (
    NAT,
    CommonRecentNeighbors,
    EdgeBank,
    MemoryDGNN,
    Popularity,
    PredictCorrectFilter,
    Recency,
    StreamingModule,
    TemporalModel,
    TemporalNCN,
    TemporalNodeModel,
)
from graphkit.testing import TEMPORAL_CHECKS, check_temporal_model

Make = Callable[[int, int], TemporalModel]
ALL = {*TEMPORAL_CHECKS}


def features(num_nodes: int) -> Tensor:
    return torch.randn(num_nodes, 4, generator=torch.Generator().manual_seed(0))


def memory(kind: str, pres: dict[str, Any] | None = None, x: bool = False, **options: Any) -> Make:
    def make(num_nodes: int, msg_dim: int) -> MemoryDGNN:
        filter = None if pres is None else PredictCorrectFilter(num_nodes, 6, **pres)
        more = {"x": features(num_nodes)} if x else {}
        return MemoryDGNN(num_nodes, msg_dim, kind, 6, 4, 6, num_neighbors=3, pres=filter, **options, **more)

    return make


def nat(x: bool = False, **options: Any) -> Make:
    sizes = {"time_dim": 2, "self_dim": 6, "rep_dim": 3, "cache_sizes": (4, 3), "pos_dim": 4, "embed_dim": 5}

    def make(num_nodes: int, msg_dim: int) -> NAT:
        return NAT(num_nodes, msg_dim, features(num_nodes) if x else None, **{**sizes, **options})

    return make


def ncn(make: Make, **options: Any) -> Make:
    return lambda num_nodes, msg_dim: TemporalNCN(make(num_nodes, msg_dim), 6, 5, **options)


# Rules read neither messages nor times as such.
RULE = {"messages": False, "time_shift": True}
TABLE: dict[type, dict[str, tuple[Make, dict[str, Any]]]] = {
    MemoryDGNN: {
        "tgn": (memory("tgn"), {}),
        "tgn, mean, mlp": (memory("tgn", message="mlp", aggr="mean"), {}),
        "tgn, sum, features": (memory("tgn", embedding="sum", message="mlp", x=True), {}),
        "tgn, learned filter": (memory("tgn", {}), {}),
        "tgn, Kalman filter": (memory("tgn", {"gamma": "kalman", "horizon_cap": None}, aggr="mean"), {}),
        "jodie": (memory("jodie"), {}),
        # The mean is of time encodings without gradient, and nothing else reads them.
        "jodie, mean, filter": (memory("jodie", {"gamma": 0.5, "anchors": 1}, aggr="mean"), {"skip": ["gradients"]}),
        "dyrep": (memory("dyrep"), {}),
        "dyrep, filter": (memory("dyrep", {}), {}),
        "apan": (memory("apan"), {}),
        "apan, filter": (memory("apan", {"gamma": "kalman"}), {}),
    },
    NAT: {
        "attention": (nat(), {}),
        "sum, features": (nat(aggr="sum", x=True), {}),
        "attention, one hop": (nat(cache_sizes=(4,), replace_prob=0.5), {}),
        "sum, one hop": (nat(aggr="sum", cache_sizes=(4,), dropout=0.0), {}),
    },
    TemporalNCN: {
        "tgn, filter": (ncn(memory("tgn", {}), cache_sizes=(4,)), {}),
        "nat": (ncn(nat(), cache_sizes=(4, 3), replace_prob=0.5), {}),
    },
    EdgeBank: {
        "unlimited": (lambda num_nodes, _: EdgeBank(num_nodes), RULE),
        "window": (lambda num_nodes, _: EdgeBank(num_nodes, "window", 20), RULE),
        "repeat": (lambda num_nodes, _: EdgeBank(num_nodes, "repeat"), RULE),
    },
    # What a node without events scores is the time since the start.
    Recency: {"": (lambda num_nodes, _: Recency(num_nodes), {"messages": False})},
    Popularity: {"": (lambda num_nodes, _: Popularity(num_nodes), RULE)},
    CommonRecentNeighbors: {"": (lambda num_nodes, _: CommonRecentNeighbors(num_nodes, 3), RULE)},
}
ROWS = [
    pytest.param(cls, *row, id=f"{cls.__name__} {name}".strip())
    for cls, rows in TABLE.items()
    for name, row in rows.items()
]


def test_every_public_class_is_listed() -> None:
    """Models by name; what models are made of counts if a listed model has it."""
    public = {cls for name in graphkit.nn.__all__ if inspect.isclass(cls := getattr(graphkit.nn, name))}
    temporal = {cls for cls in public if cls.__module__.startswith("graphkit.nn.temporal")}
    used = {type(part) for rows in TABLE.values() for make, _ in rows.values() for part in make(6, 2).modules()}
    assert {cls for cls in public if issubclass(cls, TemporalModel)} == {TemporalModel, *TABLE}
    # Models of nodes are asked in another way, and have tests of their own.
    of_nodes = {cls for cls in temporal if issubclass(cls, TemporalNodeModel)}
    assert temporal - used - of_nodes == {StreamingModule, TemporalModel}


@pytest.mark.parametrize(("cls", "make", "options"), ROWS)
def test_contract(cls: type, make: Make, options: dict[str, Any]) -> None:
    assert type(make(6, 2)) is cls
    ran = check_temporal_model(make, strict_errors=True, **options)
    left_out = {*options.get("skip", ())}
    if not options.get("time_shift"):
        left_out |= {"time_shift"}
    if options.get("messages") is False:
        left_out |= {"wrong_width", "embed", "dtype", "gradients", "update_before_backward", "reset_parameters"}
    assert ran == [name for name in TEMPORAL_CHECKS if name not in left_out]


# The suite itself ----------------------------------------------------------------------------------------------------


class Sums(TemporalModel):
    """A correct model: sums of messages, projected when read. Each class below breaks one promise of it."""

    def __init__(self, num_nodes: int, msg_dim: int) -> None:
        super().__init__(num_nodes)
        self.msg_dim = msg_dim
        self.register_state("total", num_nodes, msg_dim + 1)
        self.register_state("last", num_nodes, fill=-1, dtype=torch.int64)
        self.linear = nn.Linear(msg_dim + 2, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def age(self, n_id: Tensor, t: Tensor) -> Tensor:
        return torch.cos(0.1 * (t - self.last[n_id]).double()).to(self.total.dtype)

    def read(self, n_id: Tensor, t: Tensor) -> Tensor:
        return self.linear(torch.cat([self.total[n_id], self.age(n_id, t)[..., None]], -1))

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t, msg)
        return (self.read(src, t)[:, None] * self.read(dst, t[:, None].expand_as(dst))).sum(-1)

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_nodes(n_id, t, msg)
        return self.read(n_id, t)

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id, msg)
        told = self.total.new_ones(len(src), 1)
        if msg is not None:
            told = torch.cat([told, msg[e_id].to(told.dtype)], 1)
        for ends in (src, dst):
            self.total = self.total.index_add(0, ends, told)
            self.last.scatter_reduce_(0, ends, t, "amax")
        super().update_state(src, dst, t, e_id, msg)


class Flat(Sums):
    def forward(self, src, dst, t, msg=None):
        return super().forward(src, dst, t, msg).flatten()


class Single(Sums):
    def forward(self, src, dst, t, msg=None):
        return super().forward(src, dst, t, msg).float()


class DividesByEvents(Sums):
    def read(self, n_id, t):
        return super().read(n_id, t) / self.total[n_id, :1]


class CentredEmbeddings(Sums):
    def embed(self, n_id, t, msg=None):
        z = super().embed(n_id, t, msg)
        return z - z.mean(0) if len(z) else z


class Softmax(Sums):
    """Normalised over the candidates."""

    def forward(self, src, dst, t, msg=None):
        return super().forward(src, dst, t, msg).softmax(1)


class BatchNormed(Sums):
    def forward(self, src, dst, t, msg=None):
        scores = super().forward(src, dst, t, msg)
        return scores - scores.mean() if scores.numel() else scores


class ReadsAhead(Sums):
    """Knows the messages of the events that come next."""

    def forward(self, src, dst, t, msg=None):
        scores = super().forward(src, dst, t, msg)
        if msg is None:
            return scores
        row = self.next_event.clamp(max=len(msg) - 1)
        return scores + msg.index_select(0, row[None])[0, 0].to(scores.dtype)


class ReadsAllMessages(Sums):
    def forward(self, src, dst, t, msg=None):
        scores = super().forward(src, dst, t, msg)
        return scores if msg is None else scores + msg.to(scores.dtype).mean()


class Forgetful(Sums):
    """Shown events change nothing."""

    def read(self, n_id, t):
        return self.linear(
            torch.cat([torch.zeros_like(self.total[n_id]), torch.cos(t.to(self.total.dtype))[..., None]], -1)
        )


class IgnoresMessages(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, None if msg is None else torch.zeros_like(msg))


class RemembersQuestions(Sums):
    """forward counts the sources in its state."""

    def forward(self, src, dst, t, msg=None):
        scores = super().forward(src, dst, t, msg)
        with torch.no_grad():
            self.total[src, 0] += 1
        return scores


class RemembersInTraining(RemembersQuestions):
    def forward(self, src, dst, t, msg=None):
        return (super().forward if self.training else super(RemembersQuestions, self).forward)(src, dst, t, msg)


class HidesQuestions(Sums):
    """forward notes what it was asked outside of the state, and update_state uses it."""

    asked = 0

    def forward(self, src, dst, t, msg=None):
        self.asked = int(dst.sum())
        return super().forward(src, dst, t, msg)

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        self.total[0, 0] += self.asked


class CountsBatches(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        self.total[:, 0] += 1


class Spread(Sums):
    """The deviation of one event is NaN."""

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        if len(src):
            self.total[src, 0] += t.double().std().to(self.total.dtype)


class BusyNodeBreaks(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        if len(src) > 1:
            self.total /= (src != src[:1]).any() & (dst != dst[:1]).any()


class NoLoops(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        if len(src) > 1 and bool((src == dst).all()):
            self.total.fill_(torch.nan)


class NeedsThree(Sums):
    def forward(self, src, dst, t, msg=None):
        return super().forward(src, dst, t, msg) + 0 * self.total[2, 0]


class NeedsMessages(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg[:])


class ZeroIsNever(Sums):
    """Reads time 0 as no event."""

    def read(self, n_id, t):
        seen = self.last[n_id] > 0
        return torch.where(seen[..., None], super().read(n_id, t), 0)


class FloatTimes(Sums):
    def age(self, n_id, t):
        return torch.cos(0.1 * (t.float() - self.last[n_id].float())).to(self.total.dtype)


class AbsoluteTimes(Sums):
    def age(self, n_id, t):
        return torch.cos(0.1 * t.double()).to(self.total.dtype)


class OwnGenerator(Sums):
    """Draws from a source that the seed does not reach."""

    source = torch.Generator().manual_seed(0)

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        self.total[src, 0] += torch.rand(1, generator=self.source).to(self.total.dtype)


class WritesInput(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        e_id += 0


class KeepsAfterReset(Sums):
    """State in a buffer that reset_state does not know."""

    def __init__(self, num_nodes, msg_dim):
        super().__init__(num_nodes, msg_dim)
        self.register_buffer("seen", torch.zeros(num_nodes))

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        self.seen[src] = 1

    def read(self, n_id, t):
        return super().read(n_id, t) + self.seen[n_id][..., None]


class SharedSnapshot(Sums):
    def snapshot(self):
        return dict(self.named_state())

    def update_state(self, src, dst, t, e_id, msg=None):
        before = self.total
        super().update_state(src, dst, t, e_id, msg)
        self.total = before.copy_(self.total)


class NotInCheckpoint(Sums):
    def __init__(self, num_nodes, msg_dim):
        super().__init__(num_nodes, msg_dim)
        self.register_buffer("total", self.total, persistent=False)


class HoldsLambda(Sums):
    def __init__(self, num_nodes, msg_dim):
        super().__init__(num_nodes, msg_dim)
        self.act = lambda x: x


class KeepsGraph(Sums):
    """A tensor of the last forward cannot be copied."""

    def forward(self, src, dst, t, msg=None):
        self.kept = super().forward(src, dst, t, msg)
        return self.kept

    def detach_state(self):
        super().detach_state()
        self.kept = None


class SharedCopies(Sums):
    def __deepcopy__(self, memo):
        return self


class PlainTensor(Sums):
    def __init__(self, num_nodes, msg_dim):
        super().__init__(num_nodes, msg_dim)
        self.shift = torch.ones(1)


class Unused(Sums):
    def __init__(self, num_nodes, msg_dim):
        super().__init__(num_nodes, msg_dim)
        self.other = nn.Linear(2, 2)


class StateWithGraph(Sums):
    """The state is made of parameters with gradient, so that a step would reach back into the one before."""

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg)
        with torch.enable_grad():
            self.total = self.total + 0.1 * self.linear.bias.sum()


class WritesInPlace(Sums):
    """backward needs the buffer that update_state changes."""

    def read(self, n_id, t):
        return super().read(n_id, t) + (self.linear.bias[0] * self.total[:, 0]).sum()

    def update_state(self, src, dst, t, e_id, msg=None):
        before = self.total
        super().update_state(src, dst, t, e_id, msg)
        self.total = before.copy_(self.total)


class ForgetsBias(Sums):
    def reset_parameters(self):
        nn.init.ones_(self.linear.weight)


class Mute(Sums):
    def __repr__(self):
        return "Mute"


class Wraps(Sums):
    """Ids count from the end, as PyTorch's indexing has it."""

    def _check_ids(self, ids, name):
        if ids.numel() and int(ids.max()) >= self.num_nodes:
            raise IndexError


class AnyDtype(Sums):
    def forward(self, src, dst, t, msg=None):
        return super().forward(src, dst, t.long(), msg)


class AnyWidth(Sums):
    def _check_msg(self, msg):
        pass

    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t, e_id, msg if msg is None else msg[:, : self.msg_dim])


class AnyShape(Sums):
    def forward(self, src, dst, t, msg=None):
        least = min(len(src), len(dst), len(t))
        return super().forward(src[:least], dst[:least], t[:least], msg)


class AnyOrder(Sums):
    def update_state(self, src, dst, t, e_id, msg=None):
        super().update_state(src, dst, t.sort().values.clamp(min=int(self.last_time)), e_id, msg)


class HalfUpdated(Sums):
    """Has begun before it finds the mistake."""

    def update_state(self, src, dst, t, e_id, msg=None):
        if len(src):
            self.total[0, 0] += 1
        super().update_state(src, dst, t, e_id, msg)


def test_the_correct_model_passes() -> None:
    assert {*check_temporal_model(Sums, strict_errors=True)} == ALL - {"time_shift"}
    assert "messages" in check_temporal_model(Sums, 6, 1, seed=1)


CAUGHT: list[tuple[str, type[Sums], dict[str, Any]]] = [
    ("shape", Flat, {}),
    ("dtype", Single, {}),
    ("shape", DividesByEvents, {}),
    ("unseen_nodes", DividesByEvents, {"only": True}),
    ("embed", CentredEmbeddings, {}),
    ("candidates", Softmax, {}),
    ("queries", BatchNormed, {"skip": ("candidates",)}),
    ("batch_stays_hidden", ReadsAhead, {}),
    ("batch_stays_hidden", ReadsAllMessages, {}),
    ("batch_stays_hidden", BatchNormed, {"only": True}),
    ("shown_events", Forgetful, {}),
    ("messages", IgnoresMessages, {}),
    ("messages", Sums, {"messages": False}),
    ("forward_keeps_state", RemembersQuestions, {"only": True}),
    ("forward_keeps_state", RemembersInTraining, {}),
    ("negatives_leave_no_trace", RemembersQuestions, {"only": True}),
    ("negatives_leave_no_trace", HidesQuestions, {}),
    ("empty_batch", CountsBatches, {}),
    ("one_event", Spread, {}),
    ("one_busy_node", BusyNodeBreaks, {"only": True}),
    ("self_loops", NoLoops, {}),
    ("few_nodes", NeedsThree, {}),
    ("no_messages", NeedsMessages, {}),
    ("time_zero", ZeroIsNever, {}),
    ("large_times", FloatTimes, {}),
    ("time_shift", AbsoluteTimes, {"time_shift": True}),
    ("deterministic", OwnGenerator, {"only": True}),
    ("inputs_unchanged", WritesInput, {}),
    ("reset_state", KeepsAfterReset, {}),
    ("snapshot", KeepsAfterReset, {"only": True}),
    ("snapshot", SharedSnapshot, {}),
    ("state_dict", NotInCheckpoint, {"skip": ("snapshot",)}),
    ("snapshot", NotInCheckpoint, {}),
    ("pickle", HoldsLambda, {}),
    ("deepcopy", SharedCopies, {}),
    ("deepcopy", KeepsGraph, {"only": True}),
    ("device", PlainTensor, {}),
    ("gradients", Unused, {}),
    ("gradients", StateWithGraph, {"only": True}),
    ("update_before_backward", WritesInPlace, {"only": True}),
    ("reset_parameters", ForgetsBias, {"only": True}),
    ("repr", Mute, {}),
    ("wrong_ids", Wraps, {}),
    ("wrong_ids", HalfUpdated, {"strict_errors": True}),
    ("wrong_dtype", AnyDtype, {}),
    ("wrong_shape", AnyShape, {}),
    ("wrong_width", AnyWidth, {}),
    ("unsorted", AnyOrder, {}),
]


@pytest.mark.parametrize(("check", "model", "options"), CAUGHT, ids=[f"{c}-{cls.__name__}" for c, cls, _ in CAUGHT])
def test_a_broken_model_is_caught(check: str, model: type[Sums], options: dict[str, Any]) -> None:
    options = dict(options)
    if options.pop("only", False):  # it also breaks others, which come first
        options["skip"] = tuple(ALL - {check})
    with pytest.raises(AssertionError, match=rf"^{model.__name__} fails the check '{check}': .+"):
        check_temporal_model(model, **options)


def test_every_check_can_fail() -> None:
    assert {check for check, _, _ in CAUGHT} == ALL


def test_models_without_embeddings() -> None:
    assert "embed" not in check_temporal_model(lambda n, _: Popularity(n), messages=False, skip=ALL - {"embed", "repr"})


def test_random_numbers_of_the_caller_go_on() -> None:
    state = torch.get_rng_state()
    check_temporal_model(Sums, skip=ALL - {"shape", "deterministic"})
    assert torch.equal(state, torch.get_rng_state())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"candidates.*got typo"):
        check_temporal_model(Sums, skip=("typo",))
    with pytest.raises(ValueError, match="num_nodes must be in"):
        check_temporal_model(Sums, 3)
    with pytest.raises(ValueError, match="msg_dim must be in"):
        check_temporal_model(Sums, 12, 0)


def test_the_message_tells_how_far_off() -> None:
    with pytest.raises(AssertionError, match=r"off by \d\S* \(allowed 1e-09\) when the events to be scored"):
        check_temporal_model(ReadsAhead)
