import sys
import types

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from graphkit.datasets.convert import from_networkx, to_data, to_dgl, to_networkx, to_scipy, to_sparse_tensor

EDGES = torch.tensor([[0, 1, 3, 3], [1, 2, 0, 3]])


def example():
    return Data(edge_index=EDGES, edge_weight=torch.tensor([0.5, 2.0, 1.0, 4.0]), x=torch.rand(5, 2), num_nodes=5)


def arcs(data):
    return sorted(map(tuple, data.edge_index.t().tolist()))


def test_data_and_edge_indices():
    data = example()
    assert to_data(data) is data
    assert to_data(EDGES).num_nodes == 4
    assert to_data(EdgeIndex(EDGES, sparse_size=(5, 5))).num_nodes == 5
    assert to_data(EdgeIndex(EDGES)).num_nodes == 4
    assert to_data(EDGES[:, :0]).num_nodes == 0
    with pytest.raises(ValueError, match=r"edge_index must have shape \[2"):
        to_data(EDGES.t())
    with pytest.raises(TypeError, match="int64"):
        to_data(EDGES.float())
    with pytest.raises(IndexError, match="node id -1"):
        to_data(EDGES - 1)


@pytest.mark.parametrize("other", ["graph", None, [[0, 1]], np.eye(2), networkx])
def test_what_is_no_graph(other):
    with pytest.raises(TypeError, match="graph must be a PyG Data"):
        to_data(other)
    with pytest.raises(TypeError, match="data must be"):
        to_scipy(other)


def test_networkx_both_ways():
    graph = networkx.Graph()
    graph.add_nodes_from(["c", "a", "b", "alone"], age=3)
    graph.add_edge("c", "a", weight=0.5)
    graph.add_edge("a", "b", weight=2.0)
    data = from_networkx(graph)
    assert arcs(data) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert data.num_nodes == 4
    assert data.age.tolist() == [3] * 4
    back = to_networkx(data, ["age"], ["weight"])
    assert type(back) is networkx.Graph
    assert networkx.is_isomorphic(graph, back, edge_match=lambda a, b: a == b, node_match=lambda a, b: a == b)
    directed = to_networkx(example())
    assert type(directed) is networkx.DiGraph
    assert sorted(directed.edges) == arcs(example())
    assert directed.number_of_nodes() == 5
    assert to_data(networkx.DiGraph([(0, 1)])).edge_index.tolist() == [[0], [1]]


@pytest.mark.parametrize("num_nodes", [0, 1, 3])
def test_graphs_without_edges(num_nodes):
    graph = networkx.empty_graph(num_nodes)
    data = to_data(graph)
    assert data.num_nodes == num_nodes
    assert data.edge_index.shape == (2, 0)
    assert data.edge_index.dtype == torch.long
    assert to_networkx(data).number_of_nodes() == num_nodes
    assert to_scipy(data).shape == (num_nodes, num_nodes)
    assert to_data(to_scipy(data)).num_nodes == num_nodes


def test_scipy_both_ways():
    data = example()
    matrix = to_scipy(data)
    assert matrix[1, 2] == 2
    assert matrix[2, 1] == 0
    assert to_scipy(data, transposed=True)[2, 1] == 2
    for kind in ("csr", "csc", "coo", "lil"):
        back = to_data(matrix.asformat(kind))
        assert arcs(back) == arcs(data)
        assert back.num_nodes == 5
        assert sorted(back.edge_weight.tolist()) == [0.5, 1, 2, 4]
    assert arcs(to_data(scipy.sparse.csr_array(matrix.T), transposed=True)) == arcs(data)
    repeated = Data(edge_index=torch.tensor([[0, 0], [1, 1]]), num_nodes=2)
    assert to_scipy(repeated)[0, 1] == 2
    with pytest.raises(ValueError, match=r"square matrix \(got shape \[2, 3\]\)"):
        to_data(scipy.sparse.csr_matrix((2, 3)))


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_torch_sparse_layouts(layout):
    dense = torch.tensor(to_scipy(example()).todense())
    matrix = getattr(dense, f"to_sparse_{layout}")()
    back = to_data(matrix)
    assert arcs(back) == arcs(example())
    assert back.num_nodes == 5


def test_ids_outside_the_graph():
    bad = Data(edge_index=torch.tensor([[0], [9]]), num_nodes=3)
    for convert in (to_networkx, to_scipy, to_sparse_tensor, to_dgl):
        with pytest.raises(IndexError, match="node id 9"):
            convert(bad)
        with pytest.raises(ValueError, match="must have edge_index"):
            convert(Data())


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sparse", None)
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(ImportError, match=r"graphkit\[sparse\]"):
        to_sparse_tensor(example())
    with pytest.raises(ImportError, match=r"graphkit\[dgl\]"):
        to_dgl(example())


class FakeSparseTensor:
    """The part of torch_sparse.SparseTensor that the converters use."""

    def __init__(self, row, col, value, sparse_sizes):
        order = (row * sparse_sizes[1] + col).argsort()
        self.parts = row[order], col[order], None if value is None else value[order]
        self.shape = list(sparse_sizes)

    def coo(self):
        return self.parts

    def sizes(self):
        return self.shape


FakeSparseTensor.__module__ = "torch_sparse.tensor"


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_sparse_tensor_both_ways(monkeypatch, real, weighted, transposed):
    if real:
        pytest.importorskip("torch_sparse", reason="extra 'sparse' is not installed")
    else:
        monkeypatch.setitem(sys.modules, "torch_sparse", types.SimpleNamespace(SparseTensor=FakeSparseTensor))
    data = example()
    if not weighted:
        del data.edge_weight
    matrix = to_sparse_tensor(data, transposed=transposed)
    back = to_data(matrix, transposed=transposed)
    assert arcs(back) == arcs(data)
    assert back.num_nodes == 5
    assert ("edge_weight" in back) == weighted
    if weighted:
        weights = dict(zip(map(tuple, data.edge_index.t().tolist()), data.edge_weight.tolist(), strict=True))
        assert [weights[tuple(e)] for e in back.edge_index.t().tolist()] == back.edge_weight.tolist()


def test_dgl_both_ways():
    dgl = pytest.importorskip("dgl", reason="extra 'dgl' is not installed")
    data = example()
    data.y = torch.arange(5)
    graph = to_dgl(data)
    assert graph.num_nodes() == 5
    assert torch.equal(graph.ndata["feat"], data.x)
    assert torch.equal(graph.ndata["label"], data.y)
    assert torch.equal(graph.edata["weight"], data.edge_weight)
    back = to_data(graph)
    assert back.num_nodes == 5
    for key in ("x", "y", "edge_index", "edge_weight"):
        assert torch.equal(back[key], data[key])
    several = dgl.heterograph({("a", "to", "b"): ([0], [0]), ("b", "to", "a"): ([0], [0])})
    with pytest.raises(TypeError, match="one type of nodes and edges"):
        to_data(several)
