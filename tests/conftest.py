"""What every test shares: a cache of its own, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Caches go to a folder of this run, never to the user's."""
    before = os.environ.get("GRAPHKIT_CACHE")
    os.environ["GRAPHKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("GRAPHKIT_CACHE")
    if before is not None:
        os.environ["GRAPHKIT_CACHE"] = before


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real datasets: ``$GRAPHKIT_ROOT``, else ``../shared/data`` beside the checkout; skips if absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("GRAPHKIT_ROOT") or beside)
    if not (root / "planetoid").is_dir() and not (root / "ogb").is_dir():
        pytest.skip("no real data: set GRAPHKIT_ROOT")
    return root


@pytest.fixture(scope="session")
def needs(data_root):
    """``needs("ogb/ogbl_ddi")``: the folder of real data, if it holds this part; skips otherwise."""

    def root_with(part: str) -> Path:
        if not (data_root / part).exists():
            pytest.skip(f"{part} is not among the real data under {data_root}")
        return data_root

    return root_with
