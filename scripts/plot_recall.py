"""Draws docs/_static/recall.svg, images recalled by the number of images stored, from the record of `graphkit run
hopfield_recall`.

python scripts/plot_recall.py
python scripts/plot_recall.py --record runs/hopfield_recall/digits.json --out plot.svg
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from graphkit.bench.records import Record
from graphkit.bench.svg import number, ticks
from graphkit.utils.io import atomic_write

HOME = Path(__file__).resolve().parents[1]
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#9467bd", "#b83a3a", "#6d6a1a")
GREY = "#808080"  # readable on a light and on a dark page
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 300, 46, 420, 14, 256


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
    low, span = math.log(counts[0]), math.log(counts[-1]) - math.log(counts[0]) or 1.0

    def x(value: float) -> float:
        return LEFT + 12 + (RIGHT - LEFT - 24) * (math.log(value) - low) / span

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * value / 100

    parts = [_text((LEFT + RIGHT) / 2, BOTTOM + 34, "images stored", "middle")]
    parts += [_text(x(count), BOTTOM + 16, number(count), "middle") for count in counts]
    for tick in ticks(0, 100, 5):
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{RIGHT}" stroke="{GREY}" stroke-opacity="0.25"/>')
        parts.append(_text(LEFT - 5, y(tick) + 4, number(tick), "end"))
    for place, (name, line) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        dash = "" if place < len(COLOURS) else ' stroke-dasharray="4 3"'
        path = "L".join(f"{x(count):.1f} {y(value):.1f}" for count, value in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for count, value in line:
            tip = escape(f"{name}, {count} images: {value:.1f} %")
            parts.append(
                f'<circle cx="{x(count):.1f}" cy="{y(value):.1f}" r="4" fill="{colour}"><title>{tip}</title></circle>'
            )
        row = TOP + 14 + 20 * place
        parts.append(f'<path d="M{RIGHT + 16} {row - 4}h18" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(_text(RIGHT + 40, row, name, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="percent of images recalled by the number stored">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-family="sans-serif" font-size="12" '
        f'fill="{GREY}">{escape(text)}</text>'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default=str(HOME / "results" / "hopfield_recall" / "digits.json"))
    parser.add_argument("--out", default=str(HOME / "docs" / "_static" / "recall.svg"))
    options = parser.parse_args(arguments)
    with atomic_write(options.out) as file:
        file.write(draw(Record.load(options.record)))
    print(options.out)


if __name__ == "__main__":
    main()
