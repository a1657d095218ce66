"""GCN and GraphSAGE as node encoders that take sparse features and a neighbour index."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import dropout_edges, propagate
from graphkit.nn.conv.sparse_linear import SparseLinear, sparse_dropout
from graphkit.ops import NeighborIndex
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import NO_FEATURES, check_choice, check_probabilities, check_range

_AGGREGATION = {"gcn": "gcn", "sage": "mean", "sage-gcn": "walk"}


class GNN(nn.Module):
    r"""Layers of GCN (`"Semi-Supervised Classification with Graph Convolutional Networks"
    <https://arxiv.org/abs/1609.02907>`_) or GraphSAGE (`"Inductive Representation Learning on Large Graphs"
    <https://arxiv.org/abs/1706.02216>`_), with LayerNorm, dropout and ReLU between them.

    The functions are those of :class:`torch_geometric.nn.GCNConv` and :class:`torch_geometric.nn.SAGEConv`; features
    are multiplied before they are passed on, so a sparse bag of words costs what its entries cost. Neighbours are sets:
    duplicate edges count once, and GCN's own loop comes on top of a self-loop, which PyG would replace.

    Args:
        in_channels: width of ``x``; 0 for a graph without features, whose nodes get a learned embedding each.
        hidden_channels: width of the hidden layers.
        num_layers: number of layers, from 1.
        out_channels: width of the output; ``hidden_channels`` if None.
        num_nodes: number of nodes; only for ``in_channels=0``.
        conv: ``"gcn"``, ``"sage"`` (a weight matrix for the node and one for the mean of its neighbours), or
            ``"sage-gcn"`` (one for the mean of them all, which the GraphSAGE paper calls the convolutional aggregator).
        input_dropout: dropout of the input.
        dropout: dropout between layers.
        tail_dropout: dropout of the output.
        edge_dropout: probability of dropping an edge while training; kept ones are scaled up.
        residual: add a layer's input to its output where the widths agree.
        layer_norm: LayerNorm between layers.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR; None for ``in_channels=0``), graph as
          :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range, or ``in_channels=0`` without ``num_nodes``.

    Example:
        >>> GNN(8, 16, num_layers=2)(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int,
        out_channels: int | None = None,
        num_nodes: int | None = None,
        *,
        conv: str = "gcn",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        tail_dropout: float = 0.0,
        edge_dropout: float = 0.0,
        residual: bool = False,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        check_range(in_channels, "in_channels", 0)
        check_range(hidden_channels, "hidden_channels", 1)
        check_range(num_layers, "num_layers", 1)
        self.conv = check_choice(conv, "conv", tuple(_AGGREGATION))
        check_probabilities(
            input_dropout=input_dropout, dropout=dropout, tail_dropout=tail_dropout, edge_dropout=edge_dropout
        )
        if in_channels == 0 and not num_nodes:
            raise ValueError("num_nodes must be given with in_channels=0, whose nodes get an embedding each (got None)")
        self.in_channels, self.hidden_channels, self.num_layers = in_channels, hidden_channels, num_layers
        self.out_channels = hidden_channels if out_channels is None else out_channels
        self.input_dropout, self.dropout, self.tail_dropout = input_dropout, dropout, tail_dropout
        self.edge_dropout, self.residual = edge_dropout, residual
        self.embedding = None if in_channels else nn.Embedding(num_nodes or 0, hidden_channels)
        widths = [in_channels or hidden_channels, *[hidden_channels] * (num_layers - 1), self.out_channels]
        sizes = list(itertools.pairwise(widths))
        self.neighbor_linears = nn.ModuleList(SparseLinear(a, b, bias=False) for a, b in sizes)
        self.root_linears = nn.ModuleList(SparseLinear(a, b, bias=False) for a, b in sizes if conv == "sage")
        self.biases = nn.ParameterList(torch.empty(b) for _, b in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(b) if layer_norm else nn.Identity() for _, b in sizes[:-1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for linear maps, zero for biases, orthogonal for embeddings."""
        for linear in [*self.neighbor_linears, *self.root_linears]:
            nn.init.xavier_uniform_(linear.weight)
        for bias in self.biases:
            nn.init.zeros_(bias)
        for norm in self.norms:
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()
        if self.embedding is not None:
            nn.init.orthogonal_(self.embedding.weight)

    def forward(self, x: Tensor | None, edge_index: NeighborIndex | Tensor) -> Tensor:
        if self.embedding is not None:
            h = self.embedding.weight
        elif x is None:
            raise ValueError(f"x must be a matrix [N, {self.in_channels}] (got None); {NO_FEATURES}")
        else:
            h = x
        graph, scale = dropout_edges(NeighborIndex.of(edge_index, h.size(0)), self.edge_dropout, self.training)
        h = sparse_dropout(h, self.input_dropout, self.training)
        for layer in range(self.num_layers):
            passed = self.neighbor_linears[layer](h)
            out = propagate(passed, graph, _AGGREGATION[self.conv], scale)
            if self.conv == "sage":
                out = out + self.root_linears[layer](h)
            out = out + self.biases[layer]
            if self.residual and out.shape == h.shape and not h.is_sparse_csr:
                out = out + h
            if layer < self.num_layers - 1:
                out = F.relu(dropout(self.norms[layer](out), self.dropout, self.training))
            h = out
        return dropout(h, self.tail_dropout, self.training)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.num_layers}, {self.out_channels}"
        return f"{type(self).__name__}({sizes}, conv={self.conv!r})"
