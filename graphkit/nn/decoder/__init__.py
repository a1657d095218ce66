"""Heads that score pairs of nodes."""

from graphkit.nn.decoder.ncn import NCNCDecoder, NCNDecoder

__all__ = ["NCNCDecoder", "NCNDecoder"]
