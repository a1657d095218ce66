import os
import pickle
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
import torch_geometric.datasets
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.io import read_planetoid_data

from graphkit.datasets import cache, load, planetoid, pyg, unpickle
from graphkit.datasets.pyg import read_pyg


@pytest.fixture
def offline(monkeypatch):
    """Every connection fails at once, as without network."""

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("GRAPHKIT_CACHE", str(folder))
    return folder


def write_planetoid(root, name="Cora", num_nodes=1600, seed=0):
    """A graph in Planetoid's format: 20 training nodes, 500 for validation, 1000 for test."""
    random = np.random.default_rng(seed)
    folder = root / "planetoid" / name / "raw"
    folder.mkdir(parents=True)
    prefix = f"ind.{name.lower()}"
    num_train, num_rest = 20, num_nodes - 1000
    x = scipy.sparse.random(num_nodes, 8, 0.3, format="csr", random_state=1)
    y = np.eye(3, dtype=np.int32)[random.integers(3, size=num_nodes)]
    test = random.permutation(np.arange(num_rest, num_nodes))
    graph = {i: random.integers(num_nodes, size=3).tolist() for i in range(num_nodes)}
    for neighbors in list(graph.values()):
        for node in neighbors:
            graph[node] = graph[node]
    content = {"x": x[:num_train], "allx": x[:num_rest], "tx": x[num_rest:], "graph": graph}
    content |= {"y": y[:num_train], "ally": y[:num_rest], "ty": y[num_rest:]}
    for key, value in content.items():
        (folder / f"{prefix}.{key}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / f"{prefix}.test.index").write_text("".join(f"{node}\n" for node in test))
    return folder


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_planetoid_equals_pygs_reader(tmp_path):
    folder = write_planetoid(tmp_path)
    ours, theirs = planetoid.read_planetoid(folder, "Cora"), read_planetoid_data(str(folder), "cora")
    assert ours.keys() == theirs.keys()
    for key in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", ["Cora", "CiteSeer", "PubMed"])
def test_real_planetoid_equals_pygs_reader(needs, name):
    data_root = needs(f"planetoid/{name}")
    theirs = read_planetoid_data(str(data_root / "planetoid" / name / "raw"), name.lower())
    ours = load(name, data_root).data
    assert ours.keys() == theirs.keys()
    for key in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours[key], theirs[key]), key


def test_nothing_is_written_to_the_root(tmp_path, own_cache):
    write_planetoid(tmp_path / "root")
    before = snapshot(tmp_path / "root")
    first = load("Cora", tmp_path / "root").data
    assert snapshot(tmp_path / "root") == before
    assert len(list(own_cache.rglob("*.pt"))) == 1
    second = load("cora", tmp_path / "root").data
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.edge_index, second.edge_index)


def test_cache_follows_the_raw_files(tmp_path):
    write_planetoid(tmp_path / "a", seed=0)
    write_planetoid(tmp_path / "b", seed=1)
    a, b = load("Cora", tmp_path / "a").data, load("Cora", tmp_path / "b").data
    assert not torch.equal(a.edge_index, b.edge_index)
    assert torch.equal(load("Cora", tmp_path / "a").data.edge_index, a.edge_index)


@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "pickle"])
def test_damaged_cache_is_built_again(tmp_path, own_cache, damage):
    write_planetoid(tmp_path / "root")
    expected = load("Cora", tmp_path / "root").data
    (path,) = own_cache.rglob("*.pt")
    content = bytearray(path.read_bytes())
    if damage == "half":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = b""
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = pickle.dumps(Evil(tmp_path / "evil"))
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .* built again"):
        data = load("Cora", tmp_path / "root").data
    assert torch.equal(data.x, expected.x)
    assert not (tmp_path / "evil").exists()
    load("Cora", tmp_path / "root")


def test_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    write_planetoid(tmp_path / "root")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="GRAPHKIT_CACHE"):
        load("Cora", tmp_path / "root")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_from_outside_run_nothing(tmp_path):
    folder = write_planetoid(tmp_path)
    (folder / "ind.cora.graph").write_bytes(pickle.dumps(Evil(tmp_path / "evil")))
    with pytest.raises(ValueError, match=r"ind\.cora\.graph cannot be read: it asks for .*mkdir"):
        load("Cora", tmp_path)
    (folder / "ind.cora.graph").write_bytes(b"\x80\x02half")
    with pytest.raises(ValueError, match=r"ind\.cora\.graph cannot be read"):
        load("Cora", tmp_path)
    torch.save({"edge": Evil(tmp_path / "evil")}, tmp_path / "split.pt")
    with pytest.raises(ValueError, match=r"split\.pt cannot be read"):
        unpickle.load_torch(tmp_path / "split.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("archive", [True, False])
def test_torch_files_of_every_kind_are_read(tmp_path, protocol, archive):
    content = {"a": np.arange(6).reshape(3, 2), "b": torch.rand(3), "c": np.float32(2), "d": ["e", 1, None]}
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": archive}
    torch.save(content, tmp_path / "file.pt", **options)
    out = unpickle.load_torch(tmp_path / "file.pt")
    assert np.array_equal(out["a"], content["a"])
    assert torch.equal(out["b"], content["b"])
    assert out["c"] == 2
    assert out["d"] == content["d"]


# Without the files


@pytest.mark.parametrize("name", ["Cora", "MUTAG", "Amazon-Photo", "BlogCatalog", "Chameleon-filtered", "WN18RR"])
def test_missing_files_offline(tmp_path, offline, name):
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=f"{name}: .*{tmp_path}.*not found.*unreachable.*GRAPHKIT_ROOT"):
        load(name, tmp_path)
    assert time.perf_counter() - start < 5
    assert not list(tmp_path.iterdir())


def test_missing_files_under_a_root_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: socket.socket())
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"Not a directory.*GRAPHKIT_ROOT"):
        load("Cora", tmp_path / "file")


class Downloaded(InMemoryDataset):
    """A dataset in PyG's manner whose download is one file, and may fail half-way."""

    fail = False
    url = "http://localhost"

    def __init__(self, root):
        super().__init__(root)
        self.load(self.processed_paths[0])

    @property
    def raw_file_names(self):
        return ["a.txt", "b.txt"]

    @property
    def processed_file_names(self):
        return "data.pt"

    def download(self):
        Path(self.raw_dir, "a.txt").write_text("3")
        if self.fail:
            raise ConnectionError("connection lost")
        Path(self.raw_dir, "b.txt").write_text("4")

    def process(self):
        numbers = [int(Path(path).read_text()) for path in self.raw_paths]
        self.save([Data(x=torch.tensor([numbers]))], self.processed_paths[0])


def test_downloads_arrive_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setitem(pyg.OWN, "Downloaded", Downloaded)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: socket.socket())
    monkeypatch.setattr(Downloaded, "fail", True)
    with pytest.raises(FileNotFoundError, match="connection lost"):
        read_pyg("Downloaded", "some/set", tmp_path, "Some")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr(Downloaded, "fail", False)
    assert read_pyg("Downloaded", "some/set", tmp_path, "Some")[0].x.tolist() == [[3, 4]]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.txt", "b.txt"]
    assert (tmp_path / "some/set/raw/a.txt").is_file()
    monkeypatch.setattr(Downloaded, "download", None)
    assert read_pyg("Downloaded", "some/set", tmp_path, "Some")[0].x.tolist() == [[3, 4]]


def test_layout_is_pygs_own(needs, tmp_path):
    """PyG's own class finds the same raw files under the same folder."""
    shutil.copytree(needs("webkb/texas") / "webkb" / "texas" / "raw", tmp_path / "webkb" / "texas" / "raw")
    theirs = torch_geometric.datasets.WebKB(str(tmp_path / "webkb"), "Texas")[0]
    ours = load("Texas", tmp_path).data
    for key in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours[key], theirs[key]), key


def test_cached_builds_once(tmp_path, own_cache):
    source = tmp_path / "source"
    built = []

    def build():
        source.write_text("raw")
        built.append(1)
        return {"x": torch.ones(2), "names": ["a"]}

    def sources():
        return [source] if source.exists() else []

    for _ in range(3):
        out = cache.cached("some", sources, build)
        assert torch.equal(out["x"], torch.ones(2))
        assert out["names"] == ["a"]
    assert len(built) == 1
