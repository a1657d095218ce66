"""Classes of nodes or tokens with several answers at once, each with a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from graphkit.nn.models.cbnet import composite_loss
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.train.tasks.token_classification import TokenClassificationTask


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
        self.weights = weights

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return _answers_loss(self.outputs(model), lambda logits: self.cross_entropy(logits, batch), self.weights)


class CompositeTokenTask(TokenClassificationTask):
    r"""Classes of tokens, such as the segmentation of images, with a model as :class:`CompositeNodeTask` takes it.

    Args:
        graphs, split, batch_size, seed, longer, metrics: as :class:`~graphkit.train.TokenClassificationTask`.
        weights: weight of each assistant, of the first backbone's first; the paper's if None.

    Example:
        >>> from graphkit.datasets import load
        >>> from graphkit.loader import ImageGraphs
        >>> dataset = load("digit_canvases")
        >>> CompositeTokenTask(ImageGraphs(dataset.graphs), dataset.split(seed=0), metrics=("Mean IoU",))
        CompositeTokenTask(graphs=1500, classes=11, IndexSplit(train=1000, valid=250, test=250))
    """

    def __init__(self, *args: Any, weights: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights = weights

    def cross_entropy(self, out: Any, y: Tensor) -> Tensor:
        return _answers_loss(out, lambda logits: super(CompositeTokenTask, self).cross_entropy(logits, y), self.weights)


def _answers_loss(found: Any, loss: Callable[[Tensor], Tensor], weights: Sequence[float] | None) -> Tensor:
    """The loss of a model's answers, logits of the lead or a tuple that begins with them."""
    answers = found if isinstance(found, tuple) else (found,)
    return composite_loss(answers[::-1], loss, None if len(answers) == 1 else weights)
