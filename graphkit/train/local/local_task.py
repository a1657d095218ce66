"""What tasks with losses of single layers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import ForwardStack
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import NO_FEATURES


class LocalTask(Task):
    """A task whose losses are those of single layers; the model is a :class:`~graphkit.nn.ForwardStack`.

    Local losses bypass the wrapper that averages gradients among processes and lowers the precision, so there must be
    one process, and the precision is that of the weights.
    """

    def batches(self, epoch: int) -> Iterator[Any]:
        if self.world_size > 1:
            raise ValueError(f"{type(self).__name__} trains in one process (got {self.world_size} processes)")
        yield from super().batches(epoch)  # type: ignore[safe-super]

    def stack(self, model: nn.Module) -> ForwardStack:
        """The network itself, without the trainer's wrapper."""
        found = getattr(model, "module", model)
        if not isinstance(found, ForwardStack):
            raise TypeError(f"model must be a graphkit.nn.ForwardStack (got {type(found).__name__})")
        return found


class LocalNodeTask(LocalTask, NodeClassificationTask):
    """Node classification with losses of single layers: needs features, and a training node of each class."""

    def __init__(
        self, data: Data, split: IndexSplit, metrics: tuple[str, ...] | str | None, num_classes: int | None
    ) -> None:
        super().__init__(data, split, metrics, num_classes=num_classes)
        if self.x is None:
            raise ValueError(f"data must have x: labels enter beside the features (got none); {NO_FEATURES}")
        if self.x.is_sparse_csr:
            self.x = self.x.to_dense()  # for virtual nodes and labels beside it; ``sparse_x`` is sparse again
        if self.whole is not None:
            raise ValueError(f"split hides nodes while training, which {type(self).__name__} cannot; use another split")
        # The virtual node or label of a class that is never shown would never be learned.
        missing = (torch.bincount(self.y[self.split.train], minlength=self.num_classes) == 0).nonzero()[:, 0]
        if missing.numel():
            raise ValueError(
                f"split.train holds no node of class {int(missing[0])}; each of the {self.num_classes} needs one"
            )
        self.num_real = self.num_nodes
        self._constant = Remembered()

    @abstractmethod
    def scores(self, model: nn.Module, split: str) -> Tensor:
        """``[n, C]`` scores of the nodes of a split."""

    def _answers(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        return self.scores(model, split), self.y[getattr(self.split, split)]

    def to(self, device: torch.device | str) -> LocalNodeTask:
        super().to(device)
        self._constant.forget()
        return self


class Remembered:
    """A value that was made from modules, until they are others, or a weight of some of them changes or moves."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._weights: list[tuple[Tensor, int, int]] = []
        self._value: Any = None

    def get(self, modules: Sequence[nn.Module], read: Sequence[nn.Module], make: Callable[[], Any]) -> Any:
        """The value of ``make()`` for ``modules``, which reads the weights of those in ``read``."""
        tensors = [tensor for module in read for tensor in (*module.parameters(), *module.buffers())]
        # In-place changes, such as an optimizer's or those of loaded weights, count up the version.
        weights = [(tensor, tensor._version, tensor.data_ptr()) for tensor in tensors]
        if not (_same_objects(modules, self._modules) and _same_weights(weights, self._weights)):
            self._value = make()
            self._modules, self._weights = list(modules), weights
        return self._value

    def forget(self) -> None:
        """Make the value again next time."""
        self._modules, self._weights, self._value = [], [], None


def _same_objects(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))


def _same_weights(now: list[tuple[Tensor, int, int]], before: list[tuple[Tensor, int, int]]) -> bool:
    same = _same_objects([weight[0] for weight in now], [weight[0] for weight in before])
    return same and all(a[1:] == b[1:] for a, b in zip(now, before, strict=True))
