"""Kolmogorov-Arnold layers: learned functions of one variable on every edge."""

from graphkit.nn.kan.basis import FAMILIES, Basis, basis
from graphkit.nn.kan.conv import SelectableKANConv2d
from graphkit.nn.kan.selectable import SelectableKANLinear
from graphkit.nn.kan.skan import SKAN, kan_layers, prune_families, select_families, set_temperature

__all__ = [
    "FAMILIES",
    "SKAN",
    "Basis",
    "SelectableKANConv2d",
    "SelectableKANLinear",
    "basis",
    "kan_layers",
    "prune_families",
    "select_families",
    "set_temperature",
]
