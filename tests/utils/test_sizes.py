"""Bytes of models and activations, time of calls, and fronts of several costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from graphkit.utils.cost import buffer_bytes, latency, model_bytes, pareto_front

EDGES = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])


def test_model_bytes_are_those_of_its_parameters_or_what_it_says() -> None:
    assert model_bytes(nn.Linear(3, 2)) == 4 * 8
    assert model_bytes(nn.Linear(3, 2).double()) == 8 * 8

    class Small(nn.Linear):
        def model_bytes(self) -> int:
            return 5

    assert model_bytes(Small(3, 2)) == 5


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        (lambda: nn.Linear(6, 4), 4),
        (lambda: GCNConv(6, 4), 4 + 4),  # the linear map's output and the sum
        (lambda: GATConv(6, 4, heads=2), 8 + 8),
        (lambda: SAGEConv(6, 4), 6 + 4),  # what is aggregated, and its map
    ],
)
def test_buffer_of_a_layer_without_its_features(layer, numbers: int) -> None:
    x = torch.randn(3, 6)
    inputs = (x,) if isinstance(layer(), nn.Linear) else (x, EDGES)
    assert buffer_bytes(layer(), *inputs) == 3 * numbers * 4
    assert buffer_bytes(layer(), *inputs, bits=4) == -(-3 * numbers // 2)


def test_the_largest_layer_counts_and_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 20), nn.Linear(20, 1)).train()
    assert buffer_bytes(model, torch.randn(3, 6)) == 3 * 28 * 4
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_latency_calls_as_often_as_it_says() -> None:
    calls: list[int] = []
    assert latency(lambda: calls.append(1), repeats=3) >= 0
    assert len(calls) == 4
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        latency(lambda: None, repeats=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_front_is_what_no_other_point_dominates(points: list[tuple[int, int, int]]) -> None:
    def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert pareto_front(torch.tensor(points).reshape(-1, 3)) == expected


def test_front_of_accuracy_and_size() -> None:
    assert pareto_front([(-90.1, 40), (-89.0, 10), (-88.0, 20), (-89.0, 10)]) == [0, 1, 3]


@pytest.mark.parametrize("points", [[1.0, 2.0], [[1.0, float("nan")]]])
def test_points_must_be_numbers_in_rows(points) -> None:
    with pytest.raises(ValueError, match="points must be a matrix"):
        pareto_front(points)
