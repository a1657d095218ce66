"""The graphs of the distillation papers, and the split that hides nodes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from graphkit.datasets import IndexSplit, inductive_split, load, per_class_split


def write(path, weights: bool = True) -> None:
    """Two components; a self-loop, a weight, an edge in one direction, and a table of names that is a pickle."""
    edges = [(0, 1), (1, 2), (2, 0), (2, 2), (3, 2), (4, 5)]
    rows, cols = zip(*edges, strict=True)
    adjacency = scipy.sparse.csr_matrix((np.full(6, 2.5), (rows, cols)), shape=(6, 6))
    features = scipy.sparse.random(6, 4, 0.5, format="csr", random_state=0)
    arrays = {}
    for name, matrix in (("adj", adjacency), ("attr", features)):
        arrays |= {f"{name}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}
    path.parent.mkdir(parents=True)
    names = np.array([{"a": 1}] * 6, dtype=object)
    np.savez(path, labels=np.array([0, 1, 0, 1, 1, 1], dtype=np.int32), node_names=names, **arrays)


def test_the_largest_component_undirected_without_loops(tmp_path) -> None:
    write(tmp_path / "cpf" / "cora.npz")
    data = load("CPF-Cora", tmp_path).data
    assert data.num_nodes == 4
    assert data.edge_index.t().tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [2, 3], [3, 2]]
    assert data.y.tolist() == [0, 1, 0, 1]
    with np.load(tmp_path / "cpf" / "cora.npz") as raw:
        parts = (raw["attr_data"], raw["attr_indices"], raw["attr_indptr"])
        want = scipy.sparse.csr_matrix(parts, shape=(6, 4)).toarray()[:4]
    torch.testing.assert_close(data.x, torch.from_numpy(want).float())
    assert sorted(data.keys()) == ["edge_index", "x", "y"]


def test_missing_files(tmp_path, monkeypatch) -> None:
    import socket

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(FileNotFoundError, match=r"CPF-Photo: .*a-photo\.npz not found.*GRAPHKIT_ROOT"):
        load("CPF-Photo", tmp_path)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("CPF-Cora", (2485, 5069, 1433, 7)),
        ("CPF-CiteSeer", (2110, 3668, 3703, 6)),
        ("CPF-PubMed", (19717, 44324, 500, 3)),
        ("CPF-Photo", (7487, 119043, 745, 8)),
    ],
)
def test_the_published_sizes(needs, name, sizes) -> None:
    dataset = load(name, needs("cpf"))
    data = dataset.data
    assert (data.num_nodes, data.num_edges // 2, data.num_features, int(data.y.max()) + 1) == sizes
    assert data.is_undirected()
    assert not data.has_self_loops()
    split = dataset.split(0)
    assert (split.train.numel(), split.valid.numel()) == (20 * sizes[3], 30 * sizes[3])
    assert split.train.numel() + split.valid.numel() + split.test.numel() == sizes[0]


# Hidden nodes ---------------------------------------------------------------------------------------------------------


def test_a_share_of_the_test_nodes_is_hidden() -> None:
    y = torch.arange(400) % 4
    split = per_class_split(y, seed=3)
    first, again, other = (inductive_split(split, 0.2, seed) for seed in (0, 0, 1))
    assert first.hidden.numel() == int(0.2 * split.test.numel()) == 40
    assert bool(torch.isin(first.hidden, split.test).all())
    assert torch.equal(first.hidden, again.hidden)
    assert not torch.equal(first.hidden, other.hidden)
    assert all(torch.equal(getattr(first, part), getattr(split, part)) for part in ("train", "valid", "test"))
    assert repr(first) == "IndexSplit(train=80, valid=120, test=200, hidden=40)"
    assert torch.equal(first.to("cpu").hidden, first.hidden)


def test_the_protocol_is_the_per_class_split_with_hidden_nodes() -> None:
    digits = load("digits")
    plain, split = digits.split(2, "per-class"), digits.split(2, "unseen-nodes")
    assert torch.equal(split.test, plain.test)
    assert split.hidden.numel() == int(0.2 * plain.test.numel())


def test_small_classes_are_named() -> None:
    y = torch.tensor([0] * 60 + [1] * 49)
    with pytest.raises(ValueError, match="class 1 has 49 nodes"):
        per_class_split(y)


def test_bad_splits() -> None:
    split = IndexSplit(torch.tensor([0]), torch.tensor([1]), torch.tensor([2, 3, 4]))
    for rate in (0, 1.5):
        with pytest.raises(ValueError, match="rate must be in"):
            inductive_split(split, rate)
    with pytest.raises(ValueError, match="none to hide or none to see"):
        inductive_split(split, 0.2)
    with pytest.raises(ValueError, match=r"hidden must hold ids of test alone \(got 1"):
        IndexSplit(split.train, split.valid, split.test, torch.tensor([1, 2]))
