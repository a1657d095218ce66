"""Heads that score pairs of nodes."""

from graphkit.nn.decoder.dot import DotDecoder
from graphkit.nn.decoder.ncn import NCNCDecoder, NCNDecoder

__all__ = ["DotDecoder", "NCNCDecoder", "NCNDecoder"]
