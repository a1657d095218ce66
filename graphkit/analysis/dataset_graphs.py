"""The graphs of a named dataset, as the measures of this package take them."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from graphkit.datasets import Dataset
from graphkit.transforms.ego_nets import EgoNets
from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream


def dataset_graphs(
    dataset: Dataset,
    count: int = 1000,
    num_hops: int = 2,
    min_nodes: int = 16,
    max_nodes: int = 1000,
    seed: int = 0,
) -> list[Data]:
    """At most ``count`` graphs of a dataset: ego-nets of nodes drawn at random of one large graph, or some of many
    graphs.

    Edges get both directions, and features are left out.

    Args:
        dataset: a single graph, or many.
        count: most graphs.
        num_hops, min_nodes, max_nodes: of :class:`~graphkit.transforms.ego_nets.EgoNets`; a large graph's only.
        seed: which are drawn.

    Raises:
        ValueError: a stream of events, or a graph without an ego-net of these sizes.

    Example:
        >>> from graphkit.datasets import load
        >>> len(dataset_graphs(load("digits"), count=50, min_nodes=1))
        50
    """
    check_int(count, "count", 1)
    if dataset.graphs is not None:
        order = torch.randperm(len(dataset.graphs), generator=stream(seed))[:count].sort().values
        chosen = [dataset.graphs[int(i)] for i in order]
        return [
            Data(edge_index=to_undirected(graph.edge_index, num_nodes=graph.num_nodes), num_nodes=graph.num_nodes)
            for graph in chosen
        ]
    if not isinstance(dataset.data, Data):
        raise ValueError(f"{dataset.info.name} is a stream of events; take a dataset of one graph or of many")
    ratio = min(count / max(dataset.data.num_nodes, 1), 1.0)
    return EgoNets(num_hops, max_nodes, None if ratio == 1 else ratio, seed, min_nodes)(dataset.data)
