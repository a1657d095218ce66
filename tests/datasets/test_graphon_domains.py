"""Planted graph domains: densities, labels, splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphkit.datasets import load
from graphkit.datasets.synthetic import GRAPHON_DOMAINS, GRAPHON_SOURCES, bernoulli_graph, graphon_domains

NAMES = list(GRAPHON_DOMAINS)


def test_shapes_are_sorted_and_have_mean_one() -> None:
    for shape, density in GRAPHON_DOMAINS.values():
        assert shape.mean() == pytest.approx(1)
        np.testing.assert_allclose(shape, shape.T)
        assert bool((np.diff(shape.mean(1)) <= 1e-12).all())
        # At no strength a probability is cut off, but for the peak of the power law.
        assert (density * shape > 1).mean() < 0.01


def test_graphs_have_the_density_of_their_domain_whatever_the_label() -> None:
    graphs = graphon_domains()
    assert len(graphs) == 240 * len(NAMES)
    density = torch.tensor([g.num_edges / (g.num_nodes * (g.num_nodes - 1)) for g in graphs])
    label, domain = (torch.cat([graph[key] for graph in graphs]) for key in ("y", "domain"))
    assert torch.equal(label < 0, domain < GRAPHON_SOURCES)
    for d, name in enumerate(NAMES):
        here = density[domain == d]
        error = float(here.std()) / here.numel() ** 0.5
        assert abs(float(here.mean()) - GRAPHON_DOMAINS[name][1]) < 4 * error
        if d >= GRAPHON_SOURCES:
            y = label[domain == d]
            assert 0.4 < float(y.float().mean()) < 0.6
            apart = float(here[y == 1].mean() - here[y == 0].mean())
            assert abs(apart) < 4 * float(here.std()) * (4 / here.numel()) ** 0.5


def test_the_label_is_the_strength_of_the_structure() -> None:
    """Degrees vary more within graphs of class 1."""
    graphs = [graph for graph in graphon_domains(60) if int(graph.domain) == NAMES.index("sparse core")]
    spread = []
    for graph in graphs:
        degree = torch.bincount(graph.edge_index[0], minlength=graph.num_nodes).double()
        spread.append(float(degree.std() / degree.mean()))
    y = torch.tensor([int(graph.y) for graph in graphs])
    assert float(torch.tensor(spread)[y == 1].mean()) > float(torch.tensor(spread)[y == 0].mean()) + 0.05


def test_graphs_are_simple_and_a_seed_fixes_them() -> None:
    first, again, other = graphon_domains(2), graphon_domains(2), graphon_domains(2, seed=1)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.edge_index, b.edge_index)
        assert a.is_undirected()
        assert not a.has_self_loops()
        assert a.edge_index.unique(dim=1).size(1) == a.num_edges
        assert 30 <= a.num_nodes <= 60
        assert not torch.equal(a.edge_index, c.edge_index)
    with pytest.raises(ValueError, match="num_graphs"):
        graphon_domains(0)


def test_bernoulli_graph() -> None:
    draw = torch.Generator().manual_seed(0)
    assert bernoulli_graph(torch.zeros(4, 4), draw).edge_index.shape == (2, 0)
    assert bernoulli_graph(torch.ones(4, 4), draw).num_edges == 12
    probability = torch.tensor([[0.5, 0.9, 0.0], [0.9, 0.5, 0.3], [0.0, 0.3, 0.5]])
    count = torch.zeros(3, 3)
    for _ in range(2000):
        edges = bernoulli_graph(probability, draw).edge_index
        count[edges[0], edges[1]] += 1
    assert torch.allclose(count / 2000, probability - torch.diag(probability.diag()), atol=0.05)


def test_the_dataset_and_its_split() -> None:
    dataset = load("graphon-domains")
    assert len(dataset.graphs) == dataset.info.graphs
    nodes = sum(graph.num_nodes for graph in dataset.graphs) / len(dataset.graphs)
    edges = sum(graph.num_edges for graph in dataset.graphs) / len(dataset.graphs) / 2
    assert (round(nodes, 2), round(edges, 2)) == (dataset.info.nodes, dataset.info.edges)
    split = dataset.split(3)
    label, domain = (torch.tensor([int(graph[key]) for graph in dataset.graphs]) for key in ("y", "domain"))
    for part in (split.train, split.valid):
        for d in range(GRAPHON_SOURCES, len(NAMES)):
            for y in (0, 1):
                assert int(((domain[part] == d) & (label[part] == y)).sum()) == 10
    whole = torch.cat([split.train, split.valid, split.test])
    assert torch.equal(whole.sort().values, (label >= 0).nonzero().view(-1))
