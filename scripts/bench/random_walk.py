"""Random walks: GraphKit's kernel against torch-sparse's, a Python loop over networkx's neighbours, and plain PyTorch.

torch-sparse (extra `sparse`) is skipped where it is not installed. Run on a quiet machine.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable

import networkx as nx
import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch import Tensor

from graphkit.ops import NeighborIndex
from graphkit.ops.walk import random_walk, random_walk_reference


def python_walks(neighbors: dict[int, list[int]], start: Tensor, length: int) -> list[list[int]]:
    walks = []
    for node in start.tolist():
        walk = [node]
        for _ in range(length):
            node = random.choice(neighbors[node]) if neighbors[node] else node
            walk.append(node)
        walks.append(walk)
    return walks


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--nodes", type=int, default=236_000)
    arguments.add_argument("--entries", type=int, default=2_000_000)
    arguments.add_argument("--walks", type=int, default=100_000)
    arguments.add_argument("--python-walks", type=int, default=5_000, help="walks of the comparison with networkx")
    arguments.add_argument("--length", type=int, default=20)
    options = arguments.parse_args()
    index = NeighborIndex(power_law_graph(options.nodes, options.entries), options.nodes)
    start = torch.randint(options.nodes, (options.walks,), generator=torch.Generator().manual_seed(0))
    few = start[: options.python_walks]

    def ours(nodes: Tensor, p: float = 1, q: float = 1) -> Callable[[], Tensor]:
        return lambda: random_walk(index, nodes, options.length, p, q)

    def plain(nodes: Tensor, p: float = 1, q: float = 1) -> Callable[[], Tensor]:
        return lambda: random_walk_reference(index.rowptr, index.col, nodes, options.length, p, q, 0)

    graph = nx.Graph(index.edge_index.t().tolist())
    graph.add_nodes_from(range(options.nodes))
    neighbors = {node: list(graph[node]) for node in graph}
    del graph
    size = len(start)
    cases: list[tuple[str, Callable, str, Callable]] = [
        (f"uniform, {len(few)} walks", ours(few), "networkx", lambda: python_walks(neighbors, few, options.length)),
        (f"uniform, {size} walks", ours(start), "plain PyTorch", plain(start)),
        (f"p=0.5, q=2, {size} walks", ours(start, 0.5, 2), "plain PyTorch", plain(start, 0.5, 2)),
    ]
    if importlib.util.find_spec("torch_sparse"):
        import torch_sparse  # noqa: F401  registers the operator

        walk = torch.ops.torch_sparse.random_walk
        peer = (f"uniform, {size} walks", ours(start), "torch-sparse")
        cases.insert(1, (*peer, lambda: walk(index.rowptr, index.col, start, options.length)))
    else:
        print("torch-sparse is not installed (extra `sparse`): compared with networkx and plain PyTorch only")
    rows = []
    for case, function, name, other in cases:
        # Memory first: later calls reuse what earlier ones have freed.
        memory = allocated_mb(function), allocated_mb(other)
        times = interleave({"GraphKit": function, name: other}, options.repeats)
        rows.append(
            {
                "case": case,
                "ours_ms": times["GraphKit"],
                "peer": name,
                "peer_ms": times[name],
                "ratio": times[name] / times["GraphKit"],
                "ours_peak_mb": memory[0],
                "peer_peak_mb": memory[1],
            }
        )
    report("random_walk", rows, options.out)


if __name__ == "__main__":
    main()
