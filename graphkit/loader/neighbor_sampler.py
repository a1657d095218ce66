"""PyG's neighbour sampler on GraphKit's kernels, and what the two loaders built on it share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    SamplerOutput,
)
from torch_geometric.sampler.base import NumNeighbors, SubgraphType
from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample
from torch_geometric.typing import EdgeType, NodeType

from graphkit.ops.sample import (
    STRATEGIES,
    SamplingGraph,
    check_num_neighbors,
    check_window,
    induced_edges,
    sample_hetero,
    sample_subgraph,
    sampling_graph,
)
from graphkit.utils.checks import check_choice

_SUBGRAPH_TYPES = tuple(kind.value for kind in SubgraphType)
Neighbors: TypeAlias = Sequence[int] | Mapping[EdgeType, Sequence[int]] | NumNeighbors


class NeighborSampler(BaseSampler):
    """Samples neighbours for :class:`NeighborLoader` and :class:`LinkNeighborLoader`.

    Sorts the edges once, O(E); a batch costs O(edges sampled). Draws one number a batch from torch's global generator.

    Args:
        data: ``Data`` or ``HeteroData`` with ``edge_index``.
        num_neighbors, replace, subgraph_type, disjoint, temporal_strategy, time_attr, weight_attr, is_sorted: as in
            :class:`NeighborLoader`.
        time_window: only neighbours later than the seed's time minus this.
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Neighbors,
        subgraph_type: SubgraphType | str = "directional",
        replace: bool = False,
        disjoint: bool = False,
        temporal_strategy: str = "uniform",
        time_attr: str | None = None,
        weight_attr: str | None = None,
        is_sorted: bool = False,
        time_window: float | None = None,
    ) -> None:
        kind = subgraph_type.value if isinstance(subgraph_type, SubgraphType) else subgraph_type
        self.subgraph_type = SubgraphType(check_choice(kind, "subgraph_type", _SUBGRAPH_TYPES))
        self.temporal_strategy = check_choice(temporal_strategy, "temporal_strategy", STRATEGIES)
        self.replace = replace
        self.time_window = time_window
        self.disjoint = disjoint or time_attr is not None
        if self.subgraph_type == SubgraphType.induced and self.disjoint:
            raise ValueError("subgraph_type='induced' cannot be disjoint or temporal; use 'directional'")
        if time_window is not None and time_attr is None:
            raise ValueError(f"time_window needs time_attr, the name of the times (got time_window={time_window})")
        self.num_nodes: int | dict[NodeType, int]
        self.graphs: dict[EdgeType, SamplingGraph] = {}
        self.node_time: Tensor | dict[NodeType, Tensor] | None = None
        self._full: dict[EdgeType, SamplingGraph] = {}
        if isinstance(data, HeteroData):
            self._set_hetero(data, num_neighbors, time_attr, weight_attr, is_sorted)
        elif isinstance(data, Data):
            self._set_data(data, num_neighbors, time_attr, weight_attr, is_sorted)
        else:
            raise TypeError(
                f"data must be a Data or HeteroData in memory (got {type(data).__name__}); "
                f"feature and graph stores are not supported"
            )
        for graph in self.graphs.values():
            if graph.time is not None:
                check_window(time_window, graph.time)

    def _set_data(
        self, data: Data, num_neighbors: Neighbors, time_attr: str | None, weight_attr: str | None, is_sorted: bool
    ) -> None:
        if isinstance(num_neighbors, NumNeighbors):
            num_neighbors = num_neighbors.get_values()
        if isinstance(num_neighbors, Mapping):
            raise TypeError("num_neighbors must be a list for a Data, as it has one edge type (got a dict)")
        self.num_neighbors: list[int] | dict[EdgeType, list[int]] = check_num_neighbors(num_neighbors)
        if data.num_nodes is None:
            raise ValueError("data must know its number of nodes; set data.num_nodes or data.x")
        self.num_nodes = num_nodes = int(data.num_nodes)
        times: dict[str, Tensor] = {}
        if time_attr is not None:
            if time_attr not in data:
                raise ValueError(f"time_attr={time_attr!r} is no attribute of data; it has {', '.join(data.keys())}")
            if data.is_node_attr(time_attr):
                times["node_time"] = self.node_time = data[time_attr]
            elif data.is_edge_attr(time_attr):
                times["time"] = data[time_attr]
            else:
                raise ValueError(f"time_attr={time_attr!r} must hold one time a node or an edge")
        if weight_attr is not None and weight_attr not in data:
            raise ValueError(f"weight_attr={weight_attr!r} is no attribute of data; it has {', '.join(data.keys())}")
        weight = None if weight_attr is None else data[weight_attr]
        edge_index = _edge_index(data, "data")
        kind = ("", "", "")
        self.graphs = {kind: sampling_graph(edge_index, num_nodes, weight=weight, is_sorted=is_sorted, **times)}
        self._add_full(kind, edge_index, num_nodes)

    def _set_hetero(
        self,
        data: HeteroData,
        num_neighbors: Neighbors,
        time_attr: str | None,
        weight_attr: str | None,
        is_sorted: bool,
    ) -> None:
        node_types, edge_types = data.metadata()
        if isinstance(num_neighbors, Mapping):
            unknown = [kind for kind in num_neighbors if kind not in edge_types]
            missing = [kind for kind in edge_types if kind not in num_neighbors]
            if unknown or missing:
                raise ValueError(f"num_neighbors must name each edge type (missing: {missing}, unknown: {unknown})")
        elif not isinstance(num_neighbors, NumNeighbors):
            num_neighbors = check_num_neighbors(num_neighbors)
        numbers = num_neighbors if isinstance(num_neighbors, NumNeighbors) else NumNeighbors(num_neighbors)
        values = numbers.get_values(edge_types)
        by_type = values if isinstance(values, dict) else dict.fromkeys(edge_types, values)
        self.num_neighbors = {
            kind: check_num_neighbors(counts, f"num_neighbors[{kind}]") for kind, counts in by_type.items()
        }
        sizes: dict[NodeType, int] = {}
        for node_type in node_types:
            size = data[node_type].num_nodes
            if size is None:
                raise ValueError(f"data[{node_type!r}] must know its number of nodes; set num_nodes or x")
            sizes[node_type] = size
        self.num_nodes = sizes
        node_times = {} if time_attr is None else {k: data[k][time_attr] for k in node_types if time_attr in data[k]}
        edge_times = {} if time_attr is None else {k: data[k][time_attr] for k in edge_types if time_attr in data[k]}
        if time_attr is not None and bool(node_times) == bool(edge_times):
            got = "both" if node_times else "neither"
            raise ValueError(f"time_attr={time_attr!r} must be an attribute of nodes or of edges (found on {got})")
        if node_times:
            self.node_time = node_times
        if weight_attr is not None and not any(weight_attr in data[kind] for kind in edge_types):
            raise ValueError(f"weight_attr={weight_attr!r} is no attribute of any edge type")
        dtypes = {t.is_floating_point() for t in [*node_times.values(), *edge_times.values()]}
        if len(dtypes) > 1:
            raise TypeError(f"time_attr={time_attr!r} must be integer everywhere, or floating point everywhere")
        for kind in edge_types:
            edge_index, size = _edge_index(data[kind], f"data[{kind}]"), (sizes[kind[0]], sizes[kind[2]])
            self.graphs[kind] = sampling_graph(
                edge_index,
                size,
                time=edge_times.get(kind),
                node_time=node_times.get(kind[0]),
                weight=data[kind][weight_attr] if weight_attr is not None and weight_attr in data[kind] else None,
                is_sorted=is_sorted,
            )
            self._add_full(kind, edge_index, size)

    def _add_full(self, kind: EdgeType, edge_index: Tensor, size: int | tuple[int, int]) -> None:
        """Induced subgraphs hold the edges of weight 0 as well."""
        if self.subgraph_type == SubgraphType.induced:
            graph = self.graphs[kind]
            whole = graph.weight is None or graph.col.numel() == edge_index.size(1)
            self._full[kind] = graph if whole else sampling_graph(edge_index, size)

    @property
    def is_hetero(self) -> bool:
        return isinstance(self.num_nodes, dict)

    @property
    def edge_permutation(self) -> None:
        """None: ``edge`` in the output is numbered as the data's edges are."""
        return None

    def sample_from_nodes(self, inputs: NodeSamplerInput, **kwargs: Any) -> SamplerOutput | HeteroSamplerOutput:
        return self._finish(node_sample(inputs, self._sample))

    def sample_from_edges(
        self, inputs: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> SamplerOutput | HeteroSamplerOutput:
        sample = partial(edge_sample, inputs, self._sample, self.num_nodes, self.disjoint, self.node_time)
        return self._finish(sample(neg_sampling))

    def _finish(self, out: SamplerOutput | HeteroSamplerOutput) -> SamplerOutput | HeteroSamplerOutput:
        return out.to_bidirectional() if self.subgraph_type == SubgraphType.bidirectional else out

    def _sample(
        self, seed: Tensor | dict[NodeType, Tensor], seed_time: Tensor | dict[NodeType, Tensor] | None = None
    ) -> SamplerOutput | HeteroSamplerOutput:
        common = {
            "replace": self.replace,
            "strategy": self.temporal_strategy,
            "window": self.time_window,
            "disjoint": self.disjoint,
        }
        if isinstance(seed, dict):
            return self._sample_hetero(seed, seed_time, common)  # type: ignore[arg-type]
        if seed_time is None and isinstance(self.node_time, Tensor):
            seed_time = self.node_time[seed]
        (graph,) = self.graphs.values()
        out = sample_subgraph(graph, seed, self.num_neighbors, seed_time=seed_time, **common)  # type: ignore[arg-type]
        if self.subgraph_type == SubgraphType.induced:
            row, col, edge = induced_edges(next(iter(self._full.values())), out.node)
            return SamplerOutput(node=out.node, row=row, col=col, edge=edge, batch=out.batch)
        return SamplerOutput(
            node=out.node,
            row=out.row,
            col=out.col,
            edge=out.edge,
            batch=out.batch,
            num_sampled_nodes=out.num_sampled_nodes,
            num_sampled_edges=out.num_sampled_edges,
        )

    def _sample_hetero(
        self, seed: dict[NodeType, Tensor], seed_time: dict[NodeType, Tensor] | None, common: dict[str, Any]
    ) -> HeteroSamplerOutput:
        if seed_time is None and isinstance(self.node_time, dict):
            unknown = [kind for kind in seed if kind not in self.node_time]
            if unknown:
                raise ValueError(f"input_time must be given: the seeds' node type {unknown[0]!r} has no time attribute")
            seed_time = {kind: self.node_time[kind][nodes] for kind, nodes in seed.items()}
        if seed_time is not None:
            dtype = next(graph.time.dtype for graph in self.graphs.values() if graph.time is not None)
            if dtype == torch.int64 and any(time.is_floating_point() for time in seed_time.values()):
                raise TypeError("the seeds' times must be integer because the graph's times are; convert with .long()")
            seed_time = {kind: time.to(dtype) for kind, time in seed_time.items()}
        out = sample_hetero(
            self.graphs, self.num_nodes, seed, self.num_neighbors, seed_time=seed_time, **common  # type: ignore[arg-type]
        )  # fmt: skip
        if self.subgraph_type == SubgraphType.induced:
            found = {kind: induced_edges(g, out.node[kind[0]], out.node[kind[2]]) for kind, g in self._full.items()}
            row, col, edge = ({kind: part[i] for kind, part in found.items()} for i in range(3))
            return HeteroSamplerOutput(node=out.node, row=row, col=col, edge=edge)
        return HeteroSamplerOutput(
            node=out.node,
            row=out.row,
            col=out.col,
            edge=out.edge,
            batch=out.batch,
            num_sampled_nodes=out.num_sampled_nodes,
            num_sampled_edges=out.num_sampled_edges,
        )


def _edge_index(store: Any, name: str) -> Tensor:
    edge_index = store.get("edge_index") if hasattr(store, "get") else None
    if edge_index is None:
        if "adj_t" in store or "adj" in store:
            raise ValueError(
                f"{name} holds a sparse matrix; convert it to edge_index, for example without ToSparseTensor"
            )
        return torch.empty(2, 0, dtype=torch.int64)
    return edge_index.cpu()


def deprecated_directed(directed: bool, subgraph_type: SubgraphType | str) -> SubgraphType | str:
    """PyG's older way to ask for the induced subgraph."""
    if directed:
        return subgraph_type
    warnings.warn("directed=False is deprecated; use subgraph_type='induced'", DeprecationWarning, stacklevel=3)
    return SubgraphType.induced


# One seed a batch -----------------------------------------------------------------------------------------------------


class _SeededIndex(NamedTuple):
    index: Any
    seed: int


class _Positions(torch.utils.data.Dataset):
    """Hands the sampler's indices on as they are, so that a batch's seed travels with them to the worker."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        return index

    def __getitems__(self, index: Any) -> Any:
        return index


class _SeededSampler:
    def __init__(self, sampler: Any, generator: torch.Generator | None) -> None:
        self.sampler = sampler
        self.generator = generator

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[_SeededIndex]:
        first = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator))
        for place, index in enumerate(self.sampler):
            yield _SeededIndex(index, (first + place) % 2**63)


class SeededBatches:
    """Mixin for PyG's node and link loaders: each batch draws from a seed of its own.

    The seeds come from torch's global generator (or the loader's ``generator``) in the main process, one draw an epoch,
    so that batches do not depend on the number of workers, nor on what the training loop draws in between.
    """

    def _seed_batches(self) -> None:
        # DataLoader forbids the assignment after its construction, because it would miss the sampler. Here the length,
        # all that the sampler knows, stays the same.
        vars(self)["dataset"] = _Positions(len(self.dataset))  # type: ignore[attr-defined]

    @property
    def _index_sampler(self) -> _SeededSampler:
        return _SeededSampler(super()._index_sampler, self.generator)  # type: ignore[misc, attr-defined]

    def collate_fn(self, index: Any) -> Any:
        """Sample the subgraph of a batch of positions in the input."""
        if not isinstance(index, _SeededIndex):
            return super().collate_fn(index)  # type: ignore[misc]
        with _seeded(index.seed):
            return super().collate_fn(index.index)  # type: ignore[misc]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
