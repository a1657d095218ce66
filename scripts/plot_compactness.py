"""Draws docs/_static/compactness.svg, histograms of node compactness with and without POT, from the record of
`graphkit run pot_gcl`.

python scripts/plot_compactness.py
python scripts/plot_compactness.py --record runs/pot_gcl/digits.json --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

from plot_parts import COLOURS, GREY, Chart, key, line, options, svg, write

from graphkit.bench.records import Record

WIDTH, HEIGHT = 320, 200
KINDS = {"compactness": "compactness in the whole graph", "certified": "bound for all views"}


def draw(record: Record) -> str:
    """A row of panels a method, one for each bound, methods with and without POT in one panel.

    Raises:
        ValueError: the record has no histogram of a method with and without POT.
    """
    found = record.histograms
    pairs = [name for name in found if f"{name}+POT" in found]
    if not pairs:
        raise ValueError(f"the record of {record.key} has no histograms of a method with and without POT")
    parts = key(60, 14, ["without POT", "with POT"])
    for row, name in enumerate(pairs):
        for column, (kind, words) in enumerate(KINDS.items()):
            both = [found[name], found[f"{name}+POT"]]
            ranges = [_range(bins["edges"], bins[kind]) for bins in both]
            low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
            # Bins of one width would hide that the two have other ranges: shares become densities.
            heights = [[share / _step(bins) for share in bins[kind]] for bins in both]
            most = max(max(values) for values in heights)
            left, top = 52 + WIDTH * column, 50 + HEIGHT * row
            chart = Chart(left, top, left + WIDTH - 70, top + HEIGHT - 72, low, high, 0, 1.05 * most)
            parts += chart.frame(f"{name}: {words}", y_label="" if column else "density")
            parts += [
                chart.steps(*_within(bins["edges"], values, low, high), colour)
                for bins, values, colour in zip(both, heights, COLOURS, strict=False)
            ]
            parts.append(line(chart.x(0), top, chart.x(0), chart.bottom, 1, GREY, 1.5) if low < 0 < high else "")
    return svg(2 * WIDTH, 30 + HEIGHT * len(pairs), parts, f"node compactness with and without POT on {record.dataset}")


def _range(edges: Sequence[float], shares: Sequence[float]) -> tuple[float, float]:
    """From the first to the last bin that holds a five-hundredth of the nodes or more."""
    filled = [place for place, share in enumerate(shares) if share >= 0.002]
    return edges[filled[0]], edges[filled[-1] + 1]


def _within(
    edges: Sequence[float], values: Sequence[float], low: float, high: float
) -> tuple[list[float], list[float]]:
    """The bins between two limits, the last ones cut there."""
    kept = [place for place in range(len(values)) if edges[place] < high and edges[place + 1] > low]
    cut = [min(max(edges[place], low), high) for place in (*kept, kept[-1] + 1)]
    return cut, [values[place] for place in kept]


def _step(bins: dict[str, list[float]]) -> float:
    return max(bins["edges"][1] - bins["edges"][0], 1e-9)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__, "compactness.svg", "pot_gcl/Cora.json").parse_args(arguments)
    write(given.out, draw(Record.load(given.record)))


if __name__ == "__main__":
    main()
