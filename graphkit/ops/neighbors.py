"""A graph as sorted neighbour lists: membership, removal and dropout of edges without another sort."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphkit.ops.cpu import neighbors as cpu
from graphkit.ops.csr import CSR, counts_to_ptr, ptr_to_index, to_csr, transpose
from graphkit.utils.checks import check_pairs

_MAX_NODES = 3_037_000_499  # num_nodes ** 2 must stay below 2 ** 63


class NeighborIndex:
    r"""The neighbour *sets* of a graph: rows of sorted, distinct node ids.

    Built once in O(E); :meth:`without` and :meth:`dropout` keep the order and never sort again. Duplicate edges count
    once. Self-loops are kept as neighbours (set operations on pairs leave both ends out anyway).

    Args:
        edge_index: ``[2, E]`` integer tensor or :class:`torch_geometric.EdgeIndex`; for an undirected graph with both
            directions of every edge.
        num_nodes: number of nodes.

    Attributes:
        rowptr: ``[N + 1]`` int64 offsets.
        col: ``[E']`` int64 neighbours, ascending in each row.
        num_nodes: N.
        kept: what others made of this graph, by a name of theirs, so that a training step does not make it again.

    Raises:
        IndexError: a node id outside ``[0, num_nodes)``.
        TypeError, ValueError: wrong type or shape.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> index.degree
        tensor([1, 2, 1])
        >>> index.has_edge(torch.tensor([0, 0]), torch.tensor([1, 2]))
        tensor([ True, False])
    """

    rowptr: Tensor
    col: Tensor
    num_nodes: int
    kept: dict[str, Any]

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        if num_nodes < 0 or num_nodes > _MAX_NODES:
            raise ValueError(f"num_nodes must be in [0, {_MAX_NODES}] (got {num_nodes})")
        plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
        check_pairs(plain, num_nodes, "edge_index")
        csr = to_csr(plain[0], plain[1], num_nodes)
        row = ptr_to_index(csr.rowptr, csr.col.numel())
        first = torch.ones_like(csr.col, dtype=torch.bool)
        first[1:] = (csr.col[1:] != csr.col[:-1]) | (row[1:] != row[:-1])
        self._set(csr.rowptr, csr.col, num_nodes)
        if not bool(first.all()):
            kept = self._masked(first)
            self._set(kept.rowptr, kept.col, num_nodes)

    def _set(self, rowptr: Tensor, col: Tensor, num_nodes: int) -> None:
        self.rowptr, self.col, self.num_nodes = rowptr, col, num_nodes
        # Not functools.cached_property, whose lock torch.compile cannot trace.
        self._degree: Tensor | None = None
        self._row: Tensor | None = None
        self._keys: Tensor | None = None
        self._looped: NeighborIndex | None = None
        self.kept = {}

    @classmethod
    def of(cls, graph: NeighborIndex | Tensor, num_nodes: int) -> NeighborIndex:
        """``graph`` itself if it is an index already; an ``EdgeIndex`` keeps the index that was built for it."""
        if isinstance(graph, NeighborIndex):
            if graph.num_nodes != num_nodes:
                raise ValueError(f"the graph has {graph.num_nodes} nodes, the features {num_nodes} rows")
            return graph
        if not isinstance(graph, EdgeIndex):
            return cls(graph, num_nodes)
        known = getattr(graph, "_graphkit_index", None)
        # An EdgeIndex wraps a plain tensor, and either may be written to.
        state = (graph._version, graph.as_tensor()._version, num_nodes)
        if known is None or known[0] != state:
            known = (state, cls(graph, num_nodes))
            graph._graphkit_index = known
        return known[1]

    @classmethod
    def from_csr(cls, rowptr: Tensor, col: Tensor, num_nodes: int) -> NeighborIndex:
        """Wrap rows that are sorted and distinct already (not checked)."""
        index = cls.__new__(cls)
        index._set(rowptr, col, num_nodes)
        return index

    @property
    def num_edges(self) -> int:
        """Number of (directed) entries."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        return self.col.device

    @property
    def degree(self) -> Tensor:
        """``[N]`` int64 numbers of neighbours."""
        if self._degree is None:
            self._degree = self.rowptr.diff()
        return self._degree

    @property
    def row(self) -> Tensor:
        """``[E]`` int64 row of each entry."""
        if self._row is None:
            self._row = ptr_to_index(self.rowptr, self.col.numel())
        return self._row

    @property
    def keys(self) -> Tensor:
        """``[E]`` ascending int64 keys ``row * num_nodes + col``."""
        if self._keys is None:
            self._keys = self.row * self.num_nodes + self.col
        return self._keys

    @property
    def edge_index(self) -> Tensor:
        """``[2, E]`` sorted edges."""
        return torch.stack([self.row, self.col])

    def to(self, device: torch.device | str) -> NeighborIndex:
        """The same graph on another device (itself if it is there already)."""
        if self.device == torch.device(device):
            return self
        return self.from_csr(self.rowptr.to(device), self.col.to(device), self.num_nodes)

    def repeat(self, copies: int) -> NeighborIndex:
        """The graph ``copies`` times side by side: node ``v`` of copy ``k`` is ``k * num_nodes + v``. O(copies E)."""
        if copies < 1:
            raise ValueError(f"copies must be >= 1 (got {copies})")
        number = torch.arange(copies, device=self.device)[:, None]
        rowptr = torch.cat([self.rowptr[:1], (self.rowptr[1:] + number * self.num_edges).flatten()])
        return self.from_csr(rowptr, (self.col + number * self.num_nodes).flatten(), copies * self.num_nodes)

    def expand(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All (position in ``nodes``, neighbour) pairs, ``[M]`` each. O(M)."""
        degree = self.degree[nodes]
        pointer = counts_to_ptr(degree)
        batch = ptr_to_index(pointer)
        entry = torch.arange(batch.numel(), device=batch.device) + (self.rowptr[nodes] - pointer[:-1])[batch]
        return batch, self.col[entry]

    def find(self, u: Tensor, v: Tensor) -> Tensor:
        """Entry number of each edge ``(u, v)``, or -1. O(log degree) each."""
        if u.shape != v.shape or u.dim() != 1:
            raise ValueError(f"u and v must be vectors of one length (got {list(u.shape)} and {list(v.shape)})")
        check_pairs(torch.stack([u, v]), self.num_nodes, "(u, v)", wait=False)
        return self._find(u.long(), v.long())

    def _find(self, u: Tensor, v: Tensor) -> Tensor:
        """:meth:`find` of int64 ids that were checked before."""
        if self.device.type == "cpu":
            return cpu.find(self.rowptr, self.col, u, v)
        if self.col.numel() == 0:
            return torch.full_like(u, -1)
        wanted = u * self.num_nodes + v
        place = torch.searchsorted(self.keys, wanted)
        place = place.clamp_(max=self.keys.numel() - 1)
        return torch.where(self.keys[place] == wanted, place, -1)

    def has_edge(self, u: Tensor, v: Tensor) -> Tensor:
        """Whether each ``(u, v)`` is an edge, as a bool tensor."""
        return self.find(u, v) >= 0

    def with_self_loops(self) -> NeighborIndex:
        """The graph with every node among its own neighbours; built once, in O(E log E), and kept."""
        if self._looped is None:
            own = torch.arange(self.num_nodes, device=self.device)
            keys = torch.cat([self.keys, own * self.num_nodes + own]).unique()
            row, col = keys // max(self.num_nodes, 1), keys % max(self.num_nodes, 1)
            pointer = counts_to_ptr(torch.bincount(row, minlength=self.num_nodes))
            self._looped = self.from_csr(pointer, col, self.num_nodes)
        return self._looped

    def without(self, pairs: Tensor) -> NeighborIndex:
        """The graph minus ``pairs [2, B]`` in both directions; pairs that are no edges are ignored. O(E + B log d)."""
        check_pairs(pairs, self.num_nodes, "pairs", wait=False)
        src, dst = pairs.long()
        place = torch.cat([self._find(src, dst), self._find(dst, src)])
        # Pairs that are no edges go to an extra slot. Not keep[place] = False, for which a GPU would wait.
        keep = torch.ones(self.num_edges + 1, dtype=torch.bool, device=self.device)
        keep.index_fill_(0, torch.where(place < 0, self.num_edges, place), False)
        return self._masked(keep[:-1])

    def dropout(self, p: float, training: bool = True) -> NeighborIndex:
        """Drop every entry with probability ``p``, the two directions of an edge independently."""
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1] (got {p})")
        if not training or p == 0:
            return self
        return self._masked(torch.rand(self.num_edges, device=self.device) >= p)

    def sample_non_edges(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw pairs ``[2, num_samples]`` of distinct nodes that are no edges, uniformly and with replacement.

        Exact: pairs are proposed uniformly and edges rejected. They are drawn on the CPU, so that every device gets the
        same ones.

        Raises:
            ValueError: fewer than one pair in a thousand is no edge.
        """
        total = self.num_nodes * (self.num_nodes - 1)
        free = total - int((self.row != self.col).sum())
        if (num_samples and free * 1000 < total) or total == 0:
            raise ValueError(f"the graph is too dense for negatives: {free} of {total} ordered pairs are no edges")
        kept: list[Tensor] = []
        missing = num_samples
        while missing > 0:
            wanted = int(1.05 * missing * total / free) + 16
            pairs = torch.randint(self.num_nodes, (2, wanted), generator=generator).to(self.device)
            pairs = pairs[:, (pairs[0] != pairs[1]) & (self._find(pairs[0], pairs[1]) < 0)][:, :missing]
            kept.append(pairs)
            missing -= pairs.size(1)
        return torch.cat(kept, dim=1) if kept else torch.empty(2, 0, dtype=torch.long, device=self.device)

    def two_hop(self) -> NeighborIndex:
        """Neighbours of neighbours (the pattern of A·A), on the CPU through SciPy. O(sum of squared degrees)."""
        import numpy as np
        import scipy.sparse as sp

        shape = (self.num_nodes, self.num_nodes)
        ones = np.ones(self.num_edges, np.float32)
        adjacency = sp.csr_matrix((ones, self.col.cpu().numpy(), self.rowptr.cpu().numpy()), shape)
        square = (adjacency @ adjacency).tocsr()
        square.sort_indices()
        rowptr, col = (torch.from_numpy(part.astype(np.int64)) for part in (square.indptr, square.indices))
        return self.from_csr(rowptr, col, self.num_nodes).to(self.device)

    def transposed(self) -> CSR:
        """CSR of the reversed edges; ``perm`` points into this index's entries."""
        return transpose(self.rowptr, self.col, self.num_nodes)

    def _masked(self, keep: Tensor) -> NeighborIndex:
        if self.device.type == "cpu":
            return self.from_csr(*cpu.masked(self.rowptr, self.col, keep), self.num_nodes)
        kept = counts_to_ptr(keep.long())
        return self.from_csr(kept[self.rowptr], self.col[keep], self.num_nodes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_nodes={self.num_nodes}, num_edges={self.num_edges})"
