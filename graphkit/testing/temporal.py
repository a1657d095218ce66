"""A contract suite for models of event streams."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.testing.suite import (
    Suite,
    Violation,
    check_names,
    fail,
    own_random_numbers,
    refuse_hidden_tensors,
    same,
    scrambled,
)
from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream

#: What :func:`check_temporal_model` checks, in this order.
TEMPORAL_CHECKS = (
    "shape",
    "dtype",
    "unseen_nodes",
    "embed",
    "candidates",
    "queries",
    "batch_stays_hidden",
    "shown_events",
    "messages",
    "forward_keeps_state",
    "negatives_leave_no_trace",
    "empty_batch",
    "one_event",
    "one_busy_node",
    "self_loops",
    "few_nodes",
    "no_messages",
    "time_zero",
    "large_times",
    "time_shift",
    "deterministic",
    "inputs_unchanged",
    "reset_state",
    "snapshot",
    "state_dict",
    "pickle",
    "deepcopy",
    "device",
    "gradients",
    "update_before_backward",
    "reset_parameters",
    "repr",
    "wrong_ids",
    "wrong_dtype",
    "wrong_shape",
    "wrong_width",
    "unsorted",
)
_BATCH = 10
_LATE = 1 << 40


def check_temporal_model(
    make: Callable[[int, int], Any],
    num_nodes: int = 12,
    msg_dim: int = 3,
    *,
    messages: bool = True,
    time_shift: bool = False,
    strict_errors: bool = False,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Check a model of event streams, a :class:`graphkit.nn.TemporalModel`, on small ones. Takes about a second.

    ============================ =======================================================================================
    check                        what must hold
    ============================ =======================================================================================
    shape, dtype                 finite ``[B, C]``, also for no queries or candidates; double and single precision agree
    unseen_nodes, embed          finite for nodes without events; embeddings do not depend on each other
    candidates, queries          a score does not depend on the other candidates or queries, nor on their order
    batch_stays_hidden           the events to be scored, their messages and all later ones change no score when they
                                 are replaced, permuted or duplicated
    shown_events, messages       once shown they do change scores; messages change nothing with ``messages=False``
    forward_keeps_state          ``forward`` and ``embed`` leave the state bit for bit, in training mode too
    negatives_leave_no_trace     what was asked makes no difference to what comes later
    empty_batch, one_event,      nothing happens without events; finite scores after the others; a model can have
    one_busy_node, self_loops,   one or two nodes, or no messages
    few_nodes, no_messages
    time_zero, large_times       an event at time 0 counts; one unit of time counts as much after 2^40 as after 0
    time_shift                   the same scores if all times are shifted, with ``time_shift=True``
    deterministic                the same seed gives the same weights, states and scores
    inputs_unchanged             no input is written to
    reset_state                  a model that was reset is like a new one with its weights
    snapshot                     goes back exactly, also twice; is a copy
    state_dict, pickle, deepcopy a round trip goes on with the same scores and shares no memory
    device                       no tensor or module is hidden from ``.to(device)``; a GPU, if any, gives the same
    gradients                    every parameter gets a finite one within a few steps; no state carries one
    update_before_backward       ``update_state`` before ``backward`` gives the gradients that it gives after it
    reset_parameters             draws every parameter anew
    repr                         names the class and the number of nodes
    wrong_ids, wrong_dtype,      an error, and the state as it was
    wrong_shape, wrong_width,
    unsorted
    ============================ =======================================================================================

    A model without parameters passes dtype, gradients, update_before_backward and reset_parameters by default, and one
    whose ``embed`` raises NotImplementedError passes embed.

    Args:
        make: ``make(num_nodes, msg_dim)`` makes a model.
        num_nodes: nodes of the streams.
        msg_dim: width of their messages.
        messages: the model reads messages.
        time_shift: the model promises to read nothing of times but their differences.
        strict_errors: wrong input must raise a ``ValueError``, ``TypeError`` or ``IndexError`` that tells what was got.
        skip: checks to leave out, for promises that the model does not make.
        seed: seed of the streams and weights.

    Returns:
        The names of the checks that ran.

    Raises:
        AssertionError: a check failed; the message names it.
        ValueError: an unknown name in ``skip``, or a stream too small to tell anything.

    Example:
        >>> from graphkit.nn import Popularity
        >>> "candidates" in check_temporal_model(lambda num_nodes, msg_dim: Popularity(num_nodes), messages=False)
        True
    """
    check_int(num_nodes, "num_nodes", 6)
    check_int(msg_dim, "msg_dim", 1)
    skipped = {*skip}
    check_names(skipped, TEMPORAL_CHECKS)
    suite = _StreamContract(make, num_nodes, msg_dim, messages, strict_errors, seed)
    skipped |= set() if time_shift else {"time_shift"}
    skipped |= set() if messages else {"wrong_width"}
    if not any(True for _ in suite.make().parameters()):
        skipped |= {"dtype", "gradients", "update_before_backward", "reset_parameters"}
    if not suite.embeds():
        skipped |= {"embed"}
    return suite.run([name for name in TEMPORAL_CHECKS if name not in skipped])


@dataclass(frozen=True)
class _Events:
    """A stream: columns ``[E]`` and the messages of all events, also of those to come."""

    src: Tensor
    dst: Tensor
    t: Tensor
    e_id: Tensor
    msg: Tensor | None

    def __len__(self) -> int:
        return self.src.numel()

    def __getitem__(self, part: slice) -> _Events:
        return _Events(self.src[part], self.dst[part], self.t[part], self.e_id[part], self.msg)

    def batches(self, size: int = _BATCH) -> Iterator[_Events]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def later(self, by: int) -> _Events:
        return replace(self, t=self.t + by)


class _StreamContract(Suite):
    def __init__(
        self, factory: Callable[[int, int], Any], nodes: int, msg_dim: int, messages: bool, strict: bool, seed: int
    ) -> None:
        self.factory, self.nodes, self.msg_dim = factory, nodes, msg_dim
        self.messages, self.strict, self.seed = messages, strict, seed
        self.name = type(self.make()).__name__

    # What the checks share --------------------------------------------------------------------------------------------

    def make(
        self, seed: int | None = None, dtype: torch.dtype = torch.float64, nodes: int = 0, msg_dim: int | None = None
    ) -> Any:
        with own_random_numbers():
            torch.manual_seed(self.seed if seed is None else seed)
            model = self.factory(nodes or self.nodes, self.msg_dim if msg_dim is None else msg_dim)
        return model.to(dtype).eval()

    def events(self, number: int = 60, key: int = 0, nodes: int = 0, msg_dim: int | None = None) -> _Events:
        """Events of all but the last two nodes, with ties, repetitions and self-loops, the first ones at time 0."""
        draw = stream(self.seed, key)
        met = max((nodes or self.nodes) - 2, 1)
        src, dst = torch.randint(met, (2, number), generator=draw)
        dst[4::9] = src[4::9]
        gaps = torch.randint(4, (number,), generator=draw)
        gaps[:3] = 0
        width = self.msg_dim if msg_dim is None else msg_dim
        msg = torch.randn(number, width, generator=draw) if width else None
        return _Events(src, dst, gaps.cumsum(0), torch.arange(number), msg)

    def show(self, model: Any, events: _Events, size: int = _BATCH) -> Any:
        for batch in events.batches(size):
            model.update_state(batch.src, batch.dst, batch.t, batch.e_id, batch.msg)
        return model

    def shown(self, **options: Any) -> tuple[Any, _Events]:
        """A model that has seen the first half of a stream, and the stream."""
        events = self.events()
        return self.show(self.make(**options), events[: self.half]), events

    half = 30

    def after(self, events: _Events, number: int | None = None) -> int:
        """A time soon after the first ``number`` events."""
        return int(events.t[(len(events) if number is None else number) - 1]) + 2

    def score(self, model: Any, *query: Any) -> Tensor:
        """``model(src, dst, t, msg)``."""
        dst, out = query[1], model(*query)
        if not isinstance(out, Tensor):
            fail(f"the scores must be a tensor (got {type(out).__name__})")
        if out.shape != dst.shape:
            fail(f"the scores must have shape {list(dst.shape)}, that of the candidates (got {list(out.shape)})")
        return out

    @torch.no_grad()
    def pairs(self, model: Any, t: int, msg: Tensor | None, nodes: int = 0) -> Tensor:
        """Scores of all pairs of nodes at ``t``."""
        every = torch.arange(nodes or self.nodes)
        dst = every.repeat(every.numel(), 1)
        return self.score(model, every, dst, torch.full_like(every, t), msg)

    def finite(self, scores: Tensor, where: str) -> Tensor:
        bad = int((~torch.isfinite(scores)).sum())
        if bad:
            fail(f"{bad} of {scores.numel()} scores are not finite {where}")
        return scores

    def queries(self, events: _Events, first: int, number: int = 8, key: int = 9) -> tuple[Tensor, Tensor, Tensor]:
        """The true destination and some others of the events from ``first`` on."""
        part = events[first : first + number]
        others = torch.randint(self.nodes, (number, 4), generator=stream(self.seed, key))
        return part.src, torch.cat([part.dst[:, None], others], 1), part.t

    @staticmethod
    def state(model: Any) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    @staticmethod
    def unchanged(model: Any, before: dict[str, Tensor], by: str) -> None:
        now = model.state_dict()
        if now.keys() != before.keys():
            fail(f"state_dict has other names {by}")
        for name, value in now.items():
            if value.shape != before[name].shape or not _identical(value, before[name]):
                fail(f"'{name}' changed {by}")

    def exactly(self, got: Tensor, want: Tensor, when: str) -> None:
        if got.shape != want.shape or not _identical(got, want):
            same(got, want, when)
            fail(f"the scores differ in their last bits {when}")

    def goes_on(self, model: Any, other: Any, when: str) -> None:
        """The same scores now and after the rest of the stream; ``model`` must not notice what ``other`` sees."""
        events = self.events()
        rest, now, end = events[self.half :], self.after(events, self.half), self.after(events)
        want = self.pairs(model, now, events.msg)
        self.exactly(self.pairs(other, now, events.msg), want, when)
        late = self.pairs(self.show(other, rest), end, events.msg)
        self.exactly(self.pairs(model, now, events.msg), want, f"when the other one was shown more events {when}")
        self.exactly(self.pairs(self.show(model, rest), end, events.msg), late, f"and more events {when}")

    def loss(self, model: Any, batch: _Events) -> Tensor:
        """What a training step minimises."""
        others = torch.randint(self.nodes, (len(batch), 3), generator=stream(self.seed, 5, int(batch.e_id[0])))
        scores = self.score(model, batch.src, torch.cat([batch.dst[:, None], others], 1), batch.t, batch.msg)
        loss = F.softplus(-scores[:, 0]).mean() + F.softplus(scores[:, 1:]).mean()
        extra = model.auxiliary_loss()
        return loss if extra is None else loss + extra

    # Scores -----------------------------------------------------------------------------------------------------------

    def check_shape(self) -> None:
        for training in (False, True):
            model, events = self.shown(dtype=torch.float32)
            model.train(training)
            src, dst, t = self.queries(events, self.half)
            for rows, columns in ((8, 5), (8, 1), (1, 5), (0, 5), (8, 0)):
                scores = self.score(model, src[:rows], dst[:rows, :columns], t[:rows], events.msg)
                self.finite(scores, "in training mode" if training else "in eval mode")

    def check_dtype(self) -> None:
        found = []
        for dtype in (torch.float32, torch.float64):
            model, events = self.shown(dtype=dtype)
            found.append(self.pairs(model, self.after(events, self.half), events.msg))
            if found[-1].dtype != dtype:
                fail(f"the scores are {found[-1].dtype} for {dtype} weights")
        gap = float((found[0] - found[1]).abs().max())
        if not gap <= 1e-3 * max(1.0, float(found[1].abs().max())):
            fail(f"single and double precision differ by {gap:.2g}")

    def check_unseen_nodes(self) -> None:
        events = self.events()
        self.finite(self.pairs(self.make(), 0, events.msg), "before the first event, at time 0")
        self.finite(self.pairs(self.make(), 7, events.msg), "before the first event")
        model = self.show(self.make(), events)
        self.finite(self.pairs(model, self.after(events), events.msg), "with nodes that have no event")

    def embeds(self) -> bool:
        none = torch.zeros(1, dtype=torch.int64)
        try:
            self.make().embed(none, none, self.events().msg)
        except NotImplementedError:
            return False
        except Exception:
            return True  # the check will tell
        return True

    @torch.no_grad()
    def check_embed(self) -> None:
        model, events = self.shown()
        n_id = torch.arange(self.nodes).repeat(2)
        t = torch.arange(n_id.numel()) % 3 + self.after(events, self.half)
        z = model.embed(n_id, t, events.msg)
        if z.dim() != 2 or z.size(0) != n_id.numel():
            fail(f"embeddings must have shape [{n_id.numel()}, out] (got {list(z.shape)})")
        self.finite(z, "of embeddings")
        order = torch.randperm(n_id.numel(), generator=stream(self.seed, 1))[:-3]
        same(model.embed(n_id[order], t[order], events.msg), z[order], "when nodes are shuffled and some left out")
        if len(model.embed(n_id[:0], t[:0], events.msg)):
            fail("no nodes must have no embeddings")

    @torch.no_grad()
    def check_candidates(self) -> None:
        model, events = self.shown()
        src, dst, t = self.queries(events, self.half)
        dst[:, 2] = dst[:, 0]
        want = self.score(model, src, dst, t, events.msg)
        for column in range(dst.size(1)):
            got = self.score(model, src, dst[:, column : column + 1], t, events.msg)
            same(got, want[:, column : column + 1], "for a candidate alone")
        order = torch.randperm(dst.size(1), generator=stream(self.seed, 1))
        same(self.score(model, src, dst[:, order], t, events.msg), want[:, order], "when candidates are shuffled")
        if not torch.equal(want[:, 2], want[:, 0]):
            fail("a candidate that comes twice has two scores")

    @torch.no_grad()
    def check_queries(self) -> None:
        model, events = self.shown()
        src, dst, t = self.queries(events, self.half)
        want = self.score(model, src, dst, t, events.msg)
        for row in range(len(src)):
            part = slice(row, row + 1)
            same(self.score(model, src[part], dst[part], t[part], events.msg), want[part], "for a query alone")
        order = torch.randperm(len(src), generator=stream(self.seed, 1))
        got = self.score(model, src[order], dst[order], t[order], events.msg)
        same(got, want[order], "when queries are shuffled")
        twice = [torch.cat([part, part]) for part in (src, dst, t)]
        same(self.score(model, *twice, events.msg), torch.cat([want, want]), "when queries are repeated")

    # What a model may know --------------------------------------------------------------------------------------------

    def _variants(self, events: _Events, first: int) -> dict[str, _Events]:
        """Other events in the batch from ``first`` on; all later messages are others, too."""
        batch = events[first : first + _BATCH]
        other = self.events(key=1)
        msg = None
        if events.msg is not None and other.msg is not None:
            msg = torch.cat([events.msg[:first], 100 * other.msg[first:]])
        order = torch.randperm(_BATCH, generator=stream(self.seed, 1))
        twice = replace(
            batch,
            src=batch.src.repeat(2),
            dst=batch.dst.repeat(2),
            t=batch.t.repeat_interleave(2),
            e_id=torch.arange(first, first + 2 * _BATCH),
        )
        fresh = other[first : first + _BATCH]
        variants = {
            "replaced": replace(batch, src=fresh.src, dst=fresh.dst),
            "permuted": replace(batch, src=batch.src[order], dst=batch.dst[order]),
            "duplicated": twice,
            "given other messages": batch,
        }
        return {name: replace(variant, msg=msg) for name, variant in variants.items()}

    @torch.no_grad()
    def check_batch_stays_hidden(self) -> None:
        events = self.events()
        for first in (0, self.half):
            fixed = self.queries(events, first)
            found = {}
            for name, batch in {"": events[first : first + _BATCH], **self._variants(events, first)}.items():
                # As in training: the events are asked for together with what may be compared.
                model = self.show(self.make(), events[:first])
                rows = [torch.cat(parts) for parts in zip(fixed, self._asked(batch), strict=True)]
                found[name] = self.score(model, *rows, batch.msg)[: len(fixed[0])]
                same(found[name], found[""], f"when the events to be scored, and all later ones, are {name}")

    def _asked(self, batch: _Events) -> tuple[Tensor, Tensor, Tensor]:
        others = torch.randint(self.nodes, (len(batch), 4), generator=stream(self.seed, 6))
        return batch.src, torch.cat([batch.dst[:, None], others], 1), batch.t

    def check_shown_events(self) -> None:
        events = self.events()
        for first in (0, self.half):
            after = []
            for batch in (events[first : first + _BATCH], self._variants(events, first)["replaced"]):
                model = self.show(self.make(), events[:first])
                shown = self.show(model, replace(batch, msg=events.msg))
                after.append(self.pairs(shown, self.after(events, first + _BATCH), events.msg))
            if torch.equal(*after):
                fail("other events give the same scores afterwards: the model does not see what it is shown")

    def check_messages(self) -> None:
        events = self.events()
        other = replace(events, msg=self.events(key=1).msg)
        now = self.after(events)
        first, second = (self.pairs(self.show(self.make(), part), now, part.msg) for part in (events, other))
        if self.messages and torch.equal(first, second):
            fail("other messages give the same scores; if the model reads none, say messages=False")
        if not self.messages:
            self.exactly(second, first, "with other messages, though messages=False")

    def check_forward_keeps_state(self) -> None:
        for training in (False, True):
            model, events = self.shown()
            model.train(training)
            before = self.state(model)
            src, dst, t = self.queries(events, self.half)
            mode = "in training mode" if training else "in eval mode"
            first = self.score(model, src, dst, t, events.msg)
            self.unchanged(model, before, f"by forward {mode}")
            if self.embeds():
                model.embed(src, t, events.msg)
                self.unchanged(model, before, f"by embed {mode}")
            if not training:
                self.score(model, *self.queries(events, self.half + 8), events.msg)
                self.exactly(self.score(model, src, dst, t, events.msg), first, "when asked again in eval mode")

    def check_negatives_leave_no_trace(self) -> None:
        events, now = self.events(), self.after(self.events())
        want = self.pairs(self.show(self.make(), events), now, events.msg)
        for training in (False, True):
            model = self.make().train(training)
            for batch in events.batches():
                others = torch.randint(self.nodes, (len(batch), 9), generator=stream(self.seed, int(batch.e_id[0])))
                self.score(model, batch.src, others, batch.t, batch.msg)
                if self.embeds():
                    model.embed(others[:, 0], batch.t, batch.msg)
                self.show(model, batch)
            self.exactly(self.pairs(model.eval(), now, events.msg), want, "when other questions were asked before")

    # Streams of all sorts ---------------------------------------------------------------------------------------------

    def check_empty_batch(self) -> None:
        model, events = self.shown()
        before = self.state(model)
        none = events[:0]
        model.update_state(none.src, none.dst, none.t, none.e_id, none.msg)
        self.unchanged(model, before, "by a batch without events")
        model = self.make()
        model.update_state(none.src, none.dst, none.t, none.e_id, none.msg)
        self.show(model, events[: self.half])
        self.goes_on(self.shown()[0], model, "when the first batch was empty")

    def check_one_event(self) -> None:
        events = self.events()
        model = self.make()
        for place, batch in enumerate(events[:12].batches(1)):
            src, dst, t = self.queries(batch, 0, 1)
            self.finite(self.score(model, src, dst, t, events.msg), "for a batch of one event")
            self.show(model, batch)
            if int(model.next_event) != place + 1:
                fail(f"next_event is {int(model.next_event)} after event {place}")
        self.finite(self.pairs(model, self.after(events, 12), events.msg), "after batches of one event")

    def check_one_busy_node(self) -> None:
        """Every event of a batch is of node 0, many of them with node 1."""
        events = self.events()
        busy = replace(events, src=torch.zeros_like(events.src), dst=events.dst.where(events.dst > 4, 1))
        for batch in (busy, replace(busy, src=busy.dst, dst=busy.src)):
            model = self.show(self.make(), batch)
            self.finite(self.pairs(model, self.after(events), events.msg), "when a node has all events of a batch")

    def check_self_loops(self) -> None:
        events = self.events()
        loops = replace(events, dst=events.src)
        model = self.show(self.make(), loops)
        self.finite(self.pairs(model, self.after(events), events.msg), "after events of nodes with themselves")

    def check_few_nodes(self) -> None:
        for nodes in (1, 2):
            events = self.events(nodes=nodes)
            if nodes == 2:
                events = replace(events, dst=1 - events.src)
            model = self.show(self.make(nodes=nodes), events)
            scores = self.pairs(model, self.after(events), events.msg, nodes)
            self.finite(scores, f"in a stream of {nodes} {'node' if nodes == 1 else 'nodes'}")

    def check_no_messages(self) -> None:
        events = self.events(msg_dim=0)
        model = self.make(msg_dim=0)
        if any(True for _ in model.parameters()):
            self.loss(model.train(), events[:_BATCH]).backward()
        self.show(model.eval(), events)
        self.finite(self.pairs(model, self.after(events), None), "without messages")

    # Times ------------------------------------------------------------------------------------------------------------

    def check_time_zero(self) -> None:
        events = self.events()
        start = replace(events[:_BATCH], t=torch.zeros(_BATCH, dtype=torch.int64))
        fresh, model = self.make(), self.show(self.make(), start)
        for now in (0, 4):
            if torch.equal(self.pairs(model, now, events.msg), self.pairs(fresh, now, events.msg)):
                fail("events at time 0 leave the scores of a model without events")

    def check_large_times(self) -> None:
        near, far = self._tells_apart(0), self._tells_apart(_LATE)
        for what, told in near.items():
            if told and not far[what]:
                fail(f"one unit of time more {what} counts after 0, but not after 2^40; are times in float32?")

    def _tells_apart(self, base: int) -> dict[str, bool]:
        """Whether one unit of time makes a difference, in single precision."""
        events = self.events().later(base)
        now = self.after(events)
        model = self.show(self.make(dtype=torch.float32), events)
        asked = torch.stack([self.finite(self.pairs(model, now + step, events.msg), "late") for step in range(8)])
        moved = replace(events, t=events.t + (events.e_id >= self.half))
        other = self.pairs(self.show(self.make(dtype=torch.float32), moved), now, events.msg)
        return {
            "in a question": not torch.equal(asked, asked[:1].expand_as(asked)),
            "between events": not torch.equal(other, asked[0]),
        }

    def check_time_shift(self) -> None:
        events, now = self.events(), self.after(self.events())
        want = self.pairs(self.show(self.make(), events), now, events.msg)
        for by in (1, 1000, _LATE):
            got = self.pairs(self.show(self.make(), events.later(by)), now + by, events.msg)
            same(got, want, f"when all times are {by} later")

    # Being a module with a state --------------------------------------------------------------------------------------

    def check_deterministic(self) -> None:
        found = []
        for _ in range(2):
            model, events = self.make().train(), self.events()
            torch.manual_seed(self.seed + 1)
            for batch in events.batches():
                asked = self._asked(batch)
                scores = self.score(model, *asked, batch.msg).detach()
                self.show(model, batch)
            found.append((scores, self.state(model)))
        self.exactly(found[1][0], found[0][0], "when made and trained twice under one seed")
        self.unchanged(model, found[0][1], "when made and trained twice under one seed")

    def check_inputs_unchanged(self) -> None:
        for training in (False, True):
            model, events = self.shown()
            model.train(training)
            src, dst, t = self.queries(events, self.half)
            batch = replace(events[self.half :])
            tensors = {"src": src, "dst": dst, "t": t, "msg": events.msg}
            shown = {name: getattr(batch, name) for name in ("src", "dst", "t", "e_id")}
            before = {id(v): (v.clone(), v._version) for v in (*tensors.values(), *shown.values()) if v is not None}
            self.score(model, src, dst, t, events.msg)
            model.update_state(*shown.values(), events.msg)
            for name, value in (*tensors.items(), *shown.items()):
                if value is None:
                    continue
                copied, version = before[id(value)]
                if value._version != version or not torch.equal(value, copied):
                    fail(f"{name} was written to")

    def check_reset_state(self) -> None:
        model, events = self.shown()
        other = self.show(self.make(), replace(events, src=events.dst, dst=events.src)[self.half :])
        other.reset_state()
        if int(other.next_event) != 0:
            fail(f"next_event is {int(other.next_event)} after reset_state()")
        fresh = self.make()
        for now in (0, 5):
            self.exactly(self.pairs(other, now, events.msg), self.pairs(fresh, now, events.msg), "after reset_state()")
        self.goes_on(model, self.show(other, events[: self.half]), "after reset_state() and the same events")

    def check_snapshot(self) -> None:
        model, events = self.shown()
        snapshot = model.snapshot()
        if snapshot.keys() - model.state_dict().keys():
            fail("state that is not part of state_dict")
        kept = {name: value.clone() for name, value in snapshot.items()}
        rest, now = events[self.half :], self.after(events)
        found = []
        for _ in range(2):
            scores = []
            for batch in rest.batches():
                with torch.no_grad():
                    scores.append(self.score(model, *self._asked(batch), batch.msg))
                self.show(model, batch)
            found.append(torch.cat([*scores, self.pairs(model, now, events.msg)[:, :5]]))
            if any(value.shape != kept[name].shape or not torch.equal(value, kept[name]) for name, value in
                   snapshot.items()):  # fmt: skip
                fail("a snapshot changes with the model it was taken of")
            model.load_snapshot(snapshot)
        self.exactly(found[1], found[0], "when a stream is scored twice from one snapshot")
        fresh = self.make()
        fresh.load_snapshot(snapshot)
        self.goes_on(model, fresh, "after load_snapshot into a new model")

    def check_state_dict(self) -> None:
        model = self.shown()[0]
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = scrambled(self.make(self.seed + 1))
        self.show(other, self.events(key=1)[:20])
        other.load_state_dict(torch.load(file, weights_only=True))
        self.goes_on(model, other, "after load_state_dict")

    def check_pickle(self) -> None:
        self._copied(lambda model: pickle.loads(pickle.dumps(model)), "after pickling")

    def check_deepcopy(self) -> None:
        self._copied(copy.deepcopy, "after deepcopy")

    def _copied(self, copied: Callable[[Any], Any], when: str) -> None:
        model, events = self.shown()
        # In the middle of training, too.
        self.score(model.train(), *self.queries(events, self.half), events.msg)
        other = copied(model).eval()
        self.goes_on(model.eval(), other, when)
        want = self.pairs(model, self.after(events), events.msg)
        scrambled(other)
        other.reset_state()
        self.exactly(self.pairs(model, self.after(events), events.msg), want, f"when the copy changes {when}")

    def check_device(self) -> None:
        model, events = self.shown()
        model.detach_state()
        refuse_hidden_tensors(model)
        if torch.cuda.is_available():
            moved = _Events(*(v.cuda() for v in vars(events).values()))
            far = self.show(self.make().cuda(), moved[: self.half])
            src, dst, t = self.queries(events, self.half)
            with torch.no_grad():
                want = self.score(model, src, dst, t, events.msg)
                out = self.score(far, src.cuda(), dst.cuda(), t.cuda(), moved.msg)
            if not out.is_cuda:
                fail(f"the scores are on {out.device} for inputs on the GPU")
            same(out.cpu(), want, "on the GPU")

    def check_repr(self) -> None:
        text = repr(self.make())
        for part in (self.name, str(self.nodes)):
            if part not in text:
                fail(f"repr must tell {part!r} (got {text!r})")

    # Gradients --------------------------------------------------------------------------------------------------------

    def check_gradients(self) -> None:
        model = self.make().train()
        wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
        reached: set[str] = set()
        for batch in self.events().batches():
            model.zero_grad()
            loss = self.loss(model, batch)
            if not loss.requires_grad:
                fail("the scores have no gradient")
            self.show(model, batch)
            loss.backward()
            for name, value in wanted.items():
                if value.grad is None:
                    continue
                bad = int((~torch.isfinite(value.grad)).sum())
                if bad:
                    fail(f"{bad} of {value.numel()} gradients of '{name}' are not finite")
                if bool(value.grad.any()):
                    reached.add(name)
            for name, state in model.named_state():
                if state.requires_grad:
                    fail(f"the state '{name}' carries a gradient")
        missing = [name for name in wanted if name not in reached]
        if missing:
            fail(f"'{missing[0]}' got no gradient in {len(self.events()) // _BATCH} steps")

    def check_update_before_backward(self) -> None:
        models = [self.make().train() for _ in range(2)]
        for batch in self.events().batches():
            for model, before in zip(models, (True, False), strict=True):
                model.zero_grad()
                torch.manual_seed(self.seed)
                loss = self.loss(model, batch)
                if before:
                    self.show(model, batch)
                loss.backward()
                if not before:
                    self.show(model, batch)
            for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
                if (first.grad is None) != (second.grad is None):
                    fail(f"'{name}' has a gradient in one order only")
                if first.grad is not None and second.grad is not None:
                    same(first.grad, second.grad, f"(gradient of '{name}') when update_state comes before backward")

    def check_reset_parameters(self) -> None:
        model = self.make()
        if not callable(getattr(model, "reset_parameters", None)):
            fail("there is no reset_parameters()")
        drawn = []
        for _ in range(2):
            scrambled(model)
            torch.manual_seed(self.seed)
            model.reset_parameters()
            for name, value in model.named_parameters():
                if not bool(torch.isfinite(value).all()):
                    fail(f"reset_parameters() left '{name}' as it was")
            drawn.append(torch.cat([value.detach().view(-1) for value in model.parameters()]))
        self.exactly(drawn[1], drawn[0], "when reset twice under one seed")

    # Bad input --------------------------------------------------------------------------------------------------------

    @cached_property
    def refusing(self) -> tuple[Any, _Events]:
        return self.shown()

    def _refuses(self, call: Callable[[Any, _Events], object], got: object, what: str) -> None:
        # One model for all: each error must leave it as it was.
        model, events = self.refusing
        before = self.state(model)
        try:
            call(model, events)
        except Violation:
            raise
        except Exception as error:
            clear = isinstance(error, (ValueError, TypeError, IndexError)) and str(got) in str(error)
            if self.strict and not clear:
                fail(f"{what} must raise a clear error that tells {got} (got {type(error).__name__}: {error})")
            self.unchanged(model, before, f"by {what}, which was refused")
            return
        fail(f"{what} went through without an error")

    def _forward(self, **changes: Any) -> Callable[[Any, _Events], object]:
        """A call of ``forward`` with some arguments replaced by what a function makes of them."""

        def call(model: Any, events: _Events) -> object:
            src, dst, t = self.queries(events, self.half)
            given = {"src": src, "dst": dst, "t": t, "msg": events.msg}
            with torch.no_grad():
                return model(*(changes[name](value) if name in changes else value for name, value in given.items()))

        return call

    def _update(self, **changes: Any) -> Callable[[Any, _Events], object]:
        def call(model: Any, events: _Events) -> object:
            given = vars(events[self.half : self.half + _BATCH])
            model.update_state(*(changes[name](value) if name in changes else value for name, value in given.items()))
            return None

        return call

    def check_wrong_ids(self) -> None:
        now = torch.full((4,), self.after(self.events()))

        def embed(model: Any, events: _Events) -> object:
            return model.embed(spoil(torch.arange(4)), now, events.msg)

        for bad in (self.nodes, -1):

            def spoil(ids: Tensor, bad: int = bad) -> Tensor:
                ids = ids.clone()
                ids.view(-1)[3] = bad
                return ids

            for name in ("src", "dst"):
                self._refuses(self._forward(**{name: spoil}), bad, f"node id {bad} in {name} of forward")
                self._refuses(self._update(**{name: spoil}), bad, f"node id {bad} in {name} of update_state")
            if self.embeds():
                self._refuses(embed, bad, f"node id {bad} in embed")

    def check_wrong_dtype(self) -> None:
        for name in ("src", "dst", "t"):
            self._refuses(self._forward(**{name: _single}), "float32", f"float32 {name} in forward")
        for name in ("src", "dst", "t", "e_id"):
            self._refuses(self._update(**{name: _single}), "float32", f"float32 {name} in update_state")

    def check_wrong_shape(self) -> None:
        rows = 8
        for name in ("src", "dst", "t"):
            self._refuses(self._forward(**{name: lambda v: v[:-1]}), rows - 1, f"a short {name} in forward")
        self._refuses(self._forward(dst=lambda v: v[:, 0]), f"[{rows}]", "dst [B] in forward")
        for name in ("src", "dst", "t", "e_id"):
            self._refuses(self._update(**{name: lambda v: v[:-1]}), _BATCH - 1, f"a short {name} in update_state")

    def check_wrong_width(self) -> None:
        wide = self.msg_dim + 1
        for call, where in ((self._forward, "forward"), (self._update, "update_state")):
            more = call(msg=lambda v: torch.cat([v, v[:, :1]], 1))
            self._refuses(more, wide, f"messages of width {wide} instead of {self.msg_dim} in {where}")
            self._refuses(call(msg=lambda v: None), self.msg_dim, f"no messages in {where}")

    def check_unsorted(self) -> None:
        last = int(self.events().t[self.half - 1])

        def swap(v: Tensor) -> Tensor:
            v = v.clone()
            v[4] = v[5] + 7
            return v

        late = int(self.events().t[self.half + 5]) + 7
        self._refuses(self._update(t=swap), late, "times that descend within a batch")
        self._refuses(self._update(t=lambda v: v - v[0] + last - 1), last - 1, "a batch from before the last event")
        self._refuses(self._update(e_id=lambda v: v.flip(0)), self.half + _BATCH - 2, "event ids that descend")


def _identical(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first, second) or bool(((first == second) | (first.isnan() & second.isnan())).all())


def _single(value: Tensor) -> Tensor:
    return value.float()
