"""SpikeGPT (https://arxiv.org/abs/2302.13939): a language model in spikes, beside the same network without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from graphkit.nn import SelfAttention, SpikeGPT, SpikeMeter
from graphkit.recipes._tokens import (
    FAST,
    KINDS,
    PROTOCOL,
    Problem,
    TokenConfig,
    baseline,
    experiment,
    problem,
    token_model,
)
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("SpikeGPT", "RWKV", "Attention", "Baseline")


@dataclass(frozen=True)
class Config(TokenConfig):
    """Settings of the problems and of training."""

    dataset: str = "help-topics"
    """A text, sequences with a known answer, or a graph with node classes among `graphkit datasets`."""
    channels: int = 128
    """Width of a token."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of attention."""
    dropout: float = 0.03
    """Dropout within the model."""
    lr: float = 0.002
    """Highest learning rate; it falls to zero along half a cosine."""
    epochs: int = 20
    """Epochs."""


SETTINGS: dict[str, dict[str, Any]] = {
    "help-topics": {"warmup": 1},
    "tiny-shakespeare": {"warmup": 1, "epochs": 15},
    "digits": {"channels": 48, "layers": 2, "lr": 0.003, "batch_size": 64, "epochs": 25},
    "pyimports": {"channels": 64, "layers": 2, "lr": 0.005, "dropout": 0.3, "weight_decay": 0.1, "epochs": 40},
    "Cora": {"channels": 64, "layers": 1, "lr": 0.01, "dropout": 0.6, "weight_decay": 1.0, "epochs": 40},
    "reset-majority": {"channels": 32, "layers": 2, "lr": 0.01, "epochs": 4},
    "associative-recall": {"channels": 64, "layers": 2, "lr": 0.003},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table."""
    check_choice(model, "model", MODELS)
    found = problem(config, seed)
    seed_everything(seed)
    if model == "Baseline":
        return baseline(config, found)
    if model == "Attention":
        return experiment(config, found.task, token_model(config, found, _attention(config, found), positions=True))
    spiking = model == "SpikeGPT"
    network = SpikeGPT(
        found.in_channels,
        config.channels,
        found.out_channels,
        config.layers,
        found.head,
        num_embeddings=found.num_embeddings,
        spiking=spiking,
        binary_input=spiking,
        dropout=config.dropout,
    )
    made = experiment(config, found.task, network)
    if spiking:
        made.measure = activity
    return made


def _attention(config: Config, found: Problem) -> Any:
    return lambda channels: SelfAttention(channels, config.heads, causal=found.head == "token")


def activity(trained: Experiment) -> dict[str, float]:
    """Spikes a neuron and token in percent, and thousand additions a token as the paper counts them, on the test
    part."""
    model: nn.Module = trained.model
    assert isinstance(model, SpikeGPT)
    with SpikeMeter(model) as meter:
        trained.task.evaluate(model, "test")
    operations = model.synaptic_operations(meter.rates())
    return {"Spike rate": 100 * meter.rate(), "Synaptic operations": operations / 1000}


RECIPE = Recipe(
    key="spikegpt",
    config=Config,
    settings=SETTINGS,
    fast=FAST,
    models=MODELS,
    build=build,
    task=KINDS,
    protocol=f"{PROTOCOL}. RWKV is the same network without neurons, its embedding not binary; synaptic operations are "
    "thousand additions a token, counted as if each spike went by itself through the linear maps that come next",
    headline=("Perplexity", "Spike rate", "Synaptic operations"),
)
