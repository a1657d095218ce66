"""Gated linear attention as messages along edges: a window over the tokens, or the edges of a graph."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from graphkit.nn.mixer.gla import GatedLinearAttention
from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.scan import linear_scan
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int


class GLAWindowConv(GatedLinearAttention):
    r"""The message-passing form of :class:`GatedLinearAttention`: a token hears from tokens before it, weighted by

    .. math:: a_{ij} = \frac{1}{\sqrt{d_k}} \sum_c q_{ic} \, k_{jc} \prod_{s=j+1}^{i} \alpha_{sc}

    over those at most ``window - 1`` places before it (``over="window"``; with a window as long as the graph it is the
    layer itself), or over the edges :math:`j \to i` of the graph with j read before i, and itself
    (``over="edges"``). O(L window channels), or O(E channels), time and memory.

    Args:
        channels: width of a token.
        heads: number of heads.
        window: tokens that one hears from, itself included.
        over: ``"window"`` or ``"edges"``.
        expand_k, expand_v, gate_rank, gate_tau, init: as :class:`GatedLinearAttention`.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: a window below 1, and as :class:`GatedLinearAttention`; in a call over edges, no ``edge_index``.

    Example:
        >>> GLAWindowConv(8, heads=2, window=3)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    OVER: ClassVar[tuple[str, ...]] = ("window", "edges")

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        window: int = 16,
        over: str = "window",
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        gate_tau: float = 16.0,
        init: str = "normal",
    ) -> None:
        super().__init__(channels, heads, expand_k, expand_v, gate_rank, gate_tau, init=init)
        self.window = check_int(window, "window", 1)
        self.over = check_choice(over, "over", self.OVER)
        self.edges = "required" if over == "edges" else "ignored"  # type: ignore[misc]

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        x = tokens.sequence(x)
        q, k, v, gate = self._parts(x)
        # Sums of logarithms within each graph, whose differences are the decays from one token to another. In double
        # precision: sums of far tokens are large, their differences small.
        total = linear_scan(torch.ones_like(gate, dtype=torch.float64), gate.double(), tokens.ptr)
        src, dst = self._messages(tokens)
        decay = (total[dst] - total[src]).exp().to(x.dtype).view(-1, *k.shape[1:])
        weight = (q[dst] * k[src] * decay).sum(-1, keepdim=True) * q.size(2) ** -0.5
        out = torch.zeros_like(v).index_add(0, dst, weight * v[src])
        return tokens.restore(self._merge(out, x))

    def _messages(self, tokens: TokenLayout) -> tuple[Tensor, Tensor]:
        """From which row in reading order to which."""
        place = torch.arange(tokens.num_tokens, device=tokens.ptr.device)
        if self.over == "window":
            # Graphs stay in place, so that the graph of a row in reading order is that of the node there.
            count = (place - tokens.ptr[tokens.batch]).clamp(max=self.window - 1) + 1
            begin = counts_to_ptr(count)
            dst = torch.repeat_interleave(place, count)
            lag = torch.arange(dst.numel(), device=dst.device) - begin[dst]
            return dst - lag, dst
        row = tokens.ptr[tokens.batch] + tokens.rank  # of each node, in reading order
        src, dst = row[tokens.edge_index]
        before = src < dst
        return torch.cat([src[before], place]), torch.cat([dst[before], place])

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a window keeps no state; GatedLinearAttention does")

    def extra_repr(self) -> str:
        span = f"window={self.window}" if self.over == "window" else "over='edges'"
        return f"{self.in_channels}, heads={self.heads}, {span}"
