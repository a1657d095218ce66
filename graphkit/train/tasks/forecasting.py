"""Forecasting: from a window of a series to the rows that follow; errors of standardised values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.series import SeriesSplit
from graphkit.loader.forecast_windows import ForecastBatch, ForecastWindows
from graphkit.ops import NeighborIndex
from graphkit.train.tasks.task import Task
from graphkit.transforms.time_features import time_features
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import stream


class ForecastingTask(Task):
    r"""Forecast the next ``pred_len`` rows of a series from the ``seq_len`` rows before, as in `"Informer: Beyond
    Efficient Transformer for Long Sequence Time-Series Forecasting" <https://arxiv.org/abs/2012.07436>`_.

    Each variable is standardised by mean and standard deviation of the training rows. The loss is the mean squared
    error of a batch of windows. The metrics ``"MSE"`` and ``"MAE"`` are means over all windows, steps and variables of
    a part, in percent: of the variance and of the standard deviation of the training rows. The 0.106 of a paper is 10.6
    here. Windows of validation and test may read rows before the border, and forecast none.

    A model is called as ``model(x, marks)`` with ``x`` ``[B, L, V]`` and ``marks`` ``[B, L, C]``, or as
    ``model(x, marks, graph)`` if it has the attribute ``takes_graph``, and returns ``[B, T, V]``; the graph is that of
    the variables.

    Args:
        data: ``series`` ``[rows, V]``, ``t`` ``[rows]`` (int64 seconds) and, for models of graphs, ``edge_index``.
        split: which rows are forecast when.
        seq_len: rows L that a model reads.
        pred_len: rows T that it forecasts.
        variable: the number of the only variable that is read and forecast; all if None.
        batch_size: windows a step.
        seed: order of the training windows.

    Raises:
        TypeError: arguments of another type.
        ValueError: a split of another series, a part without a window, NaN, times that do not increase.

    Example:
        >>> hours = torch.arange(200)
        >>> data = Data(series=(hours / 4.0).sin()[:, None], t=3600 * hours, num_nodes=1)
        >>> ForecastingTask(data, SeriesSplit(120, 160, 200), seq_len=24, pred_len=8)
        ForecastingTask(variables=1, seq_len=24, pred_len=8, windows: train=89, valid=33, test=33)
    """

    monitor = "MSE"
    lower_is_better = ("MSE", "MAE")
    unit = "window"

    def __init__(
        self,
        data: Data,
        split: SeriesSplit,
        seq_len: int,
        pred_len: int,
        variable: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if not isinstance(split, SeriesSplit):
            raise TypeError(f"split must be a graphkit.datasets.SeriesSplit (got {type(split).__name__})")
        series, t = getattr(data, "series", None), getattr(data, "t", None)
        if not isinstance(series, Tensor) or series.dim() != 2:
            raise ValueError("data must have series [rows, variables]")
        if not isinstance(t, Tensor) or t.shape != series.shape[:1]:
            raise ValueError(f"data must have t [{series.size(0)}], the time of each row")
        if split.stop > series.size(0):
            raise ValueError(f"split must be of the series of {series.size(0)} rows (got one of {split.stop})")
        if variable is not None:
            check_int(variable, "variable", 0, series.size(1) - 1)
            series = series[:, variable : variable + 1]
        self.split, self.variable = split, variable
        self.seq_len, self.pred_len = check_int(seq_len, "seq_len", 1), check_int(pred_len, "pred_len", 1)
        self.batch_size, self.seed = check_int(batch_size, "batch_size", 1), check_int(seed, "seed", 0)
        known = series[: split.train_stop]
        self.mean, std = known.mean(0), known.std(0, correction=0)
        self.std = torch.where(std > 0, std, 1)
        # Borders are of what is forecast; what is read lies before.
        begins = {"train": seq_len, "valid": split.train_stop, "test": split.valid_stop}
        stops = {"train": split.train_stop, "valid": split.valid_stop, "test": split.stop}
        self.spans = {name: (begin - seq_len, stops[name] - seq_len - pred_len + 1) for name, begin in begins.items()}
        for name, (first, stop) in self.spans.items():
            if first < 0 or stop <= first:
                raise ValueError(
                    f"split.{name} has no window of seq_len + pred_len = {seq_len + pred_len} rows that forecasts it "
                    f"alone; give it more rows (got {split})"
                )
        standard = (series[: split.stop] - self.mean) / self.std
        self._windows = ForecastWindows(standard, seq_len, pred_len, time_features(t[: split.stop]))
        self.edge_index = None if variable is not None else data.edge_index
        self._graph: NeighborIndex | None = None

    @property
    def num_variables(self) -> int:
        """V."""
        return self.mean.numel()

    @property
    def time_dim(self) -> int:
        """Features C of a moment."""
        return self._windows.marks.size(1)  # type: ignore[union-attr]

    @property
    def graph(self) -> NeighborIndex:
        """The graph of the variables.

        Raises:
            ValueError: the data has none.
        """
        if self.edge_index is None:
            raise ValueError(
                "data must have edge_index among its variables for a model of graphs; see CorrelationGraph"
            )
        if self._graph is None:
            self._graph = NeighborIndex(self.edge_index.flip(0), self.num_variables)
        return self._graph

    def _count(self, part: str) -> int:
        first, stop = self.spans[part]
        return stop - first

    def num_batches(self) -> int:
        return -(-self._count("train") // self.batch_size)

    def size(self, batch: Tensor) -> int:
        return batch.numel()

    def epoch_size(self) -> int:
        return self._count("train")

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """First rows of the training windows in a new order."""
        order = torch.randperm(self._count("train"), generator=stream(self.seed, epoch))
        yield from order.to(self.mean.device).split(self.batch_size)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a window of its own takes part all the same, with a loss of nothing.
        windows = self._windows.batch(share if share.numel() else batch[:1])
        gap = (self.forecast(model, windows) - windows.y)[: share.numel()]
        return gap.square().sum() * (self.world_size / (batch.numel() * windows.y[0].numel()))

    def forecast(self, model: nn.Module, windows: ForecastBatch) -> Tensor:
        """``[B, T, V]`` standardised forecasts."""
        graph = (self.graph,) if getattr(model, "takes_graph", False) else ()
        out = model(windows.x, windows.marks, *graph)
        if out.shape != windows.y.shape:
            raise ValueError(f"model must return forecasts {list(windows.y.shape)} (got {list(out.shape)})")
        return out

    @torch.no_grad()
    def errors(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Squared and absolute error of each step ahead, ``[T]`` float64 each, means over windows and variables."""
        check_choice(split, "split", ("train", "valid", "test"))
        model.eval()
        first, stop = self.spans[split]
        squared = torch.zeros(self.pred_len, dtype=torch.float64, device=self.mean.device)
        absolute = torch.zeros_like(squared)
        size = 8 * self.batch_size
        for begin in range(first, stop, size):
            windows = self._windows.batch(slice(begin, min(begin + size, stop)))  # views
            gap = (self.forecast(model, windows) - windows.y).double()
            squared += gap.square().sum((0, 2))
            absolute += gap.abs().sum((0, 2))
        count = self._count(split) * self.num_variables
        return squared / count, absolute / count

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        squared, absolute = self.errors(model, split)
        return {"MSE": 100 * float(squared.mean()), "MAE": 100 * float(absolute.mean())}

    def table(self, model: nn.Module) -> dict[str, list[Any]]:
        """Test errors by the number of steps ahead, in up to 24 parts."""
        parts = min(24, self.pred_len)
        steps, *errors = (
            [float(part.double().mean()) for part in values.cpu().tensor_split(parts)]
            for values in (torch.arange(1, self.pred_len + 1), *self.errors(model, "test"))
        )
        return {
            "steps_ahead": steps,
            **{
                name: [round(100 * value, 4) for value in part]
                for name, part in zip(("MSE", "MAE"), errors, strict=True)
            },
        }

    def to(self, device: torch.device | str) -> ForecastingTask:
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self._windows = self._windows.to(device)
        if self.edge_index is not None:
            self.edge_index, self._graph = self.edge_index.to(device), None
        return self

    def __repr__(self) -> str:
        counts = ", ".join(f"{part}={self._count(part)}" for part in self.spans)
        return (
            f"{type(self).__name__}(variables={self.num_variables}, seq_len={self.seq_len}, pred_len={self.pred_len}, "
            f"windows: {counts})"
        )
