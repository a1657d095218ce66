"""How likely random walks are to come back: what a node's surroundings look like, as features."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_int

_BLOCK = 4096  # rows of a power at a time


class RandomWalkEncoding(BaseTransform):
    r"""Appends to ``x`` the probabilities that a random walk is back at its node after 1, 2, ... steps, the random-walk
    encoding of `"Graph Neural Networks with Learnable Structural and Positional Representations"
    <https://arxiv.org/abs/2110.07875>`_:

    .. math:: p_v = \left[(D^{-1} A)_{vv}, (D^{-1} A)^2_{vv}, \dots, (D^{-1} A)^K_{vv}\right]

    The diagonal is that of the powers of the symmetric :math:`S = D^{-1/2} A D^{-1/2}`, and :math:`S^{a+b}_{vv}` is a
    product of two rows, so that no power beyond :math:`\lceil K / 2 \rceil` is made: half of the reach of what
    :class:`torch_geometric.transforms.AddRandomWalkPE` needs. O(N h d) a power, where h nodes are within that reach and
    d is the degree; blocks of rows bound the memory.

    Args:
        steps: K.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index``, both directions, and ``x`` ``[N, F]`` or
          none
        - **output:** the same with ``x`` ``[N, F + K]``

    Raises:
        ValueError: ``steps`` below 1, no edges, or an edge without its other direction.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> RandomWalkEncoding(2)(data).x
        tensor([[0.0000, 0.5000],
                [0.0000, 1.0000],
                [0.0000, 0.5000]])
    """

    def __init__(self, steps: int) -> None:
        self.steps = check_int(steps, "steps", 1)

    def forward(self, data: Data) -> Data:
        if data.edge_index is None or data.num_nodes is None:
            raise ValueError("data must have edge_index and num_nodes or x (got none)")
        graph = NeighborIndex(data.edge_index, data.num_nodes)
        if not bool(graph.has_edge(graph.col, graph.row).all()):
            raise ValueError("data.edge_index must hold both directions of each edge; see ToUndirected")
        scale = 1 / np.sqrt(np.maximum(graph.degree.numpy(), 1))
        row, col = graph.row.numpy(), graph.col.numpy()
        step = csr_matrix((scale[row] * scale[col], (row, col)), shape=(graph.num_nodes, graph.num_nodes))
        found = np.zeros((graph.num_nodes, self.steps))
        for start in range(0, graph.num_nodes, _BLOCK):
            part = slice(start, start + _BLOCK)
            before = power = step[part]
            found[part, 0] = step.diagonal()[part]
            for reach in range(1, self.steps // 2 + 1):
                if reach > 1:
                    before, power = power, (power @ step).tocsr()
                    found[part, 2 * reach - 2] = _products(before, power)
                found[part, 2 * reach - 1] = _products(power, power)
            if self.steps % 2 and self.steps > 1:
                found[part, self.steps - 1] = _products(power, (power @ step).tocsr())
        values = torch.from_numpy(found).float()
        x = data.x
        if x is not None:
            values = torch.cat(
                [x.to_dense() if x.is_sparse_csr else x.view(graph.num_nodes, -1), values.to(x.dtype)], 1
            )
        data.x = values
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps})"


def _products(a: csr_matrix, b: csr_matrix) -> np.ndarray:
    """Of each row with itself in the other matrix."""
    return np.asarray(a.multiply(b).sum(1)).ravel()
