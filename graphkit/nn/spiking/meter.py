"""How many spikes a network fires."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn.spiking.lif import LIF, Binarize


class SpikeMeter:
    """Counts the spikes of all :class:`LIF` and :class:`Binarize` layers of a network while it is active.

    Args:
        model: the network.

    Raises:
        ValueError: there is none in it.

    Example:
        >>> layer = LIF()
        >>> with SpikeMeter(layer) as meter:
        ...     _ = layer(torch.tensor([[3.0, 0.0], [3.0, 0.0]]))
        >>> meter.rate()
        0.5
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, (LIF, Binarize))}
        if not self._layers:
            raise ValueError(f"model must have layers of spiking neurons (got {type(model).__name__} without any)")
        self._spikes: dict[str, Tensor] = {}
        self._chances: dict[str, int] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> SpikeMeter:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(self._counter(name)))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _counter(self, name: str) -> Any:
        def count(layer: nn.Module, inputs: Any, spikes: Tensor) -> None:
            # Summed on the device: nothing waits for it here.
            self._spikes[name] = self._spikes.get(name, 0) + spikes.detach().sum(dtype=torch.float64)
            self._chances[name] = self._chances.get(name, 0) + spikes.numel()

        return count

    def rates(self) -> dict[str, float]:
        """Spikes a neuron and step, for each layer that was called."""
        return {name: float(count) / max(self._chances[name], 1) for name, count in self._spikes.items()}

    def rate(self) -> float:
        """Spikes a neuron and step over all layers."""
        return float(sum(self._spikes.values())) / max(sum(self._chances.values()), 1)
