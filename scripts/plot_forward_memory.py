"""Draws docs/_static/forward_memory.svg, memory against depth of layer-wise training and of backpropagation, from the
record of `graphkit bench forward_memory`.

python scripts/plot_forward_memory.py
python scripts/plot_forward_memory.py --record runs/bench/forward_memory.json --out plot.svg
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plot_parts import COLOURS, Chart, curve, dot, key, options, svg, write

PANELS = {"saved_mb": "kept for the backward pass", "peak_mb": "taken by a step"}
WHO = {"ours": "layer by layer", "peer": "backpropagation"}
WIDTH = 320


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """A panel for what is kept for the backward pass and one for all that a step takes.

    Raises:
        ValueError: no row has a depth.
    """
    rows = [row for row in rows if "depth" in row]
    if not rows:
        raise ValueError("the record has no row with a depth; run `graphkit bench forward_memory` again")
    parts = key(70, 14, list(WHO.values()))
    depths = [row["depth"] for row in rows]
    for place, (column, title) in enumerate(PANELS.items()):
        most = max(row[f"{who}_{column}"] for row in rows for who in WHO)
        left = 60 + WIDTH * place
        chart = Chart(left, 48, left + WIDTH - 80, 240, 0, max(depths) * 1.04, 0, most * 1.06)
        parts += chart.frame(title, "layers", "" if place else "MiB", x_marks=depths[1:] if len(depths) > 3 else depths)
        for who, colour in zip(WHO, COLOURS, strict=False):
            points = [(row["depth"], row[f"{who}_{column}"]) for row in rows]
            parts.append(curve([chart.place(*point) for point in points], colour))
            parts += [
                dot(*chart.place(depth, value), colour, 4, f"{WHO[who]}, {depth} layers: {value:.1f} MiB")
                for depth, value in points
            ]
    return svg(2 * WIDTH, 284, parts, "memory against depth, layer by layer and by backpropagation")


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__, "forward_memory.svg", "bench/forward_memory.json").parse_args(arguments)
    write(given.out, draw(json.loads(Path(given.record).read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
