"""Batches of events: what each node's part in them is, and ring buffers of each node's latest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.ops.cpu import events as cpu


class Neighbors(NamedTuple):
    """Neighbours of n nodes, all ``[n, K]``. Where ``mask`` is False there is none: the others hold valid ids there."""

    n_id: Tensor
    e_id: Tensor
    t: Tensor
    mask: Tensor


def last_place(index: Tensor) -> Tensor:
    """``[E]``: for each entry of ``index`` ``[E]`` the last place that holds the same value. O(E log E).

    Whoever writes ``value[last_place(index)]`` to slots ``index`` writes the same to a slot each time, so that the
    result is the same on every device.

    Example:
        >>> last_place(torch.tensor([3, 5, 3]))
        tensor([2, 1, 2])
    """
    ordered, order = torch.sort(index, stable=True)
    place = torch.searchsorted(ordered, index, right=True) - 1
    return order[place]


def ring_insert(
    src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor
) -> None:
    """Write a batch of events, in their order, into each end's ring of latest neighbours; in place.

    Node ``v``'s n-th neighbour since the start is in slot ``n % K`` of row ``v``. A node's event with itself is one
    neighbour. O(B) on the CPU, O(B log B) elsewhere.

    Args:
        src, dst, t, e_id: ``[B]`` int64, the events.
        neighbor, events, times: ``[N, K]`` int64: the other end, ``e_id`` and ``t``.
        count: ``[N]`` int64, number of neighbours that each node has had.
    """
    if src.device.type == "cpu":
        cpu.ring_insert(src, dst, t, e_id, neighbor, events, times, count)
    else:
        ring_insert_reference(src, dst, t, e_id, neighbor, events, times, count)


def ring_insert_reference(
    src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor
) -> None:
    """The same in plain PyTorch, with fixed shapes."""
    if src.numel() == 0:
        return
    size = neighbor.size(1)
    owner, other = torch.stack([src, dst], 1).view(-1), torch.stack([dst, src], 1).view(-1)
    # Of an event of a node with itself the second half counts nothing and writes what the first half writes.
    counted = torch.stack([torch.ones_like(src), (src != dst).long()], 1).view(-1)
    ordered, order = torch.sort(owner, stable=True)
    running = counted[order].cumsum(0)
    begin = torch.searchsorted(ordered, ordered)
    before = running[begin] - 1
    rank = running - 1 - before
    number = running[torch.searchsorted(ordered, ordered, right=True) - 1] - before
    # A slot that several would write gets the last of them from each.
    winner = before + rank + torch.div(number - 1 - rank, size, rounding_mode="floor") * size
    place = torch.empty_like(order).index_copy_(0, running - 1, torch.arange(order.numel(), device=order.device))
    half = order[place[winner]]
    slot = (count[ordered] + rank) % size
    neighbor[ordered, slot] = other[half]
    events[ordered, slot] = e_id[half // 2]
    times[ordered, slot] = t[half // 2]
    count.index_add_(0, owner, counted)


def ring_latest(n_id: Tensor, size: int, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor) -> Neighbors:
    """The latest ``size`` neighbours of nodes ``n_id`` ``[n]``, latest first, from the rings of :func:`ring_insert`.

    A node stands in for its own missing neighbours. O(n size).
    """
    if n_id.device.type == "cpu":
        return Neighbors(*cpu.ring_latest(n_id, size, neighbor, events, times, count))
    return ring_latest_reference(n_id, size, neighbor, events, times, count)


def ring_latest_reference(
    n_id: Tensor, size: int, neighbor: Tensor, events: Tensor, times: Tensor, count: Tensor
) -> Neighbors:
    """The same in plain PyTorch."""
    number = count[n_id][:, None]
    back = torch.arange(size, device=n_id.device)
    return ring_at(n_id, number - 1 - back, back < number, neighbor, events, times)


def ring_at(n_id: Tensor, place: Tensor, mask: Tensor, neighbor: Tensor, events: Tensor, times: Tensor) -> Neighbors:
    """The neighbours that were the ``place``-th ``[n, size]`` of nodes ``n_id`` since the start, where ``mask``."""
    row, slot = n_id[:, None], place % neighbor.size(1)
    empty = place.new_zeros(())
    return Neighbors(
        torch.where(mask, neighbor[row, slot], row),
        torch.where(mask, events[row, slot], empty),
        torch.where(mask, times[row, slot], empty),
        mask,
    )
