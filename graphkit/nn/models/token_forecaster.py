"""Any token mixer as a forecaster: a series cut into stretches, and one head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.nn.models.forecaster import Forecaster, window_norm
from graphkit.nn.models.token_model import TokenModel
from graphkit.utils.checks import check_int


class TokenForecaster(Forecaster):
    """Stretches of each variable are tokens, a :class:`~graphkit.nn.TokenModel` reads them, the last token forecasts.

    Each variable is a sequence of its own, with the same weights for all, as in `"A Time Series is Worth 64 Words:
    Long-term Forecasting with Transformers" <https://arxiv.org/abs/2211.14730>`_. Windows are standardised by
    themselves. A token is what :class:`~graphkit.transforms.SeriesTokens` makes of a window: ``patch`` values with the
    features of their times. The cost is that of L / patch tokens in the mixer.

    Args:
        seq_len: rows L that it reads.
        pred_len: rows T that it forecasts.
        mixer: ``mixer(channels)`` makes the mixer of a block.
        channels: width within.
        patch: rows of a token; those that are left over at the beginning are not read.
        num_layers: number of blocks.
        time_dim: features of a moment that it reads; 0 if it reads none.
        feed_forward: with feed-forward layers.
        dropout: see :class:`~graphkit.nn.TokenModel`.

    Shapes:
        - as :class:`~graphkit.nn.models.forecaster.Forecaster`, of any number of variables

    Raises:
        ValueError: a number out of range, a ``patch`` of more than L rows.

    Example:
        >>> from graphkit.nn import GatedLinearAttention
        >>> model = TokenForecaster(48, 24, GatedLinearAttention, channels=16, patch=12)
        >>> model(torch.randn(2, 48, 3)).shape
        torch.Size([2, 24, 3])
    """

    def __init__(
        self,
        seq_len: int,
        pred_len: int,
        mixer: Callable[[int], TokenMixer],
        channels: int,
        patch: int = 24,
        num_layers: int = 1,
        time_dim: int = 0,
        feed_forward: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(seq_len, pred_len)
        self.patch, self.time_dim = check_int(patch, "patch", 1), check_int(time_dim, "time_dim", 0)
        if patch > seq_len:
            raise ValueError(f"patch must be at most seq_len={seq_len} (got {patch})")
        self.tokens = seq_len // patch
        self.model = TokenModel(
            patch * (1 + time_dim),
            channels,
            pred_len,
            mixer,
            num_layers,
            head="last",
            max_positions=self.tokens,
            feed_forward=feed_forward,
            dropout=dropout,
        )

    def forecast(self, x: Tensor, marks: Tensor | None) -> Tensor:
        x, mean, root = window_norm(x)
        tokens = self.tokenize(x, marks)
        ptr = torch.arange(0, tokens.size(0) + 1, self.tokens, device=x.device)
        out = self.model(tokens, ptr).view(x.size(0), x.size(2), self.pred_len)
        return out.transpose(1, 2) * root + mean

    def tokenize(self, x: Tensor, marks: Tensor | None) -> Tensor:
        """``[B V n, patch (1 + C)]``, n tokens of each variable of each window."""
        z = x.transpose(1, 2)[..., None]
        if marks is not None:
            z = torch.cat([z, marks.to(x.dtype)[:, None].expand(-1, x.size(2), -1, -1)], -1)
        z = z[:, :, self.seq_len - self.tokens * self.patch :]
        return z.reshape(-1, self.patch * z.size(-1))

    def extra_repr(self) -> str:
        return f", patch={self.patch}, {self.model}"
