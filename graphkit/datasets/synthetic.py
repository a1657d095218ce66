"""Synthetic graphs whose answer is known."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Data

from graphkit.utils.checks import check_range


def random_geometric_graph(num_nodes: int, radius: float, seed: int = 0) -> Data:
    """Uniform points in the unit square, an edge between two that are nearer than ``radius``; constant features.

    Links follow from the structure alone: neighbours of a node are likely to be neighbours of each other, while
    features and (but for the border) degrees say nothing.

    Args:
        num_nodes: number of points ``N``.
        radius: largest distance of an edge.
        seed: seed of the points.

    Returns:
        A graph with ``x`` ``[N, 1]`` ones, ``pos`` ``[N, 2]`` and ``edge_index`` ``[2, E]`` in both directions, made in
        O((N + E) log N).

    Raises:
        ValueError: ``num_nodes`` < 1 or ``radius`` <= 0.

    Example:
        >>> random_geometric_graph(100, 0.2)
        Data(x=[100, 1], edge_index=[2, 962], pos=[100, 2])
    """
    check_range(num_nodes, "num_nodes", 1)
    check_range(radius, "radius", 0, low_open=True)
    points = np.random.default_rng(seed).random((num_nodes, 2))
    near = cKDTree(points).query_pairs(radius, output_type="ndarray").astype(np.int64)
    near = near[np.lexsort((near[:, 1], near[:, 0]))]
    pairs = torch.from_numpy(near).t()
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    return Data(x=torch.ones(num_nodes, 1), edge_index=edge_index, pos=torch.from_numpy(points).float())
