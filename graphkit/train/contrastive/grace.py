"""GRACE: two views of a graph by dropped edges, and InfoNCE between their node vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.ops import NeighborIndex
from graphkit.train.contrastive.info_nce import info_nce
from graphkit.transforms import EdgeDrop
from graphkit.utils.checks import check_int, check_range

View = tuple[Tensor, NeighborIndex | Tensor]


class GRACE(nn.Module):
    r"""`"Deep Graph Contrastive Representation Learning" <https://arxiv.org/abs/2006.04131>`_: :func:`info_nce` of node
    vectors that a projection head (linear, ELU, linear) has mapped; the head is left out once it is trained.

    A contrastive model is called with one graph for its node vectors and with two views for its loss, which is all that
    :class:`ContrastiveTask` asks for.

    Args:
        encoder: any ``encoder(x, graph) -> [N, hidden_channels]`` of GraphKit or PyG.
        hidden_channels: width of the encoder's output.
        proj_channels: width inside the head.
        tau: temperature of :func:`info_nce`.

    Shapes:
        - **input:** ``x`` ``[N, F]`` and graph as the encoder takes them; ``other``: those of a second view
        - **output:** ``[N, hidden_channels]``; with a second view the loss and both views' vectors

    Raises:
        ValueError: a size or temperature out of range.

    Example:
        >>> from graphkit.nn import GCNEncoder
        >>> x, edges = torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])
        >>> model = GRACE(GCNEncoder(8, out_channels=4), hidden_channels=4, proj_channels=4)
        >>> model(x, edges).shape
        torch.Size([3, 4])
        >>> loss, z1, z2 = model(x, edges, other=(x, edges[:, :1]))
    """

    def __init__(self, encoder: nn.Module, hidden_channels: int, proj_channels: int, tau: float = 0.5) -> None:
        super().__init__()
        check_int(hidden_channels, "hidden_channels", 1)
        check_int(proj_channels, "proj_channels", 1)
        self.encoder, self.tau = encoder, check_range(tau, "tau", 0.02)
        self.head = nn.Sequential(
            nn.Linear(hidden_channels, proj_channels), nn.ELU(), nn.Linear(proj_channels, hidden_channels)
        )

    @property
    def takes_index(self) -> bool:
        """Whether the encoder takes a :class:`~graphkit.ops.NeighborIndex` and sparse features."""
        return getattr(self.encoder, "takes_index", False)

    def views(self, p1: float, p2: float, undirected: bool = False) -> tuple[EdgeDrop, EdgeDrop]:
        """The transforms that the method draws its two views with, from their drop rates."""
        return EdgeDrop(p1, undirected), EdgeDrop(p2, undirected)

    def forward(
        self, x: Tensor, graph: NeighborIndex | Tensor, other: View | None = None, batch_size: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        z = self.encoder(x, graph)
        if other is None:
            return z
        z2 = self.encoder(*other)
        return self.loss(z, z2, batch_size), z, z2

    def loss(self, z1: Tensor, z2: Tensor, batch_size: int | None = None) -> Tensor:
        """The loss of two views' vectors ``[N, hidden_channels]``.

        Args:
            z1, z2: the encoder's output.
            batch_size: take so many random nodes, which are then each other's negatives; None takes all.
        """
        nodes = random_nodes(z1.size(0), batch_size, z1.device)
        if nodes is not None:
            z1, z2 = z1[nodes], z2[nodes]
        return self.contrast(z1, z2)

    def contrast(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of nodes that are all each other's negatives; what the methods differ in."""
        return info_nce(self.head(z1), self.head(z2), self.tau)


def random_nodes(num_nodes: int, batch_size: int | None, device: torch.device) -> Tensor | None:
    """Ascending ids of ``batch_size`` random nodes; None if that is all of them."""
    if batch_size is None or check_int(batch_size, "batch_size", 2) >= num_nodes:
        return None
    return torch.randperm(num_nodes, device=device)[:batch_size].sort().values
