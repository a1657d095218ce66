"""Graph classification: many graphs, a label each, cross-entropy and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data, InMemoryDataset
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from graphkit.datasets.splits import IndexSplit
from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.train.tasks.indexed_task import IndexedTask
from graphkit.utils.checks import check_choice, check_int


class GraphClassificationTask(IndexedTask):
    r"""Predict the classes of graphs in mini-batches, as in `"How Powerful are Graph Neural Networks?"
    <https://arxiv.org/abs/1810.00826>`_.

    A model is called as ``model(x, edge_index, batch, num_graphs)``, where ``batch`` ``[N]`` tells the graph of each
    node and ``x`` is None for graphs without features, and returns logits ``[num_graphs, C]``. With several processes
    each takes its share of every batch.

    Args:
        graphs: the graphs, with ``edge_index`` and features ``x`` all or none, or what else
            :class:`~graphkit.loader.PackedGraphs` takes.
        y: ``[G]`` class numbers; negative: no label.
        split: ids of the training, validation and test graphs.
        batch_size: graphs a step.
        seed: order of the training graphs.
        num_classes: number of classes; one more than the largest label of the split if None.

    Raises:
        ValueError: not one label a graph, a part of the split that is empty or holds a graph without a label.
        IndexError: an id beyond the graphs.

    Example:
        >>> pair = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> split = IndexSplit(torch.arange(2), torch.arange(2, 4), torch.arange(4, 6))
        >>> GraphClassificationTask([pair] * 6, torch.tensor([0, 1] * 3), split)
        GraphClassificationTask(graphs=6, classes=2, IndexSplit(train=2, valid=2, test=2))
    """

    monitor = "Accuracy"
    unit = "graph"

    def __init__(
        self,
        graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data,
        y: Tensor,
        split: IndexSplit,
        batch_size: int = 64,
        seed: int = 0,
        num_classes: int | None = None,
    ) -> None:
        graphs = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
        y = torch.as_tensor(y).view(-1).long()
        if y.numel() != len(graphs):
            raise ValueError(f"y must hold one label for each of the {len(graphs)} graphs (got {y.numel()})")
        super().__init__(split, len(graphs), batch_size, seed)
        for name in ("train", "valid", "test"):
            if int(y[getattr(split, name)].min()) < 0:
                raise ValueError(f"split.{name} holds graphs without a label; leave them out of the split")
        self.y = y
        largest = int(torch.cat([y[split.train], y[split.valid], y[split.test]]).max())
        self.num_classes = largest + 1 if num_classes is None else check_int(num_classes, "num_classes", largest + 1)
        self.num_graphs = len(graphs)
        self._graphs = graphs
        self._kept: dict[str, list[Batch]] = {}

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a graph of its own takes part all the same, with a loss of nothing.
        logit = self.logits(model, self._graphs.batch(share if share.numel() else batch[:1]))
        total = F.cross_entropy(logit[: share.numel()], self.y[share], reduction="sum")
        return total * (self.world_size / batch.numel())

    def logits(self, model: nn.Module, graphs: Batch) -> Tensor:
        """``[num_graphs, C]`` scores of a batch of graphs."""
        if getattr(model, "takes_tokens", False):
            out = model(graphs.x, graphs)
        else:
            out = model(graphs.x, graphs.edge_index, graphs.batch, graphs.num_graphs)
        if out.shape != (graphs.num_graphs, self.num_classes):
            raise ValueError(
                f"model must return logits [{graphs.num_graphs}, {self.num_classes}], a row a graph and a column a "
                f"class (got {list(out.shape)})"
            )
        return out

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        ids: Tensor = getattr(self.split, split)
        if split not in self._kept:
            self._kept[split] = [self._graphs.batch(part) for part in ids.split(4 * self.batch_size)]
        logit = torch.cat([self.logits(model, part) for part in self._kept[split]])
        y = self.y[ids]
        return {
            "Accuracy": 100 * float(multiclass_accuracy(logit, y, self.num_classes, average="micro")),
            "F1": 100 * float(multiclass_f1_score(logit, y, self.num_classes, average="macro")),
        }

    def to(self, device: torch.device | str) -> GraphClassificationTask:
        self._graphs = self._graphs.to(device)
        self.y, self.split = self.y.to(device), self.split.to(device)
        self._kept = {name: [part.to(device) for part in parts] for name, parts in self._kept.items()}
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, classes={self.num_classes}, {self.split})"
