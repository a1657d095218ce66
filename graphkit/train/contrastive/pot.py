"""POT: training that raises what a node's contrast is certain to be under any augmentation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.bounds import (
    BOUNDS,
    AdjacencyBounds,
    GCNBoundPropagation,
    check_view,
    contrast_vectors,
    induced_index,
)
from graphkit.nn.models.gcn_encoder import incoming
from graphkit.ops import NeighborIndex
from graphkit.train.contrastive.grace import random_nodes
from graphkit.utils.checks import check_choice, check_int


class POTLoss(nn.Module):
    r"""The regulariser of `"Provable Training for Graph Contrastive Learning" <https://arxiv.org/abs/2309.13944>`_.

    A node obeys the contrastive principle if :math:`f_i = \langle w_i, z_i \rangle > 0`: it is closer to itself in the
    other view than to the average of the others (:func:`~graphkit.nn.bounds.contrast_vectors`). With the lower bounds
    :math:`\underline f_i` of :class:`~graphkit.nn.GCNBoundPropagation` in the sampled view,

    .. math:: L_{POT} = \frac{1}{2n} \sum_i \log(1 + e^{-\underline f_i}) + \log(1 + e^{-\underline f'_i})

    one term for each view against the other. Both views' vectors carry gradient. O(E hidden) time, O(N hidden) memory.

    A term is about the edges that its view may lose; features are as the view has them.

    The bounds hold for views within their budgets (:class:`~graphkit.transforms.BudgetedEdgeDrop`); with independent
    draws a node may lose more edges now and then.

    Args:
        encoder: the :class:`~graphkit.nn.GCNEncoder` that is trained.
        bounds: of the graph, for the drop rate of the first view and for that of the second; or one for both.
        batch_size: bound so many random nodes in the graph among them, in place of all nodes.
        bound: ``"crown"``, or ``"released"`` for the released code's form, which is no lower bound.

    Shapes:
        - **input:** ``x`` ``[N, F]``, or a pair of them where the views differ in features, two views as the encoder
          takes them, and its ``z1`` and ``z2`` ``[N, out]``
        - **output:** a scalar

    Raises:
        TypeError: the encoder is no :class:`~graphkit.nn.GCNEncoder`.
        ValueError: another ``bound``, bounds of different graphs, a view with edges that they were not computed for, or
            a graph of one node.

    Example:
        >>> import torch
        >>> from graphkit.nn import GCNEncoder, adjacency_bounds
        >>> x, edges = torch.randn(4, 8), torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
        >>> encoder = GCNEncoder(8, out_channels=4)
        >>> pot = POTLoss(encoder, adjacency_bounds(edges, 4, drop_rate=0.4))
        >>> view1, view2 = edges[:, :6], edges[:, 2:]
        >>> bool(pot(x, view1, view2, encoder(x, view1), encoder(x, view2)) > 0)
        True
    """

    def __init__(
        self,
        encoder: nn.Module,
        bounds: AdjacencyBounds | tuple[AdjacencyBounds, AdjacencyBounds],
        batch_size: int | None = None,
        bound: str = "crown",
    ) -> None:
        super().__init__()
        GCNBoundPropagation(encoder)  # refuses an encoder that cannot be bounded
        first, second = (bounds, bounds) if isinstance(bounds, AdjacencyBounds) else bounds
        if not _same_graph(first.graph, second.graph):
            raise ValueError("bounds must be of one graph, for two drop rates (got two graphs)")
        self.encoder, self.bounds = encoder, (first, second)
        self.batch_size = None if batch_size is None else check_int(batch_size, "batch_size", 2)
        self.bound = check_choice(bound, "bound", BOUNDS)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        view1: NeighborIndex | Tensor,
        view2: NeighborIndex | Tensor,
        z1: Tensor,
        z2: Tensor,
    ) -> Tensor:
        self.bounds = self.bounds[0].to(z1.device), self.bounds[1].to(z1.device)
        propagation = GCNBoundPropagation(self.encoder)
        views = [incoming(view, self.bounds[0].graph.num_nodes) for view in (view1, view2)]
        for view, bounds in zip(views, self.bounds, strict=True):
            check_view(view, bounds)
        x1, x2 = x if isinstance(x, tuple) else (x, x)
        product1 = propagation.product(x1, self.bounds[0])
        product2 = product1 if x1 is x2 else propagation.product(x2, self.bounds[0])
        both = self.bounds
        nodes = random_nodes(z1.size(0), self.batch_size, z1.device)
        if nodes is not None:
            product1, product2, z1, z2 = (rows[nodes] for rows in (product1, product2, z1, z2))
            views = [induced_index(view, nodes) for view in views]
            both = both[0].induced(nodes), both[1].induced(nodes)
        losses = [
            F.softplus(-propagation.score_of_product(product, view, contrast_vectors(z), bounds, self.bound)).mean()
            for product, view, z, bounds in zip((product1, product2), views, (z2, z1), both, strict=True)
        ]
        return (losses[0] + losses[1]) / 2


def _same_graph(a: NeighborIndex, b: NeighborIndex) -> bool:
    return a is b or (a.num_nodes == b.num_nodes and a.col.equal(b.col) and a.rowptr.equal(b.rowptr))
