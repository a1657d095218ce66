"""Gated linear attention in both directions with a gated depthwise convolution: the mixer of ViG."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.mixer.gla import both_ways
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_range


class GridDepthwiseConv(TokenMixer):
    r"""A convolution of each channel by itself over a grid of tokens:

    .. math:: y_i = \sum_j w_{p_j - p_i} \odot x_j

    over the tokens j in a square around token i; where the grid ends, or a token is missing, there are zeros.

    With ``over="grid"`` it is PyTorch's convolution, O(cells kernel² channels) over the smallest grid that holds the
    graphs, of any sizes. With ``over="edges"`` it is message passing along ``edge_index``, O(edges channels): the same
    where there are edges among all that are near (:class:`~graphkit.transforms.ImageTokens` makes them), and a
    convolution that stops at walls where some are not. Edges to tokens farther away carry nothing.

    Args:
        channels: width of a token.
        kernel: side of the square, odd.
        over: ``"grid"`` or ``"edges"``.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``; tokens have ``pos`` ``[N, 2]``

    Raises:
        ValueError: a number out of range, an even ``kernel``; in a call, no places, two tokens of a graph at one place,
            or no edges where they are read.

    Example:
        >>> from torch_geometric.data import Data
        >>> from graphkit.transforms import ImageTokens
        >>> tokens = ImageTokens()(Data(image=torch.rand(1, 3, 4)))
        >>> GridDepthwiseConv(8)(torch.randn(12, 8), tokens).shape
        torch.Size([12, 8])
    """

    position = "grid"
    equivariant = True

    def __init__(self, channels: int, kernel: int = 3, over: str = "grid") -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.kernel = check_int(kernel, "kernel", 1)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd (got {kernel})")
        self.over = check_choice(over, "over", ("grid", "edges"))
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel))
        self.reset_parameters()

    @property
    def edges(self) -> str:  # type: ignore[override]
        """Edges are read with ``over="edges"``."""
        return "required" if self.over == "edges" else "ignored"

    def reset_parameters(self) -> None:
        """Draw the weights anew, Xavier-uniform of gain 2^-2.5."""
        nn.init.xavier_uniform_(self.weight, gain=2**-2.5)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return self._along_edges(x, tokens) if self.over == "edges" else self._over_grid(x, tokens)

    def _over_grid(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        # Channels stay last in memory, which is fast and copies nothing.
        images = tokens.to_canvas(x).permute(0, 3, 1, 2)
        out = F.conv2d(images, self.weight, padding=self.kernel // 2, groups=self.in_channels)
        return tokens.from_canvas(out.permute(0, 2, 3, 1))

    def _along_edges(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        assert tokens.pos is not None
        assert tokens.edge_index is not None
        src, dst = tokens.edge_index
        step = tokens.pos[src] - tokens.pos[dst] + self.kernel // 2
        near = ((step >= 0) & (step < self.kernel)).all(1)
        offset = (step[:, 0] * self.kernel + step[:, 1]).masked_fill(~near, 0)
        weight = self.weight.flatten(1).t().index_select(0, offset) * near[:, None]
        return torch.zeros_like(x).index_add(0, dst, weight * x.index_select(0, src))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel={self.kernel}, over={self.over!r}"


class NeighborDepthwiseConv(TokenMixer):
    r"""What :class:`GridDepthwiseConv` is on a grid, on any graph: a weight of each channel for the token itself, one
    for the mean of its neighbours.

    .. math:: y_i = u \odot x_i + w \odot \frac{1}{|N(i)|} \sum_{j \in N(i)} x_j

    O(edges channels). Self-loops count as neighbours.

    Args:
        channels: width of a token.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``; tokens have ``edge_index``

    Raises:
        ValueError: ``channels`` below 1; in a call, no edges.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> NeighborDepthwiseConv(8)(torch.randn(3, 8), path).shape
        torch.Size([3, 8])
    """

    edges = "required"
    equivariant = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.weight = nn.Parameter(torch.empty(2, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, Xavier-uniform of gain 2^-2.5."""
        nn.init.xavier_uniform_(self.weight, gain=2**-2.5)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        assert tokens.edge_index is not None
        src, dst = tokens.edge_index
        degree = torch.bincount(dst, minlength=x.size(0)).clamp(min=1)
        total = torch.zeros_like(x).index_add(0, dst, x.index_select(0, src))
        own, neighbors = self.weight
        return own * x + neighbors * (total / degree[:, None].to(x.dtype))

    def extra_repr(self) -> str:
        return str(self.in_channels)


LOCAL = ("grid", "edges", "graph", "none")


class BiGatedLinearAttention(TokenMixer):
    r"""The mixer of `"ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention"
    <https://arxiv.org/abs/2405.18425>`_: every token reads the whole image in two passes, one from each end, and what
    is near by a convolution.

    .. math:: l = \mathrm{DepthwiseConv}(x), \qquad
              o = \tfrac{1}{2} \big(\mathrm{GLA}(l; \overrightarrow{g}) + \mathrm{GLA}(l; \overleftarrow{g})\big),
              \qquad y = \big(m \odot \mathrm{Norm}(o) + (1 - m) \odot \mathrm{Norm}(l)\big) W_o

    where GLA is that of :class:`GatedLinearAttention`, with queries, keys and values of both directions in common and
    gates of each direction its own, and :math:`m = \sigma(l W_m + b)`. O(L d_k d_v) a head, O(9 L channels) for the
    convolution; all tokens reach all in one layer.

    Args:
        channels: width of a token, a multiple of twice the number of heads.
        heads: number of heads.
        local: the convolution: ``"grid"``, ``"edges"`` (both :class:`GridDepthwiseConv`), ``"graph"``
            (:class:`NeighborDepthwiseConv`, for any graph) or ``"none"`` (``l = x`` and ``m = 1``).
        silu: apply SiLU to l, and before :math:`W_o`, as the smallest of the paper's models does.
        own_gates: gates for each direction; one for both otherwise.
        gate_rank: width between the two maps of the gates.
        gate_tau: the larger, the slower the memories forget.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: ``channels`` that ``heads`` do not divide, an unknown ``local``, a number out of range.

    Example:
        >>> from torch_geometric.data import Data
        >>> from graphkit.transforms import ImageTokens
        >>> tokens = ImageTokens()(Data(image=torch.rand(1, 3, 4)))
        >>> BiGatedLinearAttention(8, heads=2)(torch.randn(12, 8), tokens).shape
        torch.Size([12, 8])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 3,
        local: str = "grid",
        silu: bool = False,
        own_gates: bool = True,
        gate_rank: int = 16,
        gate_tau: float = 16.0,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.heads, self.silu, self.own_gates = check_int(heads, "heads", 1), silu, own_gates
        if channels % (2 * heads):
            raise ValueError(f"channels must be a multiple of twice heads={heads} (got {channels})")
        check_int(gate_rank, "gate_rank", 1)
        self.gate_tau = check_range(gate_tau, "gate_tau", 0, low_open=True)
        keys, width = channels // 2, channels // heads
        self.local = check_choice(local, "local", LOCAL)
        self.conv: TokenMixer | None = None
        if local == "graph":
            self.conv = NeighborDepthwiseConv(channels)
        elif local != "none":
            self.conv = GridDepthwiseConv(channels, over=local)
        self.lin_q = nn.Linear(channels, keys, bias=False)
        self.lin_k = nn.Linear(channels, keys, bias=False)
        self.lin_v = nn.Linear(channels, channels, bias=False)
        self.lin_gate_down = nn.Linear(channels, gate_rank, bias=False)
        self.lin_gate = nn.Linear(gate_rank, 2 * keys if own_gates else keys)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.lin_mix = None if self.conv is None else nn.Linear(channels, channels)
        self.local_norm = None if self.conv is None else nn.RMSNorm(width, eps=1e-6)
        self.lin_out = nn.Linear(channels, channels, bias=False)
        self.reset_parameters()

    @property
    def position(self) -> str | None:  # type: ignore[override]
        """Places on a grid are read by convolutions over one."""
        return "grid" if self.local in ("grid", "edges") else None

    @property
    def edges(self) -> str:  # type: ignore[override]
        """Edges are read by convolutions along them."""
        return "required" if self.local in ("edges", "graph") else "ignored"

    def reset_parameters(self) -> None:
        """Draw the weights anew, Xavier-uniform of gain 2^-2.5; biases are zero."""
        super().reset_parameters()
        for part in self.children():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight, gain=2**-2.5)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        near = x if self.conv is None else self.conv(x, tokens)
        near = tokens.sequence(F.silu(near) if self.silu else near)
        far = self.scan(near, tokens.ptr)
        mixed = self.norm(far)
        if self.lin_mix is not None and self.local_norm is not None:
            share = torch.sigmoid(self.lin_mix(near)).view_as(far)
            mixed = share * mixed + (1 - share) * self.local_norm(near.view_as(far))
        mixed = mixed.flatten(1)
        return tokens.restore(self.lin_out(F.silu(mixed) if self.silu else mixed))

    def scan(self, near: Tensor, ptr: Tensor) -> Tensor:
        """``[N, H, channels / H]`` the mean of what both directions read, o, of tokens in reading order."""

        def heads(h: Tensor) -> Tensor:
            return h.reshape(near.size(0), self.heads, -1)

        gate = F.logsigmoid(self.lin_gate(self.lin_gate_down(near))) / self.gate_tau
        forward, backward = gate.chunk(2, 1) if self.own_gates else (gate, gate)
        q, k, v = heads(self.lin_q(near)), heads(self.lin_k(near)), heads(self.lin_v(near))
        return both_ways(q, k, v, heads(forward), heads(backward), ptr)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.heads}, local={self.local!r}"
