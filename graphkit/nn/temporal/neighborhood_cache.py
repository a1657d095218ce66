"""Dictionaries of a few past neighbours a node and hop, kept in tables of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.nn.temporal.state import StreamingModule
from graphkit.ops import neighborhood_cache as ops
from graphkit.utils.checks import check_int, check_pairs, check_probabilities


class CacheEntries(NamedTuple):
    """What the caches of some nodes hold; see :meth:`NeighborhoodCache.fetch`.

    Attributes:
        key: ``[n, M]`` int64 neighbours, -1 in empty slots.
        e_id: ``[n, M]`` int64 the event that wrote each entry, -1 in empty slots.
        t: ``[n, M]`` int64 its time.
        rep: ``[n, M, F]`` float32 vectors.
    """

    key: Tensor
    e_id: Tensor
    t: Tensor
    rep: Tensor


class NeighborhoodCache(StreamingModule):
    """The neighbourhood caches ("N-caches") of `"Neighborhood-aware Scalable Temporal Network Representation Learning"
    <https://arxiv.org/abs/2209.01084>`_.

    Each node has a dictionary a hop: past neighbours as keys, each with the event that wrote it and a short vector.
    Hop 0 has one slot, for the node itself. The others are hash tables with ``sizes[k - 1]`` slots and no second place
    for a key: of two neighbours that fall into one slot the newer one replaces the older one with probability
    ``replace_prob``. So old neighbours fade out, and memory is N (1 + Σ sizes) entries however long the stream is.

    The random numbers are hashes of ``seed`` and of a counter that is part of the state: a run that goes on from a
    checkpoint draws what it would have drawn, on any device.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        sizes: slots of hop 1 and of hop 2; one number for a single hop.
        rep_dim: width of the entries' vectors.
        replace_prob: probability that a new key replaces another one.
        seed: of the random numbers.

    Raises:
        IndexError: a node or hop that there is not.
        TypeError, ValueError: an argument of another type or out of range.

    Example:
        >>> cache = NeighborhoodCache(5, sizes=(4,))
        >>> owner, key, e_id, t = torch.tensor([[0, 1], [1, 0], [0, 0], [7, 7]])
        >>> cache.insert(1, owner, key, e_id, t, torch.zeros(2, 4))
        >>> cache.fetch(torch.tensor([0]), hop=1).key
        tensor([[-1, -1,  1, -1]])
        >>> cache.join(torch.tensor([0]), torch.tensor([1])).nonzero()[:, 1]  # hop 0 of one is hop 1 of the other
        tensor([10, 17])
    """

    key: Tensor
    e_id: Tensor
    t: Tensor
    rep: Tensor
    draws: Tensor
    stream: Tensor

    def __init__(
        self,
        num_nodes: int,
        sizes: Sequence[int] = (32, 16),
        rep_dim: int = 4,
        replace_prob: float = 0.9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_nodes = check_int(num_nodes, "num_nodes", 1)
        self.rep_dim = check_int(rep_dim, "rep_dim", 1)
        if not 1 <= len(sizes) <= 2:
            raise ValueError(f"cache_sizes must have one number for each of one or two hops (got {tuple(sizes)})")
        self.sizes = tuple(check_int(size, f"cache_sizes[{hop}]", 1) for hop, size in enumerate(sizes))
        check_probabilities(replace_prob=replace_prob)
        self.replace_prob, self.seed = replace_prob, check_int(seed, "seed")
        # Columns of hop k are bounds[k] : bounds[k + 1].
        self.bounds = [0, *accumulate((1, *self.sizes))]
        width = self.bounds[-1]
        self.register_state("key", num_nodes, width, fill=-1, dtype=torch.int64)
        self.register_state("e_id", num_nodes, width, fill=-1, dtype=torch.int64)
        self.register_state("t", num_nodes, width, dtype=torch.int64)
        self.register_state("rep", num_nodes, width, rep_dim)
        self.register_state("draws", dtype=torch.int64)
        self.register_buffer("stream", ops.random_stream(self.seed), persistent=False)

    def fetch(self, n_id: Tensor, hop: int | None = None) -> CacheEntries:
        """Copies of what the caches of nodes ``n_id`` ``[n]`` hold: of one hop, or of all hops side by side."""
        return CacheEntries(*(part.index_select(0, n_id) for part in self.columns(hop)))

    def insert(
        self,
        hop: int,
        owner: Tensor,
        key: Tensor,
        e_id: Tensor,
        t: Tensor,
        rep: Tensor,
        source: Tensor | None = None,
    ) -> None:
        """Offer entries to hop ``hop`` of nodes, in order of their events.

        An offer to an empty slot, or to one with the same key, is taken; to one with another key with probability
        ``replace_prob``. All offers of a call see the cache as it was before, and the last one taken by a slot wins.

        Args:
            hop: 0, 1 or 2.
            owner: ``[R]`` nodes that the offers are made to.
            key, e_id, t, rep: ``[R]`` and ``[R, F]``; or ``[n, J]`` and ``[n, J, F]`` for J offers to each owner. The
                key -1 is no offer.
            source: ``[R]`` which row of these each owner is offered; None: row by row.
        """
        columns = self.columns(hop)
        if key.dim() == 1:
            key, e_id, t, rep = (part.unsqueeze(1) for part in (key, e_id, t, rep))
        rows = owner.numel()
        if (
            key.dim() != 2
            or (source is None and key.size(0) != rows)
            or (source is not None and source.numel() != rows)
        ):
            raise ValueError(f"key must have one row for each of {rows} owners (got {list(key.shape)})")
        for name, part, shape in (
            ("e_id", e_id, key.shape),
            ("t", t, key.shape),
            ("rep", rep, (*key.shape, self.rep_dim)),
        ):
            if part.shape != shape:
                raise ValueError(f"{name} must have shape {list(shape)} (got {list(part.shape)})")
        check_pairs(owner.expand(2, -1), self.num_nodes, "owner", wait=False)
        offer = (key, e_id, t, rep.detach())
        ops.insert(columns, owner, offer, self.replace_prob, self.stream, self.draws, source)
        self.draws.add_(rows * key.size(1))

    def join(self, src: Tensor, dst: Tensor) -> Tensor:
        """``[P, 64]`` float32 counts of the distinct keys of each pair of nodes by code.

        See :func:`graphkit.ops.neighborhood_cache.joint_histogram`.
        """
        check_pairs(torch.stack([src, dst]), self.num_nodes, "src and dst", wait=False)
        return ops.joint_histogram(self.key, self.bounds, src, dst)

    def columns(self, hop: int | None = None) -> CacheEntries:
        """Views of what all nodes hold, of one hop, or of all hops side by side."""
        if hop is None:
            return CacheEntries(self.key, self.e_id, self.t, self.rep)
        if not 0 <= hop <= len(self.sizes):
            raise IndexError(f"hop must be in [0, {len(self.sizes)}] (got {hop})")
        inside = slice(self.bounds[hop], self.bounds[hop + 1])
        return CacheEntries(*(part[:, inside] for part in (self.key, self.e_id, self.t, self.rep)))

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, sizes={self.sizes}, rep_dim={self.rep_dim}, replace_prob={self.replace_prob}"
