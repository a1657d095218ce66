"""How well dot products of node vectors tell edges from non-edges, over all pairs without a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from graphkit.ops.neighbors import NeighborIndex
from graphkit.ops.pairs import pair_product
from graphkit.ops.spmm import spmm
from graphkit.utils.checks import check_choice, check_int

MODES = ("minmax", "sigmoid", "sampled")
_EPS = 1e-12
_NO_RANGE = 1e-5  # of the largest product


def edge_reconstruction_loss(
    e: Tensor,
    edge_index: NeighborIndex | Tensor,
    mode: str = "minmax",
    *,
    group: Tensor | None = None,
    chunk: int = 2048,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Distance of the Gram matrix :math:`G = e e^\top` from the adjacency matrix :math:`A` with ones on its diagonal,
    as in `"VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
    <https://arxiv.org/abs/2308.02117>`_.

    - ``"minmax"`` (as released): :math:`\sqrt{\text{mean} \, (A - \hat G)^2}` with
      :math:`\hat G = (G - \min G) / (\max G - \min G)`.
    - ``"sigmoid"`` (as in the paper): :math:`\text{mean} \, (A - \sigma(G))^2`.
    - ``"sampled"``: an unbiased estimate of ``"sigmoid"`` from all edges and as many pairs drawn uniformly; for graphs
      whose pairs are too many to go through.

    The first two are exact, values and gradients, and no N x N matrix is made. With :math:`m`, :math:`M` the least and
    largest entry of :math:`G`, :math:`r = M - m`, the mean vector :math:`\mu`, :math:`d_i = e_i - \mu`,
    :math:`a_i = \mu^\top d_i` and :math:`c = \lVert \mu \rVert^2 - m`,

    .. math::
        \sum_{ij} (A - \hat G)^2 = |A| - \frac{2}{r} \sum_{(i, j) \in A} (c + a_i + a_j + d_i^\top d_j)
        + \frac{N^2 c^2 + 2 N \lVert a \rVert^2 + \lVert d^\top d \rVert_F^2}{r^2},

    which loses no digits where the vectors have much in common.

    The largest entry is on the diagonal; the least one is looked for in blocks without gradient. Costs: ``"minmax"``
    O(N F min(N, F) + \|A\| F) and half a pass over all pairs, O(N² F), in O(chunk N) memory; ``"sigmoid"`` O(N² F)
    forward and backward, in O(chunk N); ``"sampled"`` O(\|A\| F). With ``group``, vectors that are equal are visited
    once, and N in the cost of the pairs is the number of groups: behind a codebook at most the number of codes.

    Args:
        e: ``[N, F]`` node vectors.
        edge_index: graph as :class:`~graphkit.ops.NeighborIndex` or ``[2, E]``; repeats count once, and self-loops are
            part of the diagonal anyway.
        mode: ``"minmax"``, ``"sigmoid"`` or ``"sampled"``.
        group: ``[N]`` integers, the same for rows that are equal (their codes).
        chunk: rows of a block.
        generator: source of the sampled pairs, on the CPU; None takes PyTorch's global one.

    Returns:
        A scalar.

    Raises:
        ValueError: no nodes, a wrong shape or an unknown mode.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> edge_reconstruction_loss(e, torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        tensor(0.5204)
    """
    check_choice(mode, "mode", MODES)
    check_int(chunk, "chunk", 1)
    if e.dim() != 2 or e.size(0) == 0:
        raise ValueError(f"e must be a matrix [N, F] of at least one node (got {list(e.shape)})")
    if group is not None and group.shape != e.shape[:1]:
        raise ValueError(f"group must be a vector [{e.size(0)}], one number a node (got {list(group.shape)})")
    graph = NeighborIndex.of(edge_index, e.size(0))
    num_pairs = e.size(0) ** 2
    nodes = torch.arange(e.size(0), device=e.device)
    # Self-loops among the edges are left out of the sum over the diagonal.
    missing = (~graph.has_edge(nodes, nodes)).to(e.dtype)
    entries = graph.num_edges + missing.sum()
    if mode == "minmax":
        mean = e.mean(0)
        d = e - mean
        a = d @ mean
        vectors, count = _distinct(d, group)
        least, largest = _extremes(vectors, vectors @ mean, chunk)
        # Where all vectors are equal the range is rounding, which must not be blown up to [0, 1].
        span = torch.maximum(largest - least, _NO_RANGE * (mean.square().sum() + largest).detach()).clamp(min=_EPS)
        degree = graph.degree.to(e.dtype) + missing
        passed = spmm(graph.rowptr, graph.col, torch.cat([d, a[:, None]], 1))
        on_edges = (d * passed[:, :-1]).sum() + passed[:, -1].sum() + (a * degree).sum()
        on_edges = on_edges + ((d.square().sum(1) + a) * missing).sum() - least * entries
        everywhere = num_pairs * least.square() + 2 * e.size(0) * a.square().sum() + _squared_gram(vectors, count)
        squares = entries - 2 / span * on_edges + everywhere / span.square()
        return (squares / num_pairs).clamp(min=0).add(_EPS).sqrt()
    on_edges = _summed(_edge_sigmoids, e, graph.edge_index, 16 * chunk) + (e.square().sum(1).sigmoid() * missing).sum()
    if mode == "sigmoid":
        vectors, count = _distinct(e, group)
        rows = torch.arange(vectors.size(0), device=e.device)[None]
        everywhere = _summed(lambda v, part: _row_sigmoids(v, count, part[0]), vectors, rows, chunk)
    else:
        drawn = torch.randint(e.size(0), (2, max(graph.num_edges, 1)), generator=generator).to(e.device)
        everywhere = _dots(e, drawn).sigmoid().square().mean() * num_pairs
    return (entries - 2 * on_edges + everywhere) / num_pairs


def edge_reconstruction_loss_reference(e: Tensor, edge_index: Tensor, mode: str = "minmax") -> Tensor:
    """The same with dense matrices, O(N²) memory; ``mode`` is not ``"sampled"``."""
    adjacency = torch.eye(e.size(0), dtype=e.dtype, device=e.device)
    adjacency[edge_index[0], edge_index[1]] = 1
    gram = e @ e.t()
    if mode == "sigmoid":
        return (adjacency - gram.sigmoid()).square().mean()
    span = torch.maximum(gram.max() - gram.min(), _NO_RANGE * gram.max().detach()).clamp(min=_EPS)
    scaled = (gram - gram.min()) / span
    return (adjacency - scaled).square().mean().add(_EPS).sqrt()


def _distinct(e: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
    """One vector a group, whose gradient is shared evenly among the group's rows, and the groups' sizes."""
    if group is None:
        return e, e.new_ones(e.size(0))
    _, place, count = group.unique(return_inverse=True, return_counts=True)
    count = count.to(e.dtype)
    return e.new_zeros(count.numel(), e.size(1)).index_add(0, place, e) / count[:, None], count


def _extremes(d: Tensor, a: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Least and largest ``a_i + a_j + d_i . d_j``, i and j the same or not."""
    with torch.no_grad():
        best = d.new_full((), torch.inf)
        place = torch.zeros(2, dtype=torch.long, device=d.device)
        for start in range(0, d.size(0), chunk):
            # Pairs below the diagonal were seen in the blocks before.
            block = torch.addmm(a[start:], d[start : start + chunk], d[start:].t()) + a[start : start + chunk, None]
            value, index = block.view(-1).min(0)
            found = torch.stack([index // block.size(1), index % block.size(1)]) + start
            place = torch.where(value < best, found, place)
            best = torch.minimum(best, value)
    ends = d.index_select(0, place)
    # By Cauchy and Schwarz no product of two vectors exceeds the larger of their squares.
    return (ends[0] * ends[1]).sum() + a.index_select(0, place).sum(), (d.square().sum(1) + 2 * a).max()


def _squared_gram(vectors: Tensor, count: Tensor) -> Tensor:
    """Sum of all squared dot products, each vector counted ``count`` times."""
    weighted = vectors * count.sqrt()[:, None]
    small = weighted.t() @ weighted if vectors.size(0) > vectors.size(1) else weighted @ weighted.t()
    return small.square().sum()


def _dots(e: Tensor, pairs: Tensor) -> Tensor:
    return pair_product(e, pairs).sum(1)


def _edge_sigmoids(e: Tensor, pairs: Tensor) -> Tensor:
    return _dots(e, pairs).sigmoid().sum()


def _row_sigmoids(vectors: Tensor, count: Tensor, rows: Tensor) -> Tensor:
    squares = (vectors[rows] @ vectors.t()).sigmoid().square()
    return (squares @ count * count[rows]).sum()


def _summed(term: Callable[[Tensor, Tensor], Tensor], e: Tensor, items: Tensor, chunk: int) -> Tensor:
    """``term(e, part)`` summed over parts of the columns of ``items``, computed again in the backward pass."""
    total = e.new_zeros(())
    for part in items.split(chunk, dim=1):
        total = total + (checkpoint(term, e, part, use_reentrant=False) if e.requires_grad else term(e, part))
    return total
