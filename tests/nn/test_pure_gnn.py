"""The encoder of NCN against its equation."""

from __future__ import annotations

import pytest
import torch
from samples import messy_graph
from torch import Tensor

from graphkit.nn import PureGNN, propagate
from graphkit.ops import NeighborIndex

EDGES, NODES = messy_graph(2)
X = torch.randn(NODES, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(*sizes: int, **options) -> PureGNN:
    torch.manual_seed(0)
    return PureGNN(*sizes, **options).double().eval()


@pytest.mark.parametrize("aggr", ["gcn", "sum", "mean", "max"])
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("jumping", [False, True])
def test_equation(aggr: str, layers: int, residual: bool, jumping: bool) -> None:
    encoder = make(7, 4, layers, aggr=aggr, residual=residual, jumping=jumping)
    h = X @ encoder.input.weight.t() + encoder.input.bias
    outs = []
    for _ in range(layers):
        h = propagate(h, EDGES, aggr) + (h if residual else 0)
        outs.append(h)
    if jumping and layers:
        h = sum(weight * out for weight, out in zip(encoder.layer_weight, outs, strict=True))
    torch.testing.assert_close(encoder(X, EDGES), h)


def test_sparse_features_are_the_same_features() -> None:
    x = X * (X > 0.5)
    encoder = make(7, 4, 2)
    torch.testing.assert_close(encoder(x.to_sparse_csr(), EDGES), encoder(x, EDGES))


def test_nodes_without_features_have_orthogonal_vectors() -> None:
    encoder = make(0, NODES + 3, 0, num_nodes=NODES)
    vectors = encoder(None, EDGES)
    torch.testing.assert_close(vectors @ vectors.t(), torch.eye(NODES, dtype=torch.float64), rtol=0, atol=1e-5)
    assert vectors.data_ptr() == encoder.input.weight.data_ptr()
    with pytest.raises(ValueError, match=r"x must be a matrix \[N, 7\] \(got None\)"):
        make(7, 4)(None, EDGES)


def moments(encoder: PureGNN, draws: int = 1500) -> tuple[Tensor, Tensor]:
    encoder.train()
    torch.manual_seed(0)
    with torch.no_grad():
        outs = torch.stack([encoder(X, EDGES) for _ in range(draws)])
    return outs.mean(0), outs.std(0) / draws**0.5


@pytest.mark.parametrize("where", ["input_dropout", "dropout", "tail_dropout"])
def test_dropouts_keep_the_mean(where: str) -> None:
    encoder = make(7, 4, 2, **{where: 0.4})
    want = encoder(X, EDGES).detach()
    mean, error = moments(encoder)
    assert bool((error > 0).any())
    assert bool(((mean - want).abs() <= 4.5 * error + 1e-12).all())


def test_tail_dropout_comes_after_the_last_layer_only() -> None:
    encoder = make(7, 4, 2, tail_dropout=0.5).train()
    out = encoder(X, EDGES)
    kept = out != 0
    torch.testing.assert_close(out[kept], 2 * encoder.eval()(X, EDGES)[kept])
    assert 0.3 < float(kept.double().mean()) < 0.7


def test_edge_dropout() -> None:
    encoder = make(7, 4, 1, aggr="sum", edge_dropout=0.4)
    want = encoder(X, EDGES).detach()
    mean, error = moments(encoder)
    assert bool((error > 0).any())
    assert bool(((mean - want).abs() <= 4.5 * error + 1e-12).all())
    alone = make(7, 4, 1, edge_dropout=1.0).train()(X, EDGES)
    torch.testing.assert_close(alone, make(7, 4, 0)(X, EDGES))  # without neighbours a node hears itself alone


def test_the_graph_may_be_an_index() -> None:
    encoder = make(7, 4, 2)
    assert encoder.takes_index
    assert torch.equal(encoder(X, NeighborIndex(EDGES, NODES)), encoder(X, EDGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "num_nodes must be given"),
        ({"in_channels": -1}, "in_channels must be >= 0"),
        ({"hidden_channels": 0}, "hidden_channels"),
        ({"num_layers": -1}, "num_layers"),
        ({"aggr": "median"}, "aggr must be one of"),
        *(({name: 1.2}, name) for name in ("input_dropout", "dropout", "tail_dropout", "edge_dropout")),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PureGNN(**{"in_channels": 3, "hidden_channels": 4, **options})
