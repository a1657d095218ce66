"""NiNformer: graphs of tokens classified by blocks whose gates are MLP-Mixers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkit.nn.mixer.token_mlp import NiNBlock
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int, check_rows


class NiNformer(nn.Module):
    r"""The network of `"NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function"
    <https://arxiv.org/abs/2403.02411>`_: a linear map of the tokens, blocks (:class:`~graphkit.nn.NiNBlock`), the mean
    of the tokens, a linear map.

    There are no vectors of places, for the weights of the gates belong to places, and no norm before the head.
    With :class:`~graphkit.transforms.ImageTokens` the first map is the paper's convolution of patches.

    Args:
        in_channels: width of a token's features.
        channels: width within.
        num_tokens: most tokens of a graph.
        out_channels: number of classes.
        hidden_channels: width of all MLPs; twice ``channels`` if None.
        num_layers: number of blocks.
        dropout: dropout within the MLPs.
        share_norm: as :class:`~graphkit.nn.NiNBlock`.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``; ``tokens`` as :class:`~graphkit.nn.TokenMixer`
        - **output:** ``[B, out_channels]``

    Raises:
        ValueError: a number out of range; in a call, a graph with more tokens.

    Example:
        >>> import torch
        >>> NiNformer(4, 8, num_tokens=16, out_channels=3)(torch.rand(32, 4), torch.tensor([0, 16, 32])).shape
        torch.Size([2, 3])
    """

    takes_tokens = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_tokens: int,
        out_channels: int,
        hidden_channels: int | None = None,
        num_layers: int = 4,
        dropout: float = 0.0,
        share_norm: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = check_int(in_channels, "in_channels", 1), check_int(channels, "channels", 1)
        self.num_tokens = check_int(num_tokens, "num_tokens", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        check_int(num_layers, "num_layers", 1)
        self.embed = nn.Linear(in_channels, channels)
        self.blocks = nn.ModuleList(
            NiNBlock(channels, num_tokens, hidden_channels, dropout, share_norm) for _ in range(num_layers)
        )
        self.lin_out = nn.Linear(channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.embed.reset_parameters()
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]
        self.lin_out.reset_parameters()

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        check_rows(x, self.in_channels, self.lin_out.weight)
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, layout)
        return self.lin_out(layout.mean(h))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.channels}, {self.out_channels}, "
            f"{len(self.blocks)} blocks, num_tokens={self.num_tokens})"
        )
