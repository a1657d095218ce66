"""STABLE: contrastive node vectors from a pruned graph, edges refined by them, and a classifier on what is left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit, mask_split
from graphkit.nn import DegreePowerGCNConv, GraphSequential, StableContrast, sparsify
from graphkit.ops import NeighborIndex
from graphkit.train.experiment import Experiment
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.train.tasks.task import Task
from graphkit.train.trainer import FitResult
from graphkit.transforms.prune import CosinePrune, JaccardPrune, random_recover
from graphkit.transforms.similar_edges import add_similar_edges
from graphkit.transforms.undirected import undirected_edges
from graphkit.utils.checks import check_finite, check_int, check_range
from graphkit.utils.seed import stream


class StableContrastTask(Task):
    """Train :class:`~graphkit.nn.StableContrast` on a pruned graph and views of it, full batch and without labels.

    :class:`~graphkit.transforms.prune.JaccardPrune` leaves edges out; each view has a random part of them back
    (:func:`~graphkit.transforms.prune.random_recover`), drawn once. An epoch is one step, with an order of the
    negatives of its own. There is nothing to validate on: the metric is the training loss of the epoch with its sign
    turned, so that ``patience`` stops when the loss falls no more; the weights after the step of the least loss are
    kept.

    Args:
        data: undirected graph with ``x`` ``[N, F]`` and ``edge_index`` ``[2, E]``, both directions of every edge.
        jaccard: threshold of the pruning.
        recover: share of the pruned edges that comes back in a view.
        num_views: number of views.
        binarize: count every feature that is not zero as one in the pruning.
        seed: of the views and of the orders of negatives.

    Raises:
        ValueError: self-loops, an edge without its reverse, no features, an argument out of range, features that are
            not binary (without ``binarize``).

    Example:
        >>> from graphkit.datasets import load
        >>> from torch_geometric.transforms import ToUndirected
        >>> StableContrastTask(ToUndirected()(load("pyimports").data))
        StableContrastTask(nodes=4933, features=512, edges=53600, kept=38468, views=2)
    """

    monitor = "NegativeLoss"

    def __init__(
        self,
        data: Data,
        *,
        jaccard: float = 0.03,
        recover: float = 0.2,
        num_views: int = 2,
        binarize: bool = False,
        seed: int = 0,
    ) -> None:
        _check_graph(data)
        self.x: Tensor = data.x
        self.seed = check_int(seed, "seed", 0)
        check_int(num_views, "num_views", 1)
        pruned = JaccardPrune(jaccard, binarize)(data)
        self.num_edges = data.edge_index.size(1)
        self.edge_index: Tensor = pruned.edge_index
        self.view_edge_indices = [
            random_recover(pruned.edge_index, pruned.removed_edge_index, recover, stream(self.seed, 1, view))
            for view in range(num_views)
        ]
        self._loss: Tensor | None = None

    @cached_property
    def sparse_x(self) -> Tensor:
        """The features, as sparse CSR if at most a fifth of them is not zero."""
        return sparsify(self.x)

    @cached_property
    def graph(self) -> NeighborIndex:
        """The pruned graph."""
        return NeighborIndex(self.edge_index, self.x.size(0))

    @cached_property
    def views(self) -> list[NeighborIndex]:
        """The views."""
        return [NeighborIndex(view, self.x.size(0)) for view in self.view_edge_indices]

    def num_batches(self) -> int:
        return 1

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """The order of the epoch's negatives, the same on every rank."""
        yield torch.randperm(self.x.size(0), generator=stream(self.seed, 2, epoch)).to(self.x.device)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        x = self.sparse_x.to(next(model.parameters()).dtype)
        loss = model(x, self.graph, self.views, batch)
        self._loss = loss.detach()
        return loss

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Minus the loss of the last step, whatever the split."""
        if self._loss is None:
            self.loss(model, next(self.batches(0)))
        assert self._loss is not None
        return {self.monitor: -float(self._loss)}

    def to(self, device: torch.device | str) -> StableContrastTask:
        self.x, self.edge_index = self.x.to(device), self.edge_index.to(device)
        self.view_edge_indices = [view.to(device) for view in self.view_edge_indices]
        for name in ("sparse_x", "graph", "views"):
            self.__dict__.pop(name, None)
        return self

    def __repr__(self) -> str:
        sizes = f"nodes={self.x.size(0)}, features={self.x.size(1)}, edges={self.num_edges}"
        return f"{type(self).__name__}({sizes}, kept={self.edge_index.size(1)}, views={len(self.view_edge_indices)})"


class STABLE(nn.Module):
    r"""Node classification on a graph whose edges were attacked: `"Reliable Representations Make A Stronger Defender:
    Unsupervised Structure Refinement for Robust GNN" <https://arxiv.org/abs/2207.00012>`_.

    1. :class:`~graphkit.transforms.prune.JaccardPrune` prunes the graph roughly, and
       :class:`~graphkit.nn.StableContrast` learns node vectors :math:`H` from it without labels.
    2. Edges of the graph as it came whose ends have :math:`\cos(h_i, h_j) \le t` are left out
       (:class:`~graphkit.transforms.prune.CosinePrune`), and every node hears from the nodes most like it
       (:func:`~graphkit.transforms.similar_edges.add_similar_edges`).
    3. A classifier of two :class:`~graphkit.nn.DegreePowerGCNConv` learns from :math:`H`, which stays as it is, on the
       refined graph.

    The first stage costs O(nnz(X) d + E d) an epoch, the refinement O(N² d) once, in blocks. As a module it maps the
    vectors and the graph of :meth:`refine` to logits.

    Args:
        in_channels: width F of the features.
        out_channels: number of classes.
        hidden_channels: width of the classifier's hidden layer.
        embed_channels: width d of the node vectors.
        jaccard: threshold of the rough pruning.
        cosine: threshold t of the refinement.
        k: nodes that each node picks, itself included.
        alpha: power of the degrees in the classifier.
        beta: weight of a node itself in the encoder.
        recover: share of the pruned edges that comes back in a view.
        num_views, fuse: as :class:`~graphkit.nn.StableContrast` has them.
        binarize: count every feature that is not zero as one in the rough pruning.
        dropout: dropout between the classifier's layers.
        classifier: another module ``classifier(h, graph) -> [N, out_channels]`` of GraphKit or PyG in place of it.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> model = STABLE(512, 12, embed_channels=64)
        >>> model.fit(data, split)  # doctest: +SKIP
        >>> model.predict(data)  # doctest: +SKIP
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 16,
        embed_channels: int = 512,
        jaccard: float = 0.03,
        cosine: float = 0.1,
        k: int = 5,
        alpha: float = -0.3,
        beta: float = 2.0,
        *,
        recover: float = 0.2,
        num_views: int = 2,
        fuse: str = "sum_logits",
        binarize: bool = False,
        dropout: float = 0.5,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, check_int(out_channels, "out_channels", 2)
        self.jaccard = check_range(jaccard, "jaccard", 0, 1)
        self.cosine = check_range(cosine, "cosine", -1, 1)
        self.k = check_int(k, "k", 0)
        self.recover = check_range(recover, "recover", 0, 1)
        self.num_views, self.binarize = num_views, binarize
        self.encoder = StableContrast(in_channels, embed_channels, beta, num_views, fuse)
        if classifier is None:
            classifier = GraphSequential(
                DegreePowerGCNConv(embed_channels, hidden_channels, alpha),
                nn.ReLU(),
                nn.Dropout(dropout),
                DegreePowerGCNConv(hidden_channels, out_channels, alpha),
            )
        self.classifier = classifier
        self.takes_index = getattr(classifier, "takes_index", False)
        self._refined_edge_index: Tensor | None = None

    @property
    def refined_edge_index(self) -> Tensor:
        """``[2, E']`` source and target of the last graph that :meth:`refine` made.

        Raises:
            ValueError: there is none yet.
        """
        if self._refined_edge_index is None:
            raise ValueError("no graph was refined yet; call fit, refine or predict first")
        return self._refined_edge_index

    def forward(self, h: Tensor, graph: NeighborIndex | Tensor) -> Tensor:
        """``[N, out_channels]`` logits from the vectors and the graph of :meth:`refine`."""
        return self.classifier(h, graph)

    @torch.no_grad()
    def refine(self, data: Data) -> Data:
        """The encoder's vectors as ``x`` ``[N, embed_channels]``, and the refined ``edge_index``, which is directed."""
        _check_graph(data)
        parameter = next(self.encoder.parameters())
        data = copy.copy(data).to(parameter.device)
        pruned = JaccardPrune(self.jaccard, self.binarize)(data)
        h = self.encoder.embed(sparsify(data.x).to(parameter.dtype), pruned.edge_index)
        cleaned = CosinePrune(self.cosine, h)(data)
        self._refined_edge_index = add_similar_edges(h, cleaned.edge_index, self.k)
        return Data(x=h, edge_index=self._refined_edge_index, y=data.y)

    def experiment(
        self,
        data: Data,
        split: IndexSplit,
        *,
        seed: int = 0,
        metrics: tuple[str, ...] | str | None = None,
        contrast_epochs: int = 10_000,
        contrast_patience: int | None = 20,
        contrast_lr: float = 1e-3,
        epochs: int = 200,
        patience: int | None = None,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
    ) -> Experiment:
        """Both stages: the classifier's training, which starts from the encoder's.

        Args:
            data: undirected graph with ``x``, ``edge_index`` and ``y``.
            split: ids of the training, validation and test nodes.
            seed: of the views and the negatives.
            metrics: as :class:`~graphkit.train.NodeClassificationTask` has them.
            contrast_epochs, contrast_patience, contrast_lr: most epochs of the encoder, epochs without a lower loss
                before it stops, and its learning rate (Adam).
            epochs, patience, lr, weight_decay: of the classifier (Adam).
        """
        first_task = StableContrastTask(
            data,
            jaccard=self.jaccard,
            recover=self.recover,
            num_views=self.num_views,
            binarize=self.binarize,
            seed=seed,
        )
        optimizer = torch.optim.Adam(self.encoder.parameters(), contrast_lr)
        first = Experiment(first_task, self.encoder, optimizer, contrast_epochs, contrast_patience)
        task = RefinedNodeTask(data, split, self, metrics)
        optimizer = torch.optim.Adam(self.classifier.parameters(), lr, weight_decay=weight_decay)
        return Experiment(task, self, optimizer, epochs, patience, start_from=("STABLE-contrast", first))

    def fit(
        self,
        data: Data,
        split: IndexSplit | None = None,
        *,
        seed: int = 0,
        device: str = "auto",
        progress: bool = False,
        **settings: Any,
    ) -> FitResult:
        """Train both stages and return the classifier's result.

        Args:
            data: undirected graph with ``x``, ``edge_index`` and ``y``.
            split: ids of the training, validation and test nodes; those of the data's masks if None.
            seed: of everything drawn in training.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            progress: show progress bars.
            settings: further arguments of :meth:`experiment`.
        """
        experiment = self.experiment(data, split or mask_split(data), seed=seed, **settings)
        assert experiment.start_from is not None
        experiment.start_from[1].run(seed=seed, device=device, progress=progress)
        experiment.begin()
        return experiment.run(seed=seed, device=device, progress=progress)

    @torch.no_grad()
    def predict(self, data: Data) -> Tensor:
        """``[N]`` classes of the nodes of a graph, which is refined first."""
        self.eval()
        refined = self.refine(data)
        graph: Any = refined.edge_index
        if self.takes_index:
            graph = NeighborIndex(graph.flip(0), refined.num_nodes)
        return self(refined.x, graph).argmax(1)


class RefinedNodeTask(NodeClassificationTask):
    """Node classification from the vectors and on the graph of :meth:`STABLE.refine`.

    They are made when they are first needed, so the encoder must have been trained by then.

    Args:
        data, split, metrics: as :class:`~graphkit.train.NodeClassificationTask` has them.
        stable: the model.
    """

    def __init__(
        self, data: Data, split: IndexSplit, stable: STABLE, metrics: tuple[str, ...] | str | None = None
    ) -> None:
        super().__init__(data, split, metrics, num_classes=stable.out_channels)
        self.stable = stable

    @cached_property
    def refined(self) -> NodeClassificationTask:
        """The task on the refined graph."""
        data = self.stable.refine(Data(x=self.x, edge_index=self.edge_index, y=self.y))
        return NodeClassificationTask(data, self.split, self.metrics, num_classes=self.num_classes)

    def logits(self, model: nn.Module) -> Tensor:
        return self.refined.logits(model)

    def to(self, device: torch.device | str) -> RefinedNodeTask:
        super().to(device)
        self.stable.to(device)
        if "refined" in self.__dict__:
            self.refined.to(device)
        return self


def _check_graph(data: Data) -> None:
    """What the pruning and the encoder ask of a graph."""
    if data.edge_index is None or data.x is None:
        raise ValueError(
            "data must have edge_index and x; without features, give each node a feature of its own (a sparse identity "
            "matrix) and prune with a threshold of 0"
        )
    check_finite(data.x.values() if data.x.is_sparse_csr else data.x, "data.x")
    undirected_edges(data.edge_index, data.num_nodes or 0)
