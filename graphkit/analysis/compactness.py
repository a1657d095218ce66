"""Node compactness: how surely a node obeys the contrastive principle whatever the augmentation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.bounds import AdjacencyBounds, GCNBoundPropagation, contrast_vectors
from graphkit.ops import NeighborIndex


@torch.no_grad()
def node_compactness(
    encoder: nn.Module,
    x: Tensor,
    edge_index: NeighborIndex | Tensor,
    z_ref: Tensor,
    bounds: AdjacencyBounds,
    certified: bool = False,
) -> Tensor:
    r"""Lower bounds of how much closer each node is to itself in a reference view than to the average of the others,
    from `"Provable Training for Graph Contrastive Learning" <https://arxiv.org/abs/2309.13944>`_.

    A node with a value above zero is certain to obey the contrastive principle: in the graph ``edge_index``, or, if
    ``certified``, in every view within the budget of ``bounds``. A trained encoder can be judged so whether or not
    it was trained with :class:`~graphkit.train.POTLoss`. Values grow with the length of the encoder's vectors: divide
    by that to compare encoders. O(E hidden).

    Args:
        encoder: a trained :class:`~graphkit.nn.GCNEncoder`.
        x: ``[N, F]`` features, dense or sparse CSR.
        edge_index: the view, or the whole graph, as the encoder takes it.
        z_ref: ``[N, out]`` the encoder's vectors in the other view, or in the whole graph.
        bounds: of the whole graph, from :func:`~graphkit.nn.adjacency_bounds`.
        certified: bound all views rather than this one.

    Returns:
        ``[N]``, without gradient.

    Raises:
        TypeError: another kind of encoder.
        ValueError: edges that ``bounds`` were not computed for, a graph of one node, shapes that do not fit.

    Example:
        >>> from graphkit.nn import GCNEncoder, adjacency_bounds
        >>> x, edges = torch.randn(4, 8), torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
        >>> encoder, bounds = GCNEncoder(8, out_channels=4), adjacency_bounds(edges, 4, drop_rate=0.4)
        >>> node_compactness(encoder, x, edges, encoder(x, edges), bounds, certified=True).shape
        torch.Size([4])
    """
    propagation = GCNBoundPropagation(encoder)
    w = contrast_vectors(z_ref)
    if certified:
        return propagation.certified(x, w, bounds)
    return propagation.score(x, edge_index, w, bounds)
