"""Sequence to sequence with attention and a fixed alphabet: what a pointer network is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.decoder.pointer import PointerNetwork
from graphkit.utils.checks import check_int


class AttentionSeq2Seq(PointerNetwork):
    r"""Encoder, decoder and attention of :class:`~graphkit.nn.PointerNetwork`, but the weights of the attention only
    take a mean of the nodes, from which a linear layer names a place, as in `"Neural Machine Translation by Jointly
    Learning to Align and Translate" <https://arxiv.org/abs/1409.0473>`_:

    .. math:: p(C_i \mid C_{<i}, P) = \mathrm{softmax}(W [d_i \,\|\, \textstyle\sum_j a_{ij} e_j]), \qquad
              a_i = \mathrm{softmax}(u_i)

    There is a row of W for each place, so graphs have at most ``max_nodes`` nodes, and what was learned for one place
    says nothing about another.

    Args:
        in_channels: width of a node's features.
        hidden: width of encoder, decoder and attention.
        max_nodes: most nodes of a graph.
        end_token, unique, follow_edges: as in :class:`~graphkit.nn.PointerNetwork`.

    Shapes:
        - as :class:`~graphkit.nn.PointerNetwork`

    Raises:
        ValueError: a graph of more than ``max_nodes`` nodes, and as :class:`~graphkit.nn.PointerNetwork`.

    Example:
        >>> model = AttentionSeq2Seq(2, 16, max_nodes=10)
        >>> model.decode(torch.rand(7, 2), torch.tensor([0, 3, 7]))[0].shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        max_nodes: int,
        end_token: bool = True,
        unique: bool = False,
        follow_edges: bool = False,
    ) -> None:
        super().__init__(in_channels, hidden, "lstm", end_token, unique, follow_edges)
        self.max_nodes = check_int(max_nodes, "max_nodes", 1)
        self.lin_out = nn.Linear(2 * hidden, max_nodes + 1)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        self.lin_out.reset_parameters()

    def _logits(self, query: Tensor, keys: Tensor, mask: Tensor, projected: list[Tensor] | None = None) -> Tensor:
        longest = keys.size(1) - 1
        if longest > self.max_nodes:
            raise ValueError(f"a graph has {longest} nodes, but max_nodes={self.max_nodes}")
        projected = self._projected(keys) if projected is None else projected
        context = self._glimpse(self.pointer, query, keys, mask, projected[0])
        named = self.lin_out(torch.cat([query, context], dim=-1))
        return torch.cat([named[..., :longest], named[..., -1:]], dim=-1).masked_fill(~mask, -torch.inf)
