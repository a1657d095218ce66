"""Draws docs/_static/recall.svg, images recalled by the number of images stored, from the record of `graphkit run
hopfield_recall`.

python scripts/plot_recall.py
python scripts/plot_recall.py --record runs/hopfield_recall/digits.json --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

from plot_parts import COLOURS, Chart, curve, dot, options, svg, text, write

from graphkit.bench.records import Record

WIDTH, HEIGHT, RIGHT = 620, 300, 420


def draw(record: Record) -> str:
    """A line a model and temperature.

    Raises:
        ValueError: the record has no table of numbers stored.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for model, table in (record.tables or {}).items():
        several = len(set(table["beta"])) > 1
        for count, beta, value in zip(table["patterns"], table["beta"], table["Recalled"], strict=True):
            lines.setdefault(f"{model}, beta {beta:g}" if several else model, []).append((count, value))
    if not lines:
        raise ValueError(f"the record of {record.key} has no table of numbers stored; run the recipe again")
    counts = sorted({count for line in lines.values() for count, _ in line})
    room = (counts[-1] / counts[0]) ** 0.03
    chart = Chart(46, 14, RIGHT, 256, counts[0] / room, counts[-1] * room, 0, 100, log_x=True)
    parts = chart.frame("", "images stored", x_marks=counts)
    for place, (name, line) in enumerate(lines.items()):
        colour, dash = COLOURS[place % len(COLOURS)], place >= len(COLOURS)
        parts.append(curve([chart.place(*point) for point in line], colour, dash))
        parts += [
            dot(*chart.place(count, value), colour, 4, f"{name}, {count} images: {value:.1f} %")
            for count, value in line
        ]
        row = chart.top + 14 + 20 * place
        parts.append(curve([(RIGHT + 16, row - 4), (RIGHT + 34, row - 4)], colour, dash))
        parts.append(text(RIGHT + 40, row, name, "start"))
    return svg(WIDTH, HEIGHT, parts, "percent of images recalled by the number stored")


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__, "recall.svg", "hopfield_recall/digits.json").parse_args(arguments)
    write(given.out, draw(Record.load(given.record)))


if __name__ == "__main__":
    main()
