"""``graphkit bench`` finds, describes and runs the scripts of a checkout."""

from __future__ import annotations

import pytest

from graphkit.bench.scripts import FOLDER, benchmarks, run_bench

SCRIPT = '''"""Measures nothing.

More of it.
"""
import sys

if __name__ == "__main__":
    open(sys.argv[1], "w").write(" ".join(sys.argv[2:]))
    sys.exit(int(sys.argv[2]))
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "spmm.py").write_text(SCRIPT)
    (tmp_path / "harness.py").write_text('"""Shared."""\n')
    return tmp_path


def test_list(folder, capsys):
    assert benchmarks(folder) == {"spmm": "Measures nothing."}
    run_bench([], folder)
    out = capsys.readouterr().out
    assert "spmm  Measures nothing." in out
    assert "harness" not in out


def test_every_benchmark_of_the_checkout_says_what_it_measures():
    if not FOLDER.is_dir():
        pytest.skip("no checkout")
    found = benchmarks()
    assert found
    assert all(found.values())


def test_run_passes_arguments_on(folder):
    run_bench(["spmm", str(folder / "out"), "0", "--repeats", "3", "--help"], folder)
    assert (folder / "out").read_text() == "0 --repeats 3 --help"


def test_run_passes_the_status_on(folder):
    with pytest.raises(SystemExit) as info:
        run_bench(["spmm", str(folder / "out"), "7"], folder)
    assert info.value.code == 7


def test_unknown_name(folder):
    with pytest.raises(ValueError, match="did you mean 'spmm'"):
        run_bench(["spm"], folder)
    with pytest.raises(ValueError, match="harness"):
        run_bench(["harness"], folder)


def test_outside_of_a_checkout(tmp_path):
    with pytest.raises(FileNotFoundError, match="repository"):
        run_bench([], tmp_path / "none")
