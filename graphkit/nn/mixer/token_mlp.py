"""Mixers made of weights for each pair of places: MLP-Mixer and NiNformer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int, check_probabilities


class _MLP(nn.Module):
    """Two linear maps with GELU between them and dropout after both."""

    def __init__(self, channels: int, hidden_channels: int, dropout: float) -> None:
        super().__init__()
        self.lin_in, self.lin_out = nn.Linear(channels, hidden_channels), nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        self.lin_in.reset_parameters()
        self.lin_out.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin_out(self.dropout(F.gelu(self.lin_in(x)))))


class MixerBlock(TokenMixer):
    r"""A block of `"MLP-Mixer: An all-MLP Architecture for Vision" <https://arxiv.org/abs/2105.01601>`_: an MLP over
    the places, then one over the channels, both with a residual connection.

    .. math:: m = z + \mathrm{MLP}_{tokens}(\mathrm{Norm}(z)), \qquad m + \mathrm{MLP}_{channels}(\mathrm{Norm}(m))

    The weights belong to places, so graphs have at most ``num_tokens`` tokens; missing ones count as zeros. O(L F D).

    Args:
        channels: width D of a token.
        num_tokens: most tokens of a graph.
        hidden_channels: width F of both MLPs; twice ``channels`` if None.
        dropout: dropout within the MLPs.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range; in a call, a graph with more tokens.

    Example:
        >>> import torch
        >>> MixerBlock(8, num_tokens=4)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, channels: int, num_tokens: int, hidden_channels: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.max_length = check_int(num_tokens, "num_tokens", 1)
        self.hidden_channels = 2 * channels if hidden_channels is None else hidden_channels
        check_int(self.hidden_channels, "hidden_channels", 1)
        check_probabilities(dropout=dropout)
        self.token_norm, self.channel_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.token_mlp = _MLP(num_tokens, self.hidden_channels, dropout)
        self.channel_mlp = _MLP(channels, self.hidden_channels, dropout)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        padded = tokens.pad(self.token_norm(x))
        missing = self.max_length - padded.size(1)  # type: ignore[operator]
        places = F.pad(padded, (0, 0, 0, missing)).transpose(1, 2)
        mixed = self.token_mlp(places).transpose(1, 2)[:, : padded.size(1)]
        m = x + tokens.unpad(mixed)
        return m + self.channel_mlp(self.channel_norm(m))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, num_tokens={self.max_length}"


class TokenMixingGate(TokenMixer):
    r"""The mixer of `"NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function"
    <https://arxiv.org/abs/2403.02411>`_: a whole :class:`MixerBlock` makes the factors of a linear map of the tokens.

    .. math:: y = (x W + b) \odot \mathrm{MixerBlock}(x)

    The factors are not bounded, and the output is quadratic in x: give it normalised tokens.

    Args:
        channels: width of a token.
        num_tokens: most tokens of a graph.
        hidden_channels: width of the inner MLPs; twice ``channels`` if None.
        dropout: dropout within the inner MLPs.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range; in a call, a graph with more tokens.

    Example:
        >>> import torch
        >>> TokenMixingGate(8, num_tokens=4)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, channels: int, num_tokens: int, hidden_channels: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gate = MixerBlock(channels, num_tokens, hidden_channels, dropout)
        self.in_channels = self.out_channels = channels
        self.max_length = self.gate.max_length
        self.lin = nn.Linear(channels, channels)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return self.lin(x) * self.gate.mix(x, tokens)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, num_tokens={self.max_length}"


class NiNBlock(TokenMixer):
    r"""A whole block of `"NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function"
    <https://arxiv.org/abs/2403.02411>`_: a :class:`TokenMixingGate` and a feed-forward layer, each with a residual
    connection.

    .. math:: m = x + \mathrm{Gate}(\mathrm{Norm}(x)), \qquad m + \mathrm{MLP}(\mathrm{Norm}(m))

    In the authors' code both norms are one layer with one set of weights, which is the default here; their text reads
    as if they were two. O(L F D).

    Args:
        channels: width D of a token.
        num_tokens: most tokens of a graph.
        hidden_channels: width F of all MLPs; twice ``channels`` if None.
        dropout: dropout within the MLPs.
        share_norm: one norm for both parts.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a number out of range; in a call, a graph with more tokens.

    Example:
        >>> import torch
        >>> NiNBlock(8, num_tokens=4)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        channels: int,
        num_tokens: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        share_norm: bool = True,
    ) -> None:
        super().__init__()
        self.gate = TokenMixingGate(channels, num_tokens, hidden_channels, dropout)
        self.in_channels = self.out_channels = channels
        self.max_length = self.gate.max_length
        self.norm = nn.LayerNorm(channels)
        self.mlp_norm = self.norm if share_norm else nn.LayerNorm(channels)
        self.mlp = _MLP(channels, self.gate.gate.hidden_channels, dropout)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        x = x + self.gate.mix(self.norm(x), tokens)
        return x + self.mlp(self.mlp_norm(x))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, num_tokens={self.max_length}"
