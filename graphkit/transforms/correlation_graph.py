"""Edges between variables that go up and down together."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.ops import most_similar
from graphkit.utils.checks import check_int


class CorrelationGraph(BaseTransform):
    """Every variable of a series hears from the ``k`` others with the highest correlation. O(V² T) in blocks.

    Args:
        k: neighbours of a variable.
        stop: only rows before this one are compared, so that nothing is learned from those that are forecast later; all
            if None.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``series`` ``[T, V]``
        - **output:** the same with ``edge_index`` ``[2, k V]``, source to target

    Raises:
        ValueError: a number out of range, or no series.

    Example:
        >>> up = torch.arange(4.0)
        >>> CorrelationGraph(1)(Data(series=torch.stack([up, up**2, -up], 1), num_nodes=3)).edge_index[:, :2]
        tensor([[1, 0],
                [0, 1]])
    """

    def __init__(self, k: int, stop: int | None = None) -> None:
        self.k, self.stop = check_int(k, "k", 1), None if stop is None else check_int(stop, "stop", 2)

    def forward(self, data: Data) -> Data:
        series = getattr(data, "series", None)
        if series is None or series.dim() != 2:
            raise ValueError("data must have series [T, V]")
        variables = series.size(1)
        if self.k >= variables:
            raise ValueError(f"k must be below the number of variables, {variables} (got {self.k})")
        known = series[: self.stop].double()
        picks = most_similar((known - known.mean(0)).t().contiguous(), self.k, include_self=False)
        target = torch.arange(variables, device=picks.device).repeat_interleave(self.k)
        data.edge_index = torch.stack([picks.flatten(), target])
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.k})"
