"""Networks that take generated neighbour features beside each node's own: local augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv

from graphkit.nn.conv.propagate import dense_features, graph_for
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.nn.models.gcnii import GCNIILayers
from graphkit.nn.models.gnn import GNN
from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_choice, check_int, check_range

MODES = ("concat", "average")


class LocallyAugmented(nn.Module):
    r"""A network whose first layer sees a node's features :math:`X_0` and generated neighbour features
    :math:`X_1, \dots, X_m`, as in `"Local Augmentation for Graph Neural Networks" <https://arxiv.org/abs/2109.03856>`_.

    ``"concat"``: a first layer of its own for each matrix, and the outputs side by side,

    .. math:: H = \big\Vert_{k=0}^{m} \sigma(\mathrm{First}_k(X_k, A)), \qquad \mathrm{out} = \mathrm{Rest}(H, A)

    ``"average"``: one first layer on the average of all matrices, so that the network is the same as without
    augmentation. With ``num_generated=0`` both are the plain network.

    Any module called as ``module(x, graph)`` fits: GraphKit's with the attribute ``takes_index`` get a
    :class:`~graphkit.ops.NeighborIndex` and sparse features as they are, others (PyG's) get ``edge_index`` and dense
    features. The cost is that of the parts.

    Args:
        first: makes a first layer; called once, and for ``"concat"`` once for each generated matrix more.
        rest: the network after it; for ``"concat"`` its input is ``1 + num_generated`` times as wide.
        num_generated: number of generated matrices ``m``.
        mode: ``"concat"`` or ``"average"``.
        activation: :math:`\sigma`, between the two; none if None.
        in_channels: width of the features, if it is to be known from outside.

    Shapes:
        - **input:** a list of ``m + 1`` matrices ``[N, F]``, the nodes' own features first (or that matrix alone for
          ``m = 0``), graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]``
        - **output:** that of ``rest``

    Raises:
        ValueError: ``num_generated`` below 0, an unknown mode, or a list of another length.

    Example:
        >>> from torch_geometric.nn import GraphConv
        >>> model = LocallyAugmented(lambda: GraphConv(8, 16), GraphConv(32, 3), activation=torch.nn.ReLU())
        >>> x, generated, edge_index = torch.randn(2, 8), torch.randn(2, 8), torch.tensor([[0, 1], [1, 0]])
        >>> model([x, generated], edge_index).shape
        torch.Size([2, 3])
    """

    takes_index = True

    def __init__(
        self,
        first: Callable[[], nn.Module],
        rest: nn.Module,
        num_generated: int = 1,
        *,
        mode: str = "concat",
        activation: nn.Module | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.num_generated = check_int(num_generated, "num_generated", 0)
        self.mode = check_choice(mode, "mode", MODES)
        self.in_channels = in_channels
        self.branches = nn.ModuleList(first() for _ in range(1 + num_generated * (mode == "concat")))
        self.activation = nn.Identity() if activation is None else activation
        self.rest = rest

    def reset_parameters(self) -> None:
        """Draw the weights of all parts anew."""
        for part in (*self.branches, self.rest):
            part.reset_parameters()

    def forward(self, x_list: Sequence[Tensor] | Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        given = [x_list] if isinstance(x_list, Tensor) else list(x_list)
        if len(given) != self.num_generated + 1:
            raise ValueError(
                f"x_list must hold {self.num_generated + 1} matrices, the features and num_generated="
                f"{self.num_generated} generated ones (got {len(given)})"
            )
        graph = NeighborIndex.of(edge_index, given[0].size(0))
        if self.mode == "average":
            given = [given[0] if len(given) == 1 else torch.stack([dense_features(x) for x in given]).mean(0)]
        outputs = [_call(branch, x, graph) for branch, x in zip(self.branches, given, strict=True)]
        h = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return _call(self.rest, self.activation(h), graph)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(in_channels={self.in_channels}, num_generated={self.num_generated}, "
            f"mode={self.mode!r})"
        )


class LAGCN(LocallyAugmented):
    """:class:`LocallyAugmented` GCN of `"Local Augmentation for Graph Neural Networks"
    <https://arxiv.org/abs/2109.03856>`_: :class:`GNN` layers with dropout before and ReLU after each.

    Args:
        in_channels: width of the features.
        hidden_channels: width of each first layer; hidden layers after it are as wide as all of them together.
        out_channels: width of the output.
        num_generated: number of generated matrices; 0 is a plain GCN.
        num_layers: number of layers, from 2.
        dropout: dropout of the input of every layer.
        mode: ``"concat"`` or ``"average"``.

    Shapes:
        as :class:`LocallyAugmented`; output ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range.

    Example:
        >>> model = LAGCN(8, 16, 3)
        >>> model([torch.randn(2, 8), torch.randn(2, 8)], torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    conv = "gcn"

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_generated: int = 1,
        *,
        num_layers: int = 2,
        dropout: float = 0.5,
        mode: str = "concat",
    ) -> None:
        check_int(num_layers, "num_layers", 2)
        width = _width(hidden_channels, num_generated, mode)
        common: dict[str, Any] = {"conv": self.conv, "input_dropout": dropout, "dropout": dropout, "layer_norm": False}
        super().__init__(
            lambda: GNN(in_channels, hidden_channels, 1, **common),
            GNN(width, width, num_layers - 1, out_channels, **common),
            num_generated,
            mode=mode,
            activation=nn.ReLU(),
            in_channels=in_channels,
        )


class LASAGE(LAGCN):
    """:class:`LAGCN` with layers of GraphSAGE, which average the neighbours and keep the node itself apart.

    Args, Shapes and Raises as :class:`LAGCN`.

    Example:
        >>> model = LASAGE(8, 16, 3)
        >>> model([torch.randn(2, 8), torch.randn(2, 8)], torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    conv = "sage"


class LAGAT(LocallyAugmented):
    """:class:`LocallyAugmented` GAT of two layers: heads of the first are concatenated, those of the second averaged.

    Args:
        in_channels: width of the features.
        hidden_channels: width of a head of the first layer.
        out_channels: width of the output.
        num_generated: number of generated matrices; 0 is a plain GAT.
        heads: heads of each first layer.
        output_heads: heads of the second layer.
        dropout: dropout of both layers' inputs and attention weights.
        mode: ``"concat"`` or ``"average"``.

    Shapes:
        as :class:`LocallyAugmented`; output ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range.

    Example:
        >>> model = LAGAT(8, 4, 3)
        >>> model([torch.randn(2, 8), torch.randn(2, 8)], torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_generated: int = 1,
        *,
        heads: int = 4,
        output_heads: int = 1,
        dropout: float = 0.6,
        mode: str = "concat",
    ) -> None:
        for name, value in {"heads": heads, "output_heads": output_heads}.items():
            check_int(value, name, 1)
        check_range(dropout, "dropout", 0, 1)
        width = _width(hidden_channels, num_generated, mode) * heads
        super().__init__(
            lambda: _GATLayer(in_channels, hidden_channels, heads, dropout, concat=True),
            _GATLayer(width, out_channels, output_heads, dropout, concat=False),
            num_generated,
            mode=mode,
            activation=nn.ELU(0.2),
            in_channels=in_channels,
        )


class LAGCNII(LocallyAugmented):
    """:class:`LocallyAugmented` GCNII: a linear map for each matrix, then :class:`GCNIILayers` as wide as all together.

    Args:
        in_channels: width of the features.
        hidden_channels: width of each first map.
        out_channels: width of the output.
        num_generated: number of generated matrices; 0 is :class:`GCNII`.
        num_layers: number of layers after the first map.
        alpha, theta: see :class:`GCNIILayers`.
        dropout: dropout of the features, before every layer and before the output.
        mode: ``"concat"`` or ``"average"``.

    Shapes:
        as :class:`LocallyAugmented`; output ``[N, out_channels]``

    Raises:
        ValueError: a size or probability out of range.

    Example:
        >>> model = LAGCNII(8, 16, 3, num_layers=4)
        >>> model([torch.randn(2, 8), torch.randn(2, 8)], torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_generated: int = 1,
        *,
        num_layers: int,
        alpha: float = 0.1,
        theta: float = 0.5,
        dropout: float = 0.5,
        mode: str = "concat",
    ) -> None:
        width = _width(hidden_channels, num_generated, mode)
        super().__init__(
            lambda: _LinearLayer(in_channels, hidden_channels, dropout),
            GCNIILayers(width, out_channels, num_layers, alpha=alpha, theta=theta, dropout=dropout),
            num_generated,
            mode=mode,
            activation=nn.ReLU(),
            in_channels=in_channels,
        )


class _LinearLayer(nn.Module):
    """A linear map of a node's own features, called as a layer of a graph."""

    takes_index = True

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.linear = SparseLinear(in_channels, out_channels, dropout)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def forward(self, x: Tensor, graph: NeighborIndex) -> Tensor:
        return self.linear(x)


class _GATLayer(nn.Module):
    """PyG's attention after dropout of its input; a sparse input is dropped and multiplied as such."""

    takes_index = True

    def __init__(self, in_channels: int, out_channels: int, heads: int, dropout: float, concat: bool) -> None:
        super().__init__()
        self.conv = GATConv(in_channels, out_channels, heads, concat, dropout=dropout)
        self.conv.lin = SparseLinear(in_channels, heads * out_channels, dropout, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.conv.reset_parameters()
        nn.init.xavier_uniform_(self.conv.lin.weight)

    def forward(self, x: Tensor, graph: NeighborIndex) -> Tensor:
        return self.conv(x, graph_for(self.conv, graph))


def _call(part: nn.Module, x: Tensor, graph: NeighborIndex) -> Tensor:
    return part(x if getattr(part, "takes_index", False) else dense_features(x), graph_for(part, graph))


def _width(hidden_channels: int, num_generated: int, mode: str) -> int:
    """Width of what comes after the first layers of ``hidden_channels`` each."""
    check_int(hidden_channels, "hidden_channels", 1)
    check_int(num_generated, "num_generated", 0)
    return hidden_channels * (1 + num_generated * (check_choice(mode, "mode", MODES) == "concat"))
