"""Time differences as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphkit.ops.time_encoding import time_encoding
from graphkit.utils.checks import check_int


class TimeEncoder(nn.Module):
    r"""The functional time encoding of `"Inductive Representation Learning on Temporal Graphs"
    <https://arxiv.org/abs/2002.07962>`_, started as in `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
    <https://arxiv.org/abs/2006.10637>`_:

    .. math:: \phi(\Delta t) = \cos(\omega \, \Delta t + b), \qquad \omega_i = 10^{-9 i / (D - 1)}, \quad b_i = 0

    at the start; both are learned. Periods from 6 units of time to 6 billion cover seconds to centuries. Angles are
    float64, so time stamps of any size keep their differences.

    The logarithms of the frequencies are the parameters. The papers learn the frequencies themselves, of which a single
    step of Adam, as large as the learning rate, wipes out all but the fastest: the slow ones are a millionth of it.

    Args:
        out_channels: width D.

    Shapes:
        - **input:** ``[n]`` int64 or floating differences of times
        - **output:** ``[n, out_channels]``

    Example:
        >>> TimeEncoder(4)(torch.tensor([0, 60])).shape
        torch.Size([2, 4])
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.log_freq = nn.Parameter(torch.empty(out_channels))
        self.phase = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Return to the start."""
        with torch.no_grad():
            self.log_freq.copy_(-math.log(10) * torch.linspace(0, 9, self.out_channels))
            self.phase.zero_()

    @property
    def freq(self) -> Tensor:
        """The frequencies ``[out_channels]``."""
        return self.log_freq.exp()

    def forward(self, dt: Tensor) -> Tensor:
        return time_encoding(dt, self.freq, self.phase)

    def extra_repr(self) -> str:
        return str(self.out_channels)
