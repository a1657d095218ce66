"""Many graphs as one disjoint union, checked at the door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphkit.ops import NeighborIndex
from graphkit.utils.checks import INDEX_DTYPES


class GraphSet(NamedTuple):
    """The union of undirected graphs without self-loops.

    Attributes:
        neighbors: both directions of every edge, each once.
        weight: ``[E]`` float64, the weight of each entry of ``neighbors``; ones without weights.
        ptr: ``[G + 1]`` int64 offsets of the graphs' nodes.
    """

    neighbors: NeighborIndex
    weight: Tensor
    ptr: Tensor

    @property
    def owner(self) -> Tensor:
        """``[N]`` the graph of each node."""
        return torch.repeat_interleave(torch.arange(self.ptr.numel() - 1), self.ptr.diff())


def graph_list(graphs: Sequence[Data] | Batch, name: str = "data_list") -> list[Data]:
    """The graphs of a sequence or a batch.

    Raises:
        TypeError: one graph alone, or something that is no graph.
        ValueError: no graph at all.
    """
    if isinstance(graphs, Batch):
        graphs = graphs.to_data_list()
    if isinstance(graphs, Data) or not hasattr(graphs, "__len__"):
        raise TypeError(
            f"{name} must be a sequence of graphs (got {type(graphs).__name__}); EgoNets() cuts one large graph"
        )
    found = list(graphs)
    if not found:
        raise ValueError(f"{name} must hold at least one graph (got none)")
    for place, graph in enumerate(found):
        if not isinstance(graph, Data) or graph.edge_index is None:
            raise TypeError(f"{name}[{place}] must be a torch_geometric.data.Data with edge_index (got {graph!r})")
    return found


def graph_set(graphs: Sequence[Data] | Batch, name: str = "data_list") -> GraphSet:
    """The union of the graphs. Edges that are given twice count once, self-loops not at all. O(E log E).

    Raises:
        TypeError: no sequence of graphs, or ids that are no integers.
        ValueError: an empty sequence, a graph without nodes or with directed edges, weights outside [0, 1].
        IndexError: a node id outside its graph.
    """
    found = graph_list(graphs, name)
    sizes = torch.tensor([graph.num_nodes or 0 for graph in found])
    if int(sizes.min()) < 1:
        raise ValueError(f"{name}[{int(sizes.argmin())}] must have nodes (got num_nodes=0)")
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    for place, graph in enumerate(found):
        if graph.edge_index.dim() != 2 or graph.edge_index.size(0) != 2 or graph.edge_index.dtype not in INDEX_DTYPES:
            got = f"{list(graph.edge_index.shape)} {graph.edge_index.dtype}"
            raise ValueError(f"{name}[{place}].edge_index must be integers [2, E] (got {got})")
    edges = torch.cat([torch.as_tensor(graph.edge_index).long() for graph in found], 1)
    owner = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([g.edge_index.size(1) for g in found]))
    outside = ((edges < 0) | (edges >= sizes[owner])).any(0)
    if bool(outside.any()):
        place = int(owner[outside][0])
        raise IndexError(f"{name}[{place}].edge_index holds a node id outside [0, {int(sizes[place])})")
    weight = torch.cat([_weight(graph, f"{name}[{place}]") for place, graph in enumerate(found)]).numpy()
    source, target = (edges + ptr[owner]).numpy()
    kept = source != target
    source, target, weight = source[kept], target[kept], weight[kept]
    num_nodes = int(ptr[-1])
    order = np.argsort(source * num_nodes + target, kind="stable")
    key, first = np.unique((source * num_nodes + target)[order], return_index=True)
    weight = np.maximum.reduceat(weight[order], first) if first.size else weight
    back = (key % num_nodes) * num_nodes + key // num_nodes
    place = np.searchsorted(key, back).clip(max=max(key.size - 1, 0))
    lone = (key[place] != back) | (weight[place] != weight) if key.size else np.zeros(0, bool)
    if lone.any():
        node = int(key[lone][0]) // num_nodes
        number = int(torch.searchsorted(ptr, node, right=True)) - 1
        raise ValueError(
            f"{name}[{number}] must be undirected, with both directions of every edge and equal weights; use "
            "torch_geometric.transforms.ToUndirected()"
        )
    rowptr = torch.from_numpy(np.searchsorted(key, np.arange(num_nodes + 1) * num_nodes).astype(np.int64))
    index = NeighborIndex.from_csr(rowptr, torch.from_numpy(key % num_nodes), num_nodes)
    return GraphSet(index, torch.from_numpy(weight), ptr)


def _weight(graph: Data, name: str) -> Tensor:
    weight = getattr(graph, "edge_weight", None)
    if weight is None:
        return torch.ones(graph.edge_index.size(1), dtype=torch.float64)
    weight = weight.detach().double().view(-1)
    if weight.numel() != graph.edge_index.size(1):
        raise ValueError(
            f"{name}.edge_weight must have {graph.edge_index.size(1)} values, one an edge (got {weight.numel()})"
        )
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError(f"{name}.edge_weight must lie in [0, 1], as probabilities do")
    return weight
