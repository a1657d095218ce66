"""One self-contained HTML page of all result records: tables beside the papers' figures, curves, costs, commands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from graphkit.bench import svg
from graphkit.bench.catalog import Paper, figure, here, papers
from graphkit.bench.records import Record, Row, load_records, versions
from graphkit.utils.io import atomic_write

# Metrics of which less is better; of all others more is.
LOWER = ("rmse", "mse", "mae", "loss", "error", "perplexity")

STYLE = """
:root { color-scheme: light dark;
  --ground:#fff; --panel:#f6f7f9; --ink:#1c2330; --soft:#5b6575; --line:#d9dee6; --link:#1f5fbf;
  --ours:#1f5fbf; --paper:#c2560c; --good:#1a7f4b; --good-ground:#e3f4ea; --warn:#9a5b00; --warn-ground:#fdf1dc;
  --h0:#1a7f4b; --h1:#b83a3a;
  --c0:#1f5fbf; --c1:#c2560c; --c2:#1a7f4b; --c3:#8a3fa8; --c4:#00838f; --c5:#b83a3a; --c6:#6d6a1a; --c7:#555e6d; }
@media (prefers-color-scheme: dark) { :root {
  --ground:#12161c; --panel:#1a2028; --ink:#e3e7ee; --soft:#97a1b1; --line:#303947; --link:#7fb0ff;
  --ours:#7fb0ff; --paper:#f2a065; --good:#6fd09b; --good-ground:#173425; --warn:#eac069; --warn-ground:#382d15;
  --h0:#6fd09b; --h1:#f08b8b;
  --c0:#7fb0ff; --c1:#f2a065; --c2:#6fd09b; --c3:#cf9ae6; --c4:#5fd0dc; --c5:#f08b8b; --c6:#d3cf6b; --c7:#aab3c2; } }
* { box-sizing:border-box }
body { margin:0 auto; max-width:1080px; padding:32px 24px 64px; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif }
h1 { font-size:26px; margin:0 } h2 { font-size:20px; margin:0 }
h3 { font-size:14px; margin:22px 0 6px; color:var(--soft) }
a { color:var(--link) } p { margin:6px 0 } .soft { color:var(--soft) }
section { margin-top:36px; padding-top:20px; border-top:1px solid var(--line) }
.scroll { overflow-x:auto }
table { border-collapse:collapse; margin:10px 0; font-variant-numeric:tabular-nums }
th,td { padding:4px 14px 4px 0; text-align:left; border-bottom:1px solid var(--line); white-space:nowrap }
th { color:var(--soft); font-weight:500; font-size:13px } .right { text-align:right } td.wide { white-space:normal }
code,pre { font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace }
pre { background:var(--panel); border:1px solid var(--line); border-radius:6px; padding:10px 12px; margin:6px 0;
  white-space:pre-wrap; overflow-wrap:anywhere }
.badge { display:inline-block; padding:0 8px; border-radius:9px; font-size:12px; vertical-align:2px;
  background:var(--panel); color:var(--soft); border:1px solid var(--line) }
.badge.warn,.miss { background:var(--warn-ground); color:var(--warn); border-color:transparent }
.within { background:var(--good-ground); color:var(--good) } .gap { padding:1px 7px; border-radius:9px }
dl { display:grid; grid-template-columns:max-content 1fr; gap:3px 18px; margin:10px 0 }
dt { color:var(--soft) } dd { margin:0 }
details { margin:8px 0 } summary { cursor:pointer; color:var(--link) }
.charts { display:flex; flex-wrap:wrap; gap:8px 24px }
svg { width:100%; height:auto; display:block } .charts>svg { flex:0 1 300px }
svg text { font:12px system-ui,-apple-system,"Segoe UI",sans-serif; fill:var(--soft) }
.grid { stroke:var(--line); stroke-width:1 } .one { stroke:var(--soft); stroke-width:1.5 }
.curve { fill:none; stroke-width:1.8 } .area { fill-opacity:.25; stroke-width:1.2 }
.run { fill:var(--ours); opacity:.28 } circle.ours,rect.ours { fill:var(--ours) }
circle.beaten { fill:var(--soft) } .front { fill:none; stroke:var(--soft); stroke-width:1.4; stroke-dasharray:5 3 }
rect.worse { fill:var(--paper) }
path.paper { fill:var(--paper) } .whisker { stroke-width:2 }
line.ours { stroke:var(--ours) } line.paper { stroke:var(--paper) }
.key b { font-weight:600 } .key .o { color:var(--ours) } .key .p { color:var(--paper) }
@media print { details { display:block } body { max-width:none } }
"""


@dataclass(frozen=True)
class Benchmark:
    """A record of speed and memory: ``{name, command, versions, hardware, rows}``."""

    name: str
    command: str
    versions: dict[str, str]
    hardware: str
    rows: list[dict[str, Any]]


def write_report(results: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write one HTML page of all records in a folder; it needs nothing else, neither files nor network.

    Args:
        results: folder with ``<recipe>/<dataset>.json`` and ``bench/<name>.json``.
        out: the page.

    Returns:
        The page's path.

    Raises:
        ValueError: there is no record, or one is damaged; the message names it.
        OSError: the page cannot be written.

    Example:
        >>> write_report("results", "report.html")  # doctest: +SKIP
    """
    folder = Path(results)
    records, benchmarks = load_records(folder), load_benchmarks(folder / "bench")
    if not records and not benchmarks:
        raise ValueError(
            f"no result records in {folder}/; make one with `graphkit run ncnc --out {folder}`, or name another folder "
            "with --results"
        )
    page = _page(records, benchmarks)
    with atomic_write(out, "wb") as file:
        file.write(page.encode())
    return Path(out)


def load_benchmarks(folder: str | os.PathLike) -> list[Benchmark]:
    """The benchmark records of a folder, sorted by name; none if it is not there.

    Raises:
        ValueError: a file is damaged or no benchmark record; the message names it.
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = ("name", "command", "versions", "hardware", "rows")
            made = Benchmark(**{name: content[name] for name in names})
            texts = (made.name, made.command, made.hardware, *(row["case"] for row in made.rows))
            if not all(isinstance(text, str) for text in texts) or not isinstance(made.versions, dict):
                raise TypeError("a field is of a wrong kind")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no benchmark record ({error}); delete it and measure again") from error
        found.append(made)
    return found


def deviation(row: Row) -> float | None:
    """Our mean minus the paper's, in the paper's standard deviations (in ours if it gives none); None if unknown."""
    if row.reported is None:
        return None
    unit = row.reported.get("std") or row.std
    return (row.mean - row.reported["mean"]) / unit if unit else None


def _better(row: Row, gap: float) -> bool:
    return gap < 0 if any(word in row.metric.lower() for word in LOWER) else gap > 0


# The page ------------------------------------------------------------------------------------------------------------


def _page(records: Sequence[Record], benchmarks: Sequence[Benchmark]) -> str:
    known = {paper.key: paper for paper in papers()}
    stack = ", ".join(f"{name} {version}" for name, version in versions().items())
    covered = len({record.key for record in records} & set(known))
    body = [
        "<header><h1>GraphKit results</h1>",
        f'<p class="soft">{covered} of {len(known)} papers, {len(records)} records, {len(benchmarks)} benchmarks. '
        f"Page made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with {escape(stack)}.</p></header>",
    ]
    if records:
        body.append(_overview(records))
    body += [_section(record, known.get(record.key)) for record in records]
    body += [_bench(benchmark) for benchmark in benchmarks]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>GraphKit results</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _overview(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        compared = [row for row in record.main_rows() if row.reported]
        away = [d for d in map(deviation, compared) if d is not None]
        near = sum(abs(d) <= 1 for d in away)
        text = f"{near} of {len(compared)} within one std" if compared else "none given"
        link = f'<a href="#{_anchor(record)}">{escape(record.key)} on {escape(record.dataset)}</a>'
        best = _best(record)
        rows.append(
            [
                link + _badges(record),
                f"{escape(best.model)}, {here(best)}" if best else "",
                escape(record.monitor),
                text,
                str(len(record.seeds)),
                escape(record.created[:10]),
            ]
        )
    head = ("record", "best model", "metric", "paper's figures", "runs", "date")
    return _table(head, rows, right={4})


def _best(record: Record) -> Row | None:
    rows = [row for row in record.main_rows() if row.metric == record.monitor]
    if not rows:
        return None
    return (min if not _better(rows[0], 1) else max)(rows, key=lambda row: row.mean)


def _anchor(record: Record) -> str:
    word = f"{record.key}-{record.dataset}"
    return "".join(c if c.isalnum() else "-" for c in word)


def _badges(record: Record) -> str:
    text = ""
    if record.fast:
        text += ' <span class="badge warn">smoke run, no result</span>'
    if record.commit.endswith("+changes"):
        text += ' <span class="badge">uncommitted changes</span>'
    return text


def _section(record: Record, paper: Paper | None) -> str:
    parts = [
        f'<section id="{_anchor(record)}"><h2>{escape(record.key)} on {escape(record.dataset)}{_badges(record)}</h2>'
    ]
    if paper is not None:
        published = " ".join(str(part) for part in (paper.venue, paper.year) if part)
        title = escape(paper.title)
        if paper.link and paper.link.startswith("https://"):
            title = f'<a href="{escape(paper.link)}">{title}</a>'
        parts.append(f'<p class="soft">{title}{f", {escape(published)}" if published else ""}</p>')
    parts.append(_results(record))
    parts += _charts(record)
    parts.append(_facts(record))
    parts.append(_details("All metrics", _metrics(record)))
    parts.append(_details(f"Values of each seed ({', '.join(map(str, record.seeds))})", _seeds(record)))
    if record.config:
        parts.append(_details("Settings", _settings(record.config)))
    return "\n".join(parts) + "</section>"


def _results(record: Record) -> str:
    rows = []
    for row in record.main_rows():
        paper = figure(row.reported["mean"], row.reported.get("std")) if row.reported else ""
        peak = "" if row.peak_mb is None else f"{row.peak_mb:,.0f}"
        rows.append(
            [
                escape(row.model),
                escape(row.metric),
                f"<b>{here(row)}</b>",
                paper,
                _gap(row),
                f"{row.parameters:,}",
                f"{row.seconds:,.1f}",
                peak,
            ]
        )
    head = ("model", "test metric", "here", "paper", "difference", "parameters", "s / run", "peak MB")
    sources = dict.fromkeys(
        row.reported["source"] for row in record.main_rows() if row.reported and "source" in row.reported
    )
    runs = f"Mean ± standard deviation of {len(record.seeds)} runs." if len(record.seeds) > 1 else "One run."
    note = f'<p class="soft">{runs}'
    if sources:
        note += (
            f" Paper: {escape('; '.join(map(str, sources)))}. Differences in parentheses are in the paper's standard "
        )
        note += 'deviations; <span class="gap within">within one</span> is shaded.'
    return _table(head, rows, right={2, 3, 4, 5, 6, 7}) + note + "</p>"


def _gap(row: Row) -> str:
    if row.reported is None:
        return ""
    gap, units = row.mean - row.reported["mean"], deviation(row)
    text = f"{gap:+.2f}" + (f" ({units:+.1f} std)" if units is not None else "")
    kind = "within" if units is not None and abs(units) <= 1 else "" if _better(row, gap) else "miss"
    return f'<span class="gap {kind}">{text.replace("-", "−")}</span>'


def _charts(record: Record) -> list[str]:
    parts = []
    rows = [row for row in record.main_rows() if row.metric == record.monitor]
    if rows:
        shown = [
            svg.Score(
                row.model,
                row.values,
                row.mean,
                row.std,
                row.reported["mean"] if row.reported else None,
                row.reported.get("std") if row.reported else None,
            )
            for row in rows
        ]
        key = '<span class="o">●</span> mean ± std here, faint: each run'
        if any(row.reported for row in rows):
            key += '&ensp;<span class="p">◆</span> paper'
        parts += [f'<h3>Test scores</h3><p class="soft key">{key}</p>', svg.scores(shown, f"test {record.monitor}")]
    parts += _batch_sizes(rows)
    parts += _costs(record)
    column = f"valid/{record.monitor}"
    curves = {
        name: [(point["epoch"], point[column]) for point in history if column in point and "epoch" in point]
        for name, history in record.curves.items()
    }
    curves = {name: points for name, points in curves.items() if points}
    if curves:
        label = f"validation {record.monitor}, seed {record.seeds[0]}"
        parts += ["<h3>Learning curves</h3>", svg.lines(curves, "epoch", label)]
    histograms = {
        name: {group: heights for group, heights in bins.items() if group != "edges"}
        for name, bins in record.histograms.items()
        if len(bins.get("edges", ())) > 1
    }
    if histograms:
        drawn = [svg.histogram(record.histograms[name]["edges"], groups, name) for name, groups in histograms.items()]
        parts.append(f'<h3>Test scores of single examples</h3><div class="charts">{"".join(drawn)}</div>')
    return parts


def _batch_sizes(rows: Sequence[Row]) -> list[str]:
    """Score and time of an epoch by batch size, where models were trained at several (``TGN@200``, ``TGN@800``)."""
    scores: dict[str, list[tuple[float, float]]] = {}
    times: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name, _, events = row.model.partition("@")
        if events.isdecimal():
            scores.setdefault(name, []).append((int(events), row.mean))
            if row.epoch_seconds is not None:
                times.setdefault(name, []).append((int(events), row.epoch_seconds))
    if not any(len(points) > 1 for points in scores.values()):
        return []
    charts = [svg.lines(scores, "batch size", f"test {rows[0].metric}")]
    if times:
        charts.append(svg.lines(times, "batch size", "seconds an epoch"))
    return ["<h3>By batch size</h3>", *charts]


def _costs(record: Record) -> list[str]:
    """What each model gets right against each cost that was measured."""
    found = record.costs()
    if not found:
        return []
    from graphkit.utils.cost import pareto_front  # here: it brings torch, which takes seconds

    charts = []
    sign = -1 if _better(next(row for row in record.rows if row.metric == record.monitor), 1) else 1
    for cost, models in found.items():
        names = [name for name, (value, _) in models.items() if value > 0]  # the axis is logarithmic
        if len(names) < 2:
            continue
        best = [names[at] for at in pareto_front([(models[name][0], sign * models[name][1]) for name in names])]
        charts.append(svg.front({name: models[name] for name in names}, best, cost, f"test {record.monitor}"))
    if not charts:
        return []
    key = "A line joins the models that no other one beats in both."
    return ["<h3>Against cost</h3>", f'<p class="soft key">{key}</p>', *charts]


def _facts(record: Record) -> str:
    facts = [
        ("protocol", escape(record.protocol)),
        ("command", f"<pre>{escape(record.command)}</pre>"),
        ("commit", f"<code>{escape(record.commit or 'not from a checkout')}</code>"),
        ("run", escape(record.created)),
        ("hardware", escape(record.hardware)),
        ("versions", escape(_words(record.versions))),
    ]
    if record.note:
        facts.append(("note", escape(record.note)))
    return "<h3>How it was made</h3><dl>" + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts) + "</dl>"


def _metrics(record: Record) -> str:
    metrics = list(dict.fromkeys(row.metric for row in record.rows))
    cells = {(row.model, row.split, row.metric): here(row) for row in record.rows}
    lines = [
        [escape(model), escape(split), *(cells.get((model, split, metric), "") for metric in metrics)]
        for model, split in dict.fromkeys((row.model, row.split) for row in record.rows)
    ]
    return _table(("model", "split", *map(escape, metrics)), lines, right=set(range(2, 2 + len(metrics))))


def _seeds(record: Record) -> str:
    rows = [
        [escape(row.model), escape(row.split), escape(row.metric), *(f"{value:.2f}" for value in row.values)]
        for row in record.rows
    ]
    head = ("model", "split", "metric", *(f"seed {escape(str(seed))}" for seed in record.seeds))
    return _table(head, rows, right=set(range(3, 3 + len(record.seeds))))


def _settings(config: dict[str, Any]) -> str:
    rows = [[escape(str(name)), f"<code>{escape(json.dumps(value))}</code>"] for name, value in config.items()]
    return _table(("field", "value"), rows, right=set())


def _bench(benchmark: Benchmark) -> str:
    columns = list(dict.fromkeys(key for row in benchmark.rows for key in row))
    numeric = {
        i for i, c in enumerate(columns) if all(_is_number(row.get(c)) or row.get(c) is None for row in benchmark.rows)
    }
    cells = [[_cell(row.get(column)) for column in columns] for row in benchmark.rows]
    bars = [
        (row["case"] + (f" ({row['peer']})" if row.get("peer") else ""), float(row["ratio"]))
        for row in benchmark.rows
        if _is_number(row.get("ratio")) and row["ratio"] > 0
    ]
    parts = [
        f"<section><h2>Benchmark: {escape(benchmark.name)}</h2>",
        _table([escape(column.replace("_", " ")) for column in columns], cells, right=numeric),
    ]
    if bars:
        parts += ["<h3>Time of the alternative over ours (more is better for us)</h3>", svg.ratios(bars)]
    parts.append(
        f"<dl><dt>command</dt><dd><pre>{escape(benchmark.command)}</pre></dd><dt>hardware</dt>"
        f"<dd>{escape(benchmark.hardware)}</dd><dt>versions</dt><dd>{escape(_words(benchmark.versions))}</dd></dl></section>"
    )
    return "\n".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return escape(f"{value:,}" if isinstance(value, int) else str(value))


def _words(table: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items())


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], right: set[int]) -> str:
    """An HTML table; the cells are HTML already."""

    def line(cells: Iterable[str], tag: str) -> str:
        marked = (f"<{tag}{' class=right' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
