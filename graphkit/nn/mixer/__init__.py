"""Mixers: features exchanged among the tokens of each graph, behind one interface."""

from graphkit.nn.mixer.attention import GatedPositionalAttention, SelfAttention
from graphkit.nn.mixer.gla import GatedLinearAttention
from graphkit.nn.mixer.hopfield import Hopfield, HopfieldMemory, HopfieldPooling
from graphkit.nn.mixer.mamba import BiMamba, SelectiveSSM
from graphkit.nn.mixer.token_mixer import MeanMixer, TokenMixer
from graphkit.nn.mixer.token_mlp import MixerBlock, TokenMixingGate

__all__ = [
    "BiMamba",
    "GatedLinearAttention",
    "GatedPositionalAttention",
    "Hopfield",
    "HopfieldMemory",
    "HopfieldPooling",
    "MeanMixer",
    "MixerBlock",
    "SelectiveSSM",
    "SelfAttention",
    "TokenMixer",
    "TokenMixingGate",
]
