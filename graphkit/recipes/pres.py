"""PRES (https://arxiv.org/abs/2402.04284): memory models with and without it, at growing batch sizes."""

from __future__ import annotations

from graphkit.recipes import _streams
from graphkit.recipes.recipe import Recipe

RECIPE = Recipe(
    key="pres",
    config=_streams.Config,
    settings=_streams.SETTINGS,
    fast=_streams.FAST,
    models=tuple(f"{model}@{events}" for events in (200, 400, 800, 1600) for model in ("TGN", "TGN+PRES")),
    build=_streams.build,
    task="temporal",
    protocol=_streams.PROTOCOL,
    headline=_streams.HEADLINE,
)
