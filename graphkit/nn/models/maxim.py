"""Image restoration by gated MLPs: a U-shaped network and a plain stack of the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.maxim import (
    CrossGating,
    MultiAxisGatedMLP,
    gelu,
    initialize,
    initialize_lecun,
    layer_norm,
)
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_like

BLOCKS = ("both", "mlp", "conv")


def _convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of images whose channels are last, as all others here."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _resized(x: Tensor, factor: float) -> Tensor:
    """Images with channels last, bilinear, smoothed where they shrink."""
    if factor == 1:
        return x
    out = F.interpolate(
        x.permute(0, 3, 1, 2), scale_factor=factor, mode="bilinear", align_corners=False, antialias=factor < 1
    )
    return out.permute(0, 2, 3, 1)


class _ChannelAttention(nn.Module):
    """Factors of the channels, of their means over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.lin_in, self.lin_out = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        return x * self.lin_out(F.relu(self.lin_in(mean))).sigmoid()


class ChannelAttentionConv(nn.Module):
    r"""Two convolutions with factors of the channels and a residual connection, from `"Image Super-Resolution Using
    Very Deep Residual Channel Attention Networks" <https://arxiv.org/abs/1807.02758>`_, as MAXIM has it.

    .. math:: x + a(h)\, h, \qquad h = \mathrm{Conv}(\mathrm{LeakyReLU}(\mathrm{Conv}(\mathrm{Norm}(x))))

    Args:
        channels: width C of a pixel.

    Shapes:
        - **input, output:** ``[B, H, W, C]``

    Example:
        >>> ChannelAttentionConv(8)(torch.rand(1, 5, 5, 8)).shape
        torch.Size([1, 5, 5, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = layer_norm(check_int(channels, "channels", 1))
        self.conv_in, self.conv_out = _conv3(channels, channels), _conv3(channels, channels)
        self.attention = _ChannelAttention(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        _reset(self)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(_convolved(self.conv_in, self.norm(x)), 0.2)
        return x + self.attention(_convolved(self.conv_out, h))


class _ChannelAttentionMLP(nn.Module):
    """The same with maps of each pixel in place of convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = layer_norm(channels)
        self.lin_in, self.lin_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.attention = _ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.lin_out(gelu(self.lin_in(self.norm(x)))))


def _reset(module: nn.Module) -> None:
    """The weights that the authors' code starts from."""
    for part in module.children():
        if isinstance(part, MultiAxisGatedMLP | CrossGating | nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            initialize_lecun(part)
        else:
            _reset(part)
    if isinstance(module, _ChannelAttentionMLP):
        initialize(module.lin_in)
        initialize(module.lin_out)


class _Level(nn.Module):
    """A map to the width of the level, then groups of mixing and convolution, with a residual connection over all."""

    def __init__(
        self, in_channels: int, channels: int, groups: int, block: int, grid: int, pixelwise: bool = False
    ) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, channels)
        self.mixers = nn.ModuleList(MultiAxisGatedMLP(channels, block, grid) for _ in range(groups))
        kind = _ChannelAttentionMLP if pixelwise else ChannelAttentionConv
        self.attentions = nn.ModuleList(kind(channels) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        x = h = self.lin(x)
        for mixer, attention in zip(self.mixers, self.attentions, strict=True):
            h = attention(mixer.mix_images(h))  # type: ignore[operator]
        return x + h


class _Gated(nn.Module):
    """Lower-resolution features are brought up and gate the features of a level."""

    def __init__(self, in_channels: int, y_channels: int, channels: int, block: int, grid: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(y_channels, channels, 2, stride=2)
        self.gating = CrossGating(channels, block, grid, in_channels)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.gating.mix_images(x, _convolved(self.up, y))


class _Resized(nn.Module):
    """Features of all levels, each brought to the size and width of one of them, side by side."""

    def __init__(self, widths: Sequence[int], factors: Sequence[float], channels: int) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.lins = nn.ModuleList(nn.Linear(width, channels) for width in widths)

    def forward(self, features: list[Tensor]) -> Tensor:
        resized = (lin(_resized(x, f)) for lin, x, f in zip(self.lins, features, self.factors, strict=True))
        return torch.cat([*resized], -1)


class _SupervisedAttention(nn.Module):
    """An image is made of a level's features, and features are gated by the image."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.features = _conv3(channels, channels)
        self.image, self.gate = _conv3(channels, out_channels), _conv3(out_channels, channels)

    def forward(self, x: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        out = _convolved(self.image, x)
        out = out if image is None else out + image
        return x + _convolved(self.features, x) * _convolved(self.gate, out).sigmoid(), out


class _Stage(nn.Module):
    """A U-shaped network from the images at some scales to the restored images at these scales."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        groups: int,
        bottlenecks: int,
        block: Sequence[int],
        grid: Sequence[int],
        scales: int,
        out_channels: int,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__()
        depth, sizes = len(widths), list(zip(block, grid, strict=True))
        levels = range(depth)
        self.scales, self.adds_input, self.last = scales, out_channels == in_channels, last
        self.stems = nn.ModuleList(_conv3(in_channels, widths[i]) for i in range(scales))
        earlier = range(0 if first else depth)
        self.stem_gates = nn.ModuleList(CrossGating(widths[i], *sizes[i]) for i in earlier[:scales])
        self.encoder_gates = nn.ModuleList(CrossGating(widths[i], *sizes[i]) for i in earlier)
        # At each supervised scale what comes from above and the features of the image there, side by side.
        above = [widths[0], *widths[:-1]]
        self.encoders = nn.ModuleList(
            _Level(above[i] + (widths[i] if i < scales else 0), widths[i], groups, *sizes[i]) for i in levels
        )
        self.downs = nn.ModuleList(nn.Conv2d(w, w, 4, stride=2, padding=1) for w in widths)
        self.bottlenecks = nn.ModuleList(
            _Level(widths[-1], widths[-1], groups, *sizes[-1], pixelwise=True) for _ in range(bottlenecks)
        )
        # From here on the deepest level comes first.
        self.joined = nn.ModuleList(
            _Resized(widths, [2.0 ** (j - i) for j in levels], widths[i]) for i in reversed(levels)
        )
        below = [*widths[1:], widths[-1]]
        self.skips = nn.ModuleList(_Gated(depth * widths[i], below[i], widths[i], *sizes[i]) for i in reversed(levels))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below[i], widths[i], 2, stride=2) for i in reversed(levels))
        self.rejoined = nn.ModuleList(
            _Resized(widths[::-1], [2.0 ** (j - i) for j in reversed(levels)], widths[i]) for i in reversed(levels)
        )
        self.decoders = nn.ModuleList(
            _Level((depth + 1) * widths[i], widths[i], groups, *sizes[i]) for i in reversed(levels)
        )
        heads = (_conv3(w, out_channels) if last else _SupervisedAttention(w, out_channels) for w in widths[:scales])
        self.heads = nn.ModuleList([*heads][::-1])

    def forward(
        self, images: list[Tensor], attended: list[Tensor], encoded: list[Tensor], decoded: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Restored images, attended, encoded and decoded features, of the finest level first."""
        stems = [_convolved(conv, image) for conv, image in zip(self.stems, images, strict=True)]
        if attended:
            gated = zip(self.stem_gates, stems, attended, strict=True)
            stems = [gate.mix_images(x, y)[0] for gate, x, y in gated]  # type: ignore[operator]
        x, encodings = stems[0], []
        for i, (encoder, down) in enumerate(zip(self.encoders, self.downs, strict=True)):
            x = encoder(torch.cat([x, stems[i]], -1) if i < self.scales else x)
            if encoded:
                x, _ = self.encoder_gates[i].mix_images(x, encoded[i] + decoded[i])  # type: ignore[operator]
            encodings.append(x)
            x = _convolved(down, x)
        for level in self.bottlenecks:
            x = level(x)
        seen, skips = x, []
        for join, gate in zip(self.joined, self.skips, strict=True):
            skip, seen = gate(join(encodings), seen)
            skips.append(skip)
        decodings, outputs, attentions = [], [], []
        depth = len(self.encoders)
        for i, (up, join, decoder) in enumerate(zip(self.ups, self.rejoined, self.decoders, strict=True)):
            x = decoder(torch.cat([_convolved(up, x), join(skips)], -1))
            decodings.append(x)
            scale = depth - 1 - i
            if scale < self.scales:
                head, image = self.heads[self.scales - 1 - scale], images[scale] if self.adds_input else None
                if self.last:
                    out = _convolved(head, x)
                    outputs.append(out if image is None else out + image)
                else:
                    attention, out = head(x, image)
                    attentions.append(attention)
                    outputs.append(out)
        return outputs[::-1], attentions[::-1], encodings, decodings[::-1]


class MAXIM(nn.Module):
    r"""The network of `"MAXIM: Multi-Axis MLP for Image Processing" <https://arxiv.org/abs/2201.02973>`_: images to
    images of the same size.

    A U-Net whose levels are groups of a :class:`~graphkit.nn.MultiAxisGatedMLP` and a
    :class:`~graphkit.nn.ChannelAttentionConv`; features of all levels go to each level of the way back, gated by
    what came from below (:class:`~graphkit.nn.CrossGating`). Several of them in a row pass images and features on.
    Outputs are added to the input, so the network learns what to change. Weights belong to places in windows, not in
    images, so that one network takes images of any size whose sides are multiples of :attr:`multiple`.
    O(H W) time and memory for one setting.

    Args:
        in_channels: channels of an image.
        channels: width of the finest level; it doubles with each level below.
        depth: number of levels, each of half the size of the one above.
        stages: networks in a row.
        groups: blocks of a level.
        bottlenecks: levels at the bottom.
        block, grid: block size and grid size (see the mixer) of each level; the last one is also that of the bottom.
            One number serves all.
        scales: finest levels that take a small image in and give one out; the others work on features alone.
        out_channels: channels of the output; ``in_channels`` if None. Others are not added to the input.

    Shapes:
        - **input:** images ``[B, in_channels, H, W]``
        - **output:** ``[B, out_channels, H, W]``; in training with several stages or scales a tuple of all outputs,
          that of the last stage and the full size first

    Raises:
        ValueError: a number out of range, not one block and grid size a level; images whose sides are no multiples.

    Example:
        >>> MAXIM(1, channels=8, depth=1, groups=1, bottlenecks=1, block=4, grid=4)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 32,
        depth: int = 3,
        stages: int = 1,
        groups: int = 2,
        bottlenecks: int = 2,
        block: int | Sequence[int] = (16, 16, 8),
        grid: int | Sequence[int] = (16, 16, 8),
        scales: int = 1,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.channels, self.depth = check_int(channels, "channels", 1), check_int(depth, "depth", 1)
        check_int(stages, "stages", 1)
        check_int(groups, "groups", 1)
        check_int(bottlenecks, "bottlenecks", 1)
        self.scales = check_int(scales, "scales", 1, depth)
        self.out_channels = in_channels if out_channels is None else check_int(out_channels, "out_channels", 1)
        self.block, self.grid = _each(block, "block", depth), _each(grid, "grid", depth)
        widths = [channels * 2**i for i in range(depth)]
        self.stages = nn.ModuleList(
            _Stage(
                in_channels,
                widths,
                groups,
                bottlenecks,
                self.block,
                self.grid,
                scales,
                self.out_channels,
                i == 0,
                i == stages - 1,
            )
            for i in range(stages)
        )
        # Sides are halved once a level, and the bottom has the windows of the last level.
        sizes = [(b, g, 2**i) for i, (b, g) in enumerate(zip(self.block, self.grid, strict=True))]
        sizes.append((self.block[-1], self.grid[-1], 2**depth))
        self.multiple = lcm(*(lcm(b, g) * scale for b, g, scale in sizes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        _reset(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        _check_images(images, self.in_channels, next(self.parameters()))
        if images.size(2) % self.multiple or images.size(3) % self.multiple:
            raise ValueError(
                f"images must have sides that are multiples of {self.multiple} for these block and grid sizes "
                f"(got {images.size(2)} x {images.size(3)}); pad them"
            )
        image = images.permute(0, 2, 3, 1)
        # The nearest pixel to the middle of each square; of equally near ones that below and to the right, as in JAX.
        pyramid = [image[:, 2**i // 2 :: 2**i, 2**i // 2 :: 2**i] for i in range(self.scales)]
        outputs: list[Tensor] = []
        attended: list[Tensor] = []
        encoded: list[Tensor] = []
        decoded: list[Tensor] = []
        for stage in self.stages:
            found, attended, encoded, decoded = stage(pyramid, attended, encoded, decoded)
            outputs = [*found, *outputs]
        pictures = tuple(out.permute(0, 3, 1, 2) for out in outputs)
        return pictures if self.training and len(pictures) > 1 else pictures[0]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.channels}, depth={self.depth}, "
            f"stages={len(self.stages)}, block={self.block}, grid={self.grid})"
        )


def _check_images(images: Tensor, channels: int, weight: Tensor) -> None:
    """Images ``[B, channels, H, W]`` with at least a pixel each."""
    if check_like(images, weight, "images").dim() != 4 or images.size(1) != channels or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape [B, {channels}, H, W], H and W > 0 (got {list(images.shape)})")


class RestorationStack(nn.Module):
    r"""The blocks of MAXIM (`"MAXIM: Multi-Axis MLP for Image Processing" <https://arxiv.org/abs/2201.02973>`_) one
    after the other, without a change of size: for small images.

    .. math:: x + \mathrm{Conv}(\mathrm{blocks}(\mathrm{Conv}(x)))

    Args:
        in_channels: channels of an image.
        channels: width of a pixel within.
        num_layers: number of blocks.
        block, grid: block size and grid size of :class:`~graphkit.nn.MultiAxisGatedMLP`.
        blocks: what a block is: ``"both"`` (the mixer, then :class:`ChannelAttentionConv`), ``"mlp"`` (the mixer) or
            ``"conv"`` (the convolutions).

    Shapes:
        - **input, output:** ``[B, in_channels, H, W]``, sides multiples of both sizes

    Raises:
        ValueError: a number out of range; images of another shape.

    Example:
        >>> RestorationStack(1, 8, num_layers=1, block=4)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_layers: int = 2,
        block: int = 4,
        grid: int | None = None,
        blocks: str = "both",
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = check_int(in_channels, "in_channels", 1), check_int(channels, "channels", 1)
        check_int(num_layers, "num_layers", 1)
        self.blocks = check_choice(blocks, "blocks", BLOCKS)
        grid = block if grid is None else grid
        mixers, convs = blocks != "conv", blocks != "mlp"
        self.multiple = lcm(block, grid) if mixers else 1
        self.stem, self.head = _conv3(in_channels, channels), _conv3(channels, in_channels)
        self.mixers = nn.ModuleList(MultiAxisGatedMLP(channels, block, grid) for _ in range(num_layers * mixers))
        self.convs = nn.ModuleList(ChannelAttentionConv(channels) for _ in range(num_layers * convs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        _reset(self)

    def forward(self, images: Tensor) -> Tensor:
        _check_images(images, self.in_channels, self.stem.weight)
        h = _convolved(self.stem, images.permute(0, 2, 3, 1))
        for mixer, conv in zip_longest(self.mixers, self.convs):
            h = h if mixer is None else mixer.mix_images(h)  # type: ignore[operator]
            h = h if conv is None else conv(h)
        return images + self.head(h.permute(0, 3, 1, 2))

    def __repr__(self) -> str:
        layers = max(len(self.mixers), len(self.convs))
        return f"{type(self).__name__}({self.in_channels}, {self.channels}, {layers} x {self.blocks})"


def grid_images(tokens: TokenLayout, x: Tensor) -> Tensor:
    """``[N, C]`` to images ``[B, C, H, W]``, where all graphs fill a grid of one size.

    Raises:
        ValueError: no places, grids of different sizes, tokens missing.
    """
    if not tokens.num_tokens:
        raise ValueError("graphs must hold tokens to be images (got none)")
    images = tokens.to_canvas(x).permute(0, 3, 1, 2)
    cells = images.size(0) * images.size(2) * images.size(3)
    if cells != tokens.num_tokens:
        raise ValueError(
            f"all graphs must fill a grid of one size to be images: the smallest one that holds all has "
            f"{images.size(2)} x {images.size(3)} places, {cells} in all (got {tokens.num_tokens} tokens)"
        )
    return images


class OnGrids(nn.Module):
    """A network of images as a model of token graphs that fill a grid: an image is made of each graph's tokens, and
    tokens of what comes out.

    Images whose sides are no multiples of ``network.multiple`` (1 without it) are reflected at their borders, and cut
    to size again.

    Args:
        network: images ``[B, C, H, W]`` to images of that size; in training possibly a tuple of them, of several sizes,
            the one of full size first.

    Shapes:
        - **input:** ``x`` ``[N, C]``, ``tokens`` with ``pos`` and ``grid_size``, see
          :class:`~graphkit.nn.TokenMixer`
        - **output:** ``[N, C']``

    Raises:
        ValueError: in a call, grids of different sizes or with tokens missing.

    Example:
        >>> from graphkit.transforms import ImageTokens
        >>> from torch_geometric.data import Data
        >>> tokens = ImageTokens()(Data(image=torch.rand(1, 7, 5)))
        >>> OnGrids(RestorationStack(1, 4, block=4))(tokens.x, tokens).shape
        torch.Size([35, 1])
    """

    takes_tokens = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        out = self.images(grid_images(layout, x))
        out = out[0] if isinstance(out, tuple) else out
        return layout.from_canvas(out.permute(0, 2, 3, 1))

    def images(self, images: Tensor) -> Any:
        """What the network makes of images ``[B, C, H, W]`` of any size."""
        height, width = images.shape[2:]
        multiple = getattr(self.network, "multiple", 1)
        down, right = -height % multiple, -width % multiple
        if not down and not right:
            return self.network(images)
        top, left = down // 2, right // 2
        out = self.network(_mirrored(_mirrored(images, top, down - top, 2), left, right - left, 3))
        first = out[0] if isinstance(out, tuple) else out
        return first[:, :, top : top + height, left : left + width]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.network!r})"


def _mirrored(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Rows (or columns) added on both sides, in the order of a mirror at each border, as often as it takes."""
    size = x.size(dim)
    place = torch.arange(-before, size + after, device=x.device) % (2 * size)
    return x.index_select(dim, torch.minimum(place, 2 * size - 1 - place))


def _each(value: int | Sequence[int], name: str, depth: int) -> tuple[int, ...]:
    sizes = (value,) * depth if isinstance(value, int) else tuple(value)
    if len(sizes) != depth:
        raise ValueError(f"{name} must be a number or one for each of {depth} levels (got {value})")
    return tuple(check_int(size, name, 1) for size in sizes)
