"""OGB datasets read from their raw files: offline, from a read-only folder, without questions.

The ``ogb`` package looks for updates over the network when imported, asks on the terminal before it downloads, writes
beside the raw files and loads its own cache with an unsafe ``torch.load``. Here its evaluators and its list of datasets
are used as they are; the files are read by this module.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from graphkit.datasets.cache import cached
from graphkit.datasets.dataset import Dataset, DatasetInfo
from graphkit.datasets.pyg import Graphs, fail_fast, missing_files
from graphkit.datasets.splits import IndexSplit, LinkSplit, both_directions
from graphkit.datasets.unpickle import load_torch
from graphkit.utils.io import data_root

MODULES = {"ogbl": "linkproppred", "ogbn": "nodeproppred", "ogbg": "graphproppred"}
TASKS = {"ogbl": "ogb-link", "ogbn": "ogb-node", "ogbg": "ogb-graph"}


def load_ogb(
    name: str,
    root: str | os.PathLike | None = None,
    meta_dict: Mapping[str, Any] | None = None,
    info: DatasetInfo | None = None,
) -> Dataset:
    """Load an OGB dataset, or one written by ``ogb.io.DatasetSaver``.

    Args:
        name: ``ogbl-...``, ``ogbn-...`` or ``ogbg-...``.
        root: Root folder; the files lie in ``root/ogb/<name with underscores>`` as ``ogb`` lays them out.
        meta_dict: What ``DatasetSaver.get_meta_dict()`` returned, for a dataset that OGB does not list.
        info: Facts about the dataset; made from the data if None.

    Returns:
        A :class:`~graphkit.datasets.Dataset` whose data, labels (``y`` ``[num_nodes or num_graphs, num_tasks]``) and
        split equal those of the ``ogb`` package.

    Raises:
        ValueError: OGB lists no such dataset, it is of a kind that is not supported, or its files disagree.
        FileNotFoundError: the files are not there and cannot be downloaded.
    """
    kind = name.split("-")[0]
    if kind not in MODULES:
        raise ValueError(f"name must start with ogbl-, ogbn- or ogbg- (got {name!r})")
    meta = dict(meta_dict) if meta_dict is not None else _meta(name)
    if meta.get("is hetero") == "True" or meta["task type"] == "subtoken prediction":
        raise ValueError(f"{name} is not supported: only homogeneous graphs with numeric labels are")
    if meta_dict is not None:
        folder, where = Path(meta["dir_path"]), f"ogb/{Path(meta['dir_path']).name}"
    else:
        folder = ogb_folder(data_root(root), name)
        where = f"ogb/{folder.name}"
    wanted = _wanted(folder, kind, meta)
    if meta_dict is None and not all(path.exists() for path in wanted):
        _download(name, meta["url"], folder, [path for path in wanted if not path.exists()])

    def sources() -> list[Path]:
        return [path for part in ("raw", "split") for path in (folder / part).rglob("*") if path.is_file()]

    content = cached(where, sources, lambda: _read(folder, kind, meta))
    data, split = Data.from_dict(content["data"]), content["split"]
    facts = info or _facts(name, kind, meta, content)
    dataset = Dataset(facts, make_evaluator=None if meta_dict is not None else lambda: _evaluator(kind, name))
    if kind == "ogbg":
        dataset.graphs = Graphs(data, content["slices"], name)
    else:
        dataset.data = data
    dataset.splitters[TASKS[kind]] = _once(
        lambda: _link_split(name, data, split) if kind == "ogbl" else IndexSplit(**split)
    )
    return dataset


def ogb_folder(root: Path, name: str) -> Path:
    """Where ``ogb`` puts the dataset: with the ending ``_pyg`` if an early version of it made the folder."""
    folder = root / "ogb" / name.replace("-", "_")
    early = folder.with_name(f"{folder.name}_pyg")
    return early if early.exists() else folder


def _once(make: Callable[[], Any]) -> Callable[[int], Any]:
    """A splitter for a split that is the same for every seed, made when first asked for."""
    made: list[Any] = []

    def splitter(seed: int) -> Any:
        if not made:
            made.append(make())
        return made[0]

    return splitter


# The ogb package -----------------------------------------------------------------------------------------------------


def _meta(name: str) -> dict[str, Any]:
    """The row of a dataset in OGB's own list, read without importing ``ogb``."""
    import pandas

    package = importlib.util.find_spec("ogb")
    if package is None or not package.submodule_search_locations:
        raise ImportError("ogb is needed here: pip install ogb")
    folder = Path(package.submodule_search_locations[0]) / MODULES[name.split("-")[0]]
    table = pandas.read_csv(folder / "master.csv", index_col=0, keep_default_na=False)
    if name not in table:
        raise ValueError(f"OGB lists no {name!r}, only {', '.join(table.columns)}")
    return table[name].to_dict()


def _evaluator(kind: str, name: str) -> Any:
    return import_ogb(MODULES[kind]).Evaluator(name)


def import_ogb(module: str) -> Any:
    """Import ``ogb.<module>`` without its look for updates, which starts a thread that waits for the network."""
    os.environ["OUTDATED_IGNORE"] = "1"
    if "ogb" not in sys.modules:
        before = sys.modules.get("outdated")
        # None makes `import outdated` fail, and ogb then goes on without it.
        sys.modules["outdated"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("ogb")
        finally:
            del sys.modules["outdated"]
            if before is not None:
                sys.modules["outdated"] = before
    return importlib.import_module(f"ogb.{module}")


# Raw files -----------------------------------------------------------------------------------------------------------


def _wanted(folder: Path, kind: str, meta: Mapping[str, Any]) -> list[Path]:
    """Files without which nothing can be read."""
    if meta["binary"] == "True":
        names = ["data.npz"]
    else:
        names = ["edge.csv.gz", "num-node-list.csv.gz", "num-edge-list.csv.gz"]
        names += ["node-feat.csv.gz"] * (meta["has_node_attr"] == "True")
        names += ["edge-feat.csv.gz"] * (meta["has_edge_attr"] == "True")
        for listed in (meta["additional node files"], meta["additional edge files"]):
            # Early archives of ogbn-proteins call node_species by another name.
            names += [f"{n}.csv.gz" for n in listed.split(",") if n not in ("None", "node_species")]
    if kind != "ogbl":
        names.append(f"{'graph' if kind == 'ogbg' else 'node'}-label.{'npz' if names == ['data.npz'] else 'csv.gz'}")
    split = folder / "split" / meta["split"]
    if not (split / "split_dict.pt").exists():
        ending = "pt" if kind == "ogbl" else "csv.gz"
        return [folder / "raw" / n for n in names] + [split / f"{p}.{ending}" for p in ("train", "valid", "test")]
    return [folder / "raw" / n for n in names]


def _read(folder: Path, kind: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    raw = folder / "raw"
    binary = meta["binary"] == "True"
    arrays = _read_npz(raw / "data.npz") if binary else _read_csv(raw, meta)
    edge_index, num_nodes, num_edges = (arrays.pop(k) for k in ("edge_index", "num_nodes_list", "num_edges_list"))
    _check(raw, edge_index, num_nodes, num_edges, arrays)
    if meta["add_inverse_edge"] == "True":
        # As ogb: every edge is followed by its reverse.
        edge_index = torch.stack([edge_index, edge_index.flip(0)], dim=2).view(2, -1)
        num_edges = 2 * num_edges
        arrays = {k: v.repeat_interleave(2, 0) if k.startswith("edge_") else v for k, v in arrays.items()}

    names = {"node_feat": "x", "edge_feat": "edge_attr"}
    values: dict[str, Any] = {names.get(key, key): value for key, value in arrays.items()}
    values["edge_index"] = edge_index
    slices = None
    if kind == "ogbg":
        by_node, by_edge = (torch.cat([n.new_zeros(1), n.cumsum(0)]) for n in (num_nodes, num_edges))
        slices = {key: by_edge if key.startswith("edge_") else by_node for key in values}
        slices["y"] = torch.arange(num_nodes.numel() + 1)
        values["num_nodes"] = int(num_nodes.sum())
        if "x" not in values:
            values["_num_nodes"] = num_nodes.tolist()
    else:
        values["num_nodes"] = int(num_nodes[0])
    if kind != "ogbl":
        values["y"] = _labels(raw, "graph" if kind == "ogbg" else "node", binary, meta["task type"])
    return {"data": values, "slices": slices, "split": _read_split(folder / "split" / meta["split"], kind)}


def _check(raw: Path, edge_index: Tensor, num_nodes: Tensor, num_edges: Tensor, arrays: Mapping[str, Tensor]) -> None:
    """Files that disagree would give graphs that are wrong without any error."""
    lengths = {"edge_index": (edge_index.size(1), int(num_edges.sum()))}
    for key, value in arrays.items():
        lengths[key] = (value.size(0), int((num_edges if key.startswith("edge_") else num_nodes).sum()))
    for key, (got, expected) in lengths.items():
        if got != expected:
            raise ValueError(
                f"{raw}: {key} has {got} rows where the lists of sizes say {expected}; fetch the files again"
            )
    if edge_index.numel():
        limit = num_nodes.repeat_interleave(num_edges)
        bad = ((edge_index < 0) | (edge_index >= limit)).any(dim=0)
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            raise ValueError(
                f"{raw}: edge {place} is {tuple(edge_index[:, place].tolist())} in a graph of {int(limit[place])} "
                "nodes; fetch the files again"
            )


def _read_csv(raw: Path, meta: Mapping[str, Any]) -> dict[str, Tensor]:
    arrays = {
        "edge_index": _table(raw / "edge.csv.gz").view(-1, 2).t().contiguous(),
        "num_nodes_list": _table(raw / "num-node-list.csv.gz").view(-1),
        "num_edges_list": _table(raw / "num-edge-list.csv.gz").view(-1),
    }
    for name in ("node-feat", "edge-feat"):
        if (raw / f"{name}.csv.gz").exists():
            arrays[name.replace("-", "_")] = _table(raw / f"{name}.csv.gz")
    for part in ("node", "edge"):
        listed = meta[f"additional {part} files"]
        for name in [] if listed == "None" else listed.split(","):
            path = raw / f"{name}.csv.gz"
            if name == "node_species" and not path.exists():
                path = raw / "species.csv.gz"
            arrays[name] = _table(path)
    return arrays


def _table(path: Path) -> Tensor:
    """A table of numbers without header, int64 if all are whole, else float32."""
    import pandas

    try:
        values = pandas.read_csv(path, header=None, compression="gzip").to_numpy()
    except pandas.errors.EmptyDataError:
        return torch.empty(0, 2, dtype=torch.long)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}; fetch the file again") from error
    return _tensor(values)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path) as file:
            return {key: _tensor(file[key]) for key in file.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}; fetch the file again") from error


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind in "iu" else np.float32, order="C"))


def _labels(raw: Path, part: str, binary: bool, task_type: str) -> Tensor:
    if binary:
        with np.load(raw / f"{part}-label.npz") as file:
            values = torch.from_numpy(file[f"{part}_label"])
    else:
        import pandas

        values = torch.from_numpy(pandas.read_csv(raw / f"{part}-label.csv.gz", header=None).to_numpy(copy=True))
    values = values.view(values.size(0), -1)
    if "classification" not in task_type or (values.is_floating_point() and bool(values.isnan().any())):
        return values.float()
    return values.long()


# Splits --------------------------------------------------------------------------------------------------------------


def _read_split(folder: Path, kind: str) -> dict[str, Any]:
    if (folder / "split_dict.pt").exists():
        parts = load_torch(folder / "split_dict.pt")
    elif kind == "ogbl":
        parts = {part: load_torch(folder / f"{part}.pt") for part in ("train", "valid", "test")}
    else:
        parts = {part: _table(folder / f"{part}.csv.gz").view(-1) for part in ("train", "valid", "test")}
    return {part: _tensors(parts[part]) for part in ("train", "valid", "test")}


def _tensors(value: Any) -> Any:
    """Arrays and lists as tensors, through dicts."""
    if isinstance(value, Mapping):
        return {key: _tensors(item) for key, item in value.items()}
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _link_split(name: str, data: Data, split: Mapping[str, Mapping[str, Tensor]]) -> LinkSplit:
    """OGB's links as a :class:`LinkSplit`, positives and negatives in OGB's order."""
    assert data.num_nodes is not None
    fields: dict[str, Tensor] = {}
    none = torch.empty(2, 0, dtype=torch.long)
    for part in ("train", "valid", "test"):
        links = split[part]
        if "source_node" in links:
            fields[f"{part}_pos"] = torch.stack([links["source_node"], links["target_node"]]).long()
        else:
            fields[f"{part}_pos"] = links["edge"].t().contiguous().long()
        if part == "train":
            continue
        if "target_node_neg" in links:
            fields[f"{part}_neg_target"] = links["target_node_neg"].long()
        fields[f"{part}_neg"] = links["edge_neg"].t().contiguous().long() if "edge_neg" in links else none
    train = both_directions(fields["train_pos"], data.num_nodes)
    if name == "ogbl-collab":
        # OGB's rules for collab admit the validation links as input when the test links are scored.
        both = torch.cat([fields["train_pos"], fields["valid_pos"]], dim=1)
        fields["test_edge_index"] = both_directions(both, data.num_nodes)
    x = data.x if data.x is None or data.x.is_floating_point() else data.x.float()
    return LinkSplit(num_nodes=data.num_nodes, train_edge_index=train, x=x, **fields)


def _facts(name: str, kind: str, meta: Mapping[str, Any], content: Mapping[str, Any]) -> DatasetInfo:
    """Facts about a dataset that the registry does not list."""
    data, slices = content["data"], content["slices"]
    graphs = 1 if slices is None else slices["y"].numel() - 1
    y = data.get("y")
    return DatasetInfo(
        name=name,
        nodes=data["num_nodes"] / graphs,
        edges=data["edge_index"].size(1) / graphs / (2 if meta["add_inverse_edge"] == "True" else 1),
        features=data["x"].size(1) if "x" in data else 0,
        classes=max(int(meta.get("num classes", 0)), 0),
        targets=1 if y is None else y.size(1),
        graphs=graphs,
        metric=meta["eval metric"],
        protocols=(TASKS[kind],),
        licence="not stated",
        source="Open Graph Benchmark format",
        origin="ogb",
        folder="",
    )


# Downloads -----------------------------------------------------------------------------------------------------------


def _download(name: str, url: str, folder: Path, missing: list[Path]) -> None:
    """Fetch and unpack OGB's archive beside ``folder``, and move it there only when whole."""
    scratch = None
    try:
        with fail_fast(url):
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".download-"))
            archive = scratch / "archive.zip"
            size = _fetch(url, archive, name)
        if size and archive.stat().st_size != size:
            raise OSError(f"the connection ended after {archive.stat().st_size} of {size} bytes")
        unpack(archive, scratch / "files")
        folders = [path for path in (scratch / "files").iterdir() if path.is_dir()]
        if len(folders) != 1:
            raise ValueError(f"the archive must hold one folder (got {len(folders)})")
        content = folders[0]
        absent = [path for path in missing if not (content / path.relative_to(folder)).exists()]
        if absent:
            raise FileNotFoundError(f"{absent[0].name} is not in the archive")
        if folder.exists():
            # An incomplete folder, perhaps with files of the user's own: fill in what is missing.
            shutil.copytree(content, folder, dirs_exist_ok=True)
        else:
            os.replace(content, folder)
    except Exception as error:
        raise missing_files(name, missing, str(error).splitlines()[0] if str(error) else repr(error)) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _fetch(url: str, path: Path, name: str) -> int:
    """Copy ``url`` to ``path``; returns the length that the server stated, or 0."""
    with urllib.request.urlopen(url) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    return size


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive.

    Raises:
        ValueError: a name in it leads out of ``folder``, or a checksum differs.
    """
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{archive.name} holds {name!r}, which leads out of its folder")
        # Checksums are compared while unpacking.
        file.extractall(folder)
