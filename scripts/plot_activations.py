"""Draws docs/_static/activations.svg: what examples/function_fitting.py learns on the edges of its first layers, with
the family that each input kept.

python scripts/plot_activations.py
python scripts/plot_activations.py --fast --out plot.svg
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Mapping, Sequence

import torch
from plot_parts import COLOURS, HOME, Chart, curve, key, options, padded, svg, write
from torch import nn

EXAMPLE = HOME / "examples" / "function_fitting.py"
WIDTH, HEIGHT = 310, 170


def draw(networks: Mapping[str, nn.Sequential]) -> str:
    """A row a fitted function, a panel an input, a line a hidden unit."""
    at = torch.linspace(-1, 1, 121)
    parts, hidden = [], 0
    for row, (name, network) in enumerate(networks.items()):
        layer = network[0]
        hidden = layer.out_channels
        for column, family in enumerate(layer.kept_families()):
            lines = [layer.activation(column, unit, at) for unit in range(hidden)]
            left, top = 46 + WIDTH * column, 28 + HEIGHT * row
            limits = padded(value for values in lines for value in (float(values.min()), float(values.max())))
            chart = Chart(left, top, left + WIDTH - 62, top + HEIGHT - 56, -1, 1, *limits)
            parts += chart.frame(f"{name}, {'xy'[column]}: {family}")
            for values, colour in zip(lines, COLOURS, strict=False):
                parts.append(
                    curve([chart.place(*point) for point in zip(at.tolist(), values.tolist(), strict=True)], colour)
                )
    parts += key(60, HEIGHT * len(networks) + 18, [f"to unit {unit}" for unit in range(hidden)], 90)
    return svg(2 * WIDTH, HEIGHT * len(networks) + 30, parts, "functions on the edges of the first layer")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "activations.svg")
    parser.add_argument("--fast", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args(arguments)
    before = sys.argv
    sys.argv = [str(EXAMPLE), *["--fast"] * given.fast]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            networks = runpy.run_path(str(EXAMPLE))["networks"]
    finally:
        sys.argv = before
    print(said.getvalue(), end="")
    write(given.out, draw(networks))


if __name__ == "__main__":
    main()
