"""Layers one after the other, of which some take the graph."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from graphkit.nn.conv.propagate import graph_for
from graphkit.ops import NeighborIndex


class GraphSequential(nn.Sequential):
    """:class:`torch.nn.Sequential` for layers of graphs: message-passing layers of PyG and those of GraphKit (with the
    attribute ``takes_index``) are called with the graph, all others without.

    :class:`torch_geometric.nn.Sequential` can do more, but its forward is a file named by a random number of Python's
    generator: two of them that were made after the same seed get the forward of the first.

    Args:
        layers: modules, in order.

    Shapes:
        - **input:** what the first layer takes, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index``
          ``[2, E]``
        - **output:** that of the last layer

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> model = GraphSequential(GCNConv(8, 16), nn.ReLU(), GCNConv(16, 3))
        >>> model(torch.randn(2, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    takes_index = True

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)

    def reset_parameters(self) -> None:
        """Draw the weights of all layers anew."""
        for layer in self:
            for part in layer.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()

    def forward(self, x: Tensor, graph: NeighborIndex | Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            if getattr(layer, "takes_index", False) or isinstance(layer, MessagePassing):
                x = layer(x, graph_for(layer, graph))
            else:
                x = layer(x)
        return x
