import contextlib
import functools
import gzip
import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import torch

from graphkit.datasets import IndexSplit, LinkSplit, info, load, load_ogb, ogb
from graphkit.datasets.ogb import import_ogb, unpack

os.environ["OUTDATED_IGNORE"] = "1"


def ogb_class(kind):
    """OGB's own dataset class, for comparison."""
    module = import_ogb({"ogbl": "linkproppred", "ogbn": "nodeproppred", "ogbg": "graphproppred"}[kind])
    return getattr(
        module, {"ogbl": "PygLinkPropPredDataset", "ogbn": "PygNodePropPredDataset"}.get(kind, ""), None
    ) or (module.PygGraphPropPredDataset)


def save(tmp_path, kind, graphs, split, labels=None, task="link prediction", metric="hits@50", classes=None):
    """A dataset in OGB's format, written by OGB's own saver."""
    saver_class = import_ogb("io").DatasetSaver
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        saver = saver_class(f"{kind}-tiny", is_hetero=False, version=1, root=str(tmp_path / "saved"))
        saver.save_graph_list(graphs)
        if labels is not None:
            saver.save_target_labels(labels)
        saver.save_split(split, split_name="random")
        (tmp_path / "mapping").mkdir(exist_ok=True)
        (tmp_path / "mapping" / "README.md").write_text("none")
        saver.copy_mapping_dir(str(tmp_path / "mapping"))
        saver.save_task_info(task, metric, num_classes=classes)
        return saver.get_meta_dict()


def graph(num_nodes, num_edges, seed):
    random = np.random.default_rng(seed)
    return {
        "edge_index": random.integers(num_nodes, size=(2, num_edges)),
        "num_nodes": num_nodes,
        "node_feat": random.random((num_nodes, 5)).astype(np.float32),
        "edge_feat": random.integers(4, size=(num_edges, 2)),
    }


@contextlib.contextmanager
def theirs(monkeypatch, kind, meta):
    """The same dataset as OGB's own class reads it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield ogb_class(kind)(f"{kind}-tiny", meta_dict=meta)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def same(ours, reference):
    for key in reference.keys():  # noqa: SIM118
        if key == "num_nodes":
            assert ours.num_nodes == reference.num_nodes
        else:
            assert torch.equal(ours[key], reference[key]), key


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_link_dataset_from_the_saver(tmp_path, monkeypatch):
    one = graph(30, 80, 0)
    links = one["edge_index"].T
    random = np.random.default_rng(1)
    split = {
        "train": {"edge": links[:60]},
        "valid": {"edge": links[60:70], "edge_neg": random.integers(30, size=(20, 2))},
        "test": {"edge": links[70:], "edge_neg": random.integers(30, size=(25, 2))},
    }
    meta = save(tmp_path, "ogbl", [one], split)
    before = snapshot(tmp_path)
    for _ in range(2):
        dataset = load_ogb("ogbl-tiny", meta_dict=meta)
        out = dataset.split()
        assert isinstance(out, LinkSplit)
        assert out.train_pos.t().tolist() == links[:60].tolist()
        assert out.valid_pos.t().tolist() == links[60:70].tolist()
        assert out.valid_neg.t().tolist() == split["valid"]["edge_neg"].tolist()
        assert out.test_neg.t().tolist() == split["test"]["edge_neg"].tolist()
        both = {tuple(e) for e in links[:60].tolist()} | {tuple(e[::-1]) for e in links[:60].tolist()}
        assert {tuple(e) for e in out.train_edge_index.t().tolist()} == both
        assert out.test_edge_index is out.train_edge_index
        assert (dataset.info.nodes, dataset.info.features, dataset.info.metric) == (30, 5, "hits@50")
        assert out.x.shape == (30, 5)
    assert snapshot(tmp_path) == before
    with pytest.raises(ValueError, match="no official evaluator"):
        dataset.evaluator()
    with theirs(monkeypatch, "ogbl", meta) as reference:
        same(dataset.data, reference[0])


def test_node_dataset_from_the_saver(tmp_path, monkeypatch):
    one = graph(30, 80, 2)
    order = np.random.default_rng(0).permutation(30)
    split = {"train": order[:20], "valid": order[20:25], "test": order[25:]}
    labels = np.random.default_rng(3).integers(4, size=(30, 1))
    meta = save(tmp_path, "ogbn", [one], split, labels, "multiclass classification", "acc", 4)
    dataset = load_ogb("ogbn-tiny", meta_dict=meta)
    assert isinstance(dataset.split(), IndexSplit)
    assert dataset.split(3).test.tolist() == order[25:].tolist()
    assert (dataset.info.classes, dataset.info.task) == (4, "node")
    with theirs(monkeypatch, "ogbn", meta) as reference:
        same(dataset.data, reference[0])


@pytest.mark.parametrize("features", [True, False])
def test_graph_dataset_from_the_saver(tmp_path, monkeypatch, features):
    # One graph has a single node, two have no edges.
    graphs = [graph(n, e, n) for n, e in ((5, 8), (1, 0), (7, 0), (4, 12), (9, 3))]
    if not features:
        graphs = [{k: g[k] for k in ("edge_index", "num_nodes")} for g in graphs]
    split = {"train": np.array([0, 3]), "valid": np.array([1, 4]), "test": np.array([2])}
    labels = np.array([[1.0, np.nan], [0, 1], [1, 1], [0, 0], [np.nan, 1]])
    meta = save(tmp_path, "ogbg", graphs, split, labels, "binary classification", "rocauc", 2)
    dataset = load_ogb("ogbg-tiny", meta_dict=meta)
    assert len(dataset.graphs) == 5
    assert (dataset.info.targets, dataset.info.graphs) == (2, 5)
    assert dataset.split().valid.tolist() == [1, 4]
    subset = dataset.graphs[dataset.split().train]
    assert [g.num_nodes for g in subset] == [5, 4]
    with theirs(monkeypatch, "ogbg", meta) as reference:
        for ours, other in zip(dataset.graphs, reference, strict=True):
            for key in set(other.keys()) - {"num_nodes"}:
                assert torch.equal(torch.as_tensor(ours[key]).nan_to_num(7), torch.as_tensor(other[key]).nan_to_num(7))
            assert ours.num_nodes == other.num_nodes


def test_csv_form_and_own_negatives_of_every_source(tmp_path, monkeypatch):
    """ogbl-citation2 in small, under its own name: csv files, directed edges, negatives for each source."""
    folder = tmp_path / "ogb" / "ogbl_citation2"
    (folder / "raw").mkdir(parents=True)
    (folder / "split" / "time").mkdir(parents=True)
    links = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]])
    tables = {
        "edge": links[:3],
        "num-node-list": [[5]],
        "num-edge-list": [[3]],
        "node_year": [[2000 + i] for i in range(5)],
    }
    tables["node-feat"] = np.arange(10).reshape(5, 2) / 4
    for name, table in tables.items():
        with gzip.open(folder / "raw" / f"{name}.csv.gz", "wt") as file:
            file.write("\n".join(",".join(map(str, row)) for row in table) + "\n")
    for part, rows in (("train", slice(0, 3)), ("valid", slice(3, 4)), ("test", slice(4, 5))):
        content = {"source_node": links[rows, 0], "target_node": links[rows, 1]}
        if part != "train":
            content["target_node_neg"] = np.array([[1, 2, 0]])
        torch.save(content, folder / "split" / "time" / f"{part}.pt", pickle_protocol=4)
    monkeypatch.setattr(socket, "create_connection", None)
    dataset = load("ogbl-citation2", tmp_path)
    assert dataset.data.edge_index.tolist() == links[:3].T.tolist()
    assert dataset.data.node_year.view(-1).tolist() == [2000, 2001, 2002, 2003, 2004]
    assert dataset.data.x.dtype == torch.float32
    split = dataset.split()
    assert split.train_pos.t().tolist() == links[:3].tolist()
    assert split.train_edge_index.size(1) == 6
    assert split.valid_neg.shape == (2, 0)
    assert split.valid_neg_target.tolist() == [[1, 2, 0]]
    assert "1+3" in repr(split)
    assert dataset.evaluator().eval_metric == "mrr"

    with gzip.open(folder / "raw" / "edge.csv.gz", "wt") as file:
        file.write("0,1\n1,2\n2,5\n")
    with pytest.raises(ValueError, match=r"edge 2 is \(2, 5\) in a graph of 5 nodes"):
        load("ogbl-citation2", tmp_path)
    with gzip.open(folder / "raw" / "edge.csv.gz", "wt") as file:
        file.write("0,1\n1,2\n")
    with pytest.raises(ValueError, match="edge_index has 2 rows where the lists of sizes say 3"):
        load("ogbl-citation2", tmp_path)
    (folder / "raw" / "edge.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"edge\.csv\.gz cannot be read"):
        load("ogbl-citation2", tmp_path)


def test_collab_scores_test_links_with_the_validation_links(tmp_path):
    folder = tmp_path / "ogb" / "ogbl_collab"
    (folder / "raw").mkdir(parents=True)
    (folder / "split" / "time").mkdir(parents=True)
    for name, text in {
        "edge": "0,1\n1,2\n",
        "num-node-list": "4\n",
        "num-edge-list": "2\n",
        "node-feat": "0.5\n1.0\n0\n1\n",
        "edge_weight": "1\n3\n",
        "edge_year": "2000\n2001\n",
    }.items():
        with gzip.open(folder / "raw" / f"{name}.csv.gz", "wt") as file:
            file.write(text)
    neg = np.array([[0, 3]])
    for part, edge in (("train", [[0, 1], [1, 2]]), ("valid", [[2, 3]]), ("test", [[3, 1]])):
        torch.save({"edge": np.array(edge), "edge_neg": neg}, folder / "split" / "time" / f"{part}.pt")
    dataset = load("ogbl-collab", tmp_path)
    assert dataset.data.edge_weight.view(-1).tolist() == [1, 1, 3, 3]
    assert dataset.data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    split = dataset.split()
    assert split.train_edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert split.test_edge_index.tolist() == [[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]


# Real data


def test_real_ddi(needs):
    data_root = needs("ogb/ogbl_ddi")
    before = snapshot(data_root / "ogb")
    start = time.perf_counter()
    load("ogbl-ddi", data_root)
    first = time.perf_counter() - start
    start = time.perf_counter()
    dataset = load("ogbl-ddi", data_root)
    again = time.perf_counter() - start
    assert first < 20
    assert again < 1
    split = dataset.split(0)
    assert dataset.split(1) is split
    assert (dataset.data.num_nodes, dataset.data.num_edges) == (4267, 2135822)
    assert split.x is None
    assert split.train_pos.size(1) == 1067911
    assert (split.valid_pos.size(1), split.valid_neg.size(1)) == (133489, 101882)
    assert (split.test_pos.size(1), split.test_neg.size(1)) == (133489, 95599)
    # The message edges are the graph's, and no validation or test link is among them.
    assert torch.equal(split.train_edge_index, _sorted(dataset.data.edge_index))
    keys = split.train_edge_index[0] * 4267 + split.train_edge_index[1]
    for links in (split.valid_pos, split.valid_neg, split.test_pos, split.test_neg):
        assert not torch.isin(links[0] * 4267 + links[1], keys).any()
    assert snapshot(data_root / "ogb") == before
    # The official evaluator takes what a model gives.
    pos, neg = torch.rand(100), torch.rand(200)
    result = dataset.evaluator().eval({"y_pred_pos": pos, "y_pred_neg": neg})
    assert result["hits@20"] == pytest.approx(float((pos > neg.topk(20).values[-1]).float().mean()))


def _sorted(edge_index):
    keys = (edge_index[0] * 4267 + edge_index[1]).unique()
    return torch.stack([keys // 4267, keys % 4267])


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ogbg-molbace", (1210, 151, 152)),
        ("ogbg-molesol", (902, 113, 113)),
        ("ogbg-molfreesolv", (513, 64, 65)),
    ],
)
def test_real_molecules_equal_ogbs_reader(needs, name, counts):
    data_root = needs(f"ogb/{name.replace('-', '_')}")
    dataset = load(name, data_root)
    split = dataset.split()
    assert (split.train.numel(), split.valid.numel(), split.test.numel()) == counts
    reader = import_ogb("io.read_graph_pyg").read_graph_pyg
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        reference = reader(str(data_root / "ogb" / name.replace("-", "_") / "raw"), add_inverse_edge=True)
    assert len(reference) == len(dataset.graphs)
    for ours, other in zip(dataset.graphs, reference, strict=True):
        same(ours, other)
        assert ours.y.shape == (1, 1)
    metric = info(name).metric
    truth = dataset.graphs._data.y
    result = dataset.evaluator().eval({"y_true": truth, "y_pred": truth.float()})
    assert result[metric] == (0 if metric == "rmse" else 1)


def test_real_ddi_equals_ogbs_own_class(needs, tmp_path, monkeypatch):
    """OGB's class on a writable copy, with its unsafe load let through."""
    data_root = needs("ogb/ogbl_ddi")
    shutil.copytree(data_root / "ogb" / "ogbl_ddi", tmp_path / "ogbl_ddi")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        reference = ogb_class("ogbl")("ogbl-ddi", root=str(tmp_path))
        parts = reference.get_edge_split()
    dataset = load("ogbl-ddi", data_root)
    assert torch.equal(dataset.data.edge_index, reference[0].edge_index)
    assert torch.equal(dataset.split().test_pos, parts["test"]["edge"].t())
    assert torch.equal(dataset.split().valid_neg, parts["valid"]["edge_neg"].t())


# Names, network, archives


def test_names():
    with pytest.raises(ValueError, match="OGB lists no 'ogbl-dddi'"):
        load_ogb("ogbl-dddi")
    with pytest.raises(ValueError, match="must start with ogbl-"):
        load_ogb("ddi")
    with pytest.raises(ValueError, match="ogbn-mag is not supported"):
        load_ogb("ogbn-mag")


def test_missing_files_offline(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("builtins.input", None)
    with pytest.raises(FileNotFoundError, match=r"ogbl-ddi: .*edge\.csv\.gz and .* not found.*GRAPHKIT_ROOT"):
        load("ogbl-ddi", tmp_path)
    assert not list(tmp_path.iterdir())


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_download(tmp_path, monkeypatch):
    """From a server on this machine: whole, cut short, and without what it should hold."""
    served = tmp_path / "served"
    served.mkdir()
    rows = {"edge": "0,1\n", "num-node-list": "3\n", "num-edge-list": "1\n"}
    archive = served / "ddi.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in rows.items():
            file.writestr(f"ddi/raw/{name}.csv.gz", gzip.compress(text.encode()))
        for part in ("train", "valid", "test"):
            buffer = io.BytesIO()
            torch.save({"edge": np.array([[0, 1]]), "edge_neg": np.array([[1, 2]])}, buffer)
            file.writestr(f"ddi/split/target/{part}.pt", buffer.getvalue())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    meta = {**ogb._meta("ogbl-ddi"), "url": f"http://127.0.0.1:{server.server_port}/ddi.zip"}
    monkeypatch.setattr(ogb, "_meta", lambda name: dict(meta))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        split = load("ogbl-ddi", tmp_path / "root").split()
        assert split.train_pos.tolist() == [[0], [1]]
        assert sorted(p.name for p in (tmp_path / "root" / "ogb").iterdir()) == ["ogbl_ddi"]

        archive.write_bytes(archive.read_bytes()[:-200])
        with pytest.raises(FileNotFoundError, match=r"ogbl-ddi: .*download failed"):
            load("ogbl-ddi", tmp_path / "other")
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("ddi/raw/edge.csv.gz", "")
        with pytest.raises(FileNotFoundError, match=r"num-node-list\.csv\.gz is not in the archive"):
            load("ogbl-ddi", tmp_path / "other")
        assert not list((tmp_path / "other" / "ogb").iterdir())
    finally:
        server.shutdown()


def test_archives_do_not_leave_their_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("ddi/raw/edge.csv.gz", "")
        archive.writestr("../outside.txt", "gotcha")
    with pytest.raises(ValueError, match="leads out of its folder"):
        unpack(tmp_path / "bad.zip", tmp_path / "files")
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / "files").exists()


def test_importing_ogb_here_looks_for_no_updates():
    code = (
        "import threading, sys; from graphkit.datasets.ogb import import_ogb; import_ogb('linkproppred');"
        "assert 'outdated' not in sys.modules; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
