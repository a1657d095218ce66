"""Regression: rows of numbers, a real answer or several each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.splits import IndexSplit
from graphkit.train.tasks.indexed_task import IndexedTask
from graphkit.utils.checks import check_choice, check_features


class RegressionTask(IndexedTask):
    r"""Predict real numbers from rows, such as the values of a function at points.

    A model is called as ``model(x)`` and returns ``[N, D]``. It learns the mean squared error of answers scaled to mean
    0 and variance 1 on the training rows. The metric is the relative root mean squared error in percent,

    .. math:: 100 \sqrt{\sum_i \lVert \hat y_i - y_i \rVert^2 / \sum_i \lVert y_i - \bar y \rVert^2}

    with the mean over the same rows: 100 is that of the best constant.

    Args:
        x: ``[N, F]`` rows.
        y: ``[N, D]`` answers.
        split: ids of the training, validation and test rows.
        batch_size: rows a step; all training rows if None.
        seed: order of the training rows.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a part of the split without rows, answers that
            are all the same among the rows of a part.
        IndexError: an id beyond the rows.

    Example:
        >>> x = torch.rand(10, 2)
        >>> split = IndexSplit(*torch.arange(10).split([6, 2, 2]))
        >>> RegressionTask(x, x.sum(1, keepdim=True), split)
        RegressionTask(rows=10, features=2, answers=1, IndexSplit(train=6, valid=2, test=2))
    """

    monitor = "Relative RMSE"
    lower_is_better = ("Relative RMSE",)
    unit = "row"

    def __init__(self, x: Tensor, y: Tensor, split: IndexSplit, batch_size: int | None = None, seed: int = 0) -> None:
        self.x, self.y = check_features(x, "x"), check_features(y, "y")
        if y.size(0) != x.size(0):
            raise ValueError(f"y must have {x.size(0)} rows, as x has (got {y.size(0)})")
        super().__init__(split, x.size(0), batch_size, seed)
        known = y[split.train]
        self.mean, self.scale = known.mean(0), known.std(0, correction=0)
        if bool((self.scale == 0).any()):
            raise ValueError("y must differ among the training rows (got one value)")
        for name in ("valid", "test"):
            answers = y[getattr(split, name)]
            if bool((answers == answers[0]).all()):
                raise ValueError(f"y must differ among the {name} rows, for the metric divides by it (got one value)")

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a row of its own takes part all the same, with a loss of nothing.
        rows = share if share.numel() else batch[:1]
        wanted = (self.y[rows] - self.mean) / self.scale
        total = F.mse_loss(self._answers(model, rows), wanted, reduction="sum") * (share.numel() > 0)
        return total * (self.world_size / (batch.numel() * self.y.size(1)))

    def _answers(self, model: nn.Module, rows: Tensor) -> Tensor:
        out = model(self.x[rows])
        if out.shape != (rows.numel(), self.y.size(1)):
            raise ValueError(f"model must return [{rows.numel()}, {self.y.size(1)}] (got {list(out.shape)})")
        return out

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        ids: Tensor = getattr(self.split, split)
        answers = torch.cat([self._answers(model, part) for part in ids.split(max(self.batch_size, 4096))])
        y = self.y[ids]
        error = (answers * self.scale + self.mean - y).square().sum()
        return {self.monitor: 100 * float((error / (y - y.mean(0)).square().sum()).sqrt())}

    def to(self, device: torch.device | str) -> RegressionTask:
        for name in ("x", "y", "mean", "scale", "split"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __repr__(self) -> str:
        sizes = f"rows={self.x.size(0)}, features={self.x.size(1)}, answers={self.y.size(1)}"
        return f"{type(self).__name__}({sizes}, {self.split})"
