"""Writes the tables of README.md and docs/ from the records in results/, between marker comments.

    python scripts/readme_tables.py            # after a record came or changed
    python scripts/readme_tables.py --check    # changes nothing; fails if a page does not say what the records say

A marker is one of

    <!-- results ncnc -->     a line a model, a column a dataset; the paper's mean in brackets
    <!-- details ncnc -->     a table a record with costs, hardware and command
    <!-- bench -->            ratios of all benchmark records; `bench NAME ...` only of those
    <!-- datasets -->         the datasets
    <!-- protocols -->        the ways to split
    <!-- papers -->           the systems that are done or started

and its table ends at <!-- end -->.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from graphkit.bench.catalog import figure, here, papers
from graphkit.bench.records import Record, load_records
from graphkit.bench.report import Benchmark, load_benchmarks
from graphkit.utils.io import atomic_write

HOME = Path(__file__).resolve().parents[1]
KINDS = "results|details|bench|datasets|protocols|papers"
STARTS = re.compile(rf"^<!-- (?:{KINDS})\b", re.MULTILINE)
MARKER = re.compile(rf"(<!-- ({KINDS})((?: [\w.-]+)*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def render(text: str, folder: Path) -> str:
    """``text`` with every table made anew from the records in ``folder``."""
    tables: dict[str, Callable[[Sequence[str], Path], str]] = {
        "results": results,
        "details": details,
        "bench": bench,
        "datasets": datasets,
        "protocols": protocols,
        "papers": systems,
    }

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]](match[3].split(), folder)}\n\n{match[5]}"

    if text.count("<!-- end -->") != len(MARKER.findall(text)) or len(STARTS.findall(text)) != text.count(
        "<!-- end -->"
    ):
        raise ValueError("a <!-- marker --> is misspelt, or its <!-- end --> is missing")
    return MARKER.sub(fill, text)


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [HOME / "README.md", *sorted(path for path in (HOME / "docs").rglob("*.md") if "_build" not in path.parts)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """A Markdown table whose columns from number ``right`` on are aligned to the right."""
    rule = ["---" if place < right else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def _records(keys: Sequence[str], folder: Path) -> list[Record]:
    order = [facts.lower() for facts in _dataset_names()]

    def place(record: Record) -> tuple[int, int]:
        return keys.index(record.key), order.index(record.dataset.lower()) if record.dataset.lower() in order else 999

    return sorted((record for record in load_records(folder) if record.key in keys and not record.fast), key=place)


def _dataset_names() -> list[str]:
    from graphkit.datasets import available

    return [facts.name for facts, _ in available()]


def _none(key: str) -> str:
    return f"No records yet: `graphkit run {key} --runs 10 --out results` makes the first one."


# Tables --------------------------------------------------------------------------------------------------------------


def results(keys: Sequence[str], folder: Path) -> str:
    """Models by datasets, by the metric that chooses the epoch: our mean ± std, and in brackets the paper's mean."""
    (key,) = keys
    records = _records(keys, folder)
    if not records:
        return _none(key)
    columns, cells, models = [], {}, {}
    for record in records:
        for row in record.main_rows():
            if row.metric != record.monitor:
                continue
            column = f"{record.dataset}<br>{row.metric}"
            columns.append(column)
            models[row.model] = None
            paper = f" ({row.reported['mean']:.2f})" if row.reported else ""
            cells[row.model, column] = here(row) + paper
    names = list(dict.fromkeys(columns))
    seeds = sorted({len(record.seeds) for record in records})
    runs = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    rows = [[model, *(cells.get((model, name), "") for name in names)] for model in models]
    note = f"Test, percent: mean ± standard deviation of {runs} run{'s' * (runs != '1')}; in brackets the paper's mean."
    return f"{_table(['model', *names], rows)}\n\n{note}"


def details(keys: Sequence[str], folder: Path) -> str:
    """A table a record."""
    (key,) = keys
    parts = []
    for record in _records(keys, folder):
        rows = []
        for row in record.main_rows():
            paper = figure(row.reported["mean"], row.reported["std"]) if row.reported else ""
            gap = f"{row.mean - row.reported['mean']:+.2f}" if row.reported else ""
            memory = f"{row.peak_mb:,.0f}" if row.peak_mb else ""
            cost = (f"{row.parameters:,}", f"{row.seconds:,.1f}", memory)
            rows.append([row.model, row.metric, here(row), paper, gap, *cost])
        head = ("model", "metric", "here", "paper", "difference", "parameters", "s a run", "peak MiB")
        runs = f"{len(record.seeds)} run{'s' * (len(record.seeds) > 1)}"
        facts = f"{runs}, {record.hardware}, commit `{record.commit or 'unknown'}`: `{record.command}`"
        note = f" {record.note.rstrip('.')}." if record.note else ""
        parts.append(f"**{record.dataset}**\n\n{_table(head, rows, right=2)}\n\n{facts}.{note}")
    return "\n\n".join(parts) or _none(key)


def bench(names: Sequence[str], folder: Path) -> str:
    """How many times as fast as the peer, and whose memory is larger."""
    parts = []
    for record in load_benchmarks(folder / "bench"):
        compared = any(row.get("ratio") for row in record.rows)  # others are shown by their plots
        if compared and (not names or record.name in names):
            parts.append(_bench(record))
    return "\n\n".join(parts) or (
        "No records yet: `graphkit bench common_neighbors --out results/bench` makes the first one."
    )


def _bench(record: Benchmark) -> str:
    rows = []
    for row in record.rows:
        if not row.get("ratio"):
            continue
        memory = ""
        # Less than a few megabytes are within what the allocator keeps at hand.
        if min(row.get("ours_peak_mb", 0), row.get("peer_peak_mb", 0)) >= 4:
            memory = f"{row['peer_peak_mb'] / row['ours_peak_mb']:.1f}"
        rows.append([row["case"].strip(), str(row.get("peer", "")), f"{row['ratio']:.1f}", memory])
    head = ("case", "against", "times as fast", "times less memory")
    return f"**{record.name}** ({record.hardware})\n\n{_table(head, rows, right=2)}\n\n`{record.command}`"


def datasets(_: Sequence[str], __: Path) -> str:
    """The datasets with their protocols and licences."""
    from graphkit.datasets import available

    rows = []
    for facts, _present in available():
        graphs = f"{facts.graphs:,}" if facts.graphs > 1 else "1"
        sizes = (graphs, _count(facts.nodes), _count(facts.edges), _count(facts.features), _count(facts.classes))
        rows.append([facts.name, ", ".join(facts.protocols), facts.licence, *sizes])
    return _table(("name", "protocols", "licence", "graphs", "nodes", "edges", "features", "classes"), rows, right=3)


def protocols(_: Sequence[str], __: Path) -> str:
    """The ways to split."""
    from graphkit.datasets import PROTOCOLS

    rows = [[f"`{name}`", protocol.task, protocol.text] for name, protocol in PROTOCOLS.items()]
    return _table(("protocol", "task", "what it does"), rows, right=3)


def _count(number: float) -> str:
    return "" if not number else f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def systems(_: Sequence[str], __: Path) -> str:
    """Papers that have code."""
    rows = []
    for paper in papers():
        if paper.status != "planned":
            title = f"[{paper.title}]({paper.link})" if paper.link else paper.title
            rows.append([f"`{paper.key}`", title, paper.status, paper.claim])
    return _table(("key", "paper", "status", "what it does"), rows, right=4)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder of the records")
    parser.add_argument("--check", action="store_true", help="only say which pages are out of date")
    options = parser.parse_args(arguments)
    stale = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        try:
            made = render(text, options.results)
        except ValueError as error:
            print(f"readme_tables.py: error: {path.relative_to(HOME)}: {error}", file=sys.stderr)
            return 2
        if made == text:
            continue
        stale.append(path.relative_to(HOME))
        if not options.check:
            with atomic_write(path) as file:
                file.write(made)
    for name in stale:
        print(f"{name} {'is out of date: run scripts/readme_tables.py' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
