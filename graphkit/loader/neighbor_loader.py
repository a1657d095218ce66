"""Mini-batches of nodes with sampled neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import NodeLoader
from torch_geometric.sampler import BaseSampler
from torch_geometric.sampler.base import SubgraphType
from torch_geometric.typing import InputNodes

from graphkit.loader.neighbor_sampler import Neighbors, NeighborSampler, SeededBatches, deprecated_directed
from graphkit.ops.sample import check_nodes, check_per_edge


class NeighborLoader(SeededBatches, NodeLoader):
    r"""Mini-batches of nodes and their sampled k-hop neighbourhoods, without a compiler.

    `"Inductive Representation Learning on Large Graphs" <https://arxiv.org/abs/1706.02216>`_ (GraphSAGE). The arguments
    and batches of :class:`torch_geometric.loader.NeighborLoader`, which needs ``pyg-lib`` or ``torch-sparse``; this one
    needs neither, and does weighted and temporal sampling as well: swap the import.

    A batch holds ``n_id`` (seeds first, then hop by hop), ``e_id``, ``input_id``, ``batch_size``,
    ``num_sampled_nodes``, ``num_sampled_edges`` (None for induced and bidirectional subgraphs), ``batch`` in disjoint
    ones, and the data's node and edge attributes. O(nodes + edges sampled) a batch; O(E) once.

    Batches depend on ``torch.manual_seed`` (or the ``generator`` argument) alone, not on the number of workers.

    Args:
        data: ``Data`` or ``HeteroData``.
        num_neighbors: how many neighbours to draw in each hop, -1 for all; in a ``HeteroData`` also a dictionary by
            edge type.
        input_nodes: seed nodes: indices, a mask, or None for all. In a ``HeteroData`` the node type or
            ``(node type, indices)``.
        input_time: time of each seed instead of its own ``time_attr``; needed if ``time_attr`` is one of edges.
        replace: draw with replacement.
        subgraph_type: ``"directional"`` (the edges drawn), ``"bidirectional"`` (also reversed) or ``"induced"`` (all
            edges among the nodes).
        disjoint: a subgraph of its own for each seed; always so in time.
        temporal_strategy: ``"uniform"``, or ``"last"`` for the most recent neighbours.
        time_attr: name of the nodes' or edges' times: only neighbours no later than the seed are drawn.
        weight_attr: name of edge weights to draw in proportion to; edges of weight 0 are never drawn.
        transform: applied to each batch.
        transform_sampler_output: applied to the sampler's output.
        is_sorted: ``edge_index`` is sorted by target already, in time by (target, time).
        filter_per_worker: gather features in the workers rather than in the main process.
        neighbor_sampler: another sampler to use instead.
        directed: deprecated; False is ``subgraph_type="induced"``.
        time_window: only neighbours later than the seed's time minus this.
        **kwargs: of :class:`torch.utils.data.DataLoader`: ``batch_size``, ``shuffle``, ``num_workers`` ...

    Raises:
        IndexError: a seed or an edge's end outside the graph.
        TypeError, ValueError: wrong types, shapes or combinations, when the loader is built.

    Example:
        >>> loader = NeighborLoader(data, num_neighbors=[15, 10], input_nodes=data.train_mask, batch_size=1024)
        >>> for batch in loader:
        ...     out = model(batch.x, batch.edge_index)[: batch.batch_size]
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Neighbors,
        input_nodes: InputNodes = None,
        input_time: Tensor | None = None,
        replace: bool = False,
        subgraph_type: SubgraphType | str = "directional",
        disjoint: bool = False,
        temporal_strategy: str = "uniform",
        time_attr: str | None = None,
        weight_attr: str | None = None,
        transform: Callable | None = None,
        transform_sampler_output: Callable | None = None,
        is_sorted: bool = False,
        filter_per_worker: bool | None = None,
        neighbor_sampler: BaseSampler | None = None,
        directed: bool = True,
        *,
        time_window: float | None = None,
        **kwargs: Any,
    ) -> None:
        if input_time is not None and time_attr is None:
            raise ValueError("input_time needs time_attr, the name of the nodes' or edges' times (got None)")
        if isinstance(data, HeteroData) and input_nodes is None:
            raise ValueError("input_nodes must name a node type for a HeteroData, for example 'paper' (got None)")
        if neighbor_sampler is None:
            neighbor_sampler = NeighborSampler(
                data,
                num_neighbors=num_neighbors,
                subgraph_type=deprecated_directed(directed, subgraph_type),
                replace=replace,
                disjoint=disjoint,
                temporal_strategy=temporal_strategy,
                time_attr=time_attr,
                weight_attr=weight_attr,
                is_sorted=is_sorted,
                time_window=time_window,
            )
        super().__init__(
            data=data,
            node_sampler=neighbor_sampler,
            input_nodes=input_nodes,
            input_time=input_time,
            transform=transform,
            transform_sampler_output=transform_sampler_output,
            filter_per_worker=filter_per_worker,
            **kwargs,
        )
        node, kind = self.input_data.node, self.input_data.input_type
        check_nodes(node, data.num_nodes if kind is None else data[kind].num_nodes, "input_nodes")
        if input_time is not None:
            check_per_edge(input_time, node.numel(), "input_time", "input node")
        elif time_attr is not None and isinstance(neighbor_sampler, NeighborSampler):
            times = neighbor_sampler.node_time
            if times is None or (isinstance(times, dict) and kind not in times):
                raise ValueError(f"input_time must be given: the seeds have no {time_attr!r} of their own")
        self._seed_batches()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_data.node.numel()} nodes, batch_size={self.batch_size})"
