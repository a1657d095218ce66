"""NAT (https://arxiv.org/abs/2209.01084) beside memory-based models and rules on event streams."""

from __future__ import annotations

from graphkit.recipes import _streams
from graphkit.recipes.recipe import Recipe

RECIPE = Recipe(
    key="nat",
    config=_streams.Config,
    settings=_streams.SETTINGS,
    fast=_streams.FAST,
    models=("NAT", "TGN", "JODIE", "DyRep", "APAN", "TGN+PRES", *_streams.HEURISTICS),
    build=_streams.build,
    task="temporal",
    protocol=_streams.PROTOCOL,
    reported=_streams.REPORTED,
    headline=_streams.HEADLINE,
)
