"""What a two-layer GCN can output when edges are taken away: intervals, and linear bounds propagated backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import propagate
from graphkit.nn.models.gcn_encoder import GCNEncoder, incoming
from graphkit.ops import NeighborIndex, spmm
from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.relaxation import linear_relaxation
from graphkit.ops.spmm import sampled_dot
from graphkit.transforms import edge_budget
from graphkit.utils.checks import INDEX_DTYPES, check_choice

BOUNDS = ("crown", "released")


@dataclass(eq=False)
class AdjacencyBounds:
    """Intervals of every entry of a GCN's propagation matrix over all deletions of edges within a budget.

    Args:
        graph: the whole graph: row ``i`` lists the nodes that ``i`` hears from, without itself.
        index: the same with self-loops, the pattern of both vectors.
        lower, upper: ``[E + N]`` float64, the entries' bounds.
        budget: ``[N]`` edges that each node may lose.
        undirected: whether an edge is deleted in both directions at once.
    """

    graph: NeighborIndex
    index: NeighborIndex
    lower: Tensor
    upper: Tensor
    budget: Tensor
    undirected: bool

    def __post_init__(self) -> None:
        self._halves: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @property
    def edge_index(self) -> Tensor:
        """``[2, E + N]`` the pattern as PyG's edges, source above target, in the order of the bounds."""
        return self.index.edge_index.flip(0)

    def halves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Middle and half width of every interval."""
        if dtype not in self._halves:
            both = (self.upper + self.lower) / 2, (self.upper - self.lower) / 2
            self._halves[dtype] = both[0].to(dtype), both[1].to(dtype)
        return self._halves[dtype]

    def induced(self, nodes: Tensor) -> AdjacencyBounds:
        """The bounds of the sub-graph of ``nodes``, ascending ids, in which no node may lose more than here."""
        graph = induced_index(self.graph, nodes)
        return _bounds(graph, torch.minimum(self.budget[nodes], graph.degree), self.undirected)

    def to(self, device: torch.device | str) -> AdjacencyBounds:
        """The same bounds on another device (themselves if they are there already)."""
        if self.graph.device == torch.device(device):
            return self
        lower, upper, budget = (part.to(device) for part in (self.lower, self.upper, self.budget))
        return AdjacencyBounds(self.graph.to(device), self.index.to(device), lower, upper, budget, self.undirected)


def adjacency_bounds(
    edge_index: NeighborIndex | Tensor,
    num_nodes: int,
    budget: Tensor | None = None,
    drop_rate: float | Tensor | None = None,
    undirected: bool = False,
) -> AdjacencyBounds:
    r"""Bounds of :math:`\tilde A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}` when node ``i`` may lose :math:`q_i` of its
    :math:`d_i` edges, from `"Provable Training for Graph Contrastive Learning" <https://arxiv.org/abs/2309.13944>`_.

    .. math:: U_{ij} = \frac{1}{\sqrt{(d_i + 1 - q_i)(d_j + 1 - q_j)}}, \qquad
        L_{ij} = 0 \text{ if the edge can go, else } \tilde A_{ij}

    on the edges and the diagonal, where nothing can go. An undirected edge can go if both its ends may lose one; of a
    directed graph, where an edge from j to i counts for i alone, if i may. O(E) time and memory.

    Args:
        edge_index: ``[2, E]`` with both directions of every edge, or a :class:`~graphkit.ops.NeighborIndex` whose row
            ``i`` lists the nodes that ``i`` hears from; without self-loops.
        num_nodes: number of nodes.
        budget: ``[N]`` whole numbers :math:`q_i` in :math:`[0, d_i]`.
        drop_rate: instead of a budget, the probability (or ``[E]`` one an edge) that it follows from by
            :func:`~graphkit.transforms.edge_budget`.
        undirected: deletions take both directions of an edge.

    Raises:
        ValueError: both or neither of budget and drop rate, a budget or rate out of range, self-loops, a directed
            graph with ``undirected``.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> bounds = adjacency_bounds(path, num_nodes=3, budget=torch.tensor([1, 2, 1]), undirected=True)
        >>> bounds.lower[:2].round(decimals=3).tolist(), bounds.upper[:2].tolist()
        ([0.5, 0.0], [1.0, 1.0])
    """
    if (budget is None) == (drop_rate is None):
        raise ValueError(f"one of budget and drop_rate must be given (got {budget} and {drop_rate})")
    graph = incoming(edge_index, num_nodes)
    if bool((graph.row == graph.col).any()):
        raise ValueError("edge_index must have no self-loops: the bounds add one to every node; use RemoveSelfLoops")
    if undirected and not bool(graph.has_edge(graph.col, graph.row).all()):
        raise ValueError("edge_index must have both directions of every edge with undirected=True (use ToUndirected)")
    if drop_rate is not None:
        edges = graph.edge_index.flip(0) if isinstance(edge_index, NeighborIndex) else edge_index
        budget = edge_budget(edges, num_nodes, drop_rate)
    assert budget is not None
    if budget.dtype not in INDEX_DTYPES or budget.shape != (num_nodes,):
        raise ValueError(f"budget must hold {num_nodes} whole numbers, one a node (got {budget.dtype} {budget.shape})")
    budget = budget.to(graph.device)
    bad = ((budget < 0) | (budget > graph.degree)).nonzero().view(-1)
    if bad.numel():
        node = int(bad[0])
        raise ValueError(f"budget of node {node} must be in [0, {int(graph.degree[node])}] (got {int(budget[node])})")
    return _bounds(graph, budget, undirected)


def _bounds(graph: NeighborIndex, budget: Tensor, undirected: bool) -> AdjacencyBounds:
    loops = torch.arange(graph.num_nodes, device=graph.device).expand(2, -1)
    index = NeighborIndex(torch.cat([graph.edge_index, loops], dim=1), graph.num_nodes)
    row, col = index.row, index.col
    degree = graph.degree.double() + 1
    least, most = degree.rsqrt(), (degree - budget).rsqrt()
    removable = (budget > 0)[row]
    if undirected:
        removable = removable & (budget > 0)[col]
    lower = torch.where(removable & (row != col), 0.0, least[row] * least[col])
    return AdjacencyBounds(graph, index, lower, most[row] * most[col], budget, undirected)


def induced_index(graph: NeighborIndex, nodes: Tensor) -> NeighborIndex:
    """The sub-graph of ``nodes``, which must be ascending, under new ids. O(their degrees + N)."""
    place = torch.full((graph.num_nodes,), -1, device=graph.device)
    place[nodes] = torch.arange(nodes.numel(), device=graph.device)
    row, neighbor = graph.expand(nodes)
    col = place[neighbor]
    kept = col >= 0
    degree = torch.bincount(row[kept], minlength=nodes.numel())
    return NeighborIndex.from_csr(counts_to_ptr(degree), col[kept], nodes.numel())


def contrast_vectors(z: Tensor) -> Tensor:
    r"""How each node differs from the others: :math:`w_i = \hat z_i - \frac{1}{n-1} \sum_{j \ne i} \hat z_j`, with
    :math:`\hat z` the rows at length one. O(N H).

    Raises:
        ValueError: fewer than two rows.
    """
    if z.dim() != 2 or z.size(0) < 2:
        raise ValueError(f"z must hold vectors of at least two nodes, which are told apart (got {list(z.shape)})")
    unit = F.normalize(z, dim=1)
    n = z.size(0)
    return unit * (n / (n - 1)) - unit.sum(0) / (n - 1)


class PreactivationBounds(NamedTuple):
    """Intervals of what enters the first activation ``[N, hidden]`` and the second ``[N, out]``."""

    lower1: Tensor
    upper1: Tensor
    lower2: Tensor
    upper2: Tensor


class GCNBoundPropagation:
    r"""Lower bounds of :math:`\langle w_i, z_i \rangle` for the output :math:`z` of a two-layer GCN over all views of a
    graph within a budget of deleted edges, from `"Provable Training for Graph Contrastive Learning"
    <https://arxiv.org/abs/2309.13944>`_.

    With intervals :math:`[L^1, U^1]`, :math:`[L^2, U^2]` of the preactivations, each activation lies between two lines
    of slope :math:`\alpha` (:func:`~graphkit.ops.linear_relaxation`). Put in backwards, with
    :math:`\Lambda_i = \alpha^2_i \odot w_i`, :math:`V = \Lambda W_2^\top` and :math:`x^- = \min(x, 0)`,

    .. math::
        \langle w_i, z_i \rangle \ge
        \Big\langle V_i, \sum_j \tilde A'_{ij} \, \alpha^1_j \odot P^1_j \Big\rangle
        + \Big\langle V_i^-, \sum_j \tilde A'_{ij} \gamma^1_j \Big\rangle
        + \langle \Lambda_i, b_2 \rangle + \langle w_i^-, \gamma^2_i \rangle

    where :math:`P^1 = \tilde A' X W_1 + b_1` in the view :math:`A'`. :meth:`score` is that bound in a given view;
    :meth:`certified` is below it for every view within the budget. Both are differentiable, take sparse products alone,
    O(E hidden), and store nothing of size N x N.

    Args:
        encoder: a :class:`GCNEncoder`.

    Raises:
        TypeError: another kind of encoder, for which these bounds do not hold.

    Example:
        >>> encoder = GCNEncoder(3, out_channels=4)
        >>> x, ring = torch.randn(4, 3), torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
        >>> bounds = adjacency_bounds(ring, num_nodes=4, drop_rate=0.5)
        >>> w = contrast_vectors(encoder(x, ring))
        >>> propagation = GCNBoundPropagation(encoder)
        >>> bool((propagation.certified(x, w, bounds) <= propagation.score(x, ring, w, bounds) + 1e-6).all())
        True
    """

    def __init__(self, encoder: nn.Module) -> None:
        if not isinstance(encoder, GCNEncoder):
            raise TypeError(
                f"encoder must be a graphkit.nn.GCNEncoder, a GCN of two layers (got {type(encoder).__name__})"
            )
        self.encoder = encoder

    def preactivation_bounds(self, x: Tensor, bounds: AdjacencyBounds, sound: bool = True) -> PreactivationBounds:
        """Intervals of both layers' preactivations.

        Args:
            x: ``[N, F]`` features, dense or sparse CSR.
            bounds: of the propagation matrix.
            sound: the second layer's intervals follow from the first layer's. If not, they start from the hidden
                vectors of the whole graph, as in the released code, and do not hold for other views.
        """
        return self._preactivation_bounds(self.product(x, bounds), bounds, sound)

    def score(
        self, x: Tensor, view: NeighborIndex | Tensor, w: Tensor, bounds: AdjacencyBounds, bound: str = "crown"
    ) -> Tensor:
        """``[N]`` lower bounds of ``(w * encoder(x, view)).sum(1)``.

        Args:
            x: ``[N, F]`` features, dense or sparse CSR.
            view: the graph with some edges deleted, within the budget; graph or ``edge_index`` as the encoder takes it.
            w: ``[N, out]``, such as :func:`contrast_vectors`.
            bounds: of the whole graph.
            bound: ``"crown"``, or ``"released"``: the form of the released code, in which a neighbour brings
                coefficients that follow from its own vector in ``w``, and the second layer's intervals are not sound;
                it is no lower bound.

        Raises:
            ValueError: a view with edges that the bounds do not know, or another ``bound``.
        """
        graph = incoming(view, bounds.graph.num_nodes)
        check_view(graph, bounds)
        return self.score_of_product(self.product(x, bounds), graph, w, bounds, bound)

    def product(self, x: Tensor, bounds: AdjacencyBounds) -> Tensor:
        """``X W_1``, which all views share."""
        if x.size(0) != bounds.graph.num_nodes:
            raise ValueError(f"bounds are of a graph of {bounds.graph.num_nodes} nodes, x has {x.size(0)} rows")
        return self.encoder.linear1(x)

    def score_of_product(
        self, product: Tensor, view: NeighborIndex, w: Tensor, bounds: AdjacencyBounds, bound: str = "crown"
    ) -> Tensor:
        """:meth:`score` from ``product = X W_1``, which does not depend on the view; the view is not checked."""
        check_choice(bound, "bound", BOUNDS)
        encoder = self.encoder
        intervals = self._preactivation_bounds(product, bounds, sound=bound == "crown")
        alpha, gamma = linear_relaxation(intervals.lower1, intervals.upper1, encoder.negative_slope)
        v, constant = self._second(w, intervals)
        if bound == "released":
            slope = alpha * v
            own = slope @ encoder.bias1 + (v.clamp(max=0) * gamma).sum(1)
            hidden = propagate((slope * product).sum(1, keepdim=True), view) + own[:, None]
            return propagate(hidden, view)[:, 0] + constant
        line = propagate(alpha * (propagate(product, view) + encoder.bias1), view)
        offset = propagate(gamma, view)
        return (v * line).sum(1) + (v.clamp(max=0) * offset).sum(1) + constant

    @torch.no_grad()
    def certified(self, x: Tensor, w: Tensor, bounds: AdjacencyBounds) -> Tensor:
        r"""``[N]`` lower bounds of ``(w * encoder(x, view)).sum(1)`` over all views within the budget; no gradient.

        An edge contributes at least :math:`t_{ij} = \langle V_i^+, \alpha^1_j \odot L^1_j \rangle + \langle V_i^-,
        \alpha^1_j \odot U^1_j + \gamma^1_j \rangle`, and its entry of the matrix is the one of its bounds that makes
        that smaller.
        """
        intervals = self.preactivation_bounds(x, bounds)
        alpha, gamma = linear_relaxation(intervals.lower1, intervals.upper1, self.encoder.negative_slope)
        v, constant = self._second(w, intervals)
        pattern = bounds.index.rowptr, bounds.index.col
        least = sampled_dot(*pattern, v.clamp(min=0), alpha * intervals.lower1)
        least = least + sampled_dot(*pattern, v.clamp(max=0), alpha * intervals.upper1 + gamma)
        middle, half = bounds.halves(least.dtype)
        part = middle * least - half * least.abs()
        return constant.index_add(0, bounds.index.row, part)

    def _preactivation_bounds(self, product: Tensor, bounds: AdjacencyBounds, sound: bool) -> PreactivationBounds:
        encoder = self.encoder
        lower1, upper1 = _interval(product, product, bounds, encoder.bias1)
        if sound:
            # The activation grows, so that the ends of its input's interval are those of its output's.
            low, high = encoder.activate(lower1), encoder.activate(upper1)
            weight = encoder.linear2.weight
            middle = F.linear((high + low) / 2, weight)
            half = F.linear((high - low) / 2, weight.abs())
            low, high = middle - half, middle + half
        else:
            hidden = encoder.activate(propagate(product, bounds.graph) + encoder.bias1)
            low = high = encoder.linear2(hidden)
        return PreactivationBounds(lower1, upper1, *_interval(low, high, bounds, encoder.bias2))

    def _second(self, w: Tensor, intervals: PreactivationBounds) -> tuple[Tensor, Tensor]:
        """Coefficients ``[N, hidden]`` of each node's second layer put in, and its constant ``[N]``."""
        encoder = self.encoder
        if w.shape != intervals.lower2.shape:
            raise ValueError(f"w must have shape {list(intervals.lower2.shape)} (got {list(w.shape)})")
        alpha, gamma = linear_relaxation(intervals.lower2, intervals.upper2, encoder.negative_slope)
        root = alpha * w
        constant = root @ encoder.bias2 + (w.clamp(max=0) * gamma).sum(1)
        return root @ encoder.linear2.weight, constant


def check_view(view: NeighborIndex, bounds: AdjacencyBounds) -> None:
    """Refuse a view with edges that the bounds do not know. O(E log d); a GPU asserts without waiting."""
    if view is bounds.graph:
        return
    message = "view has edges that bounds were not computed for; compute them for the graph that the view is drawn from"
    inside = bounds.graph.has_edge(view.row, view.col).all()
    if inside.is_cuda:
        torch._assert_async(inside, message)
    elif not bool(inside):
        raise ValueError(message)


def _interval(low: Tensor, high: Tensor, bounds: AdjacencyBounds, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix's intervals times those of the rows. With middle m and half width r of an entry, its product with a
    number h is at most m h + r |h| and at least m h - r |h|."""
    middle, half = bounds.halves(low.dtype)
    rowptr, col = bounds.index.rowptr, bounds.index.col
    lower = spmm(rowptr, col, low, middle)
    wide = spmm(rowptr, col, low.abs(), half)
    if high is low:
        return lower - wide + bias, lower + wide + bias
    upper = spmm(rowptr, col, high, middle) + spmm(rowptr, col, high.abs(), half)
    return lower - wide + bias, upper + bias
