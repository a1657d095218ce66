"""The n-gram model: what followed the same few tokens before, the baseline of language models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.ops.csr import counts_to_ptr
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int


class NGram(nn.Module):
    r"""Counts of what followed the last tokens, long contexts mixed with short ones by Witten and Bell's rule
    (`"The zero-frequency problem" <https://doi.org/10.1109/18.87000>`_).

    .. math:: p_j(x \mid h_j) = \frac{c(h_j x) + T(h_j) \, p_{j-1}(x \mid h_{j-1})}{c(h_j) + T(h_j)}

    for the contexts :math:`h_j` of the last j tokens, where T is how many different tokens followed one; below all lies
    the uniform distribution. It is counted once by :meth:`fit` and has nothing to train. A prediction costs
    O(order (log M + what followed the context)).

    Args:
        num_tokens: number of different tokens.
        order: length of a context with the token after it; 1 counts tokens alone.

    Shapes:
        - **input:** ids ``[N]``; ``tokens`` as :class:`~graphkit.nn.TokenMixer`
        - **output:** ``[N, num_tokens]`` logarithms of the probabilities of the next token, float64

    Raises:
        ValueError: a number out of range, more contexts than fit in 64 bits; in a call, a model that has counted
            nothing.

    Example:
        >>> model = NGram(2, order=2).fit(torch.tensor([0, 1, 0, 1, 0]))
        >>> model(torch.tensor([1])).exp()
        tensor([[0.8571, 0.1429]], dtype=torch.float64)
    """

    takes_tokens = True

    def __init__(self, num_tokens: int, order: int = 6) -> None:
        super().__init__()
        self.num_tokens, self.order = check_int(num_tokens, "num_tokens", 1), check_int(order, "order", 1)
        if num_tokens**order >= 2**63:
            raise ValueError(f"order={order} of {num_tokens} tokens gives more contexts than fit in 64 bits")

    def fit(self, ids: Tensor) -> NGram:
        """Count a text ``[N]``; returns the model itself. O(order N log N)."""
        self._check(ids)
        for length in range(min(self.order, ids.numel())):
            # Numbers of the length tokens before each place, and of these with the token itself.
            code = torch.zeros_like(ids[length:])
            for lag in range(length, -1, -1):
                code = code * self.num_tokens + ids[length - lag : ids.numel() - lag]
            pair, count = code.unique(return_counts=True)
            context, followers = torch.unique_consecutive(pair // self.num_tokens, return_counts=True)
            for name, value in (
                ("context", context),
                ("ptr", counts_to_ptr(followers)),
                ("next", pair % self.num_tokens),
                ("count", count.double()),
            ):
                self.register_buffer(f"{name}{length}", value)
        return self

    def _check(self, ids: Tensor) -> None:
        if ids.dim() != 1 or ids.dtype != torch.int64 or ids.numel() == 0:
            raise ValueError(f"ids must be a vector of int64 ids (got {list(ids.shape)} {ids.dtype})")
        if int(ids.min()) < 0 or int(ids.max()) >= self.num_tokens:
            raise ValueError(f"ids must lie in [0, {self.num_tokens}) (got {int(ids.min())} to {int(ids.max())})")

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        if not hasattr(self, "context0"):
            raise ValueError("fit must be called first (got a model that has counted nothing)")
        self._check(x)
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        ids, rank = layout.sequence(x), layout.sequence(layout.rank)
        prob = torch.full((x.size(0), self.num_tokens), 1 / self.num_tokens, dtype=torch.float64, device=x.device)
        code, scale = torch.zeros_like(ids), 1
        for length in range(self.order):
            if not hasattr(self, f"context{length}"):
                break
            if length:
                # One token further back comes before the context of the length before.
                code, scale = code + ids.roll(length - 1) * scale, scale * self.num_tokens
            self._mix(prob, code, rank >= length - 1, length)
        return layout.restore(prob.log())

    def _mix(self, prob: Tensor, code: Tensor, whole: Tensor, length: int) -> None:
        """Mix in what followed the context ``code``, where it is known."""
        context, ptr, token, count = (getattr(self, f"{name}{length}") for name in ("context", "ptr", "next", "count"))
        place = torch.searchsorted(context, code).clamp(max=context.numel() - 1)
        row = ((context[place] == code) & whole).nonzero().view(-1)
        place = place[row]
        followers = ptr[place + 1] - ptr[place]
        begin = counts_to_ptr(followers)
        owner = torch.repeat_interleave(torch.arange(row.numel(), device=row.device), followers)
        entry = torch.arange(owner.numel(), device=row.device) - begin[owner] + ptr[place][owner]
        total = prob.new_zeros(row.numel()).index_add(0, owner, count[entry]) + followers
        prob[row] *= (followers / total)[:, None]
        prob.view(-1).index_add_(0, row[owner] * self.num_tokens + token[entry], count[entry] / total[owner])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_tokens}, order={self.order})"
