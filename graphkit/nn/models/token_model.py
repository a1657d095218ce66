"""A stack of token mixers with feed-forward layers between them, and heads for nodes, graphs and next tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.dropout import StochasticDepth, drop_rates
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import (
    INDEX_DTYPES,
    check_choice,
    check_device,
    check_int,
    check_probabilities,
    check_range,
    check_rows,
)

HEADS = ("token", "mean", "last")


class SwiGLU(nn.Module):
    r"""The feed-forward layer of `"GLU Variants Improve Transformer" <https://arxiv.org/abs/2002.05202>`_:
    :math:`(\mathrm{SiLU}(x W_1) \odot x W_2) W_3`.

    Args:
        channels: width of a token.
        hidden_channels: width between; two thirds of four times ``channels`` if None, so that it has the parameters of
            a plain layer four times as wide.

    Shapes:
        - **input:** ``[..., channels]``
        - **output:** ``[..., channels]``

    Raises:
        ValueError: a width below 1.

    Example:
        >>> SwiGLU(6)
        SwiGLU(6, hidden_channels=16)
    """

    def __init__(self, channels: int, hidden_channels: int | None = None) -> None:
        super().__init__()
        self.channels = check_int(channels, "channels", 1)
        self.hidden_channels = 8 * channels // 3 if hidden_channels is None else hidden_channels
        check_int(self.hidden_channels, "hidden_channels", 1)
        self.lin_in = nn.Linear(channels, 2 * self.hidden_channels, bias=False)
        self.lin_out = nn.Linear(self.hidden_channels, channels, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.lin_in.reset_parameters()
        self.lin_out.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.lin_in(x).chunk(2, -1)
        return self.lin_out(F.silu(gate) * value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, hidden_channels={self.hidden_channels})"


class TokenModel(nn.Module):
    r"""Tokens through a linear map, then blocks of a mixer and a feed-forward layer, then a head:

    .. math:: x \leftarrow x + \mathrm{Mixer}(\mathrm{Norm}(x)), \qquad
              x \leftarrow x + \mathrm{SwiGLU}(\mathrm{Norm}(x))

    Which mixer is one argument, so that mixers can be compared with all else equal.

    Args:
        in_channels: width of a token's features.
        channels: width within.
        out_channels: width of the output.
        mixer: ``mixer(channels)`` makes the mixer of a block, ``channels`` to ``channels`` wide.
        num_layers: number of blocks.
        head: ``"token"`` (an output a token: classes of nodes, next tokens with a causal mixer), ``"mean"`` (an output
            a graph, from the mean of its tokens) or ``"last"`` (from the last token).
        num_embeddings: tokens are ids below this, and get a learned vector each; ``in_channels`` is not used.
        max_positions: add a learned vector for each place in the order, of so many; 0 adds none.
        feed_forward: with feed-forward layers; without them a block is a mixer alone. ``feed_forward(channels)`` makes
            another layer than :class:`SwiGLU`, ``channels`` to ``channels`` wide.
        dropout: dropout after the first map and in both branches of a block.
        drop_path: probability that a graph skips a branch of the last block; of those before it less, from 0 on.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, or ids ``[N]`` with ``num_embeddings``; ``tokens`` as
          :class:`~graphkit.nn.TokenMixer`
        - **output:** ``[N, out_channels]``, or ``[B, out_channels]`` with heads ``"mean"`` and ``"last"``

    Raises:
        ValueError: a number out of range, a mixer of another width, an id or a place out of range.

    Example:
        >>> import torch
        >>> from graphkit.nn import GatedLinearAttention
        >>> model = TokenModel(3, 16, 2, GatedLinearAttention, head="mean")
        >>> model(torch.randn(5, 3), torch.tensor([0, 2, 5])).shape
        torch.Size([2, 2])
    """

    takes_tokens = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        mixer: Callable[[int], TokenMixer],
        num_layers: int = 2,
        head: str = "token",
        *,
        num_embeddings: int | None = None,
        max_positions: int = 0,
        feed_forward: bool | Callable[[int], nn.Module] = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = check_int(in_channels, "in_channels", 1), check_int(channels, "channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.head = check_choice(head, "head", HEADS)
        check_probabilities(dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.num_embeddings = None if num_embeddings is None else check_int(num_embeddings, "num_embeddings", 1)
        self.embed = (
            nn.Linear(in_channels, channels) if num_embeddings is None else nn.Embedding(num_embeddings, channels)
        )
        self.position = nn.Embedding(max_positions, channels) if check_int(max_positions, "max_positions", 0) else None
        if isinstance(mixer, nn.Module) or not callable(mixer):
            raise TypeError(f"mixer must make a mixer of a width, such as a class or a partial (got {mixer!r})")
        made = [mixer(channels) for _ in range(num_layers)]
        for part in made:
            if not isinstance(part, TokenMixer) or (part.in_channels, part.out_channels) != (channels, channels):
                got = f"{part.in_channels} to {part.out_channels}" if isinstance(part, TokenMixer) else repr(part)
                raise ValueError(f"mixer must make token mixers from {channels} to {channels} channels (got {got})")
        self.mixers = nn.ModuleList(made)
        self.mixer_norms = nn.ModuleList(nn.RMSNorm(channels, eps=1e-6) for _ in range(num_layers))
        layers = num_layers if feed_forward else 0
        make = feed_forward if callable(feed_forward) else SwiGLU
        self.feed_forwards = nn.ModuleList(make(channels) for _ in range(layers))
        self.feed_forward_norms = nn.ModuleList(nn.RMSNorm(channels, eps=1e-6) for _ in range(layers))
        self.drop_paths = nn.ModuleList(StochasticDepth(p) for p in drop_rates(drop_path, num_layers))
        self.norm = nn.RMSNorm(channels, eps=1e-6)
        self.lin_out = nn.Linear(channels, out_channels)

    @property
    def causal(self) -> bool:
        """No token's output depends on tokens read after it (the head aside)."""
        return all(part.causal for part in self.mixers)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        parts = [self.embed, self.position, *self.mixers, *self.mixer_norms, *self.feed_forwards]
        for part in [*parts, *self.feed_forward_norms, self.norm, self.lin_out]:
            if part is not None:
                part.reset_parameters()

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        self.check_tokens(x)
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        h = self._embedded(x, layout)
        if self.position is not None:
            if layout.max_length > self.position.num_embeddings:
                raise ValueError(
                    f"a graph has {layout.max_length} tokens, but max_positions={self.position.num_embeddings}; "
                    "make it larger or cut graphs into pieces"
                )
            h = h + self.position(layout.rank)
        h = self.dropout(h)
        for layer, (norm, mixer) in enumerate(zip(self.mixer_norms, self.mixers, strict=True)):
            drop_path = self.drop_paths[layer]
            h = h + drop_path(self.dropout(mixer(norm(h), layout)), layout)
            if self.feed_forwards:
                h = h + drop_path(self.dropout(self.feed_forwards[layer](self.feed_forward_norms[layer](h))), layout)
        h = self.norm(h)
        if self.head == "mean":
            h = layout.mean(h)
        elif self.head == "last":
            h = layout.last(h)
        return self.lin_out(h)

    def step(self, x: Tensor, state: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """One token of each of B sequences, for causal mixers that can go on from a state: ``[B, out_channels]`` and
        the state after it. Makes text token by token."""
        if self.head != "token" or not self.causal or self.position is not None:
            raise ValueError("step needs causal mixers, head='token' and no positions")
        if state is not None and len(state) != len(self.mixers):
            raise ValueError(f"state must be what step returned, one part for each of {len(self.mixers)} layers")
        self.check_tokens(x)
        h = self._embedded(x, None)
        states = []
        for layer, (norm, mixer) in enumerate(zip(self.mixer_norms, self.mixers, strict=True)):
            out, after = mixer.step(norm(h), None if state is None else state[layer])  # type: ignore[operator]
            states.append(after)
            h = h + out
            if self.feed_forwards:
                h = h + self.feed_forwards[layer](self.feed_forward_norms[layer](h))
        return self.lin_out(self.norm(h)), states

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Go on with texts, token by token with the state of the mixers (:meth:`step`): O(1) a token.

        Args:
            prompt: ``[B, L]`` or ``[L]`` ids, at least one.
            num_tokens: tokens to make.
            temperature: divides the logits; 0 takes the most likely token.
            top_k: draw from that many most likely tokens; from all if None.
            generator: source of random numbers.

        Returns:
            ``[B, num_tokens]`` or ``[num_tokens]`` ids.

        Raises:
            ValueError: a model without ids or whose mixers cannot go token by token, no prompt, a number out of range.
        """
        if self.num_embeddings is None:
            raise ValueError("generate needs tokens that are ids (got num_embeddings=None)")
        if prompt.dim() not in (1, 2) or prompt.size(-1) == 0:
            raise ValueError(f"prompt must hold ids [B, L] or [L], L > 0 (got {list(prompt.shape)})")
        check_int(num_tokens, "num_tokens", 1)
        check_range(temperature, "temperature", 0)
        if top_k is not None:
            check_int(top_k, "top_k", 1, self.out_channels)
        self.eval()
        state = None
        for ids in prompt.view(-1, prompt.size(-1)).unbind(1):
            logit, state = self.step(ids, state)
        made: list[Tensor] = []
        while True:
            if temperature == 0:
                ids = logit.argmax(1)
            else:
                if top_k is not None:
                    least = logit.topk(top_k, 1).values[:, -1:]
                    logit = logit.masked_fill(logit < least, -torch.inf)
                ids = torch.multinomial((logit / temperature).softmax(1), 1, generator=generator).view(-1)
            made.append(ids)
            if len(made) == num_tokens:
                return torch.stack(made, 1).view(*prompt.shape[:-1], num_tokens)
            logit, state = self.step(ids, state)

    def check_tokens(self, x: Tensor) -> None:
        """Raise an error for features of another width or type, or ids out of range."""
        if self.num_embeddings is None:
            check_rows(x, self.in_channels, self.lin_out.weight)
            return
        if not isinstance(x, Tensor) or x.dim() != 1 or x.dtype not in INDEX_DTYPES:
            got = f"{list(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a vector of ids with num_embeddings, int64 or int32 (got {got})")
        check_device(weights=self.lin_out.weight, x=x)
        if x.device.type == "cpu" and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.num_embeddings:
            raise IndexError(f"x holds ids outside [0, {self.num_embeddings}) (got {int(x.min())} to {int(x.max())})")

    def _embedded(self, x: Tensor, layout: TokenLayout | None) -> Tensor:
        """``[N, channels]``; a subclass may read the layout, which is None for one token of each graph."""
        return self.embed(x)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.channels}, {self.out_channels}, "
            f"{self.num_layers} x {type(self.mixers[0]).__name__}, head={self.head!r})"
        )
