"""Single forward: each layer draws a node to the virtual node of its class; no negative inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import ForwardStack
from graphkit.train.local.local_task import LocalNodeTask
from graphkit.train.local.losses import class_logits
from graphkit.transforms import ClassVirtualNodes
from graphkit.utils.checks import check_range


class SingleForwardTask(LocalNodeTask):
    r"""Node classification layer by layer without negative inputs, the single-forward scheme of `"Forward Learning of
    Graph Neural Networks" <https://arxiv.org/abs/2403.11004>`_.

    Training nodes are linked to a virtual node of their class (:class:`~graphkit.transforms.ClassVirtualNodes`). The
    loss of layer l is the cross-entropy of

    .. math::
        p_l(c \mid v) = \mathrm{softmax}_c (h_v^{(l)} \cdot h_{N + c}^{(l)} / \tau)

    on the training nodes. The **last** layer of the model is the one that learns; what the layers below give is
    detached and made once (:func:`layer_by_layer` makes the chain of experiments). A class is predicted by one pass
    without further edges, :math:`\arg\max_c \sum_l p_l(c \mid v)`.

    A training node sees its label through its own virtual edge, so its own accuracy means nothing.

    A step on a :class:`~graphkit.nn.CachedConv` costs :math:`O((n + C) H^2)` for n training nodes; one layer's graph is
    in memory at a time.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`; features are needed.
        tau: temperature of the softmax.
        direction: of the virtual edges.
        seed: seed of the virtual nodes' features.

    Raises:
        ValueError: a class without a training node, a graph without features, or ``tau`` not positive.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> task = SingleForwardTask(dataset.data, dataset.split(seed=0))
        >>> task.num_virtual
        10
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
        tau: float = 1.0,
        direction: str = "both",
        seed: int = 0,
    ) -> None:
        super().__init__(data, split, metrics, num_classes)
        self.tau = check_range(tau, "tau", 0, low_open=True)
        self._transform = ClassVirtualNodes(self.num_classes, direction, seed=seed)
        augmented = self._transform(Data(x=self.x, edge_index=self.edge_index), split.train, self.y[split.train])
        # From here on the graph is the one with the virtual nodes; labels remain those of the real ones.
        self.num_virtual = self.num_classes
        self.num_nodes += self.num_virtual
        self.x, self.edge_index = augmented.x, augmented.edge_index
        self.virtual_index = augmented.virtual_index

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        stack = self.stack(model)
        _, prepared = self.constant(stack)
        return F.cross_entropy(self.layer_logits(stack.layers[-1].finish(prepared["train"])), self.y[batch])

    def layer_logits(self, h: Tensor) -> Tensor:
        """``[n, C]`` logits of real nodes from the vectors ``[n + C, H]`` of these and of the virtual nodes."""
        real = h.size(0) - self.num_virtual
        return class_logits(h[:real], h[real:], self.tau)

    def constant(self, stack: ForwardStack) -> tuple[Tensor, dict[str, Any]]:
        """What does not depend on the last layer's weights: class scores of the layers below, and its own input."""
        layers = list(stack.layers)

        @torch.no_grad()
        def make() -> tuple[Tensor, dict[str, Any]]:
            h = self.features(stack)
            below = torch.zeros(self.num_real, self.num_classes, device=h.device)
            for layer in layers[:-1]:
                h = layer(h, self.graph)
                below = below + self.layer_logits(h).softmax(-1)
            ids = {name: getattr(self.split, name) for name in ("train", "valid", "test")}
            return below, {
                name: layers[-1].prepare([(h, self.graph)], torch.cat([part, self.virtual_index]))
                for name, part in ids.items()
            }

        return self._constant.get(layers, layers[:-1], make)

    def logits(self, model: nn.Module) -> Tensor:
        """``[N, C]`` sums of all layers' class probabilities, of the real nodes, by one pass."""
        outs = self.stack(model).outputs(self.features(model), self.graph)
        return torch.stack([self.layer_logits(h).softmax(-1) for h in outs]).sum(0)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> Tensor:
        """:meth:`logits` of the nodes of a split, by the last layer alone."""
        stack = self.stack(model)
        below, prepared = self.constant(stack)
        found = self.layer_logits(stack.layers[-1].finish(prepared[split])).softmax(-1)
        return below[getattr(self.split, split)] + found

    def to(self, device: torch.device | str) -> SingleForwardTask:
        super().to(device)
        self.virtual_index = self.virtual_index.to(device)
        return self
