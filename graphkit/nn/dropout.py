"""Dropout as a module."""

from __future__ import annotations

from torch import Tensor, nn

from graphkit.ops.dropout import dropout


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` through :func:`graphkit.ops.dropout`, which is several times as fast on the CPU.

    Example:
        >>> Dropout(0.5).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
