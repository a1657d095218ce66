"""Node classification: one graph, labels of some nodes, cross-entropy and the usual metrics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.utils import subgraph
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import sparsify
from graphkit.ops import NeighborIndex
from graphkit.train.metrics import roc_auc
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import NO_FEATURES, check_choice, check_features, check_pairs

METRICS = ("Accuracy", "F1", "AUC", "Likelihood")


class NodeClassificationTask(Task):
    r"""Predict the classes of nodes in one graph that is known as a whole (transductive), full batch, as in
    `"Semi-Supervised Classification with Graph Convolutional Networks" <https://arxiv.org/abs/1609.02907>`_.

    An epoch is one step on all training nodes; the loss is their mean cross-entropy. Labels of validation and test
    nodes are used by :meth:`evaluate` alone. A model is called as ``model(x, graph)`` and returns logits ``[N, C]``:
    models with the attribute ``takes_index`` (GraphKit's) get features as sparse CSR where they are mostly zero and a
    :class:`~graphkit.ops.NeighborIndex` whose row ``i`` lists the nodes with an edge to ``i``; others (PyG's) get ``x``
    and ``edge_index`` as they are.

    Where the split hides nodes, a model is trained and validated in the graph without them. Test values are then of all
    test nodes, the hidden ones scored in the whole graph; beside each there is one of the test nodes that were there
    (``"Accuracy seen"``) and one of the hidden ones (``"Accuracy unseen"``).

    With several processes, each computes the whole graph's logits and the loss of its share of the training nodes.

    Args:
        data: graph with ``edge_index`` ``[2, E]``, ``y`` ``[N]`` or ``[N, 1]`` (negative or NaN: no label), and ``x``
            ``[N, F]``, which models with an embedding for each node do not need.
        split: ids of the training, validation and test nodes.
        metrics: among ``"Accuracy"``, ``"F1"`` (macro), ``"AUC"`` (of the ROC curve, two classes only) and
            ``"Likelihood"`` (the geometric mean of the probabilities of the true classes: the best one is that of the
            least cross-entropy); the first chooses the epoch. Values are in percent. None takes the first two, and AUC
            where it is defined.
        num_classes: number of classes ``C``; None takes one more than the largest label.

    Raises:
        TypeError: ``data`` is no ``Data`` or ``split`` no ``IndexSplit``.
        ValueError: a part of the split is empty or holds a node without a label, labels that are no class numbers or
            all the same among the training nodes, features or edges of the wrong shape, an unknown metric.
        IndexError: a node id outside the graph.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> NodeClassificationTask(dataset.data, dataset.split(seed=0))
        NodeClassificationTask(nodes=1797, features=64, classes=10, IndexSplit(train=862, valid=576, test=359))
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
    ) -> None:
        if not isinstance(data, Data):
            raise TypeError(f"data must be a torch_geometric.data.Data (got {type(data).__name__})")
        if not isinstance(split, IndexSplit):
            raise TypeError(f"split must be a graphkit.datasets.splits.IndexSplit (got {type(split).__name__})")
        if data.edge_index is None or data.y is None or data.num_nodes is None:
            missing = [name for name in ("edge_index", "y", "num_nodes") if getattr(data, name) is None]
            raise ValueError(f"data must have edge_index, y and num_nodes or x (missing: {', '.join(missing)})")
        self.whole: NodeClassificationTask | None = None
        if split.hidden is not None:
            everywhere = IndexSplit(split.train, split.valid, split.hidden)
            self.whole = NodeClassificationTask(data, everywhere, metrics, num_classes=num_classes)
            num_classes = self.whole.num_classes
            data, split = _observed(data, split)
        self.num_nodes: int = data.num_nodes
        self.edge_index = check_pairs(data.edge_index, self.num_nodes, "data.edge_index")
        self.x = _checked_features(data.x, self.num_nodes)
        self.y = _class_numbers(data.y, self.num_nodes)
        self.split = split
        for name in ("train", "valid", "test"):
            self._check_part(name)
        labelled = torch.cat([split.train, split.valid, split.test])
        largest = int(self.y[labelled].max())
        self.num_classes: int = largest + 1 if num_classes is None else num_classes
        if largest >= self.num_classes:
            raise ValueError(f"data.y holds label {largest}, but num_classes={self.num_classes}")
        seen = self.y[split.train].unique()
        if seen.numel() < 2:
            raise ValueError(f"all training nodes have label {int(seen[0])}; a classifier needs two classes to learn")
        ranked = self.num_classes == 2 and all(self.y[part].unique().numel() == 2 for part in (split.valid, split.test))
        if metrics is None:
            metrics = METRICS[:3] if ranked else METRICS[:2]
        metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if not metrics:
            raise ValueError("metrics must name at least one metric, which chooses the epoch (got none)")
        for name in metrics:
            check_choice(name, "metrics", METRICS)
        if "AUC" in metrics and not ranked:
            raise ValueError(
                "metrics holds 'AUC', which needs two classes, both among the validation and the test nodes "
                f"(got {self.num_classes} classes)"
            )
        self.metrics, self.monitor = metrics, metrics[0]

    @property
    def num_features(self) -> int:
        """Width of the features, 0 if there are none."""
        return 0 if self.x is None else self.x.size(1)

    @cached_property
    def graph(self) -> NeighborIndex:
        """For each node the nodes with an edge to it, which is the direction in which PyG's layers pass messages."""
        return NeighborIndex(self.edge_index.flip(0), self.num_nodes)

    @cached_property
    def sparse_x(self) -> Tensor | None:
        """The features, as sparse CSR if at most a fifth of them is not zero."""
        return None if self.x is None else sparsify(self.x)

    def num_batches(self) -> int:
        return 1

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """The ids of all training nodes, once."""
        yield self.split.train

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return self.cross_entropy(self.logits(model), batch)

    def cross_entropy(self, logits: Tensor, batch: Tensor) -> Tensor:
        """This rank's share of the mean cross-entropy of the nodes of a batch."""
        share = batch[self.rank :: self.world_size]
        total = F.cross_entropy(logits[share], self.y[share], reduction="sum")
        # Gradients are averaged over the ranks: with this factor their average is the gradient of the mean over all
        # training nodes, whether or not the shares are of one length.
        return total * (self.world_size / batch.numel())

    def logits(self, model: nn.Module) -> Tensor:
        """``[N, C]`` scores of all nodes, in the mode that the model is in."""
        out = self.outputs(model)
        out = out[0] if isinstance(out, tuple) else out
        if out.shape != (self.num_nodes, self.num_classes):
            raise ValueError(
                f"model must return logits [{self.num_nodes}, {self.num_classes}], a row a node and a column a class "
                f"(got {list(out.shape)})"
            )
        return out

    def outputs(self, model: nn.Module) -> Any:
        """What ``model`` returns for the whole graph: logits, or a tuple that begins with them."""
        x, graph = self.features(model), self.graph if getattr(model, "takes_index", False) else self.edge_index
        try:
            return model(x, graph)
        except (AttributeError, TypeError) as error:
            # Errors of what takes None for a tensor name its type; all others are the model's own.
            if x is not None or "NoneType" not in str(error):
                raise
            raise ValueError(
                f"model failed where it got no features, which data lacks (x is None): {error}; {NO_FEATURES}"
            ) from error

    def features(self, model: nn.Module) -> Any:
        """What ``model`` gets as its first argument."""
        x = self.sparse_x if getattr(model, "takes_index", False) else self.x
        if x is None:
            return None
        # In the type of the weights, which a "64-true" run makes float64.
        return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        logit, y = self._answers(model, split)
        found = self._values(logit, y)
        if self.whole is None:
            return found
        seen = unseen = found
        # Hidden nodes have no validation nodes of their own: those that are there choose the epoch for them, too.
        if split == "test":
            hidden_logit, hidden_y = self.whole._answers(model, split)
            unseen = self._values(hidden_logit, hidden_y)
            found = self._values(torch.cat([logit, hidden_logit]), torch.cat([y, hidden_y]))
        apart = {f"{name} {word}": part[name] for word, part in (("seen", seen), ("unseen", unseen)) for name in found}
        return {**found, **apart}

    def _answers(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Logits and labels of a part of the split."""
        ids: Tensor = getattr(self.split, split)
        logit = self.logits(model)[ids]
        if bool(logit.isnan().any()):
            raise ValueError(f"model gave logits of {split} nodes that are NaN; check its features and learning rate")
        return logit, self.y[ids]

    def _values(self, logit: Tensor, y: Tensor) -> dict[str, float]:
        """The metrics in percent."""
        found: dict[str, float] = {}
        for name in self.metrics:
            if name == "AUC":
                score = logit[:, 1] - logit[:, 0]
                value = roc_auc(score[y == 1], score[y == 0])
            elif name == "Likelihood":
                value = float(torch.exp(-F.cross_entropy(logit, y)))
            elif name == "F1":
                value = float(multiclass_f1_score(logit, y, self.num_classes, average="macro"))
            else:
                value = float(multiclass_accuracy(logit, y, self.num_classes, average="micro"))
            found[name] = 100 * value
        return found

    def to(self, device: torch.device | str) -> NodeClassificationTask:
        self.x = None if self.x is None else self.x.to(device)
        self.y, self.edge_index, self.split = self.y.to(device), self.edge_index.to(device), self.split.to(device)
        self.whole = None if self.whole is None else self.whole.to(device)
        for name in ("graph", "sparse_x"):
            if name in self.__dict__ and self.__dict__[name] is not None:
                self.__dict__[name] = self.__dict__[name].to(device)
        return self

    def _check_part(self, name: str) -> None:
        ids: Any = getattr(self.split, name)
        if ids.numel() == 0:
            raise ValueError(f"split.{name} holds no nodes; training, validation and test need at least one each")
        if int(ids.max()) >= self.num_nodes:
            raise IndexError(f"split.{name} holds node id {int(ids.max())}, outside [0, {self.num_nodes})")
        unlabelled = ids[self.y[ids] < 0]
        if unlabelled.numel():
            raise ValueError(
                f"split.{name} holds {unlabelled.numel()} nodes without a label, first node {int(unlabelled[0])}; "
                "leave them out of the split"
            )

    def __repr__(self) -> str:
        sizes = f"nodes={self.num_nodes}, features={self.num_features}, classes={self.num_classes}"
        return f"{type(self).__name__}({sizes}, {self.split})"


def _observed(data: Data, split: IndexSplit) -> tuple[Data, IndexSplit]:
    """The graph without the hidden nodes, and the split of what is left, under new ids."""
    assert split.hidden is not None
    keep = torch.ones(data.num_nodes or 0, dtype=torch.bool)
    keep[split.hidden] = False
    edge_index, _ = subgraph(keep, data.edge_index, relabel_nodes=True, num_nodes=data.num_nodes)
    place = keep.cumsum(0) - 1
    left = split.test[keep[split.test]]
    x = None if data.x is None else data.x[keep]
    graph = Data(x=x, edge_index=edge_index, y=data.y[keep], num_nodes=int(keep.sum()))
    return graph, IndexSplit(place[split.train], place[split.valid], place[left])


def _checked_features(x: Tensor | None, num_nodes: int) -> Tensor | None:
    if x is None:
        return None
    if isinstance(x, Tensor) and x.is_sparse_csr:
        check_features(x.values()[:, None], "data.x.values()")
    else:
        check_features(x, "data.x")
    if x.size(0) != num_nodes:
        raise ValueError(f"data.x must have {num_nodes} rows, one a node (got {x.size(0)})")
    return x


def _class_numbers(y: Tensor, num_nodes: int) -> Tensor:
    """Labels as int64 ``[N]``, -1 where there is none."""
    if y.numel() != num_nodes or y.size(0) != num_nodes:
        raise ValueError(f"data.y must hold one label for each of the {num_nodes} nodes (got shape {list(y.shape)})")
    flat = y.reshape(-1)
    if flat.is_floating_point():
        known = ~flat.isnan()
        if bool((~flat[known].isfinite() | (flat[known] != flat[known].round())).any()):
            raise ValueError("data.y must hold class numbers, not real values; this task is no regression")
        flat = torch.where(known, flat, -1)
    return flat.long().clamp(min=-1)
