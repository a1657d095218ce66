"""What README.md and docs/ say is so: commands parse, code runs, links lead somewhere, tables are of the records."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from graphkit import cli
from graphkit.bench.records import Record, Row
from graphkit.bench.scripts import benchmarks

HOME = Path(__file__).parents[1]
PAGES = [
    HOME / "README.md",
    HOME / "CONTRIBUTING.md",
    HOME / "CHANGELOG.md",
    *sorted(path for path in (HOME / "docs").rglob("*.md") if "_build" not in path.parts),
]
NAMES = [str(path.relative_to(HOME)) for path in PAGES]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, HOME / "scripts" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return script("readme_tables.py")


# Commands ------------------------------------------------------------------------------------------------------------

COMMANDS = sorted(
    {
        line.strip()
        for path in PAGES
        for block in blocks(path, "bash")
        for line in block.splitlines()
        if shlex.split(line, comments=True)
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, monkeypatch, capsys):
    words = shlex.split(line, comments=True)
    program, rest = words[0], words[1:]
    if program == "torchrun":
        program, rest = "graphkit", rest[rest.index("graphkit.cli") + 1 :]
    if program == "pip":
        _check_pip(rest)
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1].split(".")[0]) or rest[1] == "sphinx"
    elif program == "python":
        _check_options(rest, (HOME / rest[0]).read_text())
    elif program == "graphkit":
        _check_graphkit(rest, monkeypatch)
    else:
        assert program.startswith("./")
        assert (HOME / program).stat().st_mode & 0o111, f"{program} cannot be run"
        if program == "./scripts/run":
            _check_graphkit(["run", *(rest or ["ncnc"])], monkeypatch)
        elif program.startswith("./scripts/ogb/"):
            _check_graphkit(["run", "ncnc", "--dataset", f"ogbl-{Path(program).stem}", *rest], monkeypatch)
        elif program == "./scripts/test":
            assert all((HOME / word).exists() for word in rest if word.startswith("tests/"))


def _check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    if "-c" in words:
        assert (HOME / words[words.index("-c") + 1]).is_file()
    setup = ConfigParser()
    setup.read(HOME / "setup.cfg")
    extras = re.findall(r"\[(.*)\]", words[-1])
    assert all(extra in setup["options.extras_require"] for part in extras for extra in part.split(","))


def _check_options(words: list[str], source: str) -> None:
    for word in words:
        if word.startswith("--") and word != "--help":
            assert f'"{word}"' in source, f"{words[0]} has no {word}"


def _check_graphkit(words: list[str], monkeypatch) -> None:
    """Parse as the command line does; the work itself is left out."""
    called = []
    for place in (
        *("runner.run", "catalog.print_papers", "catalog.print_datasets", "report.write_report"),
        "advise.advise",
    ):
        monkeypatch.setattr(f"graphkit.bench.{place}", lambda *values, **named: called.append(values))
    if words[0] == "bench":
        if len(words) > 1:
            assert words[1] in benchmarks()
            text = "".join((HOME / "scripts" / "bench" / f"{name}.py").read_text() for name in (words[1], "harness"))
            _check_options(words[1:], text)
        return
    if words[-1] in ("--help", "--version"):
        with pytest.raises(SystemExit) if words[0] == "run" else nullcontext():
            cli.main(words)
        return
    assert cli.main(words) == 0
    assert called


# Code ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(HOME / name, "python")])
def test_code_runs(name, monkeypatch, tmp_path, capsys):
    module = ModuleType("a_page_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # so that its classes can be pickled
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(HOME / name, "python")):
        exec(compile(block, f"{name}, block {number}", "exec", dont_inherit=True), module.__dict__)


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(HOME / name, "py")])
def test_code_compiles(name):
    for block in blocks(HOME / name, "py"):
        compile(block, name, "exec")


# Links and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    text = re.sub(r"^```.*?^```$", "", (HOME / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://", "#")):
            assert (HOME / name).parent.joinpath(target.split("#")[0]).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    """What {class}`...` and the like name is there: Sphinx is silent about names that it does not find."""
    for target in re.findall(r"\{(?:class|func|meth|mod|data)\}`~?([\w.]+)`", (HOME / name).read_text()):
        parts = target.split(".")
        found, depth = importlib.import_module(parts[0]), 1
        for part in parts[1:]:
            depth += 1
            if not hasattr(found, part):
                importlib.import_module(".".join(parts[:depth]))
            found = getattr(found, part)


def test_changelog_has_the_version():
    from graphkit import __version__

    assert f"## [{__version__}]" in (HOME / "CHANGELOG.md").read_text()


def test_extras_are_named():
    setup = ConfigParser()
    setup.read(HOME / "setup.cfg")
    text = (HOME / "README.md").read_text()
    assert all(f"`{extra}`" in text for extra in setup["options.extras_require"])


def test_number_of_papers():
    rows = tomllib.loads((HOME / "graphkit" / "papers.toml").read_text())["paper"]
    assert f"the {len(rows)} papers in scope" in (HOME / "README.md").read_text()


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tables_say_what_the_records_say(name, tables):
    text = (HOME / name).read_text()
    if "<!-- end -->" in text:
        assert tables.render(text, HOME / "results") == text, "run scripts/readme_tables.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    reported = {"mean": 89.65, "std": 1.36, "source": "table 2"}
    rows = [
        Row("NCNC", "Hits@100", "test", [89.0, 90.0], reported, 58370, 12.5, 900.5),
        Row("NCNC", "Hits@100", "valid", [91.0, 92.0], None, 58370, 12.5, 900.5),
        Row("CN", "Hits@100", "test", [33.0, 34.0]),
    ]
    for dataset, fast in (("Cora", False), ("pyimports", False), ("digits", True)):
        Record(
            key="ncnc",
            dataset=dataset,
            protocol="random",
            command="graphkit run ncnc",
            rows=rows,
            seeds=[0, 1],
            config={},
            monitor="Hits@100",
            commit="0123456789ab",
            hardware="a processor",
            fast=fast,
        ).save(tmp_path)
    (tmp_path / "bench").mkdir()
    content = {
        "name": "spmm",
        "command": "python scripts/bench/spmm.py",
        "versions": {},
        "hardware": "a processor",
        "rows": [
            {"case": "forward", "peer": "a peer", "ratio": 2.54, "ours_peak_mb": 10.0, "peer_peak_mb": 40.0},
            {"case": "without a peer", "ours_ms": 3.0},
        ],
    }
    (tmp_path / "bench" / "spmm.json").write_text(json.dumps(content))
    return tmp_path


def made(tables: ModuleType, folder: Path, marker: str) -> list[str]:
    text = tables.render(f"before\n<!-- {marker} -->\nold\n<!-- end -->\nafter\n", folder)
    assert tables.render(text, folder) == text
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    return lines[3:-3]


def test_results_table(tables, folder):
    head, _, first, second, *_ = made(tables, folder, "results ncnc")
    # In the registry's order, and without the smoke run.
    assert head == "| model | pyimports<br>Hits@100 | Cora<br>Hits@100 |"
    assert first == "| NCNC | 89.50 ± 0.71 (89.65) | 89.50 ± 0.71 (89.65) |"
    assert second == "| CN | 33.50 ± 0.71 | 33.50 ± 0.71 |"


def test_details_table(tables, folder):
    lines = made(tables, folder, "details ncnc")
    assert "| NCNC | Hits@100 | 89.50 ± 0.71 | 89.65 ± 1.36 | -0.15 | 58,370 | 12.5 | 900 |" in lines
    assert "2 runs, a processor, commit `0123456789ab`: `graphkit run ncnc`." in lines


def test_bench_table(tables, folder):
    lines = made(tables, folder, "bench")
    assert "| forward | a peer | 2.5 | 4.0 |" in lines
    assert not any("without a peer" in line for line in lines)
    assert made(tables, folder, "bench other")[0].startswith("No records yet")


def test_tables_without_records(tables, tmp_path):
    for marker in ("results ncnc", "details ncnc", "bench"):
        (line,) = made(tables, tmp_path, marker)
        assert line.startswith("No records yet: `graphkit ")


def test_tables_of_the_code(tables, tmp_path):
    assert any(
        line.startswith("| pyimports | link, per-class, random |") for line in made(tables, tmp_path, "datasets")
    )
    assert any(line.startswith("| `link` | link | 70/10/20 %") for line in made(tables, tmp_path, "protocols"))
    assert any(line.startswith("| `ncnc` | [Neural Common") for line in made(tables, tmp_path, "papers"))


@pytest.mark.parametrize("text", ["<!-- result ncnc -->\n<!-- end -->\n", "<!-- bench -->\n"])
def test_misspelt_markers(tables, tmp_path, text):
    if "end" in text:
        with pytest.raises(ValueError, match="misspelt"):
            tables.render(text, tmp_path)
    else:
        with pytest.raises(ValueError, match="missing"):
            tables.render(text, tmp_path)


# Sphinx --------------------------------------------------------------------------------------------------------------


def test_build(tmp_path):
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason="the documentation needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "nn.html").is_file()
