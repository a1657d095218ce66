"""Named datasets: what there is, what is on disk, and ``load``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphkit.datasets.dataset import Dataset, DatasetInfo
from graphkit.datasets.pyg import read_pyg
from graphkit.datasets.splits import mask_split
from graphkit.utils.checks import nearest
from graphkit.utils.io import data_root

Loader = Callable[[DatasetInfo, Path], Dataset]
# By lower-case name.
ENTRIES: dict[str, tuple[DatasetInfo, Loader]] = {}


def load(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """Load a dataset by name.

    Args:
        name: As :func:`available` lists it; upper and lower case do not matter.
        root: Folder of the raw files; default ``$GRAPHKIT_ROOT``, else ``~/.cache/graphkit``. It may be read-only:
            what is derived from the files goes to ``$GRAPHKIT_CACHE``.

    Raises:
        ValueError: no dataset has this name; the message suggests the nearest.
        FileNotFoundError: the files are not there and cannot be downloaded.

    Example:
        >>> split = load("pyimports").split(seed=0)
    """
    facts, loader = _entry(name)
    return loader(facts, data_root(root))


def available(root: str | os.PathLike | None = None) -> list[tuple[DatasetInfo, bool]]:
    """Every dataset with its facts, and whether its files are on disk."""
    folder = data_root(root)
    return [(facts, _on_disk(facts, folder)) for facts, _ in ENTRIES.values()]


def info(name: str) -> DatasetInfo:
    """Facts about a dataset, without reading it."""
    return _entry(name)[0]


def _entry(name: str) -> tuple[DatasetInfo, Loader]:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string (got {type(name).__name__})")
    if name.lower() not in ENTRIES:
        names = [facts.name for facts, _ in ENTRIES.values()]
        raise ValueError(
            f"name must be one of {len(names)} datasets, see available() (got {name!r}){nearest(name, names)}"
        )
    return ENTRIES[name.lower()]


def _on_disk(facts: DatasetInfo, root: Path) -> bool:
    if not facts.folder:
        return True
    folder = root / facts.folder
    if folder.is_file():
        return True
    raw = folder / "raw"
    return raw.is_dir() and any(raw.iterdir())


def _register(loader: Loader, **facts: Any) -> None:
    entry = DatasetInfo(**facts)
    ENTRIES[entry.name.lower()] = (entry, loader)


# Shipped with the package --------------------------------------------------------------------------------------------


def _shipped(facts: DatasetInfo, root: Path) -> Dataset:
    module = importlib.import_module("graphkit.datasets.shipped")
    return Dataset(facts, data=getattr(module, facts.name)())


_register(
    _shipped, name="pyimports", nodes=0, edges=0, features=0, classes=0, graphs=1,
    metric="hits@100", protocols=("link",), licence="", source="", origin="shipped",
)  # fmt: skip


# PyG -----------------------------------------------------------------------------------------------------------------


def _pyg(class_name: str, **options: Any) -> Loader:
    def loader(facts: DatasetInfo, root: Path) -> Dataset:
        graphs = read_pyg(class_name, facts.folder, root, facts.name, **options)
        return Dataset(facts, data=graphs[0]) if facts.graphs == 1 else Dataset(facts, graphs=graphs)

    return loader


def _planetoid(facts: DatasetInfo, root: Path) -> Dataset:
    dataset = _pyg("Planetoid", name=facts.name)(facts, root)

    def geom_gcn(seed: int) -> Any:
        folder = f"{facts.folder}/geom-gcn"
        return mask_split(read_pyg("Planetoid", folder, root, facts.name, name=facts.name, split="geom-gcn")[0], seed)

    dataset.splitters["geom-gcn"] = geom_gcn
    return dataset


for _name, _nodes, _edges, _features, _classes in (
    ("Cora", 2708, 5278, 1433, 7),
    ("CiteSeer", 3327, 4552, 3703, 6),
    ("PubMed", 19717, 44324, 500, 3),
):
    _register(
        _planetoid, name=_name, nodes=_nodes, edges=_edges, features=_features, classes=_classes, graphs=1,
        metric="hits@100", protocols=("link", "public", "geom-gcn", "per-class", "random"), licence="MIT",
        source="kimiyoung/planetoid", origin="pyg", folder=f"planetoid/{_name}",
    )  # fmt: skip
