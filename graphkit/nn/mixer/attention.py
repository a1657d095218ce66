"""Softmax attention among the tokens of each graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import softmax

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_int, check_probabilities, check_range


class SelfAttention(TokenMixer):
    r"""The attention of `"Attention Is All You Need" <https://arxiv.org/abs/1706.03762>`_ within each graph:
    :math:`\mathrm{softmax}(Q K^\top / \sqrt{d}) V` for each head.

    O(L² channels) time; no L x L matrix is stored where PyTorch has a fused kernel. It reads no positions; add them to
    the features (``max_positions`` of :class:`~graphkit.nn.TokenModel`).

    Args:
        channels: width of a token, a multiple of ``heads``.
        heads: number of heads.
        causal: a token attends to itself and those read before it.
        dropout: dropout of the attention weights.
        bias: add biases to queries, keys and values.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: ``channels`` is not a multiple of ``heads``, or a number out of range.

    Example:
        >>> SelfAttention(8, heads=2)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, channels: int, heads: int = 4, causal: bool = False, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.heads, self.causal = check_int(heads, "heads", 1), causal
        check_probabilities(dropout=dropout)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads={heads} (got {channels})")
        self.dropout = dropout
        self.lin_in = nn.Linear(channels, 3 * channels, bias)
        self.lin_out = nn.Linear(channels, channels)

    @property
    def equivariant(self) -> bool:  # type: ignore[override]
        """Without causality the order makes no difference."""
        return not self.causal

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        padded = tokens.pad(self.lin_in(x))
        q, k, v = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = masked_attention(q, k, v, tokens, causal=self.causal, dropout=self.dropout if self.training else 0.0)
        return self.lin_out(tokens.unpad(out.transpose(1, 2).flatten(2)))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.heads}, causal={self.causal}"


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: TokenLayout,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Attention ``[B, H, L, d]`` among the tokens of each graph; padded queries get something finite."""
    mask = None
    if not tokens.is_rectangular and not causal:  # a causal token never sees the padding, which comes last
        # An empty graph sees its padding, so that no row is all masked.
        mask = (tokens.mask | (tokens.length == 0)[:, None])[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, scale=scale)


class GatedPositionalAttention(TokenMixer):
    r"""The gated positional self-attention of `"ConViT: Improving Vision Transformers with Soft Convolutional Inductive
    Biases" <https://arxiv.org/abs/2103.10697>`_: attention to what tokens hold, and to where they are.

    .. math:: A_h = (1 - \sigma(\lambda_h)) \, \mathrm{softmax}_j(q_i \cdot k_j / \sqrt d) + \sigma(\lambda_h) \,
              \mathrm{softmax}_j(w_h \cdot r_{ij} + b_h), \qquad r_{ij} = (\delta_x, \delta_y, \delta_x^2 + \delta_y^2)

    with :math:`\delta` the key's place on the grid less the query's. At the start each head looks at one offset of a
    square of about :math:`\sqrt H` a side, so that together they are like a convolution; the gates :math:`\lambda` let
    them leave that. O(L² channels); the positional half is computed once a batch of equal grids.

    With ``over="edges"`` tokens attend along ``edge_index`` alone, from j to i, in O(edges channels): the same where
    all pairs, each token with itself too, are edges; a window where near ones are.

    Args:
        channels: width of a token, a multiple of ``heads``.
        heads: number of heads.
        locality: how sharply heads look at their offsets at the start.
        local_init: start like a convolution; otherwise at random.
        over: ``"all"`` tokens of the graph, or ``"edges"``.

    Shapes:
        - as :class:`TokenMixer`; tokens have ``pos`` ``[N, 2]`` (integer row and column)

    Raises:
        ValueError: ``channels`` is not a multiple of ``heads``, a number out of range, no places; no edges where they
            are read.

    Example:
        >>> from torch_geometric.data import Data
        >>> grid = Data(pos=torch.cartesian_prod(torch.arange(2), torch.arange(3)), num_nodes=6)
        >>> GatedPositionalAttention(8, heads=4)(torch.randn(6, 8), grid).shape
        torch.Size([6, 8])
    """

    position = "grid"
    equivariant = True

    def __init__(
        self, channels: int, heads: int = 4, locality: float = 1.0, local_init: bool = True, over: str = "all"
    ) -> None:
        super().__init__()
        self.over = check_choice(over, "over", ("all", "edges"))
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.heads, self.local_init = check_int(heads, "heads", 1), local_init
        self.locality = check_range(locality, "locality", 0)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads={heads} (got {channels})")
        self.lin_qk = nn.Linear(channels, 2 * channels, bias=False)
        self.lin_v = nn.Linear(channels, channels, bias=False)
        self.lin_pos = nn.Linear(3, heads)
        self.gating = nn.Parameter(torch.empty(heads))
        self.lin_out = nn.Linear(channels, channels)
        self.reset_parameters()

    @property
    def edges(self) -> str:  # type: ignore[override]
        """Edges are read with ``over="edges"``."""
        return "required" if self.over == "edges" else "ignored"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew, positional ones as offsets of a square with ``local_init``."""
        for part in (self.lin_qk, self.lin_v, self.lin_pos, self.lin_out):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        nn.init.ones_(self.gating)
        if not self.local_init:
            return
        nn.init.eye_(self.lin_v.weight)
        side = int(self.heads**0.5)
        place = torch.arange(side, dtype=self.lin_pos.weight.dtype) - (side - 1) / 2
        down, right = torch.meshgrid(place, place, indexing="ij")
        offsets = torch.stack([2 * right.flatten(), 2 * down.flatten(), -torch.ones(side * side)], 1)
        self.lin_pos.weight[: side * side] = self.locality * offsets.to(self.lin_pos.weight)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        if self.over == "edges":
            return self._along_edges(x, tokens)
        qk = tokens.pad(self.lin_qk(x))
        q, k = qk.view(*qk.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        v = tokens.pad(self.lin_v(x)).view(*qk.shape[:2], self.heads, -1).transpose(1, 2)
        gate = torch.sigmoid(self.gating)[:, None, None]
        out = (1 - gate) * masked_attention(q, k, v, tokens) + gate * (self.positional_attention(tokens) @ v)
        return self.lin_out(tokens.unpad(out.transpose(1, 2).flatten(2)))

    def _along_edges(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        assert tokens.pos is not None
        assert tokens.edge_index is not None
        src, dst = tokens.edge_index
        q, k = self.lin_qk(x).view(x.size(0), 2, self.heads, -1).unbind(1)
        v = self.lin_v(x).view(x.size(0), self.heads, -1)
        held = (q.index_select(0, dst) * k.index_select(0, src)).sum(-1) * q.size(-1) ** -0.5
        there = self.lin_pos(_relation(tokens.pos[src] - tokens.pos[dst], x.dtype))
        gate = torch.sigmoid(self.gating)
        weight = (1 - gate) * softmax(held, dst, num_nodes=x.size(0))
        weight = weight + gate * softmax(there, dst, num_nodes=x.size(0))
        out = torch.zeros_like(v).index_add(0, dst, weight[..., None] * v.index_select(0, src))
        return self.lin_out(out.flatten(1))

    def positional_attention(self, tokens: TokenLayout) -> Tensor:
        """``[B, H, L, L]``, or ``[1, H, L, L]`` where all graphs are of one grid."""
        pos = tokens.pad(tokens.pos)  # type: ignore[arg-type]
        if tokens.is_one_grid:
            pos = pos[:1]
        relation = _relation(pos[:, None] - pos[:, :, None], self.lin_pos.weight.dtype)
        score = self.lin_pos(relation).permute(0, 3, 1, 2)
        if not tokens.is_rectangular:
            seen = tokens.mask | (tokens.length == 0)[:, None]
            score = score.masked_fill(~seen[:, None, None], -torch.inf)
        return score.softmax(-1)

    @torch.no_grad()
    def non_locality(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        """``[H]`` mean distance on the grid at which each head looks, with ``over="all"``."""
        if self.over == "edges":
            raise ValueError("non_locality is that of attention over all tokens (got over='edges')")
        qk = tokens.pad(self.lin_qk(x))
        q, k = qk.view(*qk.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        score = (q @ k.mT) * q.size(-1) ** -0.5
        score = score.masked_fill(~(tokens.mask | (tokens.length == 0)[:, None])[:, None, None], -torch.inf)
        gate = torch.sigmoid(self.gating)[:, None, None]
        weight = (1 - gate) * score.softmax(-1) + gate * self.positional_attention(tokens)
        pos = tokens.pad(tokens.pos).to(weight.dtype)  # type: ignore[arg-type]
        apart = torch.cdist(pos, pos)[:, None]
        return ((weight * apart).sum(-1) * tokens.mask[:, None]).sum((0, 2)) / tokens.num_tokens

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.heads}"


def _relation(delta: Tensor, dtype: torch.dtype) -> Tensor:
    """``[..., 3]`` the key's place less the query's, column first, and the square of how far that is."""
    delta = delta.flip(-1).to(dtype)
    return torch.cat([delta, delta.square().sum(-1, keepdim=True)], -1)
