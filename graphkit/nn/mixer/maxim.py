"""Gated MLPs along two axes of a grid, near tokens and far ones: the mixing of MAXIM."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_like, check_rows

AXES = ("block", "grid")


class Windows(Protocol):
    """Sets of size x size tokens that exchange features."""

    def split(self, x: Tensor) -> Tensor:
        """``[windows, size², C]``."""

    def join(self, h: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""


class ImageWindows:
    """Windows of images ``[B, H, W, C]``, whose sides are multiples of ``size``.

    Axis ``"block"``: squares of ``size`` by ``size`` neighbouring pixels. Axis ``"grid"``: the pixels at one place of
    each of ``size`` by ``size`` equal cells, H / size and W / size apart.
    """

    def __init__(self, shape: torch.Size, size: int, axis: str) -> None:
        batch, height, width, channels = shape
        if height % size or width % size:
            raise ValueError(
                f"images must have sides that are multiples of {size}, the {axis} size (got {height} x {width}); "
                "pad them"
            )
        rows, columns = height // size, width // size
        if axis == "block":
            self.view, self.order = (batch, rows, size, columns, size, channels), (0, 1, 3, 2, 4, 5)
        else:
            self.view, self.order = (batch, size, rows, size, columns, channels), (0, 2, 4, 1, 3, 5)
        self.back = (0, 1, 3, 2, 4, 5) if axis == "block" else (0, 3, 1, 4, 2, 5)
        self.shape, self.places = shape, size * size

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(self.view).permute(self.order).reshape(-1, self.places, x.size(-1))

    def join(self, h: Tensor) -> Tensor:
        inner = [self.view[i] for i in self.order]
        return h.reshape(inner).permute(self.back).reshape(self.shape)


class TokenWindows:
    """The same windows of token graphs, each of a grid of its own: of any sides, and with tokens missing.

    Sides are rounded up to multiples of ``size``, as if tokens of zeros were there.
    """

    def __init__(self, tokens: TokenLayout, size: int, axis: str) -> None:
        self.slot, self.count = tokens.windows(size, dilated=axis == "grid")
        self.places = size * size

    def split(self, x: Tensor) -> Tensor:
        rows = x.new_zeros(self.count * self.places, x.size(1)).index_copy(0, self.slot, x)
        return rows.view(self.count, self.places, x.size(1))

    def join(self, h: Tensor) -> Tensor:
        return h.reshape(-1, h.size(-1)).index_select(0, self.slot)


def _check_images(x: Tensor, channels: int, weight: Tensor, name: str = "x") -> None:
    if check_like(x, weight, name).dim() != 4 or x.size(3) != channels:
        raise ValueError(f"{name} must be images [B, H, W, {channels}] (got {list(x.shape)})")


def initialize(linear: nn.Module, bias: float = 0.0) -> None:
    """Weights of a normal distribution of deviation 0.02, a constant bias."""
    nn.init.normal_(linear.weight, std=0.02)  # type: ignore[arg-type]
    nn.init.constant_(linear.bias, bias)  # type: ignore[arg-type]


def initialize_lecun(layer: nn.Module) -> None:
    """Weights of a truncated normal distribution of variance 1 / (inputs of an output), no bias."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    inputs = weight[0].numel() if not isinstance(layer, nn.ConvTranspose2d) else weight.size(0)
    # The truncation at two deviations leaves 0.8796 of the deviation.
    deviation = inputs**-0.5 / 0.87962566
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def layer_norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


class PlaceLinear(nn.Linear):
    """A linear map over the places of each window, the same for all channels and windows."""

    def __init__(self, size: int, bias: float = 0.0) -> None:
        self.start = bias
        super().__init__(size * size, size * size)

    def reset_parameters(self) -> None:
        initialize(self, self.start)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:  # type: ignore[override]
        return windows.join(self.weight @ windows.split(x) + self.bias[:, None])


class AxisGatedMLP(TokenMixer):
    r"""A gated MLP among the tokens of each window of a grid, from `"MAXIM: Multi-Axis MLP for Image Processing"
    <https://arxiv.org/abs/2201.02973>`_.

    .. math:: (u, v) = \mathrm{GELU}(\mathrm{Norm}(x) W_1), \qquad
              y = x + \big(u \odot (1 + V\, \mathrm{Norm}(v))\big) W_2

    V mixes the places of a window and is one for all windows, so that grids of any sides go with the same weights.
    Windows are squares of ``size`` by ``size`` neighbouring tokens (``axis="block"``), or the tokens at one place of
    each of ``size`` by ``size`` equal cells of the grid (``axis="grid"``): near and far. Where sides are no multiples
    of ``size``, or tokens are missing, zeros stand in. O(N C (size² + C)).

    Args:
        channels: width C of a token.
        size: side of a block, or number of cells a side.
        axis: ``"block"`` or ``"grid"``.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``; tokens have ``pos`` and ``grid_size``
        - :meth:`mix_images`: ``[B, H, W, channels]``, both sides multiples of ``size``

    Raises:
        ValueError: a number out of range; in a call, no grid, or images of other sides.

    Example:
        >>> mixer = AxisGatedMLP(8, size=2, axis="grid")
        >>> mixer.mix_images(torch.randn(3, 4, 6, 8)).shape
        torch.Size([3, 4, 6, 8])
    """

    position = "grid"

    def __init__(self, channels: int, size: int, axis: str = "block") -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.size, self.axis = check_int(size, "size", 1), check_choice(axis, "axis", AXES)
        self.norm, self.gate_norm = layer_norm(channels), layer_norm(channels)
        self.lin_in, self.lin_out = nn.Linear(channels, 2 * channels), nn.Linear(channels, channels)
        self.gate = PlaceLinear(size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        initialize(self.lin_in)
        initialize(self.lin_out)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return self._mixed(x, TokenWindows(tokens, self.size, self.axis))

    def mix_images(self, x: Tensor) -> Tensor:
        """Mix images ``[B, H, W, channels]``."""
        _check_images(x, self.in_channels, self.lin_in.weight)
        return self._mixed(x, ImageWindows(x.shape, self.size, self.axis))

    def _mixed(self, x: Tensor, windows: Windows) -> Tensor:
        u, v = gelu(self.lin_in(self.norm(x))).chunk(2, -1)
        return x + self.lin_out(u * (self.gate(self.gate_norm(v), windows) + 1))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, size={self.size}, axis={self.axis!r}"


class MultiAxisGatedMLP(TokenMixer):
    r"""The mixer of `"MAXIM: Multi-Axis MLP for Image Processing" <https://arxiv.org/abs/2201.02973>`_: half of the
    channels go among the cells of a grid, half within blocks.

    .. math:: (u, v) = \mathrm{GELU}(\mathrm{Norm}(x) W_1), \qquad
              y = x + [\mathrm{MLP}_{grid}(u), \mathrm{MLP}_{block}(v)]\, W_2

    with an :class:`AxisGatedMLP` on each half. Two of them reach the whole grid. O(N C (block_size² + grid_size² + C)).

    Args:
        channels: width C of a token.
        block_size: side of a block.
        grid_size: number of cells a side; ``block_size`` if None.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``; tokens have ``pos`` and ``grid_size``
        - :meth:`mix_images`: ``[B, H, W, channels]``, both sides multiples of both sizes

    Raises:
        ValueError: a number out of range; in a call, no grid, or images of other sides.

    Example:
        >>> from graphkit.transforms import ImageTokens
        >>> from torch_geometric.data import Data
        >>> tokens = ImageTokens()(Data(image=torch.rand(1, 8, 8)))
        >>> MultiAxisGatedMLP(6, block_size=4)(torch.rand(64, 6), tokens).shape
        torch.Size([64, 6])
    """

    position = "grid"

    def __init__(self, channels: int, block_size: int, grid_size: int | None = None) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        grid_size = block_size if grid_size is None else grid_size
        self.norm = layer_norm(channels)
        self.lin_in, self.lin_out = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.grid = AxisGatedMLP(channels, grid_size, "grid")
        self.block = AxisGatedMLP(channels, block_size, "block")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        initialize(self.lin_in)
        initialize(self.lin_out)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        u, v = self._halves(x)
        return self._joined(x, self.grid.mix(u, tokens), self.block.mix(v, tokens))

    def mix_images(self, x: Tensor) -> Tensor:
        """Mix images ``[B, H, W, channels]``."""
        _check_images(x, self.in_channels, self.lin_in.weight)
        u, v = self._halves(x)
        return self._joined(x, self.grid.mix_images(u), self.block.mix_images(v))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, v = gelu(self.lin_in(self.norm(x))).chunk(2, -1)
        return u, v

    def _joined(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return x + self.lin_out(torch.cat([u, v], -1))

    def extra_repr(self) -> str:
        return str(self.in_channels)


class _SpatialGate(nn.Module):
    """Factors for each token and channel, made of the other tokens of its windows."""

    def __init__(self, channels: int, block_size: int, grid_size: int) -> None:
        super().__init__()
        self.norm = layer_norm(channels)
        self.lin_in, self.lin_out = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        # A bias of one: at the start the gate hardly depends on the token.
        self.grid, self.block = PlaceLinear(grid_size, bias=1.0), PlaceLinear(block_size, bias=1.0)

    def forward(self, x: Tensor, block: Windows, grid: Windows) -> Tensor:
        u, v = gelu(self.lin_in(self.norm(x))).chunk(2, -1)
        return self.lin_out(torch.cat([self.grid(u, grid), self.block(v, block)], -1))


class CrossGating(nn.Module):
    r"""Two signals on one grid gate each other, in place of cross-attention, from `"MAXIM: Multi-Axis MLP for Image
    Processing" <https://arxiv.org/abs/2201.02973>`_.

    .. math:: y' = y + (f(y) \odot \mathrm{gate}(f(x))) W_y, \qquad x' = x + y' + (f(x) \odot \mathrm{gate}(f(y))) W_x

    with :math:`f(x) = \mathrm{GELU}(\mathrm{Norm}(x) W)`, all weights of x and y apart, after a linear map of both to
    ``channels``. A gate mixes half of its channels within blocks and half across the grid.
    O(N C (block_size² + grid_size² + C)).

    Args:
        channels: width C of both outputs.
        block_size, grid_size: as :class:`MultiAxisGatedMLP`.
        x_channels, y_channels: widths of the inputs; ``channels`` if None.

    Shapes:
        - **input:** ``x`` ``[N, x_channels]``, ``y`` ``[N, y_channels]``, ``tokens`` as :class:`TokenMixer`
        - **output:** x' and y', both ``[N, channels]``
        - :meth:`mix_images`: the same with ``[B, H, W, ...]``

    Raises:
        ValueError: a number out of range; in a call, x and y on different grids, no grid, images of other sides.

    Example:
        >>> gate = CrossGating(8, block_size=2, grid_size=2)
        >>> [part.shape for part in gate.mix_images(torch.rand(1, 4, 4, 8), torch.rand(1, 4, 4, 8))]
        [torch.Size([1, 4, 4, 8]), torch.Size([1, 4, 4, 8])]
    """

    def __init__(
        self,
        channels: int,
        block_size: int,
        grid_size: int | None = None,
        x_channels: int | None = None,
        y_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_int(channels, "channels", 1)
        self.block_size = check_int(block_size, "block_size", 1)
        self.grid_size = check_int(block_size if grid_size is None else grid_size, "grid_size", 1)
        self.lin_x = nn.Linear(channels if x_channels is None else check_int(x_channels, "x_channels", 1), channels)
        self.lin_y = nn.Linear(channels if y_channels is None else check_int(y_channels, "y_channels", 1), channels)
        self.norm_x, self.norm_y = layer_norm(channels), layer_norm(channels)
        self.in_x, self.in_y = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.gate_x = _SpatialGate(channels, self.block_size, self.grid_size)
        self.gate_y = _SpatialGate(channels, self.block_size, self.grid_size)
        self.out_x, self.out_y = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in self.modules():
            if isinstance(part, PlaceLinear | nn.LayerNorm):
                part.reset_parameters()
            elif isinstance(part, nn.Linear):
                initialize_lecun(part)

    def forward(self, x: Tensor, y: Tensor, tokens: Any = None) -> tuple[Tensor, Tensor]:
        if x.dim() != 2 or y.dim() != 2 or x.size(0) != y.size(0):
            raise ValueError(f"x and y must be matrices of one row a token (got {list(x.shape)} and {list(y.shape)})")
        check_rows(x, self.lin_x.in_features, self.lin_x.weight)
        check_rows(y, self.lin_y.in_features, self.lin_y.weight, "y")
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        block = TokenWindows(layout, self.block_size, "block")
        return self._gated(x, y, block, TokenWindows(layout, self.grid_size, "grid"))

    def mix_images(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Gate images ``[B, H, W, ...]``."""
        if x.shape[:-1] != y.shape[:-1]:
            raise ValueError(f"x and y must be images of one size (got {list(x.shape)} and {list(y.shape)})")
        _check_images(x, self.lin_x.in_features, self.lin_x.weight)
        _check_images(y, self.lin_y.in_features, self.lin_y.weight, "y")
        shape = torch.Size([*x.shape[:-1], self.channels])
        block = ImageWindows(shape, self.block_size, "block")
        return self._gated(x, y, block, ImageWindows(shape, self.grid_size, "grid"))

    def _gated(self, x: Tensor, y: Tensor, block: Windows, grid: Windows) -> tuple[Tensor, Tensor]:
        x, y = self.lin_x(x), self.lin_y(y)
        u, v = gelu(self.in_x(self.norm_x(x))), gelu(self.in_y(self.norm_y(y)))
        y = y + self.out_y(v * self.gate_x(u, block, grid))
        return x + y + self.out_x(u * self.gate_y(v, block, grid)), y

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, block_size={self.block_size}, grid_size={self.grid_size})"
