"""Forward-forward: each layer learns to be active for true labels and quiet for false ones."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import BatchNorm

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import ForwardLayer, ForwardStack
from graphkit.ops import NeighborIndex
from graphkit.train.local.local_task import LocalNodeTask
from graphkit.train.local.losses import forward_forward_loss, goodness
from graphkit.transforms import ClassVirtualNodes
from graphkit.utils.checks import check_choice, check_int, check_range
from graphkit.utils.seed import stream

Inputs = list[tuple[Tensor, NeighborIndex]]


class ForwardForwardTask(LocalNodeTask):
    r"""Node classification by the forward-forward scheme, from `"Forward Learning of Graph Neural Networks"
    <https://arxiv.org/abs/2403.11004>`_.

    A graph is shown with the true labels of the training nodes (positive) and with wrong ones (negative). With the
    goodness :math:`g(v) = \sum_c h_{vc}^2` of a layer's output, its loss on the training nodes is

    .. math::
        \mathrm{softplus}(\theta - g^+) + \frac{1}{K} \sum_k \mathrm{softplus}(g_k^- - \theta)

    The **last** layer of the model is the one that learns (:func:`layer_by_layer` makes the chain of experiments).
    To predict, each class in turn is given to *all* nodes whose label is not known, so that their messages carry it
    too; the class with the largest :math:`\sum_l (g_l(v) - \theta)` wins. That takes C passes.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`; features are needed.
        mode: how labels enter: ``"label"`` appends them to the features (one-hot, :math:`1/C` for unknown ones), and
            each of the K + 1 inputs goes on to the next layer; ``"virtual"`` links nodes to the virtual node of their
            class, and all graphs go on with the output for the positive one. GCN's normalisation makes the one edge
            that tells them apart very light, so that ``"virtual"`` suits means (GraphSAGE).
        num_negatives: wrong labels a node, K: all C - 1 if None, in an order drawn once.
        theta: the goodness of an input that is as likely positive as negative.
        use_val_labels: show the labels of validation nodes when test nodes are scored, as released.
        reduce: ``"sum"`` or, as released, ``"mean"`` of squares in the scores, which weights layers of unequal widths
            by their widths. Training takes the sum.
        seed: seed of wrong labels and of the virtual nodes' features.

    Raises:
        ValueError: a class without a training node, a graph without features, a negative ``theta``.

    Warns:
        UserWarning: ``num_negatives`` is larger than C - 1, which is taken then; or a layer has batch normalisation,
            which mixes the statistics of positive and negative inputs.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> ForwardForwardTask(dataset.data, dataset.split(seed=0), mode="label").num_features
        74
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
        mode: str = "label",
        num_negatives: int | None = None,
        theta: float = 2.0,
        use_val_labels: bool = False,
        reduce: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__(data, split, metrics, num_classes)
        self.mode = check_choice(mode, "mode", ("label", "virtual"))
        self.theta = check_range(theta, "theta", 0)
        self.reduce = check_choice(reduce, "reduce", ("sum", "mean"))
        self.use_val_labels = use_val_labels
        wrong = self.num_classes - 1
        num_negatives = wrong if num_negatives is None else check_int(num_negatives, "num_negatives", 1)
        if num_negatives > wrong:
            warnings.warn(f"num_negatives={num_negatives}, but a label can be wrong in {wrong} ways only", stacklevel=2)
        order = torch.rand(split.train.numel(), self.num_classes, generator=stream(check_int(seed, "seed", 0)))
        order = order.to(self.y.device).scatter_(1, self.y[split.train][:, None], 2.0)  # the true class comes last
        self.wrong = order.argsort(1)[:, : min(num_negatives, wrong)]
        self._virtual_nodes = ClassVirtualNodes(self.num_classes, seed=seed)
        if mode == "virtual":
            assert self.x is not None
            self.x = torch.cat([self.x, self._virtual_nodes.features(self.x)])
            self.num_nodes += self.num_classes

    @property
    def num_features(self) -> int:
        """Width of the features, with the labels where they are appended."""
        return super().num_features + (self.num_classes if self.mode == "label" else 0)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        stack = self.stack(model)
        prepared, _ = self.constant(stack)
        found = goodness(stack.layers[-1].finish(prepared)).view(-1, batch.numel())
        return forward_forward_loss(found[0], found[1:], self.theta)

    def constant(self, stack: ForwardStack) -> tuple[Any, dict[str, tuple[Tensor, Any]]]:
        """What does not depend on the last layer's weights: its training input, and for a split the scores ``[C, n]``
        of the layers below and the last one's input."""
        layers = list(stack.layers)

        @torch.no_grad()
        def make() -> tuple[Any, dict[str, tuple[Tensor, Any]]]:
            if any(isinstance(part, (nn.modules.batchnorm._BatchNorm, BatchNorm)) for part in stack.modules()):
                warnings.warn("batch normalisation mixes the statistics of positive and negative inputs", stacklevel=2)
            x = self.features(stack)
            training = self._training_inputs(x)
            for layer in layers[:-1]:
                if self.mode == "label":
                    training = [(layer(*part), part[1]) for part in training]
                else:
                    h = layer(*training[0])
                    training = [(h, graph) for _, graph in training]
            evaluation: dict[str, tuple[Tensor, Any]] = {}
            by_class: tuple[Tensor, Inputs] | None = None
            for split in ("valid", "test"):
                if by_class is None or self.use_val_labels:
                    by_class = self._below(layers[:-1], self._hypotheses(x, split))
                below, inputs = by_class
                ids = getattr(self.split, split)
                evaluation[split] = below[:, ids], layers[-1].prepare(inputs, ids)
            return layers[-1].prepare(training, self.split.train), evaluation

        return self._constant.get(layers, layers[:-1], make)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> Tensor:
        """``[n, C]`` scores of the nodes of a split, by the last layer alone."""
        stack = self.stack(model)
        below, prepared = self.constant(stack)[1][split]
        return (below + self._score(stack.layers[-1].finish(prepared)).view(below.shape)).t()

    def logits(self, model: nn.Module, split: str = "test") -> Tensor:
        """``[N, C]`` scores of all nodes, a pass a class; ``split`` says which labels are known."""
        stack = self.stack(model)
        return self._below(list(stack.layers), self._hypotheses(self.features(stack), split))[0].t()

    def _score(self, h: Tensor) -> Tensor:
        return goodness(h, self.reduce) - self.theta

    def _below(self, layers: list[ForwardLayer], inputs: Inputs) -> tuple[Tensor, Inputs]:
        """The scores ``[C, N]`` of some layers, and what they hand on, for each class."""
        total = torch.zeros(len(inputs), self.num_real, device=inputs[0][0].device)
        for layer in layers:
            inputs = [(layer(*part), part[1]) for part in inputs]
            total = total + torch.stack([self._score(h[: self.num_real]) for h, _ in inputs])
        return total, inputs

    def _training_inputs(self, x: Tensor) -> Inputs:
        """The positive input, then the negative ones."""
        train = self.split.train
        labels = self.y.new_full((1 + self.wrong.size(1), self.num_real), -1)
        labels[0, train] = self.y[train]
        labels[1:, train] = self.wrong.t()
        return [self._labelled(x, label) for label in labels]

    def _hypotheses(self, x: Tensor, split: str) -> Inputs:
        """An input for each class, which all nodes have whose label is not known."""
        train, valid = self.split.train, self.split.valid
        known = torch.cat([train, valid]) if self.use_val_labels and split == "test" else train
        labels = torch.arange(self.num_classes, device=train.device)[:, None].repeat(1, self.num_real)
        labels[:, known] = self.y[known]
        return [self._labelled(x, label) for label in labels]

    def _labelled(self, x: Tensor, label: Tensor) -> tuple[Tensor, NeighborIndex]:
        """Features and graph with labels ``[N]``, -1 for none."""
        nodes = (label >= 0).nonzero()[:, 0]
        if self.mode == "virtual":
            new, _ = self._virtual_nodes.edges(nodes, label[nodes], self.num_real)
            edges = torch.cat([self.edge_index, new.to(self.edge_index.dtype)], dim=1)
            return x, NeighborIndex(edges.flip(0), self.num_nodes)
        column = torch.full((self.num_real, self.num_classes), 1 / self.num_classes, dtype=x.dtype, device=x.device)
        column[nodes] = F.one_hot(label[nodes], self.num_classes).to(x.dtype)
        if not x.is_sparse_csr:
            return torch.cat([x, column], dim=1), self.graph
        return torch.cat([x.to_sparse_coo(), column.to_sparse_coo()], dim=1).to_sparse_csr(), self.graph

    def to(self, device: torch.device | str) -> ForwardForwardTask:
        super().to(device)
        self.wrong = self.wrong.to(device)
        return self
