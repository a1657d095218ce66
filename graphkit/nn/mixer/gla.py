"""Gated linear attention over tokens, in one direction or both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.scan import gla_scan
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_range


class _Parts(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor


class GatedLinearAttention(TokenMixer):
    r"""The mixer of `"Gated Linear Attention Transformers with Hardware-Efficient Training"
    <https://arxiv.org/abs/2312.06635>`_: linear attention whose memory decays by what the tokens say.

    .. math:: S_t = \mathrm{diag}(\alpha_t) S_{t-1} + k_t^\top v_t, \qquad
              y_t = (\mathrm{RMSNorm}(q_t S_t / \sqrt{d_k}) \odot \mathrm{SiLU}(x_t W_r)) W_o, \qquad
              \alpha_t = \sigma(x_t W_1 W_2 + b)^{1/\tau}

    O(L d_k d_v) a head; no positions are read but the order. With ``bidirectional`` a second memory with gates of its
    own reads from the end, and the two are averaged.

    Args:
        channels: width of a token.
        heads: number of heads.
        expand_k: width of all keys as a share of ``channels``.
        expand_v: width of all values as a share of ``channels``.
        gate_rank: width between the two maps of the gates.
        gate_tau: tau; the larger, the slower the memory forgets.
        bidirectional: read in both directions.
        decay: ``"gated"``; to compare with, ``"constant"`` (learned, the same for all tokens) or ``"none"`` (linear
            attention that forgets nothing).
        init: ``"normal"`` (standard deviation 0.02) or ``"xavier_small"`` (Xavier-uniform of gain 2^-2.5).

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: widths that ``heads`` does not divide, an unknown ``init`` or ``decay``, a number out of range.

    Example:
        >>> GatedLinearAttention(8, heads=2)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        gate_tau: float = 16.0,
        bidirectional: bool = False,
        decay: str = "gated",
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.heads, self.bidirectional = check_int(heads, "heads", 1), bidirectional
        check_int(gate_rank, "gate_rank", 1)
        self.gate_tau = check_range(gate_tau, "gate_tau", 0, low_open=True)
        self.decay = check_choice(decay, "decay", ("gated", "constant", "none"))
        self.init = check_choice(init, "init", ("normal", "xavier_small"))
        keys, values = (
            int(channels * check_range(expand, name, 0, low_open=True))
            for name, expand in (("expand_k", expand_k), ("expand_v", expand_v))
        )
        for name, width in (("expand_k", keys), ("expand_v", values)):
            if width < 1 or width % heads:
                raise ValueError(f"channels * {name} must be a multiple of heads={heads} (got {width})")
        self.causal = not bidirectional
        self.lin_q = nn.Linear(channels, keys, bias=False)
        self.lin_k = nn.Linear(channels, keys, bias=False)
        self.lin_v = nn.Linear(channels, values, bias=False)
        gates = keys * (2 if bidirectional else 1)
        if decay == "gated":
            self.lin_gate_down = nn.Linear(channels, gate_rank, bias=False)
            self.lin_gate = nn.Linear(gate_rank, gates)
        self.rate = nn.Parameter(torch.empty(gates)) if decay == "constant" else None
        self._gates = gates
        self.lin_out_gate = nn.Linear(channels, values, bias=False)
        self.norm = nn.RMSNorm(values // heads, eps=1e-5)
        self.lin_out = nn.Linear(values, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; biases are zero."""
        for part in self.children():
            if isinstance(part, nn.Linear):
                if self.init == "normal":
                    nn.init.normal_(part.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(part.weight, gain=2**-2.5)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        if self.rate is not None:
            nn.init.zeros_(self.rate)
        self.norm.reset_parameters()

    def log_decay(self, x: Tensor) -> Tensor:
        """``[N, channels * expand_k]`` logarithms of the decays, of both directions one after the other."""
        if self.decay == "none":
            return x.new_zeros(x.size(0), self._gates)
        gate = self.lin_gate(self.lin_gate_down(x)) if self.rate is None else self.rate.expand(x.size(0), -1)
        return F.logsigmoid(gate) / self.gate_tau

    def _parts(self, x: Tensor) -> _Parts:
        def heads(h: Tensor) -> Tensor:
            return h.view(x.size(0), self.heads, -1)

        return _Parts(heads(self.lin_q(x)), heads(self.lin_k(x)), heads(self.lin_v(x)), self.log_decay(x))

    def _merge(self, out: Tensor, x: Tensor) -> Tensor:
        return self.lin_out(self.norm(out).flatten(1) * F.silu(self.lin_out_gate(x)))

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        x = tokens.sequence(x)
        q, k, v, gate = self._parts(x)
        shape = (x.size(0), self.heads, -1)
        if not self.bidirectional:
            out, _ = gla_scan(q, k, v, gate.view(shape), tokens.ptr)
        else:
            forward, backward = gate.chunk(2, 1)
            out = both_ways(q, k, v, forward.reshape(shape), backward.reshape(shape), tokens.ptr)
        return tokens.restore(self._merge(out, x))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.bidirectional:
            raise ValueError("a bidirectional mixer reads from both ends and cannot go token by token")
        self.check_step(x, None if state is None else state.size(0))
        q, k, v, gate = self._parts(x)
        written = k[..., None] * v[:, :, None]
        state = written if state is None else gate.view_as(k).exp()[..., None] * state + written
        out = torch.einsum("bhk,bhkv->bhv", q, state) * q.size(2) ** -0.5
        return self._merge(out, x), state

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.heads}, bidirectional={self.bidirectional}"


def both_ways(q: Tensor, k: Tensor, v: Tensor, forward: Tensor, backward: Tensor, ptr: Tensor) -> Tensor:
    """The mean of two gated scans, from the first token on and from the last one, with gates of their own.

    On the CPU two scans of the packed tokens, without reversed copies, are faster than one of both together.
    """
    out, _ = gla_scan(q, k, v, forward, ptr)
    return (out + gla_scan(q, k, v, backward, ptr, reverse=True)[0]) / 2
