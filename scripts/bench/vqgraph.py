"""The edge loss without a matrix of all pairs against the dense one, and a student against the network that taught it.

    python scripts/bench/vqgraph.py --out results/bench

The edge loss at PubMed's size (19,717 nodes, 500 features) needs 8 GB for the dense form; ``--nodes`` makes it smaller.
``codes`` tells that vectors come from a codebook, so that equal ones are visited once. Inference is over all nodes of a
power-law graph: GraphSAGE with two layers of 128, its neighbours in memory, against the MLP that it teaches.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch import Tensor

from graphkit.nn import GNN, CodeDistillMLP
from graphkit.ops import NeighborIndex, edge_reconstruction_loss
from graphkit.ops.edge_reconstruction import edge_reconstruction_loss_reference


def edge_loss(nodes: int, edges: int, features: int, codes: int, repeats: int, dense: bool) -> list[dict[str, Any]]:
    """Forward and backward."""
    edge_index = power_law_graph(nodes, 2 * edges)
    graph = NeighborIndex(edge_index, nodes)
    code = torch.randint(codes, (nodes,))
    e = torch.randn(codes, features)[code]
    rows = []
    for name, group in (("all vectors", None), (f"{codes} codes", code)):

        def ours(group: Tensor | None = group) -> None:
            leaf = e.clone().requires_grad_()
            edge_reconstruction_loss(leaf, graph, group=group).backward()

        def peer() -> None:
            leaf = e.clone().requires_grad_()
            edge_reconstruction_loss_reference(leaf, edge_index).backward()

        times = interleave({"ours": ours, **({"peer": peer} if dense else {})}, repeats, warmup=1)
        row: dict[str, Any] = {"case": f"edge loss, {nodes:,} nodes, {name}", "ours_ms": times["ours"]}
        row["ours_peak_mb"] = allocated_mb(ours)
        if dense:
            row |= {"peer": "dense matrices", "peer_ms": times["peer"], "ratio": times["peer"] / times["ours"]}
            gc.collect()
            row["peer_peak_mb"] = allocated_mb(peer)
        rows.append(row)
    return rows


def inference(nodes: int, features: int, repeats: int) -> dict[str, Any]:
    graph = NeighborIndex(power_law_graph(nodes, 20 * nodes), nodes)
    x = torch.randn(nodes, features)
    teacher = GNN(features, 128, 2, 40, conv="sage", layer_norm=False).eval()
    student = CodeDistillMLP(features, 128, 40, code_dim=features).eval().serving()
    with torch.inference_mode():
        cases = {"ours": lambda: student(x), "peer": lambda: teacher(x, graph)}
        times = interleave(cases, repeats, warmup=1)
        memory = {name: allocated_mb(function) for name, function in cases.items()}
    return {
        "case": f"inference, {nodes:,} nodes, {graph.num_edges:,} entries",
        "ours_ms": times["ours"],
        "ours_peak_mb": memory["ours"],
        "peer": "the teacher, GraphSAGE",
        "peer_ms": times["peer"],
        "ratio": times["peer"] / times["ours"],
        "peer_peak_mb": memory["peer"],
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--nodes", type=int, default=19_717, help="nodes of the edge loss")
    arguments.add_argument("--edges", type=int, default=44_324)
    arguments.add_argument("--features", type=int, default=500)
    arguments.add_argument("--codes", type=int, default=512, help="codes in use")
    arguments.add_argument("--no-dense", action="store_true", help="leave the dense form out, for small memories")
    arguments.add_argument("--large", type=int, default=1_000_000, help="nodes of the inference")
    arguments.add_argument("--large-features", type=int, default=128)
    options = arguments.parse_args()
    torch.manual_seed(0)
    rows = edge_loss(
        options.nodes, options.edges, options.features, options.codes, options.repeats, not options.no_dense
    )
    rows.append(inference(options.large, options.large_features, options.repeats))
    report("vqgraph", rows, options.out)


if __name__ == "__main__":
    main()
