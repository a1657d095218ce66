"""Checks of arguments: every message names the argument, what it got and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

INDEX_DTYPES = (torch.int64, torch.int32)

# What to do about a graph without features.
NO_FEATURES = (
    "graphkit.transforms.RandomWalkEncoding and torch_geometric.transforms.OneHotDegree make features of the edges"
)


def check_pair_shape(pairs: Tensor, name: str = "edge_label_index") -> Tensor:
    """Return ``pairs`` if it is an integer tensor ``[2, B]``, whatever the ids.

    Raises:
        TypeError: not a tensor, or not int64/int32.
        ValueError: wrong shape.
    """
    if not isinstance(pairs, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of node ids (got {type(pairs).__name__})")
    if pairs.dim() != 2 or pairs.size(0) != 2:
        raise ValueError(f"{name} must have shape [2, num_pairs] (got {list(pairs.shape)})")
    if pairs.dtype not in INDEX_DTYPES:
        raise TypeError(f"{name} must be int64 or int32 (got {pairs.dtype}); convert with .long()")
    return pairs


def check_pairs(pairs: Tensor, num_nodes: int, name: str = "edge_label_index", wait: bool = True) -> Tensor:
    """Return ``pairs`` if it is an integer tensor ``[2, B]`` with ids in ``[0, num_nodes)``.

    With ``wait=False`` the ids of a tensor on a GPU are asserted there, as PyTorch's indexing does, so that a training
    step need not wait for the device; a bad id is a device-side assertion then, not an IndexError.

    Raises:
        TypeError: not a tensor, or not int64/int32.
        ValueError: wrong shape.
        IndexError: an id outside the graph; the message names the first one.
    """
    check_pair_shape(pairs, name)
    check_values(**{name: pairs})
    # A compiled graph cannot stop on the values of a tensor.
    if pairs.numel() and not torch.compiler.is_compiling():
        if pairs.is_cuda:
            low, high = torch.aminmax(pairs)
            inside = (low >= 0) & (high < num_nodes)
            if not wait:
                torch._assert_async(inside, f"{name} holds a node id outside [0, {num_nodes})")
                return pairs
        else:
            # NumPy, because PyTorch's threads would go on spinning beside those of the kernel that comes next.
            ids = pairs.detach().numpy()
            low, high = ids.min(), ids.max()
            inside = low >= 0 and high < num_nodes
        if not bool(inside):
            bad = int(low) if int(low) < 0 else int(high)
            raise IndexError(f"{name} holds node id {bad}, outside [0, {num_nodes})")
    return pairs


def _remedy(x: object) -> str:
    return f"; {NO_FEATURES}" if x is None else ""


def check_features(x: Tensor, name: str = "x") -> Tensor:
    """Return ``x`` if it is a floating matrix ``[N, F]``, dense or sparse CSR, without NaN or infinity."""
    if not isinstance(x, Tensor) or x.dim() != 2:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a matrix [num_nodes, num_features] (got {got}){_remedy(x)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point (got {x.dtype}); convert with .float()")
    check_values(**{name: x})
    if not bool(torch.isfinite(x.values() if x.is_sparse_csr else x).all()):
        row, column = (int(i) for i in (~torch.isfinite(x.to_dense())).nonzero()[0])
        raise ValueError(f"{name} holds {float(x[row, column])} at [{row}, {column}]; clean or impute it first")
    return x


def check_like(x: Tensor, weight: Tensor | None, name: str = "x") -> Tensor:
    """Return ``x`` if it is a floating tensor that layers with ``weight`` take: of its device and, but for autocast,
    its dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor (got {type(x).__name__}){_remedy(x)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point (got {x.dtype}); convert with .float()")
    if weight is not None:
        check_device(weights=weight, **{name: x})
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{name} is {x.dtype}, but the weights are {weight.dtype}; convert one with .to(...)")
    return x


def check_rows(x: Tensor, channels: int, weight: Tensor | None = None, name: str = "x") -> Tensor:
    """Return ``x`` if it is a matrix ``[N, channels]`` that layers with ``weight`` take, see :func:`check_like`."""
    if not isinstance(x, Tensor) or x.dim() != 2 or x.size(1) != channels:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must have shape [N, {channels}] (got {got}){_remedy(x)}")
    return check_like(x, weight, name)


def check_device(**values: object) -> None:
    """Check that those of the named values that are tensors are on one device.

    Example:
        >>> check_device(x=torch.zeros(3), batch=None)
    """
    first: tuple[str, torch.device] | None = None
    for name, value in values.items():
        if isinstance(value, Tensor):
            first = first or (name, value.device)
            if value.device != first[1]:
                raise ValueError(f"{name} is on {value.device}, {first[0]} on {first[1]}; move one with .to(...)")


def check_values(**tensors: object) -> None:
    """Check that the named tensors have values, which those on PyTorch's meta device have not.

    Example:
        >>> check_values(x=torch.zeros(3), batch=None)
    """
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{name} must have values (got a tensor on meta, which has only a shape)")


def check_mask(mask: Tensor, shape: Sequence[int], meaning: str, name: str = "mask") -> Tensor:
    """Return ``mask`` if it is bool and broadcasts to ``shape``; ``meaning`` says what True is."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be bool, True for {meaning} (got {got})")
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.dim() > len(shape) or any(size not in (1, full) for size, full in sizes):
        raise ValueError(f"{name} must broadcast to {list(shape)} (got {list(mask.shape)})")
    return mask


def check_finite(x: Tensor, name: str = "x") -> Tensor:
    """Return ``x`` if it holds neither NaN nor infinity; on a GPU, where a look would wait, and in a compiled graph
    in any case."""
    if x.device.type == "cpu" and x.is_floating_point() and not torch.compiler.is_compiling():
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            bad = (~finite).nonzero()[0].tolist()
            raise ValueError(f"{name} holds {float(x[tuple(bad)])} at {bad}; clean or impute it first")
    return x


def check_range(
    value: float, name: str, low: float = -math.inf, high: float = math.inf, *, low_open: bool = False
) -> float:
    """Return ``value`` if it lies in ``[low, high]`` (``(low, high]`` with ``low_open``)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number (got {value!r})")
    if math.isnan(value) or value < low or value > high or (low_open and value == low):
        raise ValueError(f"{name} must be in {'(' if low_open else '['}{low}, {high}] (got {value})")
    return value


def check_int(value: int, name: str, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as an ``int`` if it is a whole number (NumPy's too) in ``[low, high]``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer (got {value!r})")
    check_range(value, name, -math.inf if low is None else low, math.inf if high is None else high)
    return int(value)


def check_probabilities(**values: float) -> None:
    """Check that every named value lies in [0, 1].

    Example:
        >>> check_probabilities(dropout=0.5, edge_dropout=0.0)
    """
    for name, value in values.items():
        check_range(value, name, 0, 1)


def check_choice(value: str, name: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise suggest the nearest."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)} (got {value!r}){nearest(str(value), choices)}")
    return value


def nearest(word: str, words: Iterable[str]) -> str:
    """``"; did you mean 'Cora'?"`` for a typo, else the empty string."""
    by_lower = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
