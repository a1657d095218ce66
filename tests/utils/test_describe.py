"""Descriptions tell runs with other settings apart, and only those."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import pytest
import torch
from torch import nn

from graphkit.nn import LinkPredictor, NCNCDecoder, PureGNN
from graphkit.utils.describe import attributes, checksum, describe, differences


def test_plain_values_and_containers():
    found = describe({"lr": 0.1, "sizes": (2, [None, "x"]), "none": {}}, "run")
    assert found == {
        "run.lr": "0.1",
        "run.sizes.0": "2",
        "run.sizes.1.0": "None",
        "run.sizes.1.1": "'x'",
        "run.none": "empty",
    }
    assert describe(float("nan"), "x") == describe(float("nan"), "x")
    assert describe(1, "x") != describe(1.0, "x") != describe("1", "x")


def test_long_containers_count_by_a_checksum():
    values = list(range(1000))
    (text,) = describe(values, "x").values()
    assert text.startswith("1000 parts ")
    assert describe(values, "x") == {"x": text}
    values[500] = -1
    assert describe(values, "x") != {"x": text}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.arange(6).view(2, 3).t(),
        torch.tensor([True, False]),
        torch.eye(3, dtype=torch.bfloat16),
        torch.eye(3).to_sparse_csr(),
        torch.eye(3).to_sparse_coo(),
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.rand(3, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.layout} {list(tensor.shape)}",
)
def test_tensors_count_by_type_shape_and_values(tensor):
    copy = tensor.detach().clone(memory_format=torch.contiguous_format) if tensor.layout == torch.strided else tensor
    assert describe(tensor, "x") == describe(copy, "x")
    if tensor.numel():
        other = tensor.detach().to_dense().clone(memory_format=torch.contiguous_format)
        first = other.view(-1)[:1]
        first.copy_(~first if first.dtype == torch.bool else first + 1)
        same_layout = other.to_sparse_csr() if tensor.layout == torch.sparse_csr else other
        same_layout = other.to_sparse_coo() if tensor.layout == torch.sparse_coo else same_layout
        assert checksum(tensor) != checksum(same_layout)


def test_shape_and_type_count():
    x = torch.zeros(2, 3)
    assert describe(x) != describe(x.view(3, 2))
    assert describe(x) != describe(x.int())


def test_dataclasses_by_field():
    @dataclasses.dataclass
    class Settings:
        a: int = 1
        b: tuple = (2,)

    assert describe(Settings(), "s") == {"s.a": "1", "s.b.0": "2"}


def make(seed=0, **changes):
    torch.manual_seed(seed)
    encoder = PureGNN(4, 8, 1, dropout=changes.pop("dropout", 0.1))
    return LinkPredictor(encoder, NCNCDecoder(8, changes.pop("hidden", 8), **changes))


def test_models_count_by_settings_not_by_weights():
    assert describe(make(0), "m") == describe(make(1), "m")
    assert describe(make().train(), "m") == describe(make().eval(), "m")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dropout": 0.2}, "m.encoder.dropout: 0.1 there, 0.2 here"),
        ({"alpha": 0.5}, "m.decoder.alpha: 1.0 there, 0.5 here"),
        ({"depth": 2}, "m.decoder.depth"),
        ({"max_neighbors": (3, None)}, "m.decoder.max_neighbors.0: None there, 3 here"),
        ({"hidden": 16}, "m.decoder"),
        ({"two_layer_head": True}, "m.decoder.head"),
    ],
)
def test_other_models_differ(changes, named):
    assert named in differences(describe(make(), "m"), describe(make(**changes), "m"))


def test_buffers_count_by_shape():
    norm = nn.BatchNorm1d(3)
    before = describe(norm, "n")
    norm(torch.randn(5, 3))
    assert describe(norm, "n") == before
    assert "n.running_mean" in before


def test_attributes_are_public_and_not_computed():
    class Thing:
        def __init__(self):
            self.size, self._hidden, self.rank, self.other = 3, 4, 5, object()

        @cached_property
        def total(self):
            return 7

    thing = Thing()
    before = attributes(thing, "t", leave_out=("rank",))
    assert before["t.size"] == "3"
    assert before["t.other"] == "object"
    assert set(before) == {"t", "t.size", "t.other"}
    assert thing.total == 7
    thing._hidden, thing.rank = 0, 0
    assert attributes(thing, "t", leave_out=("rank",)) == before


def test_differences_are_told_briefly():
    assert differences({"a": "1"}, {"a": "1"}) == ""
    assert differences({"a": "1"}, {"b": "2"}) == "a: 1 there, absent here; b: absent there, 2 here"
    many = {str(i): "x" for i in range(10)}
    assert differences(many, {}).endswith("; and 7 more")
