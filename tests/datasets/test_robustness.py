"""Graphs under attack: small files in the published form, and the real ones where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from graphkit.datasets import available, info, load
from graphkit.datasets.robustness import ATTACKED, read_robustness
from graphkit.datasets.splits import undirected_pairs


def write_graph(folder: Path, graph: str = "cora", features: bool = True) -> None:
    """Nodes 0 and 4 are a component of their own; 1-2-3-5 is the largest one, stored in one direction with a loop."""
    folder.mkdir(parents=True, exist_ok=True)
    adjacency = scipy.sparse.csr_matrix((np.ones(5, np.float32), ([1, 2, 3, 0, 2], [2, 3, 5, 4, 2])), (6, 6))
    parts = {f"adj_{part}": getattr(adjacency, part) for part in ("data", "indices", "indptr", "shape")}
    if features:
        attributes = scipy.sparse.csr_matrix(np.arange(18, dtype=np.float32).reshape(6, 3) % 2)
        parts |= {f"attr_{part}": getattr(attributes, part) for part in ("data", "indices", "indptr", "shape")}
    # A table of names, which is a pickle, stays unread.
    names = np.array({0: "a"}, dtype=object)
    np.savez(folder / f"{graph}.npz", labels=np.array([0, 1, 0, 1, 0, 1]), idx_to_node=names, **parts)
    attacked = scipy.sparse.csr_matrix(
        (np.array([1, 1, 1, 1, 0], np.float32), ([0, 1, 0, 3, 2], [1, 0, 3, 0, 1])), (4, 4)
    )
    scipy.sparse.save_npz(folder / f"{graph}_meta_adj_0.1.npz", attacked)
    scipy.sparse.save_npz(folder / f"{graph}_nettack_adj_2.0.npz", attacked)
    split = {"idx_train": [3], "idx_val": [0], "idx_test": [2, 1]}
    other = {"idx_train": [2], "idx_val": [3], "idx_test": [1, 0], "attacked_test_nodes": [1]}
    (folder / f"{graph}_prognn_splits.json").write_text(json.dumps(split))
    (folder / f"{graph}_nettacked_nodes.json").write_text(json.dumps(other))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_graph(tmp_path / "robustness")
    return tmp_path


def test_the_clean_graph_is_the_largest_component(root: Path) -> None:
    data = read_robustness(root, "Cora-LCC", "Cora")
    assert data.edge_index.tolist() == [[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]
    assert data.y.tolist() == [1, 0, 1, 1]
    assert data.x.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1]]
    assert data.x.dtype == torch.float32
    assert [data[f"{part}_mask"].nonzero()[:, 0].tolist() for part in ("train", "val", "test")] == [[3], [0], [1, 2]]


def test_attacked_graphs(root: Path) -> None:
    meta = load("cora-META-0.10", root)
    assert meta.info.name == "Cora-meta-0.10"
    # A stored zero is no edge.
    assert meta.data.edge_index.tolist() == [[0, 0, 1, 3], [1, 3, 0, 0]]
    assert meta.split(5).test.tolist() == [1, 2]
    nettack = load("Cora-nettack-2", root)
    assert torch.equal(nettack.data.edge_index, meta.data.edge_index)
    # The targets belong to a split of their own.
    assert [part.tolist() for part in (nettack.split().train, nettack.split().valid, nettack.split().test)] == [
        [2],
        [3],
        [1],
    ]
    unchanged = load("Cora-nettack-0", root)
    assert torch.equal(unchanged.data.edge_index, load("Cora-LCC", root).data.edge_index)
    assert unchanged.split().test.tolist() == [1]
    assert torch.equal(meta.data.x, load("Cora-LCC", root).data.x)


def test_blogs_have_no_features(tmp_path: Path) -> None:
    write_graph(tmp_path / "robustness", "polblogs", features=False)
    data = load("PolBlogs", tmp_path).data
    assert data.x is None
    assert data.num_nodes == 4


def test_names() -> None:
    assert info("CiteSeer-meta-0.25").edges == 4549
    assert info("PubMed-nettack-5").classes == 3
    with pytest.raises(ValueError, match="did you mean 'CiteSeer-meta-"):
        info("CiteSeer-meta-0.2")
    names = {facts.name for facts, _ in available()}
    assert {"Cora-LCC", "CiteSeer-LCC", "PolBlogs", "PubMed-LCC"} <= names
    assert not any("meta" in name or "nettack" in name for name in names)


def test_missing_and_damaged_files(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Cora-meta-0.05: .*cora_meta_adj_0.05.npz not found.*GRAPHKIT_ROOT"):
        load("Cora-meta-0.05", root)
    (root / "robustness" / "cora_meta_adj_0.1.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cora_meta_adj_0.1.npz cannot be read"):
        load("Cora-meta-0.10", root)
    scipy.sparse.save_npz(root / "robustness" / "cora_meta_adj_0.1.npz", scipy.sparse.eye(5, format="csr"))
    with pytest.raises(ValueError, match=r"holds a graph of 5 nodes, cora.npz 4"):
        load("Cora-meta-0.10", root)
    (root / "robustness" / "cora_prognn_splits.json").write_text('{"idx_train": [')
    with pytest.raises(ValueError, match=r"cora_prognn_splits.json cannot be read"):
        load("Cora-LCC", root)
    np.savez(root / "robustness" / "cora.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"cora.npz cannot be read.*allow_pickle"):
        load("Cora-LCC", root)


@pytest.mark.parametrize("graph", ["Cora", "CiteSeer", "PolBlogs", "PubMed"])
def test_published_files(needs, graph: str) -> None:
    root = needs(f"robustness/{graph.lower()}.npz")
    name = graph if graph == "PolBlogs" else f"{graph}-LCC"
    clean = load(name, root)
    facts = clean.info
    assert (clean.data.num_nodes, int(clean.data.y.max()) + 1) == (facts.nodes, facts.classes)
    split = clean.split()
    share = [part.numel() / facts.nodes for part in (split.train, split.valid, split.test)]
    assert share == pytest.approx([0.1, 0.1, 0.8], abs=0.002)
    if graph in ("Cora", "CiteSeer"):
        assert set(clean.data.x.unique().tolist()) == {0.0, 1.0}
    edges = set(map(tuple, undirected_pairs(clean.data.edge_index, facts.nodes).t().tolist()))
    assert len(edges) == facts.edges
    for attack, row in ATTACKED[graph].items():
        # PubMed is large: one graph of each attack.
        for strength, count in list(row.items())[:: 1 if graph != "PubMed" else 4]:
            attacked = load(f"{graph}-{attack}-{strength}", root)
            found = set(map(tuple, undirected_pairs(attacked.data.edge_index, facts.nodes).t().tolist()))
            assert len(found) == count == info(f"{graph}-{attack}-{strength}").edges
            if attack == "meta":
                assert len(found ^ edges) == pytest.approx(float(strength) * facts.edges, abs=1)
            else:
                targets = set(attacked.data.test_mask.nonzero()[:, 0].tolist())
                assert all(targets & {u, v} for u, v in found ^ edges)
