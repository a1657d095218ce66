"""What an object was set up with, as flat text: to tell whether two runs have the same settings."""

from __future__ import annotations

import dataclasses
import zlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype)
_LONG = 100  # longer containers count by a checksum


def describe(value: Any, name: str = "") -> dict[str, str]:
    """Everything public below ``value`` that can be compared, by its dotted name.

    Numbers and text as they are, tensors as type, shape and checksum, containers, dataclasses and modules by their
    parts, objects by their class. Weights of a module count by type and shape alone, since training changes them; so do
    its public attributes, such as a dropout rate. Private and lazily computed attributes do not count.

    Example:
        >>> describe({"lr": 0.1, "sizes": (2, 3)})
        {'lr': '0.1', 'sizes.0': '2', 'sizes.1': '3'}
    """
    if isinstance(value, _PLAIN):
        return {name: repr(value)}
    if isinstance(value, Tensor):
        return {name: f"{_kind(value)} {checksum(value):08x}"}
    if isinstance(value, nn.Module):
        return _module(value, name)
    parts: dict[Any, Any]
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, (list, tuple)):
        parts = dict(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        return {name: type(value).__qualname__}
    found = {} if parts else {name: "empty"}
    for key, part in parts.items():
        found.update(describe(part, _joined(name, key)))
    if len(parts) > _LONG:
        return {name: f"{len(parts)} parts {zlib.crc32(repr(found).encode()):08x}"}
    return found


def attributes(value: Any, name: str = "", leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """:func:`describe` of an object's public attributes and of its class."""
    public = {
        key: part
        for key, part in vars(value).items()
        if not key.startswith("_")
        and key not in leave_out
        and not isinstance(getattr(type(value), key, None), cached_property)
    }
    return {name: type(value).__qualname__, **describe(public, name)} if public else {name: type(value).__qualname__}


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes, the same on every device."""
    if tensor.layout == torch.sparse_csr:
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout == torch.strided:
        parts = (tensor,)  # type: ignore[assignment]
    else:
        tensor = tensor.to_sparse_coo().coalesce()
        parts = (tensor.indices(), tensor.values())  # type: ignore[assignment]
    found = 0
    for part in parts:
        plain = part.detach().cpu().contiguous().reshape(-1)
        found = zlib.crc32(plain.view(torch.uint8).numpy().data, found)
    return found


def differences(before: dict[str, str], now: dict[str, str], limit: int = 3) -> str:
    """``"a: 1 there, 2 here; ..."`` for up to ``limit`` names; empty if there is no difference."""
    names = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    told = [f"{key}: {before.get(key, 'absent')} there, {now.get(key, 'absent')} here" for key in names[:limit]]
    more = len(names) - limit
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _joined(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _module(module: nn.Module, name: str) -> dict[str, str]:
    found = {}
    for place, part in module.named_modules():
        here = _joined(name, place) if place else name
        found.update(attributes(part, here, leave_out=("training",)))
    for place, weight in [*module.named_parameters(), *module.named_buffers()]:
        found[_joined(name, place)] = _kind(weight)
    return found
