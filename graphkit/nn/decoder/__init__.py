"""Heads that score pairs of nodes, and one that points at nodes."""

from graphkit.nn.decoder.dot import DotDecoder
from graphkit.nn.decoder.ncn import NCNCDecoder, NCNDecoder
from graphkit.nn.decoder.pointer import AdditivePointer, PointerNetwork, pointing_loss

__all__ = ["AdditivePointer", "DotDecoder", "NCNCDecoder", "NCNDecoder", "PointerNetwork", "pointing_loss"]
