"""The example that shows users the suite runs and says what it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_layer_checks.py"


def test_custom_layer_checks(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    good, batch, isolated = capsys.readouterr().out.splitlines()
    assert good.startswith("NeighborContrast passes 25 checks: shape, dtype, permutation")
    assert batch.startswith("CenteredContrast fails the check 'separate_graphs': the output is off by")
    assert isolated.startswith("InverseDegreeSum fails the check 'isolated_nodes'")
