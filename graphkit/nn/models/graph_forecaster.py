"""Forecasts of variables that hear from each other along the edges of a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.conv.propagate import graph_for
from graphkit.nn.models.forecaster import Forecaster, window_norm
from graphkit.ops import NeighborIndex


class GraphForecaster(Forecaster):
    r"""Each variable is a node: a forecaster reads it alone, and a graph network adds what its neighbours tell.

    .. math:: \hat y_v = f(x_v) + \sigma_v \, \mathrm{GNN}\left(\left[\frac{x - \mu}{\sigma} \Big\| \frac{f(x) -
              \mu}{\sigma}\right], G\right)_v

    with mean and deviation of each variable's own window. The windows of a batch are copies of one graph G without
    edges between them; O(B E) edges.

    Args:
        forecaster: f, from L to T rows.
        gnn: ``gnn(h, graph)``, of PyG or of this library, from L + T to T features of a node.

    Shapes:
        - **input:** ``x`` ``[B, L, V]``, ``marks`` ``[B, L, C]`` or None, ``graph`` of V nodes as
          :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]``, source to target
        - **output:** ``[B, T, V]``

    Raises:
        ValueError: inputs or features of another shape, no graph.

    Example:
        >>> from torch_geometric.nn import GCNConv
        >>> from graphkit.nn import LinearForecast
        >>> model = GraphForecaster(LinearForecast(8, 4), GCNConv(12, 4))
        >>> model(torch.randn(2, 8, 3), None, torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([2, 4, 3])
    """

    takes_graph = True

    def __init__(self, forecaster: Forecaster, gnn: nn.Module) -> None:
        super().__init__(forecaster.seq_len, forecaster.pred_len)
        self.forecaster, self.gnn = forecaster, gnn
        self.num_vars, self.time_dim = forecaster.num_vars, forecaster.time_dim

    def forward(  # type: ignore[override]
        self, x: Tensor, marks: Tensor | None, graph: NeighborIndex | Tensor | None = None
    ) -> Tensor:
        self.check_inputs(x, marks)
        if graph is None:
            raise ValueError(f"{type(self).__name__} needs the graph of the variables (got None)")
        batch, _, variables = x.shape
        index = NeighborIndex(graph.flip(0), variables) if isinstance(graph, Tensor) else graph
        own = self.forecaster(x, marks)
        z, mean, root = window_norm(x)
        h = torch.cat([z, (own - mean) / root], 1).transpose(1, 2).flatten(0, 1)
        found = self.gnn(h, graph_for(self.gnn, _copies(NeighborIndex.of(index, variables), batch)))
        if found.shape != (batch * variables, self.pred_len):
            wanted = [batch * variables, self.pred_len]
            raise ValueError(f"gnn must return {wanted}, T features of each node (got {list(found.shape)})")
        return own + found.view(batch, variables, -1).transpose(1, 2) * root

    def extra_repr(self) -> str:
        return f", {self.forecaster}, {type(self.gnn).__name__}"


def _copies(graph: NeighborIndex, count: int) -> NeighborIndex:
    """``count`` copies of a graph, one after the other."""
    first = graph.num_nodes * torch.arange(count, device=graph.col.device)
    edges = (graph.edge_index[:, None] + first[:, None]).flatten(1)
    return NeighborIndex(edges, count * graph.num_nodes)
