"""COSTA: augmentation in the space of node vectors by a random sketch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graphkit.train.contrastive.grace import GRACE
from graphkit.train.contrastive.info_nce import info_nce


class COSTA(GRACE):
    r"""`"COSTA: Covariance-Preserving Feature Augmentation for Graph Contrastive Learning"
    <https://arxiv.org/abs/2206.04726>`_: the contrast is between random mixtures of node vectors.

    Both views are multiplied from the left by the same matrix :math:`G / \sqrt{k}` of ``k = ratio * N`` rows with
    independent normal entries, which leaves their covariance as it is on average; the mixtures are then
    projected and contrasted without negatives of the same view. A fresh :math:`G` is drawn in blocks in every step and
    drawn again for the gradient: O(ratio N^2 hidden) time, O(N (hidden + block)) memory.

    Args:
        encoder, hidden_channels, proj_channels, tau: as :class:`GRACE`.
        ratio: mixtures for each node, in (0, 1].

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from graphkit.nn import GCNEncoder
        >>> model = COSTA(GCNEncoder(8, out_channels=4), 4, 4)
        >>> model.loss(torch.randn(6, 4), torch.randn(6, 4)).dim()
        0
    """

    def __init__(
        self, encoder: nn.Module, hidden_channels: int, proj_channels: int, tau: float = 0.5, ratio: float = 0.5
    ) -> None:
        super().__init__(encoder, hidden_channels, proj_channels, tau)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1] (got {ratio})")
        self.ratio = ratio

    def contrast(self, z1: Tensor, z2: Tensor) -> Tensor:
        rows = max(int(self.ratio * z1.size(0)), 1)
        seed = int(torch.randint(2**62, ()))
        mixed = random_mixtures(torch.cat([z1, z2], dim=1), rows, seed)
        u, v = mixed.split(z1.size(1), dim=1)
        return info_nce(self.head(u), self.head(v), self.tau, intra_view=False)


def random_mixtures(z: Tensor, rows: int, seed: int, block: int = 256) -> Tensor:
    r"""``[rows, H]``: :math:`G z / \sqrt{rows}` with the normal matrix :math:`G` of a seed, never held as a whole."""
    return _Mixtures.apply(z, rows, seed, block)


class _Mixtures(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, rows: int, seed: int, block: int) -> Tensor:
        ctx.settings = rows, seed, block, z.size(0)
        out = z.new_empty(rows, z.size(1))
        for place, part in _parts(z, *ctx.settings):
            out[place] = part @ z
        return out / rows**0.5

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, _, _, columns = ctx.settings
        out = grad.new_zeros(columns, grad.size(1))
        for place, part in _parts(grad, *ctx.settings):
            out.addmm_(part.t(), grad[place])
        return out / rows**0.5, None, None, None


def _parts(like: Tensor, rows: int, seed: int, block: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """The rows of the matrix, block by block, of ``like``'s type and device."""
    generator = torch.Generator(like.device).manual_seed(seed)
    for start in range(0, rows, block):
        place = slice(start, min(start + block, rows))
        size = place.stop - start, columns
        yield place, torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)
