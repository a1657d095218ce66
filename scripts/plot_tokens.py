"""Draws what the tokenizers make of shipped data, docs/_static/tokens_*.svg: images, rows (characters, cells, events,
series), the surroundings of a node, and orders of reading. The first token that is read is blue, the last orange.

python scripts/plot_tokens.py
python scripts/plot_tokens.py --out pictures
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from plot_parts import GREY, HOME, curve, dot, line, moved, order_colour, rect, svg, text, write
from torch import Tensor
from torch_geometric.data import Data, TemporalData
from torch_geometric.utils import subgraph

from graphkit.datasets import load
from graphkit.datasets.shipped import nycflights_names
from graphkit.transforms import (
    EventTokens,
    HopTokens,
    ImageTokens,
    PPRTokens,
    RandomWalkTokens,
    SequenceTokens,
    SeriesTokens,
    SortTokens,
    TableTokens,
)

CENTRE = "astropy.timeseries.periodograms"  # a module of pyimports whose surroundings are small
HOPS = 3
DAY = 24


# Images ---------------------------------------------------------------------------------------------------------------


def images() -> str:
    """A digit, cut into squares and into pixels; the number of a token is its place in the order."""
    image = load("digits").data.x[0].view(1, 8, 8)
    parts = [moved(0, 0, _pixels(image[0]))]
    for place, patch in enumerate((2, 1)):
        tokens = ImageTokens(patch)(Data(image=image))
        assert tokens.x is not None
        parts.append(moved(200 + 220 * place, 0, _patches(tokens, patch)))
    tokens = ImageTokens(2)(Data(image=image))
    parts.append(moved(0, 212, _read_patches(tokens)))
    return svg(620, 262, parts, "an image as a grid of tokens: squares of two by two pixels, and single pixels")


def _pixels(image: Tensor) -> list[str]:
    parts = [text(90, 14, "an image of 8 x 8 pixels")]
    parts += [
        rect(26 + 16 * column, 40 + 16 * row, 16, 16, GREY, float(image[row, column])) for row, column in _grid(8, 8)
    ]
    return [*parts, _frame(26, 40, 128, 128, GREY)]


def _patches(tokens: Data, patch: int) -> list[str]:
    rows, columns = tokens.grid_size[0].tolist()
    count, side = rows * columns, 16 * patch
    step = side + 4 if patch > 1 else 18
    parts = [text(90, 14, f"ImageTokens({patch}): {count} tokens")]
    for place, (row, column) in enumerate(tokens.pos.tolist()):
        x, y = 26 + step * column, 40 + step * row
        colour = order_colour(place, count)
        parts += _square(x, y, side, tokens.x[place], patch, colour)
    parts += [text(26 + step * column + side / 2, 34, str(column), size=10) for column in range(columns)]
    parts += [text(20, 40 + step * row + side / 2 + 4, str(row), "end", size=10) for row in range(rows)]
    return [*parts, text(4, 34, "row, column", size=9, anchor="middle")] if patch > 1 else parts


def _read_patches(tokens: Data) -> list[str]:
    count = tokens.x.size(0)
    parts = [text(26, 0, "as it is read:", "start")]
    for place in range(count):
        x, colour = 26 + 36 * place, order_colour(place, count)
        parts += _square(x, 10, 22, tokens.x[place], 2, colour)
        parts.append(text(x + 11, 46, str(place), size=10, colour=colour))
    return parts


def _square(x: float, y: float, side: float, pixels: Tensor, patch: int, colour: str) -> list[str]:
    """A token of an image: its pixels in an outline of the colour of its place."""
    part = side / patch
    shown = [
        rect(x + part * column, y + part * row, part, part, GREY, float(pixels[patch * row + column]))
        for row, column in _grid(patch, patch)
        if pixels[patch * row + column] > 0
    ]
    return [*shown, _frame(x, y, side, side, colour)]


# Rows -----------------------------------------------------------------------------------------------------------------


def rows() -> str:
    """Characters, cells, events and a series."""
    parts = [
        moved(0, 0, _characters()),
        moved(0, 84, _cells()),
        moved(0, 178, _events()),
        moved(0, 312, _series()),
    ]
    return svg(620, 584, parts, "characters, cells of a table, events of planes and a series as tokens")


def _characters(count: int = 26) -> list[str]:
    texts = load("help-topics").data
    start = 1000
    tokens = SequenceTokens()(Data(sequence=texts.x[start : start + count]))
    parts = [text(10, 14, f"SequenceTokens of a text: {count} characters; a token is an id", "start")]
    for place, symbol in enumerate(tokens.x.tolist()):
        x, colour = 10 + 23 * place, order_colour(place, count)
        shown = {" ": "␣", "\n": "⏎"}.get(texts.symbols[symbol], texts.symbols[symbol])
        parts += [_frame(x, 24, 19, 22, colour), text(x + 9.5, 40, shown), text(x + 9.5, 58, str(symbol), size=9)]
    return parts


def _cells() -> list[str]:
    names = ("EWR", "JFK", "LGA", "sin time", "cos time", "wind", "visibility", "rain", "late before")
    values = load("nycflights").data.msg[10_000]
    tokens = TableTokens()(Data(row=values))
    parts = [text(10, 14, "TableTokens of what is known of a flight: a token is a value and its column", "start")]
    for place, name in enumerate(names):
        x, colour = 10 + 67 * place, order_colour(place, len(names))
        parts += [
            _frame(x, 24, 61, 22, colour),
            text(x + 30.5, 40, f"{float(tokens.x[place, 0]):.2f}"),
            text(x + 30.5, 60, name, size=10),
        ]
    return parts


def _events(planes: int = 3, days: int = 4, size: int = 8) -> list[str]:
    """The latest events of the planes that fly most in some days, on the axis of time."""
    stream = load("nycflights").data
    begin = int(stream.t[100_000])
    some = ((stream.t >= begin) & (stream.t < begin + days * 86400)).nonzero()[:, 0]
    chosen = torch.bincount(stream.src[some]).topk(planes).indices
    some = some[torch.isin(stream.src[some], chosen)]
    events = TemporalData(src=stream.src[some], dst=stream.dst[some], t=stream.t[some], msg=stream.msg[some])
    tokens = EventTokens(size)(events)
    names = nycflights_names()
    low, high = int(tokens.time.min()), int(tokens.time.max())

    def x(time: int) -> float:
        return 80 + 520 * (time - low) / (high - low)

    words = f"EventTokens(size={size}): a token is a flight of a plane, with the time since its last one"
    parts = [text(10, 14, words, "start")]
    for place, (node, first, last) in enumerate(
        zip(tokens.node.tolist(), tokens.ptr[:-1].tolist(), tokens.ptr[1:].tolist(), strict=True)
    ):
        y = 36 + 26 * place
        parts += [text(72, y + 4, str(names[node]), "end"), line(80, y, 600, y, 0.3)]
        for token in range(first, last):
            to = names[int(events.dst[tokens.e_id[token]])]
            tip = f"{names[node]} to {to}, token {token - first} of {last - first}"
            parts.append(dot(x(int(tokens.time[token])), y, order_colour(token - first, last - first), 6, tip))
    for half in range((high - low) // 43200 + 1):
        at = x(low + half * 43200)
        parts += [line(at, 24, at, 98, 0.25), text(at, 112, f"{12 * half} h", size=10)]
    return parts


def _series(days: int = 5) -> list[str]:
    """The grid of times and variables, cut one way and the other, and folded into periods."""
    series = load("nycflights-hourly").data
    # In summer, from four in the morning in New York, when few fly.
    start = 4368 + int(((series.t[4368 : 4368 + DAY] // 3600) % DAY == 4).nonzero()[0])
    part = series.series[start : start + DAY * days].float()
    by_time = SeriesTokens(patch=DAY)(Data(series=part))
    by_variable = SeriesTokens(by="variable")(Data(series=part))
    share = (part / part.amax(0)).t()  # [V, T]
    count, width = share.size(0), 500.0
    step = width / share.size(1)
    parts = [text(10, 14, f"a series of {count} variables and {share.size(1)} hours as tokens", "start")]
    for place, (tokens, words) in enumerate(
        ((by_time, f"SeriesTokens(patch={DAY}): a token is a day of all variables"),
         (by_variable, 'SeriesTokens(by="variable"): a token is all days of a variable'))
    ):  # fmt: skip
        top = 44 + 92 * place
        parts.append(text(100, top - 8, words, "start"))
        parts += _heat(share, 100, top, step, 10)
        number = tokens.x.size(0)
        for token in range(number):
            wide = (width / number, 10.0 * count) if place == 0 else (width, 10.0)
            x, y = (100 + token * wide[0], top) if place == 0 else (100, top + 10.0 * token)
            parts.append(_frame(x + 1, y + 0.5, wide[0] - 2, wide[1] - 1, order_colour(token, number)))
        parts += [
            text(94, top + 10 * row + 9, str(name).replace("_", " "), "end", size=9)
            for row, name in enumerate(series.names)
        ]
    top, phase = 228, 9
    folded = share[:1].view(days, DAY)
    parts.append(
        text(100, top - 8, "TPGN and PGN(period=24): a row a day, read hour by hour downwards as outlined", "start")
    )
    parts += _heat(folded, 100, top, 500 / DAY, 8)
    parts += [
        _frame(100 + 500 / DAY * phase + 1, top + 8 * day + 0.5, 500 / DAY - 2, 7, order_colour(day, days))
        for day in range(days)
    ]
    parts.append(text(94, top + 20, f"{series.names[0]}".replace("_", " "), "end", size=9))
    return parts


def _heat(values: Tensor, left: float, top: float, width: float, height: float, levels: int = 5) -> list[str]:
    """A table of numbers from 0 to 1 as shades, one path a shade, neighbours of one shade together."""
    shades: dict[int, list[str]] = {}
    for row, cells in enumerate((values.clamp(0, 1) * levels).round().int().tolist()):
        column = 0
        while column < len(cells):
            end = column
            while end < len(cells) and cells[end] == cells[column]:
                end += 1
            box = f"M{left + width * column:.1f} {top + height * row:g}h{width * (end - column):.1f}v{height:g}"
            shades.setdefault(cells[column], []).append(f"{box}h-{width * (end - column):.1f}z")
            column = end
    return [
        f'<path d="{"".join(boxes)}" fill="{GREY}" fill-opacity="{shade / levels * 0.8:.2f}"/>'
        for shade, boxes in sorted(shades.items())
        if shade
    ]


# Surroundings of a node -----------------------------------------------------------------------------------------------


class Surroundings:
    """The nodes within some hops of one, drawn as rings around it."""

    def __init__(self, data: Data, centre: int, hops: int) -> None:
        assert data.edge_index is not None
        neighbours: dict[int, list[int]] = {}
        for a, b in data.edge_index.t().tolist():
            neighbours.setdefault(a, []).append(b)
        self.hop: dict[int, int] = {centre: 0}
        children: dict[int, list[int]] = {centre: []}
        ring = [centre]
        for distance in range(1, hops + 1):
            found: list[int] = []
            for node in ring:
                for other in sorted(set(neighbours[node]) - set(self.hop)):
                    self.hop[other], children[other] = distance, []
                    children[node].append(other)
                    found.append(other)
            ring = found
        self.nodes = list(self.hop)
        self.place = {node: place for place, node in enumerate(self.nodes)}
        edges, _ = subgraph(torch.tensor(self.nodes), data.edge_index, num_nodes=data.num_nodes)
        self.edges = [(a, b) for a, b in edges.t().tolist() if a < b]
        # Leaves of the tree of shortest ways at equal angles, others in the middle of theirs.
        self.angle: dict[int, float] = {}
        leaves = [node for node in _walk(centre, children) if not children[node]]
        for place, leaf in enumerate(leaves):
            self.angle[leaf] = 2 * math.pi * place / len(leaves)
        for node in reversed(self.nodes):
            if children[node]:
                self.angle[node] = sum(self.angle[child] for child in children[node]) / len(children[node])

    def local(self) -> Data:
        """These nodes and the edges among them alone."""
        ends = torch.tensor([[self.place[a], self.place[b]] for a, b in self.edges]).t()
        return Data(edge_index=torch.cat([ends, ends.flip(0)], 1), num_nodes=len(self.nodes))

    def draw(self, colours: dict[int, tuple[str, float]], ring: float, radius: float = 3.5) -> list[str]:
        """The picture around (0, 0): a colour and an opacity for some nodes, the others faint."""
        at = {
            node: (hop * ring * math.cos(self.angle[node]), hop * ring * math.sin(self.angle[node]))
            for node, hop in self.hop.items()
        }
        parts = [
            f'<circle r="{ring * hop:g}" fill="none" stroke="{GREY}" stroke-opacity="0.3" stroke-dasharray="2 3"/>'
            for hop in range(1, max(self.hop.values()) + 1)
        ]
        lines = "".join(f"M{at[a][0]:.1f} {at[a][1]:.1f}L{at[b][0]:.1f} {at[b][1]:.1f}" for a, b in self.edges)
        parts.append(f'<path d="{lines}" stroke="{GREY}" stroke-opacity="0.35" fill="none"/>')
        for node, (x, y) in at.items():
            parts.append(dot(x, y, GREY, 2, opacity=0.5))
            if node in colours:
                colour, opacity = colours[node]
                parts.append(dot(x, y, colour, radius, opacity=max(opacity, 0.2)))
        return parts


def _walk(node: int, children: dict[int, list[int]]) -> list[int]:
    return [node, *(below for child in children[node] for below in _walk(child, children))]


def nodes() -> str:
    """The tokens that three tokenizers make of one node, from the first to the last."""
    data = load("pyimports").data
    names = [str(name) for name in data.module_names]
    centre = names.index(CENTRE)
    around = Surroundings(data, centre, HOPS)
    # With a column a node around, a token's features are the weights of these nodes in it.
    one_hot = torch.zeros(data.num_nodes, len(around.nodes))
    one_hot[torch.tensor(around.nodes), torch.arange(len(around.nodes))] = 1
    data = Data(x=one_hot, edge_index=data.edge_index)
    count, ring = HOPS + 1, 19.0
    parts = []

    hops = HopTokens(HOPS)(data)
    first = int(hops.ptr[centre])
    parts.append(
        text(10, 16, f"HopTokens({HOPS}): {count} tokens, each a weighted mean of the coloured nodes", "start")
    )
    for token in range(count):
        weight = hops.x[first + token]
        weight = (weight / weight.max()).sqrt()
        colour = order_colour(token, count)
        shown = {node: (colour, float(weight[place])) for node, place in around.place.items() if weight[place] > 0}
        distance = HOPS - token
        parts += _token(token, 88, around.draw(shown, ring), f"within {distance} hops" if distance else "itself")

    walks = RandomWalkTokens(m=HOPS, s=1, num_walks=4)(data)
    first = int(walks.ptr[centre])
    words = f"RandomWalkTokens(m={HOPS}, s=1, num_walks=4): {count} tokens, each the mean of what 4 walks visit"
    parts.append(text(10, 190, words, "start"))
    for token in range(count):
        visited = walks.token_node[walks.token_ptr[first + token] : walks.token_ptr[first + token + 1]].tolist()
        shown = {node: (order_colour(token, count), 1.0) for node in visited}
        length = HOPS - token
        words = f"walks of {length} step{'s' * (length > 1)}" if length else "itself"
        parts += _token(token, 262, around.draw(shown, ring), words)

    size = 8
    ranks = PPRTokens(size)(data)
    best = ranks.token_node[ranks.ptr[centre] : ranks.ptr[centre + 1]].tolist()
    parts.append(
        text(10, 364, f"PPRTokens({size}): {len(best)} tokens, each a node, by personalised PageRank", "start")
    )
    shown = {node: (order_colour(place, len(best)), 1.0) for place, node in enumerate(best)}
    parts += [moved(80, 436, around.draw(shown, ring, 4.5))]
    for place, node in enumerate(best):
        x, y = 165 + 225 * (place // 5), 388 + 22 * (place % 5)
        colour = order_colour(place, len(best))
        name = names[node].replace("astropy.", "").replace("timeseries.", "")
        name = name if len(name) < 34 else "…" + name[-33:]
        parts += [_frame(x, y - 12, 18, 16, colour), text(x + 9, y + 1, str(place), size=10, colour=colour)]
        parts.append(text(x + 24, y, name, "start", size=10))
    return svg(620, 512, parts, "the surroundings of a node as tokens: hops, walks, personalised PageRank")


def _token(place: int, y: float, drawing: list[str], words: str) -> list[str]:
    x = 80 + 150 * place
    return [moved(x, y, drawing), text(x, y + 78, f"{place}: {words}", size=11)]


# Orders ---------------------------------------------------------------------------------------------------------------


def orders() -> str:
    """Orders of a grid and of a graph, in which its nodes are read."""
    parts = []
    grid = ImageTokens(1)(Data(image=torch.zeros(8, 8)))
    for place, name in enumerate(("raster", "zigzag", "hilbert")):
        order = SortTokens(name)(grid.clone()).order.tolist()
        at = [(15 * column, 15 * row) for row, column in grid.pos.tolist()]
        parts.append(moved(50 + 200 * place, 34, [text(52, -16, f'SortTokens("{name}")'), *_ordered(at, order)]))
    data = load("pyimports").data
    names = [str(name) for name in data.module_names]
    around = Surroundings(data, names.index(CENTRE), HOPS)
    for place, name in enumerate(("degree", "bfs", "fiedler")):
        order = SortTokens(name)(around.local()).order.tolist()
        shown = {node: (order_colour(order[at], len(order)), 1.0) for node, at in around.place.items()}
        drawing = around.draw(shown, 22, 5)
        parts.append(moved(102 + 200 * place, 258, [text(0, -78, f'SortTokens("{name}")'), *drawing]))
    parts.append(text(232, 356, "first", "end"))
    parts += [rect(240 + 4 * step, 346, 4, 12, order_colour(step, 32)) for step in range(32)]
    parts.append(text(376, 356, "last", "start"))
    return svg(620, 366, parts, "orders in which a grid and a graph are read")


def _ordered(at: Sequence[tuple[float, float]], order: Sequence[int]) -> list[str]:
    """Nodes in the colours of their order, joined in it."""
    sequence = sorted(range(len(order)), key=order.__getitem__)
    parts = [curve([at[node] for node in sequence], GREY, width=1)]
    return parts + [dot(*at[node], order_colour(place, len(order)), 4.5) for place, node in enumerate(sequence)]


def _frame(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="none" stroke="{colour}" '
        'stroke-width="1.6"/>'
    )


def _grid(height: int, width: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(height) for column in range(width)]


PICTURES = {"images": images, "rows": rows, "nodes": nodes, "orders": orders}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(HOME / "docs" / "_static"), help="folder of the pictures")
    folder = Path(parser.parse_args(arguments).out)
    for name, picture in PICTURES.items():
        write(str(folder / f"tokens_{name}.svg"), picture())


if __name__ == "__main__":
    main()
