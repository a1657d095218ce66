"""Convolution of grids of tokens by a selectable Kolmogorov-Arnold layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from graphkit.nn.kan.selectable import SelectableKANLinear
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_finite, check_int


class SelectableKANConv2d(TokenMixer):
    """The convolution of `"Activation Space Selectable Kolmogorov-Arnold Networks" <https://arxiv.org/abs/2408.08338>`_
    (S-ConvKAN) on grids of tokens: each token's window of ``kernel`` x ``kernel`` tokens, zeros outside the grid,
    through a :class:`SelectableKANLinear`.

    Grids may differ in size and have holes, which count as zeros. O(N k² C S O) time and O(N k² C) memory for S
    functions of all families.

    Args:
        in_channels: width C of a token.
        out_channels: width of the output; ``in_channels`` if None.
        kernel: k, tokens a side of the window; odd.
        options: of :class:`SelectableKANLinear`: ``families``, ``grid``, ``order``, ``per``, ``base``.

    Shapes:
        - as :class:`~graphkit.nn.TokenMixer`; tokens have ``pos`` ``[N, 2]`` (integer row and column)

    Raises:
        ValueError: an even kernel, or what the layer refuses; in a call, no places, or values that are not finite.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> grid = Data(pos=torch.cartesian_prod(torch.arange(2), torch.arange(3)), num_nodes=6)
        >>> SelectableKANConv2d(4, 8, families=("rbf",))(torch.randn(6, 4), grid).shape
        torch.Size([6, 8])
    """

    position = "grid"
    equivariant = True

    def __init__(self, in_channels: int, out_channels: int | None = None, kernel: int = 3, **options: Any) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = in_channels if out_channels is None else check_int(out_channels, "out_channels", 1)
        self.kernel = check_int(kernel, "kernel", 1)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd (got {kernel})")
        self.lin = SelectableKANLinear(kernel * kernel * in_channels, self.out_channels, **options)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        canvas = tokens.to_canvas(check_finite(x)).permute(0, 3, 1, 2)
        windows = F.unfold(canvas, self.kernel, padding=self.kernel // 2).view(canvas.size(0), -1, *canvas.shape[2:])
        # Places of the canvas without a token are not evaluated.
        return self.lin(tokens.from_canvas(windows.permute(0, 2, 3, 1)))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}"
