"""Contrastive pre-training on graphs, graph classification, and the study of transfer."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN

from graphkit.datasets.splits import IndexSplit, per_class_split
from graphkit.datasets.synthetic import bernoulli_graph
from graphkit.nn import GNN
from graphkit.train import Experiment, GraphClassificationTask, Trainer
from graphkit.train.pretrain import (
    EdgePerturbation,
    GraphContrastTask,
    GraphEncoder,
    NodeDropping,
    TransferTask,
    WalkSubgraph,
    gin_encoder,
    projection_head,
    structural_features,
)
from graphkit.train.pretrain.transfer import correlation
from graphkit.transforms.ego_nets import EgoNets
from graphkit.utils.seed import seed_everything, stream

RUN = {"device": "cpu", "progress": False}


def random_graphs(count: int, p: float = 0.3, seed: int = 0) -> list[Data]:
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(6, 14, (count,), generator=draw).tolist()
    return [bernoulli_graph(torch.full((n, n), p), draw) for n in sizes]


def two_densities(count: int, seed: int = 0) -> tuple[list[Data], torch.Tensor]:
    y = torch.arange(count) % 2
    return [random_graphs(1, 0.2 + 0.4 * int(label), seed + i)[0] for i, label in enumerate(y)], y


def batch_of(graphs: list[Data]) -> Batch:
    return Batch.from_data_list(graphs)


def edges(data: Data) -> set[tuple[int, int]]:
    return set(map(tuple, data.edge_index.t().tolist()))


# Views ---------------------------------------------------------------------------------------------------------------

VIEWS = [NodeDropping(0.3), EdgePerturbation(0.3), WalkSubgraph(3, 0.3, 4)]


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_views_are_undirected_and_stay_within_their_graphs(view) -> None:
    graphs = batch_of([*random_graphs(12), Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=1)])
    found = view(graphs, stream(0))
    assert found.num_graphs == 13
    assert torch.equal(found.batch.unique(), torch.arange(13))  # no graph is empty
    assert bool((found.batch.diff() >= 0).all())
    row, col = found.edge_index
    assert torch.equal(found.batch[row], found.batch[col])
    assert edges(found) == {(b, a) for a, b in edges(found)}
    assert not bool((row == col).any())
    assert len(edges(found)) == found.num_edges
    again, other = view(graphs, stream(0)), view(graphs, stream(1))
    assert torch.equal(again.edge_index, found.edge_index)
    assert not torch.equal(other.edge_index, found.edge_index)


def test_dropping_nodes_keeps_the_induced_subgraph() -> None:
    graphs = batch_of(random_graphs(40))
    graphs.x = torch.arange(graphs.num_nodes).float()[:, None]
    found = NodeDropping(0.25)(graphs, stream(3))
    kept = found.x[:, 0].long()
    share = kept.numel() / graphs.num_nodes
    assert abs(share - 0.75) < 4 * math.sqrt(0.25 * 0.75 / graphs.num_nodes) + 0.02
    inside = set(kept.tolist())
    assert {(int(kept[a]), int(kept[b])) for a, b in edges(found)} == {
        (a, b) for a, b in edges(graphs) if a in inside and b in inside
    }
    assert torch.equal(found.batch, graphs.batch[kept])
    assert NodeDropping(0.0)(graphs, stream(0)).num_nodes == graphs.num_nodes
    assert NodeDropping(1.0)(graphs, stream(0)).num_nodes == 40


def test_perturbation_replaces_a_share_of_the_edges() -> None:
    graphs = batch_of(random_graphs(60))
    found = EdgePerturbation(0.3)(graphs, stream(3))
    old, new = edges(graphs), edges(found)
    # What went may come back by chance.
    assert 0.2 < len(old - new) / len(old) < 0.35
    assert 0.75 < len(new) / len(old) <= 1
    assert new - old
    assert edges(EdgePerturbation(0.0)(graphs, stream(0))) == old


def test_walks_see_what_is_near_the_root() -> None:
    path = Data(edge_index=torch.tensor([[*range(9), *range(1, 10)], [*range(1, 10), *range(9)]]), num_nodes=10)
    egos = EgoNets(num_hops=9)(path)
    graphs = batch_of(egos)
    graphs.x = torch.arange(100).float()[:, None]
    for seed in range(5):
        found = WalkSubgraph(4, 0.0, 2)(graphs, stream(seed))
        node = found.x[:, 0].long() % 10
        assert bool(((node - found.batch).abs() <= 2).all())
        assert set(zip(found.batch.tolist(), node.tolist(), strict=True)) >= {(root, root) for root in range(10)}
    # A walk that goes back before each step never leaves.
    assert WalkSubgraph(4, 1.0, 5)(graphs, stream(0)).num_nodes == 10


@pytest.mark.parametrize(
    "make",
    [lambda: NodeDropping(-0.1), lambda: EdgePerturbation(1.1), lambda: WalkSubgraph(0), lambda: WalkSubgraph(2, 2.0)],
)
def test_bad_views(make) -> None:
    with pytest.raises(ValueError, match="must be in"):
        make()


# Encoder -------------------------------------------------------------------------------------------------------------


def test_structural_features() -> None:
    star = torch.tensor([[0] * 5 + list(range(1, 6)), list(range(1, 6)) + [0] * 5])
    found = structural_features(star, 7)
    assert torch.allclose(found.sum(1), torch.ones(7))
    assert found[1].tolist() == [0, 1] + [0] * 8  # degree 1
    assert found[6].tolist() == [1] + [0] * 9  # no neighbour
    assert abs(float(found[0, 3]) - (math.log2(6) - 2)) < 1e-6  # degree 5, between 3 and 7
    assert structural_features(torch.zeros(2, 5000, dtype=torch.long), 1)[0, 9] == 1


@pytest.mark.parametrize("kind", ["gin", "pyg", "graphkit"])
def test_encoder_of_a_batch_is_that_of_its_graphs(kind: str) -> None:
    """Also with encoders of other kinds, and whatever the order of the nodes."""
    seed_everything(0)
    encoder = {
        "gin": lambda: gin_encoder(8, 2),
        "pyg": lambda: GCN(10, 8, 2),
        "graphkit": lambda: GNN(10, 8, 2, 8, conv="sage"),
    }[kind]()
    model = GraphEncoder(encoder, projection_head(8, 4)).eval()
    graphs = random_graphs(5)
    batch = batch_of(graphs)
    found = model(None, batch.edge_index, batch.batch, 5)
    assert found.shape == (5, 4)
    order = torch.randperm(graphs[0].num_nodes)
    alone = [Data(edge_index=order[graphs[0].edge_index], num_nodes=graphs[0].num_nodes), *graphs[1:]]
    for row, graph in zip(found, alone, strict=True):
        one = model(None, graph.edge_index, torch.zeros(graph.num_nodes, dtype=torch.long), 1)
        torch.testing.assert_close(one[0], row, atol=1e-5, rtol=1e-4)


# Contrast ------------------------------------------------------------------------------------------------------------


def contrast(graphs: list[Data], **options) -> GraphContrastTask:
    return GraphContrastTask(graphs, (NodeDropping(0.1), EdgePerturbation(0.1)), **options)


def test_loss_by_hand() -> None:
    task = contrast(random_graphs(20), batch_size=8, tau=0.5)
    seed_everything(0)
    model = GraphEncoder(gin_encoder(8, 2), projection_head(8, 4)).eval()
    batch = next(task.batches(1))
    first, second = task._pair(*batch)
    u, v = (nn.functional.normalize(model(None, w.edge_index, w.batch, 8)) for w in (first, second))
    total = 0.0
    for i in range(8):
        for a, b in ((u, v), (v, u)):
            scores = torch.stack([a[i] @ b[j] for j in range(8)]) / 0.5
            total += float(torch.logsumexp(scores, 0) - scores[i])
    assert float(task.loss(model, batch)) == pytest.approx(total / 16, abs=1e-5)


def test_batches_hold_every_training_graph_once() -> None:
    task = contrast(random_graphs(30), batch_size=7, held_out=0.2)
    parts = [ids for ids, _ in task.batches(1)]
    held = torch.cat([task._ids["valid"], task._ids["test"]])
    assert sorted(torch.cat([*parts, held]).tolist()) == list(range(30))
    assert len(parts) == task.num_batches() == 3
    assert task.epoch_size() == sum(ids.numel() for ids in parts) == 18
    numbers = [number for epoch in (1, 2) for _, number in task.batches(epoch)]
    assert len(set(numbers)) == 6  # new views each step
    assert not torch.equal(parts[0], next(task.batches(2))[0])


def test_it_learns_to_tell_graphs_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    graphs = [bernoulli_graph(torch.full((30, 30), float(p)), draw) for p in torch.linspace(0.05, 0.9, 120)]
    task = contrast(graphs, batch_size=50, held_out=0.2)
    seed_everything(0)
    model = GraphEncoder(gin_encoder(16, 2), projection_head(16, 16))
    first = sum(float(task.loss(model.eval(), batch)) for batch in task.batches(1))
    Experiment(task, model, torch.optim.Adam(model.parameters(), 0.01), 15, eval_every=5).run(**RUN)
    assert sum(float(task.loss(model.eval(), batch)) for batch in task.batches(1)) < 0.8 * first
    after = task.evaluate(model, "valid")["Accuracy"]
    assert after > 25  # chance is 4
    assert task.evaluate(model, "valid")["Accuracy"] == after  # the same views each time


def test_a_killed_run_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    graphs = random_graphs(30)

    def run(epochs: int, folder, resume: bool = False) -> dict[str, torch.Tensor]:
        seed_everything(0)
        task = GraphContrastTask(graphs, (WalkSubgraph(), NodeDropping(0.2)), batch_size=10)
        model = GraphEncoder(gin_encoder(8, 2), projection_head(8, 8))
        trainer = Trainer(epochs, folder=folder, resume=resume, **RUN)
        trainer.fit(model, task, torch.optim.Adam(model.parameters(), 0.01))
        return model.state_dict()

    whole = run(4, tmp_path / "a")
    run(2, tmp_path / "b")
    resumed = run(4, tmp_path / "b", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bad_contrasts() -> None:
    graphs = random_graphs(10)
    for make, message in (
        (lambda: contrast(graphs[:3]), "at least 4"),
        (lambda: GraphContrastTask(graphs, (NodeDropping(),)), "two functions"),
        (lambda: contrast(graphs, tau=0.0), "tau"),
        (lambda: contrast(graphs, batch_size=1), "batch_size"),
        (lambda: contrast(graphs, held_out=0.5), "held_out"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="split"):
        contrast(graphs).evaluate(nn.Identity(), "train")
    assert repr(contrast(graphs)) == (
        "GraphContrastTask(graphs=10, held_out=1, NodeDropping(p=0.1), EdgePerturbation(p=0.1))"
    )


# Classification ------------------------------------------------------------------------------------------------------


def classification(count: int = 60) -> GraphClassificationTask:
    graphs, y = two_densities(count)
    return GraphClassificationTask(graphs, y, per_class_split(y, 10, 8), 8)


def classifier(hidden: int = 8) -> GraphEncoder:
    return GraphEncoder(gin_encoder(hidden, 2), nn.Linear(hidden, 2))


def test_classes_are_learned_and_the_metrics_are_right() -> None:
    task = classification()
    seed_everything(0)
    model = classifier()
    result = Experiment(task, model, torch.optim.Adam(model.parameters(), 0.01), 15).run(**RUN)
    assert result.test("Accuracy") > 85
    batch = task._graphs.batch(task.split.test)
    right = model(None, batch.edge_index, batch.batch, batch.num_graphs).argmax(1) == task.y[task.split.test]
    assert task.evaluate(model, "test")["Accuracy"] == pytest.approx(100 * float(right.float().mean()), abs=1e-4)


def test_loss_of_a_batch_is_the_mean_over_its_graphs_on_all_ranks() -> None:
    task = classification()
    seed_everything(0)
    model = classifier().eval()
    batch = next(task.batches(1))
    whole = float(task.loss(model, batch))
    shares = []
    for rank in range(3):
        task.rank, task.world_size = rank, 3
        shares.append(float(task.loss(model, batch)))
    assert sum(shares) / 3 == pytest.approx(whole, abs=1e-5)
    task.rank, task.world_size = 1, 2
    assert float(task.loss(model, batch[:1])) == 0  # a rank without a graph


def test_bad_classifications() -> None:
    graphs, y = two_densities(12)
    split = per_class_split(y, 2, 2)
    for make, error, message in (
        (lambda: GraphClassificationTask(graphs, y[:3], split), ValueError, "one label for each of the 12"),
        (lambda: GraphClassificationTask(graphs, y, "random"), TypeError, "IndexSplit"),
        (lambda: GraphClassificationTask(graphs, -y, split), ValueError, "without a label"),
        (lambda: GraphClassificationTask(graphs[:5], y[:5], split), IndexError, "outside"),
        (lambda: GraphClassificationTask(graphs, y, split, num_classes=1), ValueError, "num_classes"),
        (
            lambda: GraphClassificationTask(graphs, y, IndexSplit(split.train, split.valid[:0], split.test)),
            ValueError,
            "split.valid holds no graphs",
        ),
    ):
        with pytest.raises(error, match=message):
            make()
    task = GraphClassificationTask(graphs, y, split)
    with pytest.raises(ValueError, match=r"model must return logits \[4, 2\]"):
        task.loss(GraphEncoder(gin_encoder(8, 1)), split.train)


# Transfer ------------------------------------------------------------------------------------------------------------


def transfer(scores: torch.Tensor, calls: list[str]) -> TransferTask:
    """Two sources and two targets; an encoder's weight says what it was pre-trained on, fine-tuning reads it."""

    class Fake:
        def __init__(self, act) -> None:
            self.act = act

        def run(self, **options):
            return self.act()

    class Result:
        def __init__(self, value: float) -> None:
            self.best = {"Accuracy": {"valid": value + 1, "test": value}}

    def pretrain(graphs, encoder):
        def act():
            calls.append(f"pretrain {len(graphs)}")
            with torch.no_grad():
                encoder.weight.fill_(len(graphs))

        return Fake(act)

    def finetune(task, encoder):
        def act():
            calls.append("finetune")
            return Result(50 + 3 * float(encoder.weight) * task.num_graphs / 12)

        return Fake(act)

    small, large = classification(40), classification(60)
    sources = {"a": random_graphs(2), "b": random_graphs(5)}
    return TransferTask(
        sources, {"s": [small, small], "l": [large]}, {"Score": scores, "Other": -scores}, pretrain, finetune
    )


def test_gains_and_correlations() -> None:
    scores, calls = torch.tensor([[0.1, 0.4], [0.2, 0.9]]), []
    task = transfer(scores, calls)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    found = task.evaluate(model, "test")
    # From scratch the weight is 0; gains are 3 w n / 12.
    gain = torch.tensor([[20.0, 30.0], [50.0, 75.0]])
    assert found["Score"] == pytest.approx(100 * pearsonr(scores.flatten(), gain.flatten())[0], abs=1e-4)
    assert found["Other"] == pytest.approx(-found["Score"])
    assert found["Score rank"] == pytest.approx(100 * spearmanr(scores.flatten(), gain.flatten())[0], abs=1e-4)
    assert (found["Scratch"], found["Pretrained"]) == (50, pytest.approx(50 + float(gain.mean())))
    assert task.monitor == "Score"
    assert float(model.weight) == 0  # copies were trained
    # Once for both parts and the table: two pre-trainings, three encoders on three tasks.
    assert task.evaluate(model, "valid")["Scratch"] == 51
    table = task.table(model)
    assert (table["source"], table["target"]) == (["a", "a", "b", "b"], ["s", "l", "s", "l"])
    assert table["gain"] == gain.flatten().tolist()
    assert table["Score"] == pytest.approx([0.1, 0.4, 0.2, 0.9])
    assert calls.count("finetune") == 9
    assert [call for call in calls if call != "finetune"] == ["pretrain 2", "pretrain 5"]


def test_real_trainings_are_the_same_again() -> None:
    sources = {"sparse": random_graphs(12, 0.2), "dense": random_graphs(12, 0.6)}
    task = classification(40)
    encoder = gin_encoder(4, 1)

    def pretrain(graphs, encoder):
        network = GraphEncoder(encoder, projection_head(4, 4))
        return Experiment(contrast(graphs), network, torch.optim.Adam(network.parameters(), 0.01), 1)

    def finetune(task, encoder):
        network = GraphEncoder(encoder, nn.Linear(4, 2))
        return Experiment(task, network, torch.optim.Adam(network.parameters(), 0.01), 2)

    before = copy.deepcopy(encoder.state_dict())
    scores = {"Feasibility": torch.rand(2, 2)}
    found = [
        TransferTask(sources, {"x": [task], "y": [task]}, scores, pretrain, finetune, seed=3).evaluate(encoder, "test")
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_correlation() -> None:
    a, b = torch.rand(3, 4), torch.rand(3, 4)
    assert correlation(a, b) == pytest.approx(pearsonr(a.flatten(), b.flatten())[0], abs=1e-5)
    assert correlation(a, torch.ones(3, 4)) == 0


def test_bad_studies() -> None:
    with pytest.raises(ValueError, match=r"scores\['Score'\] must have shape \[2, 2\] \(got \[2, 3\]\)"):
        transfer(torch.rand(2, 3), [])
    with pytest.raises(ValueError, match="3 pairs"):
        TransferTask({"a": []}, {"x": []}, {"Score": torch.rand(1, 1)}, None, None)
    with pytest.raises(ValueError, match="at least one matrix"):
        TransferTask({"a": [], "b": []}, {"x": [], "y": []}, {}, None, None)
    task = transfer(torch.rand(2, 2), [])
    with pytest.raises(NotImplementedError, match="only evaluated"):
        task.loss(nn.Identity(), None)
    task.world_size = 2
    with pytest.raises(ValueError, match="one process"):
        task.evaluate(nn.Linear(1, 1, bias=False), "test")
