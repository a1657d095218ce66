"""What training and inference cost: bytes kept for the backward pass, bytes of weights and activations, time, and which
of several models are worth their cost."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense import Linear


class saved_activation_bytes:
    """Count the bytes that autograd keeps for the backward pass while this context is open.

    A memory block counts once, however many operations keep it, from the moment it is kept until the last graph that
    needs it is gone. Only tensors kept within the context count, and they are followed after its end, too.

    Args:
        held: modules and tensors that are in memory anyway, such as the model and the features: what shares memory with
            a parameter or buffer of theirs does not count.

    Attributes:
        now: bytes kept at this moment.
        peak: the most bytes kept at any moment.
        total: bytes kept by all operations together, also by those whose graph is gone.

    Example:
        >>> x, w = torch.ones(3, 4), torch.ones(4, 2, requires_grad=True)
        >>> with saved_activation_bytes(w) as saved:
        ...     loss = (x @ w).sum()
        >>> saved.now  # x, which the gradient of w needs
        48
        >>> loss.backward()
        >>> saved.now, saved.peak
        (0, 48)
    """

    def __init__(self, *held: nn.Module | Tensor) -> None:
        self.now = self.peak = self.total = 0
        self._blocks: dict[tuple[torch.device, int], list[int]] = {}  # uses and bytes of each memory block
        tensors: list[Tensor] = []
        for part in held:
            tensors += [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]
        # Kept alive, or the address of one that is freed might be that of an activation later.
        self._held = [piece.detach() for tensor in tensors for piece in _strided(tensor)]
        self._held_blocks = {_block(piece) for piece in self._held}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def __enter__(self) -> saved_activation_bytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Saved:
        blocks = []
        for piece in _strided(tensor):
            block = _block(piece)
            if block in self._held_blocks or piece.numel() == 0:
                continue
            known = self._blocks.setdefault(block, [0, piece.untyped_storage().nbytes()])
            if known[0] == 0:
                self.now += known[1]
                self.total += known[1]
                self.peak = max(self.peak, self.now)
            known[0] += 1
            blocks.append(block)
        # Without its history, or a graph that keeps its own output would never be gone.
        return _Saved(tensor.detach(), self, blocks)

    def _release(self, block: tuple[torch.device, int]) -> None:
        known = self._blocks[block]
        known[0] -= 1
        if known[0] == 0:
            self.now -= known[1]
            del self._blocks[block]


class _Saved:
    """A tensor that autograd keeps; gone when the graph is."""

    def __init__(self, tensor: Tensor, counter: saved_activation_bytes, blocks: list[tuple[torch.device, int]]) -> None:
        self.tensor, self._counter, self._blocks = tensor, counter, blocks

    def __del__(self) -> None:
        for block in self._blocks:
            self._counter._release(block)


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor


def _strided(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that a tensor is stored as."""
    if tensor.layout == torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


def _block(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


# Sizes and time -------------------------------------------------------------------------------------------------------


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters: as its own ``model_bytes()`` says, if it has one, else as they are stored.

    Example:
        >>> model_bytes(nn.Linear(3, 2))
        32
    """
    own: Any = getattr(model, "model_bytes", None)
    if own is not None:
        return own()
    return sum(p.numel() * p.element_size() for p in model.parameters())


@torch.no_grad()
def buffer_bytes(model: nn.Module, x: Any, *inputs: Any, bits: int = 32) -> int:
    """Bytes of the activations that are alive together, at most, at ``bits`` bits a number.

    What a linear map reads and writes, or the output of a message-passing layer with the largest output of the linear
    maps in it. The features ``x`` are data, and messages pass by one at a time; neither counts. What a model keeps of
    earlier layers, or computes outside of such layers, is not seen.

    Args:
        model: the model; called once in eval mode as ``model(x, *inputs)``.
        x: features.
        inputs: what else it is called with.
        bits: bits of an activation.

    Example:
        >>> buffer_bytes(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.ones(5, 3))
        200
    """
    largest = 0
    inside: list[list[int]] = []  # outputs of the linear maps of each message-passing layer that is running

    def record(module: nn.Module, args: Any, out: Any) -> None:
        nonlocal largest
        if not isinstance(out, Tensor):
            return
        read = args[0].numel() if args and isinstance(args[0], Tensor) and args[0] is not x else 0
        if isinstance(module, MessagePassing):
            read = max(inside.pop(), default=read)
        elif inside:
            inside[-1].append(out.numel())
        largest = max(largest, read + out.numel())

    handles = []
    for module in model.modules():
        if isinstance(module, MessagePassing):
            handles.append(module.register_forward_pre_hook(lambda *_: inside.append([])))
        if isinstance(module, (nn.Linear, Linear, MessagePassing)):
            handles.append(module.register_forward_hook(record))
    was_training = model.training
    try:
        model.eval()(x, *inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return math.ceil(largest * bits / 8)


def latency(call: Callable[[], Any], repeats: int = 20) -> float:
    """Seconds of a call: the median of ``repeats``, after one to warm up; a GPU is waited for.

    Raises:
        ValueError: ``repeats`` below one.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1 (got {repeats})")

    def seconds() -> float:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds()
    return statistics.median(seconds() for _ in range(repeats))


def pareto_front(points: Sequence[Sequence[float]] | Tensor) -> list[int]:
    """Which points no other one dominates: none is as small everywhere and smaller somewhere. O(n^2).

    Args:
        points: ``[n, d]`` costs, less being better; give what should be large with a minus sign.

    Returns:
        The places of the points of the front, in their order.

    Raises:
        ValueError: no matrix, or a point that is not a number.

    Example:
        >>> pareto_front([(-90.1, 40), (-89.0, 10), (-88.0, 20)])
        [0, 1]
    """
    values = torch.as_tensor(points, dtype=torch.float64)
    if values.dim() != 2 or bool(values.isnan().any()):
        raise ValueError(f"points must be a matrix [n, d] without NaN (got shape {list(values.shape)})")
    as_small = (values[:, None] <= values[None]).all(-1)
    smaller = (values[:, None] < values[None]).any(-1)
    return (~(as_small & smaller).any(0)).nonzero()[:, 0].tolist()
