"""The command line: graphkit run | papers | datasets | bench | report."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Annotated, Any

USAGE = """\
usage: graphkit COMMAND ...

  run KEY        train a recipe's models and write table, record and plot
  papers         list the systems in scope and what stands of each
  datasets       list the datasets and which are on disk
  bench [NAME]   measure a kernel or model against its best alternative
  report         make one HTML page of all result records

Each command explains itself:  graphkit run ncnc --help
First steps:                   graphkit run ncnc            (a shipped graph, no network)
                               graphkit run ncnc --dataset Cora --runs 10
"""

# What a user can cause; anything else is a defect of ours and shows its traceback.
EXPECTED = (ValueError, TypeError, IndexError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 after an error the user can mend)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "run": _run,
        "papers": _papers,
        "datasets": _datasets,
        "bench": _bench,
        "report": _report,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from graphkit import __version__

        print(f"graphkit {__version__}")
        return 0
    try:
        from graphkit.utils.checks import check_choice

        commands[check_choice(words[0], "the command", list(commands))](words[1:])
    except EXPECTED as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"graphkit: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("graphkit: interrupted; add --resume to go on from the last whole epoch", file=sys.stderr)
        return 130
    return 0


def _parse(made: type, program: str, description: str, words: list[str]) -> Any:
    import tyro

    return tyro.cli(made, prog=program, description=description, args=words)


def _run(words: list[str]) -> None:
    from graphkit.recipes import get_recipe, recipe_keys

    if not words or words[0].startswith("-"):
        print("usage: graphkit run KEY [--dataset NAME] [--runs K] ...\n\nKEY is one of: " + ", ".join(recipe_keys()))
        return
    import tyro

    from graphkit.bench.runner import RunOptions, run

    recipe = get_recipe(words[0])
    # The dataset decides the defaults of all other flags, so it is looked up before they are parsed.
    dataset = next((b for a, b in zip(words, words[1:], strict=False) if a == "--dataset"), None)
    dataset = next((w.split("=", 1)[1] for w in words if w.startswith("--dataset=")), dataset)
    config = recipe.defaults(dataset, fast="--fast" in words)
    flat = Annotated[RunOptions, tyro.conf.arg(name="")], Annotated[recipe.config, tyro.conf.arg(name="")]
    fields = [
        ("options", flat[0], field(default_factory=RunOptions)),
        ("config", flat[1], field(default_factory=lambda: config)),
    ]
    made = make_dataclass("Run", fields)
    parsed = _parse(made, f"graphkit run {recipe.key}", f"{recipe.build.__module__}: {recipe.protocol}", words[1:])
    run(recipe, replace(parsed.config, dataset=config.dataset), parsed.options)


@dataclass
class PapersOptions:
    """List the systems in scope."""

    results: bool = False
    """Show our test figures beside the papers'."""
    folder: str = "results"
    """Folder of the result records."""
    status: str | None = None
    """Only systems of this status: done, started or planned."""
    debug: bool = False
    """Show the traceback of an error."""


def _papers(words: list[str]) -> None:
    from graphkit.bench.catalog import print_papers

    options = _parse(PapersOptions, "graphkit papers", "The systems in scope and what stands of each.", words)
    print_papers(options.results, options.folder, options.status)


@dataclass
class DatasetsOptions:
    """List the datasets."""

    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    debug: bool = False
    """Show the traceback of an error."""


def _datasets(words: list[str]) -> None:
    from graphkit.bench.catalog import print_datasets

    options = _parse(DatasetsOptions, "graphkit datasets", "The datasets and whether they are on disk.", words)
    print_datasets(options.root)


def _bench(words: list[str]) -> None:
    from graphkit.bench.scripts import run_bench

    run_bench(words)


@dataclass
class ReportOptions:
    """Make one self-contained HTML page of all result records."""

    results: str = "results"
    """Folder of the result records."""
    out: str = "report.html"
    """The page."""
    debug: bool = False
    """Show the traceback of an error."""


def _report(words: list[str]) -> None:
    from graphkit.bench.report import write_report

    options = _parse(ReportOptions, "graphkit report", "One page of all results.", words)
    print(write_report(options.results, options.out))


if __name__ == "__main__":
    sys.exit(main())
