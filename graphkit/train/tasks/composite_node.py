"""Node classification with several answers at once, each with a loss of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from graphkit.nn.models.cbnet import composite_loss
from graphkit.train.tasks.node_classification import NodeClassificationTask


class CompositeNodeTask(NodeClassificationTask):
    r"""Node classification of a model with assistants, as in `"CBNet: A Composite Backbone Network Architecture for
    Object Detection" <https://arxiv.org/abs/2107.00420>`_.

    In training the model returns a tuple of logits, those of the lead first; the loss is the cross-entropy of the lead
    and, at less weight, of each assistant (:func:`~graphkit.nn.composite_loss`). In evaluation it returns the lead's. A
    model that returns plain logits is trained as by :class:`~graphkit.train.NodeClassificationTask`.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`.
        weights: weight of each assistant, of the first backbone's first; the paper's if None.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> CompositeNodeTask(dataset.data, dataset.split(seed=0))
        CompositeNodeTask(nodes=1797, features=64, classes=10, IndexSplit(train=862, valid=576, test=359))
    """

    def __init__(self, *args: Any, weights: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights = None if weights is None else tuple(weights)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        found = self.outputs(model)
        answers = found if isinstance(found, tuple) else (found,)
        weights = None if len(answers) == 1 else self.weights
        return composite_loss(answers[::-1], lambda logits: self.cross_entropy(logits, batch), weights)
