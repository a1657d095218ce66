"""How learning rates change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphkit.utils.checks import check_range


@dataclass(frozen=True)
class CosineSchedule:
    r"""The factor of learning rates of `"SGDR: Stochastic Gradient Descent with Warm Restarts"
    <https://arxiv.org/abs/1608.03983>`_ without restarts: a straight rise, then half a cosine,

    .. math:: f(e) = \epsilon + (1 - \epsilon) \tfrac{1}{2} \left(1 + \cos \pi \frac{e - w}{E - w}\right)

    Args:
        epochs: E, where the factor is the lowest.
        warmup: w, epochs of the rise from zero.
        floor: the lowest factor :math:`\epsilon`.

    Raises:
        ValueError: no epochs after the rise, a floor outside [0, 1].

    Example:
        >>> schedule = CosineSchedule(10, warmup=2)
        >>> [round(schedule(epoch), 2) for epoch in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    epochs: float
    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.epochs, "epochs", 0, low_open=True)
        check_range(self.warmup, "warmup", 0)
        check_range(self.floor, "floor", 0, 1)
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup must be below epochs={self.epochs} (got {self.warmup})")

    def __call__(self, epoch: float) -> float:
        if epoch < self.warmup:
            return epoch / self.warmup
        done = min((epoch - self.warmup) / (self.epochs - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
