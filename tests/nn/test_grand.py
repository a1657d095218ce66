"""GRAND and GCNII: their equations, the layers of other libraries, and what dropping nodes means."""

from __future__ import annotations

import math

import pytest
import torch
from samples import messy_graph
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GCN2Conv
from torch_geometric.utils import to_dense_adj

from graphkit.nn import GCNII, GRAND, GRANDPropagation


def operator(edge_index: Tensor, num_nodes: int) -> Tensor:
    """The dense matrix of GCN's propagation."""
    adjacency = to_dense_adj(edge_index, max_num_nodes=num_nodes)[0].clamp(max=1) + torch.eye(num_nodes)
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


def clean(seed: int) -> tuple[Tensor, int]:
    """Without self-loops and repeated edges, which PyG's layers treat in their own way."""
    edge_index, num_nodes = messy_graph(seed)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]].unique(dim=1)
    return edge_index, num_nodes


@pytest.mark.parametrize("seed", range(4))
def test_propagation_is_the_mean_of_powers(seed: int) -> None:
    edge_index, num_nodes = clean(seed)
    x, step = torch.randn(num_nodes, 5), operator(edge_index, num_nodes)
    expected = (x + step @ x + step @ step @ x) / 3
    torch.testing.assert_close(GRANDPropagation(2, 0.0)(x, edge_index), expected)
    torch.testing.assert_close(GRANDPropagation(2, 0.0)(x.to_sparse_csr(), edge_index), expected)


def test_order_zero_is_the_identity_and_eval_scales_by_what_is_kept() -> None:
    edge_index, num_nodes = messy_graph(0)
    x = torch.randn(num_nodes, 5)
    assert torch.equal(GRANDPropagation(0, 0.0)(x, edge_index), x)
    assert torch.equal(GRANDPropagation(0, 0.5).eval()(x, edge_index), x / 2)


def test_training_drops_whole_nodes_without_scaling() -> None:
    x, none = torch.rand(4000, 3) + 1, torch.zeros(2, 0, dtype=torch.long)
    torch.manual_seed(0)
    out = GRANDPropagation(0, 0.3)(x, none)
    kept = out.abs().sum(1) > 0
    assert torch.equal(out[kept], x[kept])
    assert abs(float(kept.float().mean()) - 0.7) < 0.03
    assert torch.equal(out[~kept], torch.zeros_like(out[~kept]))


def test_grand_is_the_mlp_of_propagated_features() -> None:
    edge_index, num_nodes = messy_graph(1)
    x = torch.randn(num_nodes, 5)
    model = GRAND(5, 7, 3, order=3, drop_node=0.4).eval()
    h = GRANDPropagation(3, 0.4).eval()(x, edge_index)
    torch.testing.assert_close(model(x, edge_index), model.output(F.relu(model.hidden(h))))


@pytest.mark.parametrize("seed", range(3))
def test_gcnii_layers_are_those_of_pyg(seed: int) -> None:
    edge_index, num_nodes = clean(seed)
    x = torch.randn(num_nodes, 5)
    model = GCNII(5, 6, 3, num_layers=4, alpha=0.2, theta=0.7)
    first = F.relu(model.input(x))
    h = first
    for number, weight in enumerate(model.layers.weights, 1):
        conv = GCN2Conv(6, alpha=0.2, theta=0.7, layer=number)
        conv.weight1.data.copy_(weight.data)
        h = F.relu(conv(h, first, edge_index))
    torch.testing.assert_close(model(x, edge_index), model.layers.output(h))


def test_one_layer_of_gcnii_by_hand() -> None:
    model = GCNII(2, 2, 1, num_layers=1, alpha=0.1, theta=0.5)
    share = math.log(1.5)
    # Two linked nodes: every entry of the propagation matrix is one half.
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        model.input.weight.copy_(torch.eye(2))
        model.input.bias.zero_()
        model.layers.weights[0].copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        model.layers.output.weight.copy_(torch.tensor([[1.0, 10.0]]))
        model.layers.output.bias.zero_()
    mixed = torch.tensor([0.9 * 0.5 + 0.1, 0.9 * 0.5])
    expected = share * torch.stack([2 * mixed[1], mixed[0]]) + (1 - share) * mixed
    out = model(x, torch.tensor([[0, 1], [1, 0]]))
    torch.testing.assert_close(out[0, 0], expected[0] + 10 * expected[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRANDPropagation(-1), "order"),
        (lambda: GRANDPropagation(2, 1.5), "drop_node"),
        (lambda: GRAND(0, 4, 2, order=1), "in_channels"),
        (lambda: GRAND(4, 4, 2, order=1, dropout=2), "dropout"),
        (lambda: GRAND(4, 4, 2, order=1)(torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.long)), r"\[N, 4\]"),
        (lambda: GCNII(4, 4, 2, num_layers=0), "num_layers"),
        (lambda: GCNII(4, 4, 2, num_layers=2, alpha=1.5), "alpha"),
        (lambda: GCNII(4, 4, 2, num_layers=2, theta=0), "theta"),
    ],
)
def test_wrong_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
