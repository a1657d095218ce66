"""Message passing without weights: normalised sums over neighbours, with an explicit rule for self-loops."""

from __future__ import annotations

from torch import Tensor, nn

from graphkit.ops import NeighborIndex, spmm
from graphkit.utils.checks import check_choice

AGGREGATIONS = ("gcn", "walk", "sum", "mean", "max")


def propagate(x: Tensor, graph: NeighborIndex | Tensor, aggr: str = "gcn", edge_scale: float = 1.0) -> Tensor:
    r"""Sum (or average, or maximise) each node's neighbours.

    ``"gcn"``: :math:`\tilde D^{-1/2} (A + I) \tilde D^{-1/2} X` with :math:`\tilde D` the degrees of :math:`A + I`, the
    self-loop added here; ``"walk"``: :math:`\tilde D^{-1} (A + I) X`, the mean of a node and its neighbours; the others
    use the neighbours as they are. O(E F), no messages stored (except for ``"max"``).

    Args:
        x: ``[N, F]``.
        graph: row ``i`` lists the nodes that node ``i`` hears from, both directions for an undirected graph.
        aggr: ``"gcn"``, ``"walk"``, ``"sum"``, ``"mean"`` or ``"max"``.
        edge_scale: factor of every edge, ``1 / (1 - p)`` after an edge dropout; means and ``"max"`` ignore it.

    Returns:
        ``[N, F]``; nodes without neighbours get zeros (their own features with ``"gcn"`` and ``"walk"``).

    Raises:
        ValueError: another ``aggr``.

    Example:
        >>> propagate(torch.eye(2), torch.tensor([[0, 1], [1, 0]]), "sum")
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_choice(aggr, "aggr", AGGREGATIONS)
    index = NeighborIndex.of(graph, x.size(0))
    if aggr == "gcn":
        scale = (index.degree.to(x.dtype) * edge_scale + 1).rsqrt()[:, None]
        scaled = x * scale
        total = spmm(index.rowptr, index.col, scaled)
        return scale * (scaled + (total if edge_scale == 1 else total * edge_scale))
    if aggr == "walk":
        return (x + spmm(index.rowptr, index.col, x)) / (index.degree.to(x.dtype) + 1)[:, None]
    if aggr == "max":
        row = index.row[:, None].expand(-1, x.size(1))
        out = x.new_zeros(x.shape)
        return out.scatter_reduce(0, row, x[index.col], "amax", include_self=False)
    total = spmm(index.rowptr, index.col, x)
    if aggr == "mean":
        return total / index.degree.clamp(min=1).to(x.dtype)[:, None]
    return total if edge_scale == 1 else total * edge_scale


class PureConv(nn.Module):
    r"""Message passing with no weight and no non-linearity, as in `"Neural Common Neighbor with Completion for Link
    Prediction" <https://arxiv.org/abs/2302.00890>`_.

    See :func:`propagate` for the aggregations.

    Args:
        aggr: ``"gcn"``, ``"walk"``, ``"sum"``, ``"mean"`` or ``"max"``.

    Shapes:
        - **input:** ``x`` ``[N, F]``, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]``
        - **output:** ``[N, F]``

    Example:
        >>> PureConv("mean")(torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, aggr: str = "gcn") -> None:
        super().__init__()
        self.aggr = check_choice(aggr, "aggr", AGGREGATIONS)

    def reset_parameters(self) -> None:
        """Nothing to reset; there for PyG's habits."""

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor, edge_scale: float = 1.0) -> Tensor:
        return propagate(x, edge_index, self.aggr, edge_scale)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(aggr={self.aggr!r})"


def dropout_edges(index: NeighborIndex, p: float, training: bool) -> tuple[NeighborIndex, float]:
    """Drop edges with probability ``p``; returns the graph and the factor that keeps sums unbiased."""
    if not training or p == 0:
        return index, 1.0
    return index.dropout(p), 1 / (1 - p) if p < 1 else 1.0


def graph_for(layer: nn.Module, graph: NeighborIndex | Tensor) -> NeighborIndex | Tensor:
    """The graph in the form that ``layer`` takes: an index as PyG's edges, source to target, unless the layer has the
    attribute ``takes_index``."""
    if isinstance(graph, NeighborIndex) and not getattr(layer, "takes_index", False):
        return graph.edge_index.flip(0)
    return graph


def dense_features(x: Tensor) -> Tensor:
    """Sparse CSR features as a matrix; others as they are."""
    return x.to_dense() if x.is_sparse_csr else x


def incoming(graph: NeighborIndex | Tensor, num_nodes: int) -> NeighborIndex:
    """For each node the nodes that it hears from; a tensor holds PyG's edges, source above target."""
    if isinstance(graph, NeighborIndex):
        return NeighborIndex.of(graph, num_nodes)
    return NeighborIndex(graph.flip(0), num_nodes)
