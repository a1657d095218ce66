"""Cuts a large graph into the neighbourhoods of its nodes."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_int, check_pairs, check_range
from graphkit.utils.seed import stream

# Entries (root, node) that are looked at in one go.
_ENTRIES = 2**22


class EgoNets(BaseTransform):
    r"""One graph to many: the subgraphs induced by all nodes at most ``num_hops`` steps from a root, as in
    `"When to Pre-Train Graph Neural Networks? From Data Generation Perspective!" <https://arxiv.org/abs/2303.16458>`_,
    which turns the nodes of a large graph into a set of graphs.

    Directions, repeated edges and self-loops are ignored. Ego-nets of more than ``max_nodes`` nodes are left out: the
    few that hubs have would outweigh all others; so are those of fewer than ``min_nodes``, which have next to no
    structure and are dense just because they are small. Costs O(sum of the degrees of all members), in pieces of a few
    million entries.

    Args:
        num_hops: largest distance from the root.
        max_nodes: largest number of nodes.
        min_nodes: smallest number of nodes.
        ratio: share of the nodes, drawn at random, that are roots; all if None.
        seed: which nodes are drawn.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]``
        - **output:** a list of :class:`~torch_geometric.data.Data` by ascending root, each with ``edge_index`` in both
          directions, ``n_id`` ``[n]`` (nodes of the large graph, ascending) and ``root_index`` ``[1]`` (the place of
          the root among them). Features are not copied: ``data.x[ego.n_id]`` are those of an ego-net.

    Raises:
        ValueError: no hop, no node, a share outside (0, 1]; a graph without nodes; no ego-net of a size in question.

    Example:
        >>> path = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4)
        >>> [ego.n_id.tolist() for ego in EgoNets(num_hops=1)(path)]
        [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    """

    def __init__(
        self,
        num_hops: int = 2,
        max_nodes: int = 1000,
        ratio: float | None = None,
        seed: int = 0,
        min_nodes: int = 1,
    ) -> None:
        self.num_hops = check_int(num_hops, "num_hops", 1)
        self.min_nodes = check_int(min_nodes, "min_nodes", 1)
        self.max_nodes = check_int(max_nodes, "max_nodes", self.min_nodes)
        self.ratio = None if ratio is None else check_range(ratio, "ratio", 0, 1, low_open=True)
        self.seed = check_int(seed, "seed", 0)

    def forward(self, data: Data) -> list[Data]:
        if not isinstance(data, Data) or data.edge_index is None:
            raise TypeError(f"data must be a torch_geometric.data.Data with edge_index (got {type(data).__name__})")
        num_nodes = data.num_nodes
        if not num_nodes:
            raise ValueError("data must have nodes (got num_nodes=0)")
        edges = check_pairs(data.edge_index, num_nodes, "data.edge_index").long()
        edges = edges[:, edges[0] != edges[1]]
        index = NeighborIndex(torch.cat([edges, edges.flip(0)], 1), num_nodes)
        roots = torch.arange(num_nodes)
        if self.ratio is not None:
            count = max(round(self.ratio * num_nodes), 1)
            roots = torch.randperm(num_nodes, generator=stream(self.seed))[:count].sort().values
        step = max(_ENTRIES // num_nodes, 1)
        found = [ego for part in roots.split(step) for ego in self._cut(index, part)]
        if not found:
            raise ValueError(
                f"none of {len(roots)} ego-nets has from min_nodes={self.min_nodes} to max_nodes={self.max_nodes} "
                f"nodes; change these, or num_hops={self.num_hops}"
            )
        return found

    def _cut(self, index: NeighborIndex, roots: torch.Tensor) -> list[Data]:
        n = index.num_nodes
        rowptr, col = index.rowptr.numpy(), index.col.numpy()
        adjacency = sp.csr_matrix((np.ones(col.size, np.float32), col, rowptr), (n, n))
        places = np.arange(roots.numel())
        reach = sp.csr_matrix((np.ones(places.size, np.float32), (places, roots.numpy())), (places.size, n))
        for _ in range(self.num_hops):
            reach = (reach + reach @ adjacency).tocsr()
            reach.data[:] = 1
        sizes = np.diff(reach.indptr)
        kept = np.flatnonzero((sizes >= self.min_nodes) & (sizes <= self.max_nodes))
        if kept.size == 0:
            return []
        reach = reach[kept]
        reach.sort_indices()
        sizes = np.diff(reach.indptr)
        ego, node = np.repeat(np.arange(kept.size), sizes), reach.indices.astype(np.int64)
        inside = np.arange(node.size) - np.repeat(reach.indptr[:-1], sizes)
        # The place of each node in each ego-net, or -1.
        place = np.full(kept.size * n, -1, dtype=np.int32)
        place[ego * n + node] = inside
        entry, neighbor = (part.numpy() for part in index.expand(torch.from_numpy(node)))
        other = place[ego[entry] * n + neighbor]
        within = other >= 0
        entry, other = entry[within], other[within]
        ends = torch.from_numpy(np.stack([inside[entry], other]).astype(np.int64))
        counts = np.bincount(ego[entry], minlength=kept.size)
        root = place[np.arange(kept.size) * n + roots.numpy()[kept]].astype(np.int64)
        pieces = zip(
            ends.split(counts.tolist(), dim=1),
            torch.from_numpy(node).split(sizes.tolist()),
            torch.from_numpy(root).split(1),
            strict=True,
        )
        return [
            Data(edge_index=edges, num_nodes=ids.numel(), n_id=ids, root_index=at.clone()) for edges, ids, at in pieces
        ]

    def __repr__(self) -> str:
        ratio = "" if self.ratio is None else f", ratio={self.ratio}"
        return f"{type(self).__name__}(num_hops={self.num_hops}, max_nodes={self.max_nodes}{ratio})"
