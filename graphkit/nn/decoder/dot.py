"""Links scored by dot products of node vectors."""

from __future__ import annotations

from torch import Tensor, nn

from graphkit.ops import NeighborIndex, pair_product
from graphkit.utils.checks import check_pairs


class DotDecoder(nn.Module):
    r"""The logit of a link is :math:`z_i \cdot z_j`, as in `"Variational Graph Auto-Encoders"
    <https://arxiv.org/abs/1611.07308>`_. O(B H) for B pairs.

    Shapes:
        - **input:** ``z`` ``[N, H]``, a graph, which is not looked at, and ``edge_label_index`` ``[2, B]``
        - **output:** ``[B, 1]``

    Raises:
        IndexError: a node id outside the graph.

    Example:
        >>> DotDecoder()(torch.ones(3, 4), None, torch.tensor([[0, 1], [1, 2]]))
        tensor([[4.],
                [4.]])
    """

    def reset_parameters(self) -> None:
        """Nothing to reset; there for PyG's habits."""

    def forward(self, z: Tensor, edge_index: NeighborIndex | Tensor | None, edge_label_index: Tensor) -> Tensor:
        check_pairs(edge_label_index, z.size(0), wait=False)
        return pair_product(z, edge_label_index.long()).sum(1, keepdim=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
