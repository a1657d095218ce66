"""Dropout that draws its mask four times as fast on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """:func:`torch.nn.functional.dropout`, with 16 random bits an entry on the CPU.

    PyTorch draws a whole random word for every entry there, one after the other, which takes longer than a small
    matrix product. With 16 bits ``p`` is rounded to a multiple of 2⁻¹⁶; kept entries are scaled by the rounded value,
    so that the expectation is exact.

    Example:
        >>> dropout(torch.ones(2, 2), 0.0, training=True)
        tensor([[1., 1.],
                [1., 1.]])
    """
    if not training or p == 0 or p == 1 or x.device.type != "cpu" or not x.is_floating_point():
        return F.dropout(x, p, training)
    dropped = min(max(round(p * 65536), 1), 65535)
    size = x.numel()
    words = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # type: ignore[arg-type]
    mask = (words.view(torch.int16)[:size] >= dropped - 32768).view(x.shape)
    return x * mask.to(x.dtype).mul_(65536 / (65536 - dropped))


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` through :func:`dropout`.

    Example:
        >>> Dropout(0.5).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
