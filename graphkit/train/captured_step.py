"""A training step recorded once as a CUDA graph and started anew for each batch, instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

_WARM_UP = 3


class CapturedStep:
    """``step(batch)``, replayed as a CUDA graph for batches of one shape; run as it is for all others.

    The first three batches of the first shape seen are real steps on a stream of their own, as PyTorch asks for; at
    the fourth the step is recorded. Small kernels, as of a batch of 200 events, then no longer wait for Python.

    The step may do nothing on the host that a replay would leave out, nor wait for the GPU, nor change shapes by
    values.

    Args:
        step: takes a batch, a nest of tuples of tensors, and returns a loss without a graph.

    Raises:
        ValueError: the step cannot be recorded.
    """

    def __init__(self, step: Callable[[Any], Tensor]) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()
        self._shape: Any = None
        self._seen = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places: list[Any] = []
        self._loss = torch.zeros(())

    def __call__(self, batch: Any) -> Tensor:
        parts, shape = _parts(batch)
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            return self._step(batch)
        if self._seen < _WARM_UP:
            self._seen += 1
            return self._aside(batch)
        if self._graph is None:
            self._record(batch)
        for place, part in zip(self._places, parts, strict=True):
            if isinstance(place, Tensor):
                place.copy_(part)
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _aside(self, batch: Any) -> Tensor:
        """The step on a stream of its own."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = self._step(batch)
        here.wait_stream(self._stream)
        return loss

    def _record(self, batch: Any) -> None:
        parts, spec = tree_flatten(batch)
        self._places = [part.clone() if isinstance(part, Tensor) else part for part in parts]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._loss = self._step(spec.unflatten(self._places))
        except RuntimeError as error:
            raise ValueError(
                f"the training step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); train without "
                "capture"
            ) from error
        self._graph = graph


def _parts(batch: Any) -> tuple[list[Any], Any]:
    """The leaves of a batch, and what must be equal for two batches to share a recording."""
    parts, spec = tree_flatten(batch)
    other = [part for part in parts if part is not None and not isinstance(part, Tensor)]
    if other:
        raise ValueError(
            f"capture needs batches of tensors (got one with a {type(other[0]).__name__}); train without it"
        )
    return parts, (spec, [None if part is None else (part.shape, part.dtype, part.device) for part in parts])
