"""Plots of result records."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from graphkit.bench.records import Record
from graphkit.utils.cost import pareto_front
from graphkit.utils.io import atomic_write


def plot_record(record: Record, path: str | Path) -> Path:
    """Save a picture of panels: test scores with the paper's, learning curves, score histograms of the first model, and
    a panel for each cost that was measured, in which a line joins the models that no other one dominates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    costs = record.costs()
    count = 2 + bool(record.histograms) + len(costs)
    figure, (bars, curves, *more) = plt.subplots(1, count, figsize=(5 * count, 4.5), layout="constrained")
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
    panels = iter(more)
    if record.histograms:
        scores = next(panels)
        name, bins = next(iter(record.histograms.items()))
        groups = [(kind, heights) for kind, heights in bins.items() if kind != "edges"]
        for (kind, heights), color in zip(groups, ("tab:green", "tab:red"), strict=False):
            scores.stairs(heights, bins["edges"], fill=True, alpha=0.5, color=color, label=kind)
        scores.set(title=f"{name}: test scores", xlabel="score", ylabel="share")
        scores.legend()
    for cost in costs:
        _plot_pareto(record, cost, costs[cost], next(panels))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())
    return Path(path)


def _plot_pareto(record: Record, cost: str, models: dict[str, tuple[float, float]], panel: Any) -> None:
    """Every model's test score against a cost."""
    points = sorted(models.values())
    front = pareto_front([(x, -y) for x, y in points])
    panel.scatter(*zip(*points, strict=True), color="tab:blue", zorder=3)
    panel.plot(*zip(*(points[place] for place in front), strict=True), color="tab:gray", linestyle="--")
    for name, place in models.items():
        panel.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize="small")
    panel.margins(0.2, 0.1)
    panel.set_xscale("log")
    panel.set(title=f"{record.monitor} against {cost}", xlabel=cost, ylabel=f"test {record.monitor} (%)")
