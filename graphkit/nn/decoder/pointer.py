"""Pointer networks: sequences of a graph's own nodes, each chosen by attention over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from graphkit.nn.mixer.attention import SelfAttention
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.nn.models.token_model import TokenModel
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import (
    INDEX_DTYPES,
    check_choice,
    check_device,
    check_finite,
    check_int,
    check_mask,
    check_rows,
)

# Numbers in a block of queries by keys by channels, so that memory does not grow with the length of the answers.
_BLOCK = 2**24


class AdditivePointer(nn.Module):
    r"""The attention of `"Pointer Networks" <https://arxiv.org/abs/1506.03134>`_, whose scores are the answer itself:

    .. math:: u_{ij} = v^\top \tanh(W_1 e_j + W_2 d_i)

    O(m n hidden) for m queries and n keys; keys are projected once.

    Args:
        query_dim: width of a query, d.
        key_dim: width of a key, e.
        hidden: width of the sum.

    Shapes:
        - **input:** ``query`` ``[B, m, query_dim]``, ``keys`` ``[B, n, key_dim]``, ``mask`` bool that broadcasts to
          ``[B, m, n]``, True for candidates, or None
        - **output:** ``[B, m, n]`` logits, -inf where there is no candidate

    Raises:
        ValueError: a width below 1; in a call, shapes that do not fit.
        TypeError: a mask that is not bool.

    Example:
        >>> pointer = AdditivePointer(4, 4, hidden=8)
        >>> pointer(torch.randn(2, 3, 4), torch.randn(2, 5, 4)).shape
        torch.Size([2, 3, 5])
    """

    def __init__(self, query_dim: int, key_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = check_int(hidden, "hidden", 1)
        self.lin_key = nn.Linear(check_int(key_dim, "key_dim", 1), hidden, bias=False)
        self.lin_query = nn.Linear(check_int(query_dim, "query_dim", 1), hidden, bias=False)
        self.lin_score = nn.Linear(hidden, 1, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.lin_key, self.lin_query, self.lin_score):
            part.reset_parameters()

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.score(query, self.lin_key(keys), mask)

    def score(self, query: Tensor, projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits from keys that went through ``lin_key`` already, ``[B, n, hidden]``."""
        width, shape = self.lin_query.in_features, [*query.shape[:-1], *projected.shape[1:-1]]
        if query.dim() != 3 or query.size(2) != width or projected.dim() != 3 or query.size(0) != projected.size(0):
            raise ValueError(
                f"query must have shape [B, m, {width}] and keys [B, n, {self.lin_key.in_features}] "
                f"(got {list(query.shape)}, and {projected.size(0)} sets of keys)"
            )
        if mask is not None:
            check_mask(mask, shape, "candidates")
        wanted = self.lin_query(query)
        rows = max(1, _BLOCK // max(1, projected.numel()))
        parts = [
            self.lin_score(torch.tanh(projected[:, None] + part[:, :, None])).squeeze(-1)
            for part in wanted.split(rows, dim=1)
        ]
        logits = torch.cat(parts, dim=1)
        return logits if mask is None else logits.masked_fill(~mask, -torch.inf)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lin_query.in_features}, {self.lin_key.in_features}, hidden={self.hidden})"


class PointerNetwork(nn.Module):
    r"""The network of `"Pointer Networks" <https://arxiv.org/abs/1506.03134>`_ (Ptr-Net): a sequence of nodes of the
    input graph, whatever its size.

    An encoder makes a vector of each node, :math:`e_j`; an LSTM reads the features of the node that was pointed at last
    and makes :math:`d_i`; :class:`AdditivePointer` compares the two,

    .. math:: p(C_i = j \mid C_{<i}, P) = \mathrm{softmax}_j \, u_{ij}.

    With answers of m nodes, O(m n hidden) beside the encoder. With known answers the LSTM runs over all of them at
    once.

    Args:
        in_channels: width of a node's features.
        hidden: width of encoder, decoder and pointer.
        encoder: ``"lstm"`` (reads the nodes in their order, as in the paper), ``"set"`` (attention without places:
            another order of the nodes changes nothing), or a module that makes ``[N, hidden]``: a mixer or token
            model, called as ``encoder(x, tokens)``, or any GNN, called as ``encoder(x, edge_index)``.
        end_token: answers end with a mark of their own; without it an answer has all nodes (``unique``) or
            ``max_steps``.
        unique: no node comes twice.
        follow_edges: after the first, only out-neighbours of the node that was pointed at last are candidates.
        feed: what the decoder reads of that node: its ``"input"`` (the paper) or the encoder's ``"state"``.
        glimpses: how often the decoder looks at the nodes by attention before it points, as in `"Neural Combinatorial
            Optimization with Reinforcement Learning" <https://arxiv.org/abs/1611.09940>`_; the paper does not.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``; ``tokens`` as :class:`~graphkit.nn.TokenMixer`; ``target`` ``[B, M]``
          places of nodes in their graph's reading order, -1 after the end
        - **output:** ``[B, M + 1, L + 1]`` logits (``[B, M, L + 1]`` without ``end_token``) for graphs of up to L
          nodes, the last column being the end, -inf where there is no candidate

    Raises:
        ValueError: a number out of range, a graph without nodes, features that are not finite, a target outside its
            graph, repeated under ``unique`` or against ``follow_edges``, missing edges, an encoder of another width.

    Example:
        >>> model = PointerNetwork(2, 16)
        >>> target = torch.tensor([[0, 2, 1, -1], [3, 0, 1, 2]])
        >>> points, ptr = torch.rand(7, 2), torch.tensor([0, 3, 7])
        >>> loss = pointing_loss(model(points, ptr, target), target)
        >>> found, length, logp = model.decode(points, ptr, beam=3)
    """

    takes_tokens = True

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        encoder: str | nn.Module = "lstm",
        end_token: bool = True,
        unique: bool = False,
        follow_edges: bool = False,
        feed: str = "input",
        glimpses: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels, self.hidden = check_int(in_channels, "in_channels", 1), check_int(hidden, "hidden", 1)
        self.end_token, self.unique, self.follow_edges = end_token, unique, follow_edges
        self.feed = check_choice(feed, "feed", ("input", "state"))
        if isinstance(encoder, nn.Module):
            self.encoder = encoder
        elif check_choice(encoder, "encoder", ("lstm", "set")) == "lstm":
            self.encoder = nn.LSTM(in_channels, hidden, batch_first=True)
        else:
            heads = next(count for count in (4, 2, 1) if hidden % count == 0)
            self.encoder = TokenModel(in_channels, hidden, hidden, lambda channels: SelfAttention(channels, heads))
        read = in_channels if feed == "input" else hidden
        self.start = nn.Parameter(torch.empty(read))
        self.end = nn.Parameter(torch.empty(hidden)) if end_token else None
        # An encoder that is no LSTM has no last state: the decoder starts from the mean of the nodes.
        self.lin_start = None if isinstance(self.encoder, nn.LSTM) else nn.Linear(hidden, 2 * hidden)
        self.decoder = nn.LSTM(read, hidden, batch_first=True)
        self.pointer = AdditivePointer(hidden, hidden, hidden)
        self.glimpses = nn.ModuleList(
            AdditivePointer(hidden, hidden, hidden) for _ in range(check_int(glimpses, "glimpses", 0))
        )
        self._draw()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.encoder, self.lin_start, self.decoder, self.pointer, *self.glimpses):
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
        self._draw()

    def _draw(self) -> None:
        for vector in (self.start, self.end):
            if vector is not None:
                nn.init.uniform_(vector, -0.08, 0.08)

    def forward(self, x: Tensor, tokens: Any, target: Tensor) -> Tensor:
        """Logits of each step when the steps before went as ``target`` says (teacher forcing)."""
        layout = self._layout(x, tokens)
        self._check_target(layout, target)
        keys, state, padded = self._encode(x, layout)
        read = padded if self.feed == "input" else keys[:, : layout.max_length]
        place = target.clamp(min=0)[..., None].expand(-1, -1, read.size(2))
        known = read.gather(1, place)
        first = self.start.expand(len(target), 1, -1)
        given = torch.cat([first, known if self.end_token else known[:, :-1]], dim=1)
        out, _ = self.decoder(given, state)
        return self._logits(out, keys, self._candidates(layout, target, out.size(1)))

    @torch.no_grad()
    def decode(
        self,
        x: Tensor,
        tokens: Any = None,
        beam: int = 1,
        unique: bool | None = None,
        max_steps: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable answers found by a beam search; ``beam=1`` takes the best node in each step.

        Args:
            x: ``[N, in_channels]``.
            tokens: as :class:`~graphkit.nn.TokenMixer`.
            beam: number of partial answers kept of each graph.
            unique: no node comes twice; as in training if None.
            max_steps: most nodes of an answer; the size of the largest graph if None.

        Returns:
            - ``[B, M]`` places of nodes, -1 after the end
            - ``[B]`` lengths
            - ``[B]`` log-probabilities; -inf for an answer that came to a node from which no candidate is left

        Raises:
            ValueError: ``beam`` below 1, or neither ``end_token`` nor ``unique`` nor ``max_steps`` says when to stop.
        """
        check_int(beam, "beam", 1)
        unique = self.unique if unique is None else unique
        if max_steps is None and not (self.end_token or unique):
            raise ValueError("max_steps must be given with end_token=False and unique=False (got None)")
        layout = self._layout(x, tokens)
        graphs, longest = layout.num_graphs, layout.max_length
        steps = longest if max_steps is None else check_int(max_steps, "max_steps", 1)
        keys, (h, c), padded = self._encode(x, layout)
        read = padded if self.feed == "input" else keys[:, :longest]
        projected = self._projected(keys)
        # Every graph has ``beam`` rows; of equal ones at the start only the first counts.
        spread = torch.arange(graphs, device=x.device).repeat_interleave(beam)
        keys, projected, read = keys[spread], [part[spread] for part in projected], read[spread]
        h, c = h[:, spread].contiguous(), c[:, spread].contiguous()
        total = torch.full((graphs, beam), -torch.inf, device=x.device, dtype=x.dtype)
        total[:, 0] = 0
        chosen = torch.full((graphs * beam, steps), -1, device=x.device)
        open_ = layout.mask[spread]
        edges = self._adjacency(layout)[spread] if self.follow_edges else None
        done = torch.zeros(graphs * beam, dtype=torch.bool, device=x.device)
        row, last = torch.arange(graphs * beam, device=x.device), torch.zeros_like(spread)
        given = self.start.expand(graphs * beam, 1, -1)
        stop = longest  # the column of the end
        for step in range(steps + self.end_token):
            # Without an end of its own, an answer is whole when every node is in it.
            if unique and not self.end_token:
                done = done | ~open_.any(1)
            if bool(done.all()):
                break
            seen = open_ if edges is None or step == 0 else open_ & edges[row, last]
            mask = torch.cat([seen, torch.full_like(done, self.end_token)[:, None]], dim=1)
            out, (h, c) = self.decoder(given, (h, c))
            logits = self._logits(out, keys, mask[:, None], projected)[:, 0]
            if step == steps:
                mask[:, :stop] = False  # no room for another node
            logp = logits.log_softmax(1).masked_fill(~mask, -torch.inf)
            # What is done stays as it is, at no cost.
            logp = torch.where(done[:, None], torch.full_like(logp, -torch.inf), logp)
            logp[:, stop] = logp[:, stop].masked_fill(done, 0)
            value, place = (total.view(-1, 1) + logp).view(graphs, -1).topk(beam, dim=1)
            total = value
            parent = (place // (longest + 1) + beam * torch.arange(graphs, device=x.device)[:, None]).view(-1)
            node = (place % (longest + 1)).view(-1)
            chosen, open_, done = chosen[parent], open_[parent], done[parent]
            h, c = h[:, parent].contiguous(), c[:, parent].contiguous()
            done = done | (node == stop) | total.view(-1).isneginf()
            last = torch.where(done, 0, node)
            if step < steps:
                chosen[:, step] = torch.where(done, -1, node)
            if unique:
                open_ = open_ & ~(F.one_hot(last, longest).bool() & ~done[:, None])
            given = read.gather(1, last[:, None, None].expand(-1, 1, read.size(2)))
        best = torch.arange(graphs, device=x.device) * beam  # topk sorts
        found = chosen[best]
        return found, (found >= 0).sum(1), total[:, 0]

    # What both share ---------------------------------------------------------------------------------------------

    def _layout(self, x: Tensor, tokens: Any) -> TokenLayout:
        check_finite(check_rows(x, self.in_channels, self.decoder.weight_hh_l0))  # type: ignore[arg-type]
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        if layout.num_graphs == 0 or (layout.ptr.device.type == "cpu" and not bool(layout.length.all())):
            raise ValueError("every graph must have a node to point at (got one without)")
        if self.follow_edges:
            if layout.edge_index is None:
                raise ValueError("tokens must have edge_index [2, E] with follow_edges=True (got none)")
            layout.check_edges()
        return layout

    def _check_target(self, layout: TokenLayout, target: Tensor) -> None:
        if (
            not isinstance(target, Tensor)
            or target.dim() != 2
            or target.size(0) != layout.num_graphs
            or target.dtype not in INDEX_DTYPES
        ):
            got = f"{list(target.shape)} {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(f"target must hold a row of places for each of {layout.num_graphs} graphs (got {got})")
        check_device(target=target, ptr=layout.ptr)
        if target.device.type != "cpu":  # a GPU is not waited for
            return
        if bool(((target < -1) | (target >= layout.length[:, None])).any()):
            bad = int(((target < -1) | (target >= layout.length[:, None])).any(1).nonzero()[0])
            raise ValueError(
                f"target[{bad}] must lie in [0, {int(layout.length[bad])}), or be -1 after the end "
                f"(got {target[bad].tolist()})"
            )
        if bool(((target[:, :-1] < 0) & (target[:, 1:] >= 0)).any()):
            raise ValueError("target must be -1 only after the end (got a place after -1)")
        ordered = target.sort(dim=1).values
        if self.unique and bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
            raise ValueError("target must not repeat a node with unique=True")
        if not self.end_token and self.unique and bool(((target >= 0).sum(1) != layout.length).any()):
            raise ValueError("target must hold every node with unique=True and end_token=False")

    def _encode(self, x: Tensor, layout: TokenLayout) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Keys ``[B, L + 1, hidden]``, the end being the last, the decoder's first state, and padded features."""
        padded = layout.pad(x)
        if isinstance(self.encoder, nn.LSTM):
            if layout.is_rectangular:
                e, state = self.encoder(padded)
            else:
                packed = pack_padded_sequence(padded, layout.length.cpu(), batch_first=True, enforce_sorted=False)
                out, state = self.encoder(packed)
                e, _ = pad_packed_sequence(out, batch_first=True)
        else:
            takes_tokens = isinstance(self.encoder, TokenMixer) or getattr(self.encoder, "takes_tokens", False)
            if not takes_tokens and layout.edge_index is None:
                raise ValueError("tokens must have edge_index [2, E] for an encoder of graphs (got none)")
            z = self.encoder(x, layout if takes_tokens else layout.edge_index)
            if z.shape != (x.size(0), self.hidden):
                raise ValueError(f"encoder must make vectors of hidden={self.hidden} (got {list(z.shape)})")
            assert self.lin_start is not None
            e = layout.pad(z)
            h, c = self.lin_start(layout.mean(z)).chunk(2, dim=-1)
            state = (torch.tanh(h)[None].contiguous(), c[None].contiguous())
        end = e.new_zeros(len(e), 1, self.hidden) if self.end is None else self.end.expand(len(e), 1, -1)
        return torch.cat([e, end], dim=1), state, padded

    def _projected(self, keys: Tensor) -> list[Tensor]:
        """Keys as the pointer, and each glimpse, compares them."""
        return [part.lin_key(keys) for part in (self.pointer, *self.glimpses)]

    def _logits(self, query: Tensor, keys: Tensor, mask: Tensor, projected: list[Tensor] | None = None) -> Tensor:
        projected = self._projected(keys) if projected is None else projected
        for part, known in zip(self.glimpses, projected[1:], strict=True):
            query = self._glimpse(part, query, keys, mask, known)  # type: ignore[arg-type]
        return self.pointer.score(query, projected[0], mask)

    def _glimpse(self, part: AdditivePointer, query: Tensor, keys: Tensor, mask: Tensor, projected: Tensor) -> Tensor:
        """Mean of the candidates, zero where there is none; the end is nothing to look at."""
        nodes = mask & (torch.arange(mask.size(-1), device=mask.device) < mask.size(-1) - 1)
        empty = ~nodes.any(-1, keepdim=True)  # a row of nothing would be NaN
        return part.score(query, projected, nodes | empty).softmax(-1).masked_fill(empty, 0) @ keys

    def _candidates(self, layout: TokenLayout, target: Tensor, steps: int) -> Tensor:
        """``[B, steps, L + 1]`` what may come in each step after the steps before it."""
        longest = layout.max_length
        nodes = layout.mask[:, None].expand(-1, steps, -1)
        before = target[:, : steps - 1]
        if self.unique:
            seen = F.one_hot(before.clamp(min=0), longest) * (before >= 0)[..., None]
            nodes = nodes & (F.pad(seen.cumsum(1), (0, 0, 1, 0)) == 0)
        if self.follow_edges and steps > 1:
            place = before.clamp(min=0)[..., None].expand(-1, -1, longest)
            reached = self._adjacency(layout).gather(1, place)
            self._check_path(target[:, :steps], reached)
            nodes = torch.cat([nodes[:, :1], nodes[:, 1:] & reached], dim=1)
        end = torch.full((*nodes.shape[:2], 1), self.end_token, device=nodes.device)
        return torch.cat([nodes, end], dim=2)

    def _check_path(self, target: Tensor, reached: Tensor) -> None:
        """Each node of the answers is a neighbour of the one before; a GPU is not waited for."""
        after = target[:, 1:]
        lost = ~reached[:, : after.size(1)].gather(2, after.clamp(min=0)[..., None])[..., 0] & (after >= 0)
        if target.device.type == "cpu" and bool(lost.any()):
            row, step = (int(i) for i in lost.nonzero()[0])
            raise ValueError(
                f"target[{row}] must follow edges (got {target[row].tolist()}: no edge from {int(target[row, step])} "
                f"to {int(target[row, step + 1])})"
            )

    def _adjacency(self, layout: TokenLayout) -> Tensor:
        """``[B, L, L]`` True from a node to its out-neighbours, in reading order."""
        assert layout.edge_index is not None
        src, dst = layout.edge_index
        longest = layout.max_length
        out = torch.zeros(layout.num_graphs, longest, longest, dtype=torch.bool, device=src.device)
        out[layout.batch[src], layout.rank[src], layout.rank[dst]] = True
        return out

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.hidden}, encoder={type(self.encoder).__name__}, "
            f"end_token={self.end_token}, unique={self.unique})"
        )


def pointing_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of answers, summed over the steps of an answer, the end included, and averaged over answers.

    Args:
        logits: ``[B, M + 1, C]``, the last column being the end, or ``[B, M, C]`` without an end.
        target: ``[B, M]`` places, -1 after the end.

    Raises:
        ValueError: another number of steps.

    Example:
        >>> pointing_loss(torch.zeros(1, 3, 4), torch.tensor([[2, -1]]))  # two steps, four equal candidates
        tensor(2.7726)
    """
    extra = logits.size(1) - target.size(1)
    if extra not in (0, 1):
        raise ValueError(f"logits must have {target.size(1)} steps, or one more for the end (got {logits.size(1)})")
    label = target.long()
    if extra:
        label = F.pad(label, (0, 1), value=-1)
        length = (target >= 0).sum(1, keepdim=True)
        label = label.scatter(1, length, logits.size(2) - 1)
    # Steps after the end may have no candidate at all.
    safe = logits.masked_fill((label < 0)[..., None], 0)
    return F.cross_entropy(safe.flatten(0, 1), label.flatten(), ignore_index=-1, reduction="sum") / len(target)
