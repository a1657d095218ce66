"""Personalised PageRank: where a walk ends that starts at a source and stops with probability alpha at every step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.ops.cpu import ppr as cpu
from graphkit.ops.csr import CSR, counts_to_ptr, ptr_to_index, transpose
from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.sample import check_nodes
from graphkit.ops.spmm import spmm
from graphkit.ops.walk import rows_of

_DENSE = 2**25  # entries of the dense matrices that ppr_power works on


class NodeScores(NamedTuple):
    """One list of nodes a source, back to back, highest value first.

    Attributes:
        ptr: ``[S + 1]`` int64 offsets.
        node: ``[M]`` int64 nodes; among equal values in ascending order.
        value: ``[M]`` float64 values > 0.
    """

    ptr: Tensor
    node: Tensor
    value: Tensor

    @property
    def batch(self) -> Tensor:
        """``[M]`` position of the source that each node belongs to."""
        return ptr_to_index(self.ptr, self.node.numel())


def ppr(
    graph: NeighborIndex | CSR,
    sources: Tensor,
    alpha: float = 0.15,
    eps: float = 1e-5,
    top_k: int | None = None,
) -> NodeScores:
    r"""Approximate personalised PageRank of each source by forward push.

    `"Local Graph Partitioning using PageRank Vectors" <https://doi.org/10.1109/FOCS.2006.44>`_ (Andersen, Chung, Lang).
    The values :math:`p` approximate :math:`\pi = \alpha \sum_t (1-\alpha)^t P^t e_s`, with :math:`P` a step to a
    uniform neighbour; a walk stays at a node without neighbours. They never exceed :math:`\pi`, and what is left
    over at a node :math:`u` is below :math:`\epsilon \max(d_u, 1)`; on an undirected graph
    :math:`\pi_u - p_u \le \epsilon d_u`. They sum to at most 1. O(1 / (eps alpha)) a source, whatever the size of the
    graph, plus O(N) memory a thread. On a GPU this is :func:`ppr_power`.

    Args:
        graph: :class:`~graphkit.ops.NeighborIndex` or :class:`~graphkit.ops.CSR` of outgoing edges.
        sources: ``[S]`` int64 or int32 nodes.
        alpha: probability to stop, in (0, 1).
        eps: tolerance, in (0, 1).
        top_k: keep only so many nodes a source.

    Raises:
        IndexError: a source outside the graph.
        TypeError, ValueError: wrong types or shapes, ``alpha`` or ``eps`` outside (0, 1), ``top_k`` < 1.

    Example:
        >>> index = NeighborIndex(torch.tensor([[0, 1], [1, 0]]), num_nodes=3)
        >>> scores = ppr(index, torch.tensor([0, 2]), alpha=0.5, eps=1e-9)
        >>> scores.node, scores.value.round(decimals=3)
        (tensor([0, 1, 2]), tensor([0.6670, 0.3330, 1.0000], dtype=torch.float64))
    """
    rowptr, col = rows_of(graph)
    sources = _check(rowptr, col, sources, alpha, eps, top_k)
    if col.device.type != "cpu":
        return _power(rowptr, col, sources, alpha, eps, top_k)
    count, node, value = cpu.forward_push(rowptr, col, sources, alpha, eps, top_k)
    pointer = counts_to_ptr(count)
    if top_k is None:
        order = torch.argsort(node)
        order = order[torch.argsort(value[order], descending=True, stable=True)]
        order = order[torch.argsort(ptr_to_index(pointer, node.numel())[order], stable=True)]
        node, value = node[order], value[order]
    return NodeScores(pointer, node, value)


def ppr_power(
    graph: NeighborIndex | CSR,
    sources: Tensor,
    alpha: float = 0.15,
    eps: float = 1e-5,
    top_k: int | None = None,
) -> NodeScores:
    """The same by power iteration until less than ``eps`` of the probability is left: the reference, and the GPU's way.

    O(S E log(eps) / log(1 - alpha)) time; sources are worked on in groups, O(N) memory each. Nothing is left out but
    what the last steps would add, so the lists hold every node that can be reached in so many steps; use ``top_k``.
    """
    rowptr, col = rows_of(graph)
    return _power(rowptr, col, _check(rowptr, col, sources, alpha, eps, top_k), alpha, eps, top_k)


def _check(rowptr: Tensor, col: Tensor, sources: Tensor, alpha: float, eps: float, top_k: int | None) -> Tensor:
    for name, value in (("alpha", alpha), ("eps", eps)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number (got {value!r})")
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1) (got {value})")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
        raise TypeError(f"top_k must be an integer or None (got {top_k!r})")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be >= 1, or None for all nodes (got {top_k})")
    return check_nodes(sources, rowptr.numel() - 1, "sources").to(col.device)


def _power(rowptr: Tensor, col: Tensor, sources: Tensor, alpha: float, eps: float, top_k: int | None) -> NodeScores:
    num_nodes = rowptr.numel() - 1
    back = transpose(rowptr, col, num_nodes)
    degree = rowptr.diff()
    dangling = degree == 0
    steps = math.ceil(math.log(eps) / math.log1p(-alpha))
    counts, nodes, values = [], [], []
    for group in sources.split(max(_DENSE // max(num_nodes, 1), 1)):
        places = torch.arange(group.numel(), device=col.device)
        left = torch.zeros(num_nodes, group.numel(), dtype=torch.float64, device=col.device)
        left[group, places] = 1.0
        found = torch.zeros_like(left)
        for _ in range(steps):
            found += torch.where(dangling[:, None], left, alpha * left)
            # Dangling nodes have nobody in whose column they are.
            left = spmm(back.rowptr, back.col, (1 - alpha) * left / degree.clamp(min=1)[:, None])
        value, node = found.t().sort(dim=1, descending=True, stable=True)
        keep = value > 0
        if top_k is not None:
            keep[:, top_k:] = False
        counts.append(keep.sum(1))
        nodes.append(node[keep])
        values.append(value[keep])
    return NodeScores(
        counts_to_ptr(torch.cat([sources.new_empty(0), *counts])),
        torch.cat([sources.new_empty(0), *nodes]),
        torch.cat([torch.empty(0, dtype=torch.float64, device=col.device), *values]),
    )
