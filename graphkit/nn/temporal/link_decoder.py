"""Scores of links from the embeddings of their ends."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.utils.checks import check_int


class TemporalLinkDecoder(nn.Module):
    r"""The link predictor of `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
    <https://arxiv.org/abs/2006.10637>`_, for one source and any number of candidates:

    .. math:: w^\top \mathrm{ReLU}(W [z_u \,\|\, z_v] + b) + c

    Each source is projected once, not once a candidate.

    Args:
        in_channels: width of an embedding.

    Shapes:
        - **z_src** ``[B, in_channels]``, **z_dst** ``[B, C, in_channels]``
        - **output:** ``[B, C]`` logits

    Example:
        >>> import torch
        >>> TemporalLinkDecoder(8)(torch.randn(2, 8), torch.randn(2, 5, 8)).shape
        torch.Size([2, 5])
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.lin_pair = nn.Linear(2 * in_channels, in_channels)
        self.lin_out = nn.Linear(in_channels, 1)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.lin_pair.reset_parameters()
        self.lin_out.reset_parameters()

    def forward(self, z_src: Tensor, z_dst: Tensor) -> Tensor:
        weight = self.lin_pair.weight
        from_src = F.linear(z_src, weight[:, : self.in_channels], self.lin_pair.bias)
        hidden = F.linear(z_dst, weight[:, self.in_channels :]) + from_src[:, None]
        return self.lin_out(hidden.relu_()).squeeze(-1)

    def extra_repr(self) -> str:
        return str(self.in_channels)
