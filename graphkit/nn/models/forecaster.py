"""Forecasters of series: what they share, and the simplest ones."""

from __future__ import annotations

from torch import Tensor, nn

from graphkit.utils.checks import check_device, check_int, check_like


class Forecaster(nn.Module):
    """Reads L rows of V variables and forecasts the T rows that follow.

    A subclass implements :meth:`forecast`.

    Attributes:
        seq_len: L.
        pred_len: T.
        num_vars: V; None for any number.
        time_dim: features of a moment that it reads; 0 if it reads none.

    Shapes:
        - **input:** ``x`` ``[B, L, V]``, ``marks`` ``[B, L, C]`` (see :func:`graphkit.transforms.time_features`), which
          one that reads none may go without
        - **output:** ``[B, T, V]``

    Raises:
        TypeError: inputs of another type than the weights.
        ValueError: inputs of another shape, or no marks where they are read.
    """

    num_vars: int | None = None
    time_dim: int = 0

    def __init__(self, seq_len: int, pred_len: int) -> None:
        super().__init__()
        self.seq_len, self.pred_len = check_int(seq_len, "seq_len", 1), check_int(pred_len, "pred_len", 1)

    def forward(self, x: Tensor, marks: Tensor | None = None) -> Tensor:
        self.check_inputs(x, marks)
        return self.forecast(x, marks if self.time_dim else None)

    def check_inputs(self, x: Tensor, marks: Tensor | None) -> None:
        """Raise an error for inputs of another shape or type; NaN stays in its window."""
        check_like(x, next(self.parameters(), None))
        wanted = f"[B, {self.seq_len}, {'V' if self.num_vars is None else self.num_vars}]"
        if x.dim() != 3 or x.size(1) != self.seq_len or self.num_vars not in (None, x.size(2)):
            raise ValueError(f"x must have shape {wanted} (got {list(x.shape)})")
        if self.time_dim and (marks is None or marks.shape != (*x.shape[:2], self.time_dim)):
            got = "none" if marks is None else list(marks.shape)
            raise ValueError(f"marks must have shape {[*x.shape[:2], self.time_dim]} (got {got})")
        check_device(x=x, marks=marks)

    def forecast(self, x: Tensor, marks: Tensor | None) -> Tensor:
        """``[B, T, V]``, arguments checked; ``marks`` is None where none are read."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in self.children():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.seq_len}, {self.pred_len}{self.extra_repr()})"


def window_norm(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    r"""A window ``[B, L, V]`` standardised by itself: :math:`(x - \mu) / \sqrt{\sigma^2 + \epsilon}` for each variable,
    and what undoes it: mean and root, ``[B, 1, V]`` each.

    Example:
        >>> import torch
        >>> window_norm(torch.tensor([[[1.0], [3.0]]]))[0].flatten().round(decimals=2)
        tensor([-1.,  1.])
    """
    mean = x.mean(1, keepdim=True)
    root = (x.var(1, keepdim=True, correction=0) + eps).sqrt()
    return (x - mean) / root, mean, root


class RepeatForecast(Forecaster):
    """Forecasts that the last period comes again and again, or the mean of the last few periods. No parameters.

    ``period=1`` repeats the last value, ``period=1, count=seq_len`` the mean of the window; of hourly values
    ``period=24`` repeats the last day, ``period=168`` the last week.

    Args:
        seq_len: rows that it reads.
        pred_len: rows that it forecasts.
        period: rows that come again.
        count: how many last periods it averages.

    Shapes:
        - as :class:`Forecaster`, of any number of variables

    Raises:
        ValueError: a number below 1, or fewer rows than ``period * count``.

    Example:
        >>> import torch
        >>> RepeatForecast(4, 3, period=2)(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)).flatten()
        tensor([3., 4., 3.])
    """

    def __init__(self, seq_len: int, pred_len: int, period: int = 1, count: int = 1) -> None:
        super().__init__(seq_len, pred_len)
        self.period, self.count = check_int(period, "period", 1), check_int(count, "count", 1)
        if period * count > seq_len:
            raise ValueError(f"period * count must be at most seq_len={seq_len} (got {period} * {count})")

    def forecast(self, x: Tensor, marks: Tensor | None) -> Tensor:
        last = x[:, self.seq_len - self.period * self.count :]
        last = last.unflatten(1, (self.count, self.period)).mean(1)
        return last.repeat(1, -(-self.pred_len // self.period), 1)[:, : self.pred_len]

    def extra_repr(self) -> str:
        return f", period={self.period}, count={self.count}"


class LinearForecast(Forecaster):
    r"""NLinear of `"Are Transformers Effective for Time Series Forecasting?" <https://arxiv.org/abs/2205.13504>`_: one
    linear map over time for all variables, of what has changed up to the last value.

    .. math:: y = W (x - x_L) + b + x_L

    O(L T) a variable.

    Args:
        seq_len: rows that it reads.
        pred_len: rows that it forecasts.

    Shapes:
        - as :class:`Forecaster`, of any number of variables

    Raises:
        ValueError: a number below 1.

    Example:
        >>> import torch
        >>> LinearForecast(8, 4)(torch.randn(2, 8, 3)).shape
        torch.Size([2, 4, 3])
    """

    def __init__(self, seq_len: int, pred_len: int) -> None:
        super().__init__(seq_len, pred_len)
        self.lin = nn.Linear(seq_len, pred_len)

    def forecast(self, x: Tensor, marks: Tensor | None) -> Tensor:
        last = x[:, -1:]
        return self.lin((x - last).transpose(1, 2)).transpose(1, 2) + last
