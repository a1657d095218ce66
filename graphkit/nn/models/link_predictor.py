"""An encoder and a decoder as one module, which is what a trainer wraps."""

from __future__ import annotations

from torch import Tensor, nn

from graphkit.ops import NeighborIndex


class LinkPredictor(nn.Module):
    """Scores links: an encoder of nodes, then a decoder of pairs.

    Args:
        encoder: ``encoder(x, edge_index) -> z [N, H]``: GraphKit's or any of PyG's models.
        decoder: ``decoder(z, edge_index, edge_label_index) -> [B, out]``, such as
            :class:`~graphkit.nn.decoder.NCNDecoder`.

    Shapes:
        - **input:** ``x`` ``[N, F]`` or None, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index``
          ``[2, E]``, ``edge_label_index`` ``[2, B]``
        - **output:** ``[B, out]``

    Example:
        >>> from torch_geometric.nn import GraphSAGE
        >>> from graphkit.nn import NCNDecoder
        >>> model = LinkPredictor(GraphSAGE(8, 16, num_layers=2), NCNDecoder(16, 16))
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.encoder, self.decoder):
            part.reset_parameters()  # type: ignore[operator]

    def encode(self, x: Tensor | None, graph: NeighborIndex | Tensor) -> Tensor:
        """``[N, H]`` node vectors."""
        # PyG's layers take tensors, ours the index; the tensor of an index is made only for the former.
        if isinstance(graph, NeighborIndex) and not getattr(self.encoder, "takes_index", False):
            return self.encoder(x, graph.edge_index)
        return self.encoder(x, graph)

    def decode(self, z: Tensor, graph: NeighborIndex | Tensor, edge_label_index: Tensor) -> Tensor:
        """``[B, out]`` scores of pairs from node vectors."""
        return self.decoder(z, graph, edge_label_index)

    def forward(self, x: Tensor | None, graph: NeighborIndex | Tensor, edge_label_index: Tensor) -> Tensor:
        return self.decode(self.encode(x, graph), graph, edge_label_index)
