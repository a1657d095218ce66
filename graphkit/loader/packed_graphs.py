"""Mini-batches of whole graphs, taken out of one large piece of memory without a loop over graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.data.collate import collate

from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.scan import sequence_ptr
from graphkit.utils.checks import INDEX_DTYPES, check_int, check_pairs, check_values
from graphkit.utils.seed import stream


class _Column(NamedTuple):
    """One attribute of all graphs: its rows one after the other, and where each graph's begin."""

    rows: Tensor
    ptr: Tensor
    dim: int
    counts_nodes: bool


class PackedGraphs:
    """Many graphs, their attributes one after the other; a batch is a few gathers.

    What :class:`torch_geometric.loader.DataLoader` does graph by graph, this does attribute by attribute: O(nodes +
    edges of the batch), without a Python step for each graph. Token graphs, molecules and social networks alike.

    Tensors are batched as PyG does it: side by side along their own dimension, ids of nodes counted on. Other
    attributes, such as names, stay behind.

    Args:
        graphs: a PyG in-memory dataset, a list of ``Data``, or one ``Data`` with ``ptr`` ``[B + 1]`` whose nodes are
            those of B graphs (as tokenizers of nodes make it): attributes of N rows are then of nodes, of B rows of
            graphs.

    Raises:
        TypeError: something else.
        ValueError: no graphs, graphs with different attributes or widths, a ``ptr`` that does not fit, edges between
            graphs, tensors without values.
        IndexError: an edge beyond its graph.

    Example:
        >>> graphs = PackedGraphs([Data(x=torch.ones(n, 1), y=torch.tensor([n])) for n in (2, 1, 3)])
        >>> batch = graphs.batch(torch.tensor([2, 0]))
        >>> batch.y, batch.ptr
        (tensor([3, 2]), tensor([0, 3, 5]))
    """

    def __init__(self, graphs: InMemoryDataset | Sequence[Data] | Data) -> None:
        if isinstance(graphs, Data):
            self._columns, self.node_ptr = _of_sequences(graphs)
        else:
            self._columns, self.node_ptr = _of_list(graphs)
        self.num_nodes = int(self.node_ptr[-1])

    def __len__(self) -> int:
        return self.node_ptr.numel() - 1

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Tensor:
        """An attribute of all graphs, such as ``graphs["y"]``."""
        if name not in self._columns:
            raise KeyError(f"graphs have no attribute {name!r} (got {', '.join(self._columns)})")
        return self._columns[name].rows

    @property
    def num_features(self) -> int:
        """Width of ``x``; 0 without."""
        x = self._columns.get("x")
        return 0 if x is None else 1 if x.rows.dim() == 1 else x.rows.size(1)

    def batch(self, index: Tensor) -> Batch:
        """The graphs ``index``, repeated ones too, as one PyG ``Batch``.

        Raises:
            TypeError: ids of another type.
            IndexError: an id out of range.
        """
        index = check_graph_ids(index, len(self)).to(self.node_ptr.device)
        count, place = _ragged(self.node_ptr, index)
        ptr = counts_to_ptr(count)
        fields = {}
        for name, column in self._columns.items():
            width, rows = (count, place) if column.ptr is self.node_ptr else _ragged(column.ptr, index)
            value = column.rows.index_select(column.dim, rows)
            if column.counts_nodes:
                value = value + torch.repeat_interleave(ptr[:-1], width, output_size=rows.numel())
            fields[name] = value
        number = torch.arange(index.numel(), device=ptr.device)
        out = Batch(
            _base_cls=Data,
            batch=torch.repeat_interleave(number, count, output_size=place.numel()),
            ptr=ptr,
            **fields,
        )
        out.num_nodes, out._num_graphs = place.numel(), index.numel()
        return out

    def to(self, device: torch.device | str) -> PackedGraphs:
        """The same graphs on ``device``."""
        out = object.__new__(PackedGraphs)
        out.node_ptr, out.num_nodes = self.node_ptr.to(device), self.num_nodes
        out._columns = {
            name: column._replace(
                rows=column.rows.to(device),
                ptr=out.node_ptr if column.ptr is self.node_ptr else column.ptr.to(device),
            )
            for name, column in self._columns.items()
        }
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, nodes={self.num_nodes}, {', '.join(self._columns)})"


class GraphLoader:
    """Batches of :class:`PackedGraphs`, in another order in each epoch.

    Args:
        graphs: the graphs, or what :class:`PackedGraphs` takes.
        batch_size: graphs a batch.
        index: ids of the graphs to go through; all if None.
        shuffle: draw the order anew in each pass, which follows from ``seed`` and the number of the pass.
        seed: seed of the orders.

    Raises:
        TypeError: ids of another type.
        ValueError: a batch size below 1.
        IndexError: an id out of range.

    Example:
        >>> graphs = [Data(x=torch.ones(n, 1)) for n in (2, 1, 3)]
        >>> [batch.num_graphs for batch in GraphLoader(graphs, batch_size=2)]
        [2, 1]
    """

    def __init__(
        self,
        graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data,
        batch_size: int = 1,
        index: Tensor | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.graphs = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
        self.batch_size = check_int(batch_size, "batch_size", 1)
        self.index = torch.arange(len(self.graphs)) if index is None else check_graph_ids(index, len(self.graphs))
        self.shuffle, self.seed, self.epoch = shuffle, check_int(seed, "seed", 0), 0

    def __len__(self) -> int:
        return -(-self.index.numel() // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        index = self.index
        if self.shuffle:
            index = index[torch.randperm(index.numel(), generator=stream(self.seed, self.epoch))]
        self.epoch += 1
        for part in index.split(self.batch_size) if index.numel() else ():
            yield self.graphs.batch(part)


def check_graph_ids(index: Tensor, count: int) -> Tensor:
    """``index``, unless it is no vector of ids below ``count``; on a GPU, where a look would wait, types alone."""
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype not in INDEX_DTYPES:
        got = f"{list(index.shape)} {index.dtype}" if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(
            f"index must be a vector of int64 ids of graphs (got {got}); of a mask, mask.nonzero().view(-1)"
        )
    check_values(index=index)
    if index.numel() and index.device.type == "cpu" and not -1 < int(index.min()) <= int(index.max()) < count:
        raise IndexError(f"index must be in [0, {count}) (got {int(index.min())} to {int(index.max())})")
    return index


def _ragged(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows each chosen graph has, and which."""
    begin = ptr[index]
    count = ptr[index + 1] - begin
    first = counts_to_ptr(count)
    total = int(first[-1])
    place = torch.arange(total, device=ptr.device)
    return count, place + torch.repeat_interleave(begin - first[:-1], count, output_size=total)


def _of_list(graphs: InMemoryDataset | Sequence[Data]) -> tuple[dict[str, _Column], Tensor]:
    if isinstance(graphs, InMemoryDataset):
        data, slices = graphs._data, graphs.slices
        # A part of a dataset keeps the whole in memory.
        if graphs._indices is not None or slices is None:
            data, slices = _collated([graphs.get(i) for i in graphs.indices()])
    elif isinstance(graphs, Sequence) and all(isinstance(graph, Data) for graph in graphs):
        if not graphs:
            raise ValueError("graphs must hold at least one graph (got none)")
        names = [sorted(graph.keys()) for graph in graphs]
        if any(other != names[0] for other in names):
            bad = next(i for i, other in enumerate(names) if other != names[0])
            raise ValueError(f"graphs must have the same attributes (graph 0 has {names[0]}, graph {bad} {names[bad]})")
        data, slices = _collated(list(graphs))
    else:
        raise TypeError(
            f"graphs must be a PyG in-memory dataset, a list of Data or a Data (got {type(graphs).__name__})"
        )
    check_values(**{name: data[name] for name in slices})
    columns = {}
    for name, begin in slices.items():
        value = data[name]
        if isinstance(value, Tensor) and name not in ("num_nodes", "batch", "ptr"):
            dim = int(data.__cat_dim__(name, value)) % max(value.dim(), 1)
            counts = "index" in name or name == "face"
            columns[name] = _Column(value, begin.long(), dim, counts)
    node_ptr = _node_ptr(data, slices, columns)
    edges = columns.get("edge_index")
    if edges is not None and edges.rows.dim() == 2:
        count = torch.repeat_interleave(node_ptr.diff(), edges.ptr.diff(), output_size=edges.rows.size(1))
        outside = ((edges.rows < 0) | (edges.rows >= count)).any(0)
        if bool(outside.any()):
            bad = int(outside.nonzero()[0])
            graph = int(torch.searchsorted(edges.ptr, bad, right=True)) - 1
            raise IndexError(
                f"edge_index of graph {graph} holds {edges.rows[:, bad].tolist()}, outside its {int(count[bad])} nodes"
            )
    return _shared(columns, node_ptr)


def _collated(graphs: list[Data]) -> tuple[Data, dict[str, Tensor]]:
    try:
        data, slices, _ = collate(Data, graphs, increment=False, add_batch=False)
    except RuntimeError as error:
        raise ValueError(f"graphs must have attributes of the same widths and types: {error}") from error
    return data, slices


def _node_ptr(data: Data, slices: dict[str, Tensor], columns: dict[str, _Column]) -> Tensor:
    for name in ("x", "pos", "order", "time", "z"):
        if name in columns:
            return columns[name].ptr
    counts = getattr(data, "_num_nodes", None) or data._store.get("num_nodes")
    if counts is None:
        raise ValueError(f"graphs must have x, pos or num_nodes, to count their nodes (got {', '.join(slices)})")
    return counts_to_ptr(torch.as_tensor(counts).view(-1))


def _of_sequences(data: Data) -> tuple[dict[str, _Column], Tensor]:
    ptr = getattr(data, "ptr", None)
    if not isinstance(ptr, Tensor):
        raise TypeError("one Data must have ptr [B + 1], which says where each graph begins; give a list for one graph")
    check_values(**data.to_dict())
    rows = data.x.size(0) if isinstance(data.x, Tensor) else int(ptr.flatten()[-1]) if ptr.numel() else 0
    sequence_ptr(ptr, ptr.new_empty(rows))
    nodes, graphs = int(ptr[-1]), ptr.numel() - 1
    one = torch.arange(graphs + 1)
    columns = {}
    for name, value in data.to_dict().items():
        if not isinstance(value, Tensor) or value.dim() == 0 or name in ("ptr", "batch"):
            continue
        if name == "edge_index":
            check_pairs(value, nodes, "edge_index")
            owner = torch.bucketize(value[1], ptr, right=True) - 1
            apart = torch.bucketize(value[0], ptr, right=True) - 1 != owner
            if bool(apart.any()):
                raise ValueError(
                    "edge_index must link nodes of one graph each "
                    f"(got {value[:, int(apart.nonzero()[0])].tolist()} for ptr {ptr[:10].tolist()})"
                )
            owner, order = owner.sort(stable=True)
            local = value[:, order] - ptr[owner]
            columns[name] = _Column(local, counts_to_ptr(torch.bincount(owner, minlength=graphs)), 1, True)
        elif value.size(0) == nodes and (nodes != graphs or name in ("x", "order", "pos", "time")):
            columns[name] = _Column(value, ptr, 0, False)
        elif value.size(0) == graphs:
            columns[name] = _Column(value, one, 0, False)
    return _shared(columns, ptr)


def _shared(columns: dict[str, _Column], node_ptr: Tensor) -> tuple[dict[str, _Column], Tensor]:
    """Columns of nodes share one pointer, so that a batch finds their rows once."""
    same = {name for name, c in columns.items() if c.ptr.shape == node_ptr.shape and torch.equal(c.ptr, node_ptr)}
    return {name: c._replace(ptr=node_ptr) if name in same else c for name, c in columns.items()}, node_ptr
