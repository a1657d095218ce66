"""How the cost of the neighbour index and of common neighbours grows from 10^5 to 10^8 edges, with a log-log plot.

Power-law graphs of ten entries a node; 65,536 pairs, half of them edges. Needs about 16 GB for the largest.
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import torch
from common_neighbors import pairs_of
from harness import allocated_mb, interleave, parser, power_law_graph, report

from graphkit.ops import NeighborIndex, common_neighbor_sum


def measure(entries: int, pairs: int, features: int, repeats: int) -> dict[str, Any]:
    nodes = entries // 10
    edge_index = power_law_graph(nodes, entries)
    chosen = pairs_of(edge_index, nodes, pairs)
    memory = allocated_mb(lambda: NeighborIndex(edge_index, nodes))
    build = interleave({"build": lambda: NeighborIndex(edge_index, nodes)}, max(1, repeats // 3), warmup=0)
    index = NeighborIndex(edge_index, nodes)
    x = torch.randn(nodes, features)
    times = interleave(
        {
            "sum": lambda: common_neighbor_sum(index, chosen, x),
            "without": lambda: index.without(chosen[:, : pairs // 2]),
        },
        repeats,
        warmup=1,
    )
    return {
        "case": f"10^{math.log10(entries):g} entries",
        "entries": index.num_edges,
        "nodes": nodes,
        "build_ms": build["build"],
        "build_peak_mb": memory,
        "sum_ms": times["sum"],
        "without_ms": times["without"],
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    names = {"build_ms": "build the index", "without_ms": "take edges out", "sum_ms": "sum over common neighbours"}
    for column, label in names.items():
        axes.loglog([row["entries"] for row in rows], [row[column] for row in rows], marker="o", label=label)
    axes.set(xlabel="entries (directed edges)", ylabel="milliseconds", title="65,536 pairs, 64 features")
    axes.grid(which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    print(f"plot    {path}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--largest", type=int, default=8, help="exponent of the largest number of entries")
    arguments.add_argument("--pairs", type=int, default=65_536)
    arguments.add_argument("--features", type=int, default=64)
    options = arguments.parse_args()
    rows = []
    for exponent in range(5, options.largest + 1):
        rows.append(measure(10**exponent, options.pairs, options.features, options.repeats))
        gc.collect()
    report("scaling", rows, options.out)
    if options.out is not None:
        plot(rows, options.out / "scaling.png")


if __name__ == "__main__":
    main()
