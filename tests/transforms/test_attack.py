"""What attacks change, and what they may not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphkit.transforms import DICEAttack, PRBCDPoison, RandomEdgeAttack


def communities(num_nodes: int = 60, classes: int = 3, inside: float = 0.3, outside: float = 0.02) -> Data:
    """Edges mostly within classes; features that hint at the class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num_nodes) % classes
    chance = torch.where(y[:, None] == y, inside, outside)
    half = (torch.rand(num_nodes, num_nodes, generator=generator) < chance).triu(1).nonzero().t()
    x = F.one_hot(y, classes) + torch.randn(num_nodes, classes, generator=generator)
    return Data(x=x.float(), edge_index=torch.cat([half, half.flip(0)], 1), y=y)


def pairs(data: Data) -> set[tuple[int, int]]:
    found = set(map(tuple, data.edge_index.t().tolist()))
    assert len(found) == data.edge_index.size(1), "an edge is there twice"
    assert all((v, u) in found and u != v for u, v in found)
    return {(u, v) for u, v in found if u < v}


DATA = communities()
EDGES = pairs(DATA)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 2.0])
def test_random_adds_edges_and_removes_none(rate: float) -> None:
    out = pairs(RandomEdgeAttack(rate, seed=3)(DATA))
    assert out >= EDGES
    assert len(out) - len(EDGES) == int(rate * len(EDGES) + 1e-9)
    assert pairs(DATA) == EDGES


def test_random_is_uniform_over_the_pairs_that_are_no_edges() -> None:
    ring = torch.arange(6)
    edge_index = torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1)
    data = Data(edge_index=edge_index, num_nodes=6)
    free = set(itertools.combinations(range(6), 2)) - pairs(data)
    count = dict.fromkeys(sorted(free), 0)
    for seed in range(600):
        for pair in pairs(RandomEdgeAttack(0.5, seed)(data)) - pairs(data):
            count[pair] += 1
    # 3 of 9 pairs each: 200 draws, with a standard deviation below 12.
    assert all(150 < number < 250 for number in count.values())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dice_removes_within_and_adds_between(rate: float) -> None:
    out = pairs(DICEAttack(rate, seed=1)(DATA))
    removed, added = EDGES - out, out - EDGES
    budget = int(rate * len(EDGES) + 1e-9)
    assert (len(removed), len(added)) == (budget // 2, budget - budget // 2)
    y = DATA.y.tolist()
    assert all(y[u] == y[v] for u, v in removed)
    assert all(y[u] != y[v] for u, v in added)


@pytest.mark.parametrize("attack", [RandomEdgeAttack, DICEAttack])
def test_the_seed_fixes_an_attack(attack: Any) -> None:
    one, again, other = (pairs(attack(0.3, seed)(DATA)) for seed in (0, 0, 1))
    assert one == again != other
    assert repr(attack(0.3, 2)) == f"{attack.__name__}(0.3, seed=2)"


def trained_surrogate() -> GCN:
    torch.manual_seed(0)
    model = GCN(3, 8, 2, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(DATA.x, DATA.edge_index), DATA.y).backward()
        optimizer.step()
    return model


def margin(model: GCN, edge_index: Tensor) -> float:
    """Mean lead of the true class over the best other one, in probability."""
    with torch.no_grad():
        probability = model.eval()(DATA.x, edge_index).softmax(1)
    right = probability.gather(1, DATA.y[:, None])
    wrong = probability.scatter(1, DATA.y[:, None], -1).max(1, keepdim=True).values
    return float((right - wrong).mean())


def test_prbcd_misleads_its_surrogate_more_than_dice_does() -> None:
    model = trained_surrogate().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    poisoned = PRBCDPoison(0.1, model, epochs=30, block_size=1500, lr=100.0)(DATA)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)), "the global random numbers were touched"
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = pairs(poisoned) ^ EDGES
    assert 0 < len(changed) <= int(0.1 * len(EDGES))
    clean = margin(model, DATA.edge_index)
    dice = clean - margin(model, DICEAttack(0.1)(DATA).edge_index)
    assert clean - margin(model, poisoned.edge_index) > 1.5 * dice > 0
    again = PRBCDPoison(0.1, model, epochs=30, block_size=1500, lr=100.0)(DATA)
    assert torch.equal(again.edge_index, poisoned.edge_index)


def test_prbcd_attacks_the_nodes_that_are_named() -> None:
    model = trained_surrogate()
    nodes = torch.arange(6)

    def losses(poisoned: Data) -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(model.eval()(DATA.x, poisoned.edge_index), DATA.y, reduction="none")

    rise = losses(PRBCDPoison(0.05, model, nodes, epochs=30, block_size=1500, lr=100.0)(DATA)) - losses(DATA)
    assert float(rise[:6].mean()) > 2 * float(rise[6:].mean())
    assert PRBCDPoison(0.0, model)(DATA).edge_index is DATA.edge_index


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomEdgeAttack(-0.1), "rate must be in"),
        (lambda: DICEAttack(float("nan")), "rate must be in"),
        (lambda: RandomEdgeAttack(0.1, -1), "seed must be in"),
        (lambda: RandomEdgeAttack(100.0)(DATA), "new edges are wanted, but only .* pairs can be joined"),
        (lambda: DICEAttack(2.5)(DATA), "removes .* edges within classes, but there are"),
        (lambda: DICEAttack(0.1)(Data(edge_index=DATA.edge_index, num_nodes=60)), "data.y must hold a class number"),
        (lambda: DICEAttack(0.1)(Data(edge_index=DATA.edge_index, y=DATA.y - 1)), "data.y must hold a class number"),
        (lambda: RandomEdgeAttack(0.1)(Data(edge_index=DATA.edge_index[:, ::2], num_nodes=60)), "both directions"),
        (
            lambda: RandomEdgeAttack(0.1)(Data(edge_index=DATA.edge_index, edge_attr=DATA.edge_index[0], num_nodes=60)),
            "edge attributes.*edge_attr",
        ),
        (lambda: RandomEdgeAttack(0.1)(Data(x=DATA.x)), "must have edge_index"),
        (lambda: PRBCDPoison(0.1, GCN(3, 8, 2, 3), epochs=0), "epochs must be in"),
        (lambda: PRBCDPoison(0.1, GCN(3, 8, 2, 3), lr=0.0), "lr must be in"),
        (
            lambda: PRBCDPoison(0.1, GCN(3, 8, 2, 3))(Data(edge_index=DATA.edge_index, y=DATA.y)),
            "data.x must hold features",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_target_outside_the_graph() -> None:
    with pytest.raises(IndexError, match="nodes holds node id 60"):
        PRBCDPoison(0.1, GCN(3, 8, 2, 3), torch.tensor([60]))(DATA)
