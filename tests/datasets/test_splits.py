import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import erdos_renyi_graph

from graphkit.datasets import (
    IndexSplit,
    LinkSplit,
    NCNRandomLinkSplit,
    cross_validation_split,
    fold_split,
    full_split,
    load,
    mask_split,
    per_class_split,
    random_link_split,
    random_node_split,
    sample_non_edges,
)
from graphkit.datasets.splits import both_directions, undirected_pairs


def pairs_of(index):
    return {tuple(pair) for pair in index.t().tolist()}


def random_graph(num_nodes=60, p=0.2, seed=0):
    torch.manual_seed(seed)
    return Data(edge_index=erdos_renyi_graph(num_nodes, p), num_nodes=num_nodes)


# Links


def test_ncn_split_counts_follow_the_rule():
    data = random_graph(100, 0.1)
    edges = undirected_pairs(data.edge_index, 100)
    count = edges.size(1)
    split = NCNRandomLinkSplit(seed=3).split(data)
    fifth = int(0.2 * count)
    assert split.test_pos.size(1) == split.test_neg.size(1) == split.valid_neg.size(1) == fifth
    assert split.valid_pos.size(1) == int(0.5 * fifth)
    assert split.train_pos.size(1) == count - fifth - int(0.5 * fifth)
    parts = [pairs_of(p) for p in (split.train_pos, split.valid_pos, split.test_pos)]
    assert set.union(*parts) == pairs_of(edges)
    assert sum(map(len, parts)) == count
    assert pairs_of(split.train_edge_index) == parts[0] | {(v, u) for u, v in parts[0]}
    negatives = [pairs_of(split.valid_neg), pairs_of(split.test_neg)]
    assert len(negatives[0] | negatives[1]) == 2 * fifth
    assert not (negatives[0] | negatives[1]) & pairs_of(data.edge_index)
    for index in (split.train_pos, split.valid_pos, split.test_pos, split.valid_neg, split.test_neg):
        assert bool((index[0] < index[1]).all())


def test_ncn_split_depends_on_the_seed_and_on_nothing_else():
    data = random_graph()
    torch.manual_seed(1)
    first = NCNRandomLinkSplit(seed=5).split(data)
    torch.manual_seed(2)
    again, other = NCNRandomLinkSplit(seed=5).split(data), NCNRandomLinkSplit(seed=6).split(data)
    for name in ("train_pos", "valid_pos", "valid_neg", "test_pos", "test_neg"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert pairs_of(getattr(first, name)) != pairs_of(getattr(other, name))


def test_ncn_split_does_not_care_how_the_edges_are_written():
    data = random_graph()
    pairs = undirected_pairs(data.edge_index, 60)
    loops = torch.arange(60).expand(2, -1)
    messy = Data(edge_index=torch.cat([pairs.flip(0), pairs, loops, pairs[:, :9]], dim=1), num_nodes=60)
    clean, same = NCNRandomLinkSplit(seed=1).split(data), NCNRandomLinkSplit(seed=1).split(messy)
    assert torch.equal(clean.test_pos, same.test_pos)
    assert torch.equal(clean.train_edge_index, same.train_edge_index)


def test_ncn_split_as_a_transform():
    data = random_graph()
    data.x = torch.randn(60, 4)
    data.edge_weight = torch.ones(data.num_edges)
    train, val, test = NCNRandomLinkSplit(seed=2)(data)
    split = NCNRandomLinkSplit(seed=2).split(data)
    for part, positives, negatives in (
        (train, split.train_pos, torch.empty(2, 0, dtype=torch.long)),
        (val, split.valid_pos, split.valid_neg),
        (test, split.test_pos, split.test_neg),
    ):
        assert torch.equal(part.edge_index, split.train_edge_index)
        assert torch.equal(part.edge_label_index, positives)
        assert torch.equal(part.neg_edge_label_index, negatives)
        assert torch.equal(part.edge_label, torch.ones(positives.size(1)))
        assert torch.equal(part.x, data.x)
        assert "edge_weight" not in part
    assert "edge_label_index" not in data


@pytest.mark.parametrize(("edges", "num_nodes"), [([[], []], 1), ([[], []], 5), ([[0], [0]], 1), ([[0, 1], [1, 2]], 3)])
def test_ncn_split_of_too_few_edges(edges, num_nodes):
    data = Data(edge_index=torch.tensor(edges, dtype=torch.long).view(2, -1), num_nodes=num_nodes)
    with pytest.raises(ValueError, match="undirected edges, too few"):
        NCNRandomLinkSplit().split(data)


def test_ncn_split_of_a_complete_graph_has_no_negatives():
    data = Data(edge_index=torch.triu_indices(20, 20, offset=1), num_nodes=20)
    with pytest.raises(ValueError, match="too dense"):
        NCNRandomLinkSplit().split(data)


@pytest.mark.parametrize(
    "shares", [{"val": 0}, {"val": 0.3}, {"test": 1.2}, {"test": 0.9}, {"neg_pool": -1}, {"val": float("nan")}]
)
def test_ncn_split_refuses_bad_shares(shares):
    with pytest.raises(ValueError, match=r"must be"):
        NCNRandomLinkSplit(**shares)


def test_ncn_split_refuses_ids_outside_the_graph():
    with pytest.raises(IndexError, match="node id 9"):
        NCNRandomLinkSplit().split(Data(edge_index=torch.tensor([[0], [9]]), num_nodes=5))


def test_cora_has_the_published_counts(needs):
    split = load("Cora", needs("planetoid/Cora")).split(0)
    assert split.train_pos.size(1) == 3696
    assert split.valid_pos.size(1) == 527
    assert split.test_pos.size(1) == 1055
    assert split.valid_neg.size(1) == split.test_neg.size(1) == 1055
    assert split.train_edge_index.size(1) == 2 * 3696


def test_link_split_checks_ids_and_moves():
    split = NCNRandomLinkSplit().split(random_graph())
    assert split.test_edge_index is split.train_edge_index
    moved = split.to("cpu")
    assert torch.equal(moved.test_neg, split.test_neg)
    assert moved.num_nodes == 60
    assert "train=" in repr(split)
    pos = torch.tensor([[0], [7]])
    with pytest.raises(IndexError, match="valid_pos holds node id 7"):
        LinkSplit(5, pos % 5, pos % 5, pos, pos % 5, pos % 5, pos % 5)


# Negatives


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.floats(0, 0.9), st.floats(0, 1), st.integers(0, 10_000))
def test_non_edges_are_distinct_non_edges(num_nodes, p, share, seed):
    generator = torch.Generator().manual_seed(seed)
    everything = torch.triu_indices(num_nodes, num_nodes, offset=1)
    kept = torch.rand(everything.size(1), generator=generator) < p
    edges, free = everything[:, kept], int((~kept).sum())
    out = sample_non_edges(edges, num_nodes, int(share * free), generator)
    assert out.shape == (2, int(share * free))
    assert len(pairs_of(out)) == out.size(1)
    assert pairs_of(out) <= pairs_of(everything) - pairs_of(edges)
    with pytest.raises(ValueError, match="too dense"):
        sample_non_edges(edges, num_nodes, free + 1, generator)


@pytest.mark.parametrize("num_samples", [3, 20])
def test_non_edges_are_uniform(num_samples):
    """Both ways of drawing (rejection, listing) hit each of the 27 non-edges equally often, at every place."""
    edges = torch.tensor([[i for i in range(9)], [(i + 1) % 9 for i in range(9)]])
    generator = torch.Generator().manual_seed(0)
    count, first = torch.zeros(9, 9), torch.zeros(9, 9)
    for _ in range(5000):
        row, col = sample_non_edges(edges, 9, num_samples, generator)
        count[row, col] += 1
        first[row[0], col[0]] += 1
    p = num_samples / 27
    seen = count[count > 0]
    assert seen.numel() == 27
    assert float((seen / 5000 - p).abs().max()) < 4.5 * (p * (1 - p) / 5000) ** 0.5
    assert float((first[count > 0] / 5000 - 1 / 27).abs().max()) < 4.5 * (1 / 27 / 5000) ** 0.5


def test_non_edges_of_tiny_graphs():
    none = torch.empty(2, 0, dtype=torch.long)
    assert sample_non_edges(none, 0, 0).shape == (2, 0)
    assert sample_non_edges(none, 1, 0).shape == (2, 0)
    assert sample_non_edges(none, 2, 1).tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="must not be negative"):
        sample_non_edges(none, 2, -1)


def test_pairs_helpers():
    edges = torch.tensor([[2, 0, 1, 1, 0], [0, 2, 1, 0, 2]])
    assert undirected_pairs(edges, 3).tolist() == [[0, 0], [1, 2]]
    assert both_directions(torch.tensor([[0, 0], [1, 2]]), 3).tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]


# Nodes, graphs, events


def labels():
    return torch.tensor([0] * 70 + [1] * 60 + [2] * 100 + [-1] * 5)[torch.randperm(235)]


def test_per_class_split():
    y = labels()
    split = per_class_split(y, 20, 30, seed=4)
    assert torch.bincount(y[split.train]).tolist() == [20, 20, 20]
    assert torch.bincount(y[split.valid]).tolist() == [30, 30, 30]
    assert split.test.numel() == 230 - 150
    assert int(y[split.test].min()) == 0
    assert torch.equal(split.train, per_class_split(y, 20, 30, seed=4).train)
    assert not torch.equal(split.train, per_class_split(y, 20, 30, seed=5).train)
    with pytest.raises(ValueError, match="class 1 has 60 nodes"):
        per_class_split(y, 30, 30)


def test_random_node_split():
    y = labels()
    split = random_node_split(y, seed=1)
    assert torch.bincount(y[split.train]).tolist() == [34, 29, 48]
    assert torch.bincount(torch.cat([y[split.train], y[split.valid]])).tolist() == [56, 48, 80]
    assert split.train.numel() + split.valid.numel() + split.test.numel() == 230
    with pytest.raises(ValueError, match="train"):
        random_node_split(y, 0.8, 0.3)


def test_folds_are_stratified_and_cover_everything():
    y = torch.tensor([0] * 63 + [1] * 125)
    tests = [fold_split(y, fold) for fold in range(10)]
    assert sorted(torch.cat([s.test for s in tests]).tolist()) == list(range(188))
    assert {s.test.numel() for s in tests} == {18, 19}
    for i, split in enumerate(tests):
        assert 6 <= int((y[split.test] == 0).sum()) <= 7
        assert torch.equal(split.valid, tests[(i + 1) % 10].test)
    assert torch.equal(fold_split(y, 12).test, tests[2].test)
    with pytest.raises(ValueError, match="num_folds"):
        fold_split(y, num_folds=2)


def test_mask_split_counts_through_the_columns():
    masks = torch.eye(3, dtype=torch.bool)
    data = Data(train_mask=masks, val_mask=masks.roll(1, 0), test_mask=masks.roll(2, 0))
    for i in range(4):
        split = mask_split(data, i)
        assert split.train.tolist() == [i % 3]
    assert [m.tolist() for m in mask_split(data, 0).masks(3)] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    with pytest.raises(ValueError, match="no train_mask"):
        mask_split(Data())


def test_full_split_trains_on_all_other_labelled_nodes():
    masks = [torch.tensor([place == i for i in range(6)]) for place in (0, 1, 2)]
    y = torch.tensor([0, 1, 0, -1, 1, 0])
    data = Data(train_mask=masks[0], val_mask=masks[1], test_mask=masks[2], y=y)
    split = full_split(data)
    assert [part.tolist() for part in (split.train, split.valid, split.test)] == [[0, 4, 5], [1], [2]]
    data.y = torch.where(y < 0, torch.nan, y.float())
    assert full_split(data).train.tolist() == [0, 4, 5]
    with pytest.raises(ValueError, match="no train_mask"):
        full_split(Data(y=y))


def test_index_split_refuses_overlap():
    one = torch.tensor([3])
    with pytest.raises(ValueError, match="id 3 comes twice"):
        IndexSplit(one, torch.tensor([4]), one)
    with pytest.raises(ValueError, match="negative"):
        IndexSplit(-one, one, torch.tensor([], dtype=torch.long))


# Links and nodes by 64/16/20


def test_random_links_are_those_of_pygs_split_in_number_and_kind():
    data = random_graph(80, 0.1)
    data.x = torch.randn(80, 2)
    split = random_link_split(data, seed=1)
    theirs = RandomLinkSplit(0.16, 0.2, is_undirected=True, neg_sampling_ratio=1.0)(data)
    parts = [(split.train_pos, split.train_neg), (split.valid_pos, split.valid_neg), (split.test_pos, split.test_neg)]
    edges = pairs_of(undirected_pairs(data.edge_index, 80))
    for (pos, neg), other in zip(parts, theirs, strict=True):
        assert pos.size(1) == neg.size(1) == int(other.edge_label.sum())
        assert pairs_of(pos) <= edges
        assert not pairs_of(neg) & edges
    # What messages pass along, for each part.
    train, valid = pairs_of(split.train_pos), pairs_of(split.valid_pos)
    assert pairs_of(undirected_pairs(split.train_edge_index, 80)) == train
    assert pairs_of(undirected_pairs(split.test_edge_index, 80)) == train | valid
    assert split.test_edge_index.size(1) == theirs[2].edge_index.size(1)
    for kind in (0, 1):
        every = [pair for part in parts for pair in part[kind].t().tolist()]
        assert len({tuple(pair) for pair in every}) == len(every)
    assert torch.equal(split.x, data.x)
    again, other = random_link_split(data, seed=1), random_link_split(data, seed=2)
    assert torch.equal(split.train_neg, again.train_neg)
    assert not torch.equal(split.train_pos, other.train_pos)
    moved = split.to("cpu")
    assert torch.equal(moved.train_neg, split.train_neg)


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (0.0, 0.2), (0.16, 1.5)])
def test_random_links_with_bad_shares(valid, test):
    with pytest.raises(ValueError, match=r"valid|test"):
        random_link_split(random_graph(20, 0.3), valid, test)


def test_cross_validation_tests_on_each_node_once():
    y = torch.arange(100) % 3
    y[::10] = -1
    known = set((y >= 0).nonzero().view(-1).tolist())
    folds = [cross_validation_split(y, fold) for fold in range(5)]
    for split in folds:
        parts = [set(part.tolist()) for part in (split.train, split.valid, split.test)]
        assert [len(part) for part in parts] == [58, 14, 18]
        assert set.union(*parts) == known
    assert set().union(*(split.test.tolist() for split in folds)) == known
    again, next_round = cross_validation_split(y, 0), cross_validation_split(y, 5)
    assert torch.equal(folds[0].valid, again.valid)
    assert not torch.equal(folds[0].test, next_round.test)
    assert not torch.equal(folds[0].test, cross_validation_split(y, 0, seed=1).test)


@pytest.mark.parametrize(("options", "message"), [({"num_folds": 1}, "num_folds"), ({"valid": 0}, "valid")])
def test_cross_validation_with_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        cross_validation_split(torch.zeros(20, dtype=torch.long), **options)
    with pytest.raises(ValueError, match="too few"):
        cross_validation_split(torch.tensor([0, 1, -1, -1]), valid=0.1)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([[0], [1], [2]], TypeError, r"train must be ids, int64 \(got list\)"),
        ([torch.tensor([0.0]), *torch.tensor([[1], [2]])], TypeError, "train must be ids, int64 .got torch.float32."),
        (list(torch.eye(3).bool()), TypeError, "of a mask, mask.nonzero"),
        (list(torch.tensor([[[0]], [[1]], [[2]]])), ValueError, r"train must be a vector of ids \(got \[1, 1\]\)"),
        ([torch.tensor([0], device="meta"), *torch.tensor([[1], [2]])], ValueError, "valid is on cpu, train on meta"),
    ],
)
def test_parts_that_are_no_ids(parts, error, message):
    with pytest.raises(error, match=message):
        IndexSplit(*parts)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, dtype=torch.bool), r"data.train_mask must be bool, \[6\] or \[6, S\] \(got \[4\]"),
        (torch.zeros(6), "got .6. torch.float32"),
        (torch.arange(6), "got .6. torch.int64"),
        (torch.ones(6, dtype=torch.bool), "must not overlap"),
    ],
)
def test_masks_that_make_no_split(mask, message):
    valid = torch.arange(6) == 4
    data = Data(num_nodes=6, train_mask=mask, val_mask=valid, test_mask=torch.arange(6) == 5)
    with pytest.raises(ValueError, match=message):
        mask_split(data)


def test_real_values_are_no_classes():
    with pytest.raises(ValueError, match=r"y must hold class numbers \(got 0.5\)"):
        random_node_split(torch.tensor([0.0, torch.nan, 0.5, 1.0]))
