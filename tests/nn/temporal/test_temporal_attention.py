"""The folded attention against multi-head attention as it is written, and the sum against a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.nn.temporal.node_embedding import GraphSumEmbedding
from graphkit.nn.temporal.temporal_attention import TemporalAttentionEmbedding
from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops.events import Neighbors

DOUBLE = torch.float64
ROWS, CENTERS, SIZE, QUERIES = 11, 5, 3, 8


def inputs(edge: int) -> tuple[Tensor, Tensor, Neighbors, Tensor, Tensor, Tensor | None]:
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(CENTERS, SIZE, generator=g) < 0.7
    mask[1] = False
    neighbors = Neighbors(
        torch.randint(ROWS, (CENTERS, SIZE), generator=g), torch.randint(6, (CENTERS, SIZE), generator=g),
        torch.randint(40, (CENTERS, SIZE), generator=g), mask,
    )  # fmt: skip
    row = torch.tensor([1, 0, 4, 2, 3, 0, 0, 2])
    h = torch.randn(ROWS, 6, generator=g, dtype=DOUBLE).requires_grad_()
    msg = torch.randn(6, edge, generator=g, dtype=DOUBLE) if edge else None
    return h, torch.tensor([3, 0, 5, 6, 10]), neighbors, row, torch.randint(40, 90, (QUERIES,), generator=g), msg


def written_out(layer: TemporalAttentionEmbedding, h, center, neighbors, row, t, msg) -> Tensor:
    encoder = layer.time_encoder
    out = []
    for q in range(QUERIES):
        r = int(row[q])
        own, start = h[center[r]], torch.cos(encoder.phase)
        query = layer.lin_query(torch.cat([own, start]))
        attended = torch.zeros(layer.out_channels, dtype=DOUBLE)
        places = [k for k in range(SIZE) if neighbors.mask[r, k]]
        if places:
            keys = []
            for k in places:
                phi = torch.cos((t[q] - neighbors.t[r, k]) * encoder.freq + encoder.phase)
                event = [] if msg is None else [msg[neighbors.e_id[r, k]]]
                keys.append(torch.cat([h[neighbors.n_id[r, k]], *event, phi]))
            keys = torch.stack(keys)
            split = (1, layer.heads, -1)
            attended = F.scaled_dot_product_attention(
                query.view(split).transpose(0, 1),
                layer.lin_key(keys).view(len(places), layer.heads, -1).transpose(0, 1),
                layer.lin_value(keys).view(len(places), layer.heads, -1).transpose(0, 1),
            ).flatten()
        out.append(layer.lin_out(layer.lin_hidden(torch.cat([attended, own])).relu()))
    return torch.stack(out)


@pytest.mark.parametrize(("heads", "edge"), [(1, 0), (2, 4), (4, 0)])
def test_folded_is_multi_head_attention(heads: int, edge: int) -> None:
    torch.manual_seed(heads)
    layer = TemporalAttentionEmbedding(6, edge, 8, TimeEncoder(5), heads=heads, dropout=0.5).double().eval()
    torch.nn.init.normal_(layer.lin_query.bias)
    torch.nn.init.normal_(layer.time_encoder.phase)
    batch = inputs(edge)
    learned = [batch[0], *layer.parameters()]
    got, want = layer(*batch), written_out(layer, *batch)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    direction = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, learned, direction), torch.autograd.grad(want, learned, direction), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_dropout_keeps_the_mean_and_spares_nodes_without_neighbors() -> None:
    torch.manual_seed(0)
    layer = TemporalAttentionEmbedding(6, 0, 8, TimeEncoder(5), dropout=0.4).double()
    batch = inputs(0)
    with torch.no_grad():
        # Linear after the attention, so that means can be compared.
        layer.lin_hidden.bias.fill_(100)
        plain = layer.eval()(*batch)
        layer.train()
        draws = torch.stack([layer(*batch) for _ in range(3000)])
    assert torch.allclose(draws[:, 0], plain[0], rtol=0, atol=1e-12)
    assert draws[:, 1].std(0).max() > 0.01
    error = (draws.mean(0) - plain).abs() / (draws.std(0) / 3000**0.5).clamp(min=1e-9)
    assert error.max() < 5


def test_sum() -> None:
    torch.manual_seed(0)
    layer = GraphSumEmbedding(6, 4, 8, TimeEncoder(5)).double()
    h, center, neighbors, row, t, msg = inputs(4)
    got, encoder = layer(h, center, neighbors, row, t, msg), layer.time_encoder
    for q in range(QUERIES):
        r = int(row[q])
        total = torch.zeros(15, dtype=DOUBLE)
        for k in range(SIZE):
            if neighbors.mask[r, k]:
                phi = torch.cos((t[q] - neighbors.t[r, k]) * encoder.freq + encoder.phase)
                total = total + torch.cat([h[neighbors.n_id[r, k]], msg[neighbors.e_id[r, k]], phi])
        hidden = layer.lin_neighbors(total).relu()
        want = layer.lin_out(torch.cat([hidden, h[center[r]], encoder.phase.cos()]))
        torch.testing.assert_close(got[q], want)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"heads must divide out_channels=8 \(got 3\)"):
        TemporalAttentionEmbedding(6, 0, 8, TimeEncoder(5), heads=3)
    with pytest.raises(ValueError, match="dropout must be in"):
        TemporalAttentionEmbedding(6, 0, 8, TimeEncoder(5), dropout=1.5)
