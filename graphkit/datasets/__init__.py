"""Named datasets with their protocols, event streams, splits as code, converters from other libraries."""

from graphkit.datasets.convert import from_networkx, to_data, to_dgl, to_networkx, to_scipy, to_sparse_tensor
from graphkit.datasets.dataset import PROTOCOLS, Dataset, DatasetInfo
from graphkit.datasets.event_readers import read_events
from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream, relabel
from graphkit.datasets.negatives import HistoricalNegatives, InductiveNegatives, RandomNegatives
from graphkit.datasets.node_targets import NodePropertyTargets, node_property_targets
from graphkit.datasets.ogb import load_ogb
from graphkit.datasets.registry import available, info, load
from graphkit.datasets.series import SeriesSplit, read_series, series_data
from graphkit.datasets.splits import (
    IndexSplit,
    LinkSplit,
    NCNRandomLinkSplit,
    cross_validation_split,
    fold_split,
    full_split,
    inductive_split,
    mask_split,
    per_class_split,
    random_link_split,
    random_node_split,
    sample_non_edges,
)
from graphkit.datasets.tgb import load_tgb, load_tgb_negatives
from graphkit.datasets.tgb_negatives import StoredNegatives

__all__ = [
    "PROTOCOLS",
    "Dataset",
    "DatasetInfo",
    "EventSplit",
    "EventStream",
    "HistoricalNegatives",
    "IndexSplit",
    "InductiveNegatives",
    "LinkSplit",
    "NCNRandomLinkSplit",
    "NodePropertyTargets",
    "RandomNegatives",
    "SeriesSplit",
    "StoredNegatives",
    "available",
    "cross_validation_split",
    "fold_split",
    "from_networkx",
    "full_split",
    "inductive_split",
    "info",
    "load",
    "load_ogb",
    "load_tgb",
    "load_tgb_negatives",
    "mask_split",
    "node_property_targets",
    "per_class_split",
    "random_link_split",
    "random_node_split",
    "read_events",
    "read_series",
    "relabel",
    "sample_non_edges",
    "series_data",
    "to_data",
    "to_dgl",
    "to_networkx",
    "to_scipy",
    "to_sparse_tensor",
]
