"""Checks that a graph layer or a decoder of links must pass, for the layers here and for your own."""

from graphkit.testing.contracts import DECODER_CHECKS, LAYER_CHECKS, check_decoder, check_layer

__all__ = ["DECODER_CHECKS", "LAYER_CHECKS", "check_decoder", "check_layer"]
