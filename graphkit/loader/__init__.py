"""Mini-batches: neighbours of nodes and of links, events in order of time, whole graphs."""

from graphkit.loader.event_loader import EventBatch, EventLoader
from graphkit.loader.forecast_windows import ForecastBatch, ForecastWindows
from graphkit.loader.image_graphs import ImageGraphs
from graphkit.loader.link_neighbor_loader import LinkNeighborLoader
from graphkit.loader.neighbor_loader import NeighborLoader
from graphkit.loader.neighbor_sampler import NeighborSampler
from graphkit.loader.packed_graphs import GraphLoader, PackedGraphs

__all__ = [
    "EventBatch",
    "EventLoader",
    "ForecastBatch",
    "ForecastWindows",
    "GraphLoader",
    "ImageGraphs",
    "LinkNeighborLoader",
    "NeighborLoader",
    "NeighborSampler",
    "PackedGraphs",
]
