"""ViG: an image model of bidirectional gated linear attention."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.vig import BiGatedLinearAttention
from graphkit.nn.models.token_model import TokenModel
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int

# Width, heads, depth, stochastic depth, SiLU.
SIZES = {
    "tiny": (192, 3, 12, 0.0, True),
    "small": (384, 6, 12, 0.2, False),
    "base": (768, 12, 12, 0.5, False),
}


class ConvStem(nn.Module):
    r"""Two convolutions that turn pixels into tokens, where a linear map of each patch would not see its neighbours:

    .. math:: \mathrm{Norm}(\mathrm{Conv}_{3, 2}(\mathrm{SiLU}(\mathrm{Norm}(\mathrm{Conv}_{p / 2 + 1, p / 2}(x)))))

    with kernel and stride as indices, zeros beyond the image and LayerNorm over channels. It takes patches as
    :class:`~graphkit.transforms.ImageTokens` cuts them and puts the images together first.

    Args:
        in_channels: width of a patch, colours times ``patch²``.
        channels: width of a token, even.
        patch: pixels a side of a patch, even and at least 4.

    Shapes:
        - **input:** ``[N, in_channels]`` and the layout, with ``pos``
        - **output:** ``[N, channels]``

    Raises:
        ValueError: an odd or small ``patch``, widths that do not fit it.

    Example:
        >>> tokens = TokenLayout(torch.tensor([0, 6]), pos=torch.cartesian_prod(torch.arange(2), torch.arange(3)))
        >>> ConvStem(16, 8, patch=4)(torch.randn(6, 16), tokens).shape
        torch.Size([6, 8])
    """

    takes_tokens = True

    def __init__(self, in_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        if check_int(patch, "patch", 4) % 2:
            raise ValueError(f"patch must be even (got {patch})")
        if in_channels % patch**2 or channels % 2:
            raise ValueError(
                f"in_channels must be a multiple of patch²={patch**2} and channels even "
                f"(got {in_channels} and {channels})"
            )
        self.patch, colors = patch, in_channels // patch**2
        self.first = nn.Conv2d(colors, channels // 2, patch // 2 + 1, stride=patch // 2, padding=1)
        self.second = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.first_norm, self.second_norm = nn.LayerNorm(channels // 2), nn.LayerNorm(channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.first, self.second, self.first_norm, self.second_norm):
            part.reset_parameters()

    def forward(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        p = self.patch
        images = tokens.to_canvas(x.view(x.size(0), -1, p, p))  # [B, rows, columns, colours, p, p]
        images = images.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        h = self.first(images).permute(0, 2, 3, 1)
        h = F.silu(self.first_norm(h)).permute(0, 3, 1, 2)
        return tokens.from_canvas(self.second_norm(self.second(h).permute(0, 2, 3, 1)))


class ViG(TokenModel):
    r"""The model of `"ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention"
    <https://arxiv.org/abs/2405.18425>`_: patches through a :class:`ConvStem`, learned vectors for places, blocks of
    :class:`BiGatedLinearAttention` and SwiGLU, and the mean of the tokens. O(L) in the number of patches.

    Args:
        in_channels: width of a patch, colours times ``patch²``.
        channels: width of a token.
        out_channels: width of the output.
        max_positions: patches of the largest image.
        patch: pixels a side of a patch.
        heads: number of heads.
        num_layers: number of blocks.
        local: as :class:`BiGatedLinearAttention`.
        silu: as there.
        own_gates: as there.
        stem: ``"conv"`` (:class:`ConvStem`) or ``"linear"`` (a linear map of each patch, for patches of any side).
        drop_path: as :class:`TokenModel`.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, tokens of :class:`~graphkit.transforms.ImageTokens`
        - **output:** ``[B, out_channels]``

    Raises:
        ValueError: widths that do not fit, a number out of range.

    Example:
        >>> from graphkit.loader import ImageGraphs
        >>> batch = ImageGraphs(torch.rand(5, 1, 8, 8), patch=4).batch(torch.arange(5))
        >>> ViG(16, 32, 10, max_positions=4, patch=4, heads=2, num_layers=2)(batch.x, batch).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        max_positions: int,
        patch: int,
        heads: int = 3,
        num_layers: int = 12,
        *,
        local: str = "grid",
        silu: bool = False,
        own_gates: bool = True,
        stem: str = "conv",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels,
            channels,
            out_channels,
            partial(BiGatedLinearAttention, heads=heads, local=local, silu=silu, own_gates=own_gates),
            num_layers,
            head="mean",
            max_positions=max_positions,
            drop_path=drop_path,
        )
        if check_choice(stem, "stem", ("conv", "linear")) == "conv":
            self.embed = ConvStem(in_channels, channels, patch)  # type: ignore[assignment]
        self.reset_parameters()

    @classmethod
    def of_size(cls, size: str, in_channels: int, out_channels: int, max_positions: int, patch: int = 16) -> ViG:
        """The paper's ``"tiny"``, ``"small"`` or ``"base"`` model.

        Example:
            >>> sum(p.numel() for p in ViG.of_size("tiny", 3 * 16**2, 1000, (224 // 16) ** 2).parameters())
            5834536
        """
        channels, heads, layers, drop_path, silu = SIZES[check_choice(size, "size", list(SIZES))]
        return cls(
            in_channels, channels, out_channels, max_positions, patch, heads, layers, silu=silu, drop_path=drop_path
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew: normal with standard deviation 0.02, but for the mixers."""
        super().reset_parameters()
        assert self.position is not None
        nn.init.trunc_normal_(self.position.weight, std=0.02)
        for part in [self.embed, *(m for block in self.feed_forwards for m in block.modules()), self.lin_out]:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def _embedded(self, x: Tensor, layout: TokenLayout | None) -> Tensor:
        if not isinstance(self.embed, ConvStem):
            return super()._embedded(x, layout)
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        assert layout is not None
        return self.embed(x, layout)
