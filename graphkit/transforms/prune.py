"""Edges between unlike nodes are left out: by the words that two nodes share, or by learned vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex, pair_cosine
from graphkit.ops.common_neighbors import common_neighbor_count
from graphkit.ops.csr import ptr_to_index
from graphkit.transforms.undirected import undirected_edges, with_reverse
from graphkit.utils.checks import check_pairs, check_range


class JaccardPrune(BaseTransform):
    r"""Leaves out edges between nodes that share few features, as in `"Adversarial Examples on Graph Data: Deep
    Insights into Attack and Defense" <https://arxiv.org/abs/1903.01610>`_ and the first step of `"Reliable
    Representations Make A Stronger Defender" <https://arxiv.org/abs/2207.00012>`_.

    .. math:: J_{ij} = |x_i \wedge x_j| \, / \, |x_i \vee x_j|, \qquad \text{out if } J_{ij} < t

    Two nodes without any feature have :math:`J = 0`. O(E d) for d features a node; nothing dense is made. The measure
    is symmetric, so an undirected graph stays undirected.

    Args:
        threshold: ``t`` in [0, 1]; 0 leaves the graph as it is.
        binarize: count every value that is not zero as one; otherwise only zeros and ones are accepted.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]`` and ``x`` ``[N, F]``, dense or
          sparse CSR
        - **output:** the same with fewer edges, edge attributes alike, and ``removed_edge_index`` ``[2, R]``

    Raises:
        ValueError: ``threshold`` outside [0, 1], no features where they are needed, or features that are not binary.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> data = Data(x=x, edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> JaccardPrune(0.1)(data)
        Data(x=[3, 2], edge_index=[2, 2], removed_edge_index=[2, 2])
    """

    def __init__(self, threshold: float, binarize: bool = False) -> None:
        self.threshold = check_range(threshold, "threshold", 0, 1)
        self.binarize = binarize

    def forward(self, data: Data) -> Data:
        edge_index = _edges(data)
        if self.threshold == 0:
            return _without(data, torch.ones(edge_index.size(1), dtype=torch.bool, device=edge_index.device))
        return _without(data, jaccard(data.x, edge_index, self.binarize) >= self.threshold)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.threshold})"


class CosinePrune(BaseTransform):
    r"""Leaves out edges between nodes whose vectors differ in direction, as `"Reliable Representations Make A Stronger
    Defender" <https://arxiv.org/abs/2207.00012>`_ does with learned vectors.

    .. math:: \text{out if } \cos(h_i, h_j) \le t

    O(E F) for vectors of width F; no ``[E, F]`` tensor is made.

    Args:
        threshold: ``t`` in [-1, 1].
        embedding: the vectors, ``[N, F]``.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]``
        - **output:** the same with fewer edges, edge attributes alike, and ``removed_edge_index`` ``[2, R]``

    Raises:
        ValueError: ``threshold`` outside [-1, 1], or not one row of ``embedding`` a node.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> CosinePrune(0.0, torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]))(data).edge_index
        tensor([[0, 1],
                [1, 0]])
    """

    def __init__(self, threshold: float, embedding: Tensor) -> None:
        self.threshold = check_range(threshold, "threshold", -1, 1)
        self.embedding = embedding

    def forward(self, data: Data) -> Data:
        edge_index = _edges(data)
        if self.embedding.size(0) != data.num_nodes:
            raise ValueError(f"embedding must have {data.num_nodes} rows, one a node (got {self.embedding.size(0)})")
        return _without(data, pair_cosine(self.embedding, edge_index) > self.threshold)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.threshold}, embedding={list(self.embedding.shape)})"


def jaccard(x: Tensor | None, edge_index: Tensor, binarize: bool = False) -> Tensor:
    """``[E]`` float64 shares of common features of the ends of each edge; see :class:`JaccardPrune`.

    Example:
        >>> jaccard(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[0], [1]]))
        tensor([0.5000], dtype=torch.float64)
    """
    if not isinstance(x, Tensor) or x.dim() != 2:
        got = list(x.shape) if isinstance(x, Tensor) else x
        raise ValueError(f"data.x must be a matrix [num_nodes, num_features] (got {got}); a threshold of 0 needs none")
    if x.is_sparse_csr:
        row, column, value = ptr_to_index(x.crow_indices()), x.col_indices(), x.values()
        row, column, value = row[value != 0], column[value != 0], value[value != 0]
    else:
        row, column = x.nonzero().t()
        value = x[row, column]
    if not binarize and bool((value != 1).any()):
        raise ValueError(
            f"data.x must hold zeros and ones alone (got {float(value[value != 1][0])}); binarize=True counts what is "
            "not zero as one"
        )
    check_pairs(edge_index, x.size(0), "data.edge_index")
    # A node's features are its neighbours in a graph of nodes and features, the features numbered after the nodes.
    num_nodes = x.size(0)
    features = NeighborIndex(torch.stack([row, num_nodes + column]), num_nodes + x.size(1))
    common = common_neighbor_count(features, edge_index).double()
    total = features.degree[edge_index[0]] + features.degree[edge_index[1]] - common
    return common / total.clamp(min=1)


def random_recover(
    edge_index: Tensor, removed_edge_index: Tensor, ratio: float = 0.2, generator: torch.Generator | None = None
) -> Tensor:
    """Put a random part of the edges that were left out back: a view of a pruned graph for contrastive learning, as in
    `"Reliable Representations Make A Stronger Defender" <https://arxiv.org/abs/2207.00012>`_.

    Args:
        edge_index: ``[2, E]``, the edges that were kept.
        removed_edge_index: ``[2, R]``, both directions of the edges that were left out.
        ratio: share of those that come back, in both directions; rounded down to whole edges.
        generator: source of randomness on the CPU; None takes PyTorch's global one.

    Returns:
        ``[2, E + 2 floor(ratio R / 2)]``

    Raises:
        ValueError: ``ratio`` outside [0, 1], or removed edges that have one direction only.

    Example:
        >>> kept, removed = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 2], [2, 1]])
        >>> random_recover(kept, removed, ratio=1.0)
        tensor([[0, 1, 1, 2],
                [1, 0, 2, 1]])
    """
    check_range(ratio, "ratio", 0, 1)
    num_nodes = int(removed_edge_index.max()) + 1 if removed_edge_index.numel() else 0
    pairs = undirected_edges(removed_edge_index, num_nodes, "removed_edge_index")
    # A product such as 0.29 * 100 lies a little below the whole number that is meant.
    count = math.floor(ratio * pairs.size(1) + 1e-9)
    chosen = torch.randperm(pairs.size(1), generator=generator)[:count].to(pairs.device)
    return torch.cat([edge_index, with_reverse(pairs[:, chosen])], dim=1)


def _edges(data: Data) -> Tensor:
    if data.edge_index is None or data.num_nodes is None:
        raise ValueError("data must have edge_index and num_nodes (or x)")
    return check_pairs(data.edge_index, data.num_nodes, "data.edge_index")


def _without(data: Data, keep: Tensor) -> Data:
    """``data`` with the edges of the mask alone, and what belongs to them."""
    # The edges of an earlier pruning would count as an edge attribute if there were as many as there are edges.
    if "removed_edge_index" in data:
        del data.removed_edge_index
    pruned = data.edge_subgraph(keep)
    pruned.removed_edge_index = data.edge_index[:, ~keep]
    return pruned
