"""Node classification with several random views of the input that are to agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn.conv.sparse_linear import stack_rows
from graphkit.train.distill.consistency import consistency_loss
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.utils.checks import check_int, check_range


class ConsistencyTask(NodeClassificationTask):
    r"""Node classification with ``K`` random views of the input in each step, as in `"Graph Random Neural Networks for
    Semi-Supervised Learning on Graphs" <https://arxiv.org/abs/2005.11079>`_.

    The loss is the mean cross-entropy of the training nodes over the views, and the consistency of all nodes'
    predictions (:func:`~graphkit.train.consistency_loss`). What makes views differ is drawn inside the model: dropout,
    or :class:`~graphkit.nn.GRANDPropagation`. The ``K`` views are one call on ``K`` copies of the graph side by side,
    so any model fits and each product is one large one.

    The epoch is that of the least validation cross-entropy, as in the papers (the metric ``"Likelihood"``); accuracy
    and F1 are those of that epoch.

    Args:
        data, split, num_classes: as :class:`~graphkit.train.NodeClassificationTask`.
        num_samples: number of views ``K``.
        weight: factor of the consistency; 0 leaves it out.
        temperature: sharpening of the views' mean; 1 leaves it as it is.

    Raises:
        ValueError: as :class:`~graphkit.train.NodeClassificationTask`, a number out of range, or a single view with
            ``weight`` above 0.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> ConsistencyTask(dataset.data, dataset.split(seed=0), num_samples=2)
        ConsistencyTask(nodes=1797, features=64, classes=10, IndexSplit(train=862, valid=576, test=359))
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        *,
        num_samples: int = 4,
        weight: float = 1.0,
        temperature: float = 0.5,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(data, split, ("Likelihood", "Accuracy", "F1"), num_classes=num_classes)
        self.num_samples = check_int(num_samples, "num_samples", 1)
        self.weight = check_range(weight, "weight", 0)
        self.temperature = check_range(temperature, "temperature", 0, low_open=True)
        if weight > 0 and num_samples < 2:
            raise ValueError(f"num_samples must be >= 2 with weight={weight}: one view has none to agree with (got 1)")
        self._copies: dict[Any, Any] = {}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        log_p = F.log_softmax(self.views(model, batch), dim=-1)
        num_views = log_p.size(0)
        train = self.split.train
        share = train[self.rank :: self.world_size]
        labels = self.y[share].repeat(num_views)
        total = F.nll_loss(log_p.index_select(1, share).flatten(0, 1), labels, reduction="sum")
        loss = total * (self.world_size / (num_views * train.numel()))
        if self.weight == 0:
            return loss
        return loss + consistency_loss(log_p.exp(), self.temperature, self.weight)

    def views(self, model: nn.Module, batch: Any) -> Tensor:
        """Logits ``[K, N, C]`` of the views of a step."""
        return self.side_by_side(model, self.copies(self.features(model), self.num_samples), self.num_samples)

    def side_by_side(self, model: nn.Module, x: Any, count: int) -> Tensor:
        """Logits ``[count, N, C]`` of features of ``count`` graphs side by side, ``[count * N, F]``."""
        if ("graph", count) not in self._copies:
            offset = torch.arange(count, device=self.edge_index.device)[:, None] * self.num_nodes
            edge_index = (self.edge_index[:, None] + offset).flatten(1)
            self._copies["graph", count] = (self.graph.repeat(count), edge_index)
        graph, edge_index = self._copies["graph", count]
        out = model(x, graph if getattr(model, "takes_index", False) else edge_index)
        if out.shape != (count * self.num_nodes, self.num_classes):
            raise ValueError(
                f"model must return logits [{count * self.num_nodes}, {self.num_classes}] for {count} copies of the "
                f"graph (got {list(out.shape)})"
            )
        return out.view(count, self.num_nodes, self.num_classes)

    def copies(self, x: Tensor, count: int) -> Tensor:
        """``count`` copies of the features, made once."""
        known = self._copies.get("x")
        if known is None or known[0] is not x:
            known = self._copies["x"] = (x, stack_rows(x, count))
        return known[1]

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Accuracy and F1 of the epoch that the likelihood chose, rather than each at an epoch of its own."""
        found = {split: self.evaluate(model, split) for split in ("valid", "test")}
        return {name: {split: values[name] for split, values in found.items()} for name in found["valid"]}

    def to(self, device: torch.device | str) -> ConsistencyTask:
        super().to(device)
        self._copies = {}
        return self
