"""Features of a pair of nodes from the neighbours that their caches share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphkit.nn.dropout import Dropout
from graphkit.ops import neighborhood_cache as ops
from graphkit.utils.checks import check_choice, check_int, check_probabilities

AGGREGATIONS = ("attention", "sum")


class JointNeighborhood(nn.Module):
    r"""The joint neighbourhood of a pair from `"Neighborhood-aware Scalable Temporal Network Representation Learning"
    <https://arxiv.org/abs/2209.01084>`_.

    The caches of u and v are joined on their keys. Each distinct key :math:`a` has the sum of its entries' vectors and
    an embedding of its *distance code*, the six bits that say which hops of u and which of v hold it:

    .. math:: Q(a) = \Big[\sum_{i \in a} x_i \,\Big\|\, E_{code(a)}\Big], \qquad
              h = \frac1H \sum_{k=1}^{H} W_k \sum_a \alpha_{ka} Q(a) + b

    With ``aggr="attention"``, the paper's, :math:`\alpha_k` is the softmax of :math:`w_k \cdot W_k Q(a)` over the keys
    of the pair. With ``aggr="sum"``, what the released code does, it is 1. Both are linear in Q, so that W is applied
    once a pair and not once a key, and a pair costs O(L (pos_dim + in_channels)) for caches with L slots. Dropout
    therefore acts on the pooled vector, before and after W, and not on single keys.

    Args:
        in_channels: width of the entries' vectors.
        out_channels: width of the result.
        bounds: columns of the hops, as :attr:`NeighborhoodCache.bounds`.
        pos_dim: width of the codes' embedding.
        heads: number H of maps whose mean is taken.
        dropout: probability of leaving out a feature.
        aggr: ``"attention"`` or ``"sum"``.

    Shapes:
        - ``key`` ``[n, L]``, ``feature`` ``[n, L, in_channels]`` (zeros in empty slots): the caches of n nodes, whose
          ids are ``n_id`` ``[n]``
        - ``u``, ``v`` ``[P]`` rows of these
        - output ``[P, out_channels]``

    Example:
        >>> joint = JointNeighborhood(4, 8, bounds=[0, 1, 3])
        >>> key, feature = torch.full((2, 3), -1), torch.zeros(2, 3, 4)
        >>> joint(key, feature, torch.tensor([5, 6]), u=torch.tensor([0]), v=torch.tensor([1])).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bounds: Sequence[int],
        *,
        pos_dim: int = 16,
        heads: int = 2,
        dropout: float = 0.1,
        aggr: str = "attention",
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.pos_dim, self.heads = check_int(pos_dim, "pos_dim", 1), check_int(heads, "heads", 1)
        check_probabilities(dropout=dropout)
        self.aggr = check_choice(aggr, "aggr", AGGREGATIONS)
        self.bounds = list(bounds)
        width = in_channels + pos_dim
        self.embedding = nn.Parameter(torch.empty(ops.NUM_CODES, pos_dim))
        self.weight = nn.Parameter(torch.empty(heads, out_channels, width))
        self.attention = nn.Parameter(torch.empty(heads, out_channels)) if aggr == "attention" else None
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.embedding)
        for weight in self.weight:
            nn.init.xavier_normal_(weight)
        if self.attention is not None:
            nn.init.xavier_normal_(self.attention)
        nn.init.zeros_(self.bias)

    def forward(self, key: Tensor, feature: Tensor, n_id: Tensor, u: Tensor, v: Tensor) -> Tensor:
        if self.attention is None:
            total = feature.sum(1)
            count = ops.joint_histogram(key, self.bounds, u, v, n_id).to(feature.dtype)
            entries = total.index_select(0, u) + total.index_select(0, v)
            pooled = torch.cat([entries, count @ self.embedding], -1)
            hidden = self.dropout(self.dropout(pooled) @ self.weight.flatten(0, 1).t())
            return hidden.view(-1, self.heads, self.out_channels).mean(1) + self.bias
        direction = torch.einsum("ho,hoq->qh", self.attention, self.weight)
        score = feature @ direction[: self.in_channels]
        code_score = self.embedding @ direction[self.in_channels :]
        entries, mass = ops.joint_attention(key, self.bounds, u, v, n_id, score, code_score, feature)
        pooled = self.dropout(torch.cat([entries, mass @ self.embedding], -1))
        hidden = self.dropout(torch.einsum("phq,hoq->pho", pooled, self.weight))
        return hidden.mean(1) + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}, aggr={self.aggr!r}"
