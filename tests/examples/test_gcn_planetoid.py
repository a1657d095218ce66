"""The script examples/gcn_planetoid.py runs and says what it found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "gcn_planetoid.py"


def test_gcn_planetoid() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--fast", "--device", "cpu"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"digits: test accuracy \d+\.\d\d % at the best validation accuracy \d+\.\d\d %", lines[-1])
