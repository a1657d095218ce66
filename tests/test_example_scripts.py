"""Every script of examples/ runs with --fast. Those with a test of their own are left to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
TESTED = {
    "gcn_planetoid.py": "examples/test_gcn_planetoid.py",
    "custom_layer_checks.py": "testing/test_examples.py",
}
# What they need of the real data.
DATA = {"ogbl_ddi.py": "ogb/ogbl_ddi"}
LAST_LINE = {
    "when_to_pretrain.py": "a graph from it: Data(",
    "ncnc.py": "pyimports: test Hits@100 ",
    "ogbl_ddi.py": "ogbl-ddi: test Hits@20 of a part of the links ",
    "low_precision_gnn.py": "digits: ",
    "neighbor_loader.py": "test accuracy at the best validation: ",
    "nat.py": "nycflights: test AP ",
    "tgn_pres.py": "TGN+PRES     800 ",
    "edgebank.py": "Common neighbours ",
    "own_stream_from_csv.py": "5. ",
    "vqgraph.py": "digits: test accuracy of the student ",
    "compress.py": "digits: ",
    "forward_gnn.py": "digits: test accuracy ",
    "lagnn.py": "digits: test accuracy ",
    "stable.py": "pyimports: test accuracy ",
    "graph_mamba.py": "digits: test accuracy ",
    "spikegpt_chars.py": "SpikeGPT: test ",
    "forecast_etth1.py": "nycflights-hourly: test MSE ",
    "image_tokens.py": "ViG: ",
    "denoise_grids.py": "MAXIM: ",
    "function_fitting.py": "fitted: fit-exp, fit-product, fit-wave",
}
EXAMPLES = sorted(path.name for path in (HOME / "examples").glob("*.py"))


def run(name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HOME / "examples" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_the_tests_of_their_own_are_there():
    for name, place in TESTED.items():
        assert name in (HOME / "tests" / place).read_text()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in TESTED])
def test_runs(name, request, tmp_path):
    root = []
    if name in DATA:
        root = ["--root", str(request.getfixturevalue("needs")(DATA[name]))]
    done = run(name, "--fast", *root, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(LAST_LINE.get(name, ""))


@pytest.mark.parametrize("name", EXAMPLES)
def test_is_short_and_says_what_it_is(name):
    text = (HOME / "examples" / name).read_text()
    assert len(text.splitlines()) <= 120
    assert text.startswith('"""')
    assert f"python examples/{name}" in text.split('"""')[1]


def test_ddi_without_data(tmp_path):
    """No traceback and no other data instead: what is missing and what to do."""
    (tmp_path / "no-folder").write_text("")  # nothing can be downloaded into a file
    done = run("ogbl_ddi.py", "--fast", "--root", str(tmp_path / "no-folder"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "ogbl_ddi/raw/edge.csv.gz" in done.stderr
    assert "GRAPHKIT_ROOT" in done.stderr
