"""Mini-batches: neighbours of nodes and of links."""

from graphkit.loader.link_neighbor_loader import LinkNeighborLoader
from graphkit.loader.neighbor_loader import NeighborLoader
from graphkit.loader.neighbor_sampler import NeighborSampler

__all__ = ["LinkNeighborLoader", "NeighborLoader", "NeighborSampler"]
