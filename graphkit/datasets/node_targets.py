"""What nodes of a stream will do in the time to come: targets for node property prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.datasets.events import EventStream
from graphkit.utils.checks import INDEX_DTYPES, check_int


@dataclass(frozen=True, eq=False, repr=False)
class NodePropertyTargets:
    """Distributions over classes, each of a node in the window ``[t, t + window)`` of time.

    The targets of node property prediction in the `"Temporal Graph Benchmark for Machine Learning on Temporal Graphs"
    <https://arxiv.org/abs/2307.01026>`_: asked for at ``t``, known when the window is over.

    Args:
        n_id: ``[M]`` nodes, int64.
        t: ``[M]`` beginnings of the windows, int64, ascending; a node occurs once at a time.
        y: ``[M, C]`` weights, not negative; dense or sparse CSR.
        window: width of all windows.

    Raises:
        TypeError, ValueError: columns of other types or lengths, times that descend, a node twice at one time, weights
            that are negative or not finite, a window below 1.

    Example:
        >>> n_id, t = torch.tensor([0, 1]), torch.tensor([10, 20])
        >>> NodePropertyTargets(n_id, t, torch.eye(2), window=10)
        NodePropertyTargets(2, classes=2, window=10)
    """

    n_id: Tensor
    t: Tensor
    y: Tensor
    window: int

    def __post_init__(self) -> None:
        for name in ("n_id", "t"):
            column = getattr(self, name)
            if not isinstance(column, Tensor) or column.dtype not in INDEX_DTYPES:
                got = column.dtype if isinstance(column, Tensor) else type(column).__name__
                raise TypeError(f"{name} must be an int64 tensor (got {got})")
            object.__setattr__(self, name, column.long())
        if not isinstance(self.y, Tensor) or self.y.dim() != 2 or not self.y.is_floating_point():
            raise TypeError("y must be a floating-point matrix [M, C], dense or sparse CSR")
        if self.y.size(1) < 2 or not self.n_id.shape == self.t.shape == (self.y.size(0),) or not len(self):
            raise ValueError(
                "n_id, t and y must have shapes [M], [M] and [M, C] with M > 0 and C > 1 "
                f"(got {list(self.n_id.shape)}, {list(self.t.shape)} and {list(self.y.shape)})"
            )
        weight = self.y.values() if self.y.is_sparse_csr else self.y
        if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
            raise ValueError("y must hold finite weights that are not negative")
        if not bool((self.t[1:] >= self.t[:-1]).all()):
            bad = int((self.t[1:] < self.t[:-1]).nonzero()[0])
            raise ValueError(f"t must ascend (got {int(self.t[bad + 1])} after {int(self.t[bad])})")
        node = self.n_id[torch.argsort(self.n_id, stable=True)]
        time = self.t[torch.argsort(self.n_id, stable=True)]
        twice = (node[1:] == node[:-1]) & (time[1:] == time[:-1])
        if bool(twice.any()):
            bad = int(twice.nonzero()[0])
            raise ValueError(
                f"a node must have one target at a time (node {int(node[bad])} has two at {int(time[bad])})"
            )
        object.__setattr__(self, "window", check_int(self.window, "window", 1))

    @property
    def num_classes(self) -> int:
        """Width ``C`` of a target."""
        return self.y.size(1)

    def __len__(self) -> int:
        return self.n_id.numel()

    def rows(self, start: int, stop: int) -> Tensor:
        """Targets ``start`` to ``stop``, dense ``[stop - start, C]``."""
        if not self.y.is_sparse_csr:
            return self.y[start:stop]
        crow = self.y.crow_indices()[start : stop + 1]
        first, last = int(crow[0]), int(crow[-1])
        row = torch.repeat_interleave(crow.diff(), output_size=last - first)
        found = self.y.values().new_zeros(stop - start, self.num_classes)
        return found.index_put_((row, self.y.col_indices()[first:last]), self.y.values()[first:last])

    def to(self, device: str | torch.device) -> NodePropertyTargets:
        """The same targets on ``device``."""
        return NodePropertyTargets(self.n_id.to(device), self.t.to(device), self.y.to(device), self.window)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, classes={self.num_classes}, window={self.window})"


def node_property_targets(stream: EventStream, window: int) -> NodePropertyTargets:
    """Which share of its events each source has with each destination in each window of time.

    Windows are ``[k * window, (k + 1) * window)`` for whole ``k``. The first that has events is left out, since nothing
    is known before it, and so is the last, which the end of the stream may cut short. A node without events in a window
    has no target there. Class c is destination ``stream.destinations[c]``. O(E log E).

    Args:
        stream: the events.
        window: width of a window in the unit of ``t``.

    Raises:
        TypeError, ValueError: no stream, a window below 1, or fewer than two whole windows or destinations.

    Example:
        >>> src, dst, t = torch.tensor([[0, 0, 1, 0, 0, 1], [2, 2, 3, 2, 3, 3], [0, 5, 12, 14, 15, 21]])
        >>> targets = node_property_targets(EventStream(src, dst, t), window=10)
        >>> targets.n_id, targets.t, targets.rows(0, 2)
        (tensor([0, 1]), tensor([10, 10]), tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]]))
    """
    if not isinstance(stream, EventStream):
        raise TypeError(f"stream must be an EventStream (got {type(stream).__name__})")
    check_int(window, "window", 1)
    start = stream.t // window * window
    inner = (start > start[0]) & (start < start[-1])
    if not bool(inner.any()) or stream.destinations.numel() < 2:
        raise ValueError(
            f"window={window} leaves no whole window between the first and the last, or the stream has one destination"
        )
    start, src, dst = start[inner], stream.src[inner], stream.dst[inner]
    moment, place = start.unique_consecutive(return_inverse=True)
    asked, row = (place * stream.num_nodes + src).unique(return_inverse=True)
    classes = stream.destinations.numel()
    cell, count = (row * classes + torch.searchsorted(stream.destinations, dst)).unique(return_counts=True)
    row, column = cell // classes, cell % classes
    total = torch.zeros(asked.numel(), dtype=torch.int64, device=cell.device).index_add_(0, row, count)
    crow = torch.searchsorted(row, torch.arange(asked.numel() + 1, device=cell.device))
    size = (asked.numel(), classes)
    y = torch.sparse_csr_tensor(crow, column, (count / total[row]).float(), size, check_invariants=True)
    return NodePropertyTargets(asked % stream.num_nodes, moment[asked // stream.num_nodes], y, window)
