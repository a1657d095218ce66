"""Small graphs with everything that goes wrong, and their neighbour sets in plain Python."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

Sets = list[set[int]]

#: 0-1, 0-2, 0-3, 1-2, 1-4, 3-4: the golden graph of the NCN card.
GOLDEN = torch.tensor([[0, 0, 0, 1, 1, 3], [1, 2, 3, 2, 4, 4]])
GOLDEN = torch.cat([GOLDEN, GOLDEN.flip(0)], 1)


def messy_graph(seed: int) -> tuple[Tensor, int]:
    """An undirected graph of at most 30 nodes with isolated nodes, self-loops and repeated edges."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    num_nodes = number(4, 31)
    used = max(num_nodes - number(1, 4), 1)
    ends = torch.randint(used, (2, number(1, 4 * num_nodes)), generator=generator)
    loops = torch.randint(used, (1, 2), generator=generator).expand(2, -1)
    repeated = ends[:, : ends.size(1) // 3]
    edges = torch.cat([ends, loops, repeated, repeated], 1)
    edges = torch.cat([edges, edges.flip(0)], 1)
    return edges[:, torch.randperm(edges.size(1), generator=generator)], num_nodes


def neighbor_sets(edge_index: Tensor, num_nodes: int) -> Sets:
    sets: Sets = [set() for _ in range(num_nodes)]
    for u, v in edge_index.t().tolist():
        sets[u].add(v)
    return sets


def all_pairs(num_nodes: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(num_nodes), torch.arange(num_nodes)).t()


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 12, max_edges: int = 30) -> tuple[Tensor, int]:
    """A directed graph, any shape."""
    num_nodes = draw(st.integers(1, max_nodes))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=max_edges))
    return torch.tensor(edges, dtype=torch.long).view(-1, 2).t(), num_nodes
