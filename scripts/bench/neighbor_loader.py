"""Batches of sampled neighbours: GraphKit's NeighborLoader against PyG's, which needs torch-sparse or pyg-lib.

The sampler alone, and the loader that also gathers the features. Without the peer only GraphKit's times are printed.
Run on a quiet machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader as PyGLoader
from torch_geometric.sampler import NeighborSampler as PyGSampler
from torch_geometric.sampler import NodeSamplerInput
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

from graphkit.loader import NeighborLoader, NeighborSampler


def epoch(loader: Any) -> Callable[[], None]:
    def run() -> None:
        for _ in loader:
            pass

    return run


def sampling(sampler: Any, seeds: list[NodeSamplerInput]) -> Callable[[], None]:
    def run() -> None:
        for batch in seeds:
            sampler.sample_from_nodes(batch)

    return run


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--nodes", type=int, default=236_000)
    arguments.add_argument("--entries", type=int, default=2_000_000)
    arguments.add_argument("--features", type=int, default=100)
    arguments.add_argument("--batch-size", type=int, default=1024)
    arguments.add_argument("--batches", type=int, default=10, help="batches of one timed turn")
    arguments.add_argument("--neighbors", type=int, nargs="+", default=[15, 10])
    options = arguments.parse_args()
    # PyG warns that torch-sparse will not do for ever.
    warnings.filterwarnings("ignore", message=".*pyg-lib.*")
    edge_index = power_law_graph(options.nodes, options.entries)
    bare = Data(edge_index=edge_index, num_nodes=options.nodes)
    full = Data(edge_index=edge_index, x=torch.randn(options.nodes, options.features))
    peer = "PyG with pyg-lib" if WITH_PYG_LIB else "PyG with torch-sparse" if WITH_TORCH_SPARSE else None
    if peer is None:
        print("neither torch-sparse (extra `sparse`) nor pyg-lib is installed: PyG's loader cannot run, no ratio")
    order = torch.randperm(options.nodes, generator=torch.Generator().manual_seed(0))
    seeds = [NodeSamplerInput(nodes, nodes) for nodes in order.split(options.batch_size)[: options.batches]]
    loading = {
        "input_nodes": order[: options.batches * options.batch_size],
        "batch_size": options.batch_size,
        "shuffle": True,
    }
    cases: dict[str, dict[str, Callable[[], None]]] = {}
    for name, sampler, loader in (
        ("GraphKit", NeighborSampler, NeighborLoader),
        *([(peer, PyGSampler, PyGLoader)] if peer else []),
    ):
        made = sampler(bare, options.neighbors)
        cases.setdefault("sampler", {})[name] = sampling(made, seeds)
        made = loader(bare, options.neighbors, **loading)
        cases.setdefault("loader", {})[name] = epoch(made)
        made = loader(full, options.neighbors, **loading)
        cases.setdefault(f"loader, {options.features} features", {})[name] = epoch(made)
    rows = []
    for case, functions in cases.items():
        # Memory first: later calls reuse what earlier ones have freed.
        memory = {name: allocated_mb(function) for name, function in functions.items()}
        times = interleave(functions, options.repeats)
        row = {"case": case, "ours_ms": times["GraphKit"] / options.batches}
        if peer:
            row |= {
                "peer": peer,
                "peer_ms": times[peer] / options.batches,
                "ratio": times[peer] / times["GraphKit"],
                "ours_peak_mb": memory["GraphKit"],
                "peer_peak_mb": memory[peer],
            }
        rows.append(row)
    report("neighbor_loader", rows, options.out)


if __name__ == "__main__":
    main()
