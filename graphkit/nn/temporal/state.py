"""What every module with a memory of past events has in common: state in buffers, apart from its parameters.

The events of a stream are known by their place in it, ``e_id``. A model is given a batch of events in two calls:
``forward`` scores queries from what was seen before the batch, and only then ``update_state`` shows it the batch. No
event can therefore influence its own score, nor that of another event in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.utils.checks import check_int, check_pairs


class StreamingModule(nn.Module):
    """A module whose state is buffers filled by a stream of events.

    State is never a parameter and carries no gradient. It moves with ``.to(device)``, is part of ``state_dict`` (so a
    checkpoint resumes exactly), and the methods here reach the state of all submodules too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._initial: dict[str, Any] = {}

    def register_state(
        self, name: str, *shape: int, fill: float | bool = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        """Add a state buffer ``name`` of ``shape``, filled with ``fill`` now and by :meth:`reset_state`."""
        if name in self._initial:
            raise ValueError(f"name must be new (got {name!r}, which {type(self).__name__} or its base has already)")
        self.register_buffer(name, torch.full(shape, fill, dtype=dtype))
        self._initial[name] = fill

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """The state buffers of this module and all submodules, by qualified name."""
        for prefix, module in self.named_modules():
            if isinstance(module, StreamingModule):
                for name in module._initial:
                    yield f"{prefix}.{name}" if prefix else name, getattr(module, name)

    @torch.no_grad()
    def reset_state(self) -> None:
        """Forget all events."""
        for module in self.modules():
            if isinstance(module, StreamingModule):
                for name, fill in module._initial.items():
                    getattr(module, name).fill_(fill)
        self.detach_state()

    def detach_state(self) -> None:
        """Drop whatever still refers to the last forward pass, so that no autograd graph outlives its step."""
        for module in self.children():
            if isinstance(module, StreamingModule):
                module.detach_state()

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the state, for :meth:`load_snapshot`."""
        return {name: value.clone() for name, value in self.named_state()}

    @torch.no_grad()
    def load_snapshot(self, snapshot: dict[str, Tensor]) -> None:
        """Return to a state that :meth:`snapshot` copied.

        Raises:
            ValueError: the snapshot is of another model.
        """
        own = dict(self.named_state())
        if own.keys() != snapshot.keys():
            odd = sorted(own.keys() ^ snapshot.keys())[0]
            raise ValueError(f"snapshot is of another model: it {'lacks' if odd in own else 'has'} {odd!r}")
        for name, value in own.items():
            if value.shape != snapshot[name].shape:
                raise ValueError(
                    f"snapshot[{name!r}] must have shape {list(value.shape)} (got {list(snapshot[name].shape)})"
                )
            value.copy_(snapshot[name])
        self.detach_state()


class TemporalModel(StreamingModule):
    """A model of a stream that embeds nodes and scores links at any time from the events seen so far.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.

    In all methods ``t`` is int64, and ``msg`` is the message matrix ``[E, D]`` of the whole stream (None if events
    carry no message), of which a model reads the rows of events that it was shown.

    A subclass checks its arguments with :meth:`check_query`, :meth:`check_nodes` and :meth:`check_events`, before it
    does anything. On a GPU, ids and the order of events are asserted there, so that no step waits for the device.

    Attributes:
        msg_dim: width of the messages, 0 for none; None if the model does not read them.
        next_event: the first event that was not shown yet.
        last_time: time of the last event that was shown.
    """

    next_event: Tensor
    last_time: Tensor
    msg_dim: int | None = None

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.num_nodes = check_int(num_nodes, "num_nodes", 1)
        self.register_state("next_event", dtype=torch.int64)
        self.register_state("last_time", fill=torch.iinfo(torch.int64).min, dtype=torch.int64)

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        """Logits that ``src[i]`` meets ``dst[i, j]`` at ``t[i]``; changes no state.

        Shapes:
            - ``src`` ``[B]``, ``dst`` ``[B, C]`` candidates, ``t`` ``[B]``
            - output ``[B, C]``
        """
        raise NotImplementedError

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        """Show the model a batch of events (all ``[B]``), in order of time.

        It comes before the optimizer's step, and may come before or after ``backward``: the graph of ``forward`` must
        not need a state buffer that this changes. A subclass does its part and then calls this.
        """
        if e_id.numel():
            self.next_event.copy_(e_id[-1] + 1)
            self.last_time.copy_(t[-1])

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        """``[n, out_channels]`` embeddings of nodes ``n_id`` at times ``t`` (both ``[n]``); changes no state."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor | None:
        """A term that the last ``forward`` adds to the loss, or None."""
        return None

    def check_query(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Raise an error unless these are arguments of :meth:`forward`."""
        if src.dim() != 1 or dst.dim() != 2 or dst.size(0) != src.size(0) or t.shape != src.shape:
            raise ValueError(
                f"src, dst and t must have shapes [B], [B, C] and [B] "
                f"(got {list(src.shape)}, {list(dst.shape)} and {list(t.shape)})"
            )
        _check_dtypes(src=src, dst=dst, t=t)
        self._check_msg(msg)
        self._check_ids(torch.cat([src, dst.reshape(-1)]), "src and dst")

    def check_nodes(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Raise an error unless these are arguments of :meth:`embed`."""
        if n_id.dim() != 1 or t.shape != n_id.shape:
            raise ValueError(f"n_id and t must be vectors of one length (got {list(n_id.shape)} and {list(t.shape)})")
        _check_dtypes(n_id=n_id, t=t)
        self._check_msg(msg)
        self._check_ids(n_id, "n_id")

    def check_events(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        """Raise an error unless these are arguments of :meth:`update_state`, and follow what was shown before."""
        columns = {"src": src, "dst": dst, "t": t, "e_id": e_id}
        for name, column in columns.items():
            if column.dim() != 1 or column.shape != src.shape:
                raise ValueError(
                    f"{name} must be a vector with one value an event (got {list(column.shape)}, and src is "
                    f"{list(src.shape)})"
                )
        _check_dtypes(**columns)
        self._check_msg(msg)
        self._check_ids(torch.cat([src, dst]), "src and dst")
        _check_order(t, "t", self.last_time)
        _check_order(e_id, "e_id")

    def extra_repr(self) -> str:
        return str(self.num_nodes)

    def _check_ids(self, ids: Tensor, name: str) -> None:
        check_pairs(ids.expand(2, -1), self.num_nodes, name, wait=False)

    def _check_msg(self, msg: Tensor | None) -> None:
        width = 0 if msg is None else msg.size(1)
        if self.msg_dim is not None and width != self.msg_dim:
            raise ValueError(f"msg must have msg_dim={self.msg_dim} columns (got {width})")


def _check_dtypes(**columns: Tensor) -> None:
    for name, column in columns.items():
        if column.dtype != torch.int64:
            raise TypeError(f"{name} must be int64 (got {column.dtype}); float32 is not exact beyond 2^24")


def _check_order(column: Tensor, name: str, last: Tensor | None = None) -> None:
    """Values ``[B]`` that do not descend, and do not begin below ``last``."""
    before = column[:-1] if last is None else torch.cat([last[None], column[:-1]])
    after = column[1:] if last is None else column
    if column.is_cuda:
        torch._assert_async((after >= before).all(), f"{name} must ascend, within a batch and from one to the next")
        return
    # NumPy for the reason that check_pairs has.
    wrong = after.numpy() < before.numpy()
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"{name} must ascend, within a batch and from one to the next "
            f"(got {int(before[place])} before {int(after[place])})"
        )
