"""Views of a graph with fewer edges: dropped uniformly, by centrality, or within a budget for each node."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex, spmm
from graphkit.utils.checks import check_choice, check_pairs, check_range

CENTRALITIES = ("degree", "pagerank", "eigenvector")
_STEPS = 200  # of power iterations
_DAMPING = 0.85


class EdgeDrop(BaseTransform):
    """Drops every edge with a probability, as in `"Deep Graph Contrastive Representation Learning"
    <https://arxiv.org/abs/2006.04131>`_ (GRACE).

    Node ids stay, and nodes may lose all their edges. What belongs to edges (``edge_attr`` ...) goes with them. O(E).

    Args:
        p: probability, or ``[E]`` one for each column of ``edge_index``; in [0, 1).
        undirected: both directions of an edge share one draw (and the mean of their probabilities), which costs a sort;
            otherwise each direction is drawn by itself and the view is a directed graph.
        generator: source of randomness; None takes PyTorch's global one.

    Raises:
        ValueError: a probability outside [0, 1), or another number of them than the graph has edges.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> EdgeDrop(0.0)(data).edge_index.size(1)
        4
    """

    def __init__(
        self, p: float | Tensor = 0.5, undirected: bool = False, generator: torch.Generator | None = None
    ) -> None:
        self.p, self.undirected, self.generator = check_drop_rate(p), undirected, generator

    def forward(self, data: Data) -> Data:
        if data.edge_index is None or data.num_nodes is None:
            raise ValueError("data must have edge_index and num_nodes (or x) to drop edges (got none)")
        return data.edge_subgraph(self.keep(data.edge_index, data.num_nodes))

    def keep(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        """Draw which edges stay, as ``[E]`` bool."""
        return ~self._draw(edge_index, num_nodes)

    def probabilities(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        """``[E]`` float64 probabilities to drop the edges."""
        size = edge_index.size(1)
        if isinstance(self.p, Tensor):
            if self.p.numel() != size:
                raise ValueError(f"p must hold one probability for each of the {size} edges (got {self.p.numel()})")
            return self.p.to(edge_index.device, torch.float64)
        return torch.full((size,), float(self.p), dtype=torch.float64, device=edge_index.device)

    def budget(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        """``[N]`` edges that each node is expected to lose; see :func:`edge_budget`."""
        return edge_budget(edge_index, num_nodes, self.p)

    def _draw(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        """Which edges the draw would drop."""
        check_pairs(edge_index, num_nodes, "edge_index", wait=False)
        p = self.probabilities(edge_index, num_nodes)
        if not self.undirected:
            return self._uniform(p.numel(), p.device) < p
        pair, num_pairs = _undirected_pairs(edge_index, num_nodes)
        count = torch.bincount(pair, minlength=num_pairs)
        mean = p.new_zeros(num_pairs).index_add_(0, pair, p) / count
        return (self._uniform(num_pairs, p.device) < mean)[pair]

    def _uniform(self, size: int, device: torch.device) -> Tensor:
        place = device if self.generator is None else self.generator.device
        return torch.rand(size, generator=self.generator, dtype=torch.float64, device=place).to(device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_described(self.p)}, undirected={self.undirected})"


class AdaptiveEdgeDrop(EdgeDrop):
    r"""Drops edges towards unimportant nodes more often, as in `"Graph Contrastive Learning with Adaptive Augmentation"
    <https://arxiv.org/abs/2010.14945>`_ (GCA).

    With the logarithm :math:`s` of the centrality of an edge's target (of both ends, on average, if ``undirected``),

    .. math:: w = \frac{\max s - s}{\max s - \bar s}, \qquad p_{edge} = \min(cap, \; p \, w / \bar w)

    where a bar is the mean over the edges. Equal centralities give every edge the same probability.

    Args:
        p: mean probability before the cap, in [0, 1).
        centrality: ``"degree"``, ``"pagerank"`` (damping 0.85) or ``"eigenvector"`` (of :math:`A + I`, whose power
            iteration settles on bipartite graphs, too); the last two take 200 steps of O(E). Probabilities are kept for
            the graph that was seen last.
        cap: largest probability.
        undirected, generator: as :class:`EdgeDrop`.

    Raises:
        ValueError: a probability out of range or another centrality.

    Example:
        >>> star = torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]])
        >>> AdaptiveEdgeDrop(0.3).probabilities(star, num_nodes=4).round(decimals=2).tolist()
        [0.6, 0.0, 0.6, 0.0, 0.6, 0.0]
    """

    def __init__(
        self,
        p: float = 0.5,
        centrality: str = "degree",
        cap: float = 0.7,
        undirected: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(check_range(p, "p", 0, 1), undirected, generator)
        self.centrality = check_choice(centrality, "centrality", CENTRALITIES)
        self.cap = check_range(cap, "cap", 0, 1)
        self._known: tuple[Tensor, int, Tensor] | None = None

    def probabilities(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        known = self._known
        if known is None or known[0] is not edge_index or known[1] != edge_index._version:
            self._known = known = (edge_index, edge_index._version, self._probabilities(edge_index, num_nodes))
        return known[2]

    def budget(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        return edge_budget(edge_index, num_nodes, self.probabilities(edge_index, num_nodes))

    def _probabilities(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        if edge_index.size(1) == 0:
            return torch.zeros(0, dtype=torch.float64, device=edge_index.device)
        score = node_centrality(edge_index, num_nodes, self.centrality).clamp(min=1e-8).log()
        s = score[edge_index].mean(0) if self.undirected else score[edge_index[1]]
        spread = s.max() - s.mean()
        w = torch.where(spread > 1e-12, (s.max() - s) / spread.clamp(min=1e-12), 1.0)
        return (self.p * w / w.mean()).clamp(max=self.cap)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, centrality={self.centrality!r}, cap={self.cap}, "
            f"undirected={self.undirected})"
        )


class BudgetedEdgeDrop(EdgeDrop):
    """Drops edges like :class:`EdgeDrop`, but from no node more than its budget.

    Bounds over all deletions within a budget (:func:`graphkit.nn.adjacency_bounds`) hold for views of this transform;
    with independent draws a node may lose more. Of a node's dropped edges a random choice within the budget stays
    dropped and the surplus returns; an undirected edge must be within the budget of both its ends. Self-loops stay.
    O(E log E).

    Args:
        p: as :class:`EdgeDrop`.
        budget: ``[N]`` most edges that each node may lose (edges to it, if directed); None takes :func:`edge_budget`.
        undirected, generator: as :class:`EdgeDrop`.

    Raises:
        ValueError: a probability or budget out of range.

    Example:
        >>> star = Data(edge_index=torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]]), num_nodes=4)
        >>> BudgetedEdgeDrop(0.9, budget=torch.tensor([1, 0, 0, 0]))(star).edge_index.size(1) >= 5
        True
    """

    def __init__(
        self,
        p: float | Tensor = 0.5,
        budget: Tensor | None = None,
        undirected: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, undirected, generator)
        if budget is not None and (budget.dim() != 1 or budget.is_floating_point() or bool((budget < 0).any())):
            raise ValueError(f"budget must be a vector of whole numbers from 0 (got {budget.dtype} {budget.tolist()})")
        self.limit = budget

    def budget(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        if self.limit is None:
            return super().budget(edge_index, num_nodes)
        if self.limit.numel() != num_nodes:
            raise ValueError(
                f"budget must hold one number for each of the {num_nodes} nodes (got {self.limit.numel()})"
            )
        return self.limit.to(edge_index.device)

    def keep(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        budget = self.budget(edge_index, num_nodes)
        dropped = self._draw(edge_index, num_nodes) & (edge_index[0] != edge_index[1])
        kept = ~dropped
        chosen = dropped.nonzero().view(-1)
        target = edge_index[1, chosen]
        if not self.undirected:
            place = _random_place(target, self._uniform(chosen.numel(), target.device))
            kept[chosen] = place >= budget[target]
            return kept
        pair, num_pairs = _undirected_pairs(edge_index[:, chosen], num_nodes)
        first = torch.full((num_pairs,), chosen.numel(), device=pair.device)
        first = first.scatter_reduce(0, pair, torch.arange(pair.numel(), device=pair.device), "amin")
        ends = edge_index[:, chosen[first]]
        order = self._uniform(num_pairs, pair.device)
        place = _random_place(ends.reshape(-1), order.repeat(2)).view(2, -1)
        kept[chosen] = (place >= budget[ends]).any(0)[pair]
        return kept

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_described(self.p)}, undirected={self.undirected})"


def edge_budget(edge_index: Tensor, num_nodes: int, p: float | Tensor) -> Tensor:
    r"""How many of its edges a node may lose under a drop rate: :math:`q_i = \min(d_i - 1, \mathrm{round}(p \, d_i))`.

    With a probability for each edge, their sum over the edges to node ``i`` replaces :math:`p \, d_i`. Halves are
    rounded to the even neighbour. Self-loops do not count.

    Args:
        edge_index: ``[2, E]`` without repeated edges.
        num_nodes: number of nodes.
        p: probability, or ``[E]`` one for each column.

    Returns:
        ``[N]`` int64, at least 0.

    Example:
        >>> edge_budget(torch.tensor([[1, 2, 3, 0], [0, 0, 0, 1]]), num_nodes=4, p=0.5)
        tensor([2, 0, 0, 0])
    """
    check_pairs(edge_index, num_nodes, "edge_index")
    check_drop_rate(p)
    edge = edge_index[0] != edge_index[1]
    target = edge_index[1, edge]
    degree = torch.bincount(target, minlength=num_nodes)
    if isinstance(p, Tensor):
        expected = torch.zeros(num_nodes, dtype=torch.float64, device=target.device)
        expected.index_add_(0, target, p.to(target.device, torch.float64)[edge])
    else:
        expected = p * degree.double()
    return torch.minimum(degree - 1, expected.round().long()).clamp(min=0)


def node_centrality(edge_index: Tensor, num_nodes: int, kind: str) -> Tensor:
    """``[N]`` float64 centrality of nodes by the edges to them: ``"degree"``, ``"pagerank"`` or ``"eigenvector"``."""
    check_choice(kind, "kind", CENTRALITIES)
    index = NeighborIndex(edge_index.flip(0), num_nodes)
    degree = index.degree.double()
    if kind == "degree":
        return degree
    score = torch.full((num_nodes, 1), 1 / max(num_nodes, 1), dtype=torch.float64, device=degree.device)
    outgoing = torch.bincount(index.col, minlength=num_nodes).double()[:, None]
    for _ in range(_STEPS):
        if kind == "pagerank":
            # A walk that can go nowhere starts again anywhere.
            lost = torch.where(outgoing == 0, score, 0).sum()
            passed = spmm(index.rowptr, index.col, score / outgoing.clamp(min=1))
            score = _DAMPING * (passed + lost / num_nodes) + (1 - _DAMPING) / num_nodes
        else:
            score = score + spmm(index.rowptr, index.col, score)
            score = score / score.norm().clamp(min=1e-300)
    return score[:, 0]


def check_drop_rate(p: float | Tensor) -> float | Tensor:
    """Return ``p`` if it is a probability below one, or a vector of such."""
    if isinstance(p, Tensor):
        if p.dim() != 1 or not p.is_floating_point():
            raise ValueError(f"p must be a vector of probabilities, one an edge (got {p.dtype} {list(p.shape)})")
        if p.numel() and not bool(((p >= 0) & (p < 1)).all()):
            raise ValueError(f"p must hold probabilities in [0, 1) (got {float(p.min())} to {float(p.max())})")
        return p
    check_range(p, "p", 0, 1)
    if p == 1:
        raise ValueError("p must be in [0, 1): at 1 no edge is left (got 1)")
    return p


def _undirected_pairs(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, int]:
    """For each edge the number of its unordered pair of ends, and how many pairs there are."""
    low, high = torch.minimum(*edge_index).long(), torch.maximum(*edge_index).long()
    pairs, inverse = (low * num_nodes + high).unique(return_inverse=True)
    return inverse, pairs.numel()


def _random_place(group: Tensor, order: Tensor) -> Tensor:
    """The place of each member of a group when its members are sorted by ``order``."""
    by_order = order.argsort()
    by_group = by_order[group[by_order].argsort(stable=True)]
    size = torch.bincount(group, minlength=1)
    start = size.cumsum(0) - size
    place = torch.empty_like(by_group)
    place[by_group] = torch.arange(group.numel(), device=group.device) - start[group[by_group]]
    return place


def _described(p: float | Tensor) -> str:
    return f"p=[{p.numel()}] of mean {float(p.mean()):.4g}" if isinstance(p, Tensor) else f"p={p}"
