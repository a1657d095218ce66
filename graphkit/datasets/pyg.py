"""PyG's datasets from a folder that may be read-only, without network and without unsafe pickles.

PyG's own classes read the raw files; only where they write (to our cache), how they download (whole or not at all, and
without hanging) and the reader of pickled files are replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_geometric.datasets
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.utils import to_undirected

from graphkit.datasets.cache import cached
from graphkit.datasets.cpf import CPF
from graphkit.datasets.npz import NpzDataset
from graphkit.datasets.planetoid import read_planetoid


class Graphs(InMemoryDataset):
    """Many graphs in memory, or one: a PyG dataset around tensors that are already there."""

    def __init__(self, data: Data, slices: dict[str, torch.Tensor] | None, name: str = "") -> None:
        super().__init__()
        self._data, self.slices, self.name = data, slices, name

    def __repr__(self) -> str:
        return f"{self.name or type(self).__name__}({len(self)})"


def read_pyg(class_name: str, folder: str, root: Path, label: str, /, **options: Any) -> Graphs:
    """A dataset of :mod:`torch_geometric.datasets` from ``root/folder``.

    Args:
        class_name: Class in :mod:`torch_geometric.datasets`, or one defined here.
        folder: The dataset's folder (or npz file) under ``root``, as PyG lays it out.
        root: Root folder, may be read-only if the raw files are there.
        label: The name that error messages show.
        options: Arguments of the class besides ``root``.

    Raises:
        FileNotFoundError: the files are not there and could not be downloaded.
    """
    base = OWN.get(class_name) or getattr(torch_geometric.datasets, class_name)
    if folder.endswith(".npz"):
        raw, class_root = root / folder, (root / folder).parent
    else:
        raw, class_root = root / folder / "raw", root / folder
        if "name" in options:  # Classes of many datasets add the name's folder themselves.
            class_root = class_root.parents[1] if options.get("split") == "geom-gcn" else class_root.parent

    def sources() -> list[Path]:
        files = [raw] if raw.is_file() else list(raw.rglob("*"))
        return [file for file in files if file.is_file() and not file.name.startswith(".")]

    def build() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            dataset = _reader(base, Path(scratch), label)(root=str(class_root), **options)
        return {"data": dataset._data.to_dict(), "slices": _plain(dataset.slices)}

    content = cached(folder, sources, build)
    return Graphs(Data.from_dict(content["data"]), content["slices"], label)


def _plain(slices: Any) -> dict[str, Any] | None:
    return None if slices is None else dict(slices)


def _reader(base: type, scratch: Path, name: str) -> type:
    """A subclass of PyG's class that writes nothing but to ``scratch``, and downloads whole or not at all."""

    class Reader(base):
        @property
        def processed_dir(self) -> str:
            return str(scratch)

        def _download(self) -> None:
            missing = [path for path in map(Path, self.raw_paths) if not path.exists()]
            if missing:
                _fetch(self, missing, name)

        def _process(self) -> None:
            self.log = False
            super()._process()

        def process(self) -> None:
            if base is torch_geometric.datasets.Planetoid:
                data = read_planetoid(Path(self.raw_dir), self.name)
                if self.split == "geom-gcn":
                    masks = _geom_gcn_masks(Path(self.raw_dir), self.name)
                    data.train_mask, data.val_mask, data.test_mask = masks
                self.save([data], self.processed_paths[0])
            else:
                super().process()

        # Processed data goes from one to the other in memory: what is kept on disk is for cached() to say.
        @classmethod
        def save(cls, data_list: Any, path: str) -> None:
            cls._kept = cls.collate(data_list)

        def load(self, path: str, data_cls: type = Data) -> None:
            self._data, self.slices = self._kept

    Reader.__name__ = base.__name__
    return Reader


def _geom_gcn_masks(folder: Path, name: str) -> list[torch.Tensor]:
    files = [np.load(folder / f"{name.lower()}_split_0.6_0.2_{i}.npz") for i in range(10)]
    return [
        torch.stack([torch.from_numpy(f[key]).bool() for f in files], dim=1)
        for key in ("train_mask", "val_mask", "test_mask")
    ]


# Downloads -----------------------------------------------------------------------------------------------------------


def _fetch(dataset: Any, missing: list[Path], name: str) -> None:
    """Download to a folder beside the target and move the files only when all are there."""
    target, raw = Path(dataset.root), Path(dataset.raw_dir)
    scratch = None
    try:
        with fail_fast(getattr(dataset, "url", "https://drive.usercontent.google.com")):
            target.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=target, prefix=".download-"))
            dataset.root = str(scratch)
            os.makedirs(dataset.raw_dir, exist_ok=True)
            dataset.download()
        got = Path(dataset.raw_dir)
        absent = [path for path in missing if not (got / path.relative_to(raw)).is_file()]
        if absent:
            raise FileNotFoundError(f"{absent[0].name} is not in the download")
        for file in [file for file in got.rglob("*") if file.is_file()]:
            place = raw / file.relative_to(got)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    except Exception as error:
        raise missing_files(name, missing, str(error).splitlines()[0] if str(error) else repr(error)) from error
    finally:
        dataset.root = str(target)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def fail_fast(url: str, seconds: float = 5.0) -> Iterator[None]:
    """Raise OSError within seconds if the host of ``url`` (or the proxy to it) cannot be reached, and let no read
    inside the block wait for more than a minute."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except OSError as error:
        raise OSError(f"no connection to {parts.hostname}: {error}") from error
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def missing_files(name: str, missing: list[Path], reason: str) -> FileNotFoundError:
    """The error for raw files that are not there: what, where, why, and what to do."""
    more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
    return FileNotFoundError(
        f"{name}: {missing[0]}{more} not found, and the download failed ({reason}). Put the raw files there, or name "
        "the folder that holds them with --root (root=...) or GRAPHKIT_ROOT"
    )


# A format that PyG has no class for ----------------------------------------------------------------------------------


class HeterophilousNpz(NpzDataset):
    """Filtered Chameleon and its companions in the npz form of `"A Critical Look at the Evaluation of GNNs under
    Heterophily" <https://arxiv.org/abs/2302.11640>`_, whose duplicates-free graphs PyG has no class for."""

    url = "https://github.com/yandex-research/heterophilous-graphs/raw/main/data"

    def process(self) -> None:
        with np.load(self.raw_paths[0]) as raw:
            arrays = {key: torch.from_numpy(raw[key]) for key in raw.files}
        x = arrays["node_features"].float()
        edge_index = arrays["edges"].t().contiguous()
        masks = {f"{part}_mask": arrays[f"{part}_masks"].t().contiguous().bool() for part in ("train", "val", "test")}
        edge_index = to_undirected(edge_index, num_nodes=x.size(0))
        self.save([Data(x=x, edge_index=edge_index, y=arrays["node_labels"], **masks)], self.processed_paths[0])


OWN: dict[str, type] = {"CPF": CPF, "HeterophilousNpz": HeterophilousNpz}
