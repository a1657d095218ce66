"""Exact answers against brute force; judges against hand-made answers; drawn sets follow from the seed."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import shortest_path
from torch_geometric.data import Data

from graphkit.datasets import load
from graphkit.datasets.pointing import (
    PROBLEMS,
    PathGraphs,
    convex_hull_graphs,
    delaunay_graphs,
    held_karp,
    hull_metrics,
    hull_order,
    nearest_neighbor_tour,
    pointing_problem,
    sequence_metrics,
    sort_graphs,
    tour_length,
    tour_metrics,
    triangle_order,
    triangulation_metrics,
    tsp_graphs,
    two_opt,
)
from graphkit.datasets.synthetic import random_geometric_graph

SQUARE = np.array([[0.5, 0.4], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def graphs_of(data: Data):
    """Points and answer of each graph."""
    for number, (low, high) in enumerate(zip(data.ptr[:-1], data.ptr[1:], strict=True)):
        row = data.target[number]
        yield data.x[low:high].double().numpy(), row[row >= 0].numpy()


def turn(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def test_a_hull_has_all_points_on_its_left():
    for points, hull in graphs_of(convex_hull_graphs(40, 4, 9)):
        assert hull[0] == hull.min()
        for a, b in zip(hull, np.roll(hull, -1), strict=True):
            others = [p for p in range(len(points)) if p not in (a, b)]
            assert all(turn(points[a], points[b], points[p]) > 0 for p in others)


def test_no_point_lies_in_the_circle_of_a_delaunay_triangle():
    for points, answer in graphs_of(delaunay_graphs(30, 4, 8)):
        triangles = answer.reshape(-1, 3)
        assert bool((np.diff(triangles, axis=1) > 0).all())
        inside, centres = 0.0, []
        for a, b, c in points[triangles]:
            area = abs(turn(a, b, c)) / 2
            inside += area
            sides = [np.linalg.norm(b - c), np.linalg.norm(a - c), np.linalg.norm(a - b)]
            centres.append(tuple((sides[0] * a + sides[1] * b + sides[2] * c) / sum(sides)))
            # The centre of the circle through the corners has equal distances to them.
            middle = np.linalg.solve(2 * np.stack([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
            radius = np.linalg.norm(middle - a)
            assert bool((np.linalg.norm(points - middle, axis=1) > radius - 1e-9).all())
        assert centres == sorted(centres)
        hull = points[hull_order(points)]
        x, y = hull.T
        assert inside == pytest.approx((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


@pytest.mark.parametrize("count", [3, 4, 6, 8])
def test_held_karp_is_brute_force(count):
    for points, tour in graphs_of(tsp_graphs(4, count, count, seed=count)):
        assert tour[0] == 0
        assert tour[1] < tour[-1]
        shortest = min(tour_length(points, (0, *rest)) for rest in permutations(range(1, count)))
        assert tour_length(points, tour) == pytest.approx(shortest)


def test_rules_for_tours_lie_between():
    better = 0
    for points, tour in graphs_of(tsp_graphs(20, 10, 10)):
        nearest = nearest_neighbor_tour(points)
        assert sorted(nearest) == list(range(10))
        step = np.linalg.norm(points - points[0], axis=1)
        assert nearest[1] == step[1:].argmin() + 1
        improved = two_opt(points)
        lengths = [round(tour_length(points, t), 9) for t in (tour, improved, nearest)]
        assert lengths == sorted(lengths)
        better += lengths[1] < lengths[2]
        # No stretch can be turned round with a gain.
        for i in range(9):
            for j in range(i + 2, 11):
                turned = np.concatenate([improved[:i], improved[i:j][::-1], improved[j:]])
                assert tour_length(points, turned) >= lengths[1] - 1e-8
    assert better > 10


def test_paths_are_the_shortest():
    drawn = PathGraphs(random_geometric_graph(100, 0.25), num_nodes=10)(20)
    for number, (x, path) in enumerate(graphs_of(drawn)):
        low = int(drawn.ptr[number])
        src, dst = drawn.edge_index[:, (drawn.edge_index[0] >= low) & (drawn.edge_index[0] < low + 10)].numpy() - low
        length = np.zeros((10, 10))
        length[src, dst] = np.linalg.norm(x[src, :2] - x[dst, :2], axis=1)
        assert bool((length == length.T).all())
        assert bool((length[path[:-1], path[1:]] > 0).all())
        first, last = x[:, 2].argmax(), x[:, 3].argmax()
        assert (path[0], path[-1]) == (first, last)
        wanted = shortest_path(length)[first, last]
        assert length[path[:-1], path[1:]].sum() == pytest.approx(wanted, rel=1e-5)
        assert len(path) > 2


def test_training_pieces_and_others_have_other_centres(monkeypatch):
    pieces = PathGraphs(random_geometric_graph(60, 0.3), num_nodes=8)
    seen = {True: set(), False: set()}
    around = pieces._around
    for train, centres in seen.items():
        monkeypatch.setattr(pieces, "_around", lambda ids, centres=centres: centres.update(ids.tolist()) or around(ids))
        pieces(150, train=train)
    assert not seen[True] & seen[False]
    assert len(seen[False]) == 12


def test_numbers_are_sorted():
    for x, order in graphs_of(sort_graphs(20, 3, 8)):
        assert bool((np.diff(x[order, 0]) > 0).all())
        assert len(order) == len(x)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_seed_is_a_set_of_graphs_and_its_own_answers_are_perfect(name):
    problem = pointing_problem(name)
    first, again, other = (problem.draw(12, seed, None, True) for seed in (5, 5, 6))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.x[:5], other.x[:5])
    for points, answer in graphs_of(first):
        found = problem.judge(points, answer, answer)
        assert found.pop("exact") == 1
        assert all(value == pytest.approx(1) for value in found.values())
        assert problem.judge(points, answer[:1], answer)["exact"] == 0
        if problem.unique:
            assert len(set(answer.tolist())) == len(answer)
        assert len(answer) <= problem.longest * len(points)
    larger = problem.draw(3, 0, 14, False)
    assert larger.ptr.diff().tolist() == [14] * 3


def test_judges():
    hull = hull_order(SQUARE)
    assert hull_metrics(SQUARE, np.roll(hull, 2), hull) == {"exact": 1, "valid": 1, "area": 1}
    triangle = hull_metrics(SQUARE, hull[:3], hull)
    assert (triangle["exact"], triangle["valid"], triangle["area"]) == (0, 1, pytest.approx(0.5))
    assert hull_metrics(SQUARE, hull[::-1], hull)["exact"] == 0
    crossed = hull_metrics(SQUARE, hull[[0, 2, 1, 3]], hull)
    assert crossed["valid"] == 0
    assert np.isnan(crossed["area"])
    for bad in (hull[:2], hull[:0], np.array([1, 1, 2])):
        assert hull_metrics(SQUARE, bad, hull)["valid"] == 0
    wanted = triangle_order(SQUARE)
    assert triangulation_metrics(SQUARE, wanted.reshape(-1, 3)[::-1, ::-1].reshape(-1), wanted)["exact"] == 1
    assert triangulation_metrics(SQUARE, wanted[:-3], wanted) == {"exact": 0, "coverage": 1 - 3 / len(wanted)}
    assert triangulation_metrics(SQUARE, np.append(wanted, 0), wanted) == {"exact": 0, "coverage": 1}
    tour = held_karp(SQUARE)
    assert tour_metrics(SQUARE, np.roll(tour[::-1], 2), tour)["exact"] == 1
    worse = tour_metrics(SQUARE, np.array([0, 1, 3, 2, 4]), tour)
    assert (worse["exact"], worse["valid"]) == (0, 1)
    assert worse["optimality"] == pytest.approx(tour_length(SQUARE, tour) / tour_length(SQUARE, [0, 1, 3, 2, 4]))
    assert tour_metrics(SQUARE, np.array([0, 1, 1, 2, 3]), tour) == {"exact": 0, "valid": 0, "optimality": 0}
    assert sequence_metrics(SQUARE, np.array([3, 1]), np.array([3, 1, 2])) == {"exact": 0, "share": 2 / 3}


@pytest.mark.parametrize("name", ["convex-hull-10", "digit-paths"])
def test_the_registered_set_is_what_is_drawn(name):
    dataset = load(name)
    split = dataset.split(3)
    assert [part.numel() for part in (split.train, split.valid, split.test)] == [0, 2000, 2000]
    drawn = pointing_problem(name).draw(4000, 0, None, False)
    for number in (0, 1234, 3999):
        graph, low, high = dataset.graphs[number], int(drawn.ptr[number]), int(drawn.ptr[number + 1])
        assert torch.equal(graph.x, drawn.x[low:high])
        assert torch.equal(graph.target[0], drawn.target[number])
        if drawn.edge_index is not None:
            inside = (drawn.edge_index[0] >= low) & (drawn.edge_index[0] < high)
            assert torch.equal(graph.edge_index, drawn.edge_index[:, inside] - low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convex_hull_graphs(3, 2, 5), "min_nodes must be in"),
        (lambda: convex_hull_graphs(3, 5, 4), "max_nodes must be in"),
        (lambda: convex_hull_graphs(0), "num_graphs must be in"),
        (lambda: tsp_graphs(1, 5, 17), "max_nodes must be in"),
        (lambda: held_karp(np.zeros((17, 2))), "at most 16"),
        (lambda: hull_order(np.zeros((2, 2))), r"\[n, 2\] with n >= 3"),
        (lambda: hull_order(np.full((4, 2), np.nan)), "must be finite"),
        (lambda: pointing_problem("tsp10"), "did you mean 'tsp-10'"),
        (lambda: PathGraphs(Data(edge_index=torch.zeros(2, 0, dtype=torch.long), num_nodes=3)), "must have pos"),
        (lambda: PathGraphs(random_geometric_graph(20, 0.01))(3), "nodes around it"),
        (lambda: PathGraphs(random_geometric_graph(5, 0.9), 6), "at least num_nodes=6"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
