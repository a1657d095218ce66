"""Mixers: features exchanged among the tokens of each graph, behind one interface."""

from graphkit.nn.mixer.gla import GatedLinearAttention
from graphkit.nn.mixer.mamba import BiMamba, SelectiveSSM
from graphkit.nn.mixer.token_mixer import MeanMixer, TokenMixer

__all__ = ["BiMamba", "GatedLinearAttention", "MeanMixer", "SelectiveSSM", "TokenMixer"]
