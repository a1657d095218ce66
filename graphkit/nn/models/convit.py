"""ConViT: an image model whose first layers start as convolutions and may leave that; with none of them it is ViT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn.dropout import StochasticDepth, drop_rates
from graphkit.nn.mixer.attention import GatedPositionalAttention, SelfAttention
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_range, check_rows

# Heads.
SIZES = {"tiny": 4, "small": 9, "base": 16}


class TransformerBlock(nn.Module):
    r"""A mixer and an MLP, each with a norm before it and a residual connection:

    .. math:: x \leftarrow x + \mathrm{Mixer}(\mathrm{LayerNorm}(x)), \qquad
              x \leftarrow x + \mathrm{GELU}(\mathrm{LayerNorm}(x) W_1) W_2

    Args:
        mixer: the mixer, as wide after as before.
        mlp_ratio: hidden width of the MLP as a multiple of the mixer's.
        drop_path: probability that a graph skips a branch.

    Shapes:
        - **input:** ``[N, channels]`` and the layout
        - **output:** ``[N, channels]``

    Example:
        >>> TransformerBlock(SelfAttention(8, heads=2))(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    takes_tokens = True

    def __init__(self, mixer: TokenMixer, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        channels = mixer.out_channels
        hidden = check_int(int(channels * check_range(mlp_ratio, "mlp_ratio", 0)), "mlp_ratio * channels", 1)
        self.mixer = mixer
        self.mixer_norm, self.mlp_norm = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        x = x + self.drop_path(self.mixer(self.mixer_norm(x), layout), layout)
        return x + self.drop_path(self.mlp(self.mlp_norm(x)), layout)


class ConViT(nn.Module):
    r"""The model of `"ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases"
    <https://arxiv.org/abs/2103.10697>`_: patches through a linear map, learned vectors for places, blocks of
    :class:`GatedPositionalAttention`, then a class token joins and blocks of :class:`SelfAttention` follow, and the
    class token answers. Positional attention never sees the class token, which has no place.

    With ``local_layers=0`` it is the `Vision Transformer <https://arxiv.org/abs/2010.11929>`_. O(L²) in the number of
    patches.

    Args:
        in_channels: width of a patch.
        out_channels: width of the output.
        max_positions: patches of the largest image.
        heads: number of heads; squares of whole numbers, such as 4 and 9, start as full convolutions.
        head_dim: channels a head.
        num_layers: number of blocks.
        local_layers: how many of them, from the first on, attend by places, too.
        locality: as :class:`GatedPositionalAttention`.
        local_init: as :class:`GatedPositionalAttention`.
        head: ``"class"`` (from the class token) or ``"mean"`` (from the mean of the tokens; there is no class token).
        mlp_ratio: hidden width of the MLPs as a multiple of a token's.
        drop_path: probability that an image skips a branch of the last block; of those before it less, from 0 on.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, tokens of :class:`~graphkit.transforms.ImageTokens`
        - **output:** ``[B, out_channels]``

    Raises:
        ValueError: a number out of range, a class token that no block would read; in a call, images of more patches,
            no places.

    Example:
        >>> from graphkit.loader import ImageGraphs
        >>> batch = ImageGraphs(torch.rand(5, 1, 8, 8), patch=2).batch(torch.arange(5))
        >>> ConViT(4, 10, max_positions=16, heads=4, head_dim=4, num_layers=3, local_layers=2)(batch.x, batch).shape
        torch.Size([5, 10])
    """

    takes_tokens = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        max_positions: int,
        heads: int = 4,
        head_dim: int = 48,
        num_layers: int = 12,
        local_layers: int = 10,
        *,
        locality: float = 1.0,
        local_init: bool = True,
        head: str = "class",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, check_int(out_channels, "out_channels", 1)
        self.heads, self.head = check_int(heads, "heads", 1), check_choice(head, "head", ("class", "mean"))
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.local_layers = check_int(local_layers, "local_layers", 0, num_layers)
        if head == "class" and local_layers == num_layers:
            raise ValueError(
                f"local_layers must be below num_layers={num_layers}, for the class token to see the image "
                "(or head='mean')"
            )
        channels = self.channels = heads * check_int(head_dim, "head_dim", 1)
        self.embed = nn.Linear(check_int(in_channels, "in_channels", 1), channels)
        self.position = nn.Embedding(check_int(max_positions, "max_positions", 1), channels)
        self.class_token = nn.Parameter(torch.empty(channels)) if head == "class" else None
        mixers: list[TokenMixer] = [
            GatedPositionalAttention(channels, heads, locality, local_init) for _ in range(local_layers)
        ]
        mixers += [SelfAttention(channels, heads, bias=False) for _ in range(num_layers - local_layers)]
        rates = drop_rates(drop_path, num_layers)
        self.blocks = nn.ModuleList(
            TransformerBlock(mixer, mlp_ratio, rate) for mixer, rate in zip(mixers, rates, strict=True)
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.lin_out = nn.Linear(channels, out_channels)
        self.reset_parameters()

    @classmethod
    def of_size(cls, size: str, in_channels: int, out_channels: int, max_positions: int) -> ConViT:
        """The paper's ``"tiny"``, ``"small"`` or ``"base"`` model.

        Example:
            >>> sum(p.numel() for p in ConViT.of_size("tiny", 3 * 16**2, 1000, (224 // 16) ** 2).parameters())
            5710512
        """
        heads = SIZES[check_choice(size, "size", list(SIZES))]
        return cls(in_channels, out_channels, max_positions, heads, drop_path=0.1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew: truncated normal with standard deviation 0.02, and the mixers' own."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, nn.LayerNorm):
                part.reset_parameters()
        for part in self.modules():
            if isinstance(part, GatedPositionalAttention):
                part.reset_parameters()
        for vector in (self.position.weight, self.class_token):
            if vector is not None:
                nn.init.trunc_normal_(vector, std=0.02)

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        check_rows(x, self.in_channels, self.lin_out.weight)
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        if layout.max_length > self.position.num_embeddings:
            raise ValueError(
                f"an image has {layout.max_length} patches, max_positions={self.position.num_embeddings}; "
                "make it larger"
            )
        h = self.embed(x) + self.position(layout.rank)
        for block in self.blocks[: self.local_layers]:
            h = block(h, layout)
        first = None
        if self.class_token is not None:
            h, layout, first = _with_first(h, layout, self.class_token)
        for block in self.blocks[self.local_layers :]:
            h = block(h, layout)
        return self.lin_out(self.norm(layout.mean(h) if first is None else h.index_select(0, first)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads}, "
            f"channels={self.channels}, layers={self.local_layers} + {self.num_layers - self.local_layers})"
        )


def _with_first(h: Tensor, tokens: TokenLayout, token: Tensor) -> tuple[Tensor, TokenLayout, Tensor]:
    """The tokens with one more before those of each graph, their layout, and where the new ones are ``[B]``."""
    number = torch.arange(tokens.num_graphs + 1, device=h.device)
    ptr = tokens.ptr + number
    first = ptr[:-1]
    place = torch.arange(tokens.num_tokens, device=h.device) + tokens.batch + 1
    rows = h.new_empty(tokens.num_tokens + tokens.num_graphs, h.size(1)).index_copy(0, place, h)
    return rows.index_copy(0, first, token.to(h.dtype).expand(tokens.num_graphs, -1)), TokenLayout(ptr), first
