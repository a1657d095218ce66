"""What two nodes' neighbourhoods share, and what only one of them has, for many pairs at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkit.ops.cpu import common_neighbors as cpu
from graphkit.ops.csr import counts_to_ptr, ptr_to_index
from graphkit.ops.cuda import has_triton
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.spmm import _spmm_transposed, spmm_reference
from graphkit.utils.checks import check_pair_shape, check_pairs


class NodeLists(NamedTuple):
    """One list of nodes a pair, back to back.

    Attributes:
        ptr: ``[B + 1]`` int64 offsets.
        node: ``[M]`` int64 node ids, ascending within a pair.
        weight: ``[M]`` float32 weights of a subsample, or None for ones.
    """

    ptr: Tensor
    node: Tensor
    weight: Tensor | None = None

    @property
    def batch(self) -> Tensor:
        """``[M]`` the pair that each node belongs to."""
        return ptr_to_index(self.ptr, self.node.numel())


class CommonNeighbors(NamedTuple):
    """For pairs (i, j): ``cn`` = N(i) ∩ N(j), ``res_src`` = N(i) without N(j), ``res_dst`` = N(j) without N(i).

    i and j themselves are in none of the lists. The residuals are None unless they were asked for.
    """

    cn: NodeLists
    res_src: NodeLists | None = None
    res_dst: NodeLists | None = None


def common_neighbors(
    index: NeighborIndex,
    edge_label_index: Tensor,
    return_residual: bool = False,
    max_neighbors: int | None = None,
    other: NeighborIndex | None = None,
) -> CommonNeighbors:
    """List the common neighbours of pairs of nodes and, if asked for, both residuals.

    O(sum of both degrees) with residuals. Without them the longer list is searched rather than read where that is
    cheaper: O(d log(D / d)) for degrees d ≤ D. No ``[B, N]`` matrix is made.

    Args:
        index: the graph.
        edge_label_index: ``[2, B]`` pairs.
        return_residual: also list the neighbours of one end only.
        max_neighbors: residual lists longer than this are replaced by that many draws with replacement, each weighted
            length / max_neighbors, so that weighted sums stay unbiased. Shorter ones stay exact.
        other: the graph in which the second node's neighbours are looked up; ``index`` if None.

    Raises:
        IndexError: a node id outside the graph.
        ValueError: ``max_neighbors`` < 1.

    Example:
        >>> edges = torch.tensor([[0, 0, 0, 1, 1, 3], [1, 2, 3, 2, 4, 4]])
        >>> index = NeighborIndex(torch.cat([edges, edges.flip(0)], 1), num_nodes=5)
        >>> found = common_neighbors(index, torch.tensor([[0], [1]]), return_residual=True)
        >>> found.cn.node, found.res_src.node, found.res_dst.node
        (tensor([2]), tensor([3]), tensor([4]))
    """
    if max_neighbors is not None and max_neighbors < 1:
        raise ValueError(f"max_neighbors must be None or >= 1 (got {max_neighbors})")
    src, dst = _pairs(index, edge_label_index)
    second = _second(index, other)
    lists = _intersect(index, second, src, dst, return_residual)
    if not return_residual:
        return CommonNeighbors(lists[0])
    return CommonNeighbors(lists[0], *(subsample(part, max_neighbors) for part in lists[1:]))


def _pairs(index: NeighborIndex, edge_label_index: Tensor) -> tuple[Tensor, ...]:
    """Both ends of the pairs. Triton's kernels assert the ids themselves, which spares a GPU six small launches."""
    # In this order: a compiler, which skips the ids anyway, cannot trace the question after Triton.
    if not torch.compiler.is_compiling() and index.col.is_cuda and has_triton():
        return check_pair_shape(edge_label_index).long().unbind()
    return check_pairs(edge_label_index, index.num_nodes, wait=False).long().unbind()


def _second(index: NeighborIndex, other: NeighborIndex | None) -> NeighborIndex:
    """The graph of the second node."""
    if other is not None and other.num_nodes != index.num_nodes:
        raise ValueError(f"other must have the {index.num_nodes} nodes of the graph (got {other.num_nodes})")
    return index if other is None else other


def _intersect(
    first: NeighborIndex, second: NeighborIndex, src: Tensor, dst: Tensor, residual: bool
) -> list[NodeLists]:
    graph = (first.rowptr, first.col, second.rowptr, second.col)
    if first.device.type == "cpu":
        return [NodeLists(*part) for part in cpu.intersect(*graph, src, dst, residual)]
    if first.col.is_cuda and has_triton():
        from graphkit.ops.cuda import common_neighbors as cuda

        return [NodeLists(*part) for part in cuda.intersect(*graph, src, dst, residual)]
    return _intersect_reference(first, second, src, dst, residual)


def _intersect_reference(
    first: NeighborIndex, second: NeighborIndex, src: Tensor, dst: Tensor, residual: bool
) -> list[NodeLists]:
    """Expand a side, look every neighbour up on the other side."""

    def split(index: NeighborIndex, nodes: Tensor, others: NeighborIndex, ends: Tensor) -> tuple[NodeLists, NodeLists]:
        batch, neighbor = index.expand(nodes)
        outside = (neighbor != src[batch]) & (neighbor != dst[batch])
        batch, neighbor = batch[outside], neighbor[outside]
        found = others._find(ends[batch], neighbor) >= 0

        def lists(mask: Tensor) -> NodeLists:
            return NodeLists(counts_to_ptr(torch.bincount(batch[mask], minlength=nodes.numel())), neighbor[mask])

        return lists(found), lists(~found)

    cn, res_src = split(first, src, second, dst)
    return [cn, res_src, split(second, dst, first, src)[1]] if residual else [cn]


def subsample(lists: NodeLists, k: int | None) -> NodeLists:
    """Replace lists longer than ``k`` by ``k`` weighted draws with replacement; see :func:`common_neighbors`."""
    if k is None:
        return lists
    count = lists.ptr.diff()
    kept = torch.where(count > k, k, count)
    pointer = counts_to_ptr(kept)
    batch = ptr_to_index(pointer)
    size = count[batch]
    inside = torch.arange(batch.numel(), device=batch.device) - pointer[:-1][batch]
    drawn = (torch.rand(batch.numel(), device=batch.device, dtype=torch.float64) * size).long().clamp_(max=size - 1)
    place = torch.where(size > k, drawn, inside)
    weight = torch.where(size > k, size / k, torch.ones_like(size, dtype=torch.float32))
    return NodeLists(pointer, lists.node[lists.ptr[:-1][batch] + place], weight)


def common_neighbor_sum(
    index: NeighborIndex, edge_label_index: Tensor, x: Tensor, other: NeighborIndex | None = None
) -> Tensor:
    r"""Sum features over common neighbours, fused: :math:`out_{ij} = \sum_{w \in N(i) \cap N(j), w \ne i, j} x_w`.

    Neither the neighbourhoods nor the intersections are stored in the forward pass. Differentiable in ``x``; the
    backward pass needs O(size of the intersections) on the CPU and nothing of that size on a GPU. On a GPU, sums over
    small dense graphs are matrix products, in which a NaN or infinity of one row reaches every pair.

    Args:
        index: the graph.
        edge_label_index: ``[2, B]`` pairs.
        x: ``[N, F]`` floating features.
        other: the graph in which the second node's neighbours are looked up; ``index`` if None.

    Returns:
        ``[B, F]``.

    Raises:
        IndexError: a node id outside the graph.
        ValueError: ``x`` has not one row a node.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 2, 1, 2], [2, 0, 2, 1]]), num_nodes=3)
        >>> common_neighbor_sum(index, torch.tensor([[0], [1]]), torch.eye(3))
        tensor([[0., 0., 1.]])
    """
    src, dst = _pairs(index, edge_label_index)
    if x.dim() != 2 or x.size(0) != index.num_nodes:
        raise ValueError(f"x must have shape [num_nodes={index.num_nodes}, F] (got {list(x.shape)})")
    second = _second(index, other)
    sums = _DirectSum.apply if _direct(x) else _sum
    return sums(index.rowptr, index.col, second.rowptr, second.col, src, dst, x)


def common_neighbor_sum_reference(index: NeighborIndex, edge_label_index: Tensor, x: Tensor) -> Tensor:
    """The same in plain PyTorch: expand the end of smaller degree, look up, ``index_add``."""
    src, dst = edge_label_index
    swap = index.degree[src] > index.degree[dst]
    low, high = torch.where(swap, dst, src), torch.where(swap, src, dst)
    batch, neighbor = index.expand(low)
    keep = index.has_edge(high[batch], neighbor) & (neighbor != low[batch]) & (neighbor != high[batch])
    return x.new_zeros(src.numel(), x.size(1)).index_add_(0, batch[keep], x[neighbor[keep]])


def common_neighbor_count(index: NeighborIndex, edge_label_index: Tensor, other: NeighborIndex | None = None) -> Tensor:
    """``[B]`` float32 numbers of common neighbours."""
    return common_neighbor_sum(index, edge_label_index, torch.ones(index.num_nodes, 1, device=index.device), other)[
        :, 0
    ]


def _lists_reference(
    rowptr: Tensor, col: Tensor, other_rowptr: Tensor, other_col: Tensor, src: Tensor, dst: Tensor
) -> list[NodeLists]:
    first = NeighborIndex.from_csr(rowptr, col, rowptr.numel() - 1)
    second = NeighborIndex.from_csr(other_rowptr, other_col, other_rowptr.numel() - 1)
    return _intersect_reference(first, second, src, dst, False)


@torch.library.custom_op("graphkit::common_neighbor_sum", mutates_args=())
def _sum(
    rowptr: Tensor, col: Tensor, other_rowptr: Tensor, other_col: Tensor, src: Tensor, dst: Tensor, x: Tensor
) -> Tensor:
    if x.is_cuda and has_triton():
        from graphkit.ops.cuda import common_neighbors as cuda

        return cuda.common_neighbor_sum(rowptr, col, other_rowptr, other_col, src, dst, x)
    if x.device.type != "cpu":
        (lists,) = _lists_reference(rowptr, col, other_rowptr, other_col, src, dst)
        return spmm_reference(lists.ptr, lists.node, x)
    if x.dtype not in (torch.float32, torch.float64):
        return cpu.common_neighbor_sum(rowptr, col, other_rowptr, other_col, src, dst, x.float()).to(x.dtype)
    return cpu.common_neighbor_sum(rowptr, col, other_rowptr, other_col, src, dst, x)


@_sum.register_fake
def _(rowptr, col, other_rowptr, other_col, src, dst, x):
    return x.new_empty(src.shape[0], x.shape[1])


@torch.library.custom_op("graphkit::common_neighbor_sum_backward", mutates_args=())
def _sum_backward(
    rowptr: Tensor, col: Tensor, other_rowptr: Tensor, other_col: Tensor, src: Tensor, dst: Tensor, grad: Tensor, n: int
) -> Tensor:
    if grad.is_cuda and has_triton():
        from graphkit.ops.cuda import common_neighbors as cuda

        return cuda.common_neighbor_sum_backward(rowptr, col, other_rowptr, other_col, src, dst, grad, n)
    if grad.device.type != "cpu":
        (lists,) = _lists_reference(rowptr, col, other_rowptr, other_col, src, dst)
        return _spmm_transposed(lists.ptr, lists.node, grad, None, n)
    ((pointer, node),) = cpu.intersect(rowptr, col, other_rowptr, other_col, src, dst, residual=False)
    return _spmm_transposed(pointer, node, grad, None, n)


@_sum_backward.register_fake
def _(rowptr, col, other_rowptr, other_col, src, dst, grad, n):
    return grad.new_empty(n, grad.shape[1])


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.num_nodes = inputs[-1].shape[0]


def _backward(ctx, grad: Tensor):
    return *(None,) * 6, _sum_backward(*ctx.saved_tensors, grad.contiguous(), ctx.num_nodes)


_sum.register_autograd(_backward, setup_context=_setup)


def _direct(x: Tensor) -> bool:
    """Whether the kernels may be launched without PyTorch's dispatcher, which takes longer than a batch's sums.

    Compilers and tracers need the registered operator.
    """
    return (
        not torch.compiler.is_compiling()
        and x.is_cuda
        and has_triton()
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
    )


class _DirectSum(torch.autograd.Function):
    """``_sum`` on a GPU with its gradient."""

    @staticmethod
    def forward(ctx, rowptr, col, other_rowptr, other_col, src, dst, x):
        from graphkit.ops.cuda import common_neighbors as cuda

        _setup(ctx, (rowptr, col, other_rowptr, other_col, src, dst, x), None)
        return cuda.common_neighbor_sum(rowptr, col, other_rowptr, other_col, src, dst, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        from graphkit.ops.cuda import common_neighbors as cuda

        rowptr, col, other_rowptr, other_col, src, dst = ctx.saved_tensors
        graph = (rowptr, col, other_rowptr, other_col)
        return *(None,) * 6, cuda.common_neighbor_sum_backward(*graph, src, dst, grad, ctx.num_nodes)
