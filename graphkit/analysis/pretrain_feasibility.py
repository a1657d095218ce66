"""Whether pre-training on some graphs can help on others, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias, cast

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.analysis.graph_descriptors import split_graphs
from graphkit.analysis.graph_set import graph_list
from graphkit.analysis.graphon import Graphon, GraphonBasis, GraphonEstimator
from graphkit.analysis.gromov_wasserstein import gromov_wasserstein
from graphkit.utils.checks import check_choice, check_int

Graphs: TypeAlias = Sequence[Data]
BASES = ("all", "domain", "topology")


@dataclass(frozen=True, eq=False)
class FeasibilityResult:
    """What :meth:`PretrainFeasibility.score` found.

    Attributes:
        score: the feasibility: minus the least distance of ``distances``; 0 is best.
        alpha: ``[k]`` weights of the best generator.
        basis: the basis that it belongs to.
        distances: for each basis the distance of its best generator to the target.
        names: what each weight belongs to, such as the domains.
        generator: the best generator itself; graphs that it samples are within the scope of pre-training.
        target: the target's graphon, at the same resolution.
    """

    score: float
    alpha: Tensor
    basis: str
    distances: dict[str, float]
    names: tuple[str, ...]
    generator: Graphon
    target: Graphon

    def __repr__(self) -> str:
        weights = ", ".join(f"{name}: {float(a):.2f}" for name, a in zip(self.names, self.alpha, strict=True))
        return f"{type(self).__name__}(score={self.score:.4f}, basis={self.basis!r}, alpha=({weights}))"


class PretrainFeasibility:
    r"""Feasibility of pre-training, from `"When to Pre-Train Graph Neural Networks? From Data Generation Perspective!"
    <https://arxiv.org/abs/2303.16458>`_.

    Groups of the pre-training graphs give graphons :math:`B_i`, and every convex combination of them generates graphs.
    The score says how well the best of these generators could have made the target graphs, whose graphon is :math:`W`:

    .. math::
        \zeta = - \min_{\mathrm{bases}} \, \min_{\alpha \in \Delta} \, d_{GW}\Big(\sum_i \alpha_i B_i, \; W\Big)

    The bases are ``"all"`` (one graphon of all graphs), ``"domain"`` (one a domain) and ``"topology"`` (one a cluster
    of graphs with like descriptors).

    With the plan of the Gromov-Wasserstein distance held fixed, the weights solve a least-squares problem on the
    simplex,
    and with the weights fixed the plan is improved: neither step makes the distance larger. Elements are added one by
    one, each time from the element alone, from equal weights and from the weights so far; so a further element never
    makes the score worse. Nothing is drawn at random but K-means' start. O(k · steps · r³) after the graphons.

    Args:
        bases: which of the three.
        learn_alpha: fit the weights; equal ones otherwise.
        steps: most alternations of weights and plan from each start.
        estimator: makes the graphons; sorting and smoothing with 32 squares a side if None.
        clusters: clusters of ``"topology"``.
        n_init: starts of each distance, see :func:`~graphkit.analysis.gromov_wasserstein.gromov_wasserstein`.
        seed: start of K-means.

    Raises:
        ValueError: no basis or an unknown one, sizes below 1.

    Example:
        >>> ring, full = Graphon(torch.tensor([[0.1, 0.6], [0.6, 0.1]])), Graphon(torch.full((2, 2), 0.9))
        >>> draw = torch.Generator().manual_seed(0)
        >>> sets = {name: [w.sample(60, draw) for _ in range(4)] for name, w in (("ring", ring), ("full", full))}
        >>> result = PretrainFeasibility(estimator=GraphonEstimator(resolution=8)).score(sets, sets["full"])
        >>> result.score > -0.05
        True
    """

    def __init__(
        self,
        bases: Sequence[str] = BASES,
        learn_alpha: bool = True,
        steps: int = 60,
        estimator: GraphonEstimator | None = None,
        clusters: int = 5,
        n_init: int = 5,
        seed: int = 0,
    ) -> None:
        self.bases = (bases,) if isinstance(bases, str) else tuple(bases)
        if not self.bases:
            raise ValueError(f"bases must name at least one of {', '.join(BASES)} (got none)")
        for name in self.bases:
            check_choice(name, "bases", BASES)
        self.learn_alpha = learn_alpha
        self.steps = check_int(steps, "steps", 1)
        self.estimator = estimator or GraphonEstimator()
        self.clusters = check_int(clusters, "clusters", 1)
        self.n_init = check_int(n_init, "n_init", 1)
        self.seed = seed

    def fit(self, pretrain: Graphs | Mapping[str, Graphs]) -> dict[str, GraphonBasis]:
        """The bases of pre-training graphs, which :meth:`score` takes in their place: once for many targets.

        Args:
            pretrain: the graphs; a mapping if they come from several domains. One domain alone has no basis of its own.
        """
        if isinstance(pretrain, Mapping):
            sets = {str(name): graph_list(graphs, f"pretrain[{name!r}]") for name, graphs in pretrain.items()}
            if not sets:
                raise ValueError("pretrain must hold at least one domain (got none)")
        else:
            sets = {"all": graph_list(pretrain, "pretrain")}
        graphs = [graph for part in sets.values() for graph in part]
        found = {}
        for basis in self.bases:
            if basis == "all":
                groups = {"all": graphs}
            elif basis == "domain":
                groups = sets if len(sets) > 1 else {}
            else:
                parts = split_graphs(graphs, "topology", clusters=self.clusters, seed=self.seed)
                groups = {f"cluster {i} ({len(part)})": part for i, part in enumerate(parts)}
            if groups:
                found[basis] = GraphonBasis([self.estimator.fit(part) for part in groups.values()], list(groups))
        if not found:
            raise ValueError("bases=('domain',) needs a mapping of at least two domains (got one)")
        return found

    def score(
        self, pretrain: Graphs | Mapping[str, Graphs] | Mapping[str, GraphonBasis], target: Graphs | Graphon
    ) -> FeasibilityResult:
        """Feasibility of pre-training on ``pretrain`` for ``target``.

        Args:
            pretrain: graphs, graphs by domain, or what :meth:`fit` made of them.
            target: graphs, or their graphon.

        Raises:
            ValueError: no graphs, graphs without nodes, directed ones.
        """
        fitted = isinstance(pretrain, Mapping) and any(isinstance(part, GraphonBasis) for part in pretrain.values())
        bases = cast(Mapping[str, GraphonBasis], pretrain) if fitted else self.fit(cast(Graphs, pretrain))
        goal = target if isinstance(target, Graphon) else self.estimator.fit(graph_list(target, "target"))
        distances, best = {}, None
        for name, basis in bases.items():
            resolution = min(goal.resolution, basis.graphons[0].resolution)
            here, there = basis.resize(resolution), goal.resize(resolution)
            alpha, distances[name] = self._fit_alpha(here.values, there.values)
            if best is None or distances[name] < distances[best.basis]:
                generator = here.combine(alpha)
                best = FeasibilityResult(-distances[name], alpha, name, distances, here.names, generator, there)
        assert best is not None
        return best

    def _fit_alpha(self, basis: Tensor, target: Tensor) -> tuple[Tensor, float]:
        """Weights ``[k]`` of the graphons ``[k, r, r]``, and the distance of their sum to the target."""
        k = basis.size(0)
        uniform = torch.full((k,), 1 / k, dtype=torch.float64)
        if not self.learn_alpha:
            return uniform, self._distance(uniform, basis, target)[0]
        best, alpha = np.inf, uniform
        for j in range(1, k + 1):
            alone, equal = torch.zeros(2, k, dtype=torch.float64)
            alone[j - 1], equal[:j] = 1, 1 / j
            starts = [alone] if j == 1 else [alone, equal, alpha]
            for found, distance in [self._descend(start, basis[:j], target) for start in starts]:
                if distance < best:
                    best, alpha = distance, found
        return alpha, best

    def _descend(self, alpha: Tensor, basis: Tensor, target: Tensor) -> tuple[Tensor, float]:
        """Weights and plan in turn, as long as the distance falls. Weights beyond the basis stay 0."""
        j, r = basis.size(0), basis.size(1)
        distance, plan = self._distance(alpha, basis, target)
        for _ in range(self.steps):
            # What the generator would have to be under this plan.
            aligned = r * r * plan @ target @ plan.T
            other = torch.zeros_like(alpha)
            other[:j] = torch.from_numpy(_on_simplex(basis.numpy().reshape(j, -1).T, aligned.numpy().ravel()))
            mixed = torch.einsum("k,kij->ij", other[:j], basis)
            value, plan = gromov_wasserstein(mixed, target, init=plan, n_init=1)
            if float(value) > distance - 1e-7:
                break
            alpha, distance = other, float(value)
        return alpha, distance

    def _distance(self, alpha: Tensor, basis: Tensor, target: Tensor) -> tuple[float, Tensor]:
        mixed = torch.einsum("k,kij->ij", alpha[: basis.size(0)], basis)
        value, plan = gromov_wasserstein(mixed, target, n_init=self.n_init)
        return float(value), plan

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bases={self.bases}, learn_alpha={self.learn_alpha}, estimator={self.estimator})"


def _on_simplex(columns: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Weights of least squares among those that are at least 0 and sum to 1, by an active-set method: exact."""
    k = columns.shape[1]
    if k == 1:
        return np.ones(1)
    # A heavy further equation for the sum; the normal equations' root keeps the problem k by k.
    scale = max(np.abs(columns).max(), np.abs(goal).max(), 1e-12) * np.sqrt(len(goal))
    heavy = 1e4 * scale
    q, r = np.linalg.qr(columns)
    weights, _ = scipy.optimize.nnls(np.vstack([r, np.full((1, k), heavy)]), np.append(q.T @ goal, heavy))
    return weights / weights.sum()


def select_pretraining(
    sources: Mapping[str, Graphs], target: Graphs | Graphon, k: int, feasibility: PretrainFeasibility | None = None
) -> list[tuple[tuple[str, ...], FeasibilityResult]]:
    """All choices of ``k`` pre-training sets, the most feasible first.

    Args:
        sources: sets of graphs by name.
        target: graphs, or their graphon.
        k: how many sets to choose; all subsets of this size are tried.
        feasibility: how to score; :class:`PretrainFeasibility` with its defaults if None.

    Raises:
        ValueError: ``k`` is not between 1 and the number of sources.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> sets = {f"{p}": [Graphon(torch.full((1, 1), p)).sample(40, draw) for _ in range(3)] for p in (0.1, 0.5)}
        >>> [names for names, _ in select_pretraining(sets, Graphon(torch.full((8, 8), 0.5)), 1)]
        [('0.5',), ('0.1',)]
    """
    if not sources:
        raise ValueError("sources must hold at least one set of graphs (got none)")
    check_int(k, "k", 1, len(sources))
    scorer = feasibility or PretrainFeasibility()
    goal = target if isinstance(target, Graphon) else scorer.estimator.fit(graph_list(target, "target"))
    found = [(names, scorer.score({name: sources[name] for name in names}, goal)) for names in combinations(sources, k)]
    return sorted(found, key=lambda pair: -pair[1].score)
