"""Graphons: limits of dense graphs, as step functions on the unit square."""

from __future__ import annotations

import string
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphkit.analysis.graph_set import GraphSet, graph_set
from graphkit.analysis.gromov_wasserstein import monotone_plan
from graphkit.datasets.convert import to_data
from graphkit.datasets.synthetic import bernoulli_graph
from graphkit.ops.csr import counts_to_ptr, ptr_to_index
from graphkit.utils.checks import check_choice, check_int, check_range

METHODS = ("sas", "largest_gap", "usvt", "gwb", "sgwb")


class Graphon:
    r"""A symmetric function :math:`W: [0, 1]^2 \to [0, 1]` that is constant on a grid of r by r squares.

    It generates graphs of any size: nodes draw places :math:`u_i \sim U[0, 1]`, and each pair is an edge with
    probability :math:`W(u_i, u_j)`.

    Args:
        values: ``[r, r]``, symmetric, within [0, 1].

    Raises:
        ValueError: another shape, not symmetric, or values outside [0, 1].

    Example:
        >>> blocks = Graphon(torch.tensor([[0.8, 0.1], [0.1, 0.4]]))
        >>> blocks
        Graphon(resolution=2, density=0.350)
        >>> round(float(blocks.motif_density(torch.tensor([[0, 1, 2], [1, 2, 0]]))), 4)  # triangles
        0.0765
    """

    def __init__(self, values: Tensor) -> None:
        values = torch.as_tensor(values, dtype=torch.float64).detach()
        if values.dim() != 2 or values.size(0) != values.size(1) or not values.numel():
            raise ValueError(f"values must be a square matrix [r, r] (got {list(values.shape)})")
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError("values must lie in [0, 1], as probabilities do")
        if not torch.allclose(values, values.t(), atol=1e-9):
            raise ValueError("values must be symmetric")
        self.values = (values + values.t()) / 2

    @property
    def resolution(self) -> int:
        """Squares a side."""
        return self.values.size(0)

    @property
    def density(self) -> float:
        """Expected share of the pairs that are edges."""
        return float(self.values.mean())

    def sample(self, num_nodes: int, generator: torch.Generator | None = None) -> Data:
        """A random graph, both directions of every edge. O(num_nodes²).

        Raises:
            ValueError: ``num_nodes`` < 1.
        """
        check_int(num_nodes, "num_nodes", 1)
        place = (torch.rand(num_nodes, generator=generator, dtype=torch.float64) * self.resolution).long()
        place = place.clamp(max=self.resolution - 1)
        return bernoulli_graph(self.values[place][:, place], generator)

    def motif_density(self, motif: Any) -> Tensor:
        r"""Probability :math:`t(F, W) = \int \prod_{ij \in E(F)} W(x_i, x_j) \, dx` that random places of the nodes of
        a small graph F have all its edges.

        Args:
            motif: what :func:`graphkit.datasets.to_data` takes, such as an ``edge_index`` or a networkx graph;
                directions and repeated edges do not count.

        Raises:
            ValueError: a self-loop, or more than 8 nodes.
        """
        data = to_data(motif)
        pairs = sorted({(min(a, b), max(a, b)) for a, b in data.edge_index.t().tolist()})
        if any(a == b for a, b in pairs):
            raise ValueError("motif must have no self-loops")
        if data.num_nodes > 8:
            raise ValueError(f"motif must have at most 8 nodes (got {data.num_nodes})")
        if not pairs:
            return torch.ones((), dtype=torch.float64)
        terms = ",".join(string.ascii_letters[a] + string.ascii_letters[b] for a, b in pairs)
        nodes = len({node for pair in pairs for node in pair})
        values = self.values.numpy()
        total = np.einsum(f"{terms}->", *[values] * len(pairs), optimize="greedy")
        return torch.tensor(total / self.resolution**nodes)

    def resize(self, resolution: int) -> Graphon:
        """The same function averaged over another grid; exact where the new side is a multiple of the old one."""
        check_int(resolution, "resolution", 1)
        if resolution == self.resolution:
            return self
        return Graphon(torch.from_numpy(_resized(self.values.numpy(), resolution)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(resolution={self.resolution}, density={self.density:.3f})"


class GraphonBasis:
    r"""Graphons whose convex combinations :math:`f(\alpha) = \sum_i \alpha_i B_i` generate graphs.

    Combinations mean something between graphons whose places agree, as those of :class:`GraphonEstimator` do: they are
    sorted by descending degree. Finer graphons are averaged down to the coarsest.

    Args:
        graphons: at least one.
        names: what each stands for; numbers if None.

    Raises:
        ValueError: no graphon, or not as many names.

    Example:
        >>> basis = GraphonBasis([Graphon(torch.full((2, 2), 0.2)), Graphon(torch.full((2, 2), 0.6))])
        >>> basis.combine(torch.tensor([0.5, 0.5]))
        Graphon(resolution=2, density=0.400)
    """

    def __init__(self, graphons: Sequence[Graphon], names: Sequence[str] | None = None) -> None:
        if not graphons or not all(isinstance(graphon, Graphon) for graphon in graphons):
            raise ValueError(f"graphons must be a list of at least one Graphon (got {graphons!r})")
        resolution = min(graphon.resolution for graphon in graphons)
        self.graphons = [graphon.resize(resolution) for graphon in graphons]
        self.names = tuple(names) if names is not None else tuple(str(i) for i in range(len(graphons)))
        if len(self.names) != len(self.graphons):
            raise ValueError(f"names must have {len(self.graphons)} entries (got {len(self.names)})")

    @property
    def values(self) -> Tensor:
        """``[k, r, r]``."""
        return torch.stack([graphon.values for graphon in self.graphons])

    def combine(self, alpha: Tensor) -> Graphon:
        """The generator of weights ``alpha`` ``[k]``.

        Raises:
            ValueError: another length, negative weights, or a sum other than one.
        """
        alpha = torch.as_tensor(alpha, dtype=torch.float64).detach()
        if alpha.shape != (len(self),):
            raise ValueError(f"alpha must have {len(self)} weights, one a graphon (got {list(alpha.shape)})")
        if bool((alpha < 0).any()) or abs(float(alpha.sum()) - 1) > 1e-6:
            raise ValueError(f"alpha must be at least 0 and sum to 1 (got {alpha.tolist()})")
        return Graphon(torch.einsum("k,kij->ij", alpha, self.values).clamp(0, 1))

    def resize(self, resolution: int) -> GraphonBasis:
        """All graphons averaged over another grid."""
        return GraphonBasis([graphon.resize(resolution) for graphon in self.graphons], self.names)

    def __len__(self) -> int:
        return len(self.graphons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names)}; resolution={self.graphons[0].resolution})"


class GraphonEstimator:
    r"""One graphon from many graphs, as used in `"When to Pre-Train Graph Neural Networks? From Data Generation
    Perspective!" <https://arxiv.org/abs/2303.16458>`_.

    Nodes are sorted by descending degree, so that node ``i`` of ``n`` covers the places from i/n to (i + 1)/n, and a
    square of the grid gets the share of its pairs that are edges, averaged over the graphs. Graphs of different sizes
    fill the whole square. Nodes of one degree share their places, so that the numbering of nodes does not matter. A
    pair of a node with itself is no evidence of a missing edge and is left out. Then:

    - ``"sas"`` (`sorting and smoothing <https://arxiv.org/abs/1402.1888>`_): total-variation denoising.
    - ``"largest_gap"`` (`largest gaps <https://arxiv.org/abs/1105.6147>`_): nodes are cut into log n groups where
      sorted degrees leave the largest gaps, and groups are averaged: a block model whose degrees differ.
    - ``"usvt"`` (`universal singular value thresholding <https://arxiv.org/abs/1212.1247>`_): singular values below
      2.02 sqrt(n / G) are dropped.
    - ``"gwb"`` (`Gromov-Wasserstein barycenter <https://arxiv.org/abs/2012.05644>`_): graphs are aligned with the
      graphon by optimal transport instead of degrees, which alone works where degrees are flat, as in block models of
      equal blocks, whose blocks no sorting can find. ``"sgwb"`` also penalises second differences of the graphon.

    O(edges + r²) for ``"sas"``, all graphs at once; O(n³) of the largest graph for the next two; for barycenters
    O(sum of n³) and O(n² r) a step and graph.

    Args:
        method: one of the above.
        resolution: squares a side, ``r``. Reduced, with a warning, to the nodes of the largest graph.
        pad: place node ``i`` at i/n of the *largest* graph instead, as zero-padding all adjacency matrices to one size
            does, which the paper's code has: the corner of low degrees loses density where sizes vary.
        smoothing: weight of the total variation (``"sas"``) or the second differences (``"sgwb"``).

    Raises:
        ValueError: an unknown method, a resolution below 1, a negative weight.

    Example:
        >>> star = Data(edge_index=torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]]), num_nodes=4)
        >>> GraphonEstimator(resolution=2, smoothing=0).fit([star]).values
        tensor([[0.7500, 0.6000],
                [0.6000, 0.0000]], dtype=torch.float64)
    """

    def __init__(
        self, method: str = "sas", resolution: int = 32, pad: bool = False, smoothing: float | None = None
    ) -> None:
        self.method = check_choice(method, "method", METHODS)
        self.resolution = check_int(resolution, "resolution", 1)
        self.pad = pad
        if smoothing is None:
            smoothing = _SMOOTHING.get(method, 0.0)
        self.smoothing = check_range(smoothing, "smoothing", 0)

    def fit(self, data_list: Sequence[Data] | Batch) -> Graphon:
        """The graphon of undirected graphs; ``edge_weight`` within [0, 1] counts as the probability of the edge.

        Raises:
            ValueError: no graph, a graph without nodes, a directed one, or weights outside [0, 1].
        """
        graphs = graph_set(data_list)
        largest = int(graphs.ptr.diff().max())
        resolution = self.resolution
        if resolution > largest:
            warnings.warn(
                f"resolution={resolution} is larger than the largest graph; it is reduced to its {largest} nodes",
                stacklevel=2,
            )
            resolution = largest
        if self.method == "sas":
            values = _total_variation(_block_means(graphs, resolution, self.pad), self.smoothing)
        elif self.method in ("gwb", "sgwb"):
            smoothing = self.smoothing if self.method == "sgwb" else 0.0
            values = _barycenter(graphs, resolution, smoothing, _block_means(graphs, resolution, self.pad))
        else:
            fine = _block_means(graphs, largest, self.pad)
            number = graphs.ptr.numel() - 1
            fine = _largest_gap(fine) if self.method == "largest_gap" else _threshold(fine, number)
            values = _resized(fine, resolution)
        return Graphon(torch.from_numpy(((values + values.T) / 2).clip(0, 1)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, resolution={self.resolution}, pad={self.pad})"


# Weights that estimated known graphons best.
_SMOOTHING = {"sas": 0.05, "sgwb": 0.3}


# Averages over squares ------------------------------------------------------------------------------------------------


def _block_means(graphs: GraphSet, resolution: int, pad: bool) -> np.ndarray:
    """``[r, r]``: the share of the pairs in each square that are edges, a mean over the graphs.

    Nodes of one degree are a class, whose members spread evenly over the places of all of them.
    """
    index, owner = graphs.neighbors, graphs.owner
    num_graphs = graphs.ptr.numel() - 1
    degree = torch.zeros(index.num_nodes, dtype=torch.float64).index_add_(0, index.row, graphs.weight)
    order = torch.from_numpy(np.lexsort((-degree.numpy().round(9), owner.numpy())))
    new = torch.ones(order.numel(), dtype=torch.bool)
    new[1:] = (owner[order][1:] != owner[order][:-1]) | (degree[order][1:] - degree[order][:-1]).abs().gt(1e-8)
    label = torch.empty_like(order)
    label[order] = new.long().cumsum(0) - 1
    start = new.nonzero().view(-1)
    size = torch.diff(start, append=torch.tensor([order.numel()]))
    graph = owner[order][start]
    nodes = graphs.ptr.diff()[graph]
    if pad:
        nodes = torch.full_like(nodes, int(graphs.ptr.diff().max()))
    # In units of 1 / (nodes * resolution), in which all borders are whole numbers.
    low = (start - graphs.ptr[graph]) * resolution
    high = low + size * resolution
    first, last = low // nodes, (high - 1) // nodes
    pointer = counts_to_ptr(last - first + 1)
    of = ptr_to_index(pointer)
    block = first[of] + torch.arange(of.numel()) - pointer[of]
    overlap = torch.minimum(high[of], (block + 1) * nodes[of]) - torch.maximum(low[of], block * nodes[of])
    # What a node of the class has of the block's width.
    share = overlap.double() / (nodes * size)[of]
    classes = start.numel()
    spread = sp.csr_matrix((share.numpy(), (block.numpy(), of.numpy())), (resolution, classes))
    ends = label[index.edge_index].numpy()
    linked = sp.csr_matrix((graphs.weight.numpy(), (ends[0], ends[1])), (classes, classes))
    edges = (spread @ linked @ spread.T).toarray()
    itself = (spread @ sp.diags(size.double().numpy()) @ spread.T).toarray()
    pairs = num_graphs - itself
    known = pairs > 1e-9 * num_graphs
    values = np.where(known, edges / np.where(known, pairs, 1), 0)
    return _filled(values, known).clip(0, 1)


def _filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Squares without a pair (of a node with itself alone) get the mean of their known neighbours in the row."""
    if known.all():
        return values
    r = len(values)
    row, col = np.nonzero(~known)
    total, count = np.zeros(row.size), np.zeros(row.size)
    for step in (-1, 1):
        beside = (col + step).clip(0, r - 1)
        there = known[row, beside] & (beside == col + step)
        total += np.where(there, values[row, beside], 0)
        count += there
    values[row, col] = total / np.maximum(count, 1)
    return (values + values.T) / 2


def _resized(values: np.ndarray, resolution: int) -> np.ndarray:
    """Averages of a step function over another grid."""
    old = len(values)
    low = np.maximum(np.arange(resolution)[:, None] * old, np.arange(old)[None] * resolution)
    high = np.minimum(np.arange(1, resolution + 1)[:, None] * old, np.arange(1, old + 1)[None] * resolution)
    share = (high - low).clip(min=0) / old
    return (share @ values @ share.T).clip(0, 1)


# What each method does with them --------------------------------------------------------------------------------------


def _total_variation(values: np.ndarray, weight: float, steps: int = 200) -> np.ndarray:
    """argmin of |u - values|² / 2 + weight TV(u), by Chambolle's projection on the dual."""
    if weight == 0 or len(values) < 2:
        return values

    def divergence(dual: np.ndarray) -> np.ndarray:
        out = np.zeros_like(values)
        for axis in (0, 1):
            part = np.moveaxis(dual[axis], axis, 0)
            change = np.diff(part, axis=0, prepend=0)
            change[-1] = -part[-2]
            out += np.moveaxis(change, 0, axis)
        return out

    def gradient(u: np.ndarray) -> np.ndarray:
        return np.stack([np.diff(u, axis=axis, append=np.take(u, [-1], axis)) for axis in (0, 1)])

    dual = np.zeros((2, *values.shape))
    for _ in range(steps):
        ascent = gradient(divergence(dual) - values / weight)
        dual = (dual + 0.25 * ascent) / (1 + 0.25 * np.sqrt((ascent**2).sum(0)))
    return values - weight * divergence(dual)


def _largest_gap(values: np.ndarray) -> np.ndarray:
    """Block means between the largest gaps of the sorted degree function."""
    n = len(values)
    degree = values.mean(1)
    order = np.argsort(-degree, kind="stable")
    groups = int(np.log2(n)) + 1
    gaps = degree[order][:-1] - degree[order][1:]
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: groups - 1]) + 1
    label = np.empty(n, dtype=np.int64)
    label[order] = np.searchsorted(cuts, np.arange(n), side="right")
    member = np.eye(cuts.size + 1)[label]
    count = member.sum(0)
    means = (member.T @ values @ member) / np.outer(count, count)
    return means[label][:, label]


def _threshold(values: np.ndarray, num_graphs: int) -> np.ndarray:
    """Without the singular values that noise alone would give a mean of so many graphs."""
    u, s, v = np.linalg.svd(values)
    s = np.where(s >= 2.02 * np.sqrt(len(values) / num_graphs), s, 0)
    return ((u * s) @ v).clip(0, 1)


# Barycenters ----------------------------------------------------------------------------------------------------------


def _barycenter(graphs: GraphSet, resolution: int, smoothing: float, sorted_mean: np.ndarray) -> np.ndarray:
    """The graphon of least mean distance to the graphs, from two starts: sorted by degree, and by spectrum."""
    adjacency = _matrices(graphs)
    orders = [_spectral_order(matrix) for matrix in adjacency]
    anchor = int(np.argmax([len(matrix) for matrix in adjacency]))
    spectral = _resized(adjacency[anchor][np.ix_(orders[anchor], orders[anchor])], resolution)
    found = [
        _aligned_mean(adjacency, orders, start, smoothing) for start in (sorted_mean, _total_variation(spectral, 0.5))
    ]
    values, _ = min(found, key=lambda pair: pair[1])
    by_degree = np.argsort(-values.mean(1), kind="stable")
    return values[np.ix_(by_degree, by_degree)]


def _aligned_mean(
    adjacency: list[np.ndarray], orders: list[np.ndarray], values: np.ndarray, smoothing: float, rounds: int = 3
) -> tuple[np.ndarray, float]:
    """Align every graph with the graphon, then average the aligned graphs; and the mean squared distance at the end."""
    r = len(values)
    plans: list[np.ndarray] = []
    costs: list[float] = []
    for turn in range(rounds):
        for k, matrix in enumerate(adjacency):
            if turn == 0:
                by_degree = np.argsort(-matrix.sum(1), kind="stable")
                starts = [_in_order(r, order) for order in (by_degree, orders[k], orders[k][::-1])]
                plan, cost = min((_align(values, matrix, start) for start in starts), key=lambda pair: pair[1])
                plans.append(plan)
                costs.append(cost)
            else:
                plans[k], costs[k] = _align(values, matrix, plans[k])
        # A node has no pair with itself: what it would have there is left out, as in the averages over squares.
        edges = sum(plan @ matrix @ plan.T for plan, matrix in zip(plans, adjacency, strict=True)) * r * r
        pairs = sum(1 - r * r * plan @ plan.T for plan in plans)
        known = pairs > 1e-9 * len(plans)
        values = _filled(np.where(known, edges / np.where(known, pairs, 1), 0), known)
        values = _smoothed((values + values.T) / 2, smoothing).clip(0, 1)
    return values, float(np.mean(costs))


def _align(values: np.ndarray, matrix: np.ndarray, plan: np.ndarray, steps: int = 3) -> tuple[np.ndarray, float]:
    """Proximal optimal transport from ``plan``: each step pays for going away from the one before."""
    r, n = plan.shape
    here, there = np.full(r, 1 / r), np.full(n, 1 / n)
    constant = (values**2 @ here)[:, None] + (there @ matrix**2)[None]
    for _ in range(steps):
        gradient = 2 * (constant - 2 * values @ plan @ matrix)
        kernel = plan * np.exp(-(gradient - gradient.min(1, keepdims=True)) / 0.02) + 1e-300
        right = np.ones(n)
        for _ in range(20):
            left = here / (kernel @ right)
            right = there / (left @ kernel)
        plan = left[:, None] * kernel * right
    return plan, float(((constant - 2 * values @ plan @ matrix) * plan).sum())


def _in_order(r: int, order: np.ndarray) -> np.ndarray:
    """A plan that is near the one that puts the nodes in ``order``, and positive."""
    n = len(order)
    plan = np.empty((r, n))
    plan[:, order] = monotone_plan(np.full(r, 1 / r), np.full(n, 1 / n))
    return 0.9 * plan + 0.1 / (r * n)


def _spectral_order(matrix: np.ndarray) -> np.ndarray:
    """Nodes along the eigenvector of the adjacency's second largest absolute eigenvalue, which shows flat blocks."""
    if len(matrix) < 2:
        return np.arange(len(matrix))
    value, vector = scipy.linalg.eigh(matrix)
    return np.argsort(vector[:, np.argsort(-np.abs(value))[1]], kind="stable")


def _smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """argmin of |u - values|² + weight (|D u|² + |u D'|²) with second differences D, a Sylvester equation."""
    r = len(values)
    if weight == 0 or r < 3:
        return values
    second = np.diff(np.eye(r), 2, axis=0)
    side = np.eye(r) / 2 + weight * second.T @ second
    return scipy.linalg.solve_sylvester(side, side, values)


def _matrices(graphs: GraphSet) -> list[np.ndarray]:
    """Each graph's adjacency matrix."""
    index = graphs.neighbors
    whole = sp.csr_matrix((graphs.weight.numpy(), index.col.numpy(), index.rowptr.numpy()), (index.num_nodes,) * 2)
    bounds = graphs.ptr.tolist()
    return [whole[a:b, a:b].toarray() for a, b in pairwise(bounds)]
