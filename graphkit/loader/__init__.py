"""Mini-batches: neighbours of nodes and of links, and events in order of time."""

from graphkit.loader.event_loader import EventBatch, EventLoader
from graphkit.loader.link_neighbor_loader import LinkNeighborLoader
from graphkit.loader.neighbor_loader import NeighborLoader
from graphkit.loader.neighbor_sampler import NeighborSampler

__all__ = ["EventBatch", "EventLoader", "LinkNeighborLoader", "NeighborLoader", "NeighborSampler"]
