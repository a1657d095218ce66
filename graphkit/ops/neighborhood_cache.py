"""Caches of past neighbours with one slot a hash value: how they are written, joined for pairs of nodes, and brought up
to date.

A cache is a table ``[N, L]``. Column 0 is hop 0, the node itself; then come the slots of hop 1 and of hop 2, whose
columns are ``bounds[k] : bounds[k + 1]`` with ``bounds = [0, 1, 1 + M_1, 1 + M_1 + M_2]``. A key can lie in one slot of
each hop only, :func:`hash_slot`. An empty slot has the key -1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import neighborhood_cache as cpu
from graphkit.ops.cuda import has_triton
from graphkit.ops.sample import _GAMMA, mix, uniform

NUM_CODES = 64


def hash_slot(key: Tensor, size: int) -> Tensor:
    """The slot of each key among ``size``: the high half of a 64-bit multiplicative hash, scaled.

    Example:
        >>> hash_slot(torch.tensor([0, 1, 2, 3]), 16)
        tensor([ 0,  9,  3, 13])
    """
    return ((((key * _GAMMA) >> 32) & (2**32 - 1)) * size) >> 32


def random_stream(seed: int) -> Tensor:
    """The stream of random numbers of a seed, a scalar int64 tensor."""
    return mix(torch.tensor(seed) + _GAMMA)


# Writes ---------------------------------------------------------------------------------------------------------------


def insert(
    cache: tuple[Tensor, Tensor, Tensor, Tensor],
    owner: Tensor,
    offer: tuple[Tensor, Tensor, Tensor, Tensor],
    alpha: float,
    stream: Tensor,
    draw: Tensor,
    source: Tensor | None = None,
) -> None:
    r"""Offer entries to the caches of nodes, in place.

    An offer is taken if its slot is empty or holds the same key, and with probability ``alpha`` if it holds another.
    What the slots hold is looked up before any offer is written, and of several offers taken by one slot the last one
    wins. The random number of an offer is a hash of the stream and of its place, so that neither the device nor the
    number of threads matters. O(R (J + M)).

    Args:
        cache: ``(key, e_id, t, rep)`` of one hop: ``[N, M]``, three times int64, and ``[N, M, F]``. May be views.
        owner: ``[R]`` nodes that are offered something.
        offer: ``(key, e_id, t, rep)`` as ``[n, J]`` and ``[n, J, F]``; the key -1 is no offer.
        alpha: probability of replacing another key.
        stream, draw: random stream and its first number, scalar int64 tensors; R J numbers are used.
        source: ``[R]`` rows of ``offer``; None: row r is for ``owner[r]``.
    """
    if owner.numel() == 0 or offer[0].size(1) == 0:
        return
    if owner.device.type == "cpu":
        cpu.insert(cache, owner, offer, source, alpha, int(stream), int(draw))
    elif owner.is_cuda and has_triton():
        from graphkit.ops.cuda import neighborhood_cache as cuda

        cuda.insert(cache, owner, offer, source, alpha, stream, draw)
    else:
        insert_reference(cache, owner, offer, alpha, stream, draw, source)


def insert_reference(
    cache: tuple[Tensor, Tensor, Tensor, Tensor],
    owner: Tensor,
    offer: tuple[Tensor, Tensor, Tensor, Tensor],
    alpha: float,
    stream: Tensor,
    draw: Tensor,
    source: Tensor | None = None,
) -> None:
    """The same in plain PyTorch. Rows of one owner agree on the winners, so that each may write them."""
    if source is not None:
        offer = tuple(part[source] for part in offer)  # type: ignore[assignment]
    key, held = offer[0], cache[0][owner]
    count, size = key.size(1), held.size(1)
    place = torch.arange(key.numel(), device=key.device).view(key.shape)
    slot = hash_slot(key.clamp(min=0), size)
    old = held.gather(1, slot)
    taken = (key >= 0) & ((old < 0) | (old == key) | (uniform(stream, draw + place) < alpha))
    first = representatives(owner, cache[0].size(0))
    winner = torch.full((owner.numel() * size,), -1, device=key.device)
    winner.scatter_reduce_(0, (first[:, None] * size + slot).view(-1), torch.where(taken, place, -1).view(-1), "amax")
    winner = winner.view(-1, size)[first]
    row, column = winner.clamp(min=0) // count, winner.clamp(min=0) % count
    for part, offered in zip(cache, offer, strict=True):
        new = offered[row, column]
        won = (winner >= 0).view(*winner.shape, *(1,) * (new.dim() - 2))
        part[owner] = torch.where(won, new, part[owner])


def representatives(owner: Tensor, num_nodes: int) -> Tensor:
    """For each place of ``owner`` one place that holds the same node, the same one for all of them.

    Only the rows that are written are read, so that the table need not be filled. Which place it is may differ from
    run to run on a GPU; what follows must not depend on it.
    """
    table = owner.new_empty(num_nodes)
    table[owner] = torch.arange(owner.numel(), device=owner.device)
    return table[owner]


# Joins ----------------------------------------------------------------------------------------------------------------


def joint_codes(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None = None) -> Tensor:
    """``[P, 2 L]`` codes of the distinct keys that the caches of each pair hold.

    The code says which hops hold the key: the bits 1, 2, 4 for the hops 0, 1, 2 of ``u``, and 8, 16, 32 for those of
    ``v``. It stands at the key's first place among the entries of ``u`` and then of ``v``; all other places are 0.
    O(P L), because each key is looked up where its hash says.

    Args:
        key: ``[n, L]``; column 0 is not read.
        bounds: columns of the hops.
        u, v: ``[P]`` rows of ``key``.
        node: ``[n]`` the node of each row; None: row i is node i.

    Example:
        >>> key = torch.full((3, 2), -1)  # one slot at hop 1
        >>> key[0, 1], key[1, 1] = 2, 2  # 0 and 1 have both met 2
        >>> joint_codes(key, [0, 1, 2], torch.tensor([0]), torch.tensor([1]))
        tensor([[ 1, 18,  8,  0]])
    """
    if key.device.type == "cpu":
        return cpu.joint_codes(key, bounds, u, v, node)
    return joint_codes_reference(key, bounds, u, v, node)


def joint_codes_reference(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None = None) -> Tensor:
    """The same in plain PyTorch."""
    code, first = _lookup(key, bounds, u, v, node)
    return code * (first == torch.arange(code.size(1), device=key.device))


def _lookup(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None) -> tuple[Tensor, Tensor]:
    """Code of every entry's key, 0 where empty, and the place of the first entry of that key, both ``[P, 2 L]``."""
    length = key.size(1)
    ends = (u, v) if node is None else (node[u], node[v])
    sides = [torch.cat([end[:, None], key[row, 1:]], 1) for end, row in zip(ends, (u, v), strict=True)]
    wanted = torch.cat(sides, 1)
    code = torch.zeros_like(wanted)
    first = torch.arange(2 * length, device=key.device).expand_as(wanted)
    for side in (1, 0):
        for hop in reversed(range(len(bounds) - 1)):
            column = bounds[hop] + hash_slot(wanted.clamp(min=0), bounds[hop + 1] - bounds[hop])
            hit = (sides[side].gather(1, column) == wanted) & (wanted >= 0)
            code = code + hit * 2 ** (3 * side + hop)
            first = torch.where(hit, side * length + column, first)
    return code, first


def joint_histogram(key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None = None) -> Tensor:
    """``[P, 64]`` float32: how many distinct keys of each pair have each code of :func:`joint_codes`.

    Times an embedding of the codes it is the sum of the keys' embeddings.

    Example:
        >>> key = torch.tensor([[-1, 2], [-1, 2], [-1, -1]])
        >>> joint_histogram(key, [0, 1, 2], torch.tensor([0]), torch.tensor([1])).nonzero()
        tensor([[ 0,  1],
                [ 0,  8],
                [ 0, 18]])
    """
    if key.device.type == "cpu":
        return cpu.joint_histogram(key, bounds, u, v, node)
    if key.is_cuda and has_triton():
        from graphkit.ops.cuda import neighborhood_cache as cuda

        return cuda.joint_histogram(key, bounds, u, v, node)
    return joint_histogram_reference(key, bounds, u, v, node)


def joint_histogram_reference(
    key: Tensor, bounds: list[int], u: Tensor, v: Tensor, node: Tensor | None = None
) -> Tensor:
    """The same in plain PyTorch."""
    code = joint_codes_reference(key, bounds, u, v, node)
    count = torch.zeros(code.size(0), NUM_CODES, device=key.device)
    return count.scatter_add_(1, code, (code > 0).float())


def joint_attention(
    key: Tensor,
    bounds: list[int],
    u: Tensor,
    v: Tensor,
    node: Tensor | None,
    score: Tensor,
    code_score: Tensor,
    feature: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Softmax attention over the distinct keys of each pair.

    The key :math:`a` of pair p has the logit :math:`\sum_{i \in a} s_i + c_{code(a)}`, where i runs over its entries,
    and the weight :math:`\alpha_a`, the softmax over the pair's keys. O(P L H F).

    Args:
        key, bounds, u, v, node: as :func:`joint_codes`.
        score: ``[n, L, H]`` the entries' part of the logits, one a head.
        code_score: ``[64, H]`` the codes' part.
        feature: ``[n, L, F]`` what is pooled.

    Returns:
        ``[P, H, F]`` sums :math:`\sum_a \alpha_a \sum_{i \in a} x_i`, and ``[P, H, 64]`` the weight that falls on each
        code. Both are differentiable in ``score``, ``code_score`` and ``feature``.
    """
    if key.device.type == "cpu":
        return _attention(key, bounds, u, v, node, score, code_score, feature)[:2]
    return joint_attention_reference(key, bounds, u, v, node, score, code_score, feature)


def joint_attention_reference(
    key: Tensor,
    bounds: list[int],
    u: Tensor,
    v: Tensor,
    node: Tensor | None,
    score: Tensor,
    code_score: Tensor,
    feature: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, with tensors of ``[P, 2 L, F]``."""
    code, first = _lookup(key, bounds, u, v, node)
    valid = (code > 0)[..., None]
    alone = valid & (first == torch.arange(code.size(1), device=key.device))[..., None]
    heads = score.size(2)
    place = first[..., None].expand(-1, -1, heads)
    entry = torch.cat([score[u], score[v]], 1) * valid
    logit = torch.zeros_like(entry).scatter_add(1, place, entry) + code_score[code]
    weight = logit.masked_fill(~alone, -torch.inf).softmax(1)
    spread = (weight.gather(1, place) * valid).transpose(1, 2)
    pooled = spread @ torch.cat([feature[u], feature[v]], 1)
    mass = weight.new_zeros(code.size(0), NUM_CODES, heads)
    mass = mass.scatter_add(1, code[..., None].expand(-1, -1, heads), weight)
    return pooled, mass.transpose(1, 2)


@torch.library.custom_op("graphkit::joint_attention", mutates_args=())
def _attention(
    key: Tensor,
    bounds: list[int],
    u: Tensor,
    v: Tensor,
    node: Tensor | None,
    score: Tensor,
    code_score: Tensor,
    feature: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return cpu.joint_attention(key, bounds, u, v, node, score, code_score, feature)  # type: ignore[return-value]


@_attention.register_fake
def _(key, bounds, u, v, node, score, code_score, feature):
    pairs, heads, places = u.shape[0], score.shape[2], 2 * key.shape[1]
    code, first = (key.new_empty(pairs, places, dtype=torch.int32) for _ in range(2))
    sizes = (heads, feature.shape[2]), (heads, NUM_CODES), (places, heads)
    pooled, mass, alpha = (score.new_empty(pairs, *size) for size in sizes)
    return pooled, mass, code, first, alpha


@torch.library.custom_op("graphkit::joint_attention_backward", mutates_args=())
def _attention_backward(
    u: Tensor,
    v: Tensor,
    code: Tensor,
    first: Tensor,
    alpha: Tensor,
    feature: Tensor,
    d_pooled: Tensor,
    d_mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.joint_attention_backward(u, v, code, first, alpha, feature, d_pooled, d_mass)


@_attention_backward.register_fake
def _(u, v, code, first, alpha, feature, d_pooled, d_mass):
    heads = alpha.shape[2]
    score = alpha.new_empty(*feature.shape[:2], heads)
    return score, alpha.new_empty(NUM_CODES, heads), torch.empty_like(feature)


def _setup_attention(ctx, inputs, output) -> None:
    _, _, u, v, _, _, _, feature = inputs
    ctx.save_for_backward(u, v, *output[2:], feature)
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(True)


def _backward_attention(ctx, d_pooled: Tensor, d_mass: Tensor, *_):
    d_pooled, d_mass = d_pooled.contiguous(), d_mass.contiguous()
    return *(None,) * 5, *_attention_backward(*ctx.saved_tensors, d_pooled, d_mass)


_attention.register_autograd(_backward_attention, setup_context=_setup_attention)


# Bringing entries up to date ------------------------------------------------------------------------------------------


def fold(
    row: Tensor,
    table: Tensor,
    event_row: Tensor,
    event: Tensor,
    rep: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> Tensor:
    r"""One step of :class:`torch.nn.GRUCell` for many entries whose inputs are sums of rows of two tables.

    .. math:: r'_i = \mathrm{GRUCell}(T_{row(i)} + E_{event(i)}, r_i)

    and 0 where ``row`` is -1. O(n F²); on the CPU one pass over the entries, with nothing stored for the backward pass.

    Args:
        row: ``[n]`` rows of ``table``, or -1.
        table: ``[T, F]``.
        event_row: ``[n]`` rows of ``event``; not read where ``row`` is -1.
        event: ``[E, F]``.
        rep: ``[n, F]`` states; carry no gradient.
        weight_ih, weight_hh, bias_ih, bias_hh: of the cell, ``[3 F, F]`` and ``[3 F]``.

    Shapes:
        - output ``[n, F]``
    """
    if row.device.type == "cpu":
        return _fold(row, table, event_row, event, rep, weight_ih, weight_hh, bias_ih, bias_hh)
    return fold_reference(row, table, event_row, event, rep, weight_ih, weight_hh, bias_ih, bias_hh)


def fold_reference(
    row: Tensor,
    table: Tensor,
    event_row: Tensor,
    event: Tensor,
    rep: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> Tensor:
    """The same in plain PyTorch."""
    valid = row >= 0
    x = table.index_select(0, row.clamp(min=0)) + event.index_select(0, torch.where(valid, event_row, 0))
    new = torch.gru_cell(x, rep.detach(), weight_ih, weight_hh, bias_ih, bias_hh)
    return new * valid[:, None]


@torch.library.custom_op("graphkit::cache_fold", mutates_args=())
def _fold(
    row: Tensor,
    table: Tensor,
    event_row: Tensor,
    event: Tensor,
    rep: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> Tensor:
    return cpu.fold(row, table, event_row, event, rep, weight_ih, weight_hh, bias_ih, bias_hh)


@_fold.register_fake
def _(row, table, event_row, event, rep, weight_ih, weight_hh, bias_ih, bias_hh):
    return torch.empty_like(rep)


@torch.library.custom_op("graphkit::cache_fold_backward", mutates_args=())
def _fold_backward(
    grad: Tensor,
    row: Tensor,
    table: Tensor,
    event_row: Tensor,
    event: Tensor,
    rep: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> list[Tensor]:
    return cpu.fold_backward(grad, row, table, event_row, event, rep, weight_ih, weight_hh, bias_ih, bias_hh)


@_fold_backward.register_fake
def _(grad, row, table, event_row, event, rep, *weights):
    return [torch.empty_like(part) for part in (table, event, *weights)]


def _setup_fold(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward_fold(ctx, grad: Tensor):
    table, event, *weights = _fold_backward(grad.contiguous(), *ctx.saved_tensors)
    return None, table, None, event, None, *weights


_fold.register_autograd(_backward_fold, setup_context=_setup_fold)
