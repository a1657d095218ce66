"""Classes of tokens: many graphs, a label at some tokens of each, cross-entropy, accuracy and mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data, InMemoryDataset
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from graphkit.datasets.splits import IndexSplit
from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.train.tasks.indexed_task import IndexedTask
from graphkit.utils.checks import check_choice

METRICS = ("Accuracy", "Mean IoU")


class TokenClassificationTask(IndexedTask):
    r"""Predict the classes of tokens from the token graphs that they are in, in mini-batches of graphs.

    A model is called as ``model(x, tokens)`` and returns logits ``[N, C]``, a row a token
    (:class:`~graphkit.nn.TokenModel` with ``head="token"``). With several processes each takes its share of every
    batch.

    Args:
        graphs: the token graphs, with ``x`` and ``y`` a token each (negative: not asked), or what else
            :class:`~graphkit.loader.PackedGraphs` takes. Labels may have another shape, such as that of an image whose
            pixels are the tokens.
        split: ids of the training, validation and test graphs.
        batch_size: graphs a step.
        seed: order of the training graphs.
        longer: graphs of another size, scored by the model of the best epoch: "Accuracy, longer".
        metrics: among ``"Accuracy"`` and ``"Mean IoU"``, in percent; the first chooses the epoch. Mean IoU is that of
            segmentation: of each class the tokens that are rightly said to be of it, among those that are of it or are
            said to be, of all graphs together; then the mean over the classes that there are.

    Raises:
        ValueError: labels that are not one a token, a part of the split that is empty or without labels, an unknown
            metric or none.
        IndexError: an id beyond the graphs.

    Example:
        >>> graphs = [Data(x=torch.tensor([0, 1]), y=torch.tensor([-1, 0]))] * 3
        >>> split = IndexSplit(*torch.arange(3).split(1))
        >>> TokenClassificationTask(graphs, split)
        TokenClassificationTask(graphs=3, classes=1, IndexSplit(train=1, valid=1, test=1))
    """

    unit = "graph"

    def __init__(
        self,
        graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data,
        split: IndexSplit,
        batch_size: int = 32,
        seed: int = 0,
        longer: PackedGraphs | Data | None = None,
        metrics: Sequence[str] = METRICS[:1],
    ) -> None:
        if not metrics:
            raise ValueError("metrics must name at least one metric, which chooses the epoch (got none)")
        for name in metrics:
            check_choice(name, "metrics", METRICS)
        self.metrics, self.monitor = tuple(metrics), metrics[0]
        self._graphs, self._longer = _labelled(graphs), None if longer is None else _labelled(longer)
        super().__init__(split, len(self._graphs), batch_size, seed)
        for name in ("train", "valid", "test"):
            if not bool((self._graphs.batch(getattr(split, name)).y >= 0).any()):
                raise ValueError(f"split.{name} holds no token with a label (got -1 for all)")
        self.num_classes, self.num_graphs = int(self._graphs["y"].max()) + 1, len(self._graphs)

    @property
    def num_features(self) -> int:
        """Width of a token's features."""
        return self._graphs.batch(self.split.train[:1]).x.size(1)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a graph of its own takes part all the same, with a loss of nothing.
        graphs = self._graphs.batch(share if share.numel() else batch[:1])
        y = graphs.y.flatten() if share.numel() else torch.full_like(graphs.y.flatten(), -1)
        asked = (self._graphs.batch(batch).y if self.world_size > 1 else graphs.y) >= 0
        return self.cross_entropy(model(graphs.x, graphs), y) * (self.world_size / asked.sum().clamp(min=1))

    def cross_entropy(self, out: Any, y: Tensor) -> Tensor:
        """The sum of the cross-entropies of the tokens asked, of what the model returned for them."""
        return F.cross_entropy(self._logits(out, y), y, ignore_index=-1, reduction="sum")

    def _logits(self, out: Tensor, y: Tensor) -> Tensor:
        wanted = (y.numel(), self.num_classes)
        if out.shape != wanted:
            raise ValueError(
                f"model must return logits {list(wanted)}, a row a token and a column a class (got {list(out.shape)})"
            )
        return out

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        return self._values(model, self._graphs, getattr(self.split, split))

    @torch.no_grad()
    def _values(self, model: nn.Module, graphs: PackedGraphs, index: Tensor) -> dict[str, float]:
        model.eval()
        answers, labels = [], []
        for part in index.split(4 * self.batch_size):
            batch = graphs.batch(part)
            y = batch.y.flatten()
            answers.append(self._logits(model(batch.x, batch), y).argmax(1)[y >= 0])
            labels.append(y[y >= 0])
        answer, y, classes = torch.cat(answers), torch.cat(labels), self.num_classes
        found = {}
        for name in self.metrics:
            if name == "Mean IoU":
                value = multiclass_jaccard_index(answer, y, classes, average="macro")
            else:
                value = multiclass_accuracy(answer, y, classes, average="micro")
            found[name] = 100 * float(value)
        return found

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        if self._longer is None:
            return {}
        values = self._values(model, self._longer, torch.arange(len(self._longer), device=self.split.test.device))
        return {f"{name}, longer": {"valid": value, "test": value} for name, value in values.items()}

    def to(self, device: torch.device | str) -> TokenClassificationTask:
        self._graphs, self.split = self._graphs.to(device), self.split.to(device)
        self._longer = None if self._longer is None else self._longer.to(device)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, classes={self.num_classes}, {self.split})"


def _labelled(graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data) -> PackedGraphs:
    packed = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
    if "x" not in packed or "y" not in packed or packed["y"].numel() != packed.num_nodes:
        got = list(packed["y"].shape) if "y" in packed else "none"
        raise ValueError(f"graphs must have x and y with a row a token, {packed.num_nodes} (got y {got})")
    return packed
