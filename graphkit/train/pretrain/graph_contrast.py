"""Contrastive pre-training on graphs: two views of a graph are alike, those of others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.train.contrastive.info_nce import info_nce
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice, check_int, check_range
from graphkit.utils.seed import stream

View = Callable[[Batch, torch.Generator], Data]


class GraphContrastTask(Task):
    r"""Tell which view of another is of the same graph, without labels.

    .. math::
        \ell_i = -\log \frac{\exp(\cos(u_i, v_i) / \tau)}{\sum_j \exp(\cos(u_i, v_j) / \tau)}

    over the graphs of a batch, averaged over both directions. With ego-nets and
    :class:`~graphkit.train.pretrain.WalkSubgraph` twice this is `"GCC: Graph Contrastive Coding for Graph Neural
    Network Pre-Training" <https://arxiv.org/abs/2006.09963>`_; with whole graphs and
    :class:`~graphkit.train.pretrain.NodeDropping` and :class:`~graphkit.train.pretrain.EdgePerturbation` it is `"Graph
    Contrastive Learning with Augmentations" <https://arxiv.org/abs/2010.13902>`_.

    A share of the graphs is held out: the metric is how often the most alike of their views is the right one. Each step
    costs two passes of the model and O(batch_size²). With several processes each contrasts its share of the batch.

    Args:
        graphs: at least 4, with features ``x`` all or none.
        views: two, each called as ``view(batch, generator)``.
        batch_size: graphs a step.
        tau: temperature.
        held_out: share of the graphs for validation, and as many for test.
        seed: which graphs are held out, their order and the views.

    Raises:
        ValueError: fewer than 4 graphs, not two views, or an argument out of range.

    Example:
        >>> ring = Data(edge_index=torch.tensor([[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]]), num_nodes=3)
        >>> GraphContrastTask([ring] * 20, (NodeDropping(0.2), EdgePerturbation(0.2)))  # doctest: +SKIP
        GraphContrastTask(graphs=20, held_out=2, NodeDropping(p=0.2), EdgePerturbation(p=0.2))
    """

    monitor = "Accuracy"
    unit = "graph"

    def __init__(
        self,
        graphs: Sequence[Data],
        views: tuple[View, View],
        batch_size: int = 64,
        tau: float = 0.2,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        if len(graphs) < 4:
            raise ValueError(f"graphs must hold at least 4, two of them for validation and test (got {len(graphs)})")
        if len(views) != 2 or not all(callable(view) for view in views):
            raise ValueError(f"views must be two functions of a batch and a generator (got {views!r})")
        self.batch_size = check_int(batch_size, "batch_size", 2)
        self.tau = check_range(tau, "tau", 0.02)
        check_range(held_out, "held_out", 0, 0.4, low_open=True)
        self.seed = check_int(seed, "seed", 0)
        self.views = tuple(repr(view) for view in views)
        self.num_graphs = len(graphs)
        order = torch.randperm(len(graphs), generator=stream(seed, 0))
        count = max(round(held_out * len(graphs)), 1)
        self.held_out = count
        self._ids = {"valid": order[:count], "test": order[count : 2 * count], "train": order[2 * count :]}
        self._graphs, self._views = PackedGraphs(list(graphs)), views
        self._kept: dict[str, list[tuple[Data, Data]]] = {}

    def num_batches(self) -> int:
        return -(-self._ids["train"].numel() // self.batch_size)

    def size(self, batch: tuple[Tensor, int]) -> int:
        return batch[0].numel()

    def epoch_size(self) -> int:
        return self._ids["train"].numel()

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, int]]:
        """Ids of graphs in a new order, and a number from which the views follow."""
        ids = self._ids["train"]
        order = torch.randperm(ids.numel(), generator=stream(self.seed, 1, epoch))
        for step, part in enumerate(ids[order].split(self.batch_size)):
            yield part, epoch * self.num_batches() + step

    def loss(self, model: nn.Module, batch: tuple[Tensor, int]) -> Tensor:
        ids, number = batch
        share = ids[self.rank :: self.world_size]
        u, v = self._vectors(model, *self._pair(share if share.numel() else ids[:1], number))
        return info_nce(u, v, self.tau, intra_view=False)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        if split not in self._kept:
            # The same views each time, so that epochs can be compared; of a pair of graphs at least.
            parts = self._ids[split].split(max(self.batch_size, 2))
            self._kept[split] = [self._pair(part, 0) for part in parts]
        right = total = 0.0
        for pair in self._kept[split]:
            u, v = self._vectors(model, *pair)
            found = (F.normalize(u, dim=1) @ F.normalize(v, dim=1).t()).argmax(1)
            right += float((found == torch.arange(len(u), device=u.device)).sum())
            total += len(u)
        return {"Accuracy": 100 * right / total}

    def to(self, device: torch.device | str) -> GraphContrastTask:
        self._graphs = self._graphs.to(device)
        self._kept = {name: [(a.to(device), b.to(device)) for a, b in parts] for name, parts in self._kept.items()}
        return self

    def _pair(self, ids: Tensor, number: int) -> tuple[Data, Data]:
        graphs = self._graphs.batch(ids)
        first, second = (view(graphs, stream(self.seed, 2, number, i)) for i, view in enumerate(self._views))
        return first, second

    def _vectors(self, model: nn.Module, first: Data, second: Data) -> tuple[Tensor, Tensor]:
        """Vectors of both views in one pass of the model."""
        count = first.num_graphs
        x = None if first.x is None else torch.cat([first.x, second.x])
        edge_index = torch.cat([first.edge_index, second.edge_index + first.batch.numel()], dim=1)
        out = model(x, edge_index, torch.cat([first.batch, second.batch + count]), 2 * count)
        return out[:count], out[count:]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, held_out={self.held_out}, {', '.join(self.views)})"
