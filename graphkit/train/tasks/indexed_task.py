"""Tasks on numbered samples, such as the graphs of a set or the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphkit.datasets.splits import IndexSplit
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream


class IndexedTask(Task):
    """A problem whose samples have numbers: a batch is the ids of ``batch_size`` training samples, in a new order in
    each epoch. ``unit`` names a sample in errors and in the progress bar.

    Args:
        split: ids of the training, validation and test samples.
        num_samples: number of samples.
        batch_size: samples a step; all training samples if None.
        seed: order of the training samples.

    Raises:
        TypeError: no :class:`~graphkit.datasets.IndexSplit`.
        ValueError: an empty part, a number out of range.
        IndexError: an id outside the samples.
    """

    def __init__(self, split: IndexSplit, num_samples: int, batch_size: int | None, seed: int) -> None:
        if not isinstance(split, IndexSplit):
            raise TypeError(f"split must be a graphkit.datasets.splits.IndexSplit (got {type(split).__name__})")
        for name in ("train", "valid", "test"):
            ids: Tensor = getattr(split, name)
            if ids.numel() == 0:
                raise ValueError(
                    f"split.{name} holds no {self.unit}s; training, validation and test need at least one each"
                )
            # A split holds no negative ids.
            if int(ids.max()) >= num_samples:
                raise IndexError(f"split.{name} holds {self.unit} {int(ids.max())}, outside [0, {num_samples})")
        self.split = split
        self.batch_size = split.train.numel() if batch_size is None else check_int(batch_size, "batch_size", 1)
        self.seed = check_int(seed, "seed", 0)

    def num_batches(self) -> int:
        return -(-self.split.train.numel() // self.batch_size)

    def size(self, batch: Tensor) -> int:
        return batch.numel()

    def epoch_size(self) -> int:
        return self.split.train.numel()

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Ids of training samples."""
        order = torch.randperm(self.split.train.numel(), generator=stream(self.seed, epoch))
        yield from self.split.train[order.to(self.split.train.device)].split(self.batch_size)
