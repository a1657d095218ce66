"""Reader of the Planetoid files ``ind.<name>.*``: pickles from outside, read without trusting them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, index_to_mask, remove_self_loops

from graphkit.datasets.unpickle import load_pickle


def read_planetoid(folder: Path, name: str) -> Data:
    """Read one of Cora, CiteSeer and PubMed with its public split.

    Node order, edges and masks equal those of :func:`torch_geometric.io.read_planetoid_data`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or holds anything but arrays and containers.
    """
    prefix = f"ind.{name.lower()}"
    test_index = torch.from_numpy(np.loadtxt(folder / f"{prefix}.test.index", dtype=np.int64, ndmin=1))
    num_train = _matrix(folder / f"{prefix}.y").size(0)
    x, test_x = _matrix(folder / f"{prefix}.allx"), _matrix(folder / f"{prefix}.tx")
    y, test_y = _matrix(folder / f"{prefix}.ally"), _matrix(folder / f"{prefix}.ty")

    # Test rows come in the order of the index file. CiteSeer's skip some ids: those nodes keep zero features, label 0.
    first = int(test_index.min())
    num_nodes = max(first + test_x.size(0), int(test_index.max()) + 1)
    x = torch.cat([x, x.new_zeros(num_nodes - x.size(0), x.size(1))])
    y = torch.cat([y, y.new_zeros(num_nodes - y.size(0), y.size(1))])
    x[test_index], y[test_index] = test_x, test_y

    graph = load_pickle(folder / f"{prefix}.graph")
    degree = torch.tensor([len(neighbors) for neighbors in graph.values()])
    row = torch.tensor(list(graph)).repeat_interleave(degree)
    col = torch.tensor([node for neighbors in graph.values() for node in neighbors])
    edge_index, _ = remove_self_loops(torch.stack([row, col]))
    return Data(
        x=x,
        edge_index=coalesce(edge_index, num_nodes=num_nodes, sort_by_row=False),
        y=y.argmax(dim=1),
        train_mask=index_to_mask(torch.arange(num_train), num_nodes),
        val_mask=index_to_mask(torch.arange(num_train, num_train + 500), num_nodes),
        test_mask=index_to_mask(test_index, num_nodes),
    )


def _matrix(path: Path) -> Tensor:
    matrix = load_pickle(path)
    return torch.from_numpy(np.asarray(matrix.todense() if scipy.sparse.issparse(matrix) else matrix)).float()
