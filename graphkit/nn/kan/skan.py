"""A network of selectable Kolmogorov-Arnold layers, and what moves all such layers of a model from phase to phase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn.kan.selectable import SelectableKANLinear, check_input
from graphkit.utils.checks import check_choice, check_probabilities, check_range

NORMS = ("none", "batch", "layer")


class SKAN(nn.Module):
    """Layers of :class:`SelectableKANLinear`, the network of `"Activation Space Selectable Kolmogorov-Arnold Networks"
    <https://arxiv.org/abs/2408.08338>`_. It takes the place of an MLP: inside :class:`torch_geometric.nn.GINConv`, as a
    feed-forward layer of :class:`~graphkit.nn.TokenModel`, or alone.

    Args:
        widths: of the input, the hidden layers and the output.
        norm: what brings the input of each layer into the range of the families: ``"none"``, ``"batch"`` or
            ``"layer"``.
        dropout: dropout of the input of each layer but the first.
        options: of the layers: ``families``, ``grid``, ``order``, ``per``, ``base``.

    Shapes:
        - **input:** ``[..., widths[0]]`` (``[N, widths[0]]`` with ``norm="batch"``)
        - **output:** ``[..., widths[-1]]``

    Raises:
        TypeError: widths that are no list; in a call, what a layer refuses.
        ValueError: fewer than two widths, an unknown norm, or what a layer refuses; in a call with ``norm="batch"``, no
            matrix.

    Example:
        >>> SKAN([2, 5, 1], families=("rbf", "cheby"))(torch.rand(7, 2)).shape
        torch.Size([7, 1])
    """

    def __init__(self, widths: Sequence[int], norm: str = "none", dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        if not isinstance(widths, Sequence):
            raise TypeError(f"widths must list those of input, hidden layers and output (got {widths!r})")
        if len(widths) < 2:
            raise ValueError(f"widths must name input and output (got {widths})")
        check_choice(norm, "norm", NORMS)
        check_probabilities(dropout=dropout)
        self.in_channels, self.out_channels = widths[0], widths[-1]
        self.layers = nn.ModuleList(SelectableKANLinear(a, b, **options) for a, b in pairwise(widths))
        made: Any = {"none": lambda _: nn.Identity(), "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm]
        self.norms = nn.ModuleList(made(width) for width in widths[:-1])
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in [*self.layers, *self.norms]:
            if not isinstance(part, nn.Identity):
                part.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        # Before a batch norm takes what is not finite into its running statistics.
        check_input(x, self.in_channels, next(kan_layers(self)).base_weight)
        if x.dim() != 2 and isinstance(self.norms[0], nn.BatchNorm1d):
            raise ValueError(f"x must be a matrix [N, {self.in_channels}] with norm='batch' (got {list(x.shape)})")
        for number, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            x = layer(norm(self.dropout(x) if number else x))
        return x

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer.in_channels}-{layer.out_channels}" for layer in self.layers)
        first = self.layers[0]
        return f"{type(self).__name__}({self.in_channels}, layers={layers}, families={first.families})"


def kan_layers(model: nn.Module) -> Iterator[SelectableKANLinear]:
    """All selectable layers of a model, wherever they are."""
    return (part for part in model.modules() if isinstance(part, SelectableKANLinear))


def set_temperature(model: nn.Module, temperature: float) -> None:
    """Set the temperature of the selection in all layers of ``model``.

    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> network = SKAN([2, 5, 1])
        >>> set_temperature(network, 0.1)
    """
    check_range(temperature, "temperature", 0, low_open=True)
    for layer in kan_layers(model):
        layer.temperature.fill_(temperature)


def select_families(model: nn.Module, threshold: float = 0.5) -> None:
    """Begin the selective phase of all layers of ``model``; see :meth:`SelectableKANLinear.select`."""
    for layer in kan_layers(model):
        layer.select(threshold)


def prune_families(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Prune all layers of ``model`` to the families they weigh most, or to random ones drawn from ``generator``.

    Example:
        >>> network = SKAN([2, 5, 1])
        >>> select_families(network)
        >>> before = sum(p.numel() for p in network.parameters())
        >>> prune_families(network)
        >>> before, sum(p.numel() for p in network.parameters())
        (529, 141)
    """
    for layer in kan_layers(model):
        families = None
        if generator is not None:
            families = torch.randint(len(layer.families), (layer.in_channels,), generator=generator)
        layer.prune(families)
