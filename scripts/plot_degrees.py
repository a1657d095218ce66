"""Draws docs/_static/degrees.svg: test accuracy of nodes by their degree, with and without local augmentation.

python scripts/plot_degrees.py
python scripts/plot_degrees.py --dataset digits --models GAT LAGAT --runs 3 --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from plot_parts import COLOURS, Chart, curve, dot, key, options, padded, svg, text, trained, write

from graphkit.recipes import lagnn

BORDERS = (1, 2, 3, 4, 5, 7, 11)  # a group begins at each, the last one has no end


def draw(dataset: str, root: str | None, models: Sequence[str], runs: int) -> str:
    """A line a model over groups of degrees; the mean of the runs."""
    shares: dict[str, torch.Tensor] = {}
    counts = torch.zeros(len(BORDERS))
    for name in models:
        right, counts = torch.zeros(len(BORDERS)), torch.zeros(len(BORDERS))
        for seed in range(runs):
            found = trained(lagnn, name, seed, dataset=dataset, root=root)
            task = found.task
            with torch.no_grad():
                answer = task.outputs(found.model).argmax(1)
            test = task.split.test
            degree = task.graph.degree[test]
            group = torch.bucketize(degree, torch.tensor(BORDERS), right=True) - 1
            kept = group >= 0
            hit = (answer[test] == task.y[test])[kept].float()
            right += torch.zeros_like(right).index_add_(0, group[kept], hit)
            counts += torch.bincount(group[kept], minlength=len(BORDERS))
        shares[name] = 100 * right / counts.clamp(min=1)
    places = [place for place in range(len(BORDERS)) if counts[place] > 0]
    values = [float(share[place]) for share in shares.values() for place in places]
    chart = Chart(56, 34, 470, 226, -0.5, len(BORDERS) - 0.5, *padded(values))
    parts = chart.frame("", "", "test accuracy, %", x_marks=())
    for place in places:
        low, high = BORDERS[place], (BORDERS[place + 1] - 1 if place + 1 < len(BORDERS) else None)
        words = f"{low}+" if high is None else str(low) if low == high else f"{low}–{high}"
        parts.append(text(chart.x(place), chart.bottom + 16, words))
        parts.append(text(chart.x(place), chart.bottom + 30, f"{int(counts[place]) // runs} nodes", size=9))
    parts.append(text((chart.left + chart.right) / 2, chart.bottom + 48, "degree"))
    for (name, share), colour in zip(shares.items(), COLOURS, strict=False):
        points = [chart.place(place, float(share[place])) for place in places]
        parts.append(curve(points, colour))
        for place, point in zip(places, points, strict=True):
            parts.append(dot(*point, colour, 4, f"{name}: {float(share[place]):.1f} %"))
    parts += key(60, 18, models)
    return svg(480, 284, parts, f"test accuracy by degree on {dataset}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "degrees.svg")
    parser.add_argument("--dataset", default="Cora")
    parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
    parser.add_argument("--models", nargs="+", default=["GCN", "LAGCN"])
    parser.add_argument("--runs", type=int, default=1, help="seeds 0, 1, ..., of which the mean is drawn")
    given = parser.parse_args(arguments)
    write(given.out, draw(given.dataset, given.root, given.models, given.runs))


if __name__ == "__main__":
    main()
