"""Recurrent networks as mixers, to compare with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(TokenMixer):
    """A GRU (`"Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation"
    <https://arxiv.org/abs/1406.1078>`_) or an LSTM (Long Short-Term Memory, Neural Computation 1997) over the tokens of
    each graph, by PyTorch. O(L channels²), one token after the other.

    Args:
        channels: width of a token and of the state.
        cell: ``"gru"`` or ``"lstm"``.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: ``channels`` below 1 or another cell.

    Example:
        >>> import torch
        >>> Recurrent(8, "lstm")(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    causal = True

    def __init__(self, channels: int, cell: str = "gru") -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.cell = check_choice(cell, "cell", tuple(CELLS))
        self.rnn = CELLS[cell](channels, channels, batch_first=True)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        # What is missing comes last, where it has no influence.
        return tokens.unpad(self.rnn(tokens.pad(x))[0])

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        known = state[0] if isinstance(state, tuple) else state
        self.check_step(x, None if known is None else known.size(1))
        out, state = self.rnn(x[:, None], state)
        return out[:, 0], state

    def extra_repr(self) -> str:
        return f"{self.in_channels}, cell={self.cell!r}"
