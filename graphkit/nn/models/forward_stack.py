"""Layers that can be trained one by one: each takes row-normalised input, and no gradient has to cross them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv

from graphkit.nn.conv.cached_conv import CachedConv
from graphkit.nn.conv.propagate import dense_features, graph_for
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.ops.csr import ptr_to_index
from graphkit.utils.checks import check_choice, check_int

Graph = NeighborIndex | Tensor


def unit_rows(x: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Each row divided by its length, :math:`x / (\lVert x \rVert_2 + \epsilon)`; zeros stay zeros.

    Args:
        x: ``[N, F]``, dense or sparse CSR.
        eps: what is added to the length.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if not x.is_sparse_csr:
        return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + eps)
    values, rowptr = x.values(), x.crow_indices()
    row = ptr_to_index(rowptr, values.numel())
    length = values.new_zeros(x.size(0)).index_add_(0, row, values.square()).sqrt()
    return torch.sparse_csr_tensor(
        rowptr, x.col_indices(), values / (length + eps)[row], x.shape, check_invariants=False
    )


class ForwardLayer(nn.Module):
    r"""A message-passing layer on row-normalised input, :math:`h = \mathrm{act}(\mathrm{conv}(n(x), A))`, from
    `"Forward Learning of Graph Neural Networks" <https://arxiv.org/abs/2403.11004>`_.

    The normalisation :math:`n` keeps a layer from passing on how well it did as the length of its output.

    While the layer is trained alone, its input stays the same: :meth:`prepare` makes what does not depend on the
    weights once, and :meth:`finish` is what a step has left to do. With :class:`~graphkit.nn.CachedConv` that is a
    matrix product; other layers are called on the whole graph.

    Args:
        conv: ``conv(x, edge_index) -> [N, H]``, GraphKit's or PyG's.
        act: activation; ReLU if None.

    Shapes:
        - **input:** ``x`` ``[N, F]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` whose row
          ``i`` lists the nodes that node ``i`` hears from, or ``edge_index`` ``[2, E]``; ``above`` ``[N, G]``, for a
          layer of input width ``F + G``
        - **output:** ``[N, H]``

    Example:
        >>> layer = ForwardLayer(GATConv(8, 4, heads=2))
        >>> layer(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 8])
    """

    takes_index = True

    def __init__(self, conv: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act = conv, nn.ReLU() if act is None else act
        self.in_channels = getattr(conv, "in_channels", None)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.conv.reset_parameters()  # type: ignore[operator]
        if isinstance(self.conv, GATConv) and isinstance(self.conv.lin, SparseLinear):
            nn.init.xavier_uniform_(self.conv.lin.weight)

    def forward(self, x: Tensor, edge_index: Graph, above: Tensor | None = None) -> Tensor:
        blocks = [unit_rows(part) for part in ((x,) if above is None else (x, above))]
        if isinstance(self.conv, CachedConv):
            return self.act(self.conv(tuple(blocks), edge_index))
        whole = blocks[0] if above is None else torch.cat([dense_features(part) for part in blocks], dim=1)
        return self.act(self.conv(self._readable(whole), graph_for(self.conv, edge_index)))

    @torch.no_grad()
    def prepare(self, inputs: Sequence[tuple[Tensor, Graph]], rows: Tensor | None = None) -> Any:
        """What does not depend on the weights, for K features and graphs with the same nodes.

        Args:
            inputs: features and graph of each; those that are one object are kept once.
            rows: ids of the nodes whose output is wanted; all of them if None.
        """
        normalized: dict[int, Tensor] = {}
        for x, _ in inputs:
            if id(x) not in normalized:
                normalized[id(x)] = self._readable(unit_rows(x.detach()))
        made = [(normalized[id(x)], graph) for x, graph in inputs]
        if isinstance(self.conv, CachedConv):
            return self.conv.gather(made, rows)
        return [(x, graph_for(self.conv, graph)) for x, graph in made], rows

    def finish(self, prepared: Any) -> Tensor:
        """``[K R, H]``: the outputs of the rows that :meth:`prepare` was asked for, one input after the other."""
        if isinstance(self.conv, CachedConv):
            return self.act(self.conv.combine(prepared))
        inputs, rows = prepared
        outs = [self.act(self.conv(x, edges)) for x, edges in inputs]
        return torch.cat(outs if rows is None else [out[rows] for out in outs])

    def _readable(self, x: Tensor) -> Tensor:
        """The features in a layout that the layer can multiply."""
        sparse = isinstance(self.conv, CachedConv) or isinstance(getattr(self.conv, "lin", None), SparseLinear)
        return x if sparse or getattr(self.conv, "takes_index", False) else dense_features(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.conv!r})"


class ForwardStack(nn.Module):
    r"""Layers for training without backpropagation through the network, from `"Forward Learning of Graph Neural
    Networks" <https://arxiv.org/abs/2403.11004>`_: each is a :class:`ForwardLayer`.

    As a module it is an ordinary network. The procedures of :mod:`graphkit.train.local` train its layers by losses of
    their own, with inputs detached: one after the other (:meth:`prefix` is the network up to a layer), or all of them
    within one time step, where a layer may also see the one above as it was before (``top_channels``):

    .. math::
        h_l = \mathrm{ReLU}(\mathrm{conv}_l([n(h_{l-1}) \,\Vert\, n(h_{l+1})], A))

    Args:
        layers: widths of input and layers, ``[F, H_1, ..., H_L]``, or the layers themselves: :class:`ForwardLayer` or
            any ``conv(x, edge_index)``.
        conv: ``"gcn"``, ``"sage"`` or ``"gat"``, for widths.
        heads: heads of GAT, each of width ``H / heads``.
        top_channels: layers also take the output of the layer above, and the last one an input of this width: the
            number of classes, or 0 for none. None: layers take the one below alone. For widths.
        num_nodes: remember the outputs of so many nodes between time steps, in buffers; None for layers that are
            trained one after the other. For widths.

    Shapes:
        - **input:** ``x`` ``[N, F]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]``
        - **output:** ``[N, H_L]``; with ``top_channels`` all that comes from above is zero

    Raises:
        ValueError: no layer, sizes out of range, a width of GAT that ``heads`` does not divide, or options for widths
            given with modules.

    Example:
        >>> stack = ForwardStack([8, 16, 16], conv="sage")
        >>> stack(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 16])
    """

    takes_index = True
    layers: list[ForwardLayer]  # a ModuleList

    def __init__(
        self,
        layers: Sequence[int] | Sequence[nn.Module],
        conv: str = "gcn",
        *,
        heads: int = 4,
        top_channels: int | None = None,
        num_nodes: int | None = None,
    ) -> None:
        super().__init__()
        modules = [layer for layer in layers if isinstance(layer, nn.Module)]
        self.top_channels, self.num_nodes = top_channels, num_nodes
        if modules:
            if len(modules) != len(layers):
                raise ValueError("layers must be widths or modules, not both")
            if top_channels is not None or num_nodes is not None:
                raise ValueError("top_channels and num_nodes must come with widths, which tell the layers' sizes")
            chosen = [m if isinstance(m, ForwardLayer) else ForwardLayer(m) for m in modules]
            self.layers = nn.ModuleList(chosen)  # type: ignore[assignment]
            self.in_channels = self.layers[0].in_channels
            return
        widths = [check_int(width, "layers", 1) for width in layers]  # type: ignore[arg-type]
        if len(widths) < 2:
            raise ValueError(f"layers must be the input's width and at least one more (got {widths})")
        check_choice(conv, "conv", ("gcn", "sage", "gat"))
        above = [0] * (len(widths) - 1)
        if top_channels is not None:
            above = [*widths[2:], check_int(top_channels, "top_channels", 0)]
        sizes = [(below + more, width) for (below, width), more in zip(pairwise(widths), above, strict=True)]
        made = [ForwardLayer(_conv(conv, a, b, heads)) for a, b in sizes]
        self.layers = nn.ModuleList(made)  # type: ignore[assignment]
        self.in_channels, self.widths = widths[0], widths[1:]
        if num_nodes is not None:
            check_int(num_nodes, "num_nodes", 1)
            for place, width in enumerate(widths[1:]):
                self.register_buffer(f"state{place}", torch.zeros(num_nodes, width))
        self.reset_parameters()

    @property
    def states(self) -> list[Tensor]:
        """The layers' outputs as remembered, ``[num_nodes, H_l]`` each."""
        if self.num_nodes is None:
            raise ValueError("num_nodes must be given to a ForwardStack that remembers its outputs (got None)")
        return [getattr(self, f"state{place}") for place in range(len(self.layers))]

    def reset_parameters(self) -> None:
        """Draw the weights anew and forget the states."""
        for layer in self.layers:
            layer.reset_parameters()
        self.reset_state()

    def reset_state(self) -> None:
        """Set what is remembered to zero."""
        if self.num_nodes is not None:
            for state in self.states:
                state.zero_()

    def prefix(self, depth: int) -> ForwardStack:
        """The first ``depth`` layers, the same objects, as a network."""
        check_int(depth, "depth", 1, len(self.layers))
        if self.top_channels is not None:
            raise ValueError("a layer that takes input from above has no prefix (top_channels must be None)")
        part = ForwardStack(self.layers[:depth])
        part.in_channels = self.in_channels
        return part

    def forward(self, x: Tensor, edge_index: Graph) -> Tensor:
        return self.outputs(x, edge_index)[-1]

    def outputs(self, x: Tensor, edge_index: Graph, top: Tensor | None = None) -> list[Tensor]:
        """Every layer's output of one pass from below; ``top`` ``[N, top_channels]`` enters the last layer."""
        found: list[Tensor] = []
        for place in range(len(self.layers)):
            found.append(self.step(place, x, edge_index, found, top))
        return found

    def step(self, place: int, x: Tensor, edge_index: Graph, states: Sequence[Tensor], top: Tensor | None) -> Tensor:
        """The output of layer ``place`` from what its neighbours gave; zeros stand for states that are missing."""
        above = None
        if self.top_channels is not None:
            last = place == len(self.layers) - 1
            width = self.top_channels if last else self.widths[place + 1]
            given = top if last else states[place + 1] if place + 1 < len(states) else None
            if width:
                above = next(self.parameters()).new_zeros(x.size(0), width) if given is None else given
        return self.layers[place](states[place - 1] if place else x, edge_index, above)

    def __repr__(self) -> str:
        convs = ", ".join(repr(layer.conv) for layer in self.layers)
        return f"{type(self).__name__}({self.in_channels}, [{convs}])"


def _conv(kind: str, in_channels: int, out_channels: int, heads: int) -> nn.Module:
    if kind != "gat":
        return CachedConv(in_channels, out_channels, kind)
    if out_channels % check_int(heads, "heads", 1):
        raise ValueError(f"layers must have widths that heads={heads} divides (got {out_channels})")
    conv = GATConv(in_channels, out_channels // heads, heads)
    # A linear map that multiplies only what is set in sparse features.
    conv.lin = SparseLinear(in_channels, out_channels, bias=False)
    return conv
