"""Descriptors against networkx, and groups of graphs that were planted."""

from __future__ import annotations

import warnings

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import from_networkx, to_undirected

from graphkit.analysis import graph_descriptors, split_graphs
from graphkit.analysis.graph_descriptors import NAMES


def by_networkx(graph: nx.Graph) -> list[float]:
    degree = [d for _, d in graph.degree]
    # Of regular graphs the correlation is not defined; networkx may return rounding noise.
    flat = len({d for edge in graph.edges for d in (graph.degree[edge[0]], graph.degree[edge[1]])}) < 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        correlation = 0.0 if flat else nx.degree_pearson_correlation_coefficient(graph)
        assortativity = 0.0 if flat else nx.degree_assortativity_coefficient(graph)
    return [
        float(np.mean(degree)),
        float(np.std(degree)),
        nx.density(graph),
        float(np.mean(list(nx.closeness_centrality(graph).values()))),
        correlation,
        assortativity,
        nx.transitivity(graph),
        nx.average_clustering(graph),
    ]


def random_graphs(count: int) -> list[nx.Graph]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        n = int(rng.integers(1, 40))
        if i % 3 == 0:
            graph = nx.gnp_random_graph(n, rng.random(), seed=i)
        elif i % 3 == 1:
            graph = nx.barabasi_albert_graph(n + 3, 2, seed=i)
        else:
            graph = nx.random_geometric_graph(n, 0.3, seed=i)
        made.append(graph)
    return made


def test_equal_to_networkx() -> None:
    graphs = random_graphs(50)
    found = graph_descriptors([plain(graph) for graph in graphs])
    assert found.shape == (50, len(NAMES))
    torch.testing.assert_close(
        found, torch.tensor([by_networkx(g) for g in graphs], dtype=torch.float64), atol=1e-9, rtol=1e-9
    )


def plain(graph: nx.Graph) -> Data:
    edges = torch.tensor(list(graph.edges), dtype=torch.long).view(-1, 2).t()
    return Data(edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=graph.number_of_nodes())


@pytest.mark.parametrize(
    "graph",
    [nx.star_graph(6), nx.complete_graph(5), nx.cycle_graph(7), nx.empty_graph(3), nx.path_graph(2), nx.empty_graph(1)],
)
def test_special_graphs(graph: nx.Graph) -> None:
    found = graph_descriptors([plain(graph)])[0]
    torch.testing.assert_close(found, torch.tensor(by_networkx(graph), dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_closeness_of_large_graphs_is_that_of_sampled_nodes() -> None:
    graph = nx.barabasi_albert_graph(300, 3, seed=0)
    exact = by_networkx(graph)
    found = graph_descriptors([plain(graph)])[0]
    assert abs(float(found[3]) - exact[3]) < 0.02
    assert float(found[3]) != exact[3]
    torch.testing.assert_close(
        found[[0, 1, 2, 4, 5, 6, 7]], torch.tensor(exact, dtype=torch.float64)[[0, 1, 2, 4, 5, 6, 7]]
    )
    assert abs(float(graph_descriptors([plain(graph)], closeness_sources=300)[0, 3]) - exact[3]) < 1e-9


def test_the_numbering_does_not_matter_and_graphs_do_not_mix() -> None:
    graphs = [plain(graph) for graph in random_graphs(9)]
    shuffled = []
    for i, graph in enumerate(graphs):
        order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(i))
        shuffled.append(Data(edge_index=order[graph.edge_index], num_nodes=graph.num_nodes))
    found = graph_descriptors(graphs)
    torch.testing.assert_close(graph_descriptors(shuffled), found)
    torch.testing.assert_close(torch.cat([graph_descriptors([graph]) for graph in graphs]), found)
    torch.testing.assert_close(graph_descriptors(Batch.from_data_list(graphs)), found)


def test_repeated_edges_and_self_loops_do_not_count() -> None:
    edges = torch.tensor([[0, 1, 1, 2, 0, 1, 2], [1, 0, 2, 1, 1, 0, 2]])
    messy = graph_descriptors([Data(edge_index=edges, num_nodes=3)])
    torch.testing.assert_close(messy, graph_descriptors([plain(nx.path_graph(3))]))


# Groups


def test_topology_finds_planted_groups() -> None:
    stars = [plain(nx.star_graph(8 + i % 3)) for i in range(6)]
    cliques = [plain(nx.complete_graph(6 + i % 2)) for i in range(4)]
    rings = [plain(nx.cycle_graph(10 + i % 2)) for i in range(5)]
    mixed = [stars[0], cliques[0], rings[0], *stars[1:], *cliques[1:], *rings[1:]]
    groups = split_graphs(mixed, clusters=3)
    assert [len(group) for group in groups] == [6, 4, 5]
    assert all(any(graph is star for star in stars) for graph in groups[0])


def test_fewer_clusters_where_graphs_do_not_differ() -> None:
    same = [plain(nx.cycle_graph(5))] * 4
    assert [len(group) for group in split_graphs(same)] == [4]


def test_domains_and_all() -> None:
    graphs = [plain(nx.path_graph(n)) for n in (2, 3, 4)]
    assert split_graphs(graphs, "all") == [graphs]
    groups = split_graphs(graphs, "domain", domains=["b", "a", "b"])
    assert [[g.num_nodes for g in group] for group in groups] == [[2, 4], [3]]


@pytest.mark.parametrize(
    ("graphs", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "at least one graph"),
        (plain(nx.path_graph(3)), {}, TypeError, "EgoNets"),
        ([3], {}, TypeError, r"data_list\[0\]"),
        ([Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=0)], {}, ValueError, "num_nodes=0"),
        (
            [Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)],
            {},
            ValueError,
            r"data_list\[0\] must be undirected",
        ),
        ([Data(edge_index=torch.tensor([[0, 2], [2, 0]]), num_nodes=2)], {}, IndexError, r"data_list\[0\]"),
        ([Data(edge_index=torch.zeros(2, 1), num_nodes=2)], {}, ValueError, "integers"),
        ([plain(nx.path_graph(3))], {"by": "size"}, ValueError, "by must be one of"),
        ([plain(nx.path_graph(3))], {"by": "domain"}, ValueError, "domains must name"),
        ([plain(nx.path_graph(3))], {"by": "domain", "domains": [1, 2]}, ValueError, "got 2"),
        ([plain(nx.path_graph(3))], {"clusters": 0}, ValueError, "clusters"),
    ],
)
def test_bad_input(graphs, arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        split_graphs(graphs, **arguments)


def test_which_graph_is_directed_is_told() -> None:
    good = Data(edge_index=to_undirected(torch.tensor([[0, 1], [1, 2]])), num_nodes=3)
    with pytest.raises(ValueError, match=r"data_list\[1\]"):
        graph_descriptors([good, Data(edge_index=torch.tensor([[0, 1, 2], [1, 0, 0]]), num_nodes=3), good])


def test_networkx_graphs_through_pyg() -> None:
    assert graph_descriptors([from_networkx(nx.complete_graph(4))])[0, 7] == 1
