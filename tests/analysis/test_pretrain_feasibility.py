"""Feasibility of pre-training on graphs whose generators are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from graphkit.analysis import (
    Graphon,
    GraphonBasis,
    GraphonEstimator,
    PretrainFeasibility,
    gromov_wasserstein,
    select_pretraining,
)
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.analysis.pretrain_feasibility import _on_simplex
from graphkit.datasets import load

R = 16
U = (torch.arange(R, dtype=torch.float64) + 0.5) / R
A, B = U[:, None], U[None]
FAMILY = [
    Graphon((1 - A) * (1 - B)),
    Graphon(torch.exp(-(A**0.7) - B**0.7)),
    Graphon(0.9 - 0.8 * torch.maximum(A, B)),
    Graphon(torch.where((A < 0.3) & (B < 0.3), 0.9, 0.15).double()),
    Graphon(0.6 - 0.25 * (A + B)),
]


def sets(graphons: list[Graphon], count: int = 20, low: int = 80, high: int = 160, seed: int = 0) -> list[list[Data]]:
    draw, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    return [[w.sample(int(n), draw) for n in rng.integers(low, high + 1, count)] for w in graphons]


@pytest.fixture(scope="module")
def basis() -> GraphonBasis:
    return GraphonBasis([GraphonEstimator(resolution=R).fit(graphs) for graphs in sets(FAMILY)])


def score(basis: GraphonBasis, target: Graphon, **options):
    return PretrainFeasibility(**options).score({"domain": basis}, target)


# Planted mixtures


@pytest.mark.parametrize(
    "alpha", [(0.6, 0, 0.4, 0, 0), (0, 0, 0, 1, 0), (0, 0.3, 0, 0.7, 0), (0, 0, 0.5, 0.5, 0), (1, 0, 0, 0, 0)]
)
def test_planted_mixtures_are_recovered(alpha: tuple[float, ...]) -> None:
    """Exact graphons: the weights come back."""
    exact = GraphonBasis(FAMILY)
    result = score(exact, exact.combine(torch.tensor(alpha)))
    torch.testing.assert_close(result.alpha, torch.tensor(alpha, dtype=torch.float64), atol=0.1, rtol=0)
    assert result.score > -0.005


def test_planted_mixture_of_samples(basis: GraphonBasis) -> None:
    """Estimated graphons, and a target of graphs drawn from 0.6 W_0 + 0.4 W_3."""
    mixed = GraphonBasis(FAMILY).combine(torch.tensor([0.6, 0, 0, 0.4, 0]))
    (graphs,) = sets([mixed], seed=5)
    target = GraphonEstimator(resolution=R).fit(graphs)
    result = score(basis, target)
    assert abs(float(result.alpha[3]) - 0.4) < 0.1
    singles = [score(GraphonBasis([graphon]), target).score for graphon in basis.graphons]
    uniform = score(basis, target, learn_alpha=False)
    assert result.score > max(singles) + 0.03
    assert result.score > uniform.score + 0.02
    (again,) = sets([FAMILY[3]], seed=6)
    assert float(score(basis, GraphonEstimator(resolution=R).fit(again)).alpha[3]) > 0.9


def test_a_target_beyond_the_basis_stays_far(basis: GraphonBasis) -> None:
    bipartite = Graphon(torch.where((A < 0.4) != (B < 0.4), 0.7, 0.02).double())
    assert score(basis, bipartite).score < -0.12


# Properties


def mixtures(seed: int, k: int) -> GraphonBasis:
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(k, 6, 6, generator=draw, dtype=torch.float64)
    return GraphonBasis([Graphon((v + v.t()) / 2) for v in values])


@given(seed=st.integers(0, 1000), k=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_weights_lie_on_the_simplex_and_learning_helps(seed: int, k: int) -> None:
    basis, target = mixtures(seed, k), mixtures(seed + 1, 1).graphons[0]
    learned, uniform = score(basis, target), score(basis, target, learn_alpha=False)
    assert float(learned.alpha.min()) >= 0
    assert abs(float(learned.alpha.sum()) - 1) < 1e-9
    assert learned.score >= uniform.score
    torch.testing.assert_close(uniform.alpha, torch.full((k,), 1 / k, dtype=torch.float64))
    # The distance is that of the generator that comes with it, or less: its plan is not the only one.
    again = float(gromov_wasserstein(learned.generator.values, learned.target.values, n_init=5)[0])
    assert -learned.score <= again + 1e-9


@given(seed=st.integers(0, 1000), k=st.integers(1, 2))
@settings(max_examples=4, deadline=None)
def test_a_further_element_never_makes_it_worse(seed: int, k: int) -> None:
    basis, target = mixtures(seed, k + 1), mixtures(seed + 1, 1).graphons[0]
    fewer = GraphonBasis(basis.graphons[:k])
    assert score(basis, target).score >= score(fewer, target).score
    both = PretrainFeasibility().score({"domain": basis, "topology": fewer}, target)
    assert both.score == max(score(basis, target).score, score(fewer, target).score) == -min(both.distances.values())


@given(seed=st.integers(0, 1000), k=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_least_squares_on_the_simplex(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    columns, goal = rng.random((30, k)), rng.random(30)
    found = _on_simplex(columns, goal)
    assert found.min() >= 0
    assert abs(found.sum() - 1) < 1e-12
    error = ((columns @ found - goal) ** 2).sum()
    for other in rng.dirichlet(np.ones(k), 300):
        assert error <= ((columns @ other - goal) ** 2).sum() + 1e-6


def test_relabelled_graphs_score_the_same() -> None:
    pretrain, target = sets(FAMILY[:2], count=4, low=20, high=30)

    def shuffled(graphs: list[Data]) -> list[Data]:
        orders = [torch.randperm(g.num_nodes) for g in graphs]
        return [Data(edge_index=o[g.edge_index], num_nodes=g.num_nodes) for o, g in zip(orders, graphs, strict=True)]

    feasibility = PretrainFeasibility(estimator=GraphonEstimator(resolution=8), clusters=2)
    first = feasibility.score(pretrain, target)
    again = feasibility.score(shuffled(pretrain), shuffled(target))
    assert abs(first.score - again.score) < 1e-9


# Bases


def test_bases_of_graphs() -> None:
    first, second = sets(FAMILY[2:4], count=6, low=30, high=40)
    feasibility = PretrainFeasibility(estimator=GraphonEstimator(resolution=8), clusters=2)
    result = feasibility.score({"a": first, "b": second}, second)
    assert set(result.distances) == {"all", "domain", "topology"}
    assert result.score > -0.02
    assert feasibility.fit({"a": first, "b": second})["domain"].names == ("a", "b")
    # The same from bases that were fitted before, and from the target's graphon.
    target = feasibility.estimator.fit(second)
    assert feasibility.score(feasibility.fit({"a": first, "b": second}), target).distances == result.distances
    # One domain alone is the same as all.
    assert set(feasibility.score({"a": first}, second).distances) == {"all", "topology"}
    assert set(feasibility.score(first, second).distances) == {"all", "topology"}


def test_resolutions_are_brought_together() -> None:
    small, large = sets([FAMILY[0]], count=3, low=6, high=9)[0], sets([FAMILY[0]], count=3)[0]
    feasibility = PretrainFeasibility(("all",), estimator=GraphonEstimator(resolution=16))
    with pytest.warns(UserWarning, match="reduced"):
        result = feasibility.score(large, small)
    assert result.generator.resolution == result.target.resolution <= 9


def test_selection() -> None:
    a, b, c = sets([FAMILY[0], FAMILY[3], Graphon(torch.full((R, R), 0.05).double())], count=6)
    mixed = GraphonBasis(FAMILY).combine(torch.tensor([0.5, 0, 0, 0.5, 0]))
    (target,) = sets([mixed], count=6, seed=3)
    feasibility = PretrainFeasibility(estimator=GraphonEstimator(resolution=R), clusters=2)
    ranking = select_pretraining({"a": a, "b": b, "c": c}, target, 2, feasibility)
    assert ranking[0][0] == ("a", "b")
    assert sorted(names for names, _ in ranking) == [("a", "b"), ("a", "c"), ("b", "c")]
    values = [result.score for _, result in ranking]
    assert values == sorted(values, reverse=True)
    assert ranking[0][1].score == feasibility.score({"a": a, "b": b}, target).score


def test_repr() -> None:
    result = score(GraphonBasis([FAMILY[0]], ["one"]), FAMILY[0])
    assert repr(result) == "FeasibilityResult(score=-0.0000, basis='domain', alpha=(one: 1.00))"


graph = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bases": ()}, "at least one"),
        ({"bases": ("domains",)}, "did you mean 'domain'"),
        ({"steps": 0}, "steps"),
        ({"clusters": 0}, "clusters"),
        ({"n_init": 0}, "n_init"),
    ],
)
def test_bad_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainFeasibility(**arguments)


@pytest.mark.parametrize(
    ("pretrain", "target", "bases", "message"),
    [
        ([], [graph], "all", "pretrain must hold at least one graph"),
        ({}, [graph], "all", "at least one domain"),
        ({"a": []}, [graph], "all", r"pretrain\['a'\] must hold at least one graph"),
        ([graph], [], "all", "target must hold at least one graph"),
        ([graph], [graph], "domain", "at least two domains"),
        ([Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)], [graph], "all", "undirected"),
    ],
)
@pytest.mark.filterwarnings("ignore:resolution")
def test_bad_graphs(pretrain, target, bases, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainFeasibility(bases).score(pretrain, target)


def test_bad_selection() -> None:
    with pytest.raises(ValueError, match="at least one set"):
        select_pretraining({}, [graph], 1)
    with pytest.raises(ValueError, match=r"k must be in \[1, 1\]"):
        select_pretraining({"a": [graph]}, [graph], 2)


# Real graphs


def test_citation_graphs_are_nearer_to_each_other_than_to_a_grid(needs) -> None:
    """Minesweeper is a grid. Ego-nets of fewer nodes than squares are left out: they are dense whatever they are of."""
    for part in ("planetoid/Cora", "planetoid/CiteSeer", "heterophilous/minesweeper"):
        root = needs(part)
    names = ("Cora", "CiteSeer", "Minesweeper")
    graphs = {name: dataset_graphs(load(name, root), 500) for name in names}
    feasibility = PretrainFeasibility(("all",), estimator=GraphonEstimator(resolution=16))
    bases = {name: feasibility.fit(part) for name, part in graphs.items()}

    def found(source: str, target: str) -> float:
        return feasibility.score(bases[source], bases[target]["all"].graphons[0]).score

    near = min(found("Cora", "CiteSeer"), found("CiteSeer", "Cora"))
    far = max(found("Minesweeper", name) for name in ("Cora", "CiteSeer"))
    assert near > far + 0.05


# Graphs of a dataset


def test_graphs_of_one_graph_and_of_many() -> None:
    egos = dataset_graphs(load("digits"), 40, min_nodes=1)
    assert len(egos) == 40
    assert all(graph.is_undirected() and graph.x is None for graph in egos)
    assert min(graph.num_nodes for graph in dataset_graphs(load("digits"), 40)) >= 16
    many = dataset_graphs(load("graphon-domains"), 30, seed=1)
    assert len(many) == 30
    assert all(30 <= graph.num_nodes <= 60 and graph.is_undirected() for graph in many)
    with pytest.raises(ValueError, match="nycflights is a stream of events"):
        dataset_graphs(load("nycflights"))
    with pytest.raises(ValueError, match="count"):
        dataset_graphs(load("digits"), 0)
