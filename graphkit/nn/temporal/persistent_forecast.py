"""What a node did last, it will do again: the baselines of node property prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.nn.temporal.node_head import TemporalNodeModel
from graphkit.utils.checks import check_int, check_pairs


class PersistentForecast(TemporalNodeModel):
    r"""Forecasts a node's last known target, or a moving average of them; zeros for a node that has none.

    The two baselines of the `"Temporal Graph Benchmark for Machine Learning on Temporal Graphs"
    <https://arxiv.org/abs/2307.01026>`_: with each target y of a node that becomes known, its forecast f becomes

    .. math:: f \leftarrow ((w - 1) f + y) / w

    and y itself at the first one. The forecast persists with w = 1; the benchmark's moving average has w = 7. It has no
    parameters and does not read events. O(1) a number.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        num_classes: width of a target.
        window: w, the number of targets that the average is about.

    Shapes:
        - as :class:`~graphkit.nn.temporal.node_head.TemporalNodeModel`

    Raises:
        ValueError: a number below 1.
        IndexError: a node id out of range.

    Example:
        >>> model = PersistentForecast(num_nodes=3, num_classes=2)
        >>> node, t = torch.tensor([1]), torch.tensor([7])
        >>> model.update_targets(node, t, torch.tensor([[0.25, 0.75]]))
        >>> model(node, t)
        tensor([[0.2500, 0.7500]])
    """

    forecast: Tensor
    known: Tensor

    def __init__(self, num_nodes: int, num_classes: int, window: int = 1) -> None:
        super().__init__()
        self.num_nodes = check_int(num_nodes, "num_nodes", 1)
        self.window = check_int(window, "window", 1)
        self.register_state("forecast", num_nodes, check_int(num_classes, "num_classes", 1))
        self.register_state("known", num_nodes, fill=False, dtype=torch.bool)

    def forward(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None, event_msg: Tensor | None = None) -> Tensor:
        self._check_ids(n_id)
        return self.forecast[n_id]

    @torch.no_grad()
    def update_targets(self, n_id: Tensor, t: Tensor, y: Tensor) -> None:
        self._check_ids(n_id)
        y = y.to(self.forecast.dtype)
        mean = ((self.window - 1) * self.forecast[n_id] + y) / self.window
        self.forecast[n_id] = torch.where(self.known[n_id, None], mean, y)
        self.known[n_id] = True

    def _check_ids(self, n_id: Tensor) -> None:
        check_pairs(n_id.expand(2, -1), self.num_nodes, "n_id", wait=False)

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, num_classes={self.forecast.size(1)}, window={self.window}"
