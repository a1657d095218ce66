"""Graphons: estimates of known ones, samples, motif densities by brute force."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Data

from graphkit.analysis import Graphon, GraphonBasis, GraphonEstimator, gromov_wasserstein
from graphkit.analysis.graph_set import graph_set
from graphkit.analysis.graphon import METHODS, _block_means, _resized, _smoothed, _total_variation
from graphkit.datasets.synthetic import bernoulli_graph

MONOTONE = {
    "product": lambda u, v: (1 - u) * (1 - v),
    "exponential": lambda u, v: np.exp(-(u**0.7) - v**0.7),
    "largest": lambda u, v: 0.8 * np.exp(-(np.maximum(u, v) ** 0.75)),
    "sum": lambda u, v: 1 - (u + v) / 2,
}


def on_grid(function, r: int) -> Tensor:
    """Averages over the squares, by many points in each."""
    u = (np.arange(8 * r) + 0.5) / (8 * r)
    return torch.from_numpy(_resized(function(u[:, None], u[None]), r))


def draw(function, sizes: list[int], seed: int) -> list[Data]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        u = torch.rand(n, generator=generator, dtype=torch.float64).numpy()
        made.append(bernoulli_graph(torch.from_numpy(function(u[:, None], u[None])), generator))
    return made


def sizes(count: int, low: int, high: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(low, high + 1, count).tolist()


def relabelled(graph: Data, seed: int) -> Data:
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(seed))
    return Data(edge_index=order[graph.edge_index], num_nodes=graph.num_nodes)


def rmse(a: Tensor, b: Tensor) -> float:
    return float(((a - b) ** 2).mean().sqrt())


# Estimates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MONOTONE))
def test_error_of_an_estimate_falls_with_size(name: str) -> None:
    function = MONOTONE[name]
    truth = on_grid(function, 32)
    errors = [
        rmse(GraphonEstimator().fit(draw(function, sizes(20, low, high), seed=1)).values, truth)
        for low, high in ((40, 50), (80, 160), (300, 400))
    ]
    assert errors[1] <= 0.06
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_knows_a_block_model(method: str) -> None:
    """Two blocks whose degrees differ."""
    truth = Graphon(torch.tensor([[0.7, 0.1], [0.1, 0.3]]))
    generator = torch.Generator().manual_seed(0)
    graphs = [truth.sample(n, generator) for n in sizes(10, 60, 80)]
    found = GraphonEstimator(method, resolution=16).fit(graphs)
    flat = torch.full((16, 16), truth.density, dtype=torch.float64)
    assert float(gromov_wasserstein(found.values, truth.resize(16).values, n_init=5)[0]) < 0.13
    assert rmse(found.values, truth.resize(16).values) < 0.6 * rmse(flat, truth.resize(16).values)


@pytest.mark.parametrize("method", ["gwb", "sgwb"])
def test_only_barycenters_find_blocks_with_flat_degrees(method: str) -> None:
    truth = Graphon(torch.tensor([[0.7, 0.1], [0.1, 0.7]])).resize(16)
    generator = torch.Generator().manual_seed(0)
    graphs = [truth.sample(n, generator) for n in sizes(8, 60, 70)]
    distance = {
        name: float(gromov_wasserstein(GraphonEstimator(name, 16).fit(graphs).values, truth.values, n_init=10)[0])
        for name in ("sas", method)
    }
    assert distance["sas"] > 0.22
    assert distance[method] < 0.17


@given(seed=st.integers(0, 1000), count=st.integers(1, 4), r=st.integers(1, 6), pad=st.booleans())
@settings(max_examples=30, deadline=None)
def test_averages_are_those_of_the_sorted_matrices(seed: int, count: int, r: int, pad: bool) -> None:
    """Against dense step functions on a fine common grid; degrees are made distinct by weights."""
    rng = np.random.default_rng(seed)
    graphs, dense = [], []
    for _ in range(count):
        n = int(rng.integers(max(r, 3), 8))
        matrix = np.triu(rng.random((n, n)), 1)
        matrix = matrix + matrix.T
        row, col = np.nonzero(matrix)
        edges = torch.from_numpy(np.stack([row, col]))
        graphs.append(Data(edge_index=edges, edge_weight=torch.from_numpy(matrix[row, col]), num_nodes=n))
        order = np.argsort(-matrix.sum(1), kind="stable")
        dense.append(matrix[np.ix_(order, order)])
    size = max(len(m) for m in dense)
    known = 0.0
    total = 0.0
    for matrix in dense:
        n = size if pad else len(matrix)
        whole = np.zeros((n, n))
        whole[: len(matrix), : len(matrix)] = matrix
        itself = np.zeros((n, n))
        itself[: len(matrix), : len(matrix)] = np.eye(len(matrix))
        total = total + _mean(whole, r)
        known = known + 1 - _mean(itself, r)
    expected = np.where(known > 1e-9, total / np.where(known > 1e-9, known, 1), np.nan)
    found = _block_means(graph_set(graphs), r, pad)
    there = ~np.isnan(expected)
    np.testing.assert_allclose(found[there], expected[there], atol=1e-12)


def _mean(matrix: np.ndarray, r: int) -> np.ndarray:
    """Averages over r by r squares through a grid that both divide."""
    n = len(matrix)
    fine = np.kron(matrix, np.ones((r, r)))  # n * r cells a side
    return fine.reshape(r, n, r, n).mean((1, 3))


def test_relabelling_changes_nothing() -> None:
    """Also among nodes of one degree, which sorting alone leaves to chance."""
    graphs = [*draw(MONOTONE["sum"], sizes(4, 20, 40), 3)]
    edges = torch.tensor(list(nx.cycle_graph(12).edges)).t()
    graphs.append(Data(edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=12))
    again = [relabelled(graph, i) for i, graph in enumerate(graphs)]
    for method in ("sas", "largest_gap", "usvt"):
        estimator = GraphonEstimator(method, resolution=12)
        torch.testing.assert_close(estimator.fit(again).values, estimator.fit(graphs).values)


def test_complete_graphs_are_complete() -> None:
    """A node's missing pair with itself is no evidence, also where a square holds nothing else."""
    for n, r in ((5, 5), (7, 3), (12, 5)):
        edges = torch.tensor(list(nx.complete_graph(n).edges)).t()
        graph = Data(edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=n)
        torch.testing.assert_close(GraphonEstimator(resolution=r).fit([graph]).values, torch.ones(r, r).double())


def test_padding_loses_density_where_degrees_are_low() -> None:
    """Complete graphs of two sizes have the graphon 1; padded, the smaller one leaves the corner empty."""
    graphs = []
    for n in (10, 20):
        edges = torch.tensor(list(nx.complete_graph(n).edges)).t()
        graphs.append(Data(edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=n))
    plain, padded = (GraphonEstimator(resolution=4, pad=pad, smoothing=0).fit(graphs).values for pad in (False, True))
    torch.testing.assert_close(plain, torch.ones(4, 4).double())
    torch.testing.assert_close(padded[2:], torch.full((2, 4), 0.5).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(padded[:2, :2], torch.ones(2, 2).double())


def test_weights_are_probabilities() -> None:
    edges = torch.tensor([[0, 1, 0, 2, 1, 2], [1, 0, 2, 0, 2, 1]])
    graph = Data(edge_index=edges, edge_weight=torch.full((6,), 0.25), num_nodes=3)
    torch.testing.assert_close(GraphonEstimator(resolution=3).fit([graph]).values, torch.full((3, 3), 0.25).double())


def test_total_variation_is_the_least() -> None:
    """No small change of the result is better; constants stay."""
    rng = np.random.default_rng(0)
    values = rng.random((6, 6))

    def energy(u: np.ndarray) -> float:
        right, down = np.diff(u, axis=1, append=u[:, -1:]), np.diff(u, axis=0, append=u[-1:])
        return float(((u - values) ** 2).sum() / 2 + 0.1 * np.sqrt(right**2 + down**2).sum())

    found = _total_variation(values, 0.1, steps=3000)
    assert energy(found) < energy(values)
    assert abs(found.mean() - values.mean()) < 1e-9
    for _ in range(200):
        assert energy(found + 0.02 * rng.standard_normal((6, 6))) > energy(found) - 1e-4
    np.testing.assert_allclose(_total_variation(values, 100.0, steps=5000), values.mean(), atol=0.05)
    np.testing.assert_allclose(_total_variation(np.full((4, 4), 0.3), 1.0), 0.3)


def test_second_differences_are_penalised_as_said() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((7, 7))
    values = values + values.T
    second = np.diff(np.eye(7), 2, axis=0)

    def energy(u: np.ndarray) -> float:
        return float(((u - values) ** 2).sum() + 0.3 * (((second @ u) ** 2).sum() + ((u @ second.T) ** 2).sum()))

    found = _smoothed(values, 0.3)
    assert energy(found) < energy(values)
    for _ in range(50):
        assert energy(found + 1e-3 * rng.standard_normal((7, 7))) > energy(found)


def test_a_resolution_beyond_the_graphs_is_reduced() -> None:
    graphs = draw(MONOTONE["sum"], [9, 12], 0)
    with pytest.warns(UserWarning, match="resolution=32 is larger than the largest graph; it is reduced to its 12"):
        assert GraphonEstimator().fit(graphs).resolution == 12


# Graphons ------------------------------------------------------------------------------------------------------------


def test_samples_have_the_densities_of_the_graphon() -> None:
    graphon = Graphon(on_grid(MONOTONE["exponential"], 16))
    generator = torch.Generator().manual_seed(0)
    edge, triangle = torch.tensor([[0], [1]]), torch.tensor([[0, 1, 2], [1, 2, 0]])
    found: list[list[float]] = []
    for _ in range(60):
        graph = graphon.sample(60, generator)
        dense = torch.zeros(60, 60)
        dense[graph.edge_index[0], graph.edge_index[1]] = 1
        assert torch.equal(dense, dense.t())
        assert float(dense.diagonal().sum()) == 0
        found.append([float(dense.sum()) / (60 * 59), float((dense @ dense * dense).sum()) / (60 * 59 * 58)])
    values = torch.tensor(found)
    expected = torch.stack([graphon.motif_density(edge), graphon.motif_density(triangle)])
    error = values.std(0) / len(found) ** 0.5
    assert bool(((values.mean(0) - expected).abs() < 3 * error).all())
    assert float(expected[0]) == pytest.approx(graphon.density)


@pytest.mark.parametrize("motif", [nx.path_graph(3), nx.cycle_graph(4), nx.star_graph(3), nx.complete_graph(4)])
def test_motif_density_by_brute_force(motif: nx.Graph) -> None:
    values = on_grid(MONOTONE["largest"], 4)
    total = 0.0
    for places in product(range(4), repeat=motif.number_of_nodes()):
        total += float(np.prod([float(values[places[a], places[b]]) for a, b in motif.edges]))
    assert float(Graphon(values).motif_density(motif)) == pytest.approx(total / 4 ** motif.number_of_nodes())


def test_motif_density_of_the_special_ones() -> None:
    graphon = Graphon(torch.full((3, 3), 0.3))
    assert float(graphon.motif_density(nx.empty_graph(2))) == 1
    # Isolated nodes do not matter, nor do directions.
    with_more = torch.tensor([[0, 3], [3, 0]])
    assert float(graphon.motif_density(with_more)) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="self-loops"):
        graphon.motif_density(torch.tensor([[0], [0]]))
    with pytest.raises(ValueError, match="at most 8 nodes"):
        graphon.motif_density(nx.path_graph(9))


def test_resize() -> None:
    values = on_grid(MONOTONE["sum"], 6)
    graphon = Graphon(values)
    for r in (1, 2, 3, 4, 9, 12):
        assert graphon.resize(r).density == pytest.approx(graphon.density)
    torch.testing.assert_close(graphon.resize(12).values, values.repeat_interleave(2, 0).repeat_interleave(2, 1))
    torch.testing.assert_close(graphon.resize(12).resize(6).values, values)
    torch.testing.assert_close(graphon.resize(3).values, values.view(3, 2, 3, 2).mean((1, 3)))


def test_basis() -> None:
    fine, coarse = Graphon(on_grid(MONOTONE["sum"], 6)), Graphon(torch.full((3, 3), 0.5))
    basis = GraphonBasis([fine, coarse], ["fine", "coarse"])
    assert len(basis) == 2
    mixed = basis.combine(torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(mixed.values, 0.25 * fine.resize(3).values + 0.75 * coarse.values)
    assert repr(basis) == "GraphonBasis(fine, coarse; resolution=3)"
    for alpha, message in (([0.5, 0.6], "sum to 1"), ([-0.5, 1.5], "at least 0"), ([1.0], "2 weights")):
        with pytest.raises(ValueError, match=message):
            basis.combine(torch.tensor(alpha))
    with pytest.raises(ValueError, match="at least one Graphon"):
        GraphonBasis([])
    with pytest.raises(ValueError, match="names must have 2 entries"):
        GraphonBasis([fine, coarse], ["one"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 3), "square"),
        (torch.zeros(0, 0), "square"),
        (torch.full((2, 2), 1.5), "lie in"),
        (torch.full((2, 2), float("nan")), "lie in"),
        (torch.tensor([[0.0, 0.5], [0.2, 0.0]]), "symmetric"),
    ],
)
def test_bad_values(values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graphon(values)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"method must be one of .* \(got 'LP'\)"):
        GraphonEstimator("LP")
    with pytest.raises(ValueError, match="resolution"):
        GraphonEstimator(resolution=0)
    with pytest.raises(ValueError, match="smoothing"):
        GraphonEstimator(smoothing=-1)
    with pytest.raises(ValueError, match="num_nodes"):
        Graphon(torch.ones(1, 1)).sample(0)
    edges = torch.tensor([[0, 1], [1, 0]])
    for graph, message in (
        (Data(edge_index=edges, edge_weight=torch.tensor([2.0, 2.0]), num_nodes=2), "edge_weight must lie in"),
        (Data(edge_index=edges, edge_weight=torch.tensor([0.2, 0.3]), num_nodes=2), "equal weights"),
        (Data(edge_index=edges, edge_weight=torch.tensor([0.2]), num_nodes=2), "must have 2 values"),
        (Data(edge_index=edges[:, :1], num_nodes=2), "undirected"),
        (Data(edge_index=edges, num_nodes=0), "num_nodes=0"),
    ):
        with pytest.raises(ValueError, match=message):
            GraphonEstimator().fit([graph])
    with pytest.raises(ValueError, match="at least one graph"):
        GraphonEstimator().fit([])
