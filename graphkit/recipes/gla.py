"""Gated linear attention (https://arxiv.org/abs/2312.06635): what gates that depend on the tokens are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphkit.nn import GatedLinearAttention, SelectiveSSM, SelfAttention, TokenMixer
from graphkit.recipes._tokens import FAST, KINDS, PROTOCOL, TokenConfig, baseline, experiment, problem, token_model
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("GLA", "Constant decay", "No decay", "Mamba", "Attention", "Baseline")
_DECAYS = {"GLA": "gated", "Constant decay": "constant", "No decay": "none"}


@dataclass(frozen=True)
class Config(TokenConfig):
    """Settings of the problems, of training and of gated linear attention."""

    gate_tau: float = 16.0
    """Tau of GLA: the larger, the slower it forgets."""


SETTINGS: dict[str, dict[str, Any]] = {
    "reset-majority": {"epochs": 1},
    "associative-recall": {"channels": 64, "layers": 2, "lr": 0.005, "epochs": 10},
    "help-topics": {"channels": 128, "layers": 4, "heads": 4, "lr": 0.003, "epochs": 20, "warmup": 1, "dropout": 0.1},
    "tiny-shakespeare": {
        "channels": 128,
        "layers": 4,
        "heads": 4,
        "lr": 0.003,
        "epochs": 15,
        "warmup": 1,
        "dropout": 0.1,
    },
    "Cora": {"channels": 64, "heads": 4, "dropout": 0.6, "weight_decay": 1.0, "epochs": 40},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: the same network with another mixer, or the baseline of the problem."""
    check_choice(model, "model", MODELS)
    found = problem(config, seed)
    seed_everything(seed)
    if model == "Baseline":
        return baseline(config, found)

    def mixer(channels: int) -> TokenMixer:
        if model == "Mamba":
            return SelectiveSSM(channels)
        if model == "Attention":
            return SelfAttention(channels, config.heads, causal=found.head == "token")
        return GatedLinearAttention(channels, config.heads, gate_tau=config.gate_tau, decay=_DECAYS[model])

    # Attention alone does not know the order.
    return experiment(config, found.task, token_model(config, found, mixer, positions=model == "Attention"))


RECIPE = Recipe(
    key="gla",
    config=Config,
    settings=SETTINGS,
    fast=FAST,
    models=MODELS,
    build=build,
    task=KINDS,
    protocol=PROTOCOL,
    headline=("Accuracy, longer", "Perplexity"),
)
