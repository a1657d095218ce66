"""The catalog: which papers are in scope, what stands of each, and which datasets there are."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphkit.bench.records import Record, Row, load_records

PACKAGE = Path(__file__).resolve().parents[1]
STATUSES = ("planned", "started", "done")
FAMILIES = (
    "graph",
    "temporal",
    "relational",
    "token",
    "spiking",
    "continual",
    "transfer",
    "efficiency",
    "search",
    "theory",
)
COLOURS = {"planned": "dim", "started": "yellow", "done": "green"}


@dataclass(frozen=True)
class Paper:
    """A row of ``papers.toml``.

    Args:
        key: name of its recipe and of the folder of its records.
        name: what the system is called.
        title: the paper's title.
        family: one of ``FAMILIES``.
        home: folders under ``graphkit/`` where the idea lives.
        api: dotted public names.
        status: one of ``STATUSES``.
        claim: what the system does, in one line.
        authors, venue, year, link: left out where they are not certain.
        recipe: key of its recipe, if it has one.
    """

    key: str
    name: str
    title: str
    family: str
    home: tuple[str, ...]
    api: tuple[str, ...]
    status: str
    claim: str
    authors: str | None = None
    venue: str | None = None
    year: int | None = None
    link: str | None = None
    recipe: str | None = None


def papers(path: str | os.PathLike | None = None) -> list[Paper]:
    """All papers in scope.

    Args:
        path: a catalog file; the package's own if None.

    Raises:
        ValueError: the file is no TOML, a field is missing, unknown or of a wrong kind, or a key occurs twice.

    Example:
        >>> papers()[0].key
        'ncnc'
    """
    place = Path(path) if path is not None else PACKAGE / "papers.toml"
    try:
        content = tomllib.loads(place.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place} is no TOML file ({error})") from error
    tables = content.get("paper")
    if set(content) != {"paper"} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise ValueError(f"{place} must hold [[paper]] tables and nothing else (got {', '.join(content) or 'nothing'})")
    found = [_paper(table, f"{place}: paper {number}") for number, table in enumerate(tables, 1)]
    twice = [key for key, count in Counter(paper.key for paper in found).items() if count > 1]
    if twice:
        raise ValueError(f"{place}: key {twice[0]!r} occurs more than once")
    return found


def _paper(table: dict[str, Any], place: str) -> Paper:
    place = f"{place} ({table.get('key', 'without a key')})"
    known = {f.name for f in fields(Paper)}
    for name in table:
        if name not in known:
            raise ValueError(f"{place}: unknown field {name!r}; the fields are {', '.join(sorted(known))}")
    for name in ("key", "name", "title", "family", "home", "api", "status", "claim"):
        if name not in table:
            raise ValueError(f"{place}: {name} is missing")
    for name, value in table.items():
        if name in ("home", "api"):
            kind, good = "a list of texts", isinstance(value, list) and all(isinstance(word, str) for word in value)
        elif name == "year":
            kind, good = "a whole number", isinstance(value, int) and not isinstance(value, bool)
        else:
            kind, good = "one line of text", isinstance(value, str) and bool(value.strip()) and "\n" not in value
        if not good:
            raise ValueError(f"{place}: {name} must be {kind} (got {value!r})")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", table["key"]):
        raise ValueError(f"{place}: key must be a module's name (got {table['key']!r})")
    for name, choices in (("status", STATUSES), ("family", FAMILIES)):
        if table[name] not in choices:
            raise ValueError(f"{place}: {name} must be one of {', '.join(choices)} (got {table[name]!r})")
    if not table["home"]:
        raise ValueError(f"{place}: home must name a folder under graphkit/ (got none)")
    return Paper(**{**table, "home": tuple(table["home"]), "api": tuple(table["api"])})


# Tables --------------------------------------------------------------------------------------------------------------


def _console() -> Console:
    """Standard output; 120 columns wide in a pipe, where rich would take 80, unless COLUMNS says otherwise."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=120 if piped else None, soft_wrap=False)


def _table(*columns: str, right: tuple[str, ...] = (), wrap: tuple[str, ...] = ()) -> Table:
    """A plain table whose cells are never cut: the columns in ``wrap`` break between words, the others not at all."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        justify = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name not in wrap, overflow="fold")  # type: ignore[arg-type]
    return table


def print_papers(
    results: bool = False,
    folder: str | os.PathLike = "results",
    status: str | None = None,
    key: str | None = None,
) -> None:
    """Print the papers in scope as a table.

    Args:
        results: print our test figures beside the papers' instead.
        folder: folder of the result records.
        status: only papers of this status.
        key: only this paper, with all that is known of it.

    Raises:
        ValueError: unknown status or key, or a damaged record.
    """
    rows = papers()
    for word, name, choices in ((status, "status", STATUSES), (key, "KEY", [paper.key for paper in rows])):
        if word is not None and word not in choices:
            from graphkit.utils.checks import nearest  # here: it brings torch, which takes seconds

            few = f"one of {', '.join(choices)}" if len(choices) < 9 else "a key that `graphkit papers` lists"
            raise ValueError(f"{name} must be {few} (got {word!r}){nearest(word, choices)}")
    rows = [p for p in rows if (status is None or p.status == status) and (key is None or p.key == key)]
    console = _console()
    if results:
        _print_results(console, rows, folder)
        return
    if key is not None:
        for paper in rows:
            _print_paper(console, paper)
        return
    table = _table("key", "status", "family", "title", "published", wrap=("title", "published"))
    for paper in rows:
        colour = COLOURS[paper.status]
        published = " ".join(str(part) for part in (paper.venue, paper.year) if part)
        table.add_row(paper.key, f"[{colour}]{paper.status}[/]", paper.family, paper.title, published)
    console.print(table)
    counts = Counter(paper.status for paper in rows)
    text = ", ".join(f"{counts[name]} {name}" for name in reversed(STATUSES))
    console.print(f"\n{len(rows)} papers: {text}. `graphkit papers KEY` tells more of one.", highlight=False)


def _print_paper(console: Console, paper: Paper) -> None:
    def line(name: str, text: str | None) -> None:
        if text:
            console.print(f"[dim]{name:<11}[/]", end="")
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    console.print(f"[bold]{paper.name}[/]: {paper.claim}\n", highlight=False, soft_wrap=True)
    line("title", paper.title)
    line("authors", paper.authors)
    line("published", " ".join(str(part) for part in (paper.venue, paper.year) if part))
    line("link", paper.link)
    line("family", paper.family)
    line("status", paper.status)
    line("home", ", ".join(f"graphkit/{place}" for place in paper.home))
    line("api", ", ".join(paper.api))
    line("run", paper.recipe and f"graphkit run {paper.recipe}")


def _print_results(console: Console, rows: list[Paper], folder: str | os.PathLike) -> None:
    keys = [paper.key for paper in rows]
    # Baselines are no papers in scope; their records come last, unless only some papers were asked for.
    everything = papers()
    known = {paper.key for paper in everything}
    whole = len(rows) == len(everything)
    records = [r for r in load_records(folder) if r.key in keys or (whole and r.key not in known)]
    if not records:
        console.print(
            f"No result records of these papers in {Path(folder)}/. `graphkit run ncnc --out {folder}` makes one, "
            "and --folder reads another folder.",
            highlight=False,
            markup=False,
        )
        return
    table = _table(
        "key",
        "dataset",
        "model",
        "metric",
        "here",
        "paper",
        "difference",
        "runs",
        right=("here", "paper", "difference", "runs"),
    )
    for record in sorted(records, key=lambda record: keys.index(record.key) if record.key in keys else len(keys)):
        for row in record.main_rows():
            paper = figure(row.reported["mean"], row.reported["std"]) if row.reported else ""
            gap = f"{row.mean - row.reported['mean']:+.2f}" if row.reported else ""
            runs = f"{len(row.values)}{' (smoke)' if record.fast else ''}"
            table.add_row(record.key, record.dataset, row.model, row.metric, here(row), paper, gap, runs)
    console.print(table)
    have = len({record.key for record in records} & set(keys))
    console.print(f"\n{have} of {len(rows)} papers have records in {Path(folder)}/.", highlight=False, markup=False)


def figure(mean: float, std: float | None) -> str:
    """``"89.65 ± 1.36"``, or the mean alone."""
    return f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "")


def here(row: Row) -> str:
    """Our mean, with the standard deviation if there was more than one run."""
    return figure(row.mean, row.std if len(row.values) > 1 else None)


def print_datasets(root: str | os.PathLike | None = None) -> None:
    """Print the datasets with their facts, and which of them are on disk.

    Args:
        root: folder of the raw files; ``$GRAPHKIT_ROOT``, else ``~/.cache/graphkit``, if None.
    """
    from graphkit.datasets import available
    from graphkit.utils.io import data_root

    numbers = ("graphs", "nodes", "edges", "features", "classes")
    table = _table("name", "task", *numbers, "metric", "from", "on disk", right=numbers)
    found = available(root)
    for facts, present in found:
        origin = facts.origin if facts.folder else "shipped"
        disk = "[green]yes[/]" if present else "[dim]no[/]"
        many = facts.graphs > 1
        sizes = (_count(facts.graphs), _count(facts.nodes, many), _count(facts.edges, many))
        counts = (*sizes, _count(facts.features), _count(facts.classes))
        table.add_row(facts.name, facts.task, *counts, facts.metric, origin, disk)
    console = _console()
    console.print(table)
    number = sum(present for _, present in found)
    place = data_root(root)
    console.print(
        f"\n{number} of {len(found)} datasets are on disk: those shipped, and what lies under {place}. "
        "GRAPHKIT_ROOT, or --root, names another folder; a dataset that is not there is downloaded into it when it is "
        "first loaded. Nodes and edges of many graphs are averages.",
        highlight=False,
        markup=False,
        soft_wrap=not sys.stdout.isatty(),
    )


def _count(number: float, average: bool = False) -> str:
    return "-" if not number else f"{number:,.1f}" if average else f"{number:,.0f}"


# Check ---------------------------------------------------------------------------------------------------------------


def check_catalog(
    rows: list[Paper] | None = None,
    results: str | os.PathLike | None = None,
    listing: str | os.PathLike | None = None,
) -> list[str]:
    """What is wrong with the catalog, one sentence a problem; empty if nothing is.

    Every API name must import, every home and recipe of a paper that is not only planned must exist, and ``done``
    needs a record of a whole run.

    Args:
        rows: the papers; those of the package if None.
        results: folder of the records; ``results/`` of the checkout if None.
        listing: a Markdown table of the papers (number, key, name, home, card, title) to compare with.
    """
    rows = papers() if rows is None else rows
    folder = Path(results) if results is not None else PACKAGE.parent / "results"
    problems = []
    for paper in rows:
        problems += [f"{paper.key}: {problem}" for problem in _problems(paper, folder)]
    if listing is not None:
        problems += _differences(rows, Path(listing))
    return problems


def _problems(paper: Paper, folder: Path) -> list[str]:
    found = []
    for name in paper.api:
        try:
            _find(name)
        except (ImportError, AttributeError) as error:
            found.append(f"{name} cannot be imported ({error})")
    if paper.status == "planned":
        return [*found, *(["planned, but it names API or a recipe"] if paper.api or paper.recipe else [])]
    if not paper.api:
        found.append(f"{paper.status}, but it names no API")
    found += [f"graphkit/{place} does not exist" for place in paper.home if not (PACKAGE / place).is_dir()]
    if paper.recipe is not None and not (PACKAGE / "recipes" / f"{paper.recipe}.py").is_file():
        found.append(f"graphkit/recipes/{paper.recipe}.py does not exist")
    if paper.status == "done":
        if paper.recipe is None:
            found.append("done, but it names no recipe")
        records = []
        for path in sorted((folder / paper.key).glob("*.json")):
            try:
                records.append(Record.load(path))
            except ValueError as error:
                found.append(str(error))
        if not any(record.key == paper.key and not record.fast for record in records):
            found.append(f"done, but {folder.name}/{paper.key}/ holds no record of a whole run")
    return found


def _find(name: str) -> Any:
    """The object of a dotted name: a public name of a module."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith("graphkit"):
        raise ImportError("not a name of graphkit")
    return getattr(importlib.import_module(module), attribute)


def _differences(rows: list[Paper], path: Path) -> list[str]:
    """Where the catalog and a Markdown table of the papers disagree."""
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in path.read_text().splitlines()]
    listed = {row[1].strip("`"): row for row in cells if len(row) == 6 and row[0].isdigit()}
    have = {paper.key: paper for paper in rows}
    found = [f"{key}: in {path.name}, but not in the catalog" for key in listed if key not in have]
    found += [f"{key}: in the catalog, but not in {path.name}" for key in have if key not in listed]
    for key, row in listed.items():
        if key in have:
            mine = (have[key].name, " + ".join(have[key].home), have[key].title)
            names = ("name", "home", "title")
            theirs = (row[2], row[3], row[5])
            found += [
                f"{key}: {name} differs from {path.name}: {a!r}, {b!r}"
                for name, a, b in zip(names, mine, theirs, strict=True)
                if a != b
            ]
    return found


def main(arguments: list[str] | None = None) -> int:
    """``python -m graphkit.bench.catalog --check``: exit status 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m graphkit.bench.catalog", description=__doc__)
    parser.add_argument("--check", action="store_true", required=True, help="import every name, look for every file")
    parser.add_argument("--results", help="folder of the result records; results/ of the checkout if not given")
    parser.add_argument("--listing", help="Markdown table of the papers to compare with")
    options = parser.parse_args(arguments)
    try:
        rows = papers()
        problems = check_catalog(rows, options.results, options.listing)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    names = sum(len(paper.api) for paper in rows)
    print(f"{len(rows)} papers, {names} API names: {f'{len(problems)} problems' if problems else 'all in order'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
