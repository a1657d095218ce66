"""Random views of graphs for contrastive pre-training, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphkit.ops import NeighborIndex, random_walk
from graphkit.utils.checks import check_int, check_range


def induced(graphs: Data, kept: Tensor) -> Data:
    """The subgraphs of the nodes ``kept`` ``[N]``, with ``x``, ``batch`` and ``num_graphs`` of the batch. O(N + E)."""
    number = kept.cumsum(0) - 1
    inside = kept[graphs.edge_index[0]] & kept[graphs.edge_index[1]]
    x = None if graphs.x is None else graphs.x[kept]
    count = int(graphs.num_graphs)
    return _view(x, number[graphs.edge_index[:, inside]], graphs.batch[kept], count)


def _view(x: Tensor | None, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Data:
    view = Data(x=x, edge_index=edge_index, num_nodes=batch.numel())
    view.batch, view.num_graphs = batch, num_graphs
    return view


class NodeDropping:
    """Removes each node with probability ``p``, and its edges with it; a view of `"Graph Contrastive Learning with
    Augmentations" <https://arxiv.org/abs/2010.13902>`_. O(N + E).

    Args:
        p: probability, in [0, 1). One node of each graph always stays.

    Raises:
        ValueError: ``p`` out of range.
    """

    def __init__(self, p: float = 0.2) -> None:
        self.p = check_range(p, "p", 0, 1)

    def __call__(self, graphs: Batch, generator: torch.Generator) -> Data:
        draw = torch.rand(graphs.batch.numel(), generator=generator).to(graphs.batch.device)
        highest = torch.zeros(graphs.num_graphs, device=draw.device).index_reduce_(0, graphs.batch, draw, "amax")
        return induced(graphs, (draw >= self.p) | (draw == highest[graphs.batch]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"


class EdgePerturbation:
    """Removes each edge with probability ``p``, and adds as many random pairs of nodes of one graph; a view of `"Graph
    Contrastive Learning with Augmentations" <https://arxiv.org/abs/2010.13902>`_. O(N + E).

    Args:
        p: probability, in [0, 1].

    Raises:
        ValueError: ``p`` out of range.
    """

    def __init__(self, p: float = 0.2) -> None:
        self.p = check_range(p, "p", 0, 1)

    def __call__(self, graphs: Batch, generator: torch.Generator) -> Data:
        device = graphs.batch.device
        once = graphs.edge_index[:, graphs.edge_index[0] < graphs.edge_index[1]]
        gone = torch.rand(once.size(1), generator=generator).to(device) < self.p
        # For each edge that goes, another pair within its graph; one that is no pair at all is left out.
        graph = graphs.batch[once[0, gone]]
        size = graphs.ptr.diff()[graph]
        ends = (torch.rand(2, graph.numel(), generator=generator).to(device) * size).long() + graphs.ptr[graph]
        pairs = torch.cat([once[:, ~gone], ends[:, ends[0] != ends[1]]], dim=1)
        low, high = torch.minimum(pairs[0], pairs[1]), torch.maximum(pairs[0], pairs[1])
        key = (low * graphs.batch.numel() + high).unique()
        pairs = torch.stack([key // graphs.batch.numel(), key % graphs.batch.numel()])
        return _view(graphs.x, torch.cat([pairs, pairs.flip(0)], 1), graphs.batch, graphs.num_graphs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"


class WalkSubgraph:
    """The subgraph that random walks with restart see from a root: the view of `"GCC: Graph Contrastive Coding for
    Graph Neural Network Pre-Training" <https://arxiv.org/abs/2006.09963>`_. O(walks · steps + N + E).

    A walk with restart is many walks of geometric length from the same node, which is how they are drawn here.

    Args:
        num_walks: walks a graph.
        restart: probability of going back to the root before each step; no walk goes further than ``steps``.
        steps: most steps of a walk.

    The root is ``root_index``, which :class:`~graphkit.transforms.ego_nets.EgoNets` gives, or a random node of the
    graph.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, num_walks: int = 16, restart: float = 0.2, steps: int = 8) -> None:
        self.num_walks = check_int(num_walks, "num_walks", 1)
        self.restart = check_range(restart, "restart", 0, 1)
        self.steps = check_int(steps, "steps", 1)

    def __call__(self, graphs: Batch, generator: torch.Generator) -> Data:
        device, num_nodes = graphs.batch.device, graphs.batch.numel()
        if "root_index" in graphs:
            root = graphs.root_index
        else:
            draw = torch.rand(graphs.num_graphs, generator=generator).to(device)
            root = graphs.ptr[:-1] + (draw * graphs.ptr.diff()).long()
        index = NeighborIndex(graphs.edge_index, num_nodes)
        walks = random_walk(index, root.repeat_interleave(self.num_walks), self.steps, seed=generator)
        stop = torch.rand(walks.size(0), self.steps, generator=generator).to(device) < self.restart
        on = torch.cat([torch.ones_like(stop[:, :1]), stop.cumsum(1) == 0], dim=1)
        kept = torch.zeros(num_nodes, dtype=torch.bool, device=device)
        kept[walks[on]] = True
        return induced(graphs, kept)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_walks={self.num_walks}, restart={self.restart}, steps={self.steps})"
