"""Draws docs/_static/should_i_pretrain.svg, gain of pre-training by feasibility, from the record of `graphkit run
w2pgnn`.

python scripts/plot_pretraining.py
python scripts/plot_pretraining.py --record runs/w2pgnn/graphon-domains.json --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plot_parts import COLOURS, Chart, dot, key, line, moved, options, padded, svg, write

from graphkit.bench.records import Record

WIDTH, HEIGHT = 330, 270


def draw(record: Record) -> str:
    """A panel a model, a point a pair, a colour a source.

    Raises:
        ValueError: the record has no table of pairs.
    """
    if not record.tables:
        raise ValueError(f"the record of {record.key} has no tables of pairs; run the recipe again")
    names = list(dict.fromkeys(next(iter(record.tables.values()))["source"]))
    parts = [
        moved(place * WIDTH, 0, _panel(model, table, names))
        for place, (model, table) in enumerate(record.tables.items())
    ]
    parts += key(46, HEIGHT + 16, names)
    return svg(WIDTH * len(record.tables), HEIGHT + 26, parts, "gain of pre-training by feasibility")


def _panel(model: str, table: dict[str, list[Any]], names: Sequence[str]) -> list[str]:
    xs, ys = table["Feasibility"], table["gain"]
    chart = Chart(46, 26, WIDTH - 14, HEIGHT - 42, *padded([*xs, 0.0]), *padded([*ys, 0.0]))
    parts = chart.frame(model, "feasibility (0 is best)", "gain in accuracy, points")
    parts.append(line(chart.left, chart.y(0), chart.right, chart.y(0), 0.8))
    for source, target, x, y in zip(table["source"], table["target"], xs, ys, strict=True):
        colour = COLOURS[names.index(source) % len(COLOURS)]
        parts.append(dot(*chart.place(x, y), colour, 4, f"{source} to {target}: {y:+.1f} points", 0.85))
    return parts


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__, "should_i_pretrain.svg", "w2pgnn/graphon-domains.json").parse_args(arguments)
    write(given.out, draw(Record.load(given.record)))


if __name__ == "__main__":
    main()
