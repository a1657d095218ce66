"""What a leaderboard asks for, from a result record: test and validation, parameters, hardware, command.

python scripts/ogb/summary.py runs/ogb/ncnc/ogbl-ddi.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from graphkit.bench.catalog import papers
from graphkit.bench.records import Record, Row

SEEDS = 10


def reservations(record: Record, seeds: int = SEEDS) -> list[str]:
    """Why the record should not be submitted as it is; empty if nothing speaks against it."""
    found = []
    if record.fast:
        found.append("it is a smoke run (--fast)")
    if len(record.seeds) < seeds:
        found.append(f"it has {len(record.seeds)} of {seeds} seeds")
    if not record.commit:
        found.append("the commit of the code is not known; run it from a git checkout")
    elif record.commit.endswith("+changes"):
        found.append("the code had changes that are not committed, so nobody else can run it")
    return found


def summary(record: Record, seeds: int = SEEDS, metric: str | None = None) -> str:
    """The record in plain text, a block a model; ``metric`` is what the leaderboard ranks by, if not the monitor."""
    metric = metric or record.monitor
    paper = next((paper for paper in papers() if paper.key == record.key), None)
    rows = {(row.model, row.split): row for row in record.rows if row.metric == metric}
    if not rows:
        raise ValueError(f"{record.key} on {record.dataset} has no {metric}")
    lines = [f"{record.key} on {record.dataset}: {metric} in percent, mean ± std (n - 1)", ""]
    for model in dict.fromkeys(row.model for row in record.rows):
        test, valid = rows[model, "test"], rows[model, "valid"]
        lines += [
            f"method       {model}",
            f"test         {_figure(test)}",
            f"validation   {_figure(valid)}",
            f"parameters   {test.parameters:,}",
            f"seconds      {test.seconds:,.0f} a seed" + (f", {test.peak_mb:,.0f} MiB" if test.peak_mb else ""),
            f"test values  {' '.join(f'{value:.2f}' for value in test.values)}",
        ]
        if test.reported:
            lines.append(f"in the paper {_reported(test.reported)}")
        lines.append("")
    packages = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    lines += [
        f"seeds        {' '.join(map(str, record.seeds))}",
        f"chosen by    best validation {record.monitor} of each seed",
        f"hardware     {record.hardware}",
        f"software     {packages}",
        f"code         commit {record.commit or 'unknown'}",
        f"command      {record.command}",
    ]
    if paper is not None and paper.link:
        lines.append(f"paper        {paper.title}, {paper.link}")
    if record.note:
        lines.append(f"note         {record.note}")
    against = reservations(record, seeds)
    if against:
        lines += ["", f"Not to be submitted: {'; '.join(against)}."]
    return "\n".join(lines)


def _figure(row: Row) -> str:
    return f"{row.mean:.2f} ± {row.std:.2f}" if len(row.values) > 1 else f"{row.mean:.2f} (one seed)"


def _reported(figure: dict) -> str:
    return f"{figure['mean']:.2f}" + (f" ± {figure['std']:.2f}" if figure["std"] is not None else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="+", help="result record(s) of `graphkit run`")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds that the leaderboard asks for")
    parser.add_argument("--metric", help="metric that the leaderboard ranks by; what chose the epoch if not given")
    options = parser.parse_args()
    try:
        blocks = [summary(Record.load(path), options.seeds, options.metric) for path in options.record]
    except (OSError, ValueError) as error:
        print(f"summary.py: error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
