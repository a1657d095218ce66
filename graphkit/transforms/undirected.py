"""Undirected edges, each once, of a graph that holds both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.utils.checks import check_pairs


def undirected_edges(edge_index: Tensor, num_nodes: int, name: str = "data.edge_index") -> Tensor:
    """Every edge once, the smaller node first, sorted; repeated edges count once. O(E log E).

    Args:
        edge_index: ``[2, E]``, both directions of every edge.
        num_nodes: number of nodes.
        name: what error messages call the edges.

    Returns:
        ``[2, E_u]`` int64.

    Raises:
        ValueError: a self-loop, or an edge without its reverse.
        IndexError: a node id outside the graph.

    Example:
        >>> undirected_edges(torch.tensor([[0, 2, 1, 0], [2, 0, 0, 1]]), 3)
        tensor([[0, 0],
                [1, 2]])
    """
    check_pairs(edge_index, num_nodes, name)
    row, col = edge_index.long()
    loops = row[row == col]
    if loops.numel():
        raise ValueError(
            f"{name} must not hold self-loops (got {loops.numel()}, the first at node {int(loops[0])}); apply "
            "torch_geometric.transforms.RemoveSelfLoops()"
        )
    size = max(num_nodes, 1)
    there, back = (row * size + col).unique(), (col * size + row).unique()
    if not torch.equal(there, back):
        alone = there[~torch.isin(there, back)][0]
        raise ValueError(
            f"{name} must hold both directions of every edge (got {int(alone) // size} -> {int(alone) % size} alone); "
            "apply torch_geometric.transforms.ToUndirected()"
        )
    pairs = torch.stack([there // size, there % size])
    return pairs[:, pairs[0] < pairs[1]]


def with_reverse(pairs: Tensor) -> Tensor:
    """``[2, E_u]`` edges as ``[2, 2 E_u]``, each followed by none but its reverse in the second half."""
    return torch.cat([pairs, pairs.flip(0)], dim=1)
