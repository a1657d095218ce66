"""NAT: links of a stream predicted from joint neighbourhoods that need no sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkit.nn.temporal.joint_neighborhood import JointNeighborhood
from graphkit.nn.temporal.neighborhood_cache import NeighborhoodCache
from graphkit.nn.temporal.state import TemporalModel
from graphkit.nn.temporal.time_encoder import TimeEncoder
from graphkit.ops import neighborhood_cache as ops
from graphkit.ops.last import compact, last_occurrence
from graphkit.utils.checks import check_features, check_int

# Pairs that are scored at once; more are scored in several parts, so that memory does not grow with the candidates.
_PAIRS = 32768
_MANY = 2**62


class _Read(NamedTuple):
    """Caches and self vectors of some nodes, brought up to date."""

    n_id: Tensor
    own: Tensor
    key: Tensor
    e_id: Tensor
    t: Tensor
    rep: Tensor


class NAT(TemporalModel):
    r"""Neighborhood-aware Temporal Network from `"Neighborhood-aware Scalable Temporal Network Representation Learning"
    <https://arxiv.org/abs/2209.01084>`_.

    A node v has a long *self vector* :math:`s_v` and a :class:`~graphkit.nn.temporal.neighborhood_cache.
    NeighborhoodCache` of past neighbours with short vectors. Both keep the latest event raw and fold it in when they
    are read, which lets the loss reach the weights that fold:

    .. math::
        s'_v &= \mathrm{GRU}_s(W_s [s_{opp} \,\|\, e \,\|\, \varphi(t)],\; s_v) \\
        r'_{va} &= \mathrm{GRU}_n(W_n [s_a \,\|\, e \,\|\, \varphi(t)],\; r_{va}) \\
        \mathrm{logit}(u, v) &= \mathrm{MLP}([h_{uv} \,\|\, s'_u \,\|\, s'_v])

    with :math:`\varphi(t) = \cos(t w + b)` of the time of the folded event, its message e and, of the self vector, the
    opponent of that event. :math:`h_{uv}` is the :class:`~graphkit.nn.temporal.joint_neighborhood.JointNeighborhood`
    of the pair. After an event (u, v), u gets v at hop 1 and v's neighbours at hop 2, and vice versa.

    A batch of B events with C candidates each costs O(B (1 + C) L) for caches of L slots, besides the matrix products,
    whatever the length of the stream. Nodes that are asked for several times are read once.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        msg_dim: width of the messages, 0 if there are none.
        x: ``[num_nodes, D_x]`` static features, or None.
        time_dim: width of :math:`\varphi`; its frequencies start at ``10 ** -linspace(0, 9, time_dim)``.
        self_dim: width of the self vectors.
        rep_dim: width of the vectors in the caches.
        cache_sizes: slots of hop 1 and of hop 2; one number for a single hop.
        pos_dim: width of the embedding of distance codes.
        embed_dim: width of :math:`h`; None: that of ``x``, or ``self_dim`` without ``x``.
        heads: maps that :math:`h` is the mean of.
        dropout: probability of leaving out a feature of the joint neighbourhood.
        replace_prob: probability that a new neighbour replaces another one in its slot.
        aggr: ``"attention"``, as the paper says, or ``"sum"``, as the released code does.
        seed: of the random replacements.

    Shapes:
        - as :class:`~graphkit.nn.temporal.state.TemporalModel`; ``embed`` gives :math:`s'`, ``[n, self_dim]``

    Raises:
        IndexError: a node id outside the graph.
        TypeError, ValueError: an argument of another type or out of range, events that are not in order of time.

    Example:
        >>> model = NAT(num_nodes=10)
        >>> src, dst, t, e_id = torch.tensor([[0, 1], [2, 3], [5, 6], [0, 1]])
        >>> model.update_state(src, dst, t, e_id)
        >>> model(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([7])).shape
        torch.Size([1, 3])
    """

    self_rep: Tensor
    opponent: Tensor
    x: Tensor | None
    msg_dim: int

    def __init__(
        self,
        num_nodes: int,
        msg_dim: int = 0,
        x: Tensor | None = None,
        *,
        time_dim: int = 1,
        self_dim: int = 72,
        rep_dim: int = 4,
        cache_sizes: Sequence[int] = (32, 16),
        pos_dim: int = 16,
        embed_dim: int | None = None,
        heads: int = 2,
        dropout: float = 0.1,
        replace_prob: float = 0.9,
        aggr: str = "attention",
        seed: int = 0,
    ) -> None:
        super().__init__(num_nodes)
        self.msg_dim = check_int(msg_dim, "msg_dim", 0)
        self.time_dim = check_int(time_dim, "time_dim", 1)
        self.self_dim = check_int(self_dim, "self_dim", 1)
        if x is not None and check_features(x).size(0) != num_nodes:
            raise ValueError(f"x must have one row for each of {num_nodes} nodes (got {list(x.shape)})")
        self.register_buffer("x", x, persistent=False)
        width = 0 if x is None else x.size(1)
        self.embed_dim = check_int(embed_dim if embed_dim is not None else width or self_dim, "embed_dim", 1)
        self.cache = NeighborhoodCache(num_nodes, cache_sizes, rep_dim, replace_prob, seed)
        self.register_state("self_rep", num_nodes, self_dim)
        # The last row takes what is not to be kept.
        self.register_state("opponent", num_nodes + 1, fill=-1, dtype=torch.int64)
        event_dim = self_dim + msg_dim + time_dim
        self.time_encoder = TimeEncoder(time_dim)
        self.neighbor_input = nn.Linear(event_dim, rep_dim, bias=False)
        self.neighbor_cell = nn.GRUCell(rep_dim, rep_dim)
        self.self_input = nn.Linear(event_dim, self_dim, bias=False)
        self.self_cell = nn.GRUCell(self_dim, self_dim)
        self.joint = JointNeighborhood(
            rep_dim + width,
            self.embed_dim,
            self.cache.bounds,
            pos_dim=pos_dim,
            heads=heads,
            dropout=dropout,
            aggr=aggr,
        )
        score_dim = self.embed_dim + 2 * self_dim
        self.score_hidden = nn.Linear(score_dim, score_dim)
        self.score_out = nn.Linear(score_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the state stays."""
        for cell in (self.neighbor_input, self.neighbor_cell, self.self_input, self.self_cell):
            cell.reset_parameters()
        self.time_encoder.reset_parameters()
        self.joint.reset_parameters()
        for layer in (self.score_hidden, self.score_out):
            layer.reset_parameters()
            nn.init.xavier_normal_(layer.weight)

    # Scores -----------------------------------------------------------------------------------------------------------

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t, msg)
        if dst.numel() == 0:
            return self.self_rep.new_zeros(dst.shape)
        n_id, place = compact(torch.cat([src[:, None], dst], 1), self.num_nodes)
        read = self._read(n_id, msg)
        feature = read.rep
        if self.x is not None:
            key = torch.cat([n_id[:, None], read.key[:, 1:]], 1)
            static = self.x[key.clamp(min=0)] * (key >= 0)[..., None]
            feature = torch.cat([feature, static], -1)
        joint, ends = self.score_hidden.weight.split([self.embed_dim, 2 * self.self_dim], 1)
        # What the two ends add to the hidden layer, once a node.
        of_src, of_dst = (read.own @ part.t() for part in ends.split(self.self_dim, 1))
        of_src = of_src.index_select(0, place[:, 0])[:, None] + self.score_hidden.bias
        parts = []
        for chosen in place[:, 1:].split(max(_PAIRS // len(src), 1), 1):
            u, v = place[:, :1].expand_as(chosen).reshape(-1), chosen.reshape(-1)
            hidden = self.joint(read.key, feature, n_id, u, v) @ joint.t() + of_dst.index_select(0, v)
            hidden = (hidden.view(*chosen.shape, -1) + of_src).relu_()
            parts.append(self.score_out(hidden).squeeze(-1))
        return torch.cat(parts, 1)

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_nodes(n_id, t, msg)
        e_id, t = self.cache.e_id[n_id, 0], self.cache.t[n_id, 0]
        return self._own(n_id, self._event(e_id, t, msg))

    # State ------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id, msg)
        if src.numel() == 0:
            return
        # Both ends of each event, one event after the other: where several write to one place the last one wins.
        ends, other = torch.stack([src, dst], 1).view(-1), torch.stack([dst, src], 1).view(-1)
        e_id_of, t_of = (part.repeat_interleave(2) for part in (e_id, t))
        n_id, place = compact(ends, self.num_nodes)
        place_of_other = place.view(-1, 2).flip(1).reshape(-1)
        read = self._read(n_id, msg)

        self.self_rep[ends] = read.own.index_select(0, place)
        self.opponent[torch.where(last_occurrence(ends), ends, self.num_nodes)] = other
        self.opponent[-1].fill_(-1)

        near = slice(self.cache.bounds[1], self.cache.bounds[2])
        if len(self.cache.sizes) == 2:
            offer = (read.key[:, near], read.e_id[:, near], read.t[:, near], read.rep[:, near])
            self.cache.insert(2, ends, *offer, source=place_of_other)
        column = near.start + ops.hash_slot(other, near.stop - near.start)
        known = read.key[place, column] == other
        rep = read.rep[place, column] * known[:, None]
        self.cache.insert(1, ends, other, e_id_of, t_of, rep)
        self.cache.insert(0, ends, ends, e_id_of, t_of, read.rep[place, 0])
        super().update_state(src, dst, t, e_id, msg)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read(self, n_id: Tensor, msg: Tensor | None) -> _Read:
        key, e_id, t, rep = self.cache.fetch(n_id)
        # Entries share keys and events, whose parts of the input are made once each.
        if self.num_nodes <= key.numel():
            # A copy: update_state may write to the buffer before backward reads it.
            table, row = self.self_rep.clone(), key.view(-1)
        else:
            nodes, inverse = compact(key.view(-1).clamp(min=0), self.num_nodes)
            table, row = self.self_rep.index_select(0, nodes), torch.where(key.view(-1) < 0, -1, inverse)
        # Event -1, of empty entries, is number 0 here.
        events, event_row = compact(e_id.view(-1) + 1, _MANY if msg is None else msg.size(0) + 1)
        time = t.new_empty(events.numel())
        time[event_row] = t.view(-1)
        event = self._event(events - 1, time, msg)
        # The entry of hop 0 is of the same event as the self vector's.
        own = self._own(n_id, event.index_select(0, event_row[:: key.size(1)]))
        of_key, of_event = self.neighbor_input.weight.split([self.self_dim, event.size(1)], 1)
        cell = self.neighbor_cell
        new = ops.fold(
            row,
            table @ of_key.t(),
            event_row,
            event @ of_event.t(),
            rep.flatten(0, 1),
            cell.weight_ih,
            cell.weight_hh,
            cell.bias_ih,
            cell.bias_hh,
        )
        return _Read(n_id, own, key, e_id, t, new.view_as(rep))

    def _own(self, n_id: Tensor, event: Tensor) -> Tensor:
        """Self vectors of nodes, their latest events folded in."""
        old, opponent = self.self_rep.index_select(0, n_id), self.opponent.index_select(0, n_id)
        x = torch.cat([self.self_rep.index_select(0, opponent.clamp(min=0)), event], 1)
        new = self.self_cell(self.self_input(x), old)
        return torch.where((opponent >= 0)[:, None], new, old)

    def _event(self, e_id: Tensor, t: Tensor, msg: Tensor | None) -> Tensor:
        """Messages and encoded times of events, the part of the input that they share."""
        time = self.time_encoder(t)
        if msg is None:
            return time
        return torch.cat([msg.index_select(0, e_id.clamp(min=0)).to(time.dtype), time], 1)

    def __repr__(self) -> str:
        return (
            f"NAT({self.num_nodes}, msg_dim={self.msg_dim}, self_dim={self.self_dim}, "
            f"cache_sizes={self.cache.sizes}, aggr={self.joint.aggr!r})"
        )
