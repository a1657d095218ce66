"""``graphkit bench``: lists and runs the benchmarks, which are scripts of the repository."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def benchmarks(folder: Path | None = None) -> dict[str, str]:
    """Name and first docstring line of every benchmark: of each script that does something when it is run.

    Args:
        folder: folder of the scripts; ``scripts/bench`` of the checkout if None.

    Raises:
        FileNotFoundError: the folder is not there, as in an installed package.
    """
    place = FOLDER if folder is None else folder
    if not place.is_dir():
        raise FileNotFoundError(
            "the benchmarks live in GraphKit's repository, not in the installed package: clone it and run "
            "`graphkit bench` from its own environment (pip install -e .)"
        )
    found = {}
    for path in sorted(place.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "__main__" in text:  # the others are shared by the benchmarks
            found[path.stem] = _first_line(text)
    return found


def _first_line(text: str) -> str:
    try:
        lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    except SyntaxError:
        return "(does not parse)"
    return lines[0] if lines else ""


def run_bench(words: list[str], folder: Path | None = None) -> None:
    """List the benchmarks, or run one in a process of its own.

    Args:
        words: nothing or ``--help`` for the list; else a benchmark's name and the arguments to pass on.
        folder: folder of the scripts; ``scripts/bench`` of the checkout if None.

    Raises:
        ValueError: no benchmark has this name; the message suggests the nearest.
        FileNotFoundError: there is no checkout.
        SystemExit: with the benchmark's exit status, if that is not 0.
    """
    words = [word for word in words if word != "--debug"] if len(words) < 2 else words
    if words and words[0] in ("-h", "--help"):
        print("usage: graphkit bench [NAME [ARGUMENTS ...]]\n")
        words = []
    place = FOLDER if folder is None else folder
    found = benchmarks(place)
    if not words:
        if not found:
            print(f"No benchmarks in {place}.")
            return
        width = max(map(len, found))
        for name, line in found.items():
            print(f"{name:<{width}}  {line}")
        print("\nRun one:  graphkit bench NAME            its arguments:  graphkit bench NAME --help")
        return
    if words[0] not in found:
        from graphkit.utils.checks import check_choice

        check_choice(words[0], "NAME", list(found))
    sys.stdout.flush()
    status = subprocess.run([sys.executable, str(place / f"{words[0]}.py"), *words[1:]], check=False).returncode
    if status:
        raise SystemExit(status if status > 0 else 128 - status)
