"""Gated linear attention: decays to compare with, the form over a window and over edges."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.nn import GatedLinearAttention, GLAWindowConv

PTR = torch.tensor([0, 1, 1, 8, 20])


def made(kind=GLAWindowConv, **options):
    torch.manual_seed(0)
    layer = kind(8, 2, gate_tau=0.5, **options).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return layer


X = torch.randn(20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def truncated(layer: GatedLinearAttention, x: torch.Tensor, heard) -> torch.Tensor:
    """A loop over pairs of one graph's tokens with ``heard(i, j)``."""
    q, k, v, gate = layer._parts(x)
    gate = gate.view_as(k)
    out = torch.zeros_like(v)
    for i in range(len(x)):
        for j in range(i + 1):
            if heard(i, j):
                decay = gate[j + 1 : i + 1].sum(0).exp()
                out[i] += (q[i] * k[j] * decay).sum(-1, keepdim=True) * k.size(2) ** -0.5 * v[j]
    return layer._merge(out, x)


def test_a_window_as_long_as_the_graphs_is_the_layer():
    window = made(window=12)
    whole = made(GatedLinearAttention)
    whole.load_state_dict(window.state_dict())
    torch.testing.assert_close(window(X, PTR), whole(X, PTR))
    assert not torch.allclose(made(window=3)(X, PTR), whole(X, PTR))


@pytest.mark.parametrize("window", [1, 3])
def test_a_short_window_is_the_sum_cut_off(window):
    layer = made(window=window)
    torch.testing.assert_close(layer(X[8:]), truncated(layer, X[8:], lambda i, j: i - j < window))
    torch.testing.assert_close(layer(X, PTR)[8:], layer(X[8:]))


def test_over_edges():
    edges = {(0, 3), (1, 3), (5, 2), (3, 6), (6, 6), (0, 7)}
    layer = made(over="edges")
    data = Data(x=X[:8], edge_index=torch.tensor(sorted(edges)).t(), num_nodes=8)
    wanted = truncated(layer, X[:8], lambda i, j: i == j or (j, i) in edges)
    torch.testing.assert_close(layer(data.x, data), wanted)
    complete = torch.combinations(torch.arange(8)).t()
    whole = made(GatedLinearAttention)
    whole.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(X[:8], Data(edge_index=complete, num_nodes=8)), whole(X[:8]))


def test_over_edges_in_another_order_of_reading():
    layer, order = made(over="edges"), torch.tensor([3, 0, 2, 1])
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
    read = Data(edge_index=edge_index, num_nodes=4)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(4))
    moved = Data(edge_index=place[edge_index], order=order, num_nodes=4)
    torch.testing.assert_close(layer(X[:4][order], moved), layer(X[:4], read)[order])


def test_far_tokens_of_a_long_graph_keep_their_digits():
    layer = GLAWindowConv(8, 2, window=4, gate_tau=0.01).float()
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer(x)[-4:], layer(x[-20:])[-4:])


def test_decays_to_compare_with():
    for decay in ("constant", "none"):
        layer = made(GatedLinearAttention, decay=decay)
        gates = layer.log_decay(X)
        assert torch.equal(gates, gates[:1].expand_as(gates))
        assert bool((gates < 0).all()) == (decay == "constant")
        rows, state = [], None
        for t in range(8, 20):
            out, state = layer.step(X[t : t + 1], state)
            rows.append(out)
        torch.testing.assert_close(torch.cat(rows), layer(X[8:]))
    start = GatedLinearAttention(8, 2, decay="constant").log_decay(X.float())
    torch.testing.assert_close(start, F.logsigmoid(torch.zeros_like(start)) / 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GLAWindowConv(8, 2, window=0), "window"),
        (lambda: GLAWindowConv(8, 2, over="edge"), "did you mean 'edges'"),
        (lambda: GatedLinearAttention(8, 2, decay="fixed"), "decay must be one of"),
        (lambda: GLAWindowConv(8, 2, over="edges")(X.float()), "needs edge_index"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("expand", [0.0, float("nan"), -1.0])
def test_a_share_of_channels_is_positive(expand):
    with pytest.raises(ValueError, match="expand_k must be in"):
        GatedLinearAttention(8, expand_k=expand)
