"""TGN (https://arxiv.org/abs/2006.10637) beside JODIE, DyRep and APAN on event streams."""

from __future__ import annotations

from graphkit.recipes import _streams
from graphkit.recipes.recipe import Recipe

RECIPE = Recipe(
    key="tgn",
    config=_streams.Config,
    settings=_streams.SETTINGS,
    fast=_streams.FAST,
    models=("TGN", "JODIE", "DyRep", "APAN", "EdgeBank"),
    build=_streams.build,
    task="temporal",
    protocol=_streams.PROTOCOL,
    reported=_streams.REPORTED,
    headline=_streams.HEADLINE,
)
