"""Link prediction: targets removed from the input graph, negatives of each epoch, ranking metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.splits import LinkSplit
from graphkit.nn import sparsify
from graphkit.ops import NeighborIndex
from graphkit.train.metrics import hits_at_k, mrr_per_source, mrr_shared, roc_auc
from graphkit.train.tasks.task import Task, score_histogram
from graphkit.utils.checks import check_choice, check_features, check_int, check_pairs
from graphkit.utils.seed import stream

HITS = (100, 50, 20, 10, 1)


class LinkPredictionTask(Task):
    r"""Predict held-out links from the others, as in `"Neural Common Neighbor with Completion for Link Prediction"
    <https://arxiv.org/abs/2302.00890>`_.

    Each step scores a batch of training links and as many non-links; the loss is the mean of
    :math:`\mathrm{softplus}(-s)` over links plus that of :math:`\mathrm{softplus}(s)` over non-links. Non-links are
    drawn once an epoch, uniformly among the pairs that are no training links.

    With several processes each scores its share of a batch and weights it by its size, so that the averaged gradients
    are those of one process with the whole batch.

    Args:
        split: the graph and its links; see :class:`~graphkit.datasets.splits.LinkSplit`.
        batch_size: links a step; at most all of them. The last short batch is dropped.
        metrics: among ``"Hits@K"``, ``"MRR"`` and ``"AUC"``; the first chooses the epoch. Values are in percent. None
            takes Hits@100, 50, 20, 10 and 1 as far as there are as many negatives, then MRR and AUC. Where every source
            has its own negatives there is only ``"MRR"``.
        target_link_removal: take a batch's own links (both directions) out of the input graph.
        negatives: ``"uniform"`` pairs, ``"source"``: random tails for the sources of the links, or ``"fixed"``: those
            of ``split.train_neg``, the same ones in each epoch.
        seed: seed of the order and the negatives.
        eval_batch_size: pairs scored at once in evaluation.
        evaluator: an official evaluator (``ogb.linkproppred.Evaluator``), which replaces ``metrics``.

    Raises:
        TypeError: ``split`` is no ``LinkSplit``, or a number is no integer.
        ValueError: a part of the split is empty, an unknown metric or one that needs more negatives than there are,
            features of the wrong length or not finite, batches that would take every edge out of the graph.
        IndexError: a negative's node id outside the graph.

    Example:
        >>> from graphkit.datasets import load
        >>> task = LinkPredictionTask(load("pyimports").split(seed=0), batch_size=1024)
    """

    def __init__(
        self,
        split: LinkSplit,
        batch_size: int,
        metrics: tuple[str, ...] | None = None,
        *,
        target_link_removal: bool = True,
        negatives: str = "uniform",
        seed: int = 0,
        eval_batch_size: int = 65536,
        evaluator: Any = None,
    ) -> None:
        batch_size = check_int(batch_size, "batch_size", 1)
        self.eval_batch_size = check_int(eval_batch_size, "eval_batch_size", 1)
        self.seed = check_int(seed, "seed", 0)
        self.negatives = check_choice(negatives, "negatives", ("uniform", "source", "fixed"))
        _check_split(split)
        if negatives == "fixed" and (split.train_neg is None or split.train_neg.shape != split.train_pos.shape):
            got = None if split.train_neg is None else list(split.train_neg.shape)
            raise ValueError(f"split.train_neg must be {list(split.train_pos.shape)} for fixed negatives (got {got})")
        self.split, self.evaluator = split, evaluator
        self.metrics = _metrics(metrics, split)
        self.monitor = _official_name(evaluator) if evaluator is not None else self.metrics[0]
        self.batch_size = min(batch_size, split.train_pos.size(1))
        self.target_link_removal = target_link_removal
        self.x = None if split.x is None else sparsify(split.x)
        self._cast_x = self.x
        self.train_graph = NeighborIndex(split.train_edge_index, split.num_nodes)
        same = split.test_edge_index is split.train_edge_index
        self.test_graph = self.train_graph if same else NeighborIndex(split.test_edge_index, split.num_nodes)
        if negatives == "uniform":
            # Too dense a graph is found here rather than in the first epoch.
            self.train_graph.sample_non_edges(1, stream(self.seed))
        if target_link_removal and 2 * self.batch_size >= self.train_graph.num_edges:
            raise ValueError(
                f"batch_size={batch_size} takes every training edge out of the input graph "
                f"({self.train_graph.num_edges // 2} edges); use a smaller batch or target_link_removal=False"
            )

    @property
    def num_nodes(self) -> int:
        return self.split.num_nodes

    @property
    def num_features(self) -> int:
        """Width of the features, 0 if there are none."""
        return 0 if self.x is None else self.x.size(1)

    def num_batches(self) -> int:
        return self.split.train_pos.size(1) // self.batch_size

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = stream(self.seed, epoch)
        pos = self.split.train_pos
        order = torch.randperm(pos.size(1), generator=generator)
        if self.negatives == "source":
            tails = torch.randint(self.num_nodes, (pos.size(1),), generator=generator)
            neg = torch.stack([pos[0], tails.to(pos.device)])
        elif self.split.train_neg is not None and self.negatives == "fixed":
            neg = self.split.train_neg
        else:
            neg = self.train_graph.sample_non_edges(pos.size(1), generator)
        order = order.to(pos.device)
        for step in range(self.num_batches()):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield pos[:, chosen], neg[:, chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pos, neg = batch
        graph = self.train_graph.without(pos) if self.target_link_removal else self.train_graph
        # The processes' gradients are averaged: each sums its share and scales it to the whole batch.
        scale = self.world_size / pos.size(1)
        pos, neg = pos[:, self.rank :: self.world_size], neg[:, self.rank :: self.world_size]
        score = model(self._features(model), graph, torch.cat([pos, neg], dim=1))[:, 0]
        return (F.softplus(-score[: pos.size(1)]).sum() + F.softplus(score[pos.size(1) :]).sum()) * scale

    def _features(self, model: nn.Module) -> Tensor | None:
        """The features in the type of the model's weights, such as float64 in a ``"64-true"`` run."""
        if self.x is None:
            return None
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), self.x.dtype)
        # Encoders of PyG multiply dense features only.
        encoder = getattr(getattr(model, "module", model), "encoder", model)
        x = self.x if getattr(encoder, "takes_index", False) or self.split.x is None else self.split.x
        if self._cast_x is None or (self._cast_x.dtype, self._cast_x.device, self._cast_x.layout) != (
            dtype,
            x.device,
            x.layout,
        ):
            self._cast_x = x.to(dtype)
        return self._cast_x

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        pos, neg = self.scores(model, split)
        if bool(pos.isnan().any()) or bool(neg.isnan().any()):
            raise ValueError(f"model gave scores of {split} links that are NaN; check its features and learning rate")
        if self.evaluator is not None:
            key = {"y_pred_pos": pos, "y_pred_neg": neg}
            found = self.evaluator.eval(key)
            return {_title(name): 100 * float(torch.as_tensor(value).mean()) for name, value in found.items()}
        if neg.dim() == 2:
            return {"MRR": 100 * mrr_per_source(pos, neg)}
        functions = {"MRR": mrr_shared, "AUC": roc_auc}
        return {
            name: 100 * (functions[name](pos, neg) if name in functions else hits_at_k(pos, neg, int(name[5:])))
            for name in self.metrics
        }

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Scores of the links ``[P]`` and the negatives (``[M]``, or ``[P, k]`` of each link's own) of a split."""
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        parts = self.split
        if split == "valid":
            graph, pos, neg, tails = self.train_graph, parts.valid_pos, parts.valid_neg, parts.valid_neg_target
        else:
            graph, pos, neg, tails = self.test_graph, parts.test_pos, parts.test_neg, parts.test_neg_target
        if tails is not None:
            neg = torch.stack([pos[0].repeat_interleave(tails.size(1)), tails.reshape(-1)])
        z = model.encode(self._features(model), graph)  # type: ignore[operator]

        def score(pairs: Tensor) -> Tensor:
            chunks = pairs.split(self.eval_batch_size, dim=1)
            found = torch.cat([model.decode(z, graph, chunk)[:, 0] for chunk in chunks])  # type: ignore[operator]
            return found if found.dtype == torch.float64 else found.float()

        found = score(pos), score(neg)
        return found if tails is None else (found[0], found[1].view(tails.shape))

    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        pos, neg = (part.flatten().float().cpu() for part in self.scores(model, "test"))
        return score_histogram(pos, neg)

    def to(self, device: torch.device | str) -> LinkPredictionTask:
        self.split = self.split.to(device)
        self.x = self._cast_x = None if self.x is None else self.x.to(device)
        same = self.test_graph is self.train_graph
        self.train_graph = self.train_graph.to(device)
        self.test_graph = self.train_graph if same else self.test_graph.to(device)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.split}, batch_size={self.batch_size})"


def _check_split(split: LinkSplit) -> None:
    if not isinstance(split, LinkSplit):
        raise TypeError(f"split must be a graphkit.datasets.splits.LinkSplit (got {type(split).__name__})")
    for name in ("train_pos", "valid_pos", "test_pos"):
        if getattr(split, name).size(1) == 0:
            raise ValueError(f"split.{name} must hold at least one link (got none); split a larger graph")
    for part in ("valid", "test"):
        links, shared = getattr(split, f"{part}_pos").size(1), getattr(split, f"{part}_neg")
        own, name = getattr(split, f"{part}_neg_target"), f"split.{part}_neg_target"
        if own is None:
            if shared.size(1) == 0:
                raise ValueError(f"split.{part}_neg must hold at least one pair to rank against (got none)")
            continue
        if own.dim() != 2 or own.size(0) != links or own.size(1) == 0:
            raise ValueError(f"{name} must have shape [{links}, k], k >= 1 for each link (got {list(own.shape)})")
        check_pairs(torch.stack([own.reshape(-1)] * 2), split.num_nodes, name)
    if (split.valid_neg_target is None) != (split.test_neg_target is None):
        raise ValueError("split must have both valid_neg_target and test_neg_target, or neither (got one)")
    if split.x is not None and check_features(split.x, "split.x").size(0) != split.num_nodes:
        raise ValueError(f"split.x must have {split.num_nodes} rows, one a node (got {split.x.size(0)})")


def _metrics(metrics: tuple[str, ...] | str | None, split: LinkSplit) -> tuple[str, ...]:
    """The metrics asked for, or all that the split allows."""
    if split.valid_neg_target is not None:
        if metrics not in (None, "MRR", ("MRR",), ["MRR"]):
            raise ValueError(f"metrics must be ('MRR',) where every source has its own negatives (got {metrics!r})")
        return ("MRR",)
    fewest = min(split.valid_neg.size(1), split.test_neg.size(1))
    if metrics is None:
        return (*(f"Hits@{k}" for k in HITS if k <= fewest), "MRR", "AUC")
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not metrics:
        raise ValueError("metrics must name at least one metric, which chooses the epoch (got none)")
    for name in metrics:
        if not isinstance(name, str) or not re.fullmatch(r"Hits@[1-9]\d*|MRR|AUC", name):
            raise ValueError(f"metrics must be Hits@K, MRR or AUC (got {name!r})")
        if name.startswith("Hits@") and int(name[5:]) > fewest:
            raise ValueError(
                f"metrics holds {name}, which is 100 % for any model: split has only {fewest} negatives; use a K of at "
                f"most {fewest}"
            )
    return metrics


def _title(name: str) -> str:
    name = name.removesuffix("_list")
    return {"mrr": "MRR", "rocauc": "AUC"}.get(name, name.replace("hits", "Hits"))


def _official_name(evaluator: Any) -> str:
    return _title(evaluator.eval_metric)
