"""Orders in which the nodes of any graph can be read as a sequence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csgraph, csr_matrix
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex, spmm
from graphkit.utils.checks import INDEX_DTYPES, check_choice, check_int
from graphkit.utils.seed import stream

_DENSE = 64  # nodes up to which all eigenvectors are computed at once


class SortTokens(BaseTransform):
    """Writes ``order``, the place of each node when the graph is read as a sequence.

    ================ ===============================================================================================
    key              read first to last
    ================ ===============================================================================================
    ``degree``       few neighbours to many, so that hubs are read knowing the rest (Graph Mamba)
    ``core``         outer shells of the k-core decomposition to the inner
    ``pagerank``     small PageRank to large
    ``zagreb``       small to large sum, over a node's edges, of the product of both ends' degrees
    ``eigenvector``  small eigenvector centrality to large
    ``bfs``          by distance from the node with most neighbours, part after part
    ``rcm``          reverse Cuthill-McKee: linked nodes close together, best for windows
    ``fiedler``      along the second eigenvector of the Laplacian: ends of the graph at the ends of the sequence
    ``raster``       row by row (needs ``pos``)
    ``zigzag``       row by row, every second one backwards (needs ``pos``)
    ``hilbert``      along a Hilbert curve (needs ``pos``)
    ``random``       at random, by ``seed``
    ================ ===============================================================================================

    Nodes with equal keys are ordered by a hash of their features, then by id. O(E log N) except for the eigenvectors,
    which are those of a sparse iteration.

    Args:
        key: one of the above.
        seed: seed of ``random``.

    Shapes:
        - **input:** one graph, a :class:`~torch_geometric.data.Data` with ``edge_index`` in both directions or ``pos``
        - **output:** the same with ``order`` ``[N]``

    Raises:
        ValueError: an unknown key, what it needs is missing, or places that are no whole numbers.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> SortTokens("degree")(data).order
        tensor([0, 2, 1])
    """

    def __init__(self, key: str = "degree", seed: int = 0) -> None:
        self.key, self.seed = check_choice(key, "key", (*IMPORTANCE, *_KEYS)), check_int(seed, "seed", 0)

    def forward(self, data: Data) -> Data:
        count = data.num_nodes
        if count is None:
            raise ValueError("data must have num_nodes, x or pos (got none)")
        needed = "pos" if self.key in _ON_GRID else "edge_index"
        if self.key != "random" and getattr(data, needed, None) is None:
            raise ValueError(f"data must have {needed} for key={self.key!r} (got None)")
        if self.key in _ON_GRID and (data.pos.shape != (count, 2) or data.pos.dtype not in INDEX_DTYPES):
            raise ValueError(
                f"data.pos must hold the row and column of each of {count} nodes, int64, for key={self.key!r} "
                f"(got {list(data.pos.shape)} {data.pos.dtype})"
            )
        if count == 0:
            order = torch.empty(0, dtype=torch.int64)
        elif self.key == "random":
            order = torch.randperm(count, generator=stream(self.seed))
        else:
            if self.key in IMPORTANCE:
                values = node_importance(NeighborIndex(data.edge_index, count), self.key)
            else:
                values = torch.as_tensor(np.asarray(_KEYS[self.key](data))).double()
            # From the last tie-break to the key itself, each sort keeping what was sorted before.
            sequence = torch.argsort(_feature_hash(data, count), stable=True)
            sequence = sequence[torch.argsort(values[sequence], stable=True)]
            order = torch.empty_like(sequence).index_copy_(0, sequence, torch.arange(count))
        data.order = order
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"


def _feature_hash(data: Data, count: int) -> Tensor:
    """A number a node that depends on its features alone."""
    if data.x is None:
        return torch.zeros(count)
    x = data.x.to_dense() if data.x.is_sparse_csr else data.x
    x = x.reshape(count, -1).double()
    return x @ torch.rand(x.size(1), generator=stream(0, 3), dtype=torch.float64)


def _matrix(data: Data) -> csr_matrix:
    graph = NeighborIndex(data.edge_index, data.num_nodes)
    ones = np.ones(graph.num_edges)
    return csr_matrix((ones, graph.col.numpy(), graph.rowptr.numpy()), shape=(data.num_nodes, data.num_nodes))


def node_importance(graph: NeighborIndex, key: str = "degree") -> Tensor:
    """``[N]`` float64: how central each node is. Of several graphs side by side, each is as if it were alone, but for
    PageRank's scale.

    Args:
        graph: both directions of each edge.
        key: ``"degree"``, ``"zagreb"``, ``"core"`` or ``"pagerank"``; see :class:`SortTokens`.

    Raises:
        ValueError: an unknown key.

    Example:
        >>> star = NeighborIndex(torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]]), num_nodes=3)
        >>> node_importance(star, "zagreb")
        tensor([4., 2., 2.], dtype=torch.float64)
    """
    return IMPORTANCE[check_choice(key, "key", tuple(IMPORTANCE))](graph).double()


def _degree(graph: NeighborIndex) -> Tensor:
    return graph.degree


def _zagreb(graph: NeighborIndex) -> Tensor:
    degree = graph.degree.double()
    return degree * spmm(graph.rowptr, graph.col, degree[:, None])[:, 0]


def _core(graph: NeighborIndex) -> Tensor:
    """The k of each node's k-core: nodes with at most k neighbours left are taken off until none is, k = 0, 1, ..."""
    left, core = graph.degree.clone(), torch.zeros_like(graph.degree)
    alive, k = torch.ones_like(left, dtype=torch.bool), 0
    while bool(alive.any()):
        taken = alive & (left <= k)
        if not bool(taken.any()):
            k += 1
            continue
        core[taken] = k
        alive &= ~taken
        left -= spmm(graph.rowptr, graph.col, taken.double()[:, None])[:, 0].to(left.dtype)
    return core


def _pagerank(graph: NeighborIndex) -> Tensor:
    share = 1 / graph.degree.clamp(min=1).double()
    value = torch.full_like(share, 1 / max(graph.num_nodes, 1))
    for _ in range(100):
        value = 0.85 * spmm(graph.rowptr, graph.col, (value * share)[:, None])[:, 0] + 0.15 / graph.num_nodes
    return value


def _eigenvector(data: Data) -> np.ndarray:
    matrix = _matrix(data)
    if matrix.shape[0] <= _DENSE:
        return np.abs(np.linalg.eigh(matrix.toarray())[1][:, -1])
    return np.abs(eigsh(matrix, k=1, v0=_start(matrix), tol=1e-9)[1][:, 0])


def _fiedler(data: Data) -> np.ndarray:
    """Of the random walk's Laplacian, which has the order of the plain one on regular graphs and copes with hubs."""
    matrix = _matrix(data)
    laplacian = csgraph.laplacian(matrix, normed=True)
    if matrix.shape[0] <= _DENSE:
        vector = np.linalg.eigh(laplacian.toarray())[1][:, 1 % matrix.shape[0]]
    else:
        values, vectors = eigsh(laplacian.tocsc(), k=2, sigma=-1e-2, v0=_start(matrix))
        vector = vectors[:, values.argmax()]
    vector = vector / np.sqrt(np.maximum(np.asarray(matrix.sum(1)).ravel(), 1))
    return vector * np.sign(vector[np.abs(vector).argmax()])


def _start(matrix: csr_matrix) -> np.ndarray:
    """Where iterations begin, so that they end alike."""
    return np.linspace(1, 2, matrix.shape[0])


def _bfs(data: Data) -> np.ndarray:
    matrix = _matrix(data)
    degree = NeighborIndex(data.edge_index, data.num_nodes).degree.numpy()
    part = csgraph.connected_components(matrix, directed=False)[1]
    # The node with most neighbours of each part; of equal ones the first.
    leader = np.lexsort((np.arange(len(degree)), -degree, part))
    leader = leader[np.r_[True, np.diff(part[leader]) > 0]] if len(leader) else leader
    far = csgraph.dijkstra(matrix, directed=False, indices=leader, unweighted=True, min_only=True)
    return part * (len(degree) + 1.0) + far


def _rcm(data: Data) -> np.ndarray:
    sequence = csgraph.reverse_cuthill_mckee(_matrix(data), symmetric_mode=True)
    place = np.empty(len(sequence), np.int64)
    place[sequence] = np.arange(len(sequence))
    return place


def _places(data: Data) -> Tensor:
    """Rows and columns from 0 on, wherever the grid begins."""
    return data.pos - data.pos.amin(0)


def _raster(data: Data) -> Tensor:
    row, column = _places(data).unbind(1)
    return row * (column.max() + 1) + column


def _zigzag(data: Data) -> Tensor:
    row, column = _places(data).unbind(1)
    width = column.max() + 1
    return row * width + torch.where(row % 2 == 0, column, width - 1 - column)


def _hilbert(data: Data) -> Tensor:
    """Distance along a Hilbert curve over the smallest square of a power of two that holds the grid."""
    places = _places(data)
    row, column = places.unbind(1)
    side = 1 << max(int(places.max()).bit_length(), 1)
    distance = torch.zeros_like(row)
    half = side // 2
    while half:
        right, low = (column & half) > 0, (row & half) > 0
        distance += half * half * ((3 * right.long()) ^ low.long())
        # Turn the quarter so that the curve enters it where it left the one before.
        flip = ~low & right
        column, row = torch.where(flip, side - 1 - column, column), torch.where(flip, side - 1 - row, row)
        column, row = torch.where(low, column, row), torch.where(low, row, column)
        half //= 2
    return distance


_ON_GRID = ("raster", "zigzag", "hilbert")
IMPORTANCE: dict[str, Callable[[NeighborIndex], Tensor]] = {
    "degree": _degree,
    "zagreb": _zagreb,
    "core": _core,
    "pagerank": _pagerank,
}
_KEYS: dict[str, Callable[[Data], Tensor | np.ndarray]] = {
    "eigenvector": _eigenvector,
    "bfs": _bfs,
    "rcm": _rcm,
    "fiedler": _fiedler,
    "raster": _raster,
    "zigzag": _zigzag,
    "hilbert": _hilbert,
    "random": lambda data: torch.zeros(data.num_nodes),
}
