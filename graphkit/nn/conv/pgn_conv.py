"""The parallel gated network on edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.mixer.pgn import GatedHistory
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int, check_pairs


class PGNConv(nn.Module):
    r"""The layer of `"PGN: The RNN's New Successor is Effective for Long-Range Time Series Forecasting"
    <https://arxiv.org/abs/2409.17703>`_ on a graph whose edges lead from earlier to later rows and have a lag:

    .. math:: H_i = b + \sum_{j \to i} W_{\mathrm{lag}(j, i)} z_j

    and then the gate of :class:`~graphkit.nn.mixer.pgn.GatedHistory`. On :func:`lag_edges` it is
    :class:`~graphkit.nn.PGN` with the same weights. O(N window in_channels channels + E in_channels) time, and
    N window in_channels numbers are stored.

    Args:
        in_channels: width of a node.
        channels: width of the output.
        window: lags are from 1 to so many.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, ``edge_index`` ``[2, E]`` source to target, ``lag`` ``[E]`` int64 (all
          1 if None)
        - **output:** ``[N, channels]``

    Raises:
        ValueError: features of another width, a lag out of range.
        IndexError: a node out of range.

    Example:
        >>> edge_index, lag = lag_edges(torch.tensor([0, 4]), window=2)
        >>> PGNConv(3, 5, window=2)(torch.randn(4, 3), edge_index, lag).shape
        torch.Size([4, 5])
    """

    def __init__(self, in_channels: int, channels: int, window: int) -> None:
        super().__init__()
        self.in_channels, self.channels, self.window = in_channels, channels, window
        self.cell = GatedHistory(in_channels, channels, window)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.cell.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor, lag: Tensor | None = None) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        source, target = check_pairs(edge_index, x.size(0), "edge_index")
        lag = torch.ones_like(source) if lag is None else lag
        if lag.shape != source.shape:
            raise ValueError(f"lag must have shape [{source.numel()}], one for each edge (got {list(lag.shape)})")
        if lag.numel() and lag.device.type == "cpu" and not 1 <= int(lag.min()) <= int(lag.max()) <= self.window:
            raise ValueError(f"lag must be in [1, {self.window}] (got {int(lag.min())} to {int(lag.max())})")
        # The sums of each lag first, so that a weight meets every node once.
        slots = x.new_zeros(x.size(0) * self.window, self.in_channels)
        slots = slots.index_add(0, target * self.window + (self.window - lag), x[source])
        weight = self.cell.history_weight[0].permute(2, 1, 0).reshape(-1, self.channels)
        history = torch.addmm(self.cell.history_bias[0], slots.view(x.size(0), weight.size(0)), weight)
        return self.cell.gated(x[None], history[None])[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.channels}, window={self.window})"


def lag_edges(tokens: TokenLayout | Tensor, window: int, period: int = 1) -> tuple[Tensor, Tensor]:
    """Edges from the ``window`` earlier tokens of the same phase to each token, and their lags. O(N window).

    Args:
        tokens: a :class:`~graphkit.ops.TokenLayout`, or where each graph's tokens begin, ``[B + 1]``, ending with N.
        window: largest lag.
        period: tokens so far apart are of one phase.

    Returns:
        ``edge_index`` ``[2, E]`` and ``lag`` ``[E]``, both int64.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> lag_edges(torch.tensor([0, 3]), window=2)
        (tensor([[0, 1, 0],
                [1, 2, 2]]), tensor([1, 1, 2]))
    """
    check_int(window, "window", 1)
    check_int(period, "period", 1)
    layout = tokens if isinstance(tokens, TokenLayout) else TokenLayout(tokens)
    place = torch.arange(layout.num_tokens, device=layout.ptr.device)
    lag = torch.arange(1, window + 1, device=place.device)
    source = place - period * lag[:, None]
    row, column = (source >= layout.ptr[layout.batch]).nonzero(as_tuple=True)
    # Graphs stay in place when their tokens are sorted, so that places are those of rows in reading order.
    node = layout.sequence(place)
    return torch.stack([node[source[row, column]], node[column]]), lag[row]
