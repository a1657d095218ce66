"""Draws docs/_static/poisoned.svg, test accuracy against the share of poisoned edges, from the records of `graphkit run
stable` on one graph: the clean one, and those under an attack.

python scripts/plot_poisoned.py
python scripts/plot_poisoned.py --records runs --graph CiteSeer --models STABLE GCN --out plot.svg
python scripts/plot_poisoned.py --attack dice --out plot.svg
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from plot_parts import COLOURS, HOME, Chart, curve, dot, line, options, padded, svg, text, write

from graphkit.bench.records import Record, load_records


def shares(records: Iterable[Record], graph: str, attack: str) -> dict[float, Record]:
    """Records of a graph by the share of edges that an attack changed; 0 for the clean graph.

    Attacked graphs are called ``Cora-meta-0.20`` or ``Cora-LCC+dice-0.20``.
    """
    name = re.compile(rf"{re.escape(graph)}(?:-LCC)?(?:[-+]{re.escape(attack)}-(\d\.\d+))?")
    matches = [(name.fullmatch(record.dataset), record) for record in records if record.key == "stable"]
    return dict(
        sorted(((float(match[1] or 0), record) for match, record in matches if match), key=lambda pair: pair[0])
    )


def draw(records: dict[float, Record], graph: str, models: Sequence[str] | None) -> str:
    """A line a model with its standard deviations.

    Raises:
        ValueError: fewer than two shares were recorded.
    """
    if len(records) < 2:
        raise ValueError(f"there are {len(records)} records of {graph}; two shares of poisoned edges make a line")
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for share, record in records.items():
        for row in record.rows:
            if row.split == "test" and row.metric == record.monitor and (models is None or row.model in models):
                lines.setdefault(row.model, []).append((100 * share, row.mean, row.std))
    values = [mean + sign * std for points in lines.values() for _, mean, std in points for sign in (-1, 1)]
    chart = Chart(56, 16, 440, 246, -1, 100 * max(records) + 1, *padded(values))
    monitor = next(iter(records.values())).monitor
    parts = chart.frame("", "poisoned edges, %", f"test {monitor}, %", x_marks=[100 * share for share in records])
    for place, (name, points) in enumerate(lines.items()):
        colour, dash = COLOURS[place % len(COLOURS)], place >= len(COLOURS)
        parts.append(curve([chart.place(share, mean) for share, mean, _ in points], colour, dash))
        for share, mean, std in points:
            x, y = chart.place(share, mean)
            parts.append(line(x, chart.y(mean - std), x, chart.y(mean + std), 0.6, colour))
            parts.append(dot(x, y, colour, 3.5, f"{name}, {share:g} %: {mean:.2f} ± {std:.2f}"))
        row = 30 + 20 * place
        parts += [curve([(456, row - 4), (474, row - 4)], colour, dash), text(480, row, name, "start")]
    return svg(620, max(290, 40 + 20 * len(lines)), parts, f"test accuracy against poisoned edges on {graph}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "poisoned.svg")
    parser.add_argument("--records", default=str(HOME / "results"), help="folder of records of recipes")
    parser.add_argument("--graph", default="Cora")
    parser.add_argument("--attack", default="meta", help="meta, dice, random or prbcd")
    parser.add_argument("--models", nargs="+", help="all in the records if not given")
    given = parser.parse_args(arguments)
    found = shares(load_records(given.records), given.graph, given.attack)
    write(given.out, draw(found, given.graph, given.models))


if __name__ == "__main__":
    main()
