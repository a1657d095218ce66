"""Mixers: features exchanged among the tokens of each graph, behind one interface."""

from graphkit.nn.mixer.attention import GatedPositionalAttention, SelfAttention
from graphkit.nn.mixer.gla import GatedLinearAttention
from graphkit.nn.mixer.gla_window import GLAWindowConv
from graphkit.nn.mixer.hopfield import Hopfield, HopfieldMemory, HopfieldPooling
from graphkit.nn.mixer.mamba import BiMamba, SelectiveSSM
from graphkit.nn.mixer.maxim import AxisGatedMLP, CrossGating, MultiAxisGatedMLP
from graphkit.nn.mixer.pgn import PGN, GatedHistory
from graphkit.nn.mixer.recurrent import Recurrent
from graphkit.nn.mixer.spikegpt import RWKVChannelMix, RWKVTimeMix, SpikeGPTBlock
from graphkit.nn.mixer.token_mixer import MeanMixer, TokenMixer
from graphkit.nn.mixer.token_mlp import MixerBlock, NiNBlock, TokenMixingGate
from graphkit.nn.mixer.vig import BiGatedLinearAttention, GridDepthwiseConv, NeighborDepthwiseConv

__all__ = [
    "PGN",
    "AxisGatedMLP",
    "BiGatedLinearAttention",
    "BiMamba",
    "CrossGating",
    "GLAWindowConv",
    "GatedHistory",
    "GatedLinearAttention",
    "GatedPositionalAttention",
    "GridDepthwiseConv",
    "Hopfield",
    "HopfieldMemory",
    "HopfieldPooling",
    "MeanMixer",
    "MixerBlock",
    "MultiAxisGatedMLP",
    "NeighborDepthwiseConv",
    "NiNBlock",
    "RWKVChannelMix",
    "RWKVTimeMix",
    "Recurrent",
    "SelectiveSSM",
    "SelfAttention",
    "SpikeGPTBlock",
    "TokenMixer",
    "TokenMixingGate",
]
