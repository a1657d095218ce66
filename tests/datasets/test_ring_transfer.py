"""Rings: their shape, and that the label stands opposite the first node and nowhere else."""

from __future__ import annotations

import networkx
import pytest
import torch
from torch_geometric.utils import to_networkx

from graphkit.datasets import load
from graphkit.datasets.ring_transfer import ring_transfer


@pytest.mark.parametrize(("num_nodes", "num_classes"), [(40, 5), (7, 2)])
def test_the_label_stands_opposite(num_nodes, num_classes):
    graphs = ring_transfer(20, num_nodes, num_classes, seed=3)
    for graph in graphs:
        ring = to_networkx(graph, to_undirected=True)
        assert networkx.is_isomorphic(ring, networkx.cycle_graph(num_nodes))
        assert graph.x.nonzero().tolist() == sorted([[0, num_classes], [num_nodes // 2, int(graph.y)]])
        assert networkx.shortest_path_length(ring, 0, num_nodes // 2) == num_nodes // 2
    assert [int(g.y) for g in graphs] == [int(g.y) for g in ring_transfer(20, num_nodes, num_classes, seed=3)]


def test_labels_are_even_and_the_registry_knows_them():
    dataset = load("ring-transfer")
    counts = torch.bincount(dataset.graphs._data.y)
    assert counts.sum() == 1000
    assert float(((counts - 200) ** 2 / 200).sum()) < 18.5  # chi-square of 4 degrees of freedom, p = 0.001
    split = dataset.split(0)
    assert (split.train.numel(), split.valid.numel(), split.test.numel()) == (800, 100, 100)


@pytest.mark.parametrize("options", [{"num_graphs": 0}, {"num_nodes": 2}, {"num_classes": 1}, {"seed": -1}])
def test_bad_sizes(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        ring_transfer(**options)
