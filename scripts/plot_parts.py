"""What the plot scripts share: pieces of SVG in colours that are readable on a light and on a dark page, charts of
points, lines and steps, and options. No time stamps: the same input gives the same file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphkit.bench.svg import number, ticks
from graphkit.train import Experiment
from graphkit.utils.io import atomic_write

HOME = Path(__file__).resolve().parents[1]
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#9467bd", "#b83a3a", "#6d6a1a", "#00838f", "#c2185b", "#7f6000", "#5e6b7a")
GREY = "#808080"  # readable on a light and on a dark page
# From the first to the last of an order.
FIRST, MIDDLE, LAST = (31, 119, 220), (148, 103, 189), (217, 95, 2)


def options(doc: str | None, out: str, record: str | None = None) -> argparse.ArgumentParser:
    """A parser with ``--out``, a file of docs/_static by default, and ``--record`` if there is a default for it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if record is not None:
        parser.add_argument("--record", default=str(HOME / "results" / record))
    parser.add_argument("--out", default=str(HOME / "docs" / "_static" / out))
    return parser


def write(path: str, picture: str) -> None:
    """Write a picture, wholly or not at all, and say where."""
    with atomic_write(path) as file:
        file.write(picture)
    print(path)


def svg(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A picture of these parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-label="{escape(label)}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def moved(x: float, y: float, parts: Iterable[str]) -> str:
    """The parts as a group at another place."""
    return f'<g transform="translate({x:g} {y:g})">' + "\n".join(parts) + "</g>"


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12, colour: str = GREY) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-family="sans-serif" font-size="{size}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def upright(x: float, y: float, words: str) -> str:
    """Text along a vertical axis."""
    return (
        f'<text transform="translate({x:.0f} {y:.0f}) rotate(-90)" text-anchor="middle" font-family="sans-serif" '
        f'font-size="12" fill="{GREY}">{escape(words)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, opacity: float = 1, colour: str = GREY, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-opacity="{opacity:g}"/>'
    )


def rect(
    x: float, y: float, width: float, height: float, colour: str, opacity: float = 1, edge: str | None = None
) -> str:
    """A filled rectangle; ``edge`` is the colour of its outline."""
    outline = "" if edge is None else f' stroke="{edge}" stroke-width="2"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity:.2f}"{outline}/>'
    )


def dot(x: float, y: float, colour: str, radius: float = 4, tip: str = "", opacity: float = 1) -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    shade = f'fill="{colour}" fill-opacity="{opacity:.2g}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {shade}>{title}</circle>'


def curve(points: Sequence[tuple[float, float]], colour: str, dash: bool = False, width: float = 2) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if dash else ""
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def order_colour(place: int, count: int) -> str:
    """Blue for the first of ``count``, over purple, to orange for the last."""
    share = place / max(count - 1, 1)
    low, high, part = (FIRST, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, LAST, 2 * share - 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


def key(x: float, y: float, names: Sequence[str], step: float = 120, colours: Sequence[str] = COLOURS) -> list[str]:
    """A row of coloured dots with names."""
    parts = []
    for place, name in enumerate(names):
        at = x + step * place
        parts += [dot(at, y - 4, colours[place % len(colours)]), text(at + 9, y, name, "start")]
    return parts


@dataclass
class Chart:
    """Axes of a panel: where values lie in the picture."""

    left: float
    top: float
    right: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log_x: bool = False

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.log_x:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.x(x), self.y(y)

    def frame(
        self, title: str = "", x_label: str = "", y_label: str = "", x_marks: Sequence[float] | None = None
    ) -> list[str]:
        """Grid, numbers and names of the axes; round numbers on the first one unless it has ``x_marks``."""
        parts = [text((self.left + self.right) / 2, self.top - 10, title)] if title else []
        marks: Sequence[float]
        if x_marks is not None:
            marks = x_marks
        elif self.log_x:
            powers = range(math.floor(math.log10(self.x_low)), math.ceil(math.log10(self.x_high)) + 1)
            marks = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.x_low <= m * 10.0**p <= self.x_high]
            if len(marks) > 7:
                marks = [10.0**p for p in powers if self.x_low <= 10.0**p <= self.x_high]
        else:
            marks = ticks(self.x_low, self.x_high, 5)
        for mark in marks:
            parts.append(line(self.x(mark), self.top, self.x(mark), self.bottom, 0.25))
            parts.append(text(self.x(mark), self.bottom + 15, number(mark)))
        for mark in ticks(self.y_low, self.y_high, 5):
            parts.append(line(self.left, self.y(mark), self.right, self.y(mark), 0.25))
            parts.append(text(self.left - 5, self.y(mark) + 4, number(mark), "end"))
        if x_label:
            parts.append(text((self.left + self.right) / 2, self.bottom + 32, x_label))
        if y_label:
            parts.append(upright(self.left - 36, (self.top + self.bottom) / 2, y_label))
        return parts

    def steps(self, edges: Sequence[float], heights: Sequence[float], colour: str) -> str:
        """A histogram as a filled outline."""
        path = [f"M{self.x(edges[0]):.1f} {self.bottom:.1f}"]
        for a, b, height in zip(edges, edges[1:], heights, strict=False):
            path.append(f"L{self.x(a):.1f} {self.y(height):.1f}L{self.x(b):.1f} {self.y(height):.1f}")
        path.append(f"L{self.x(edges[-1]):.1f} {self.bottom:.1f}z")
        return f'<path d="{"".join(path)}" fill="{colour}" fill-opacity="0.3" stroke="{colour}" stroke-width="1.3"/>'


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """The range of values with some room."""
    values = list(values)
    low, high = min(values), max(values)
    room = share * (high - low) or 0.5
    return low - room, high + room


def principal(z: Tensor) -> Tensor:
    """``[N, 2]`` rows on the two directions in which they differ most; signs are fixed by the largest entry."""
    z = z.double() - z.double().mean(0)
    _, _, directions = torch.linalg.svd(z, full_matrices=False)
    directions = directions[:2]
    largest = directions.abs().argmax(1, keepdim=True)
    return z @ (directions * directions.gather(1, largest).sign()).t()


def cloud(points: Tensor, classes: Tensor, left: float, top: float, side: float, title: str) -> list[str]:
    """Points in the colours of their classes in a square, a path a class; the axes have no unit."""
    low, high = points.amin(0), points.amax(0)
    at = (points - low) / (high - low).clamp(min=1e-12).max()
    parts = [text(left + side / 2, top - 10, title)]
    for label, colour in zip(classes.unique().tolist(), COLOURS, strict=False):
        mine = at[classes == label].tolist()
        path = "".join(f"M{left + side * x:.1f} {top + side * (1 - y):.1f}h0" for x, y in mine)
        parts.append(
            f'<path d="{path}" stroke="{colour}" stroke-width="3.4" stroke-linecap="round" stroke-opacity="0.75"/>'
        )
    return parts


def trained(recipe: Any, name: str, seed: int = 0, **settings: Any) -> Experiment:
    """A model of a recipe, trained as ``graphkit run`` does, at its best epoch by validation.

    Args:
        recipe: module of the recipe.
        name: row of its table.
        seed: its seed.
        settings: fields of the recipe's configuration; what is not given is the recipe's choice for the dataset.
    """
    chosen = recipe.SETTINGS.get(settings.get("dataset", recipe.Config().dataset), {})
    last = recipe.build(recipe.Config(**{**chosen, **settings}), name, seed)
    for stage in last.chain():
        stage.run(device="cpu", seed=seed, progress=False)
    last.model.eval()
    return last
