"""Selective state spaces over tokens: Mamba, in one direction or both."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.scan import selective_scan
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int


class MambaState(NamedTuple):
    """What a causal mixer of this kind knows of the tokens before."""

    recent: Tensor
    memory: Tensor


class SelectiveSSM(TokenMixer):
    r"""The block of `"Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
    <https://arxiv.org/abs/2312.00752>`_.

    .. math:: [u \| z] = x W_{in}, \quad u \leftarrow \mathrm{SiLU}(\mathrm{conv}(u)), \quad [r \| B \| C] = u W_x,
              \quad \Delta = \mathrm{softplus}(r W_\Delta + b_\Delta), \quad
              y = (\mathrm{scan}(u, \Delta, -e^{A}, B, C, D) \odot \mathrm{SiLU}(z)) W_{out}

    with a causal depthwise convolution and :func:`graphkit.ops.selective_scan`. O(L expand channels d_state).

    Args:
        channels: width of a token.
        d_state: numbers of state for each inner channel.
        d_conv: tokens that the convolution sees, the token itself included.
        expand: inner width as a multiple of ``channels``.
        dt_rank: width between the two maps of the step widths; a sixteenth of ``channels``, rounded up, if None.
        reverse: read each sequence from its end.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number below 1.

    Example:
        >>> SelectiveSSM(8)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        channels: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.d_state, self.d_conv = check_int(d_state, "d_state", 1), check_int(d_conv, "d_conv", 1)
        self.inner = channels * check_int(expand, "expand", 1)
        self.dt_rank = -(-channels // 16) if dt_rank is None else check_int(dt_rank, "dt_rank", 1)
        self.reverse, self.causal = reverse, not reverse
        self.lin_in = nn.Linear(channels, 2 * self.inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(d_conv, self.inner))
        self.conv_bias = nn.Parameter(torch.empty(self.inner))
        self.lin_x = nn.Linear(self.inner, self.dt_rank + 2 * d_state, bias=False)
        self.lin_dt = nn.Linear(self.dt_rank, self.inner)
        self.log_rate = nn.Parameter(torch.empty(self.inner, d_state))
        self.skip = nn.Parameter(torch.empty(self.inner))
        self.lin_out = nn.Linear(self.inner, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew: rates 1 to d_state, step widths log-uniform in [0.001, 0.1]."""
        for part in (self.lin_in, self.lin_x, self.lin_out):
            part.reset_parameters()
        bound = self.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        nn.init.uniform_(self.lin_dt.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        with torch.no_grad():
            width = torch.empty_like(self.lin_dt.bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            # Softplus of the bias is the width.
            self.lin_dt.bias.copy_(width + torch.log(-torch.expm1(-width)))
            rates = torch.arange(1, self.d_state + 1, dtype=self.log_rate.dtype, device=self.log_rate.device)
            self.log_rate.copy_(rates.log().expand_as(self.log_rate))
        nn.init.ones_(self.skip)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        u, z = self.lin_in(tokens.sequence(x)).chunk(2, 1)
        u = F.silu(self._convolved(u, tokens))
        dt, b, c = self._scan_inputs(u)
        y = selective_scan(u, dt, -self.log_rate.exp(), b, c, self.skip, tokens.ptr, self.reverse)
        return tokens.restore(self.lin_out(y * F.silu(z)))

    def mix_last(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        if self.reverse:
            # Read first, the last token hears of itself alone.
            out = self.mix(tokens.last(x), tokens.ends)
        else:
            into, gate = self.lin_in.weight.chunk(2)
            u = F.silu(self._convolved(F.linear(tokens.sequence(x), into), tokens))
            dt, b, c = self._scan_inputs(u)
            y = selective_scan(u, dt, -self.log_rate.exp(), b, c, self.skip, tokens.ptr)
            out = self.lin_out(tokens.last(tokens.restore(y)) * F.silu(F.linear(tokens.last(x), gate)))
        return out.masked_fill((tokens.length == 0)[:, None], 0)

    def _convolved(self, u: Tensor, tokens: TokenLayout) -> Tensor:
        """Each channel's weighted sum over the last ``d_conv`` tokens of its graph, in the direction of reading."""
        out = torch.addcmul(self.conv_bias, u, self.conv_weight[-1])
        place = torch.arange(u.size(0), device=u.device)
        owner = tokens.batch  # of the rows in reading order too: graphs stay in place
        for lag in range(1, min(self.d_conv, tokens.max_length)):
            source = place + lag if self.reverse else place - lag
            inside = source < tokens.ptr[owner + 1] if self.reverse else source >= tokens.ptr[owner]
            moved = u.roll(-lag if self.reverse else lag, 0).masked_fill(~inside[:, None], 0)
            out = torch.addcmul(out, moved, self.conv_weight[-1 - lag])
        return out

    def _scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r, b, c = self.lin_x(u).split([self.dt_rank, self.d_state, self.d_state], 1)
        return F.softplus(self.lin_dt(r)), b, c

    def step(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        if self.reverse:
            raise ValueError("a mixer that reads from the end cannot go token by token")
        self.check_step(x, None if state is None else state.recent.size(0))
        u, z = self.lin_in(x).chunk(2, 1)
        recent = u.new_zeros(x.size(0), self.d_conv, self.inner) if state is None else state.recent
        recent = torch.cat([recent[:, 1:], u[:, None]], 1)
        u = F.silu((recent * self.conv_weight).sum(1) + self.conv_bias)
        dt, b, c = self._scan_inputs(u)
        memory = u.new_zeros(x.size(0), self.inner, self.d_state) if state is None else state.memory
        decay = torch.exp(dt[:, :, None] * -self.log_rate.exp())
        memory = decay * memory + (dt * u)[:, :, None] * b[:, None]
        y = torch.einsum("ben,bn->be", memory, c) + self.skip * u
        return self.lin_out(y * F.silu(z)), MambaState(recent, memory)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, d_state={self.d_state}, d_conv={self.d_conv}, reverse={self.reverse}"


class BiMamba(TokenMixer):
    r"""Two :class:`SelectiveSSM`, one in each direction, with weights of their own, and their sum: the token mixer of
    `"Graph Mamba: Towards Learning on Graphs with State Space Models" <https://arxiv.org/abs/2402.08678>`_.

    Args:
        channels: width of a token.
        d_state: numbers of state for each inner channel.
        d_conv: tokens that the convolutions see.
        expand: inner width as a multiple of ``channels``.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number below 1.

    Example:
        >>> BiMamba(8)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(self, channels: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.ahead = SelectiveSSM(channels, d_state, d_conv, expand)
        self.back = SelectiveSSM(channels, d_state, d_conv, expand, reverse=True)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return self.ahead.mix(x, tokens) + self.back.mix(x, tokens)

    def mix_last(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return self.ahead.mix_last(x, tokens) + self.back.mix_last(x, tokens)

    def extra_repr(self) -> str:
        return str(self.in_channels)
