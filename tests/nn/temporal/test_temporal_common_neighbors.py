"""Neural Common Neighbor over time against dictionaries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from graphkit.nn.temporal.temporal_common_neighbors import TemporalNCNDecoder

NODES, WIDTH = 12, 5
ROOMY = (128, 100)  # no two of the nodes collide


def events(number: int = 60) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, NODES, (2, number), generator=g)
    return src, dst, torch.arange(number) * 7 + 1_600_000_000, torch.arange(number)


def play(decoder: TemporalNCNDecoder, batch: int) -> None:
    parts = [part.split(batch) for part in events()]
    for one in zip(*parts, strict=True):
        decoder.update_state(*one)


@pytest.mark.parametrize("sizes", [ROOMY, ROOMY[:1]], ids=["two hops", "one hop"])
def test_weights_are_those_of_dictionaries(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    decoder = TemporalNCNDecoder(NODES, WIDTH, 7, cache_sizes=sizes, replace_prob=1.0).double()
    torch.nn.init.normal_(decoder.code_weight)
    play(decoder, 1)
    near: dict[int, dict[int, int]] = defaultdict(dict)
    far: dict[int, dict[int, int]] = defaultdict(dict)
    for s, d, t in zip(*(part.tolist() for part in events()[:3]), strict=True):
        old = {v: dict(near[v]) for v in (s, d)}
        for v, other in ((s, d), (d, s)):
            if len(sizes) == 2:
                far[v].update(old[other])
            near[v][other] = t
    src, dst = torch.arange(NODES), torch.arange(NODES).repeat(NODES, 1)
    now = 1_600_001_000
    z = torch.randn(NODES, WIDTH, dtype=torch.float64)
    pooled = torch.zeros(NODES, NODES, WIDTH, dtype=torch.float64)
    rate = torch.nn.functional.softplus(decoder.decay)
    for u in range(NODES):
        for v in range(NODES):
            for a in (near[u].keys() | far[u].keys()) & (near[v].keys() | far[v].keys()) - {u, v}:
                code = sum(
                    2 ** (hop + side)
                    for x, side in ((u, 0), (v, 3))
                    for hop, known in ((1, near), (2, far))
                    if a in known[x]
                )
                met = min(near[x].get(a, far[x].get(a, 0)) for x in (u, v))
                pooled[u, v] += decoder.code_weight[code] * (1 + now - met) ** -rate * z[a]
    assert (pooled != 0).any()
    want = decoder.mlp(torch.cat([z[:, None] * z, pooled], -1)).squeeze(-1)
    torch.testing.assert_close(decoder(z, src, dst, torch.full((NODES,), now)), want)


def test_state_and_gradients() -> None:
    decoder = TemporalNCNDecoder(NODES, WIDTH, 7, cache_sizes=(6, 4))
    play(decoder, 10)
    before = decoder.snapshot()
    z = torch.randn(NODES, WIDTH, requires_grad=True)
    src, dst, t = torch.arange(4), torch.randint(0, NODES, (4, 6)), torch.full((4,), 1_600_001_000)
    decoder(z, src, dst, t).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    assert z.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in decoder.named_state())
    other = TemporalNCNDecoder(NODES, WIDTH, 7, cache_sizes=(6, 4))
    other.load_state_dict(decoder.state_dict())
    assert torch.equal(other(z, src, dst, t), decoder(z, src, dst, t))
    decoder.reset_state()
    assert not torch.equal(other(z, src, dst, t), decoder(z, src, dst, t))


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"z": torch.zeros(3, WIDTH)}, ValueError, "z must"),
        ({"dst": torch.tensor([1])}, ValueError, "shapes"),
        ({"dst": torch.tensor([[NODES]])}, IndexError, "src and dst"),
    ],
    ids=["z", "shape", "id"],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], word: str) -> None:
    decoder = TemporalNCNDecoder(NODES, WIDTH, 7)
    good = {
        "z": torch.zeros(NODES, WIDTH),
        "src": torch.tensor([0]),
        "dst": torch.tensor([[1]]),
        "t": torch.tensor([5]),
    }
    with pytest.raises(error, match=word):
        decoder(**good | change)
