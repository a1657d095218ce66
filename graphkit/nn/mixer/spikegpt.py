"""The blocks of SpikeGPT: RWKV's time mixing and channel mixing, whose outputs pass through spiking neurons."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.nn.spiking.lif import LIF
from graphkit.ops.tokens import TokenLayout
from graphkit.ops.wkv import empty_state, wkv_scan, wkv_step
from graphkit.utils.checks import check_int


def _depth(layer: int, num_layers: int) -> tuple[float, float]:
    """How deep a layer lies, from 0 to 1, and the share of layers from it on."""
    check_int(num_layers, "num_layers", 1)
    check_int(layer, "layer", 0, num_layers - 1)
    return layer / max(num_layers - 1, 1), 1 - layer / num_layers


def _orthogonal(linear: nn.Linear) -> None:
    nn.init.orthogonal_(linear.weight, gain=max(linear.out_features / linear.in_features, 1) ** 0.5)


class TimeMixState(NamedTuple):
    """What time mixing knows of the tokens before."""

    last: Tensor
    sums: Tensor


class RWKVTimeMix(TokenMixer):
    r"""The time mixing of `"RWKV: Reinventing RNNs for the Transformer Era" <https://arxiv.org/abs/2305.13048>`_, as
    SpikeGPT has it: with :math:`x'` the token before (0 for the first),

    .. math:: k = (\mu_k x + (1 - \mu_k) x') W_k, \text{ v and r likewise}, \qquad
              y = (\sigma(r) \odot \mathrm{WKV}(k, v)) W_o

    and :func:`graphkit.ops.wkv_scan`. O(L channels²) for the maps and O(L channels) for the recurrence; the state is
    four numbers a channel. At the start its output is 0.

    Args:
        channels: width of a token.
        layer, num_layers: which of how many layers it is; the deeper, the longer the memories at the start.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range.

    Example:
        >>> RWKVTimeMix(8)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    causal = True

    def __init__(self, channels: int, layer: int = 0, num_layers: int = 1) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        _depth(layer, num_layers)
        self.layer, self.num_layers = layer, num_layers
        self.lin_k, self.lin_v, self.lin_r, self.lin_out = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.empty(channels)) for _ in range(3))
        self.log_decay = nn.Parameter(torch.empty(channels))
        self.bonus = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decays from fast to slow over the channels, fewer of the token before in deep layers, zero output."""
        depth, above = _depth(self.layer, self.num_layers)
        place = torch.arange(self.in_channels, dtype=self.bonus.dtype, device=self.bonus.device)
        self.log_decay.copy_(-5 + 8 * (place / max(self.in_channels - 1, 1)) ** (0.7 + 1.3 * depth))
        self.bonus.copy_(torch.tensor(0.3).log() + 0.5 * ((place + 1) % 3 - 1))
        share = place / self.in_channels
        self.mix_k.copy_(share**above)
        self.mix_v.copy_(share**above + 0.3 * depth)
        self.mix_r.copy_(share ** (above / 2))
        _orthogonal(self.lin_v)
        for part in (self.lin_k, self.lin_r, self.lin_out):
            nn.init.zeros_(part.weight)

    def _parts(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, r = (torch.lerp(before, x, mix) for mix in (self.mix_k, self.mix_v, self.mix_r))
        return self.lin_k(k), self.lin_v(v), torch.sigmoid(self.lin_r(r))

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        x = tokens.sequence(x)
        k, v, r = self._parts(x, tokens.previous(x))
        out, _ = wkv_scan(k, v, self.log_decay.exp(), self.bonus, tokens.ptr)
        return tokens.restore(self.lin_out(r * out))

    def step(self, x: Tensor, state: TimeMixState | None = None) -> tuple[Tensor, TimeMixState]:
        self.check_step(x, None if state is None else state.last.size(0))
        if state is None:
            state = TimeMixState(torch.zeros_like(x), empty_state(x.size(0), x))
        k, v, r = self._parts(x, state.last)
        out, sums = wkv_step(k, v, self.log_decay.exp(), self.bonus, state.sums)
        return self.lin_out(r * out), TimeMixState(x, sums)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, layer={self.layer} of {self.num_layers}"


class RWKVChannelMix(TokenMixer):
    r"""The channel mixing of RWKV, the feed-forward layer that sees the token before, :math:`x'`:

    .. math:: y = \sigma(m_r W_r) \odot \mathrm{ReLU}(m_k W_k)^2 W_v, \qquad m = \mu x + (1 - \mu) x'

    O(L channels hidden_channels). At the start its output is 0.

    Args:
        channels: width of a token.
        hidden_channels: width between; four times ``channels`` if None.
        layer, num_layers: which of how many layers it is.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range.

    Example:
        >>> RWKVChannelMix(8)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    causal = True

    def __init__(self, channels: int, hidden_channels: int | None = None, layer: int = 0, num_layers: int = 1) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        hidden = 4 * channels if hidden_channels is None else check_int(hidden_channels, "hidden_channels", 1)
        _depth(layer, num_layers)
        self.layer, self.num_layers = layer, num_layers
        self.lin_k = nn.Linear(channels, hidden, bias=False)
        self.lin_v = nn.Linear(hidden, channels, bias=False)
        self.lin_r = nn.Linear(channels, channels, bias=False)
        self.mix_k, self.mix_r = (nn.Parameter(torch.empty(channels)) for _ in range(2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Less of the token before in deep layers, zero output."""
        _, above = _depth(self.layer, self.num_layers)
        place = torch.arange(self.in_channels, dtype=self.mix_k.dtype, device=self.mix_k.device)
        for mix in (self.mix_k, self.mix_r):
            mix.copy_((place / self.in_channels) ** above)
        _orthogonal(self.lin_k)
        nn.init.zeros_(self.lin_v.weight)
        nn.init.zeros_(self.lin_r.weight)

    def _mixed(self, x: Tensor, before: Tensor) -> Tensor:
        hidden = self.lin_k(torch.lerp(before, x, self.mix_k)).relu().square()
        return torch.sigmoid(self.lin_r(torch.lerp(before, x, self.mix_r))) * self.lin_v(hidden)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        x = tokens.sequence(x)
        return tokens.restore(self._mixed(x, tokens.previous(x)))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check_step(x, None if state is None else state.size(0))
        return self._mixed(x, torch.zeros_like(x) if state is None else state), x

    def extra_repr(self) -> str:
        return f"{self.in_channels}, layer={self.layer} of {self.num_layers}"


class SpikeGPTState(NamedTuple):
    """What a block knows of the tokens before: of both mixings, and the membranes after them."""

    time: TimeMixState
    channel: Tensor
    time_membrane: Tensor | None
    channel_membrane: Tensor | None


class SpikeGPTBlock(TokenMixer):
    r"""What a block of `"SpikeGPT: Generative Pre-trained Language Model with Spiking Neural Networks"
    <https://arxiv.org/abs/2302.13939>`_ adds to the tokens: spikes of two layers of neurons, whose time are the tokens,

    .. math:: s_1 = \mathrm{LIF}(\mathrm{TimeMix}(\mathrm{Norm}(x))), \qquad
              s_2 = \mathrm{LIF}(\mathrm{ChannelMix}(\mathrm{Norm}(x + s_1))), \qquad y = s_1 + s_2

    The output is 0, 1 or 2. What the linear maps read is normalised and real, so that spikes spare nothing there:
    :meth:`SpikeGPT.synaptic_operations <graphkit.nn.SpikeGPT.synaptic_operations>` counts as the paper does. O(L
    channels²).

    Args:
        channels: width of a token.
        layer, num_layers: which of how many blocks it is.
        spiking: with neurons; without them it is a block of RWKV.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range.

    Example:
        >>> SpikeGPTBlock(8)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    causal = True

    def __init__(self, channels: int, layer: int = 0, num_layers: int = 1, spiking: bool = True) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.spiking = spiking
        self.time_norm, self.channel_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.time_mix = RWKVTimeMix(channels, layer, num_layers)
        self.channel_mix = RWKVChannelMix(channels, layer=layer, num_layers=num_layers)
        self.time_neurons = LIF(alpha=2.0) if spiking else None
        self.channel_neurons = LIF(alpha=2.0) if spiking else None

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        one = self.time_mix.mix(self.time_norm(x), tokens)
        if self.time_neurons is not None:
            one = self.time_neurons(one, tokens)
        two = self.channel_mix.mix(self.channel_norm(x + one), tokens)
        if self.channel_neurons is not None:
            two = self.channel_neurons(two, tokens)
        return one + two

    def step(self, x: Tensor, state: SpikeGPTState | None = None) -> tuple[Tensor, SpikeGPTState]:
        self.check_step(x)
        time, channel, first, second = (None, None, None, None) if state is None else state
        one, time = self.time_mix.step(self.time_norm(x), time)
        if self.time_neurons is not None:
            one, first = self.time_neurons.step(one, first)
        two, channel = self.channel_mix.step(self.channel_norm(x + one), channel)
        if self.channel_neurons is not None:
            two, second = self.channel_neurons.step(two, second)
        return one + two, SpikeGPTState(time, channel, first, second)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, spiking={self.spiking}"
