"""Synthetic graphs and event streams whose answer is known."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Data

from graphkit.datasets.events import EventStream
from graphkit.ops.cpu.parallel import kernel
from graphkit.ops.cpu.sample import mix, uniform
from graphkit.utils.checks import check_int, check_probabilities, check_range


def random_geometric_graph(num_nodes: int, radius: float, seed: int = 0) -> Data:
    """Uniform points in the unit square, an edge between two that are nearer than ``radius``; constant features.

    Links follow from the structure alone: neighbours of a node are likely to be neighbours of each other, while
    features and (but for the border) degrees say nothing.

    Args:
        num_nodes: number of points ``N``.
        radius: largest distance of an edge.
        seed: seed of the points.

    Returns:
        A graph with ``x`` ``[N, 1]`` ones, ``pos`` ``[N, 2]`` and ``edge_index`` ``[2, E]`` in both directions, made in
        O((N + E) log N).

    Raises:
        ValueError: ``num_nodes`` < 1 or ``radius`` <= 0.

    Example:
        >>> random_geometric_graph(100, 0.2)
        Data(x=[100, 1], edge_index=[2, 962], pos=[100, 2])
    """
    check_range(num_nodes, "num_nodes", 1)
    check_range(radius, "radius", 0, low_open=True)
    points = np.random.default_rng(seed).random((num_nodes, 2))
    near = cKDTree(points).query_pairs(radius, output_type="ndarray").astype(np.int64)
    near = near[np.lexsort((near[:, 1], near[:, 0]))]
    pairs = torch.from_numpy(near).t()
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    return Data(x=torch.ones(num_nodes, 1), edge_index=edge_index, pos=torch.from_numpy(points).float())


# Event streams --------------------------------------------------------------------------------------------------------
# Times are 0, 1, 2, ...: what there is to learn lies in who meets whom.

# Tries for an open triangle before a random pair is taken instead.
_TRIES = 100


def triadic_closure_stream(
    num_nodes: int = 500, num_events: int = 10_000, closure: float = 0.9, recent: int = 8, seed: int = 0
) -> EventStream:
    """Friends of friends meet: links follow from common recent neighbours, and from nothing else.

    With probability ``closure`` an event joins ``(a, c)``, where ``b`` is one of the last ``recent`` partners of ``a``,
    ``c`` one of the last partners of ``b`` and ``b`` still one of those of ``c``, but ``c`` none of those of ``a``;
    otherwise two random nodes meet. Counting common recent partners finds the links; which nodes are active, and who
    met before, says nothing.

    Args:
        num_nodes: number of nodes.
        num_events: number of events, made one after another in O(num_events recent).
        closure: probability of closing a triangle.
        recent: how many last partners count.
        seed: another seed, another stream.

    Raises:
        ValueError: fewer than 3 nodes, 1 event or 1 partner, or ``closure`` outside [0, 1].

    Example:
        >>> triadic_closure_stream()
        EventStream(events=10000, nodes=500, msg_dim=0, t=0..9999)
    """
    check_int(num_nodes, "num_nodes", 3)
    check_int(num_events, "num_events", 1)
    check_int(recent, "recent", 1)
    check_probabilities(closure=closure)
    ends = np.empty((2, num_events), dtype=np.int64)
    partners = np.empty((num_nodes, recent), dtype=np.int64)
    _close_triangles(_key(seed), closure, partners, np.zeros(num_nodes, dtype=np.int64), ends)
    return _stream(ends[0], ends[1], num_nodes)


@kernel
def _close_triangles(key, closure, partners, met, ends):  # pragma: no cover - compiled
    """``partners[v]`` is a ring of the last ones, ``met[v]`` how many there have been."""
    num_nodes, recent = partners.shape
    draw = 0
    for e in range(ends.shape[1]):
        src = dst = np.int64(-1)
        tries = _TRIES if uniform(key, draw) < closure else 0
        draw += 1
        for _ in range(tries):
            a = np.int64(uniform(key, draw) * num_nodes)
            first, second = uniform(key, draw + 1), uniform(key, draw + 2)
            draw += 3
            if met[a] == 0:
                continue
            b = partners[a, np.int64(first * min(met[a], recent))]
            c = partners[b, np.int64(second * min(met[b], recent))]
            if c != a and not _among(partners[a], met[a], c) and _among(partners[c], met[c], b):
                src, dst = a, c
                break
        if src < 0:
            src = np.int64(uniform(key, draw) * num_nodes)
            dst = (src + 1 + np.int64(uniform(key, draw + 1) * (num_nodes - 1))) % num_nodes
            draw += 2
        ends[0, e], ends[1, e] = src, dst
        partners[src, met[src] % recent] = dst
        partners[dst, met[dst] % recent] = src
        met[src] += 1
        met[dst] += 1


@kernel
def _among(ring, met, wanted):  # pragma: no cover - compiled
    for place in range(min(met, ring.size)):  # noqa: SIM110 (numba knows no generators)
        if ring[place] == wanted:
            return True
    return False


def repeat_purchase_stream(
    num_users: int = 2000,
    num_items: int = 1000,
    num_events: int = 30_000,
    repeat: float = 0.85,
    msg_dim: int = 8,
    seed: int = 0,
) -> EventStream:
    """Users buy what they bought before: memorising edges does well.

    A few users make most of the purchases, by Zipf's law. With probability ``repeat`` a user buys again what it bought
    in one of its purchases so far, otherwise a random item. A message is the item's own vector with noise.

    Args:
        num_users: number of users, ids ``[0, num_users)``.
        num_items: number of items, ids ``[num_users, num_users + num_items)``.
        num_events: number of purchases, made in O(num_events log num_events).
        repeat: probability of buying again.
        msg_dim: width of the messages.
        seed: another seed, another stream.

    Raises:
        ValueError: sizes below 1, or ``repeat`` outside [0, 1].

    Example:
        >>> repeat_purchase_stream()
        EventStream(events=30000, nodes=3000, msg_dim=8, t=0..29999)
    """
    for name, size in (("num_users", num_users), ("num_items", num_items), ("num_events", num_events)):
        check_int(size, name, 1)
    check_int(msg_dim, "msg_dim", 1)
    check_probabilities(repeat=repeat)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    weight = np.cumsum(1 / np.arange(1, num_users + 1))
    rank = np.searchsorted(weight, rng.random(num_events) * weight[-1], side="right").clip(max=num_users - 1)
    user, item = rng.permutation(num_users)[rank], rng.integers(num_items, size=num_events)
    again, which = rng.random(num_events) < repeat, rng.random(num_events)
    order = np.argsort(user, kind="stable")
    bought = item[order]
    _buy_again(user[order], again[order], which[order], bought)
    item[order] = bought
    msg = rng.standard_normal((num_items, msg_dim))[item] + 0.3 * rng.standard_normal((num_events, msg_dim))
    return _stream(user, num_users + item, num_users + num_items, msg)


@kernel
def _buy_again(user, again, which, item):  # pragma: no cover - compiled
    """Events are sorted by user, and by time within."""
    start = 0
    for i in range(1, user.size):
        if user[i] != user[i - 1]:
            start = i
        elif again[i]:
            item[i] = item[start + np.int64(which[i] * (i - start))]


def drifting_preference_stream(
    num_users: int = 200, num_items: int = 1000, num_events: int = 10_000, step: int = 3, seed: int = 0
) -> EventStream:
    """Users' taste moves on: what they chose last tells what comes next, and they hardly choose anything twice.

    Items lie on a ring. With each choice a user moves on by ``step`` items, one more or one less. The message is the
    place of the item on the ring, as sine and cosine with noise. A memory of the last event finds the next one;
    memorising edges, and the popularity of items, do not.

    Args:
        num_users: number of users, ids ``[0, num_users)``.
        num_items: number of items, ids ``[num_users, num_users + num_items)``.
        num_events: number of choices, made in O(num_events log num_events).
        step: how many items a user moves on, on average.
        seed: another seed, another stream.

    Raises:
        ValueError: sizes below 1.

    Example:
        >>> drifting_preference_stream()
        EventStream(events=10000, nodes=1200, msg_dim=2, t=0..9999)
    """
    sizes = (("num_users", num_users), ("num_items", num_items), ("num_events", num_events), ("step", step))
    for name, size in sizes:
        check_int(size, name, 1)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    user = rng.integers(num_users, size=num_events)
    moves = step + rng.integers(-1, 2, size=num_events)
    order = np.argsort(user, kind="stable")
    total = np.cumsum(moves[order])
    # A user's own sum: what had come together before its first event is taken off. Its start is random.
    first = np.searchsorted(user[order], user[order], side="left")
    moved = total - total[first] + rng.integers(num_items, size=num_users)[user[order]]
    item = np.empty(num_events, dtype=np.int64)
    item[order] = moved % num_items
    angle = 2 * np.pi * item / num_items
    msg = np.stack([np.sin(angle), np.cos(angle)], axis=1) + 0.01 * rng.standard_normal((num_events, 2))
    return _stream(user, num_users + item, num_users + num_items, msg)


def _key(seed: int) -> np.int64:
    return np.int64(mix(np.int64(check_int(seed, "seed", 0))))


def _stream(src: np.ndarray, dst: np.ndarray, num_nodes: int, msg: np.ndarray | None = None) -> EventStream:
    return EventStream(
        torch.from_numpy(src),
        torch.from_numpy(dst),
        torch.arange(len(src)),
        None if msg is None else torch.from_numpy(msg).float(),
        num_nodes=num_nodes,
    )


# Graphs from graphons -------------------------------------------------------------------------------------------------
# A graphon gives the probability of an edge between two places in [0, 1]. These are step functions, or nearly.


def bernoulli_graph(probability: torch.Tensor, generator: torch.Generator | None = None) -> Data:
    """Each pair of nodes is an edge with its own probability, independently.

    Args:
        probability: ``[n, n]``, symmetric; the diagonal does not count.
        generator: source of randomness; torch's global one if None.

    Returns:
        A graph with ``edge_index`` ``[2, E]`` in both directions and ``num_nodes``, made in O(n²).

    Example:
        >>> bernoulli_graph(torch.ones(3, 3)).edge_index.tolist()
        [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    """
    drawn = torch.rand(probability.shape, generator=generator, dtype=torch.float64) < probability
    drawn = drawn.triu(1)
    return Data(edge_index=(drawn | drawn.t()).nonzero().t().contiguous(), num_nodes=len(probability))


def _blocks(first: float, values: list[list[float]]) -> np.ndarray:
    """Two blocks, the first of which has the share ``first`` of the places, on a grid of 100."""
    label = (np.arange(100) >= round(100 * first)).astype(int)
    return np.array(values)[label][:, label]


def _power(exponent: float) -> np.ndarray:
    """Degrees that fall off as a power, and nothing else."""
    weight = (np.arange(100) / 100 + 0.05) ** -exponent
    return np.outer(weight, weight)


def _unit(shape: np.ndarray) -> np.ndarray:
    """The same shape with mean 1, places in the order of descending degree."""
    order = np.argsort(-shape.mean(1), kind="stable")
    return shape[np.ix_(order, order)] / shape.mean()


# A dense core, two communities, two sides without edges within, degrees by a power law.
_CORE = _unit(_blocks(0.3, [[3.6, 0.9], [0.9, 0.6]]))
_COMMUNITIES = _unit(_blocks(0.35, [[4.5, 0.15], [0.15, 0.8]]))
_BIPARTITE = _unit(_blocks(0.35, [[0.1, 2.0], [2.0, 0.1]]))
_POWER = _unit(_power(0.6))

#: Domains of :func:`graphon_domains`: name, and the graphon's shape and density. The first four are sources.
GRAPHON_DOMAINS = {
    "core": (_CORE, 0.2),
    "communities": (_COMMUNITIES, 0.2),
    "bipartite": (_BIPARTITE, 0.2),
    "power": (_POWER, 0.2),
    "sparse core": (_CORE, 0.17),
    "other communities": (_COMMUNITIES, 0.2),
    "dense bipartite": (_BIPARTITE, 0.23),
    "other power": (_POWER, 0.2),
    "core and communities": (_unit(0.6 * _CORE + 0.4 * _COMMUNITIES), 0.18),
    "bipartite and power": (_unit(0.6 * _BIPARTITE + 0.4 * _POWER), 0.22),
}
GRAPHON_SOURCES = 4


def graphon_domains(num_graphs: int = 240, seed: int = 0) -> list[Data]:
    """Domains of graphs whose generators are known: four to pre-train on, six to go to, of which four have the shape of
    a source and two are mixtures.

    A graph of 30 to 60 nodes is drawn from the graphon ``density * (1 + s * (shape - 1))``, where its strength ``s`` is
    uniform in [0.5, 1.1]. In targets the label says whether ``s`` is above the middle: what there is to learn is how
    strongly a graph has the structure of its domain. Sources have no labels (-1). The expected density depends neither
    on the strength nor, among the sources, on the domain.

    Args:
        num_graphs: graphs of each domain.
        seed: another seed, other graphs.

    Returns:
        Graphs with ``edge_index``, ``num_nodes``, ``y`` ``[1]`` and ``domain`` ``[1]``, the place in
        ``GRAPHON_DOMAINS``.

    Raises:
        ValueError: ``num_graphs`` < 1.

    Example:
        >>> graphs = graphon_domains(num_graphs=2)
        >>> [int(graph.domain) for graph in graphs[:5]], int(graphs[0].y)
        ([0, 0, 1, 1, 2], -1)
    """
    check_int(num_graphs, "num_graphs", 1)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    generator = torch.Generator().manual_seed(seed)
    graphs = []
    for number, (shape, density) in enumerate(GRAPHON_DOMAINS.values()):
        for _ in range(num_graphs):
            strength, place = rng.uniform(0.5, 1.1), rng.integers(len(shape), size=rng.integers(30, 61))
            values = (density * (1 + strength * (shape - 1))).clip(0, 1)
            graph = bernoulli_graph(torch.from_numpy(values[np.ix_(place, place)]), generator)
            graph.y = torch.tensor([-1 if number < GRAPHON_SOURCES else int(strength > 0.8)])
            graph.domain = torch.tensor([number])
            graphs.append(graph)
    return graphs
