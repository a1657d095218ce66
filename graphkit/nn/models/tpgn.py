"""TPGN: a series folded into periods, read along its columns and along its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.mixer.pgn import GatedHistory
from graphkit.nn.models.forecaster import Forecaster, window_norm
from graphkit.utils.checks import check_int


class _GroupLinear(nn.Module):
    """A linear map ``[G, N, in]`` to ``[G, N, out]`` with weights for each group."""

    def __init__(self, groups: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, in_channels, channels))
        self.bias = nn.Parameter(torch.empty(groups, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.size(1) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class TPGN(Forecaster):
    r"""The temporal parallel gated network of `"PGN: The RNN's New Successor is Effective for Long-Range Time Series
    Forecasting" <https://arxiv.org/abs/2409.17703>`_.

    The window, with the features of its times, becomes a table of R = L / P periods by P phases. The *long* branch goes
    down each column with :class:`~graphkit.nn.mixer.pgn.GatedHistory`, whose outputs of all rows become one vector of d
    numbers by a linear map; the *short* branch makes each row one vector, and all of them one more. A linear map of
    both vectors forecasts, for each phase, the T / P periods that come. There is no other activation than the gate's.

    An L that P does not divide is filled up at the front with its first value; a T that P does not divide is cut.
    O(R² P d) a series, so that it grows as L if the period grows as the root of L.

    Args:
        seq_len: rows L that it reads, at least two periods.
        pred_len: rows T that it forecasts.
        period: rows P of a period.
        channels: d, the width of both branches.
        num_vars: variables V.
        time_dim: features of a moment that it reads; 0 if it reads none.
        norm: standardise each window by itself, and undo it in the forecast; see
            :func:`~graphkit.nn.models.forecaster.window_norm`.
        share_weights: all variables have the same weights, so that ``num_vars`` is not read; otherwise each its own.
        short_branch: with the short branch.

    Shapes:
        - as :class:`~graphkit.nn.models.forecaster.Forecaster`

    Raises:
        ValueError: a number out of range, fewer than two periods; in a call, inputs of another shape.

    Example:
        >>> model = TPGN(168, 168, channels=2)
        >>> model(torch.randn(3, 168, 1), torch.rand(3, 168, 4)).shape, sum(p.numel() for p in model.parameters())
        (torch.Size([3, 168, 1]), 431)
    """

    def __init__(
        self,
        seq_len: int,
        pred_len: int,
        period: int = 24,
        channels: int = 2,
        num_vars: int = 1,
        time_dim: int = 4,
        norm: bool = True,
        share_weights: bool = False,
        short_branch: bool = True,
    ) -> None:
        super().__init__(seq_len, pred_len)
        self.period, self.channels = check_int(period, "period", 1), check_int(channels, "channels", 1)
        self.time_dim = check_int(time_dim, "time_dim", 0)
        check_int(num_vars, "num_vars", 1)
        if seq_len < 2 * period:
            raise ValueError(f"seq_len must be at least two periods of {period} rows (got {seq_len})")
        self.num_vars = None if share_weights else num_vars
        self.norm, self.short_branch = norm, short_branch
        groups, width = 1 if share_weights else num_vars, 1 + time_dim
        self.rows, periods = -(-seq_len // period), -(-pred_len // period)
        self.history = GatedHistory(width, channels, self.rows - 1, groups)
        self.lin_long = _GroupLinear(groups, self.rows * channels, channels)
        if short_branch:
            self.lin_row = _GroupLinear(groups, period * width, channels)
            self.lin_short = _GroupLinear(groups, self.rows * channels, channels)
        self.lin_out = _GroupLinear(groups, (2 if short_branch else 1) * channels, periods)

    def forecast(self, x: Tensor, marks: Tensor | None) -> Tensor:
        if self.norm:
            x, mean, root = window_norm(x)
        batch, length, variables = x.shape
        z = x.permute(2, 0, 1)[..., None]
        if marks is not None:
            z = torch.cat([z, marks.to(x.dtype).expand(variables, -1, -1, -1)], -1)
        missing = self.rows * self.period - length
        if missing:
            z = torch.cat([z[:, :, :1].expand(-1, -1, missing, -1), z], 2)
        groups = 1 if self.num_vars is None else variables
        table = z.reshape(groups, -1, self.rows, self.period, z.size(-1))
        found = self.lin_out(self._features(table))  # [groups, series * phases, periods]
        found = found.view(variables, batch, self.period, -1).transpose(2, 3).flatten(2)[..., : self.pred_len]
        out = found.permute(1, 2, 0)
        return out * root + mean if self.norm else out

    def _features(self, table: Tensor) -> Tensor:
        """``[groups, series * phases, features]`` of ``[groups, series, rows, phases, width]``."""
        groups, series, rows, phases, width = table.shape
        columns = table.transpose(2, 3).reshape(groups, series * phases, rows, width)
        long = self.lin_long(self.history(columns).flatten(2))
        if not self.short_branch:
            return long
        row = self.lin_row(table.reshape(groups, series * rows, phases * width))
        short = self.lin_short(row.view(groups, series, rows * self.channels))
        return torch.cat([short.repeat_interleave(phases, 1), long], -1)

    def extra_repr(self) -> str:
        return f", period={self.period}, channels={self.channels}, num_vars={self.num_vars}"
