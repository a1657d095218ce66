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
    """

    next_event: Tensor

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.num_nodes = num_nodes
        self.register_state("next_event", dtype=torch.int64)

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

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        """``[n, out_channels]`` embeddings of nodes ``n_id`` at times ``t`` (both ``[n]``); changes no state."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor | None:
        """A term that the last ``forward`` adds to the loss, or None."""
        return None
