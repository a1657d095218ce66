"""Parallel gated networks: one linear map of all that was before, and one gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int

# Rows up to which a dense matrix is quicker than a convolution.
_FEW = 32


class GatedHistory(nn.Module):
    r"""What :class:`PGN`, :class:`~graphkit.nn.PGNConv` and :class:`~graphkit.nn.TPGN` share: a linear map of the rows
    before, and a gate.

    .. math:: H_r = b + \sum_{l=1}^{w} W_l z_{r-l}, \qquad [s_r \| c_r] = [z_r \| H_r] W_g + b_g, \qquad
              y_r = \sigma(s_r) \odot H_r + (1 - \sigma(s_r)) \odot \tanh(c_r)

    Rows before the first count as zeros. Several groups have weights of their own. O(R w in out) for R rows.

    Args:
        in_channels: width of z.
        channels: width of H and y.
        window: w, how many rows back it reads.
        groups: how many sets of weights.

    Shapes:
        - **input:** ``[groups, N, R, in_channels]``, N sequences of R rows
        - **output:** ``[groups, N, R, channels]``

    Raises:
        ValueError: a number below 1.

    Example:
        >>> GatedHistory(3, 4, window=5)(torch.randn(1, 2, 7, 3)).shape
        torch.Size([1, 2, 7, 4])
    """

    def __init__(self, in_channels: int, channels: int, window: int, groups: int = 1) -> None:
        super().__init__()
        self.in_channels, self.channels = check_int(in_channels, "in_channels", 1), check_int(channels, "channels", 1)
        self.window, self.groups = check_int(window, "window", 1), check_int(groups, "groups", 1)
        # The last tap is of the row before, as in a convolution.
        self.history_weight = nn.Parameter(torch.empty(groups, channels, in_channels, window))
        self.history_bias = nn.Parameter(torch.empty(groups, channels))
        self.gate_weight = nn.Parameter(torch.empty(groups, in_channels + channels, 2 * channels))
        self.gate_bias = nn.Parameter(torch.empty(groups, 2 * channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform up to one over the root of the number of inputs, as PyTorch's own layers."""
        for weight, bias, inputs in (
            (self.history_weight, self.history_bias, self.in_channels * self.window),
            (self.gate_weight, self.gate_bias, self.in_channels + self.channels),
        ):
            nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5)
            nn.init.uniform_(bias, -(inputs**-0.5), inputs**-0.5)

    def history(self, z: Tensor) -> Tensor:
        """H of every row.

        Of few rows, or with several groups, by one matrix from all rows to all rows, zero where a row is not before;
        otherwise by a convolution of the rows with zeros before them.
        """
        groups, sequences, rows, _ = z.shape
        if rows == 1:
            return self.history_bias[:, None, None].expand(groups, sequences, rows, self.channels)
        before = z[:, :, :-1]
        if groups > 1 or rows <= _FEW:
            place = torch.arange(rows, device=z.device)
            lag = place - place[:-1, None]
            taps = self.history_weight.permute(0, 3, 2, 1)[:, (self.window - lag).clamp(0, self.window - 1)]
            inside = (lag >= 1) & (lag <= self.window)
            matrix = (taps * inside[..., None, None]).transpose(2, 3).flatten(3).flatten(1, 2)
            found = torch.bmm(before.flatten(2), matrix).view(groups, sequences, rows, self.channels)
            return found + self.history_bias[:, None, None]
        reach = min(self.window, rows - 1)
        columns = F.pad(before[0].transpose(1, 2), (reach, 0))
        weight = self.history_weight[0, ..., self.window - reach :]
        return F.conv1d(columns, weight, self.history_bias[0]).transpose(1, 2)[None]

    def gated(self, z: Tensor, history: Tensor) -> Tensor:
        """y ``[groups, M, channels]`` of z ``[groups, M, in_channels]`` and H ``[groups, M, channels]``."""
        both = torch.baddbmm(self.gate_bias[:, None], torch.cat([z, history], -1), self.gate_weight)
        gate, new = both.chunk(2, -1)
        gate, new = gate.sigmoid(), new.tanh()
        return new + gate * (history - new)

    def forward(self, z: Tensor) -> Tensor:
        if z.dim() != 4 or z.size(0) != self.groups or z.size(3) != self.in_channels:
            raise ValueError(f"z must have shape [{self.groups}, N, R, {self.in_channels}] (got {list(z.shape)})")
        history = self.history(z)
        return self.gated(z.flatten(1, 2), history.flatten(1, 2)).view(history.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.channels}, window={self.window}, groups={self.groups})"


class PGN(TokenMixer):
    r"""The parallel gated network of `"PGN: The RNN's New Successor is Effective for Long-Range Time Series
    Forecasting" <https://arxiv.org/abs/2409.17703>`_: every token gets a linear map of the tokens before it, mixed with
    its own features by a gate; see :class:`GatedHistory` for the equation.

    Where a recurrence hands the past on from token to token, here each earlier token is one step away, and all tokens
    are done at once. With a period p, tokens are read p apart, those of one phase together: of an hourly series and p
    = 24, an hour sees the same hour of earlier days. O(L window in_channels channels).

    Args:
        in_channels: width of a token.
        channels: width of the output.
        window: how many earlier tokens of its phase a token reads.
        period: p.

    Shapes:
        - as :class:`TokenMixer`, ``[N, in_channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number below 1.

    Example:
        >>> PGN(8, 8, window=4)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    causal = True

    def __init__(self, in_channels: int, channels: int, window: int, period: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels = (
            check_int(in_channels, "in_channels", 1),
            check_int(channels, "channels", 1),
        )
        self.window, self.period = check_int(window, "window", 1), check_int(period, "period", 1)
        self.cell = GatedHistory(in_channels, channels, window)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        padded = tokens.pad(x)  # what is missing comes last, where no token looks
        graphs, length, width = padded.shape
        rows = -(-length // self.period)
        phases = F.pad(padded, (0, 0, 0, rows * self.period - length)).view(graphs, rows, self.period, width)
        out = self.cell(phases.transpose(1, 2).reshape(1, graphs * self.period, rows, width))
        out = out.view(graphs, self.period, rows, -1).transpose(1, 2).reshape(graphs, rows * self.period, -1)
        return tokens.unpad(out[:, :length])

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token; the state is the last ``window * period`` tokens ``[B, window * period, in_channels]``."""
        self.check_step(x, None if state is None else state.size(0))
        reach = self.window * self.period
        before = x.new_zeros(x.size(0), reach, self.in_channels) if state is None else state
        same_phase = before[:, :: self.period]  # window rows, the oldest first
        history = torch.einsum("bwi,oiw->bo", same_phase, self.cell.history_weight[0]) + self.cell.history_bias[0]
        return self.cell.gated(x[None], history[None])[0], torch.cat([before[:, 1:], x[:, None]], 1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, window={self.window}, period={self.period}"
