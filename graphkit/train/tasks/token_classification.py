"""Classes of tokens: many sequences, a label at some tokens of each, cross-entropy and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data, InMemoryDataset

from graphkit.datasets.splits import IndexSplit
from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.train.tasks.indexed_task import IndexedTask
from graphkit.utils.checks import check_choice


class TokenClassificationTask(IndexedTask):
    r"""Predict the classes of tokens from the token graphs that they are in, in mini-batches of graphs.

    A model is called as ``model(x, tokens)`` and returns logits ``[N, C]``, a row a token
    (:class:`~graphkit.nn.TokenModel` with ``head="token"``). With several processes each takes its share of every
    batch.

    Args:
        graphs: the token graphs, with ``x`` and ``y`` a token each (negative: not asked), or what else
            :class:`~graphkit.loader.PackedGraphs` takes.
        split: ids of the training, validation and test graphs.
        batch_size: graphs a step.
        seed: order of the training graphs.
        longer: graphs of another size, scored by the model of the best epoch: "Accuracy, longer".

    Raises:
        ValueError: labels that are not one a token, a part of the split that is empty or without labels.
        IndexError: an id beyond the graphs.

    Example:
        >>> graphs = [Data(x=torch.tensor([0, 1]), y=torch.tensor([-1, 0]))] * 3
        >>> split = IndexSplit(*torch.arange(3).split(1))
        >>> TokenClassificationTask(graphs, split)
        TokenClassificationTask(graphs=3, classes=1, IndexSplit(train=1, valid=1, test=1))
    """

    monitor = "Accuracy"
    unit = "graph"

    def __init__(
        self,
        graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data,
        split: IndexSplit,
        batch_size: int = 32,
        seed: int = 0,
        longer: PackedGraphs | Data | None = None,
    ) -> None:
        self._graphs, self._longer = _labelled(graphs), None if longer is None else _labelled(longer)
        super().__init__(split, len(self._graphs), batch_size, seed)
        for name in ("train", "valid", "test"):
            if not bool((self._graphs.batch(getattr(split, name)).y >= 0).any()):
                raise ValueError(f"split.{name} holds no token with a label (got -1 for all)")
        self.num_classes, self.num_graphs = int(self._graphs["y"].max()) + 1, len(self._graphs)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a graph of its own takes part all the same, with a loss of nothing.
        graphs = self._graphs.batch(share if share.numel() else batch[:1])
        y = graphs.y if share.numel() else torch.full_like(graphs.y, -1)
        total = F.cross_entropy(self._logits(model, graphs), y, ignore_index=-1, reduction="sum")
        asked = (self._graphs.batch(batch).y if self.world_size > 1 else graphs.y) >= 0
        return total * self.world_size / asked.sum().clamp(min=1)

    def _logits(self, model: nn.Module, graphs: Batch) -> Tensor:
        out = model(graphs.x, graphs)
        wanted = (graphs.x.size(0), self.num_classes)
        if out.shape != wanted:
            raise ValueError(
                f"model must return logits {list(wanted)}, a row a token and a column a class (got {list(out.shape)})"
            )
        return out

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        return {"Accuracy": self._accuracy(model, self._graphs, getattr(self.split, split))}

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, graphs: PackedGraphs, index: Tensor) -> float:
        model.eval()
        found = torch.zeros(2, dtype=torch.float64, device=index.device)
        for part in index.split(4 * self.batch_size):
            batch = graphs.batch(part)
            asked = batch.y >= 0
            right = (self._logits(model, batch).argmax(1) == batch.y) & asked
            found += torch.stack([right.sum(), asked.sum()])
        return 100 * float(found[0] / found[1])

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        if self._longer is None:
            return {}
        value = self._accuracy(model, self._longer, torch.arange(len(self._longer), device=self.split.test.device))
        return {"Accuracy, longer": {"valid": value, "test": value}}

    def to(self, device: torch.device | str) -> TokenClassificationTask:
        self._graphs, self.split = self._graphs.to(device), self.split.to(device)
        self._longer = None if self._longer is None else self._longer.to(device)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, classes={self.num_classes}, {self.split})"


def _labelled(graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data) -> PackedGraphs:
    packed = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
    if "x" not in packed or "y" not in packed or packed["y"].shape != (packed.num_nodes,):
        got = list(packed["y"].shape) if "y" in packed else "none"
        raise ValueError(f"graphs must have x and y with a row a token, {packed.num_nodes} (got y {got})")
    return packed
