"""Virtual nodes of classes: the golden graph, edges by brute force, attributes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.transforms import ClassVirtualNodes

RING = torch.tensor([[0, 1, 2, 3, 4, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 0, 1, 2, 3, 4]])


def ring(**more) -> Data:
    return Data(x=torch.randn(5, 6), edge_index=RING, **more)


def test_golden_graph() -> None:
    """Five nodes, three classes, training nodes 0 (class 0) and 1 (class 2)."""
    nodes, y = torch.tensor([0, 1]), torch.tensor([0, 2])
    out = ClassVirtualNodes(3)(ring(), nodes, y)
    assert isinstance(ClassVirtualNodes(3), BaseTransform)
    assert (out.num_nodes, out.x.shape, out.edge_index.size(1)) == (8, (8, 6), 14)
    assert out.edge_index[:, 10:].t().tolist() == [[0, 5], [1, 7], [5, 0], [7, 1]]
    assert out.edge_type.tolist() == [0] * 10 + [1, 3, 4, 6]
    assert out.real_mask.tolist() == [True] * 5 + [False] * 3
    assert out.virtual_index.tolist() == [5, 6, 7]
    one_way = ClassVirtualNodes(3, direction="to_virtual")(ring(), nodes, y)
    assert one_way.edge_index[:, 10:].t().tolist() == [[0, 5], [1, 7]]
    assert one_way.edge_type[10:].tolist() == [1, 3]


def test_features_are_standard_normal_and_follow_from_the_seed() -> None:
    data = Data(x=torch.zeros(3, 4000), edge_index=torch.zeros(2, 0, dtype=torch.long))
    nodes, y = torch.tensor([0]), torch.tensor([1])
    first, again, other = (ClassVirtualNodes(5, seed=s)(data, nodes, y).x[3:] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1) < 0.05
    doubled = Data(x=data.x.double(), edge_index=data.edge_index)
    assert ClassVirtualNodes(5)(doubled, nodes, y).x.dtype == torch.float64


def test_labels_are_appended() -> None:
    data = ring()
    out = ClassVirtualNodes(4, append_label=True)(data, torch.tensor([3, 1]), torch.tensor([2, 0]))
    assert out.x.shape == (9, 10)
    assert torch.equal(out.x[:5, :6], data.x)
    wanted = torch.full((5, 4), 0.25)
    wanted[3], wanted[1] = torch.eye(4)[2], torch.eye(4)[0]
    assert torch.equal(out.x[:5, 6:], wanted)
    assert torch.equal(out.x[5:, 6:], torch.eye(4))


def test_mask_and_labels_of_the_data() -> None:
    mask = torch.tensor([False, True, False, True, True])
    data = ring(train_mask=mask, val_mask=~mask, y=torch.tensor([0, 2, 1, 0, 1]), name="ring", age=torch.rand(5, 2))
    out = ClassVirtualNodes(3)(data)
    given_ids = ClassVirtualNodes(3)(data, torch.tensor([1, 3, 4]), torch.tensor([2, 0, 1]))
    assert torch.equal(out.edge_index, given_ids.edge_index)
    assert out.edge_index[:, 10:13].tolist() == [[1, 3, 4], [7, 5, 6]]
    assert out.y.tolist() == [0, 2, 1, 0, 1, 0, 1, 2]
    assert not out.train_mask[5:].any()
    assert not out.val_mask[5:].any()
    assert torch.equal(out.age[:5], data.age)
    assert out.age.shape == (8, 2)
    assert out.name == "ring"
    # The given graph stays as it was.
    assert (data.num_nodes, data.y.numel(), data.num_edges) == (5, 5, 10)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_edges_by_brute_force(data: st.DataObject) -> None:
    size, classes = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    chosen = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size))
    y = torch.tensor([data.draw(st.integers(0, classes - 1)) for _ in range(size)])
    graph = Data(x=torch.randn(size, 2), edge_index=torch.zeros(2, 1, dtype=torch.long))
    out = ClassVirtualNodes(classes)(graph, torch.tensor(chosen, dtype=torch.long), y)
    wanted = {(v, size + int(y[v]), 1 + int(y[v])) for v in chosen}
    wanted |= {(size + int(y[v]), v, 1 + classes + int(y[v])) for v in chosen} | {(0, 0, 0)}
    rows = [*out.edge_index.tolist(), out.edge_type.tolist()]
    assert set(zip(*rows, strict=True)) == wanted
    assert out.edge_index.size(1) == 1 + 2 * len(chosen)


@pytest.mark.parametrize(
    ("nodes", "y", "error", "message"),
    [
        (torch.tensor([0, 1]), torch.tensor([0, 3]), ValueError, r"y must be in 0 to 2 \(got 3\)"),
        (torch.tensor([0]), torch.tensor([-1]), ValueError, r"got -1"),
        (torch.tensor([0, 1]), torch.tensor([0]), ValueError, "one for each of 2 nodes"),
        (torch.tensor([0]), torch.tensor([0.5]), TypeError, "class numbers"),
        (torch.tensor([5]), torch.tensor([0]), IndexError, "outside"),
        (torch.tensor([True, False]), torch.tensor([0]), ValueError, r"a mask \[5\]"),
        (None, torch.tensor([0]), TypeError, "nodes must be a tensor"),
        (torch.tensor([0]), None, TypeError, "y must be a tensor"),
    ],
)
def test_what_is_refused(nodes, y, error, message) -> None:
    with pytest.raises(error, match=message):
        ClassVirtualNodes(3)(ring(), nodes, y)


def test_graphs_that_are_refused() -> None:
    nodes, y = torch.tensor([0]), torch.tensor([0])
    with pytest.raises(ValueError, match="x and edge_index"):
        ClassVirtualNodes(3)(Data(edge_index=RING, num_nodes=5), nodes, y)
    with pytest.raises(ValueError, match="edge_attr"):
        ClassVirtualNodes(3)(ring(edge_attr=torch.ones(10)), nodes, y)
    with pytest.raises(ValueError, match="num_classes"):
        ClassVirtualNodes(0)
    with pytest.raises(ValueError, match="both, to_virtual"):
        ClassVirtualNodes(3, direction="from_virtual")
