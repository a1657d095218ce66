"""Draws what models get right against what they cost, from a record that measured both: docs/_static/pareto.svg from
that of `graphkit run lpgnas`. A line joins the models that no other one beats in both.

python scripts/plot_pareto.py
python scripts/plot_pareto.py --record runs/compress/digits.json --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

from plot_parts import COLOURS, GREY, Chart, curve, dot, options, padded, svg, text, write

from graphkit.bench.records import Record
from graphkit.bench.svg import beside, number
from graphkit.utils.cost import pareto_front

WIDTH, HEIGHT = 330, 290


def draw(record: Record) -> str:
    """A panel a cost, at most three in a row.

    Raises:
        ValueError: the record has measured no cost.
    """
    costs = record.costs()
    if not costs:
        raise ValueError(f"the record of {record.key} has measured no cost")
    parts = []
    for place, (cost, models) in enumerate(costs.items()):
        points = sorted(models.items(), key=lambda item: item[1])
        places = [point for _, point in points]
        front = [places[at] for at in pareto_front([(x, -y) for x, y in places])]
        low, high = min(x for x, _ in places), max(x for x, _ in places)
        left, top = 56 + WIDTH * place, 14
        chart = Chart(left, top, left + WIDTH - 76, HEIGHT - 48, low / 1.5, high * 1.5, *padded(y for _, y in places))
        chart.log_x = True
        parts += chart.frame("", cost, "" if place else f"test {record.monitor}")
        parts.append(curve([chart.place(*point) for point in front], GREY, dash=True, width=1.5))
        at = [chart.place(*point) for point in places]
        names = [name for name, _ in points]
        for name, (x, y), (cx, cy), (dx, dy, anchor) in zip(
            names, places, at, beside(at, names, chart.left, chart.right + 16, 6), strict=True
        ):
            colour = COLOURS[0] if (x, y) in front else GREY
            parts.append(dot(cx, cy, colour, 4, f"{name}: {number(y)} at {number(x)} {cost}"))
            parts.append(text(cx + dx, cy + dy, name, anchor, 10, colour))
    return svg(WIDTH * len(costs), HEIGHT, parts, f"accuracy against cost, {record.key} on {record.dataset}")


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__, "pareto.svg", "lpgnas/Cora.json").parse_args(arguments)
    write(given.out, draw(Record.load(given.record)))


if __name__ == "__main__":
    main()
