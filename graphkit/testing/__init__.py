"""Checks that a layer, a decoder of links, a model of streams or a token mixer must pass, for those here and yours."""

from graphkit.testing.contracts import DECODER_CHECKS, LAYER_CHECKS, check_decoder, check_layer
from graphkit.testing.temporal import TEMPORAL_CHECKS, check_temporal_model
from graphkit.testing.tokens import MIXER_CHECKS, check_token_mixer

__all__ = [
    "DECODER_CHECKS",
    "LAYER_CHECKS",
    "MIXER_CHECKS",
    "TEMPORAL_CHECKS",
    "check_decoder",
    "check_layer",
    "check_temporal_model",
    "check_token_mixer",
]
