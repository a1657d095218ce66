"""New edges between nodes whose vectors point the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops import NeighborIndex, most_similar
from graphkit.utils.checks import check_device, check_features, check_int, check_pairs


def add_similar_edges(
    embedding: Tensor,
    edge_index: Tensor,
    k: int,
    min_degree: int = 1,
    include_self: bool = True,
    block_size: int = 1024,
) -> Tensor:
    """Let every node hear from the ``k`` nodes whose vectors are most like its own, as in `"Reliable Representations
    Make A Stronger Defender" <https://arxiv.org/abs/2207.00012>`_.

    Only nodes with more than ``min_degree`` neighbours are picked: attackers like to join loners. The new edges run one
    way, from the picked node to the node that picked it, so the result is directed. O(N² F) time in blocks, O(N
    ``block_size``) memory.

    Args:
        embedding: ``[N, F]``, the vectors, compared by cosine.
        edge_index: ``[2, E]``, both directions of every edge; repeated edges count once.
        k: picks a node.
        min_degree: nodes with so few neighbours or fewer are not picked.
        include_self: as in the released code, a node that may be picked is its own first pick, so that ``k - 1`` new
            ones are left; a self-loop is not made. Otherwise all ``k`` are others.
        block_size: nodes compared at once.

    Returns:
        ``[2, E']`` source and target, sorted by target, each edge once, without self-loops.

    Raises:
        TypeError: vectors or ids of another type.
        ValueError: ``k`` < 0, fewer than ``k`` nodes that may be picked, vectors that are no finite matrix.
        IndexError: a node id outside the graph.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.2]])
        >>> line = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
        >>> add_similar_edges(vectors, line, k=1)
        tensor([[1, 0, 2, 1, 3, 1, 2],
                [0, 1, 1, 2, 2, 3, 3]])
    """
    check_int(k, "k", 0)
    check_int(min_degree, "min_degree", 0)
    num_nodes = check_features(embedding, "embedding").size(0)
    check_device(embedding=embedding, edge_index=edge_index)
    check_pairs(edge_index, num_nodes, "edge_index")
    # Row i lists whom i hears from.
    heard = NeighborIndex(edge_index.flip(0), num_nodes)
    candidates = heard.degree > min_degree
    if k > int(candidates.sum()) - (not include_self):
        raise ValueError(
            f"k={k} needs as many nodes with more than min_degree={min_degree} neighbours to pick from (got "
            f"{int(candidates.sum())} in all)"
        )
    picks = most_similar(embedding, k, candidates, include_self, block_size)
    target = torch.arange(num_nodes, device=picks.device).repeat_interleave(k)
    edges = torch.cat([heard.edge_index, torch.stack([target, picks.reshape(-1)])], dim=1)
    edges = edges[:, edges[0] != edges[1]]
    return NeighborIndex(edges, num_nodes).edge_index.flip(0)
