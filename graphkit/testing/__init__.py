"""Checks that a graph layer, a decoder of links or a model of event streams must pass, for those here and your own."""

from graphkit.testing.contracts import DECODER_CHECKS, LAYER_CHECKS, check_decoder, check_layer
from graphkit.testing.temporal import TEMPORAL_CHECKS, check_temporal_model

__all__ = [
    "DECODER_CHECKS",
    "LAYER_CHECKS",
    "TEMPORAL_CHECKS",
    "check_decoder",
    "check_layer",
    "check_temporal_model",
]
