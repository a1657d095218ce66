"""Graph and temporal learning on PyTorch Geometric: published systems as layers, transforms and training procedures."""

__version__ = "0.1.0"
