"""Graphs of other libraries at the door: everything inside GraphKit is a PyG ``Data``.

networkx and scipy come with the package; ``torch_sparse.SparseTensor`` needs the extra ``sparse``, DGL graphs need the
extra ``dgl``. Nothing is imported before it is needed.
"""

from __future__ import annotations

from typing import Any

import networkx
import scipy.sparse
import torch
import torch_geometric.utils
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from graphkit.utils.checks import check_pairs
from graphkit.utils.extras import require

# DGL's own datasets use these names.
DGL_NODE = {"feat": "x", "label": "y"}
DGL_EDGE = {"feat": "edge_attr", "weight": "edge_weight"}


def to_data(graph: Any, *, transposed: bool = False) -> Data:
    """A PyG ``Data`` from a graph of any supported kind.

    ========================== =====================================================================================
    kind                       result
    ========================== =====================================================================================
    ``Data``                   the same object
    ``EdgeIndex``, ``Tensor``  ``edge_index`` ``[2, E]``; a sparse tensor is read as an adjacency matrix
    ``networkx`` graph         nodes numbered in the order of ``graph.nodes``, attributes by name, undirected edges in
                               both directions
    ``scipy.sparse`` matrix    ``edge_index`` and ``edge_weight``; entry ``(i, j)`` is the edge from ``i`` to ``j``
    ``torch_sparse`` tensor    as a scipy matrix, without ``edge_weight`` if it has no values
    ``dgl`` graph              ``feat``, ``label`` and ``weight`` become ``x``, ``y`` and ``edge_weight``, all other
                               data keeps its name
    ========================== =====================================================================================

    Args:
        graph: The graph.
        transposed: A matrix holds the edge from ``j`` to ``i`` at ``(i, j)``, as PyG's ``adj_t`` does.

    Raises:
        TypeError: no supported kind; a DGL graph with several types of nodes or edges.
        ValueError: a matrix that is not square, or ``edge_index`` of a wrong shape.
        IndexError: ``edge_index`` names a node that does not exist.

    Example:
        >>> to_data(networkx.path_graph(3)).edge_index.tolist()
        [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    library = type(graph).__module__.split(".")[0]
    if isinstance(graph, Data):
        return graph
    if isinstance(graph, Tensor) and not isinstance(graph, EdgeIndex) and graph.layout != torch.strided:
        return _from_coo(graph.to_sparse_coo().coalesce(), transposed)
    if isinstance(graph, Tensor):
        return _from_edge_index(graph)
    if isinstance(graph, networkx.Graph):
        return from_networkx(graph)
    if scipy.sparse.issparse(graph):
        coo = graph.tocoo()
        return _from_matrix(
            torch.from_numpy(coo.row), torch.from_numpy(coo.col), torch.from_numpy(coo.data), coo.shape, transposed
        )
    if library == "torch_sparse":
        row, col, value = graph.coo()
        return _from_matrix(row, col, value, tuple(graph.sizes()[:2]), transposed)
    if library == "dgl":
        return _from_dgl(graph)
    raise TypeError(
        "graph must be a PyG Data, EdgeIndex or edge_index, a networkx graph, a scipy sparse matrix, a torch sparse "
        f"tensor, a torch_sparse.SparseTensor or a DGL graph (got {type(graph).__name__})"
    )


def from_networkx(graph: Any) -> Data:
    """A ``Data`` from a networkx graph: node ``i`` is the ``i``-th of ``graph.nodes``.

    Attributes that all nodes (or all edges) have become tensors of the same name.
    """
    data = torch_geometric.utils.from_networkx(graph)
    data.num_nodes = graph.number_of_nodes()
    data.edge_index = data.edge_index.view(2, -1).long()
    return data


def to_networkx(data: Data, node_attrs: list[str] | None = None, edge_attrs: list[str] | None = None) -> Any:
    """A networkx ``Graph`` if every edge has both directions (with equal attributes), else a ``DiGraph``.

    Args:
        data: The graph.
        node_attrs: Names of the attributes of nodes to take along.
        edge_attrs: The same for edges.
    """
    _check(data)
    attributes = [data[name] for name in edge_attrs or []]
    undirected = torch_geometric.utils.is_undirected(data.edge_index, attributes or None, num_nodes=data.num_nodes)
    return torch_geometric.utils.to_networkx(data, node_attrs, edge_attrs, to_undirected=undirected)


def to_scipy(data: Data, *, transposed: bool = False) -> scipy.sparse.csr_matrix:
    """The adjacency matrix ``[N, N]``; entries are ``edge_weight``, else 1, and repeated edges add up."""
    _check(data)
    row, col = data.edge_index.flip(0) if transposed else data.edge_index
    weight = data.get("edge_weight")
    weight = torch.ones(row.numel()) if weight is None else weight.view(-1)
    values = (weight.detach().cpu().numpy(), (row.cpu().numpy(), col.cpu().numpy()))
    return scipy.sparse.csr_matrix(values, shape=(data.num_nodes, data.num_nodes))


def to_sparse_tensor(data: Data, *, transposed: bool = False) -> Any:
    """The adjacency matrix as ``torch_sparse.SparseTensor`` (extra ``sparse``); values are ``edge_weight`` if any."""
    _check(data)
    row, col = data.edge_index.flip(0) if transposed else data.edge_index
    size = (data.num_nodes, data.num_nodes)
    torch_sparse = require("torch_sparse", "sparse")
    return torch_sparse.SparseTensor(row=row, col=col, value=data.get("edge_weight"), sparse_sizes=size)


def to_dgl(data: Data) -> Any:
    """A DGL graph (extra ``dgl``) with the tensors of nodes and edges, named as in DGL's own datasets."""
    _check(data)
    dgl = require("dgl", "dgl")
    graph = dgl.graph((data.edge_index[0], data.edge_index[1]), num_nodes=data.num_nodes)
    node_names = {ours: theirs for theirs, ours in DGL_NODE.items()}
    edge_names = {ours: theirs for theirs, ours in DGL_EDGE.items()}
    for key in data.keys():  # noqa: SIM118 (Data iterates over pairs)
        if key in ("edge_index", "num_nodes") or not isinstance(data[key], Tensor):
            continue
        if data.is_node_attr(key):
            graph.ndata[node_names.get(key, key)] = data[key]
        elif data.is_edge_attr(key):
            graph.edata[edge_names.get(key, key)] = data[key]
    return graph


def _check(data: Data) -> None:
    if not isinstance(data, Data):
        raise TypeError(f"data must be a torch_geometric.data.Data (got {type(data).__name__}); see to_data")
    if data.edge_index is None or data.num_nodes is None:
        raise ValueError("data must have edge_index and num_nodes (or x)")
    check_pairs(data.edge_index, data.num_nodes, "edge_index")


def _from_edge_index(edge_index: Tensor) -> Data:
    nodes = None
    if isinstance(edge_index, EdgeIndex):
        sizes = [size for size in edge_index.sparse_size() if size is not None]
        nodes = max(sizes) if sizes else None
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    if nodes is None:
        nodes = int(plain.max()) + 1 if plain.numel() else 0
    check_pairs(plain, nodes, "edge_index")
    return Data(edge_index=edge_index, num_nodes=nodes)


def _from_coo(matrix: Tensor, transposed: bool) -> Data:
    row, col = matrix.indices()
    return _from_matrix(row, col, matrix.values(), tuple(matrix.shape), transposed)


def _from_matrix(row: Tensor, col: Tensor, value: Tensor | None, shape: tuple, transposed: bool) -> Data:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"graph must be a square matrix (got shape {list(shape)})")
    edge_index = torch.stack([col, row] if transposed else [row, col]).long()
    data = Data(edge_index=edge_index, num_nodes=int(shape[0]))
    if value is not None:
        data.edge_weight = value
    return data


def _from_dgl(graph: Any) -> Data:
    if not graph.is_homogeneous:
        raise TypeError(
            f"graph must have one type of nodes and edges (got {len(graph.ntypes)} and {len(graph.etypes)}); "
            "use dgl.to_homogeneous first"
        )
    data = Data(edge_index=torch.stack(graph.edges()).long(), num_nodes=graph.num_nodes())
    for key, value in graph.ndata.items():
        data[DGL_NODE.get(key, key)] = value
    for key, value in graph.edata.items():
        data[DGL_EDGE.get(key, key)] = value
    return data
