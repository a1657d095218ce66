"""Node encoder, readout of each graph, head: one vector a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import GIN
from torch_geometric.utils import scatter

from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_choice

STRUCTURE = 10  # width of structural_features


def structural_features(edge_index: Tensor, num_nodes: int) -> Tensor:
    """``[N, 10]`` features of nodes that have none: the degree on a scale of powers of two, interpolated.

    The degree d lies between the two nearest of the ten points 0, 1, 3, 7, ...; its weight is shared between them.
    """
    ones = torch.ones(edge_index.size(1), device=edge_index.device)
    degree = torch.zeros(num_nodes, device=edge_index.device).index_add_(0, edge_index[0], ones)
    place = torch.log2(degree + 1).clamp(max=STRUCTURE - 1)
    points = torch.arange(STRUCTURE, device=edge_index.device)
    return (1 - (place[:, None] - points).abs()).clamp(min=0)


class GraphEncoder(nn.Module):
    """Vectors of graphs: node vectors, their mean (or another readout) over each graph, and a head.

    Args:
        encoder: any module called as ``encoder(x, edge_index)``, or as ``encoder(x, index)`` with a
            :class:`~graphkit.ops.NeighborIndex` if it has ``takes_index``; such as :func:`gin_encoder`.
        head: maps the graphs' vectors ``[G, H]`` to the output; the vectors themselves if None.
        readout: ``"mean"``, ``"sum"``, ``"max"``, or ``"first"`` for what the first node of each graph, which must have
            one, knows.

    Shapes:
        - **input:** ``x`` ``[N, F]`` or None (degrees then), ``edge_index`` ``[2, E]``, ``batch`` ``[N]``
        - **output:** ``[G, C]``

    Raises:
        ValueError: an unknown readout.

    Example:
        >>> model = GraphEncoder(gin_encoder(16, 2), nn.Linear(16, 3))
        >>> model(None, torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 0, 1]), 2).shape
        torch.Size([2, 3])
    """

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, readout: str = "mean") -> None:
        super().__init__()
        self.encoder = encoder
        self.readout = check_choice(readout, "readout", ("mean", "sum", "max", "first"))
        self.head = nn.Identity() if head is None else head

    def forward(self, x: Tensor | None, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        if x is None:
            x = structural_features(edge_index, batch.numel())
        graph = (
            NeighborIndex(edge_index.flip(0), batch.numel())
            if getattr(self.encoder, "takes_index", False)
            else edge_index
        )
        h = self.encoder(x, graph)
        if self.readout == "first":
            return self.head(h[torch.searchsorted(batch, torch.arange(num_graphs, device=batch.device))])
        return self.head(scatter(h, batch, 0, num_graphs, reduce=self.readout))


def gin_encoder(hidden: int = 32, num_layers: int = 3, in_channels: int = STRUCTURE) -> GIN:
    """PyG's GIN with batch normalisation."""
    return GIN(in_channels, hidden, num_layers, norm="batch_norm")


def projection_head(hidden: int, out_channels: int) -> nn.Module:
    """The two layers between the vectors and the contrast, which are thrown away after pre-training."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out_channels))
