"""Spiking neurons: leaky integrate-and-fire layers and their activity."""

from graphkit.nn.spiking.lif import LIF, Binarize
from graphkit.nn.spiking.meter import SpikeMeter

__all__ = ["LIF", "Binarize", "SpikeMeter"]
