"""The link-prediction task against formulas written out, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import small_runs
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import LinkSplit
from graphkit.nn import LinkHeuristic
from graphkit.ops import NeighborIndex
from graphkit.train import LinkPredictionTask, Trainer


class Recorder(nn.Module):
    """Scores a pair by a fixed matrix and remembers what it was given."""

    def __init__(self, num_nodes: int, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(num_nodes, num_nodes, generator=torch.Generator().manual_seed(seed)))
        self.seen: list[tuple] = []

    def encode(self, x, graph):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(("encode", x, graph))
        return x

    def decode(self, z, graph, pairs):
        self.seen.append(("decode", graph, pairs))
        return self.table[pairs[0], pairs[1]][:, None]

    def forward(self, x, graph, pairs):
        self.seen.append(("forward", graph, pairs))
        return self.table[pairs[0], pairs[1]][:, None]


@pytest.fixture(scope="module")
def split():
    return small_runs.small_split()


def edges(index: NeighborIndex) -> set[tuple[int, int]]:
    return set(map(tuple, index.edge_index.t().tolist()))


def pairs_of(pairs) -> list[tuple[int, int]]:
    return list(map(tuple, pairs.t().tolist()))


# Batches and loss ----------------------------------------------------------------------------------------------------


def test_batches_are_training_links_and_non_links(split):
    task = LinkPredictionTask(split, 50)
    batches = list(task.batches(1))
    links = pairs_of(split.train_pos)
    assert len(batches) == task.num_batches() == len(links) // 50
    seen = [pair for pos, _ in batches for pair in pairs_of(pos)]
    assert len(set(seen)) == len(seen) == 50 * len(batches)
    assert set(seen) <= set(links)
    known = edges(task.train_graph)
    for pos, neg in batches:
        assert pos.shape == neg.shape == (2, 50)
        assert not set(pairs_of(neg)) & known
        assert bool((neg[0] != neg[1]).all())


def test_batches_depend_on_seed_and_epoch_alone(split):
    def drawn(seed, epoch, before=0):
        torch.manual_seed(before)
        return [torch.cat(batch) for batch in LinkPredictionTask(split, 50, seed=seed).batches(epoch)]

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert same(drawn(0, 3), drawn(0, 3, before=9))
    assert not same(drawn(0, 3), drawn(0, 4))
    assert not same(drawn(0, 3), drawn(1, 3))


def test_negatives_of_a_source_keep_the_links_first_node(split):
    task = LinkPredictionTask(split, 50, negatives="source")
    for pos, neg in task.batches(1):
        assert torch.equal(pos[0], neg[0])
        assert not torch.equal(pos[1], neg[1])


@pytest.mark.parametrize("removal", [True, False])
def test_loss_is_the_formula_and_targets_are_removed(split, removal):
    task = LinkPredictionTask(split, 50, target_link_removal=removal)
    model = Recorder(split.num_nodes).train()
    pos, neg = next(iter(task.batches(1)))
    loss = task.loss(model, (pos, neg))
    score, other = model.table[pos[0], pos[1]], model.table[neg[0], neg[1]]
    expected = torch.log1p(torch.exp(-score)).mean() + torch.log1p(torch.exp(other)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ((_, graph, asked),) = model.seen
    assert torch.equal(asked, torch.cat([pos, neg], 1))
    targets = {pair for a, b in pairs_of(pos) for pair in ((a, b), (b, a))}
    assert edges(graph) == (edges(task.train_graph) - targets if removal else edges(task.train_graph))
    assert len(targets) == 100


@pytest.mark.parametrize(("world", "size"), [(2, 50), (3, 50), (4, 3)])
def test_the_mean_of_all_ranks_losses_is_the_loss(split, world, size):
    task = LinkPredictionTask(split, 50)
    model = Recorder(split.num_nodes)
    batch = tuple(part[:, :size] for part in next(iter(task.batches(1))))
    (whole,) = torch.autograd.grad(task.loss(model, batch), model.table)
    parts, losses, graphs = [], [], []
    for task.rank in range(world):
        task.world_size = world
        loss = task.loss(model, batch)
        losses.append(loss.item())
        parts.append(torch.autograd.grad(loss, model.table)[0])
        graphs.append(edges(model.seen[-1][1]))
    assert torch.allclose(sum(parts) / world, whole, atol=1e-7)
    assert all(graph == graphs[0] for graph in graphs)  # every rank removes the links of the whole batch
    task.rank, task.world_size = 0, 1
    assert sum(losses) / world == pytest.approx(task.loss(model, batch).item(), rel=1e-5)


# Evaluation ----------------------------------------------------------------------------------------------------------


def by_hand(pos: list[float], neg: list[float], metric: str) -> float:
    if metric.startswith("Hits@"):
        bar = sorted(neg, reverse=True)[int(metric[5:]) - 1]
        return 100 * sum(p > bar for p in pos) / len(pos)
    if metric == "AUC":
        wins = sum((p > n) + (p == n) / 2 for p in pos for n in neg)
        return 100 * wins / (len(pos) * len(neg))
    ranks = [1 + sum(n > p for n in neg) + sum(n == p for n in neg) / 2 for p in pos]
    return 100 * sum(1 / rank for rank in ranks) / len(ranks)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_metrics_are_those_written_out(split, part):
    metrics = ("Hits@50", "Hits@3", "Hits@1", "MRR", "AUC")
    task = LinkPredictionTask(split, 50, metrics)
    model = Recorder(split.num_nodes)
    with torch.no_grad():
        model.table.mul_(4).round_()  # many ties
    found = task.evaluate(model, part)
    pos, neg = getattr(split, f"{part}_pos"), getattr(split, f"{part}_neg")
    scores = [model.table[p[0], p[1]].tolist() for p in (pos, neg)]
    assert list(found) == list(metrics)
    for name in metrics:
        assert found[name] == pytest.approx(by_hand(*scores, name), rel=1e-6), name


def test_test_scores_use_the_graph_with_validation_links(split):
    both = torch.cat([split.valid_pos, split.valid_pos.flip(0)], 1)
    richer = dataclasses.replace(split, test_edge_index=torch.cat([split.train_edge_index, both], 1))
    task = LinkPredictionTask(richer, 50)
    model = Recorder(split.num_nodes)
    for part, graph in (("valid", task.train_graph), ("test", task.test_graph)):
        model.seen.clear()
        task.evaluate(model, part)
        assert all(seen[-2 if seen[0] == "decode" else -1] is graph for seen in model.seen)
    assert edges(task.test_graph) - edges(task.train_graph) == set(pairs_of(both))
    plain = LinkPredictionTask(split, 50)
    assert plain.test_graph is plain.train_graph


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunks_of_evaluation_do_not_change_scores(split, size):
    expected = LinkPredictionTask(split, 50).scores(Recorder(split.num_nodes), "test")
    model = Recorder(split.num_nodes)
    found = LinkPredictionTask(split, 50, eval_batch_size=size).scores(model, "test")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert max(seen[2].size(1) for seen in model.seen if seen[0] == "decode") <= size


def own_negatives(split, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(links):
        return torch.randint(split.num_nodes, (links.size(1), k), generator=generator)

    none = split.valid_neg[:, :0]
    return dataclasses.replace(
        split,
        valid_neg=none,
        test_neg=none,
        valid_neg_target=draw(split.valid_pos),
        test_neg_target=draw(split.test_pos),
    )


def test_negatives_of_each_source(split):
    own = own_negatives(split)
    task = LinkPredictionTask(own, 50)
    assert task.monitor == "MRR"
    model = Recorder(split.num_nodes)
    found = task.evaluate(model, "test")
    total = 0.0
    for (a, b), tails in zip(pairs_of(own.test_pos), own.test_neg_target.tolist(), strict=True):
        total += by_hand([model.table[a, b].item()], [model.table[a, c].item() for c in tails], "MRR")
    assert found == {"MRR": pytest.approx(total / own.test_pos.size(1), rel=1e-6)}


def test_a_run_with_negatives_of_each_source(split):
    task = LinkPredictionTask(own_negatives(split), 50)
    model = small_runs.small_model(task, "NCN")
    result = Trainer(1, device="cpu", progress=False).fit(model, task, torch.optim.Adam(model.parameters()))
    assert set(result.best) == {"MRR"}


class Official:
    """What an official evaluator looks like."""

    def __init__(self, eval_metric, found):
        self.eval_metric, self.found = eval_metric, found

    def eval(self, scores):
        self.scores = scores
        return self.found


@pytest.mark.parametrize(
    ("official", "monitor", "found"),
    [
        (Official("hits@50", {"hits@50": 0.25}), "Hits@50", {"Hits@50": 25.0}),
        (
            Official("mrr", {"mrr_list": torch.tensor([0.5, 1.0]), "hits@1_list": torch.tensor([0.0, 1.0])}),
            "MRR",
            {"MRR": 75.0, "Hits@1": 50.0},
        ),
        (Official("rocauc", {"rocauc": 0.5}), "AUC", {"AUC": 50.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_official_evaluator_replaces_the_metrics(split, official, monitor, found):
    task = LinkPredictionTask(split, 50, evaluator=official)
    assert task.monitor == monitor
    model = Recorder(split.num_nodes)
    assert task.evaluate(model, "valid") == found
    pos = model.table[split.valid_pos[0], split.valid_pos[1]]
    assert torch.equal(official.scores["y_pred_pos"], pos)
    assert official.scores["y_pred_neg"].shape == (split.valid_neg.size(1),)


def test_scores_that_are_nan_are_an_error(split):
    model = Recorder(split.num_nodes)
    with torch.no_grad():
        model.table.fill_(math.nan)
    with pytest.raises(ValueError, match="scores of valid links that are NaN"):
        LinkPredictionTask(split, 50).evaluate(model, "valid")


def test_histogram_holds_all_scores(split):
    found = LinkPredictionTask(split, 50).histogram(Recorder(split.num_nodes))
    assert len(found["edges"]) == 41
    for kind in ("links", "non-links"):
        assert sum(found[kind]) == pytest.approx(1, abs=1e-3)
    constant = Recorder(split.num_nodes)
    with torch.no_grad():
        constant.table.fill_(2.0)
    assert sum(LinkPredictionTask(split, 50).histogram(constant)["links"]) == pytest.approx(1)


def test_features_follow_the_type_of_the_weights(split):
    task = LinkPredictionTask(dataclasses.replace(split, x=split.x.double()), 50)
    for dtype in (torch.float32, torch.float64):
        model = Recorder(split.num_nodes).to(dtype)
        pos, _ = task.scores(model, "test")
        assert model.seen[0][1].dtype == pos.dtype == dtype
    assert task.x.dtype == torch.float64


def test_heuristics_need_no_features(split):
    task = LinkPredictionTask(dataclasses.replace(split, x=None), 50)
    assert task.num_features == 0
    assert task.evaluate(LinkHeuristic("ra"), "test")["AUC"] > 60


def test_moving_to_a_device_keeps_one_graph(split):
    task = LinkPredictionTask(split, 50)
    before = task.evaluate(Recorder(split.num_nodes), "test")
    assert task.to("cpu") is task
    assert task.test_graph is task.train_graph
    assert task.evaluate(Recorder(split.num_nodes), "test") == before


# What is refused -----------------------------------------------------------------------------------------------------


def changed(split, **parts):
    """A split with parts that its own constructor may not have checked."""
    return dataclasses.replace(split, **parts)


NONE = torch.empty(2, 0, dtype=torch.long)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"train_pos": NONE}, ValueError, "split.train_pos must hold at least one link"),
        ({"valid_pos": NONE}, ValueError, "split.valid_pos must hold at least one link"),
        ({"test_pos": NONE}, ValueError, "split.test_pos must hold at least one link"),
        ({"valid_neg": NONE}, ValueError, "split.valid_neg must hold at least one pair"),
        ({"test_neg": NONE}, ValueError, "split.test_neg must hold at least one pair"),
        ({"x": torch.zeros(3, 2)}, ValueError, r"split.x must have 120 rows, one a node \(got 3\)"),
        ({"x": torch.zeros(120)}, ValueError, "split.x must be a matrix"),
        ({"x": torch.zeros(120, 2, dtype=torch.long)}, TypeError, r"split.x must be floating point .*\.float\(\)"),
        ({"x": torch.full((120, 2), math.nan)}, ValueError, r"split.x holds nan at \[0, 0\]"),
        ({"x": torch.full((120, 2), -math.inf)}, ValueError, r"split.x holds -inf at \[0, 0\]"),
        ({"x": (torch.eye(120) * math.inf).nan_to_num(0, math.inf).to_sparse_csr()}, ValueError, r"inf at \[0, 0\]"),
        ({"train_pos": torch.tensor([[0], [120]])}, IndexError, "train_pos holds node id 120"),
        ({"valid_neg": torch.tensor([[-1], [0]])}, IndexError, "valid_neg holds node id -1"),
        ({"test_pos": torch.zeros(2, 3)}, TypeError, "test_pos must be int64 or int32"),
        ({"train_edge_index": torch.zeros(3, 2, dtype=torch.long)}, ValueError, "train_edge_index must have shape"),
        ({"num_nodes": 5}, IndexError, "holds node id"),
        ({"num_nodes": -1}, IndexError, "holds node id"),
        (
            {"valid_neg_target": torch.zeros(48, 3, dtype=torch.long)},
            ValueError,
            "both valid_neg_target and test_neg_target",
        ),
        ({"valid_neg_target": torch.zeros(2, 3, dtype=torch.long)}, ValueError, r"must have shape \[48, k\]"),
        ({"valid_neg_target": torch.full((48, 3), 120)}, IndexError, "valid_neg_target holds node id 120"),
        ({"valid_neg_target": torch.zeros(48, 3)}, TypeError, "valid_neg_target must be int64"),
    ],
)
def test_bad_splits(split, parts, error, message):
    with pytest.raises(error, match=message):
        LinkPredictionTask(changed(split, **parts), 20)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, r"batch_size must be in .*\(got 0\)"),
        ({"batch_size": 2.5}, TypeError, r"batch_size must be an integer \(got 2.5\)"),
        ({"eval_batch_size": 0}, ValueError, "eval_batch_size"),
        ({"seed": -1}, ValueError, "seed"),
        ({"negatives": "uniforn"}, ValueError, "did you mean 'uniform'"),
        ({"metrics": ("Hits@0",)}, ValueError, "'Hits@0'"),
        ({"metrics": ("mrr",)}, ValueError, "'mrr'"),
        ({"metrics": ()}, ValueError, "at least one metric"),
        ({"metrics": ("MRR", "Hits@100")}, ValueError, r"Hits@100, which is 100 % .* only 96 negatives"),
        ({"batch_size": 336}, ValueError, "batch_size=336 takes every training edge out .*target_link_removal=False"),
        ({"batch_size": 10_000}, ValueError, "batch_size=10000 takes every training edge"),
    ],
)
def test_bad_arguments(split, arguments, error, message):
    assert (split.train_pos.size(1), split.valid_neg.size(1)) == (336, 96)
    with pytest.raises(error, match=message):
        LinkPredictionTask(split, **{"batch_size": 20, **arguments})


def test_metrics_follow_the_number_of_negatives(split):
    assert LinkPredictionTask(split, 50).metrics == ("Hits@50", "Hits@20", "Hits@10", "Hits@1", "MRR", "AUC")
    assert LinkPredictionTask(split, 50, "MRR").metrics == ("MRR",)
    assert LinkPredictionTask(split, 50, ("Hits@96",)).monitor == "Hits@96"
    with pytest.raises(ValueError, match="where every source has its own negatives"):
        LinkPredictionTask(own_negatives(split), 50, ("AUC",))


def test_another_kind_of_split_is_refused(split):
    data = Data(edge_index=split.train_edge_index, num_nodes=split.num_nodes)
    with pytest.raises(TypeError, match=r"split must be a .*LinkSplit \(got tuple\)"):
        LinkPredictionTask((data, data, data), 50)


def test_the_whole_batch_without_removal(split):
    task = LinkPredictionTask(split, 10_000, target_link_removal=False)
    assert task.num_batches() == 1
    ((pos, _),) = task.batches(1)
    assert sorted(pairs_of(pos)) == sorted(pairs_of(split.train_pos))


def one_node():
    loop = torch.zeros(2, 1, dtype=torch.long)
    return LinkSplit(1, loop, loop, loop, loop, loop, loop)


def complete():
    """Every pair is a link: no negative can be drawn."""
    ends = torch.combinations(torch.arange(8)).t()
    both = torch.cat([ends, ends.flip(0)], 1)
    return LinkSplit(8, both, ends, ends[:, :2], ends[:, 2:4], ends[:, :2], ends[:, 2:4])


@pytest.mark.parametrize("make", [one_node, complete])
def test_graphs_without_negatives_are_found_at_once(make):
    with pytest.raises(ValueError, match="too dense for negatives"):
        LinkPredictionTask(make(), 1, target_link_removal=False)


def test_a_graph_of_two_links_trains():
    # The least that leaves an edge in the graph when a batch is taken out.
    train = torch.tensor([[0, 2], [1, 3]])
    both = torch.cat([train, train.flip(0)], 1)
    rest, none = torch.tensor([[0], [2]]), torch.tensor([[1], [3]])
    task = LinkPredictionTask(LinkSplit(4, both, train, rest, none, rest, none, x=torch.ones(4, 3)), 1)
    assert task.metrics == ("Hits@1", "MRR", "AUC")
    for decoder in ("NCN", "NCNC"):
        model = small_runs.small_model(task, decoder, dropout=0.0)
        result = Trainer(2, device="cpu", progress=False).fit(model, task, torch.optim.Adam(model.parameters()))
        assert all(math.isfinite(row["loss"]) for row in result.history)


def test_repr_tells_sizes(split):
    assert re.fullmatch(
        r"LinkPredictionTask\(LinkSplit\(.*train=336.*\), batch_size=50\)", repr(LinkPredictionTask(split, 50))
    )


def test_softplus_is_stable_for_large_scores(split):
    task = LinkPredictionTask(split, 50)
    model = Recorder(split.num_nodes)
    with torch.no_grad():
        model.table.fill_(1e4)
    loss = task.loss(model, next(iter(task.batches(1))))
    assert loss.item() == pytest.approx(F.softplus(torch.tensor(1e4)).item())
