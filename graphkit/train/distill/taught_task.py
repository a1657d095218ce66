"""Node classification with a trained teacher at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.train.tasks.node_classification import NodeClassificationTask


class TaughtTask(NodeClassificationTask):
    """What tasks with a teacher share: what it says of every node, computed once.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`.
        teacher: any classifier ``teacher(x, graph)`` of this graph's nodes, trained before, for example by
            ``Experiment(..., start_from=(name, first))``.
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        teacher: Any,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(data, split, metrics, num_classes=num_classes)
        self.teacher: Any = teacher
        self._soft: Tensor | None = None

    @torch.no_grad()
    def soft_labels(self) -> Tensor:
        """``[N, C]`` logits of the teacher, which is in eval mode from then on."""
        if self._soft is None:
            self.teacher.eval()
            self._soft = self.logits(self.teacher)
        return self._soft

    def to(self, device: torch.device | str) -> TaughtTask:
        super().to(device)
        if self.teacher is not None:
            self.teacher.to(device)
        self._soft = None if self._soft is None else self._soft.to(device)
        return self
