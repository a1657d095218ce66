"""Edges between variables of like course, without a look at later rows."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from graphkit.transforms import CorrelationGraph


def random(rows: int, variables: int) -> torch.Tensor:
    mixing = torch.randn(3, variables, generator=torch.Generator().manual_seed(1))
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)) @ mixing + 50 * torch.arange(variables)


def test_are_the_highest_correlations():
    series = random(200, 8)
    edge_index = CorrelationGraph(2)(Data(series=series, num_nodes=8)).edge_index
    matrix = torch.corrcoef(series.double().t()).fill_diagonal_(-2)
    want = {(int(source), target) for target in range(8) for source in matrix[target].topk(2).indices}
    assert {tuple(pair) for pair in edge_index.t().tolist()} == want


def test_later_rows_do_not_count():
    series = random(100, 6)
    changed = series.clone()
    changed[60:] = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    first, again = (CorrelationGraph(2, stop=60)(Data(series=s, num_nodes=6)).edge_index for s in (series, changed))
    assert torch.equal(first, again)


def test_wrong_input():
    with pytest.raises(ValueError, match=r"k must be below the number of variables, 3 .got 3"):
        CorrelationGraph(3)(Data(series=torch.rand(9, 3)))
    with pytest.raises(ValueError, match="data must have series"):
        CorrelationGraph(1)(Data())
    with pytest.raises(ValueError, match="k must be in"):
        CorrelationGraph(0)
