"""Scores of links that need no training: shared neighbours and walks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.ops import NeighborIndex, common_neighbor_sum, spmm
from graphkit.utils.checks import check_choice, check_pairs, check_range

HEURISTICS = ("cn", "aa", "ra", "jaccard", "katz", "ppr")


class LinkHeuristic(nn.Module):
    r"""A classical score of links, with the interface of :class:`LinkPredictor`.

    ``"cn"`` common neighbours, ``"aa"`` Adamic-Adar (each weighted by 1 / log degree), ``"ra"`` resource allocation
    (1 / degree), ``"jaccard"`` (shared / united), ``"katz"`` walks of up to ``length`` steps weighted
    :math:`\beta^l`, ``"ppr"`` personalised PageRank from each end to the other. See `"The Link-Prediction Problem for
    Social Networks" <https://doi.org/10.1002/asi.20591>`_.

    Neighbour scores cost O(d) a link. Walk scores cost O(length E) a distinct first node, in blocks of nodes.

    Args:
        kind: one of the above.
        beta: damping of Katz.
        alpha: restart probability of PageRank.
        length: longest walk; None takes 5 for Katz and 30 for PageRank.
        block_size: first nodes treated at once by walk scores.

    Shapes:
        - **input:** ``x`` ``[N, F]`` is ignored and may be None, graph as :class:`~graphkit.ops.NeighborIndex` or,
          with ``x``, ``edge_index`` ``[2, E]`` with both directions of each edge, ``edge_label_index`` ``[2, B]``
        - **output:** ``[B, 1]``

    Raises:
        ValueError: another ``kind``, or a number out of range.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 2, 1, 2], [2, 0, 2, 1]]), num_nodes=3)
        >>> LinkHeuristic("cn")(None, index, torch.tensor([[0], [1]]))
        tensor([[1.]])
    """

    def __init__(
        self,
        kind: str,
        beta: float = 0.05,
        alpha: float = 0.15,
        length: int | None = None,
        block_size: int = 256,
    ) -> None:
        super().__init__()
        self.kind = check_choice(kind, "kind", HEURISTICS)
        self.beta = check_range(beta, "beta", 0, 1)
        self.alpha = check_range(alpha, "alpha", 0, 1)
        self.length = int(check_range(length if length is not None else 5 if kind == "katz" else 30, "length", 1))
        self.block_size = int(check_range(block_size, "block_size", 1))

    def reset_parameters(self) -> None:
        """Nothing to reset."""

    def encode(self, x: Tensor | None, graph: NeighborIndex | Tensor) -> None:
        """Nothing to encode."""

    def decode(self, z: Tensor | None, graph: NeighborIndex, edge_label_index: Tensor) -> Tensor:
        """``[B, 1]`` scores of pairs."""
        pairs = check_pairs(edge_label_index, graph.num_nodes).long()
        if self.kind == "katz":
            weights = [self.beta**step for step in range(1, self.length + 1)]
            return _walk_scores(graph, pairs, None, weights, self.block_size)[:, None]
        if self.kind == "ppr":
            weights = [self.alpha * (1 - self.alpha) ** step for step in range(1, self.length + 1)]
            step = 1 / graph.degree.clamp(min=1).float()
            there = _walk_scores(graph, pairs, step, weights, self.block_size)
            return (there + _walk_scores(graph, pairs.flip(0), step, weights, self.block_size))[:, None]
        degree = graph.degree.float()
        feature = {"aa": 1 / degree.clamp(min=2).log(), "ra": 1 / degree.clamp(min=1)}.get(
            self.kind, degree.new_ones(1)
        )
        shared = common_neighbor_sum(graph, pairs, feature.expand(graph.num_nodes)[:, None].contiguous())
        if self.kind == "jaccard":
            united = (degree[pairs[0]] + degree[pairs[1]])[:, None] - shared
            return shared / united.clamp(min=1)
        return shared

    def forward(self, x: Tensor | None, graph: NeighborIndex | Tensor, edge_label_index: Tensor) -> Tensor:
        if not isinstance(graph, NeighborIndex):
            if x is None:
                raise ValueError("graph must be a NeighborIndex where x is None, which hides how many nodes there are")
            graph = NeighborIndex.of(graph, x.size(0))
        return self.decode(None, graph, edge_label_index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind!r})"


def _walk_scores(
    graph: NeighborIndex, pairs: Tensor, step: Tensor | None, weights: list[float], block_size: int
) -> Tensor:
    """``sum_l weights[l] (M^(l+1))[i, j]`` for pairs (i, j), M the adjacency with rows scaled by ``step``."""
    if pairs.size(1) == 0:
        return torch.zeros(0, device=pairs.device)
    nodes, place = pairs[0].unique(return_inverse=True)
    order = torch.argsort(place)
    scores = torch.empty(pairs.size(1), device=pairs.device)
    sizes = torch.bincount(torch.div(place, block_size, rounding_mode="floor")).tolist()
    for block, chosen in zip(nodes.split(block_size), order.split(sizes), strict=True):
        # Column b of the walk matrix holds the mass that started in the block's b-th node.
        mass = torch.zeros(graph.num_nodes, block.numel(), device=pairs.device)
        mass[block, torch.arange(block.numel(), device=pairs.device)] = 1
        total = torch.zeros_like(mass)
        for weight in weights:
            # The graph is undirected, so its rows are also its columns.
            mass = spmm(graph.rowptr, graph.col, mass if step is None else mass * step[:, None])
            total.add_(mass, alpha=weight)
        scores[chosen] = total[pairs[1][chosen], place[chosen] % block_size]
    return scores
