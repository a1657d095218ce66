"""Draws docs/_static/should_i_pretrain.svg, gain of pre-training by feasibility, from the record of `graphkit run
w2pgnn`.

python scripts/plot_pretraining.py
python scripts/plot_pretraining.py --record runs/w2pgnn/graphon-domains.json --out plot.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

from graphkit.bench.records import Record
from graphkit.bench.svg import number, ticks
from graphkit.utils.io import atomic_write

HOME = Path(__file__).resolve().parents[1]
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#9467bd", "#b83a3a", "#6d6a1a")
GREY = "#808080"  # readable on a light and on a dark page


def draw(record: Record) -> str:
    """A panel a model, a point a pair, a colour a source.

    Raises:
        ValueError: the record has no table of pairs.
    """
    if not record.tables:
        raise ValueError(f"the record of {record.key} has no tables of pairs; run the recipe again")
    width, height, left, top = 330, 270, 46, 26
    parts: list[str] = []
    names = list(dict.fromkeys(next(iter(record.tables.values()))["source"]))
    for place, (model, table) in enumerate(record.tables.items()):
        parts.append(
            f'<g transform="translate({place * width} 0)">{_panel(model, table, names, width, height, left, top)}</g>'
        )
    total = width * len(record.tables)
    for place, name in enumerate(names):
        x = left + place * 120
        parts.append(f'<circle cx="{x}" cy="{height + 12}" r="4" fill="{COLOURS[place % len(COLOURS)]}"/>')
        parts.append(_text(x + 9, height + 16, name, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + 26}" width="{total}" role="img" '
        f'aria-label="gain of pre-training by feasibility">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(
    model: str, table: dict[str, list], names: Sequence[str], width: int, height: int, left: int, top: int
) -> str:
    bottom, right = height - 42, width - 14
    xs, ys = table["Feasibility"], table["gain"]
    low_x, high_x, low_y, high_y = min(xs), max(max(xs), 0.0), min(*ys, 0.0), max(ys)
    pad_x, pad_y = 0.04 * (high_x - low_x) or 0.01, 0.06 * (high_y - low_y) or 1.0

    def x(value: float) -> float:
        return left + (right - left) * (value - low_x + pad_x) / (high_x - low_x + 2 * pad_x)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low_y + pad_y) / (high_y - low_y + 2 * pad_y)

    parts = [_text((left + right) / 2, 14, model, "middle")]
    for tick in ticks(low_x, high_x, 4):
        parts.append(_line(x(tick), top, x(tick), bottom, 0.25))
        parts.append(_text(x(tick), bottom + 15, number(tick), "middle"))
    for tick in ticks(low_y, high_y, 5):
        parts.append(_line(left, y(tick), right, y(tick), 0.8 if tick == 0 else 0.25))
        parts.append(_text(left - 5, y(tick) + 4, number(tick), "end"))
    for source, target, a, b in zip(table["source"], table["target"], xs, ys, strict=True):
        colour = COLOURS[names.index(source) % len(COLOURS)]
        tip = escape(f"{source} to {target}: {b:+.1f} points")
        place = f'cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"'
        parts.append(f'<circle {place} fill="{colour}" fill-opacity="0.85"><title>{tip}</title></circle>')
    parts.append(_text((left + right) / 2, bottom + 32, "feasibility (0 is best)", "middle"))
    parts.append(
        f'<text transform="translate(12 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}">gain in accuracy, points</text>'
    )
    return "\n".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-family="sans-serif" font-size="12" '
        f'fill="{GREY}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GREY}" stroke-opacity="{opacity}"/>'


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default=str(HOME / "results" / "w2pgnn" / "graphon-domains.json"))
    parser.add_argument("--out", default=str(HOME / "docs" / "_static" / "should_i_pretrain.svg"))
    options = parser.parse_args(arguments)
    with atomic_write(options.out) as file:
        file.write(draw(Record.load(options.record)))
    print(options.out)


if __name__ == "__main__":
    main()
