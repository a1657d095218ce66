"""Problems whose answer is a sequence of a graph's own nodes: sorting, convex hulls, Delaunay triangulations, shortest
tours and shortest paths, each with its exact answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import ConvexHull, Delaunay
from torch_geometric.data import Data

from graphkit.ops.cpu.parallel import kernel
from graphkit.utils.checks import check_choice, check_int

#: Largest graph of which :func:`held_karp` finds the shortest tour: its memory and time double with each node.
MOST_CITIES = 16


def sort_graphs(num_graphs: int, min_nodes: int = 5, max_nodes: int = 5, seed: int = 0) -> Data:
    """Uniform numbers; the answer points at them in ascending order. Returns what :func:`convex_hull_graphs` does, with
    ``x`` ``[N, 1]``.

    Example:
        >>> graphs = sort_graphs(2)
        >>> bool((graphs.x[graphs.target[0]].diff(dim=0) > 0).all())
        True
    """
    return _drawn(num_graphs, min_nodes, max_nodes, 1, seed, lambda x: np.argsort(x[:, 0]))


def convex_hull_graphs(num_graphs: int, min_nodes: int = 5, max_nodes: int = 5, seed: int = 0) -> Data:
    """Uniform points in the unit square; the answer is their convex hull, counter-clockwise from its first point in the
    order of input. Several right sequences for one input would blur what is learned, so there is one.

    Args:
        num_graphs: number of sets of points.
        min_nodes, max_nodes: points of a set, drawn uniformly.
        seed: another seed, other points.

    Returns:
        All sets in one ``Data``, as :class:`~graphkit.loader.PackedGraphs` takes it: ``x`` ``[N, 2]``, ``ptr``
        ``[B + 1]`` and ``target`` ``[B, M]``, places in the set's own input, -1 after the end.

    Raises:
        ValueError: fewer than 3 points, or ``max_nodes`` below ``min_nodes``.

    Example:
        >>> convex_hull_graphs(4, 5, 9)
        Data(x=[30, 2], ptr=[5], target=[4, 8])
    """
    return _drawn(num_graphs, check_int(min_nodes, "min_nodes", 3), max_nodes, 2, seed, hull_order)


def delaunay_graphs(num_graphs: int, min_nodes: int = 5, max_nodes: int = 5, seed: int = 0) -> Data:
    """Uniform points in the unit square; the answer is their Delaunay triangulation, three points a triangle, ascending
    within it, triangles by the place of the centre of their inscribed circle, from left to right. Arguments, result and
    errors as :func:`convex_hull_graphs`.

    Example:
        >>> delaunay_graphs(3).target.size(1) % 3
        0
    """
    return _drawn(num_graphs, check_int(min_nodes, "min_nodes", 3), max_nodes, 2, seed, triangle_order)


def tsp_graphs(num_graphs: int, min_nodes: int = 5, max_nodes: int = 5, seed: int = 0) -> Data:
    """Uniform points in the unit square; the answer is the shortest round trip through all, from the first point, in
    the direction in which the second one stands before the last in the input. Arguments, result and errors as
    :func:`convex_hull_graphs`, and at most 16 points.

    Example:
        >>> tsp_graphs(2).target[:, 0].tolist()
        [0, 0]
    """
    check_int(max_nodes, "max_nodes", 1, MOST_CITIES)
    return _drawn(num_graphs, check_int(min_nodes, "min_nodes", 3), max_nodes, 2, seed, held_karp)


class PathGraphs:
    """Draws pieces of a graph whose nodes have places; the answer is the shortest path between two nodes, both
    included.

    A piece is a random node and the nodes that can be reached from it over the shortest ways, in random order, with all
    edges among them. An edge is as long as its ends are apart, so that hardly ever two paths are equally short. The
    ends are drawn among pairs that are not neighbours, if there are any. O(E log n) once for each centre.

    Args:
        graph: a graph with ``pos`` ``[n, D]`` and ``edge_index`` in both directions.
        num_nodes: nodes of a piece.

    Raises:
        ValueError: no ``pos`` or edges, fewer than 3 nodes a piece, or a node without a piece of so many around it.

    Example:
        >>> from graphkit.datasets.synthetic import random_geometric_graph
        >>> pieces = PathGraphs(random_geometric_graph(100, 0.25), num_nodes=12)
        >>> pieces(3)
        Data(x=[36, 4], ptr=[4], target=[3, 3], edge_index=[2, 294])
    """

    def __init__(self, graph: Data, num_nodes: int = 12) -> None:
        if getattr(graph, "pos", None) is None or graph.edge_index is None:
            raise ValueError("graph must have pos [N, D] and edge_index [2, E]")
        self.num_nodes = check_int(num_nodes, "num_nodes", 3)
        self._pos = graph.pos.double().numpy()
        src, dst = graph.edge_index.numpy()
        length = np.linalg.norm(self._pos[src] - self._pos[dst], axis=1)
        self._whole = csr_array((length, (src, dst)), shape=(len(self._pos),) * 2)
        if len(self._pos) < num_nodes:
            raise ValueError(f"graph must have at least num_nodes={num_nodes} nodes (got {len(self._pos)})")
        self._near = np.full((len(self._pos), num_nodes), -1)  # found when first asked for

    def _around(self, centres: np.ndarray) -> np.ndarray:
        new = centres[self._near[centres, 0] < 0]
        for part in np.array_split(new, -(-len(new) // 256)) if len(new) else ():
            away = dijkstra(self._whole, indices=part)
            near = np.argpartition(away, self.num_nodes - 1, axis=1)[:, : self.num_nodes]
            if not np.isfinite(np.take_along_axis(away, near, 1)).all():
                raise ValueError(
                    f"every node must have num_nodes={self.num_nodes} nodes around it (got one that has not)"
                )
            self._near[part] = near
        return self._near[centres]

    def __call__(self, num_graphs: int, seed: int = 0, train: bool = False) -> Data:
        """Pieces around nodes of which every fifth is kept for validation and test, where ``train`` is False.

        Returns:
            As :func:`convex_hull_graphs`, with ``edge_index`` ``[2, E]`` and ``x`` ``[N, D + 2]``: the places, centred
            and scaled in each piece, and marks of the first and of the last node of the path.
        """
        check_int(num_graphs, "num_graphs", 1)
        rng = np.random.default_rng(check_int(seed, "seed", 0))
        allowed = np.flatnonzero((np.arange(len(self._near)) % 5 != 0) == train)
        xs, edges, targets = [], [], []
        centres, which = np.unique(rng.choice(allowed, num_graphs), return_inverse=True)
        place_of = np.full(len(self._pos), -1)
        for number, near in enumerate(self._around(centres)[which]):
            chosen = rng.permutation(near)
            src, dst, length = self._piece(chosen, place_of)
            distance, before = dijkstra(csr_array((length, (src, dst))), return_predecessors=True)
            reached = np.isfinite(distance)
            np.fill_diagonal(reached, False)
            far = reached.copy()
            far[src, dst] = False
            pairs = np.argwhere(far if far.any() else reached)
            first, last = pairs[rng.integers(len(pairs))]
            path = [last]
            while path[-1] != first:
                path.append(before[first, path[-1]])
            targets.append(np.array(path[::-1]))
            place = self._pos[chosen] - self._pos[chosen].mean(0)
            mark = np.zeros((self.num_nodes, 2))
            mark[first, 0] = mark[last, 1] = 1
            xs.append(np.concatenate([place / np.abs(place).max(), mark], axis=1))
            edges.append(np.stack([src, dst]) + number * self.num_nodes)
        out = _packed(xs, targets)
        out.edge_index = torch.from_numpy(np.concatenate(edges, axis=1).astype(np.int64))
        return out

    def _piece(self, chosen: np.ndarray, place_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges among chosen nodes, by their places, and lengths. ``place_of`` is -1 everywhere, before and after."""
        place_of[chosen] = np.arange(len(chosen))
        ptr = self._whole.indptr
        edge = np.concatenate([np.arange(ptr[node], ptr[node + 1]) for node in chosen])
        src = np.repeat(np.arange(len(chosen)), ptr[chosen + 1] - ptr[chosen])
        dst = place_of[self._whole.indices[edge]]
        place_of[chosen] = -1
        return src[dst >= 0], dst[dst >= 0], self._whole.data[edge[dst >= 0]]


def _drawn(
    num_graphs: int, low: int, high: int, width: int, seed: int, solve: Callable[[np.ndarray], np.ndarray]
) -> Data:
    check_int(num_graphs, "num_graphs", 1)
    check_int(low, "min_nodes", 1)
    check_int(high, "max_nodes", low)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    size = rng.integers(low, high + 1, size=num_graphs)
    # As float32, in which models see them, so that an answer is the answer for what they see.
    points = rng.random((size.sum(), width), dtype=np.float32).astype(np.float64)
    xs = np.split(points, np.cumsum(size)[:-1])
    return _packed(xs, [solve(x) for x in xs])


def _packed(xs: list[np.ndarray], targets: list[np.ndarray]) -> Data:
    ptr = np.cumsum([0, *map(len, xs)])
    target = np.full((len(xs), max(map(len, targets))), -1, dtype=np.int64)
    for row, answer in zip(target, targets, strict=True):
        row[: len(answer)] = answer
    return Data(
        x=torch.from_numpy(np.concatenate(xs)).float(), ptr=torch.from_numpy(ptr), target=torch.from_numpy(target)
    )


# Exact answers --------------------------------------------------------------------------------------------------------


def _points(x: Any, least: int) -> np.ndarray:
    points = np.ascontiguousarray(x, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least:
        raise ValueError(f"points must have shape [n, 2] with n >= {least} (got {list(points.shape)})")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite (got NaN or infinity)")
    return points


def hull_order(points: np.ndarray) -> np.ndarray:
    """Convex hull of points ``[n, 2]``, counter-clockwise, from the vertex that stands first in the input.

    Example:
        >>> hull_order([[0.5, 0.4], [1, 0], [0, 0], [0, 1], [1, 1]]).tolist()
        [1, 4, 3, 2]
    """
    vertices = ConvexHull(_points(points, 3)).vertices
    return np.roll(vertices, -int(vertices.argmin())).astype(np.int64)


def triangle_order(points: np.ndarray) -> np.ndarray:
    """Delaunay triangles of points ``[n, 2]`` one after the other, ``[3 T]``, in the order of
    :func:`delaunay_graphs`."""
    points = _points(points, 3)
    triangles = np.sort(Delaunay(points).simplices, axis=1)
    corner = points[triangles]
    # The centre of the inscribed circle is the mean of the corners, each weighted by the side across.
    side = np.linalg.norm(np.roll(corner, -1, 1) - np.roll(corner, -2, 1), axis=2)
    centre = (side[..., None] * corner).sum(1) / side.sum(1, keepdims=True)
    return triangles[np.lexsort((centre[:, 1], centre[:, 0]))].reshape(-1).astype(np.int64)


def held_karp(points: np.ndarray) -> np.ndarray:
    """Shortest round trip through points ``[n, 2]`` from the first one, by dynamic programming over sets of points that
    were seen: O(2ⁿ n²).

    Raises:
        ValueError: more than 16 points.

    Example:
        >>> held_karp([[0, 0], [1, 1], [1, 0], [0, 1]]).tolist()
        [0, 2, 1, 3]
    """
    points = _points(points, 1)
    if len(points) > MOST_CITIES:
        raise ValueError(f"points must be at most {MOST_CITIES} (got {len(points)}); take two_opt for more")
    if len(points) < 4:
        return np.arange(len(points))
    tour = _held_karp(_distances(points))
    return tour if tour[1] < tour[-1] else np.concatenate([tour[:1], tour[:0:-1]])


def nearest_neighbor_tour(points: np.ndarray) -> np.ndarray:
    """A round trip from the first point that always goes on to the nearest one not seen yet. O(n²)."""
    return _nearest_neighbor(_distances(_points(points, 1)))


def two_opt(points: np.ndarray, tour: np.ndarray | None = None) -> np.ndarray:
    """A round trip of which no stretch is shorter when it is gone the other way round, from ``tour``, or that of
    :func:`nearest_neighbor_tour`. O(n²) a pass."""
    points = _points(points, 1)
    start = nearest_neighbor_tour(points) if tour is None else np.array(tour, dtype=np.int64)
    return _two_opt(_distances(points), start)


def tour_length(points: np.ndarray, tour: np.ndarray) -> float:
    """Length of a round trip through points ``[n, 2]``.

    Example:
        >>> tour_length([[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1, 2, 3])
        4.0
    """
    way = np.asarray(points, dtype=np.float64)[np.asarray(tour)]
    return float(np.linalg.norm(way - np.roll(way, -1, 0), axis=1).sum())


def _distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


@kernel
def _held_karp(distance):  # pragma: no cover - compiled
    """``best[s, j]``: shortest way from the last point through the set ``s`` of the others to its member ``j``."""
    n = len(distance) - 1
    best = np.full((1 << n, n), np.inf)
    before = np.zeros((1 << n, n), dtype=np.int8)
    for j in range(n):
        best[1 << j, j] = distance[0, j + 1]
    for seen in range(1, 1 << n):
        for j in range(n):
            here = best[seen, j]
            if here == np.inf:
                continue
            for k in range(n):
                if not seen >> k & 1:
                    there = seen | 1 << k
                    value = here + distance[j + 1, k + 1]
                    if value < best[there, k]:
                        best[there, k] = value
                        before[there, k] = j
    seen = (1 << n) - 1
    last = 0
    for j in range(1, n):
        if best[seen, j] + distance[j + 1, 0] < best[seen, last] + distance[last + 1, 0]:
            last = j
    tour = np.zeros(n + 1, dtype=np.int64)
    for place in range(n, 0, -1):
        tour[place] = last + 1
        last, seen = before[seen, last], seen & ~(1 << last)
    return tour


@kernel
def _nearest_neighbor(distance):  # pragma: no cover - compiled
    n = len(distance)
    tour = np.zeros(n, dtype=np.int64)
    seen = np.zeros(n, dtype=np.bool_)
    for place in range(1, n):
        here = tour[place - 1]
        seen[here] = True
        nearest = -1
        for j in range(n):
            if not seen[j] and (nearest < 0 or distance[here, j] < distance[here, nearest]):
                nearest = j
        tour[place] = nearest
    return tour


@kernel
def _two_opt(distance, tour):  # pragma: no cover - compiled
    n = len(tour)
    better = True
    while better:
        better = False
        for i in range(n - 2):
            for j in range(i + 2, n):
                a, b, c, d = tour[i], tour[i + 1], tour[j], tour[(j + 1) % n]
                if distance[a, c] + distance[b, d] < distance[a, b] + distance[c, d] - 1e-12:
                    low, high = i + 1, j
                    while low < high:
                        tour[low], tour[high] = tour[high], tour[low]
                        low, high = low + 1, high - 1
                    better = True
    return tour


# How good an answer is ------------------------------------------------------------------------------------------------


def hull_metrics(points: np.ndarray, found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """``exact``: the hull, from whichever vertex; ``valid``: a polygon of at least three different points whose sides
    do not cross; ``area``: its share of the area of the hull, NaN if not valid."""
    found, target = np.asarray(found), np.asarray(target)
    points = np.asarray(points, dtype=np.float64)
    exact = len(found) == len(target) and set(found.tolist()) == set(target.tolist())
    if exact:
        exact = bool((np.roll(found, -int(found.argmin())) == np.roll(target, -int(target.argmin()))).all())
    valid = len(found) >= 3 and len(set(found.tolist())) == len(found) and bool(_is_simple(points[found]))
    area = abs(_area(points[found])) / _area(points[target]) if valid else float("nan")
    return {"exact": float(exact), "valid": float(valid), "area": area}


def triangulation_metrics(points: np.ndarray, found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """``exact``: the same set of triangles; ``coverage``: the share of the triangles that were found."""
    wanted, have = (
        {tuple(sorted(row)) for row in np.asarray(answer)[: len(answer) // 3 * 3].reshape(-1, 3).tolist()}
        for answer in (target, found)
    )
    return {"exact": float(wanted == have and len(found) == len(target)), "coverage": len(wanted & have) / len(wanted)}


def tour_metrics(points: np.ndarray, found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """``exact``: the shortest tour, in either direction; ``valid``: each point once; ``optimality``: the shortest
    length over the length, 0 if not valid."""
    valid = len(found) == len(points) and bool((np.sort(found) == np.arange(len(points))).all())
    if not valid:
        return {"exact": 0.0, "valid": 0.0, "optimality": 0.0}
    shortest, length = tour_length(points, target), tour_length(points, found)
    return {
        "exact": float(length <= shortest * (1 + 1e-9)),
        "valid": 1.0,
        "optimality": min(shortest / length, 1.0),
    }


def sequence_metrics(points: np.ndarray, found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """``exact``: the same sequence; ``share``: the share of its places that hold the right node."""
    same = min(len(found), len(target))
    right = int((np.asarray(found)[:same] == np.asarray(target)[:same]).sum())
    return {
        "exact": float(right == len(found) == len(target)),
        "share": right / max(len(target), len(found)),
    }


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


@kernel
def _is_simple(polygon):  # pragma: no cover - compiled
    """No two sides of the polygon cross."""
    n = len(polygon)
    for i in range(n):
        for j in range(i + 2, n):
            if i == 0 and j == n - 1:
                continue
            a, b, c, d = polygon[i], polygon[(i + 1) % n], polygon[j], polygon[(j + 1) % n]
            if _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0:
                return False
    return True


@kernel
def _turn(a, b, c):  # pragma: no cover - compiled
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


# Problems by name -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointingProblem:
    """A kind of graphs and answers, and how answers are judged.

    Args:
        draw: ``draw(num_graphs, seed, num_nodes, train)`` makes graphs of ``num_nodes`` nodes each, or of the problem's
            own sizes for None; ``train`` matters where graphs are pieces of one graph.
        judge: ``judge(points, found, target)`` gives numbers of one answer, such as :func:`hull_metrics`.
        monitor: the number that chooses the epoch, in percent.
        end_token: answers differ in length.
        unique: no node comes twice.
        follow_edges: answers are paths.
        longest: most nodes of an answer for each node of the graph.
    """

    draw: Callable[[int, int, int | None, bool], Data]
    judge: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]
    monitor: str = "exact"
    end_token: bool = True
    unique: bool = False
    follow_edges: bool = False
    longest: int = 1


def _sizes(draw: Callable[..., Data], low: int, high: int) -> Callable[[int, int, int | None, bool], Data]:
    return lambda num_graphs, seed, num_nodes, train: draw(num_graphs, num_nodes or low, num_nodes or high, seed)


@cache
def _digit_paths(num_nodes: int) -> PathGraphs:
    from graphkit.datasets.shipped import digits

    data = digits()
    centred = data.x - data.x.mean(0)
    # The plane of largest variance, in which a piece can be drawn on paper; signs do not matter.
    direction = torch.linalg.svd(centred.double(), full_matrices=False)[2][:2]
    return PathGraphs(Data(pos=centred.double() @ direction.T, edge_index=data.edge_index), num_nodes)


def _draw_digit_paths(num_graphs: int, seed: int, num_nodes: int | None, train: bool) -> Data:
    return _digit_paths(num_nodes or 12)(num_graphs, seed, train)


#: Problems that are datasets of the registry.
PROBLEMS = {
    **{
        f"sort-{n}": PointingProblem(_sizes(sort_graphs, n, n), sequence_metrics, end_token=False, unique=True)
        for n in (5, 10)
    },
    "convex-hull-5": PointingProblem(_sizes(convex_hull_graphs, 5, 5), hull_metrics),
    "convex-hull-10": PointingProblem(_sizes(convex_hull_graphs, 5, 10), hull_metrics),
    "delaunay-5": PointingProblem(_sizes(delaunay_graphs, 5, 5), triangulation_metrics, "coverage", longest=6),
    "tsp-10": PointingProblem(_sizes(tsp_graphs, 10, 10), tour_metrics, "optimality", end_token=False, unique=True),
    "digit-paths": PointingProblem(_draw_digit_paths, sequence_metrics, unique=True, follow_edges=True),
}


def pointing_problem(name: str) -> PointingProblem:
    """The problem of a dataset such as ``"convex-hull-5"``.

    Raises:
        ValueError: no problem of this name.
    """
    return PROBLEMS[check_choice(name, "name", list(PROBLEMS))]
