"""NAT (https://arxiv.org/abs/2209.01084) beside memory-based models where the links of new nodes are predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphkit.recipes import _streams, nat


@dataclass(frozen=True)
class Config(_streams.Config):
    """Hyperparameters of the recipe ``nat``."""

    protocol: str = "inductive"
    """Split: inductive (new nodes come in the test only) or time (70 % of the events, then 15, then 15)."""


RECIPE = replace(nat.RECIPE, key="nat_inductive", config=Config, reported=_streams.REPORTED_INDUCTIVE)
