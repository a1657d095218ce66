"""Plots of result records."""

from __future__ import annotations

import io
from pathlib import Path

from graphkit.bench.records import Record
from graphkit.utils.io import atomic_write


def plot_record(record: Record, path: str | Path) -> Path:
    """Save three panels: test scores with the paper's, learning curves, and score histograms of the first model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (bars, curves, scores) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    rows = [row for row in record.rows if row.metric == record.monitor and row.split == "test"]
    names = [row.model for row in rows]
    bars.bar(
        names, [row.mean for row in rows], yerr=[row.std for row in rows], capsize=3, color="tab:blue", label="here"
    )
    paper = [(row.model, row.reported["mean"]) for row in rows if row.reported]
    if paper:
        bars.scatter(*zip(*paper, strict=True), marker="D", color="tab:orange", zorder=3, label="paper")
        bars.legend()
    bars.set(title=f"{record.key} on {record.dataset}", ylabel=f"test {record.monitor} (%)")
    bars.tick_params(axis="x", rotation=45)
    column = f"valid/{record.monitor}"
    for name, history in record.curves.items():
        points = [(row["epoch"], row[column]) for row in history if column in row]
        curves.plot([x for x, _ in points], [y for _, y in points], label=name)
    curves.set(title=f"validation, seed {record.seeds[0]}", xlabel="epoch", ylabel=f"{record.monitor} (%)")
    if record.curves:
        curves.legend()
    if record.histograms:
        name, bins = next(iter(record.histograms.items()))
        groups = [(kind, heights) for kind, heights in bins.items() if kind != "edges"]
        for (kind, heights), color in zip(groups, ("tab:green", "tab:red"), strict=False):
            scores.stairs(heights, bins["edges"], fill=True, alpha=0.5, color=color, label=kind)
        scores.set(title=f"{name}: test scores", xlabel="score", ylabel="share")
        scores.legend()
    else:
        scores.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())
    return Path(path)
