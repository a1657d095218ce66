"""GCNII: deep graph convolution with initial residuals and identity maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import check_int, check_range


class GCNIILayers(nn.Module):
    r"""The layers of :class:`GCNII` after its first linear map, and the linear output.

    .. math:: H \leftarrow \mathrm{ReLU}\big(\theta_l P W_l + (1 - \theta_l) P\big), \quad
        P = (1 - \alpha) \tilde A \, \mathrm{Dropout}(H) + \alpha H_0, \quad \theta_l = \log(\lambda / l + 1)

    The function of a layer is that of :class:`torch_geometric.nn.GCN2Conv`, without a message stored for each edge.
    O(L (E H + N H²)).

    Args:
        channels: width ``H``.
        out_channels: width of the output.
        num_layers: number of layers ``L``.
        alpha: share of the first vectors.
        theta: strength :math:`\lambda` of the maps, which falls with the depth.
        dropout: dropout before every layer and before the output.

    Shapes:
        - **input:** ``h`` ``[N, H]``, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]``
        - **output:** ``[N, out_channels]``
    """

    takes_index = True

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_layers: int,
        *,
        alpha: float = 0.1,
        theta: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(channels, "channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.alpha = check_range(alpha, "alpha", 0, 1)
        self.theta = check_range(theta, "theta", 0, low_open=True)
        self.dropout = check_range(dropout, "dropout", 0, 1)
        self.weights = nn.ParameterList(torch.empty(channels, channels) for _ in range(num_layers))
        self.output = nn.Linear(channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for the layers."""
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)
        self.output.reset_parameters()

    def forward(self, h: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        graph = NeighborIndex.of(edge_index, h.size(0))
        first = self.alpha * h
        for number, weight in enumerate(self.weights, 1):
            passed = propagate(dropout(h, self.dropout, self.training), graph, "gcn")
            mixed = torch.add(first, passed, alpha=1 - self.alpha)
            share = math.log(self.theta / number + 1)
            h = F.relu(torch.addmm(mixed, mixed, weight, beta=1 - share, alpha=share))
        return self.output(dropout(h, self.dropout, self.training))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, num_layers={self.num_layers})"


class GCNII(nn.Module):
    r"""`"Simple and Deep Graph Convolutional Networks" <https://arxiv.org/abs/2007.02133>`_: a linear map with ReLU,
    many layers that keep a share of its output and stay near the identity (:class:`GCNIILayers`), and a linear output.

    Args:
        in_channels: width of ``x``.
        hidden_channels: width of all layers.
        out_channels: width of the output.
        num_layers: number of layers.
        alpha, theta: see :class:`GCNIILayers`.
        dropout: dropout of the input, before every layer and before the output.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range.

    Example:
        >>> GCNII(8, 16, 3, num_layers=8)(torch.randn(2, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        *,
        alpha: float = 0.1,
        theta: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        check_int(hidden_channels, "hidden_channels", 1)
        self.input = SparseLinear(in_channels, hidden_channels, dropout)
        self.layers = GCNIILayers(hidden_channels, out_channels, num_layers, alpha=alpha, theta=theta, dropout=dropout)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.input.reset_parameters()
        self.layers.reset_parameters()

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        return self.layers(F.relu(self.input(x)), edge_index)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.input.out_features}, {self.layers.out_channels}"
        return f"{type(self).__name__}({sizes}, num_layers={self.layers.num_layers})"
