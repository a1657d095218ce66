"""Should I pre-train? Feasibility of named datasets for another one, as a table and a plot."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from graphkit.analysis import FeasibilityResult, Graphon, GraphonEstimator, PretrainFeasibility, gromov_wasserstein
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.datasets import info, load
from graphkit.utils.io import atomic_write, check_writable


@dataclass(frozen=True)
class Advice:
    """What :func:`advise` found.

    Attributes:
        results: by what would be pre-trained on: each dataset alone, then all together.
        itself: score of one half of the downstream graphs for the other half: as good as it gets.
        density: score of a generator that knows nothing but the density of the downstream graphs.
    """

    results: dict[str, FeasibilityResult]
    itself: float
    density: float

    def share(self, score: float) -> float:
        """How far a score is on the way from density alone (0) to the downstream graphs themselves (1)."""
        room = self.itself - self.density
        return (score - self.density) / room if room > 1e-6 else 0.0


def advise(
    pretrain: Sequence[str],
    downstream: str,
    root: str | None = None,
    graphs: int = 1000,
    num_hops: int = 2,
    min_nodes: int = 16,
    max_nodes: int = 1000,
    resolution: int = 16,
    seed: int = 0,
    out: str = "advise.png",
) -> Advice:
    """Print how feasible pre-training on each dataset is for another one, and save a plot.

    Args:
        pretrain: datasets to pre-train on.
        downstream: the dataset in question.
        root: folder of the datasets.
        graphs: most graphs, or ego-nets of a large graph, of each.
        num_hops, min_nodes, max_nodes: of the ego-nets.
        resolution: of the graphons.
        seed: which graphs are drawn.
        out: file of the plot.

    Raises:
        ValueError: an unknown dataset, one named twice, or one without a graph.
        FileNotFoundError: a dataset is not on disk.
        OSError: the plot cannot be written (found before any work).
    """
    if not pretrain:
        raise ValueError("pretrain must name at least one dataset (got none)")
    names = [info(name).name for name in pretrain]
    if len(set(names)) < len(names):
        raise ValueError(f"pretrain must name every dataset once (got {', '.join(names)})")
    goal = info(downstream).name
    if Path(out).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"out must end in .png, .svg or .pdf (got {out!r})")
    check_writable(Path(out).parent)
    # Another seed for the downstream graphs, so that a dataset is not compared with its very own graphs.
    sets = {name: dataset_graphs(load(name, root), graphs, num_hops, min_nodes, max_nodes, seed) for name in names}
    target = dataset_graphs(load(goal, root), graphs, num_hops, min_nodes, max_nodes, seed + 1)
    largest = min(max(graph.num_nodes for graph in part) for part in (*sets.values(), target))
    scorer = PretrainFeasibility(estimator=GraphonEstimator(resolution=min(resolution, largest)), seed=seed)
    wanted = scorer.estimator.fit(target)
    results = {name: scorer.score({name: part}, wanted) for name, part in sets.items()}
    if len(sets) > 1:
        results[" + ".join(names)] = scorer.score(sets, wanted)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed)).tolist()
    one, other = ([target[i] for i in part] for part in (order[::2], order[1::2] or order))
    itself = PretrainFeasibility(("all",), estimator=scorer.estimator).score(one, other).score
    flat = Graphon(torch.full_like(wanted.values, wanted.density))
    advice = Advice(results, itself, -float(gromov_wasserstein(flat.values, wanted.values)[0]))
    picture = _plot(advice, goal, out)
    stdout = Console(width=None if sys.stdout.isatty() else 120)
    stdout.print(_table(advice, goal, len(target)))
    best = max(results, key=lambda name: results[name].score)
    stdout.print(
        f"best  {best}: {100 * advice.share(results[best].score):.0f} % of the way from density alone to {goal} itself"
        f"\nplot  {picture}",
        highlight=False,
        soft_wrap=True,
    )
    return advice


def _table(advice: Advice, goal: str, graphs: int) -> Table:
    table = Table(title=f"Feasibility of pre-training for {goal} ({graphs:,} graphs); 0 is best")
    for name in ("pre-training on", "score", "share", "best basis", "weights"):
        table.add_column(name, justify="right" if name in ("score", "share") else "left")
    for name, result in sorted(advice.results.items(), key=lambda pair: -pair[1].score):
        weights = ", ".join(
            f"{part} {float(a):.2f}" for part, a in zip(result.names, result.alpha, strict=True) if float(a) > 0.005
        )
        share = f"{100 * advice.share(result.score):.0f} %"
        table.add_row(name, f"{result.score:.4f}", share, result.basis, weights if len(result.names) > 1 else "")
    table.add_section()
    table.add_row(f"({goal} itself, one half for the other)", f"{advice.itself:.4f}", "100 %", "", "")
    table.add_row("(density alone)", f"{advice.density:.4f}", "0 %", "", "")
    return table


def _plot(advice: Advice, goal: str, out: str) -> Path:
    """Bars of the scores with both references, and the graphons."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(advice.results)
    shown: dict[str, Graphon] = {goal: next(iter(advice.results.values())).target}
    shown |= {f"best generator\n{name}": result.generator for name, result in advice.results.items()}
    figure = plt.figure(figsize=(5.5 + 2.3 * len(shown), 3.4), layout="constrained")
    left, *maps = figure.subplots(1, 1 + len(shown), width_ratios=[2.2, *[1] * len(shown)])
    left.barh(names[::-1], [advice.results[name].score for name in names[::-1]], color="tab:blue")
    left.axvline(advice.itself, color="tab:green", label=f"{goal} itself")
    left.axvline(advice.density, color="tab:orange", linestyle="--", label="density alone")
    left.set(title=f"feasibility for {goal}", xlabel="score (0 is best)")
    left.legend(fontsize="small")
    most = max(float(graphon.values.max()) for graphon in shown.values())
    for axes, (name, graphon) in zip(maps, shown.items(), strict=True):
        axes.imshow(graphon.values, vmin=0, vmax=most, cmap="viridis", extent=(0, 1, 1, 0))
        axes.set_title(name, fontsize="small")
        axes.set(xticks=[], yticks=[])
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(out).suffix[1:], dpi=110)
    plt.close(figure)
    with atomic_write(out, "wb") as file:
        file.write(buffer.getvalue())
    return Path(out)
