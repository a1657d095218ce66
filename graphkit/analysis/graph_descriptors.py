"""Eight numbers that describe a graph, and groups of graphs that are alike."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphkit.analysis.graph_set import GraphSet, graph_list, graph_set
from graphkit.ops import common_neighbor_count
from graphkit.ops.cpu.parallel import array, kernel, run
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import stream

NAMES = (
    "average degree",
    "degree deviation",
    "density",
    "closeness",
    "degree correlation",
    "degree assortativity",
    "transitivity",
    "clustering",
)


def graph_descriptors(data_list: Sequence[Data] | Batch, closeness_sources: int = 64, seed: int = 0) -> Tensor:
    """The eight descriptors of each graph by which `"When to Pre-Train Graph Neural Networks? From Data Generation
    Perspective!" <https://arxiv.org/abs/2303.16458>`_ finds graphs with like topology.

    They are, in the order of ``NAMES``: mean and standard deviation of the degree, density, mean closeness centrality,
    Pearson correlation of the degrees of an edge's ends, assortativity of degrees (for degrees the same number as the
    correlation, which so counts twice), transitivity, and mean clustering coefficient. What is not defined is 0, as the
    correlation of a regular graph.

    O(sum over edges of both degrees) for triangles and O(sources · edges) for closeness; all graphs at once.

    Args:
        data_list: undirected graphs; weights do not count.
        closeness_sources: closeness is the mean over this many nodes drawn at random in larger graphs; exact in others.
        seed: which nodes are drawn.

    Shapes:
        - **output:** ``[G, 8]`` float64

    Raises:
        ValueError: no graph, a graph without nodes, or one that is directed.

    Example:
        >>> triangle = Data(edge_index=torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]), num_nodes=3)
        >>> graph_descriptors([triangle]).tolist()
        [[2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]]
    """
    check_int(closeness_sources, "closeness_sources", 1)
    graphs = graph_set(data_list)
    index, owner = graphs.neighbors, graphs.owner
    size = graphs.ptr.diff().double()
    degree = index.degree.double()

    def total(values: Tensor, of: Tensor = owner) -> Tensor:
        return torch.zeros(size.numel(), dtype=torch.float64).index_add_(0, of, values)

    mean = total(degree) / size
    deviation = (total((degree - mean[owner]) ** 2) / size).sqrt()
    density = total(degree) / (size * (size - 1)).clamp(min=1)
    # The degrees at both ends of every entry, about their mean.
    entry_owner = owner[index.row]
    entries = total(torch.ones(index.num_edges, dtype=torch.float64), entry_owner).clamp(min=1)
    centre = (total(degree[index.row], entry_owner) / entries)[entry_owner]
    here, there = degree[index.row] - centre, degree[index.col] - centre
    variance = total(here * here, entry_owner)
    correlation = _ratio(total(here * there, entry_owner), variance, variance > 1e-9 * entries)
    # Every triangle at a node is found at two of its edges.
    once = index.row < index.col
    ends = index.edge_index[:, once]
    shared = common_neighbor_count(index, ends).double()
    twice = (
        torch.zeros(index.num_nodes, dtype=torch.float64).index_add_(0, ends[0], shared).index_add_(0, ends[1], shared)
    )
    pairs = degree * (degree - 1)
    transitivity = _ratio(total(twice), total(pairs), total(pairs) > 0)
    clustering = total(_ratio(twice, pairs, pairs > 0)) / size
    closeness = _closeness(graphs, closeness_sources, seed)
    return torch.stack([mean, deviation, density, closeness, correlation, correlation, transitivity, clustering], dim=1)


def _ratio(above: Tensor, below: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, above / torch.where(known, below, 1.0), 0.0)


def _closeness(graphs: GraphSet, sources: int, seed: int) -> Tensor:
    owner = graphs.owner
    draw = torch.rand(owner.numel(), generator=stream(seed), dtype=torch.float64)
    order = torch.from_numpy(np.lexsort((draw.numpy(), owner.numpy())))
    rank = torch.arange(owner.numel()) - graphs.ptr[owner]
    chosen = order[rank < sources]
    of = owner[chosen]
    out = torch.zeros(chosen.numel(), dtype=torch.float64)
    first, last = graphs.ptr[of], graphs.ptr[of + 1]
    effort = graphs.neighbors.rowptr[last] - graphs.neighbors.rowptr[first] + last - first
    work = np.concatenate([[0], np.cumsum(array(effort))])
    run(
        _reach,
        work,
        array(graphs.neighbors.rowptr),
        array(graphs.neighbors.col),
        *map(array, (chosen, first, last)),
        array(out),
    )
    count = torch.bincount(of, minlength=graphs.ptr.numel() - 1)
    return torch.zeros(count.numel(), dtype=torch.float64).index_add_(0, of, out) / count


@kernel
def _reach(start, stop, rowptr, col, source, first, last, out):  # pragma: no cover - compiled
    """Closeness of each source: breadth-first search within its graph, scaled by the share that it reaches."""
    for s in range(start, stop):
        low, size = first[s], last[s] - first[s]
        far = np.full(size, -1, dtype=np.int64)
        queue = np.empty(size, dtype=np.int64)
        queue[0] = source[s]
        far[source[s] - low] = 0
        head, tail, total = 0, 1, 0
        while head < tail:
            node = queue[head]
            head += 1
            total += far[node - low]
            for e in range(rowptr[node], rowptr[node + 1]):
                other = col[e]
                if far[other - low] < 0:
                    far[other - low] = far[node - low] + 1
                    queue[tail] = other
                    tail += 1
        if total > 0:
            out[s] = (tail - 1) / total * (tail - 1) / (size - 1)


def split_graphs(
    data_list: Sequence[Data] | Batch,
    by: str = "topology",
    domains: Sequence[Hashable] | None = None,
    clusters: int = 5,
    seed: int = 0,
) -> list[list[Data]]:
    """Groups of graphs, each of which is to have a graphon of its own.

    Args:
        data_list: the graphs.
        by: ``"all"`` (one group), ``"domain"`` (those with one entry of ``domains``, in the order in which they first
            occur) or ``"topology"`` (K-means on the descriptors, each scaled to mean 0 and variance 1).
        domains: for each graph where it comes from.
        clusters: groups by topology; fewer where fewer graphs differ.
        seed: start of K-means.

    Raises:
        ValueError: an unknown way to split, ``domains`` missing or of another length.

    Example:
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> edge = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> [len(group) for group in split_graphs([path, edge, path], clusters=2)]
        [2, 1]
    """
    graphs = graph_list(data_list)
    check_choice(by, "by", ("all", "domain", "topology"))
    check_int(clusters, "clusters", 1)
    if by == "all":
        return [graphs]
    if by == "domain":
        if domains is None or len(domains) != len(graphs):
            got = "None" if domains is None else len(domains)
            raise ValueError(f"domains must name the domain of each of the {len(graphs)} graphs (got {got})")
        groups: dict[Hashable, list[Data]] = {}
        for graph, domain in zip(graphs, domains, strict=True):
            groups.setdefault(domain, []).append(graph)
        return list(groups.values())
    values = graph_descriptors(graphs, seed=seed).numpy()
    spread = values.std(0)
    values = (values - values.mean(0)) / np.where(spread > 1e-12, spread, 1)
    different = len(np.unique(values.round(9), axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = KMeans(min(clusters, different), n_init=10, random_state=seed).fit(values).labels_
    names = dict.fromkeys(label.tolist())  # in the order in which they first occur
    return [[graphs[i] for i in np.flatnonzero(label == name)] for name in names]
