"""STABLE's encoder against dense algebra, term by term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import messy_graph
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import coalesce, remove_self_loops, to_dense_adj

from graphkit.nn import StableContrast
from graphkit.ops import NeighborIndex

DOUBLE = torch.float64


def views(seed: int = 1) -> tuple[Tensor, list[Tensor], int]:
    """A pruned graph and two that have more edges."""
    edges, num_nodes = messy_graph(seed)
    edges = coalesce(remove_self_loops(edges)[0], num_nodes=num_nodes)
    low = edges[:, edges[0] < edges[1]]

    def both(pairs: Tensor) -> Tensor:
        return torch.cat([pairs, pairs.flip(0)], 1)

    return both(low[:, ::2]), [both(low[:, torch.arange(low.size(1)) % 4 != i]) for i in (1, 3)], num_nodes


def model(fuse: str = "sum_logits", beta: float = 2.0, num_views: int = 2) -> StableContrast:
    torch.manual_seed(0)
    made = StableContrast(6, 5, beta, num_views, fuse).double()
    torch.nn.init.normal_(made.bias)
    torch.nn.init.constant_(made.offset, 0.3)
    return made


def features(num_nodes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(num_nodes, 6, generator=generator, dtype=DOUBLE) < 0.4).double()


def dense_encoder(made: StableContrast, x: Tensor, edges: Tensor) -> Tensor:
    adjacency = to_dense_adj(edges, max_num_nodes=x.size(0))[0].double()
    looped = adjacency + made.beta * torch.eye(x.size(0), dtype=DOUBLE)
    scale = looped.sum(1).rsqrt()
    spread = (scale[:, None] * looped * scale) @ x @ made.linear.weight.t() + made.bias
    return torch.where(spread > 0, spread, made.slope * spread)


def dense_loss(made: StableContrast, x: Tensor, pruned: Tensor, several: list[Tensor], order: Tensor) -> Tensor:
    h, negative = dense_encoder(made, x, pruned), dense_encoder(made, x[order], pruned)
    summaries = [torch.sigmoid(dense_encoder(made, x, view).mean(0)) for view in several]

    def score(rows: Tensor, s: Tensor) -> Tensor:
        return torch.stack([row @ made.bilinear.weight @ s for row in rows]) + made.offset

    pos, neg = ([score(rows, s) for s in summaries] for rows in (h, negative))
    if made.fuse == "sum_logits":
        logits = torch.cat([torch.stack(pos).sum(0), torch.stack(neg).sum(0)])
        label = torch.cat([torch.ones(x.size(0)), torch.zeros(x.size(0))]).double()
        return F.binary_cross_entropy_with_logits(logits, label)
    terms = [-torch.sigmoid(p).log() - (1 - torch.sigmoid(n)).log() for p, n in zip(pos, neg, strict=True)]
    return torch.stack(terms).mean() / 2


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_encoder_is_dense_algebra(beta: float) -> None:
    pruned, _, num_nodes = views()
    made, x = model(beta=beta), features(num_nodes)
    want = dense_encoder(made, x, pruned)
    torch.testing.assert_close(made.embed(x, pruned), want)
    torch.testing.assert_close(made.encode(x.to_sparse_csr(), NeighborIndex(pruned, num_nodes)), want)


@pytest.mark.parametrize("fuse", ["sum_logits", "mean_loss"])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_equation(fuse: str, seed: int) -> None:
    pruned, several, num_nodes = views(seed)
    made, x = model(fuse), features(num_nodes)
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(seed))
    want = dense_loss(made, x, pruned, several, order)
    torch.testing.assert_close(made(x, pruned, several, order), want)
    indexes = [NeighborIndex(view, num_nodes) for view in several]
    torch.testing.assert_close(made(x.to_sparse_csr(), pruned, indexes, order), want)
    gradients = torch.autograd.grad(made(x.to_sparse_csr(), pruned, several, order), list(made.parameters()))
    expected = torch.autograd.grad(want, list(made.parameters()))
    for got, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, one)


def test_the_two_losses_differ() -> None:
    pruned, several, num_nodes = views()
    x, order = features(num_nodes), torch.arange(num_nodes).flip(0)
    released, paper = (model(fuse)(x, pruned, several, order) for fuse in ("sum_logits", "mean_loss"))
    assert not torch.allclose(released, paper, rtol=1e-3)
    # With one view there is nothing to fuse.
    one = [model(fuse, num_views=1)(x, pruned, several[:1], order) for fuse in ("sum_logits", "mean_loss")]
    torch.testing.assert_close(*one)


def test_equal_views_give_twice_the_logits_of_one() -> None:
    pruned, _, num_nodes = views()
    x, order = features(num_nodes), torch.arange(num_nodes).flip(0)
    both = model().logits(x, pruned, [pruned, pruned], order)
    alone = model(num_views=1).logits(x, pruned, [pruned], order)
    for two, one in zip(both, alone, strict=True):
        # A product of other shape may round otherwise in the last bit.
        torch.testing.assert_close(two[:, 0], two[:, 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(two.sum(1), 2 * one[:, 0], rtol=1e-12, atol=1e-12)


def test_vectors_have_no_gradient_and_orders_are_drawn_anew() -> None:
    pruned, several, num_nodes = views()
    made, x = model(), features(num_nodes)
    assert not made.embed(x, pruned).requires_grad
    assert made.encode(x, pruned).requires_grad
    torch.manual_seed(1)
    one, other = made(x, pruned, several), made(x, pruned, several)
    torch.manual_seed(1)
    assert torch.equal(made(x, pruned, several), one)
    assert not torch.equal(one, other)


def test_learning_tells_nodes_from_shuffled_ones() -> None:
    pruned, several, num_nodes = views(2)
    made, x = model(), features(num_nodes)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for step in range(80):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = made(x, pruned, several)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StableContrast(0), "in_channels"),
        (lambda: StableContrast(3, 0), "embed_channels"),
        (lambda: StableContrast(3, beta=0), "beta"),
        (lambda: StableContrast(3, num_views=0), "num_views"),
        (lambda: StableContrast(3, fuse="sum_logit"), "did you mean 'sum_logits'"),
        (lambda: model()(features(4), views()[0][:, :0], []), "view_edge_indices must hold num_views=2 .got 0"),
        (lambda: model().embed(torch.ones(3, 5, dtype=DOUBLE), views()[0]), r"x must have shape \[N, 6\]"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_repr() -> None:
    assert repr(StableContrast(3, 4)) == "StableContrast(3, 4, beta=2.0, num_views=2, fuse='sum_logits')"
