"""Neighbour sampling: one hop, and the k-hop subgraphs that mini-batch training needs; uniform, weighted or in time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphkit.ops.cpu import sample as cpu
from graphkit.ops.csr import CSR, counts_to_ptr, ptr_to_index, to_csr
from graphkit.utils.checks import check_choice, check_pairs

STRATEGIES = ("uniform", "last", "latest")
EdgeType = tuple[str, str, str]
_MASK53 = 2**53 - 1


class SamplingGraph(NamedTuple):
    """Incoming edges by node, with what sampling needs to know of each: made by :func:`sampling_graph`.

    Attributes:
        rowptr: ``[num_dst + 1]`` int64; node ``i`` owns the entries ``rowptr[i] : rowptr[i + 1]``.
        col: ``[E]`` int64, the other end of each entry.
        perm: ``[E]`` int64, its position in the edges as given.
        num_src: number of nodes that ``col`` refers to.
        time: ``[E]`` int64 or float64, ascending in each row, or None.
        weight: ``[E]`` float64, positive, or None.
        cumulative: ``[E]`` float64 running sums of ``weight`` in each row, or None.
    """

    rowptr: Tensor
    col: Tensor
    perm: Tensor
    num_src: int
    time: Tensor | None = None
    weight: Tensor | None = None
    cumulative: Tensor | None = None

    @property
    def num_dst(self) -> int:
        """Number of rows."""
        return self.rowptr.numel() - 1


class SampledNeighbors(NamedTuple):
    """One hop: node ``i`` of the seeds got the entries ``ptr[i] : ptr[i + 1]``.

    Attributes:
        ptr: ``[B + 1]`` int64 offsets.
        node: ``[M]`` int64 neighbours.
        edge: ``[M]`` int64 positions in the edges as given.
    """

    ptr: Tensor
    node: Tensor
    edge: Tensor


class SampledSubgraph(NamedTuple):
    """Several hops, in PyG's layout.

    Attributes:
        node: ``[n]`` int64 nodes, seeds first, then hop by hop in the order in which they were met.
        row, col: ``[M]`` int64 ends of the edges ``row -> col`` as positions in ``node``; ``col`` ascends.
        edge: ``[M]`` int64 positions in the edges as given.
        batch: ``[n]`` int64 seed of each node in disjoint subgraphs, else None.
        num_sampled_nodes: seeds and new nodes of each hop.
        num_sampled_edges: edges of each hop.
    """

    node: Tensor
    row: Tensor
    col: Tensor
    edge: Tensor
    batch: Tensor | None
    num_sampled_nodes: list[int]
    num_sampled_edges: list[int]


# Checks ---------------------------------------------------------------------------------------------------------------


def check_nodes(nodes: Tensor, num_nodes: int, name: str) -> Tensor:
    """Return ``nodes`` as int64 if it is an integer vector of ids in ``[0, num_nodes)``."""
    if isinstance(nodes, Tensor) and nodes.dim() != 1:
        raise ValueError(f"{name} must be a vector of node ids (got shape {list(nodes.shape)}); flatten it first")
    if isinstance(nodes, Tensor) and nodes.dtype == torch.bool:
        raise TypeError(f"{name} must hold node ids (got a mask); use mask.nonzero().view(-1)")
    pairs = nodes.expand(2, -1) if isinstance(nodes, Tensor) else nodes
    return check_pairs(pairs, num_nodes, name)[0].long()


def check_num_neighbors(num_neighbors: Sequence[int], name: str = "num_neighbors") -> list[int]:
    """Return the numbers a hop as a list if there is at least one and each is an integer >= -1."""
    if isinstance(num_neighbors, Tensor):
        num_neighbors = num_neighbors.tolist()
    if isinstance(num_neighbors, (str, int)) or not isinstance(num_neighbors, Sequence):
        raise TypeError(f"{name} must be a list with one number a hop, for example [15, 10] (got {num_neighbors!r})")
    if len(num_neighbors) == 0:
        raise ValueError(f"{name} must name at least one hop, for example [15, 10] (got [])")
    return [_check_count(count, f"{name}[{hop}]") for hop, count in enumerate(num_neighbors)]


def _check_count(count: int, name: str) -> int:
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"{name} must be an integer (got {count!r})")
    count = int(count)
    if count < -1:
        raise ValueError(f"{name} must be >= 0, or -1 for all neighbours (got {count})")
    return count


def check_per_edge(value: Tensor, size: int, name: str, kind: str = "edge") -> Tensor:
    """Return ``value`` as int64 or float64 if it is a numeric vector with one entry an edge, without NaN."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor (got {type(value).__name__})")
    if value.dim() != 1 or value.numel() != size:
        raise ValueError(f"{name} must have one value per {kind}, shape [{size}] (got {list(value.shape)})")
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"{name} must be integer or floating point (got {value.dtype})")
    if not value.is_floating_point():
        return value.long()
    if bool(value.isnan().any()):
        raise ValueError(f"{name} holds NaN at [{int(value.isnan().nonzero()[0])}]; drop or fill these first")
    return value.double()


def check_window(window: float | None, time: Tensor | None) -> float | None:
    """Return ``window`` if there are times and it is positive, and an integer where the times are."""
    if window is None:
        return None
    if time is None:
        raise ValueError(f"window needs times: build the graph with time or node_time (got window={window})")
    if isinstance(window, bool) or not isinstance(window, (int, float)):
        raise TypeError(f"window must be a number (got {window!r})")
    if not window > 0 or math.isinf(window):
        raise ValueError(f"window must be positive and finite; None is no window (got {window})")
    if not time.is_floating_point() and window != int(window):
        raise ValueError(f"window must be an integer because the times are (got {window})")
    return window


def draw_seed(seed: int | torch.Generator | None) -> int:
    """An int64 seed: the given one, or one draw from a generator (None: torch's global one)."""
    if isinstance(seed, bool) or not (seed is None or isinstance(seed, (int, torch.Generator))):
        raise TypeError(f"seed must be an int, a torch.Generator or None (got {type(seed).__name__})")
    if isinstance(seed, int):
        return _wrap(seed)
    device = seed.device if seed is not None else "cpu"
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=seed))


# The graph ------------------------------------------------------------------------------------------------------------


def sampling_graph(
    edge_index: Tensor,
    num_nodes: int | tuple[int, int],
    *,
    time: Tensor | None = None,
    node_time: Tensor | None = None,
    weight: Tensor | None = None,
    is_sorted: bool = False,
) -> SamplingGraph:
    """Sort edges by target node, and by time within, for :func:`sample_neighbors` and :func:`sample_subgraph`.

    O(E + N), with times O(E log E). Do it once, not per batch.

    Args:
        edge_index: ``[2, E]`` edges source -> target; sampling goes from target to source.
        num_nodes: number of nodes, or of (sources, targets).
        time: ``[E]`` time of each edge.
        node_time: ``[num_src]`` time of each source node, instead of ``time``.
        weight: ``[E]`` non-negative weights for weighted sampling. Edges of weight 0 are left out.
        is_sorted: the edges are sorted by target already, with times by (target, time): keep their order.

    Raises:
        IndexError: a node id outside the graph.
        TypeError, ValueError: wrong type or shape, negative, NaN or infinite weights, edges that are not sorted.

    Example:
        >>> graph = sampling_graph(torch.tensor([[1, 2, 0], [0, 0, 1]]), num_nodes=3)
        >>> sample_neighbors(graph, torch.tensor([0]), -1).node
        tensor([1, 2])
    """
    num_src, num_dst = (num_nodes, num_nodes) if isinstance(num_nodes, int) else num_nodes
    if min(num_src, num_dst) < 0:
        raise ValueError(f"num_nodes must be >= 0 (got {num_nodes})")
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    check_pairs(plain, max(num_src, num_dst), "edge_index")
    row, col = plain[1].long(), plain[0].long()
    if num_src != num_dst:
        check_nodes(col, num_src, "edge_index[0]")
        check_nodes(row, num_dst, "edge_index[1]")
    if time is not None and node_time is not None:
        raise ValueError("time and node_time exclude each other; give the edges' times or the nodes' times")
    if time is not None:
        time = check_per_edge(time, col.numel(), "time").to(col.device)
    if node_time is not None:
        time = check_per_edge(node_time, num_src, "node_time", "source node").to(col.device)[col]
    if weight is not None:
        weight = check_per_edge(weight, col.numel(), "weight").to(col.device).double()
        if weight.numel() and not (bool(weight.min() >= 0) and bool(weight.max() < math.inf)):
            bad = int(((weight < 0) | weight.isinf()).nonzero()[0])
            raise ValueError(f"weight holds {float(weight[bad])} at [{bad}]; weights must be finite and >= 0")
    if is_sorted:
        _check_sorted(row, time)
        perm = torch.arange(col.numel(), device=col.device)
        csr = CSR(counts_to_ptr(torch.bincount(row, minlength=num_dst)), col, perm)
    elif time is None:
        csr = to_csr(row, col, num_dst, num_src)
    else:
        perm = torch.argsort(time, stable=True)
        perm = perm[torch.argsort(row[perm], stable=True)]
        csr = CSR(counts_to_ptr(torch.bincount(row, minlength=num_dst)), col[perm], perm)
        time = time[perm]
    if weight is None:
        return SamplingGraph(*csr, num_src, time)
    weight = weight[csr.perm]
    keep = weight > 0
    if not bool(keep.all()):
        rowptr = counts_to_ptr(keep.long())[csr.rowptr]
        csr = CSR(rowptr, csr.col[keep], csr.perm[keep])
        weight, time = weight[keep], None if time is None else time[keep]
    return SamplingGraph(*csr, num_src, time, weight, _row_cumsum(csr.rowptr, weight))


def _check_sorted(row: Tensor, time: Tensor | None) -> None:
    wrong = row[1:] < row[:-1]
    if time is not None:
        wrong |= (row[1:] == row[:-1]) & (time[1:] < time[:-1])
    if bool(wrong.any()):
        what = "target node" if time is None else "(target node, time)"
        place = int(wrong.nonzero()[0]) + 1
        raise ValueError(
            f"is_sorted=True, but edge {place} is out of the order by {what}; sort first or drop is_sorted"
        )


def _row_cumsum(rowptr: Tensor, weight: Tensor) -> Tensor:
    if weight.device.type == "cpu":
        return cpu.row_cumsum(rowptr, weight)
    total = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
    return total[1:] - total[rowptr[:-1]][ptr_to_index(rowptr, weight.numel())]


def _graph(graph: SamplingGraph | CSR) -> SamplingGraph:
    if isinstance(graph, SamplingGraph):
        return graph
    if isinstance(graph, CSR):
        num_nodes = graph.rowptr.numel() - 1
        return SamplingGraph(*graph, num_nodes)
    raise TypeError(f"graph must be a SamplingGraph or CSR, see sampling_graph() (got {type(graph).__name__})")


def _seed_times(graph: SamplingGraph, seed_time: Tensor | None, size: int) -> Tensor | None:
    if graph.time is None:
        if seed_time is not None:
            raise ValueError("seed_time needs times of edges or nodes: build the graph with time or node_time")
        return None
    if seed_time is None:
        raise ValueError("seed_time must be given because the graph has times; one time a seed")
    seed_time = check_per_edge(seed_time, size, "seed_time", "seed").to(graph.col.device)
    if seed_time.is_floating_point() and not graph.time.is_floating_point():
        raise TypeError("seed_time must be integer because the graph's times are; convert with .long()")
    return seed_time.to(graph.time.dtype)


# Sampling -------------------------------------------------------------------------------------------------------------


def sample_neighbors(
    graph: SamplingGraph | CSR,
    seeds: Tensor,
    num_neighbors: int,
    *,
    replace: bool = False,
    seed_time: Tensor | None = None,
    strategy: str = "uniform",
    window: float | None = None,
    seed: int | torch.Generator | None = None,
) -> SampledNeighbors:
    """Draw up to ``num_neighbors`` neighbours of each seed.

    Without replacement every set of neighbours is equally likely (Floyd's method), or as likely as drawing one after
    another by weight (the smallest of exponential variables). O(B k), with weights O(sum of degrees), plus O(log d) a
    seed in time. The numbers drawn depend on the seed and the position alone: any number of threads, the CPU and a GPU
    give the same.

    Args:
        graph: of :func:`sampling_graph`, or a plain :class:`~graphkit.ops.CSR` whose rows are the seeds' side.
        seeds: ``[B]`` int64 or int32 nodes; repeats are drawn for separately.
        num_neighbors: how many; -1 is all of them, once each. A seed with fewer gets all it has.
        replace: draw with replacement, always ``num_neighbors`` unless there is none at all.
        seed_time: ``[B]``: only neighbours of this time or earlier. Needed if, and only if, the graph has times.
        strategy: ``"uniform"`` draws from all earlier neighbours, ``"last"`` (or ``"latest"``) takes the most recent.
        window: only neighbours later than ``seed_time - window``.
        seed: an int, a generator to draw one from, or None for torch's global generator.

    Returns:
        The neighbours as ragged lists.

    Raises:
        IndexError: a seed outside the graph.
        TypeError, ValueError: wrong type, shape or range; the message says which argument and what to do.

    Example:
        >>> graph = sampling_graph(torch.tensor([[1, 2, 3], [0, 0, 0]]), 4, time=torch.tensor([10, 30, 20]))
        >>> sample_neighbors(graph, torch.tensor([0]), 1, seed_time=torch.tensor([25]), strategy="last").node
        tensor([3])
    """
    graph = _graph(graph)
    count = _check_count(num_neighbors, "num_neighbors")
    last = check_choice(strategy, "strategy", STRATEGIES) != "uniform"
    check_window(window, graph.time)
    seeds = check_nodes(seeds, graph.num_dst, "seeds").to(graph.col.device)
    latest = _seed_times(graph, seed_time, seeds.numel())
    group = None if latest is None else torch.arange(seeds.numel(), device=seeds.device)
    key = _mix_int(draw_seed(seed))
    found = _sample(graph, seeds, count, replace, last, group, latest, window, key, 0)
    return SampledNeighbors(*found[:3])


def sample_subgraph(
    graph: SamplingGraph | CSR,
    seeds: Tensor,
    num_neighbors: Sequence[int],
    *,
    replace: bool = False,
    seed_time: Tensor | None = None,
    strategy: str = "uniform",
    window: float | None = None,
    disjoint: bool = False,
    seed: int | torch.Generator | None = None,
) -> SampledSubgraph:
    """Sample the neighbours of the seeds, their neighbours, and so on; each node is expanded once, when it is new.

    O(edges sampled), whatever the size of the graph. In time, every hop respects the time of the *seed*, and each seed
    has a subgraph of its own (``disjoint``).

    Args:
        graph, seeds, replace, seed_time, strategy, window, seed: as in :func:`sample_neighbors`.
        num_neighbors: how many in each hop.
        disjoint: do not share nodes between the subgraphs of different seeds.

    Example:
        >>> graph = sampling_graph(torch.tensor([[1, 2], [0, 1]]), 3)
        >>> found = sample_subgraph(graph, torch.tensor([0]), [-1, -1])
        >>> found.node, found.row, found.col
        (tensor([0, 1, 2]), tensor([1, 2]), tensor([0, 1]))
    """
    graph = _graph(graph)
    if graph.num_src != graph.num_dst:
        raise ValueError(
            f"graph must have one kind of node for several hops (got {graph.num_src} sources, {graph.num_dst} targets)"
        )
    counts = check_num_neighbors(num_neighbors)
    check_choice(strategy, "strategy", STRATEGIES)
    check_window(window, graph.time)
    seeds = check_nodes(seeds, graph.num_dst, "seeds").to(graph.col.device)
    times = _seed_times(graph, seed_time, seeds.numel())
    kind: EdgeType = ("", "", "")
    found = sample_hetero(
        {kind: graph},
        {"": graph.num_src},
        {"": seeds},
        {kind: counts},
        replace=replace,
        seed_time=None if times is None else {"": times},
        strategy=strategy,
        window=window,
        disjoint=disjoint or times is not None,
        seed=seed,
    )
    return found.only()


class SampledHetero(NamedTuple):
    """Several hops in a graph of several node and edge types: :class:`SampledSubgraph` as dictionaries."""

    node: dict[str, Tensor]
    row: dict[EdgeType, Tensor]
    col: dict[EdgeType, Tensor]
    edge: dict[EdgeType, Tensor]
    batch: dict[str, Tensor] | None
    num_sampled_nodes: dict[str, list[int]]
    num_sampled_edges: dict[EdgeType, list[int]]

    def only(self) -> SampledSubgraph:
        """The one node and edge type."""
        parts = (None if part is None else next(iter(part.values())) for part in self)
        return SampledSubgraph(*parts)  # type: ignore[arg-type]


def sample_hetero(
    graphs: Mapping[EdgeType, SamplingGraph],
    num_nodes: Mapping[str, int],
    seeds: Mapping[str, Tensor],
    num_neighbors: Mapping[EdgeType, Sequence[int]],
    *,
    replace: bool = False,
    seed_time: Mapping[str, Tensor] | None = None,
    strategy: str = "uniform",
    window: float | None = None,
    disjoint: bool = False,
    seed: int | torch.Generator | None = None,
) -> SampledHetero:
    """:func:`sample_subgraph` for several node and edge types. The arguments must have been checked.

    Args:
        graphs: of each edge type ``(source type, relation, target type)``.
        num_nodes: of each node type.
        seeds: of some node types. Disjoint subgraphs are numbered through all of them.
        num_neighbors: of each edge type, the same number of hops for all. 0 leaves a type out.
        seed_time: one a seed; edge types without times are not restricted.
    """
    last = strategy != "uniform"
    key = draw_seed(seed)
    device = next(iter(seeds.values())).device
    table: type[Any] = cpu.NodeTable if device.type == "cpu" else _NodeTable
    none = torch.empty(0, dtype=torch.int64, device=device)
    tables, ends = {}, {}
    groups: dict[str, Tensor | None] = dict.fromkeys(num_nodes, none if disjoint else None)
    if disjoint:
        # The numbers go through the seeds in the order in which they are given.
        every = torch.arange(sum(nodes.numel() for nodes in seeds.values()), device=device)
        groups.update(zip(seeds, every.split([nodes.numel() for nodes in seeds.values()]), strict=True))
    for name, size in num_nodes.items():
        nodes = seeds.get(name, none)
        tables[name] = table(size, nodes, groups[name])
        ends[name] = [0, nodes.numel()]
    latest = torch.cat([seed_time[name] for name in seeds]) if seed_time is not None else None
    parts: dict[EdgeType, list[tuple[Tensor, Tensor, Tensor]]] = {kind: [] for kind in graphs}
    hops = max((len(counts) for counts in num_neighbors.values()), default=0)
    for hop in range(hops):
        for place, (kind, graph) in enumerate(graphs.items()):
            begin, end = ends[kind[2]][-2:]
            targets = tables[kind[2]]
            group = targets.group(begin, end)
            times = None if graph.time is None else latest
            width = None if times is None else window
            neighbor_key = _mix_int(_mix_int(key) + hop * len(graphs) + place)
            pointer, neighbor, edge, owner = _sample(
                graph, targets.nodes(begin, end), num_neighbors[kind][hop], replace, last, group, times, width,
                neighbor_key, begin,
            )  # fmt: skip
            parts[kind].append((tables[kind[0]].add(pointer, neighbor, group), owner, edge))
        for name in tables:
            ends[name].append(len(tables[name]))
    joined = {kind: [_join([none, *column]) for column in zip(*part, strict=True)] for kind, part in parts.items()}
    return SampledHetero(
        node={name: found.nodes() for name, found in tables.items()},
        row={kind: part[0] for kind, part in joined.items()},
        col={kind: part[1] for kind, part in joined.items()},
        edge={kind: part[2] for kind, part in joined.items()},
        batch={name: found.group() for name, found in tables.items()} if disjoint else None,
        num_sampled_nodes={name: np.diff(end).tolist() for name, end in ends.items()},
        num_sampled_edges={kind: [hop[0].numel() for hop in part] for kind, part in parts.items()},
    )


def induced_edges(graph: SamplingGraph, nodes: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``(row, col, edge)`` of all edges ``nodes[row] -> targets[col]``; O(sum of the targets' degrees).

    Args:
        graph: of :func:`sampling_graph`.
        nodes: ``[n]`` distinct nodes within range, which is not checked.
        targets: ``[m]``, likewise; ``nodes`` if None.
    """
    targets = nodes if targets is None else targets
    if nodes.device.type == "cpu":
        return cpu.NodeTable(graph.num_src, nodes, None).induced(graph.rowptr, graph.col, graph.perm, targets)
    return _induced_reference(graph, nodes, targets)


def _sample(
    graph: SamplingGraph,
    nodes: Tensor,
    count: int,
    replace: bool,
    last: bool,
    group: Tensor | None,
    latest: Tensor | None,
    window: float | None,
    key: int,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if nodes.device.type != "cpu":
        return _sample_reference(graph, nodes, count, replace, last, group, latest, window, key, offset)
    rowptr, col, perm, _, time, weight, cumulative = graph
    parts = rowptr, col, perm, time, weight, cumulative
    return cpu.sample(parts, nodes, count, replace, last, group, latest, window, key, offset)


def _join(parts: list[Tensor]) -> Tensor:
    if parts[0].device.type != "cpu":
        return torch.cat(parts)
    # Not torch.cat: waking OpenMP's threads can take longer than the whole sample.
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


# The same in plain PyTorch, for GPUs and tests ------------------------------------------------------------------------


def _wrap(value: int) -> int:
    """Into the range of int64, as overflow does."""
    return (value + 2**63) % 2**64 - 2**63


_FIRST, _SECOND, _GAMMA = (_wrap(x) for x in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15))


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 numbers; masks make the shifts logical."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _SECOND
    return x ^ ((x >> 31) & (2**33 - 1))


def _mix_int(x: int) -> int:
    return int(mix(torch.tensor(_wrap(x))))


def streams(key: int, number: Tensor) -> Tensor:
    """Independent random streams, one a number."""
    return mix((number + 1) * _GAMMA + key)


def uniform(stream: Tensor, draw: Tensor | int) -> Tensor:
    """The ``draw``-th float64 number of each stream, in [0, 1)."""
    place = (draw + 1) * _GAMMA if isinstance(draw, Tensor) else _wrap((draw + 1) * _GAMMA)
    return ((mix(stream + place) >> 11) & _MASK53).double() * 2.0**-53


def search(values: Tensor, low: Tensor, high: Tensor, wanted: Tensor, right: bool = True) -> Tensor:
    """In each row ``values[low:high]`` (ascending) the first place above ``wanted``, or not below (``right=False``)."""
    if values.numel() == 0:
        return low
    for _ in range(values.numel().bit_length()):
        middle = (low + high) >> 1
        value = values[middle.clamp(max=values.numel() - 1)]
        open_ = low < high
        up = open_ & ((value <= wanted) if right else (value < wanted))
        high = torch.where(open_ & ~up, middle, high)
        low = torch.where(up, middle + 1, low)
    return low


def _sample_reference(
    graph: SamplingGraph,
    nodes: Tensor,
    count: int,
    replace: bool,
    last: bool,
    group: Tensor | None,
    latest: Tensor | None,
    window: float | None,
    key: int,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One hop as ``(pointer, neighbor, edge, owner)``, owner numbered from ``offset``.

    O(B k^2), with weights O(D log D) for D = sum of degrees. The same numbers as on the CPU, except that the CPU draws
    samples of more than ``cpu.FLOYD`` in another way.
    """
    begin, end = graph.rowptr[nodes], graph.rowptr[nodes + 1]
    low = begin
    if graph.time is not None and latest is not None and group is not None:
        now = latest[group]
        end = search(graph.time, low, end, now)
        if window is not None:
            low = search(graph.time, low, end, now - window)
        if last and count >= 0:
            low = torch.maximum(low, end - count)
    size = end - low
    all_of = size <= count if count >= 0 and not replace else torch.full_like(size, count < 0, dtype=torch.bool)
    taken = torch.where(all_of, size, torch.where(size > 0, count, 0))
    pointer = counts_to_ptr(taken)
    owner = ptr_to_index(pointer)
    place = torch.arange(owner.numel(), device=nodes.device) - pointer[owner]
    stream = streams(key, torch.arange(nodes.numel(), device=nodes.device))
    if count > 0 and nodes.numel():
        if graph.weight is None or graph.cumulative is None:
            chosen = draw_places(stream, size, count, replace)
        elif replace:
            before = torch.where(low > begin, graph.cumulative[(low - 1).clamp(min=0)], 0.0) if low.numel() else low
            total = graph.cumulative[(end - 1).clamp(min=0)] - before
            draws = uniform(stream[:, None], torch.arange(count, device=nodes.device))
            wanted = before[:, None] + draws * total[:, None]
            found = search(graph.cumulative, low[:, None].expand_as(wanted), end[:, None].expand_as(wanted), wanted)
            chosen = torch.minimum(found, end[:, None] - 1) - low[:, None]
        else:
            chosen = _draw_weighted(graph.weight, stream, low, size, count)
        picked = chosen[owner, place.clamp(max=count - 1)]
        place = torch.where(all_of[owner], place, picked)
    entry = low[owner] + place
    return pointer, graph.col[entry], graph.perm[entry], owner + offset


def _induced_reference(graph: SamplingGraph, nodes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with O(N) memory."""
    place = torch.full((graph.num_src,), -1, device=nodes.device)
    place[nodes] = torch.arange(nodes.numel(), device=nodes.device)
    pointer = counts_to_ptr(graph.rowptr[targets + 1] - graph.rowptr[targets])
    owner = ptr_to_index(pointer)
    entry = torch.arange(owner.numel(), device=nodes.device) + (graph.rowptr[targets] - pointer[:-1])[owner]
    row = place[graph.col[entry]]
    keep = row >= 0
    return row[keep], owner[keep], graph.perm[entry[keep]]


def draw_places(stream: Tensor, size: Tensor, count: int, replace: bool) -> Tensor:
    """``[B, count]`` places below ``size``; rows with fewer than ``count`` hold nonsense that the caller drops."""
    if replace:
        draws = uniform(stream[:, None], torch.arange(count, device=size.device))
        return (draws * size[:, None]).long()
    chosen = torch.full((size.numel(), count), -1, device=size.device)
    for j in range(count):
        top = size - count + j
        drawn = (uniform(stream, j) * (top + 1)).long()
        repeated = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = torch.where(repeated, top, drawn)
    return chosen


def _draw_weighted(weight: Tensor, stream: Tensor, low: Tensor, size: Tensor, count: int) -> Tensor:
    """The places of the ``count`` smallest exponential variables of each row."""
    pointer = counts_to_ptr(size)
    owner = ptr_to_index(pointer)
    place = torch.arange(owner.numel(), device=size.device) - pointer[owner]
    value = -torch.log1p(-uniform(stream[owner], place)) / weight[low[owner] + place]
    order = torch.argsort(value, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    wanted = pointer[:-1, None] + torch.arange(count, device=size.device)
    return place[order][wanted.clamp(max=max(order.numel() - 1, 0))] if order.numel() else torch.zeros_like(wanted)


class _NodeTable:
    """`graphkit.ops.cpu.sample.NodeTable` by sorting: O((n + M) log(n + M)) a hop."""

    def __init__(self, num_nodes: int, nodes: Tensor, group: Tensor | None) -> None:
        self.num_nodes = num_nodes
        self._nodes = nodes
        self._group = group

    def __len__(self) -> int:
        return self._nodes.numel()

    def nodes(self, begin: int = 0, end: int | None = None) -> Tensor:
        return self._nodes[begin:end]

    def group(self, begin: int = 0, end: int | None = None) -> Tensor | None:
        return None if self._group is None else self._group[begin:end]

    def add(self, pointer: Tensor, neighbor: Tensor, group: Tensor | None) -> Tensor:
        known = len(self)
        nodes = torch.cat([self._nodes, neighbor])
        if self._group is None or group is None:
            groups, keys = None, nodes
        else:
            groups = torch.cat([self._group, group[ptr_to_index(pointer, neighbor.numel())]])
            keys = groups * self.num_nodes + nodes
        distinct, inverse = keys.unique(return_inverse=True)
        position = torch.arange(keys.numel(), device=keys.device)
        first = torch.full_like(distinct, keys.numel()).scatter_reduce_(0, inverse, position, "amin")
        new = first[first >= known].sort().values
        local = torch.where(first < known, first, known + torch.searchsorted(new, first))
        self._nodes = torch.cat([self._nodes, nodes[new]])
        if groups is not None:
            self._group = torch.cat([groups[:known], groups[new]])
        return local[inverse[known:]]
