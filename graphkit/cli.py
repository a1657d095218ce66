"""The command line: graphkit run | papers | datasets | advise | bench | report."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from graphkit.recipes import Recipe

USAGE = """\
usage: graphkit COMMAND ...

  run KEY        train a recipe's models and write table, record and plot
  papers [KEY]   list the systems in scope and what stands of each
  datasets       list the datasets and which are on disk
  advise         say whether pre-training on some datasets can help on another
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
        "advise": _advise,
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
        if words[0] not in commands:
            from graphkit.utils.checks import check_choice

            check_choice(words[0], "COMMAND", list(commands))
        commands[words[0]](words[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Without this, Python complains once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except EXPECTED as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"graphkit: error: {_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("graphkit: interrupted; add --resume to go on from the last whole epoch", file=sys.stderr)
        return 130
    return 0


def _text(error: BaseException) -> str:
    """The error's message; of one of the system without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def _parse(made: type, program: str, description: str, words: list[str]) -> Any:
    return tyro.cli(made, prog=program, description=description, args=words)


def _run(words: list[str]) -> None:
    from graphkit.recipes import get_recipe, recipe_keys

    if not words or words[0].startswith("-"):
        print("usage: graphkit run KEY [--dataset NAME] [--runs K] ...\n\nKEY is one of: " + ", ".join(recipe_keys()))
        print("Each explains itself:  graphkit run " + recipe_keys()[0] + " --help")
        return
    from graphkit.bench.runner import run

    recipe = get_recipe(words[0])
    # The dataset decides the defaults of all other flags, so it is looked up before they are parsed.
    dataset = next((b for a, b in pairwise(words) if a == "--dataset"), None)
    dataset = next((w.split("=", 1)[1] for w in words if w.startswith("--dataset=")), dataset)
    config = recipe.defaults(dataset, fast="--fast" in words)
    parsed = _parse(_run_form(recipe, config), f"graphkit run {recipe.key}", _run_help(recipe, config), words[1:])
    values = {f.name: getattr(parsed.hyperparameter, f.name) for f in fields(recipe.config)}
    values |= {name: getattr(parsed, name) for name in ("dataset", "root") if name in values}
    values["dataset"] = config.dataset  # as the registry spells it
    options = replace(parsed.run, models=parsed.run.models or recipe.models_for(config.dataset))
    run(recipe, recipe.config(**values), options, command=shlex.join(["graphkit", "run", *words]))


def _run_form(recipe: Recipe, config: Any) -> type:
    """The flags of a run in the order of the help: the data, how to run, then the hyperparameters."""
    from graphkit.bench.runner import RunOptions

    data = {
        "dataset": (str, tyro.conf.arg(metavar="NAME", help="`graphkit datasets` lists them.")),
        "root": (
            str | None,
            tyro.conf.arg(metavar="FOLDER", help="Folder of the datasets; $GRAPHKIT_ROOT if not given."),
        ),
    }
    data = {name: entry for name, entry in data.items() if hasattr(config, name)}
    # The recipe's config without these, as a subclass, so that tyro still finds the help in its docstrings.
    content: dict[str, Any] = {name: getattr(config, name) for name in data}
    content["__annotations__"] = {name: Annotated[Any, tyro.conf.Suppress] for name in data}
    content["__doc__"] = f"The defaults are those of {config.dataset}."
    shown: Any = dataclass(frozen=True)(type("Hyperparameters", (recipe.config,), content))
    given = shown(**{f.name: getattr(config, f.name) for f in fields(recipe.config)})
    options: Any = Annotated[RunOptions, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
    hyperparameters: Any = Annotated[shown, tyro.conf.OmitArgPrefixes]
    return make_dataclass(
        "Run",
        [
            *(
                (name, Annotated[kind, help], field(default=getattr(config, name)))
                for name, (kind, help) in data.items()
            ),
            ("run", options, field(default_factory=RunOptions)),
            ("hyperparameter", hyperparameters, field(default_factory=lambda: given)),
        ],
    )


def _run_help(recipe: Recipe, config: Any) -> str:
    from graphkit.bench.catalog import papers

    title = next((paper.title for paper in papers() if paper.recipe == recipe.key), recipe.build.__module__)
    tuned = ", ".join(recipe.settings)
    return "\n\n".join(
        [
            title + ".",
            f"Models: {', '.join(recipe.models_for(config.dataset))}.",
            f"Protocol: {recipe.describe(config)}.",
            f"Datasets with settings of their own: {tuned}. Others take the recipe's defaults.",
            f"Writes FOLDER/{recipe.key}/{config.dataset}.json (the record) and a plot beside it; see --out.",
        ]
    )


@dataclass
class PapersOptions:
    """List the systems in scope."""

    key: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="KEY")] = None
    """One system, in full."""
    results: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show our test figures beside the papers'."""
    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "results"
    """Folder of the result records."""
    status: Annotated[str | None, tyro.conf.arg(metavar="STATUS")] = None
    """Only systems of this status: done, started or planned."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


def _papers(words: list[str]) -> None:
    from graphkit.bench.catalog import print_papers

    options = _parse(PapersOptions, "graphkit papers", "The systems in scope and what stands of each.", words)
    print_papers(options.results, options.folder, options.status, options.key)


@dataclass
class DatasetsOptions:
    """List the datasets."""

    root: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


def _datasets(words: list[str]) -> None:
    from graphkit.bench.catalog import print_datasets

    options = _parse(DatasetsOptions, "graphkit datasets", "The datasets and whether they are on disk.", words)
    print_datasets(options.root)


@dataclass
class AdviseOptions:
    """Say whether pre-training on some datasets can help on another one, before training."""

    pretrain: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
    """Datasets to pre-train on; `graphkit datasets` lists them."""
    downstream: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """The dataset that pre-training is for."""
    root: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    graphs: int = 1000
    """Most graphs of each dataset; ego-nets of nodes drawn at random where it is one large graph."""
    num_hops: int = 2
    """How far ego-nets reach."""
    min_nodes: int = 16
    """Ego-nets of fewer nodes are left out: they are dense just because they are small."""
    max_nodes: int = 1000
    """Ego-nets of more nodes are left out."""
    resolution: int = 16
    """Squares a side of the graphons."""
    seed: int = 0
    """Which graphs are drawn."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "advise.png"
    """The plot: .png, .svg or .pdf."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


def _advise(words: list[str]) -> None:
    text = (
        "Feasibility of pre-training from W2PGNN: how well graphs like those of the datasets could have been the "
        "graphs of another one.\n\nExample: graphkit advise --pretrain pyimports --downstream digits"
    )
    options = _parse(AdviseOptions, "graphkit advise", text, words)
    from graphkit.bench.advise import advise

    advise(**{name: value for name, value in vars(options).items() if name != "debug"})


def _bench(words: list[str]) -> None:
    from graphkit.bench.scripts import run_bench

    run_bench(words)


@dataclass
class ReportOptions:
    """Make one self-contained HTML page of all result records."""

    results: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "results"
    """Folder of the result records."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "report.html"
    """The page."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


def _report(words: list[str]) -> None:
    from graphkit.bench.report import write_report

    options = _parse(ReportOptions, "graphkit report", "One page of all results.", words)
    print(write_report(options.results, options.out))


if __name__ == "__main__":
    sys.exit(main())
