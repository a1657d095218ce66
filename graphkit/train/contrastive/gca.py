"""GCA: GRACE with views that keep what is important."""

from __future__ import annotations

from torch import nn

from graphkit.train.contrastive.grace import GRACE
from graphkit.transforms import AdaptiveEdgeDrop, EdgeDrop
from graphkit.transforms.edge_drop import CENTRALITIES
from graphkit.utils.checks import check_choice


class GCA(GRACE):
    """:class:`GRACE` with :class:`~graphkit.transforms.AdaptiveEdgeDrop`, from `"Graph Contrastive Learning with
    Adaptive Augmentation" <https://arxiv.org/abs/2010.14945>`_.

    Args:
        encoder, hidden_channels, proj_channels, tau: as :class:`GRACE`.
        centrality: ``"degree"``, ``"pagerank"`` or ``"eigenvector"``.

    Raises:
        ValueError: an argument out of range or another centrality.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> model = GCA(GCN(8, 16, num_layers=2), hidden_channels=16, proj_channels=16, centrality="pagerank")
        >>> model.views(0.3, 0.1)[0]
        AdaptiveEdgeDrop(p=0.3, centrality='pagerank', cap=0.7, undirected=False)
    """

    def __init__(
        self,
        encoder: nn.Module,
        hidden_channels: int,
        proj_channels: int,
        tau: float = 0.5,
        centrality: str = "degree",
    ) -> None:
        super().__init__(encoder, hidden_channels, proj_channels, tau)
        self.centrality = check_choice(centrality, "centrality", CENTRALITIES)

    def views(self, p1: float, p2: float, undirected: bool = False) -> tuple[EdgeDrop, EdgeDrop]:
        first, second = (AdaptiveEdgeDrop(p, self.centrality, undirected=undirected) for p in (p1, p2))
        return first, second
