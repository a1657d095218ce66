"""Small charts as SVG text: no library, no fonts; colours are the page's CSS variables, for dark and light alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8  # --c0 ... --c7 in the page's style sheet
CHARACTER = 7.6  # width of one at the charts' font size, about


@dataclass(frozen=True)
class Score:
    """One model's runs, and the paper's figure for it."""

    label: str
    values: Sequence[float]
    mean: float
    std: float
    paper: float | None = None
    paper_std: float | None = None


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About ``number`` round values within ``[low, high]``.

    Example:
        >>> ticks(0, 100)
        [0, 20, 40, 60, 80, 100]
    """
    if not high > low:
        return [low]
    raw = (high - low) / number
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number of about four digits, without trailing zeros."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def scores(rows: Sequence[Score], label: str) -> str:
    """A line a model: every run as a faint dot, mean and deviation on it, the paper's figure as a diamond."""
    left = 14 + CHARACTER * max(len(row.label) for row in rows)
    width, step, top = 620.0, 26.0, 8.0
    bottom = top + step * len(rows)
    points = [v for row in rows for v in (*row.values, row.mean - row.std, row.mean + row.std)]
    for row in rows:
        if row.paper is not None:
            points += [row.paper - (row.paper_std or 0), row.paper + (row.paper_std or 0)]
    low, high = _padded(points)

    def x(value: float) -> float:
        return left + (width - left - 16) * (value - low) / (high - low)

    parts = _grid_x(ticks(low, high, 6), x, top, bottom)
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        parts.append(_text(left - 8, y + 4, row.label, "end"))
        parts += [f'<circle class="run" cx="{x(v):.1f}" cy="{y:.1f}" r="2.5"/>' for v in row.values]
        parts.append(_bar(x(row.mean - row.std), x(row.mean + row.std), y, "ours"))
        parts.append(f'<circle class="ours" cx="{x(row.mean):.1f}" cy="{y:.1f}" r="4.5">{_tip(row)}</circle>')
        if row.paper is not None:
            if row.paper_std:
                parts.append(_bar(x(row.paper - row.paper_std), x(row.paper + row.paper_std), y + 7, "paper"))
            cx, cy = x(row.paper), y + 7
            parts.append(f'<path class="paper" d="M{cx:.1f} {cy - 4:.1f}l4 4-4 4-4-4z"/>')
    parts.append(_text((left + width) / 2, bottom + 34, label, "middle"))
    return _svg(width, bottom + 42, parts, f"{label} of each model")


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """A curve a name, with its name at the right end."""
    right = 20 + CHARACTER * max(len(name) for name in series)
    width, height, left, top, bottom = 620.0, 280.0, 52.0, 10.0, 236.0
    points = [point for curve in series.values() for point in curve]
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    x_high = x_high if x_high > x_low else x_low + 1
    low, high = _padded([p[1] for p in points])

    def x(value: float) -> float:
        return left + (width - left - right) * (value - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    parts = _grid_x(ticks(x_low, x_high), x, top, bottom, light=True)
    for tick in ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(left - 6, y(tick) + 4, number(tick), "end"))
    ends = _apart([(y(curve[-1][1]), name) for name, curve in series.items()], 14, top, bottom)
    for i, (name, curve) in enumerate(series.items()):
        colour = f"stroke:var(--c{i % COLOURS})"
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve)
        dash = ";stroke-dasharray:5 3" if i >= COLOURS else ""
        parts.append(f'<polyline class="curve" style="{colour}{dash}" points="{path}"/>')
        if len(curve) == 1:
            a, b = curve[0]
            parts.append(f'<circle style="fill:var(--c{i % COLOURS})" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>')
        parts.append(_text(x(curve[-1][0]) + 8, ends[name] + 4, name, "start", f"fill:var(--c{i % COLOURS})"))
    parts.append(_text((left + width - right) / 2, bottom + 36, x_label, "middle"))
    parts.append(_text(left, bottom + 36, y_label, "start"))
    return _svg(width, height, parts, f"{y_label} by {x_label}")


def histogram(edges: Sequence[float], groups: Mapping[str, Sequence[float]], label: str) -> str:
    """Shares between the edges as steps, a colour a group."""
    width, height, left, top, bottom = 300.0, 170.0, 10.0, 22.0, 130.0
    low, high = edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1
    most = max((h for heights in groups.values() for h in heights), default=0) or 1

    def x(value: float) -> float:
        return left + (width - 2 * left) * (value - low) / (high - low)

    parts = _grid_x(ticks(low, high, 5), x, top, bottom, light=True)
    parts.append(_text(left, 14, label, "start", "font-weight:600"))
    for i, (name, heights) in enumerate(groups.items()):
        steps = [f"M{x(edges[0]):.1f} {bottom}"]
        for a, b, share in zip(edges, edges[1:], heights, strict=False):
            y = bottom - (bottom - top) * share / most
            steps.append(f"L{x(a):.1f} {y:.1f}L{x(b):.1f} {y:.1f}")
        colour = f"var(--h{i % 2})"
        path = f"{''.join(steps)}L{x(edges[-1]):.1f} {bottom}z"
        parts.append(f'<path class="area" style="fill:{colour};stroke:{colour}" d="{path}"/>')
        parts.append(_text(left + 110 * i, height - 6, f"■ {name}", "start", f"fill:{colour}"))
    return _svg(width, height, parts, f"score histogram of {label}")


def front(points: Mapping[str, tuple[float, float]], best: Sequence[str], cost: str, score: str) -> str:
    """What models get right against what they cost, on a logarithmic axis; a dashed line joins the ``best``."""
    width, height, left, top, bottom = 520.0, 280.0, 52.0, 10.0, 236.0
    costs = [x for x, _ in points.values()]
    x_low, x_high = (math.log10(v) for v in (min(costs), max(costs)))
    x_low, x_high = x_low - 0.15 * ((x_high - x_low) or 1), x_high + 0.15 * ((x_high - x_low) or 1)
    low, high = _padded([y for _, y in points.values()])

    def x(value: float) -> float:
        return left + (width - left - 16) * (math.log10(value) - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    marks = [m * 10.0**e for e in range(-6, 13) for m in (1, 2, 5) if x_low <= math.log10(m * 10.0**e) <= x_high]
    if len(marks) > 7:
        marks = [10.0**e for e in range(-6, 13) if x_low <= e <= x_high]
    parts = _grid_x(marks, x, top, bottom, light=True)
    for tick in ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(left - 6, y(tick) + 4, number(tick), "end"))
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in sorted(points[name] for name in best))
    parts.append(f'<polyline class="front" points="{line}"/>')
    names = list(points)
    at = [(x(points[name][0]), y(points[name][1])) for name in names]
    for name, (cx, cy), (dx, dy, anchor) in zip(names, at, beside(at, names, left, width, CHARACTER), strict=True):
        kind = "ours" if name in best else "beaten"
        tip = f"<title>{escape(name)}: {number(points[name][1])} at {number(points[name][0])} {escape(cost)}</title>"
        parts.append(f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5">{tip}</circle>')
        parts.append(_text(cx + dx, cy + dy, name, anchor))
    parts.append(_text((left + width) / 2, bottom + 36, cost, "middle"))
    parts.append(_text(left, bottom + 36, score, "start"))
    return _svg(width, height, parts, f"{score} by {cost}")


def ratios(rows: Iterable[tuple[str, float]]) -> str:
    """A bar a case on a logarithmic axis, from the line where both are equally fast."""
    bars = [(name, value) for name, value in rows if value > 0]
    left = 14 + CHARACTER * min(max(len(name) for name, _ in bars), 60)
    width, step, top = 420 + left, 24.0, 8.0
    bottom = top + step * len(bars)
    low = math.log10(min(0.8, *(value for _, value in bars)))
    high = math.log10(max(1.25, *(value for _, value in bars)))
    high += 0.08 * (high - low)

    def x(value: float) -> float:
        return left + (width - left - 56) * (math.log10(value) - low) / (high - low)

    steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    parts = _grid_x([v for v in steps if low <= math.log10(v) <= high], x, top, bottom, suffix="x")
    for i, (name, value) in enumerate(bars):
        y = top + step * i
        a, b = sorted((x(1), x(value)))
        kind = "ours" if value >= 1 else "worse"
        shown = name if len(name) <= 60 else name[:59] + "…"
        parts.append(_text(left - 8, y + 16, shown, "end"))
        parts.append(f'<rect class="bar {kind}" x="{a:.1f}" y="{y + 4:.1f}" width="{max(b - a, 1):.1f}" height="16"/>')
        parts.append(_text(b + 6, y + 16, f"{number(float(f'{value:.3g}'))}x", "start"))
    parts.append(f'<line class="one" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{top}" y2="{bottom}"/>')
    return _svg(width, bottom + 26, parts, "time of the alternative over ours")


def beside(
    points: Sequence[tuple[float, float]], names: Sequence[str], left: float, right: float, character: float
) -> list[tuple[float, float, str]]:
    """Where each point's name stands from it, and its anchor: the first place, near ones first, where it lies on no
    point and no other name.

    Example:
        >>> beside([(0, 0), (10, 0)], ["a", "b"], -50, 50, 7)
        [(-9, 4, 'end'), (9, 4, 'start')]
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    rows = [4, -8, 16, -20, 28, -32, 40, -44, 52]
    found: list[tuple[float, float, str]] = []
    for (x, y), name in zip(points, names, strict=True):
        long = character * len(name)
        places = [(dx, dy, anchor) for dy in rows for dx, anchor in ((9, "start"), (-9, "end"))]
        boxes = []
        for dx, dy, anchor in places:
            first = x + dx - (long if anchor == "end" else 0)
            boxes.append((first, y + dy - 10, first + long, y + dy + 2))
        free = [
            a >= left and c <= right and not any(a < g and e < c and b < h and f < d for e, f, g, h in taken)
            for a, b, c, d in boxes
        ]
        best = free.index(True) if True in free else 0
        taken.append(boxes[best])
        found.append(places[best])
    return found


def _padded(points: Sequence[float]) -> tuple[float, float]:
    low, high = min(points), max(points)
    pad = 0.05 * (high - low) or max(abs(low) * 0.05, 0.5)
    return low - pad, high + pad


def _apart(places: list[tuple[float, str]], gap: float, top: float, bottom: float) -> dict[str, float]:
    """Heights for labels near the wanted ones, at least ``gap`` from each other where there is room."""
    places = sorted(places)
    gap = min(gap, (bottom - top) / max(len(places), 1))
    made: list[float] = []
    for y, _ in places:
        made.append(max(y, made[-1] + gap) if made else y)
    over = made[-1] - bottom if made else 0
    for i in reversed(range(len(made))):
        limit = bottom - gap * (len(made) - 1 - i)
        made[i] = min(made[i], limit) if over > 0 else made[i]
    return {name: y for y, (_, name) in zip(made, places, strict=True)}


def _grid_x(
    values: Sequence[float], x: object, top: float, bottom: float, light: bool = False, suffix: str = ""
) -> list[str]:
    assert callable(x)
    parts = []
    for value in values:
        place = x(value)
        start = bottom - 4 if light else top
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{start:.1f}" y2="{bottom:.1f}"/>')
        parts.append(_text(place, bottom + 16, number(value) + suffix, "middle"))
    return parts


def _bar(low: float, high: float, y: float, kind: str) -> str:
    return f'<line class="whisker {kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _tip(row: Score) -> str:
    return f"<title>{escape(row.label)}: {row.mean:.2f} ± {row.std:.2f}</title>"


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    look = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
