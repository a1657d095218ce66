"""Mini-batches of links with the sampled neighbours of their ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader
from torch_geometric.sampler import BaseSampler, NegativeSampling
from torch_geometric.sampler.base import SubgraphType
from torch_geometric.typing import InputEdges

from graphkit.loader.neighbor_sampler import Neighbors, NeighborSampler, SeededBatches, deprecated_directed
from graphkit.ops.sample import check_nodes, check_per_edge
from graphkit.utils.checks import check_pairs


class LinkNeighborLoader(SeededBatches, LinkLoader):
    r"""Mini-batches of links, drawn non-links, and the sampled k-hop neighbourhoods of all their ends.

    The arguments and batches of :class:`torch_geometric.loader.LinkNeighborLoader`, which needs ``pyg-lib`` or
    ``torch-sparse``; this one needs neither: swap the import. Beside what :class:`NeighborLoader` puts into a batch
    there are ``edge_label_index`` and ``edge_label`` (binary or no negatives) or ``src_index``, ``dst_pos_index`` and
    ``dst_neg_index`` (triplets), as positions in ``n_id``. As in PyG, drawn negatives may be links by chance, and the
    links themselves may be among the sampled edges: leave them out of ``data.edge_index`` for training.

    Args:
        data: ``Data`` or ``HeteroData``.
        num_neighbors: how many neighbours to draw in each hop, -1 for all.
        edge_label_index: ``[2, B]`` links, None for all edges; in a ``HeteroData`` the edge type or
            ``(edge type, links)``.
        edge_label: ``[B]`` labels. With binary negatives, 0 becomes the label of negatives and given ones are raised
            by one if they start at 0.
        edge_label_time: ``[B]`` times; given if, and only if, ``time_attr`` is.
        neg_sampling: ``"binary"``, ``"triplet"``, ``dict(mode=..., amount=...)`` or a ``NegativeSampling``.
        neg_sampling_ratio: deprecated; the amount of binary negatives.
        replace, subgraph_type, disjoint, temporal_strategy, time_attr, weight_attr: as in :class:`NeighborLoader`.
        transform, transform_sampler_output, is_sorted, filter_per_worker, neighbor_sampler: as there.
        directed, time_window: as there.
        **kwargs: as there.

    Raises:
        IndexError: a link or an edge with an end outside the graph.
        TypeError, ValueError: wrong types, shapes or combinations, when the loader is built.

    Example:
        >>> loader = LinkNeighborLoader(data, [15, 10], neg_sampling="binary", batch_size=1024, shuffle=True)
        >>> for batch in loader:
        ...     h = model(batch.x, batch.edge_index)
        ...     score = (h[batch.edge_label_index[0]] * h[batch.edge_label_index[1]]).sum(-1)
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Neighbors,
        edge_label_index: InputEdges = None,
        edge_label: Tensor | None = None,
        edge_label_time: Tensor | None = None,
        replace: bool = False,
        subgraph_type: SubgraphType | str = "directional",
        disjoint: bool = False,
        temporal_strategy: str = "uniform",
        neg_sampling: NegativeSampling | str | dict[str, Any] | None = None,
        neg_sampling_ratio: float | None = None,
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
        if (edge_label_time is None) != (time_attr is None):
            missing = "time_attr" if time_attr is None else "edge_label_time"
            raise ValueError(f"edge_label_time and time_attr must be given together ({missing} is missing)")
        if isinstance(data, HeteroData) and edge_label_index is None:
            raise ValueError("edge_label_index must name an edge type for a HeteroData (got None)")
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
        if isinstance(edge_label_index, Tensor):
            check_pairs(edge_label_index, data.num_nodes, "edge_label_index")
        super().__init__(
            data=data,
            link_sampler=neighbor_sampler,
            edge_label_index=edge_label_index,
            edge_label=edge_label,
            edge_label_time=edge_label_time,
            neg_sampling=neg_sampling,
            neg_sampling_ratio=neg_sampling_ratio,
            transform=transform,
            transform_sampler_output=transform_sampler_output,
            filter_per_worker=filter_per_worker,
            **kwargs,
        )
        inputs = self.input_data
        size, kind = inputs.row.numel(), inputs.input_type
        num_src, num_dst = (data.num_nodes,) * 2 if kind is None else (data[kind[i]].num_nodes for i in (0, 2))
        check_nodes(inputs.row, num_src, "edge_label_index[0]")
        check_nodes(inputs.col, num_dst, "edge_label_index[1]")
        if edge_label is not None and edge_label.size(0) != size:
            raise ValueError(f"edge_label must have one label a link, {size} (got {edge_label.size(0)})")
        if edge_label_time is not None:
            check_per_edge(edge_label_time, size, "edge_label_time", "link")
        self._seed_batches()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_data.row.numel()} links, batch_size={self.batch_size})"
