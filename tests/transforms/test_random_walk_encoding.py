"""Return probabilities against PyG's encoding, powers of a matrix and closed forms."""

from __future__ import annotations

import networkx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import AddRandomWalkPE
from torch_geometric.utils import from_networkx, to_dense_adj

from graphkit.transforms import RandomWalkEncoding, random_walk_encoding


def karate() -> Data:
    return Data(edge_index=from_networkx(networkx.karate_club_graph()).edge_index, num_nodes=34)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_it_is_the_diagonal_of_powers_and_pygs_encoding(steps, monkeypatch):
    monkeypatch.setattr(random_walk_encoding, "_BLOCK", 10)  # several blocks, the last one short
    x = RandomWalkEncoding(steps)(karate()).x
    dense = to_dense_adj(karate().edge_index)[0]
    walk = dense / dense.sum(1, keepdim=True)
    powers = [torch.linalg.matrix_power(walk, k).diagonal() for k in range(1, steps + 1)]
    torch.testing.assert_close(x, torch.stack(powers, 1))
    torch.testing.assert_close(x, AddRandomWalkPE(steps, "p")(karate()).p)


def test_features_stay_in_front_and_lone_nodes_never_come_back():
    data = Data(x=torch.eye(3)[:, :2], edge_index=torch.tensor([[0, 1], [1, 0]]))
    x = RandomWalkEncoding(4)(data).x
    assert x[:, :2].equal(torch.eye(3)[:, :2])
    assert x[:2, 2:].tolist() == [[0, 1, 0, 1]] * 2
    assert x[2, 2:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomWalkEncoding(0), "steps must be in"),
        (lambda: RandomWalkEncoding(2)(Data(x=torch.ones(2, 1))), "must have edge_index"),
        (lambda: RandomWalkEncoding(2)(Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)), "both directions"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
