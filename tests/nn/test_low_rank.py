"""The low-rank convolution against a dense singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GCNConv

from graphkit.nn import LowRankGCNConv
from graphkit.nn.conv.low_rank import low_rank_factors
from graphkit.ops import NeighborIndex


def graph(num_nodes: int = 40, directed: bool = False) -> Tensor:
    chosen = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0)) < 0.15
    if directed:
        return chosen.fill_diagonal_(False).nonzero().t()
    half = chosen.triu(1).nonzero().t()
    return torch.cat([half, half.flip(0)], 1)


def dense_approximation(edges: Tensor, num_nodes: int, rank: int) -> Tensor:
    adjacency = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    adjacency[edges[0], edges[1]] = 1
    u, s, vt = torch.linalg.svd(adjacency)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("rank", [1, 7, 39])
def test_factors_are_the_best_approximation(rank: int, directed: bool) -> None:
    edges = graph(directed=directed)
    left, right = low_rank_factors(NeighborIndex(edges, 40), rank)
    want = dense_approximation(edges, 40, rank).float()
    torch.testing.assert_close(left @ right.t(), want, rtol=1e-4, atol=1e-4)
    assert left.shape == right.shape == (40, rank)


def test_the_layer_is_a_gcn_on_the_approximation() -> None:
    edges = graph()
    torch.manual_seed(0)
    conv = LowRankGCNConv(5, 4, rank=6).double()
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(40, 5, dtype=torch.float64)
    close = dense_approximation(edges, 40, 6)
    scale = (close.sum(1).clamp(min=0) + 1).rsqrt()
    normal = scale[:, None] * (close + torch.eye(40, dtype=torch.float64)) * scale
    want = normal @ conv.linear(x) + conv.bias
    torch.testing.assert_close(conv(x, edges), want, rtol=1e-4, atol=1e-4)
    other = GCNConv(5, 4).double()
    other.lin.weight.data.copy_(conv.linear.weight.data)
    other.bias.data.copy_(conv.bias.data)
    assert not torch.allclose(conv(x, edges), other(x, edges), atol=1e-2)


@pytest.mark.parametrize(("rank", "edges"), [(40, graph()), (39, graph()), (3, graph()[:, :0])])
def test_with_the_whole_rank_it_is_pygs_gcn(rank: int, edges: Tensor) -> None:
    conv = LowRankGCNConv(5, 4, rank)
    torch.nn.init.normal_(conv.bias)
    other = GCNConv(5, 4)
    other.lin.weight.data.copy_(conv.linear.weight.data)
    other.bias.data.copy_(conv.bias.data)
    x = torch.randn(40, 5)
    atol = 1e-5 if rank != 39 else 0.05  # the smallest of 40 singular values is near zero, not zero
    torch.testing.assert_close(conv(x, edges), other(x, edges), rtol=1e-4, atol=atol)


def test_factors_are_found_once_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse.linalg

    calls = []
    svds = scipy.sparse.linalg.svds
    monkeypatch.setattr(scipy.sparse.linalg, "svds", lambda *a, **k: calls.append(1) or svds(*a, **k))
    index = NeighborIndex(graph(), 40)
    first, second = LowRankGCNConv(3, 2, 4), LowRankGCNConv(2, 2, 4)
    x = torch.randn(40, 3)
    one = second(first(x, index), index)
    assert len(calls) == 1
    assert torch.equal(second(first(x, index), index), one)
    LowRankGCNConv(3, 2, 5)(x, index)
    assert len(calls) == 2
    torch.testing.assert_close(low_rank_factors(NeighborIndex(graph(), 40), 4), low_rank_factors(index, 4))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        LowRankGCNConv(3, 2, 0)
    with pytest.raises(ValueError, match="in_channels"):
        LowRankGCNConv(0, 2)
    with pytest.raises(IndexError, match="node id 1"):
        LowRankGCNConv(3, 2)(torch.ones(1, 3), torch.tensor([[0], [1]]))
    assert repr(LowRankGCNConv(3, 2, 9)) == "LowRankGCNConv(3, 2, rank=9)"
    assert LowRankGCNConv(3, 2, bias=False).bias is None
