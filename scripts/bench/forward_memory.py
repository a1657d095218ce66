"""Memory and time of layer-wise (single-forward) training against depth, beside backpropagation.

A training step on a power-law graph for each depth: the most bytes kept for the backward pass, memory that the process
takes beyond what it held, and time. Layer-wise training takes one step for each layer: its time is the depth times that
of the last layer, its memory that of one. Then message passing that is made once for a layer against once in each step.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch_geometric.data import Data

from graphkit.datasets import IndexSplit
from graphkit.nn import GNN, ForwardStack
from graphkit.train import NodeClassificationTask
from graphkit.train.local import SingleForwardTask
from graphkit.utils.cost import saved_activation_bytes

CLASSES = 8


def problem(nodes: int, entries: int, width: int) -> tuple[Data, IndexSplit]:
    generator = torch.Generator().manual_seed(0)
    data = Data(
        x=torch.randn(nodes, width, generator=generator),
        edge_index=power_law_graph(nodes, entries),
        y=torch.arange(nodes) % CLASSES,
    )
    order = torch.randperm(nodes, generator=generator)
    return data, IndexSplit(*order.split([nodes - 2 * (nodes // 5), nodes // 5, nodes // 5]))


def measure(data: Data, split: IndexSplit, depth: int, repeats: int) -> dict[str, Any]:
    """A step of every layer, beside one of backpropagation."""
    width = data.num_features
    local, usual = SingleForwardTask(data, split), NodeClassificationTask(data, split)
    stack = ForwardStack([width] * (depth + 1))
    plain = GNN(width, width, depth, CLASSES, layer_norm=False)
    x, batch = data.x, split.train
    _ = local.graph, usual.graph

    def layerwise() -> None:
        # Each layer trains on top of those below, which are finished; their output is made once a layer.
        for below in range(1, depth + 1):
            local.loss(stack.prefix(below), batch).backward()

    def one_layer() -> None:
        local.loss(stack, batch).backward()

    def backpropagated() -> None:
        usual.loss(plain, batch).backward()

    saved, peaks = {}, {}
    for name, function in (("ours", layerwise), ("peer", backpropagated)):
        task = local if name == "ours" else usual
        with saved_activation_bytes(stack, plain, x, task.graph.rowptr, task.graph.col) as counter:
            function()
        saved[name] = counter.peak / 2**20
    one_layer()  # so that the constant part of the last layer is there, as in all epochs but the first
    gc.collect()
    for name, function in (("ours", one_layer), ("peer", backpropagated)):
        peaks[name] = allocated_mb(function)
    times = interleave({"ours": one_layer, "peer": backpropagated}, repeats)
    return {
        "case": f"{depth} layer{'s' * (depth > 1)}",
        "depth": depth,
        "ours_ms": depth * times["ours"],
        "peer": "backpropagation",
        "peer_ms": times["peer"],
        "ratio": times["peer"] / (depth * times["ours"]),
        "ours_saved_mb": saved["ours"],
        "peer_saved_mb": saved["peer"],
        "ours_peak_mb": peaks["ours"],
        "peer_peak_mb": peaks["peer"],
    }


def measure_cache(data: Data, split: IndexSplit, conv: str, repeats: int) -> dict[str, Any]:
    """One layer's step: the rows of the training nodes from what was made once, beside the layer on the whole graph."""
    task = SingleForwardTask(data, split)
    layer = ForwardStack([data.num_features, data.num_features], conv).layers[0]
    rows = torch.cat([split.train, task.virtual_index])
    constant = layer.prepare([(task.x, task.graph)], rows)
    weight = torch.randn(rows.numel(), data.num_features)

    def cached() -> None:
        (layer.finish(constant) * weight).sum().backward()

    def again() -> None:
        (layer(task.x, task.graph)[rows] * weight).sum().backward()

    times = interleave({"ours": cached, "peer": again}, repeats)
    return {
        "case": f"{conv}, message passing made once",
        "ours_ms": times["ours"],
        "peer": "made in each step",
        "peer_ms": times["peer"],
        "ratio": times["peer"] / times["ours"],
        "ours_peak_mb": allocated_mb(cached),
        "peer_peak_mb": allocated_mb(again),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    titles = {"saved_mb": "kept for the backward pass", "peak_mb": "taken by a step"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for who, label in (("ours", "single forward"), ("peer", "backpropagation")):
            points = [(row["depth"], row[f"{who}_{column}"]) for row in rows if "depth" in row]
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(xlabel="layers", ylabel="MiB", title=title, ylim=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
    print(f"plot    {path}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--largest", type=int, default=16, help="most layers; the depths are powers of two")
    arguments.add_argument("--nodes", type=int, default=20_000)
    arguments.add_argument("--entries", type=int, default=200_000, help="directed edges")
    arguments.add_argument("--width", type=int, default=128, help="width of features and layers")
    options = arguments.parse_args()
    data, split = problem(options.nodes, options.entries, options.width)
    depth, rows = 1, []
    while depth <= options.largest:
        rows.append(measure(data, split, depth, options.repeats))
        depth *= 2
    rows += [measure_cache(data, split, conv, options.repeats) for conv in ("gcn", "sage")]
    report("forward_memory", rows, options.out)
    if options.out is not None:
        plot(rows, options.out / "forward_memory.png")


if __name__ == "__main__":
    main()
