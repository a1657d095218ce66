"""GCN and GraphSAGE layers whose message passing can be done once for an input that stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex, spmm, to_csr
from graphkit.ops.csr import counts_to_ptr, ptr_to_index
from graphkit.utils.checks import check_choice, check_range


class RowOperator(NamedTuple):
    """Some rows of a normalised adjacency matrix as CSR; ``weight`` None for ones."""

    rowptr: Tensor
    col: Tensor
    weight: Tensor | None


class Gathered(NamedTuple):
    r"""Rows of :math:`A X`: the product, or with ``operator`` the two factors, where :math:`A (X W)` costs less."""

    x: Tensor
    operator: RowOperator | None


class CachedConv(nn.Module):
    r"""One layer of GCN (`"Semi-Supervised Classification with Graph Convolutional Networks"
    <https://arxiv.org/abs/1609.02907>`_) or of GraphSAGE with means (`"Inductive Representation Learning on Large
    Graphs" <https://arxiv.org/abs/1706.02216>`_) in two parts: what depends on the input alone, and the rest.

    .. math::
        \text{gcn:}\; \tilde D^{-1/2} (A + I) \tilde D^{-1/2} X W + b \qquad
        \text{sage:}\; D^{-1} A X W_1 + X W_2 + b

    ``forward`` is the layer as usual. Where the input stays the same from step to step, as in layer-wise training,
    :meth:`gather` makes the constant part once, for the rows that are needed and for several inputs and graphs at a
    time, and :meth:`combine` is all that a step costs: for R rows of dense features :math:`O(R F H)`, without edges.
    Sparse features are multiplied first, because sums of them are less sparse, and so are features that many graphs
    share.

    Args:
        in_channels, out_channels: sizes.
        conv: ``"gcn"`` or ``"sage"``.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense, sparse CSR, or a tuple of such blocks of columns), graph as
          :class:`~graphkit.ops.NeighborIndex` whose row ``i`` lists the nodes that node ``i`` hears from, or
          ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size out of range, another ``conv``, or an input of another width.

    Example:
        >>> conv, x, graph = CachedConv(8, 4), torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])
        >>> constant = conv.gather([(x, graph)])
        >>> torch.allclose(conv.combine(constant), conv(x, graph), atol=1e-6)
        True
    """

    takes_index = True
    linears: list[SparseLinear]  # a ModuleList

    def __init__(self, in_channels: int, out_channels: int, conv: str = "gcn") -> None:
        super().__init__()
        check_range(in_channels, "in_channels", 1)
        check_range(out_channels, "out_channels", 1)
        self.conv = check_choice(conv, "conv", ("gcn", "sage"))
        self.in_channels, self.out_channels = in_channels, out_channels
        made = [SparseLinear(in_channels, out_channels, bias=False) for _ in self.aggregations]
        self.linears = nn.ModuleList(made)  # type: ignore[assignment]
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    @property
    def aggregations(self) -> tuple[str, ...]:
        """What each linear map is applied to."""
        return ("gcn",) if self.conv == "gcn" else ("mean", "self")

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot, and zero biases."""
        for linear in self.linears:
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor | tuple[Tensor, ...], edge_index: NeighborIndex | Tensor) -> Tensor:
        blocks = x if isinstance(x, tuple) else (x,)
        graph = NeighborIndex.of(edge_index, blocks[0].size(0))
        out = propagate(_product(self.linears[0], blocks), graph, self.aggregations[0])
        if self.conv == "sage":
            out = out + _product(self.linears[1], blocks)
        return out + self.bias

    @torch.no_grad()
    def gather(
        self, inputs: Sequence[tuple[Tensor, NeighborIndex | Tensor]], rows: Tensor | None = None
    ) -> tuple[Gathered, ...]:
        """The part of the layer that does not depend on its weights, for each of its linear maps.

        Args:
            inputs: K features and graphs, all with the same nodes; those that are one object are kept once.
            rows: ids of the nodes whose output is wanted; all of them if None.
        """
        places, distinct = _distinct([x for x, _ in inputs])
        graphs = [NeighborIndex.of(graph, x.size(0)) for x, graph in inputs]
        nodes, found = distinct[0].size(0), []
        rows = torch.arange(nodes, device=distinct[0].device) if rows is None else rows
        stacked = _stacked(distinct)
        for aggregation in self.aggregations:
            made: dict[int, RowOperator] = {}
            for graph in graphs:
                if id(graph) not in made:
                    made[id(graph)] = _operator(graph, rows, aggregation, stacked.dtype)
            parts = [made[id(graph)] for graph in graphs]
            operator = _joined(parts, [place * nodes for place in places])
            product = (operator.rowptr.numel() - 1) * stacked.size(1)
            if stacked.is_sparse_csr or stacked.numel() + operator.col.numel() < product:
                found.append(Gathered(stacked, operator))
            else:
                found.append(Gathered(spmm(operator.rowptr, operator.col, stacked, operator.weight), None))
        return tuple(found)

    def combine(self, gathered: Sequence[Gathered]) -> Tensor:
        """``[K R, out_channels]``: the outputs of the rows, one input after the other."""
        out = self.bias
        for linear, (x, operator) in zip(self.linears, gathered, strict=True):
            part = linear(x)
            if operator is not None:
                part = spmm(operator.rowptr, operator.col, part, operator.weight)
            out = out + part
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, conv={self.conv!r})"


def _product(linear: SparseLinear, blocks: tuple[Tensor, ...]) -> Tensor:
    """``linear`` of the blocks side by side, each in its own layout."""
    if len(blocks) == 1:
        return linear(blocks[0])
    widths = [block.size(1) for block in blocks]
    if sum(widths) != linear.in_features:
        raise ValueError(f"x must have {linear.in_features} columns in all (got {' + '.join(map(str, widths))})")
    total: Tensor | int = 0
    for block, weight in zip(blocks, linear.weight.split(widths, dim=1), strict=True):
        if block.is_sparse_csr:
            values = block.values().to(weight.dtype)
            total = total + spmm(block.crow_indices(), block.col_indices(), weight.t().contiguous(), values)
        else:
            total = total + F.linear(block, weight)
    assert isinstance(total, Tensor)
    return total


def _operator(graph: NeighborIndex, rows: Tensor, aggregation: str, dtype: torch.dtype) -> RowOperator:
    """The rows of the adjacency matrix that ``propagate`` sums with."""
    count = torch.arange(rows.numel() + 1, device=rows.device)
    if aggregation == "self":
        return RowOperator(count, rows, None)
    degree = graph.degree
    row, col = graph.expand(rows)
    if aggregation == "mean":
        return RowOperator(counts_to_ptr(degree[rows]), col, 1 / degree[rows][row].to(dtype))
    looped = to_csr(torch.cat([row, count[:-1]]), torch.cat([col, rows]), rows.numel(), graph.num_nodes)
    scale = (degree.to(dtype) + 1).rsqrt()
    row = ptr_to_index(looped.rowptr)
    return RowOperator(looped.rowptr, looped.col, scale[rows][row] * scale[looped.col])


def _joined(parts: Sequence[RowOperator], offsets: Sequence[int]) -> RowOperator:
    """The operators one below the other, the columns of each moved by its offset."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.rowptr.diff() for part in parts])
    col = torch.cat([part.col + offset for part, offset in zip(parts, offsets, strict=True)])
    weights = [part.weight for part in parts if part.weight is not None]
    return RowOperator(counts_to_ptr(counts), col, torch.cat(weights) if weights else None)


def _distinct(tensors: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
    """The different objects, and for each tensor its place among them."""
    places: dict[int, int] = {}
    for tensor in tensors:
        places.setdefault(id(tensor), len(places))
    found = {id(tensor): tensor for tensor in tensors}
    return [places[id(tensor)] for tensor in tensors], [found[key] for key in places]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Matrices one below the other; all dense or all CSR."""
    if len(tensors) == 1:
        return tensors[0]
    if not tensors[0].is_sparse_csr:
        return torch.cat(list(tensors))
    counts = torch.cat([x.crow_indices().diff() for x in tensors])
    col, values = (torch.cat(part) for part in zip(*((x.col_indices(), x.values()) for x in tensors), strict=True))
    shape = (sum(x.size(0) for x in tensors), tensors[0].size(1))
    return torch.sparse_csr_tensor(counts_to_ptr(counts), col, values, shape, check_invariants=False)
