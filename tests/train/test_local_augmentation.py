"""Local augmentation as a procedure: the generator's task, the samples, views, consistency, and what is stored."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import GNN, GRAND, LAGCN, NeighborCVAE, sparsify
from graphkit.ops import NeighborIndex
from graphkit.train import (
    AugmentedClassifier,
    AugmentedNetwork,
    AugmentedView,
    ConsistencyTask,
    Experiment,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    NodeClassificationTask,
    PredictionUncertainty,
    Trainer,
    consistency_loss,
    sharpen,
)
from graphkit.train.augment.local_augmentation import normalize_rows
from graphkit.utils.seed import stream

SIZE, WIDTH, CLASSES = 30, 12, 3


def graph(seed: int = 0) -> Data:
    """Nodes of three classes; words and edges follow the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(SIZE) % CLASSES
    chance = torch.where(torch.arange(WIDTH) % CLASSES == y[:, None], 0.5, 0.1)
    x = (torch.rand(SIZE, WIDTH, generator=generator) < chance).float()
    ends = torch.randint(SIZE, (2, 400), generator=generator)
    ends = ends[:, (y[ends[0]] == y[ends[1]]) & (ends[0] != ends[1])][:, :60]
    return Data(x=x, edge_index=torch.cat([ends, ends.flip(0)], 1).unique(dim=1), y=y)


def thirds() -> IndexSplit:
    return IndexSplit(torch.arange(9), torch.arange(9, 18), torch.arange(18, 30))


def generator(seed: int = 0, **options) -> NeighborCVAE:
    torch.manual_seed(seed)
    return NeighborCVAE(WIDTH, 8, 3, **options)


def augmented(pool_size: int | None = 20, num_generated: int = 1, **options) -> LocalAugmentationTask:
    augment = LocalAugmentation(generator(), num_generated, pool_size=pool_size)
    return LocalAugmentationTask(graph(), thirds(), augment, **options)


def network(num_generated: int = 1, seed: int = 0, dropout: float = 0.5) -> AugmentedNetwork:
    torch.manual_seed(seed)
    return AugmentedNetwork(LAGCN(WIDTH, 4, CLASSES, num_generated, dropout=dropout))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.02)


# Consistency


def test_golden_values() -> None:
    first, second = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.6, 0.4]])
    torch.testing.assert_close(
        sharpen(torch.tensor([0.7, 0.3]), 0.5), torch.tensor([0.844828, 0.155172]), atol=1e-6, rtol=0
    )
    assert float(consistency_loss([first, second], 0.5)) == pytest.approx(0.061950, abs=1e-6)
    assert float(consistency_loss([first, second], 1.0)) == pytest.approx(0.020000, abs=1e-6)
    assert float(consistency_loss([first, second], 1.0, weight=3)) == pytest.approx(0.06, abs=1e-6)


def test_it_is_zero_only_for_agreement_on_a_fixed_point_of_sharpening() -> None:
    for p, zero in (([0.5, 0.5, 0], True), ([1, 0, 0], True), ([1 / 3] * 3, True), ([0.5, 0.3, 0.2], False)):
        agreeing = torch.tensor([[p], [p]], dtype=torch.float)
        assert (float(consistency_loss(agreeing, 0.5)) < 1e-12) == zero
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert float(consistency_loss(apart, 0.5)) == pytest.approx(0.5)


def test_without_sharpening_it_is_the_variance() -> None:
    probs = torch.rand(4, 7, 5).softmax(-1)
    expected = probs.var(dim=0, correction=0).sum(-1).mean()
    torch.testing.assert_close(consistency_loss(probs, 1.0), expected)


def test_no_gradient_flows_through_the_target() -> None:
    probs = torch.rand(3, 4, 5, dtype=torch.float64).softmax(-1).requires_grad_()
    consistency_loss(probs, 0.5).backward()
    target = sharpen(probs.detach().mean(0), 0.5)
    step, numeric = 1e-6, torch.zeros_like(probs)
    for place in range(probs.numel()):
        for sign in (1, -1):
            moved = probs.detach().clone()
            moved.view(-1)[place] += sign * step
            numeric.view(-1)[place] += sign * (moved - target).square().sum(-1).mean() / (2 * step)
    torch.testing.assert_close(probs.grad, numeric, atol=1e-7, rtol=1e-5)


def test_sharpening_small_probabilities_does_not_vanish() -> None:
    p = torch.full((1, 4), 1e-30)
    torch.testing.assert_close(sharpen(p, 0.1), torch.full((1, 4), 0.25))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharpen(torch.ones(2), 0), "temperature"),
        (lambda: consistency_loss(torch.ones(2, 3, 4), -1), "temperature"),
        (lambda: consistency_loss(torch.ones(1, 3, 4)), "K >= 2"),
        (lambda: consistency_loss(torch.ones(3, 4)), r"got \[3, 4\]"),
        (lambda: consistency_loss(torch.ones(2, 3, 4), weight=-1), "weight"),
    ],
)
def test_wrong_input_of_consistency(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# The generator's task


def test_pairs_are_all_edges_once_without_loops() -> None:
    edge_index = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 0, 4, 4, 0], [1, 0, 2, 1, 3, 2, 0, 3, 4, 4, 1]])
    task = NeighborFeatureTask(torch.rand(5, 3), edge_index, held_out=0.5)
    pairs = torch.cat(list(task.pairs.values()), 1).t().tolist()
    assert sorted(map(tuple, pairs)) == sorted({(u, v) for u, v in edge_index.t().tolist() if u != v})
    for part in task.pairs.values():
        both = {tuple(pair) for pair in part.t().tolist()}
        assert both == {(v, u) for u, v in both}, "both directions of an edge are held out together"


def test_the_centre_hears_from_the_neighbour() -> None:
    edges = torch.tensor([[0, 1, 2], [3, 4, 5]])  # from source to target
    task = NeighborFeatureTask(torch.rand(6, 3), edges, held_out=0.5)
    assert {tuple(p) for part in task.pairs.values() for p in part.t().tolist()} == {(0, 3), (1, 4), (2, 5)}


def test_an_epoch_is_a_pass_in_an_order_of_its_own() -> None:
    data = graph()
    task = NeighborFeatureTask(data.x, data.edge_index, batch_size=16)
    train = task.pairs["train"]
    epochs = []
    for epoch in (1, 2, 1):
        batches = list(task.batches(epoch))
        assert len(batches) == task.num_batches() == math.ceil(train.size(1) / 16)
        epochs.append(torch.cat(batches, 1))
        assert sorted(epochs[-1].t().tolist()) == sorted(train.t().tolist())
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_its_loss_and_metric_are_the_bound_of_its_pairs() -> None:
    data, cvae = graph(), generator()
    task = NeighborFeatureTask(data.x, data.edge_index, batch_size=16)
    batch = next(task.batches(1))
    torch.manual_seed(5)
    loss = task.loss(cvae, batch)
    torch.manual_seed(5)
    noise = torch.randn(batch.size(1), 3)
    torch.testing.assert_close(loss, cvae.loss(data.x[batch[0]], data.x[batch[1]], noise))
    first, again = (task.evaluate(cvae, "valid")["ELBO"] for _ in range(2))
    assert first == again
    valid = task.pairs["valid"]
    many = [-float(cvae.loss(data.x[valid[0]], data.x[valid[1]])) for _ in range(500)]
    assert first == pytest.approx(sum(many) / 500, abs=5 * float(torch.tensor(many).std()))


def test_ranks_share_a_batch() -> None:
    data, cvae = graph(), generator().eval()
    task = NeighborFeatureTask(data.x, data.edge_index, batch_size=5)
    batch = next(task.batches(1))
    whole, parts = task.loss(cvae, batch), []
    for task.rank in range(7):
        task.world_size = 7
        parts.append(task.loss(cvae, batch))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_the_bound_of_held_out_edges_rises() -> None:
    data, cvae = graph(), generator()
    task = NeighborFeatureTask(data.x, data.edge_index, batch_size=16)
    before = task.evaluate(cvae, "valid")["ELBO"]
    result = Experiment(task, cvae, torch.optim.Adam(cvae.parameters(), 0.01), 30).run(device="cpu", progress=False)
    assert result.best["ELBO"]["valid"] > before + 1
    # Words of the class are more likely beside a node of that class.
    sample = cvae.sample(data.x, torch.Generator().manual_seed(0))
    same = torch.arange(WIDTH) % CLASSES == data.y[:, None]
    assert float(sample[same].mean()) > 1.5 * float(sample[~same].mean())


def test_wrong_input_of_the_generators_task() -> None:
    data = graph()
    with pytest.raises(ValueError, match="edge_index has no edges"):
        NeighborFeatureTask(data.x, torch.tensor([[0, 1], [0, 1]]))
    with pytest.raises(ValueError, match="leaves none to train on"):
        NeighborFeatureTask(data.x, torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="held_out"):
        NeighborFeatureTask(data.x, data.edge_index, held_out=0)
    with pytest.raises(IndexError, match="edge_index holds node id 30"):
        NeighborFeatureTask(data.x, torch.tensor([[0, 30], [1, 2]]))
    task = NeighborFeatureTask(data.x * 3, data.edge_index)
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        task.loss(generator(), next(task.batches(1)))


# What chooses the generator


class Unsure(nn.Module):
    """Class probabilities that change from pass to pass, by as much as the features say."""

    takes_index = True

    def forward(self, x: Tensor, index: NeighborIndex) -> Tensor:
        swing = torch.where(torch.rand(()) < 0.5, 1.0, -1.0) if self.training else torch.ones(())
        return torch.stack([swing * x[:, 0] * 10, torch.zeros(x.size(0)), torch.full((x.size(0),), -99.0)], 1)


def test_the_two_scores_are_opposites() -> None:
    data = graph()
    index = NeighborIndex(data.edge_index, SIZE)
    sure, unsure = torch.zeros(SIZE, WIDTH), torch.zeros(SIZE, WIDTH)
    sure[:, 1], unsure[:, 0] = 1, 1
    bald = PredictionUncertainty(Unsure(), index, "bald", passes=200)
    assert bald(sure) == pytest.approx(0, abs=1e-5)
    # One bit of disagreement: half of the passes say one class, half the other.
    assert bald(unsure) == pytest.approx(math.log(2), abs=0.02)
    assert bald(unsure) == bald(unsure)
    agreement = PredictionUncertainty(Unsure(), index, "agreement", y=data.y.clamp(max=1), nodes=thirds().train)
    assert agreement(sure) == pytest.approx(0, abs=1e-5)
    assert agreement(unsure) < -1
    assert (bald.name, agreement.name) == ("BALD", "Agreement")


def test_a_score_chooses_the_epoch() -> None:
    data, cvae = graph(), generator()
    critic = GNN(WIDTH, 4, 2, CLASSES, dropout=0.5)
    selector = PredictionUncertainty(critic, NeighborIndex(data.edge_index, SIZE), passes=5)
    task = NeighborFeatureTask(data.x, data.edge_index, selector=selector)
    assert task.monitor == "BALD"
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    experiment = Experiment(task, cvae, torch.optim.Adam(cvae.parameters(), 0.01), 4)
    result = experiment.run(device="cpu", progress=False)
    assert result.best["BALD"]["valid"] == max(row["valid/BALD"] for row in result.history)
    assert task.evaluate(cvae, "valid")["BALD"] == result.best["BALD"]["valid"]
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())


def test_wrong_input_of_scores() -> None:
    index = NeighborIndex(graph().edge_index, SIZE)
    with pytest.raises(ValueError, match="kind must be one of bald, agreement"):
        PredictionUncertainty(Unsure(), index, "entropy")
    with pytest.raises(ValueError, match="y and nodes"):
        PredictionUncertainty(Unsure(), index, "agreement")
    with pytest.raises(ValueError, match="passes"):
        PredictionUncertainty(Unsure(), index, passes=0)


# Samples


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_sum_to_one_or_stay_zero(sparse: bool) -> None:
    x = graph().x
    x[3] = 0
    out = normalize_rows(x.to_sparse_csr() if sparse else x)
    total = (out.to_dense() if sparse else out).sum(1)
    assert torch.equal(total[3], torch.tensor(0.0))
    torch.testing.assert_close(total[x.sum(1) > 0], torch.ones(int((x.sum(1) > 0).sum())))
    torch.testing.assert_close((out.to_dense() if sparse else out)[0] * x[0].sum(), x[0])


def test_the_transform_gives_the_features_and_generated_ones() -> None:
    data, cvae = graph(), generator()
    augment = LocalAugmentation(cvae, num_generated=2)
    torch.manual_seed(0)
    own, first, second = augment(data)
    assert torch.equal(own, normalize_rows(data.x))
    assert not torch.equal(first, second)
    for made in (first, second):
        torch.testing.assert_close(made.sum(1), torch.ones(SIZE))
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(augment(data), (own, first, second), strict=True))
    assert not torch.equal(augment(data)[1], first)
    raw = LocalAugmentation(generator(likelihood="gaussian"), normalize=False)(data)
    assert raw[0] is data.x


def test_a_sample_is_a_function_of_its_number() -> None:
    x, cvae = graph().x, generator()
    fresh, pooled = LocalAugmentation(cvae, seed=4), LocalAugmentation(cvae, pool_size=6, seed=4)
    pool = pooled.generate(x, 0, 6)
    for number in range(6):
        assert torch.equal(fresh.generate(x, number, 1)[0], pool[number])
    assert torch.equal(pooled.generate(x, 4, 4), fresh.generate(x, 4, 4)), "beyond the pool they are made anew"
    assert pooled.generate(x, 1, 2).data_ptr() == pool[1].data_ptr(), "the pool is not copied"
    assert not torch.equal(LocalAugmentation(cvae, seed=5).generate(x, 0, 1), pool[:1])
    torch.testing.assert_close(fresh.generate(x.to_sparse_csr(), 2, 1)[0], pool[2])


def test_the_pool_follows_features_and_generator() -> None:
    x, cvae = graph().x, generator()
    augment = LocalAugmentation(cvae, pool_size=2)
    before = augment.generate(x, 0, 1).clone()
    assert torch.equal(augment.generate(x, 0, 1), before)
    assert not torch.equal(augment.generate(x.flip(0), 0, 1), before)
    with torch.no_grad():
        cvae.output.bias += torch.linspace(0, 1, WIDTH)
    assert not torch.equal(augment.generate(x, 0, 1), before)


def test_numbers_are_in_the_pool() -> None:
    augment = LocalAugmentation(generator(), pool_size=6)
    drawn = {augment.draw(4, torch.Generator().manual_seed(seed)) for seed in range(60)}
    assert drawn == {0, 1, 2}
    with pytest.raises(ValueError, match="pool_size must be at least the 7 samples"):
        augment.draw(7)
    assert LocalAugmentation(generator()).draw(4) >= 0


def test_batch_norm_of_the_generator_is_not_trained_by_sampling() -> None:
    x, cvae = graph().x, generator(batch_norm=True)
    cvae.loss(x, x)
    before = copy.deepcopy(cvae.state_dict())
    made = LocalAugmentation(cvae, normalize=False).generate(x, 0, 1)[0]
    assert cvae.training
    expected = copy.deepcopy(cvae).eval().sample(x, stream(0, 0))
    assert torch.equal(made, expected)
    assert all(torch.equal(value, before[name]) for name, value in cvae.state_dict().items())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LocalAugmentation(nn.Linear(2, 2)), TypeError, "NeighborCVAE"),
        (lambda: LocalAugmentation(generator(), -1), ValueError, "num_generated"),
        (lambda: LocalAugmentation(generator(), 2, pool_size=1), ValueError, "pool_size"),
        (lambda: LocalAugmentation(generator(likelihood="gaussian")), ValueError, "normalize=False"),
        (lambda: LocalAugmentation(generator())(Data(num_nodes=3)), ValueError, "features"),
        (lambda: LocalAugmentation(generator())(Data(x=torch.full((3, WIDTH), 2.0))), ValueError, r"\[0, 1\]"),
    ],
)
def test_wrong_input_of_the_transform(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# Views


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_one_call_on_copies_is_many_calls(weight: float) -> None:
    task = ConsistencyTask(graph(), thirds(), num_samples=3, weight=weight, temperature=0.4)
    ours = GNN(WIDTH, 4, 2, CLASSES)
    theirs = GCNConv(WIDTH, CLASSES)
    for model in (ours, theirs):
        model.eval()  # without dropout all views are the same
        logits = task.logits(model)
        alone = F.cross_entropy(logits[task.split.train], task.y[task.split.train])
        agreement = consistency_loss(torch.stack([logits.softmax(1)] * 3), 0.4)
        (batch,) = task.batches(1)
        torch.testing.assert_close(task.loss(model, batch), alone + weight * agreement)


def test_views_differ_by_what_the_model_draws() -> None:
    task = ConsistencyTask(graph(), thirds(), num_samples=3)
    torch.manual_seed(0)
    views = task.views(GNN(WIDTH, 4, 2, CLASSES, dropout=0.5), None)
    assert views.shape == (3, SIZE, CLASSES)
    assert not torch.equal(views[0], views[1])


def test_ranks_share_the_labels() -> None:
    task, model = ConsistencyTask(graph(), thirds(), num_samples=2), GNN(WIDTH, 4, 2, CLASSES).eval()
    (batch,) = task.batches(1)
    whole, parts = task.loss(model, batch), []
    for task.rank in range(2):
        task.world_size = 2
        parts.append(task.loss(model, batch))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_the_epoch_is_that_of_the_least_validation_loss() -> None:
    task = ConsistencyTask(graph(), thirds(), num_samples=2, weight=0.5)
    torch.manual_seed(0)
    model = GNN(WIDTH, 8, 2, CLASSES, dropout=0.5)
    result = Experiment(task, model, adam(model), 15).run(device="cpu", progress=False)
    best = max(result.history, key=lambda row: row["valid/Likelihood"])
    assert {value["epoch"] for value in result.best.values()} == {best["epoch"]}
    assert result.best["Accuracy"]["valid"] == best["valid/Accuracy"]
    loss = F.cross_entropy(task.logits(model.eval())[task.split.valid], task.y[task.split.valid])
    assert result.best["Likelihood"]["valid"] == pytest.approx(100 * math.exp(-float(loss)), rel=1e-5)


@pytest.mark.parametrize("pool_size", [None, 20])
@pytest.mark.parametrize("num_generated", [1, 2])
def test_the_loss_of_a_step_is_the_papers(pool_size: int | None, num_generated: int) -> None:
    task = augmented(pool_size, num_generated, num_samples=3, weight=0.7)
    model = network(num_generated).eval()
    (batch,) = task.batches(1)
    assert torch.equal(batch.nodes, task.split.train)
    loss = task.loss(model, batch)
    own, x = normalize_rows(graph().x), graph().x
    probs, supervised = [], []
    for view in range(3):
        numbers = [batch.first + matrix * 3 + view for matrix in range(num_generated)]
        made = [normalize_rows(_decoded(task, x, number)) for number in numbers]
        logits = model.network([own, *made], task.graph)
        probs.append(logits.softmax(1))
        supervised.append(F.cross_entropy(logits[task.split.train], task.y[task.split.train]))
    torch.testing.assert_close(loss, sum(supervised) / 3 + consistency_loss(probs, 0.5, 0.7))
    assert int(model.sample) == batch.first + 3 * num_generated, "another sample is for the evaluation"


def _decoded(task: LocalAugmentationTask, x: Tensor, number: int) -> Tensor:
    latent = torch.randn(SIZE, 3, generator=stream(task.augment.seed, number))
    return task.augment.cvae.sample(x, latent=latent)


def test_epochs_draw_other_samples_and_the_same_again() -> None:
    task = augmented(pool_size=None)
    firsts = [next(task.batches(epoch)).first for epoch in (1, 2, 3, 1)]
    assert firsts[0] == firsts[3]
    assert len(set(firsts)) == 3


def test_fixed_views_are_of_the_features_and_of_one_generated_matrix() -> None:
    task = augmented(num_samples=2, fixed=True)
    model = GRAND(WIDTH, 4, CLASSES, order=1, drop_node=0.0).eval()
    (batch,) = task.batches(1)
    views = task.views(model, batch)
    own, made = normalize_rows(graph().x), normalize_rows(_decoded(task, graph().x, 0))
    for view, x in zip(views, (own, own, made, made), strict=True):
        torch.testing.assert_close(view, model(x, task.graph))
    torch.testing.assert_close(task.logits(model), model(own, task.graph))
    assert all(next(task.batches(epoch)).first == 0 for epoch in (1, 2))


# What is stored, and what is left alone


@pytest.mark.parametrize("pool_size", [None, 20])
def test_the_stored_pair_gives_the_same_values_again(pool_size: int | None) -> None:
    task, model = augmented(pool_size), network()
    result = Experiment(task, model, adam(model), 12).run(device="cpu", progress=False)
    best = max(row["valid/Likelihood"] for row in result.history)
    assert task.evaluate(model, "valid")["Likelihood"] == best
    assert task.evaluate(model, "test")["Accuracy"] == result.test("Accuracy")
    # In another process, of the state alone.
    other, again = network(seed=9), augmented(pool_size)
    other.load_state_dict(model.state_dict())
    assert again.evaluate(other, "valid")["Likelihood"] == best
    other.sample += 1
    assert again.evaluate(other, "valid")["Likelihood"] != best


@pytest.mark.parametrize("normalize", [True, False])
def test_network_and_generator_are_a_model_of_plain_features(normalize: bool) -> None:
    augment = LocalAugmentation(generator(), 2, normalize=normalize, pool_size=20)
    task, model = LocalAugmentationTask(graph(), thirds(), augment, num_samples=2), network(2)
    Experiment(task, model, adam(model), 5).run(device="cpu", progress=False)
    alone = AugmentedClassifier(model, augment).eval()
    x, plain = graph().x, NodeClassificationTask(graph(), thirds())
    with torch.no_grad():
        said = task.logits(model.eval())
        torch.testing.assert_close(alone(x, task.graph), said)
        torch.testing.assert_close(alone(x.to_sparse_csr(), task.graph), said)
        torch.testing.assert_close(plain.logits(alone), said)
        model.sample += 1
        assert not torch.allclose(alone(x, task.graph), said)
    assert {id(p) for p in alone.parameters()} == {id(p) for part in (model, augment.cvae) for p in part.parameters()}


@pytest.mark.parametrize("sparse", [True, False])
def test_a_view_is_the_mean_of_features_and_generated_ones(sparse: bool) -> None:
    augment = LocalAugmentation(generator(), 2, pool_size=20)
    data = graph()
    data.x = data.x.to_sparse_csr() if sparse else data.x
    view = AugmentedView(augment)
    torch.manual_seed(4)
    found = view(data)
    torch.manual_seed(4)
    first = augment.draw(2)
    own = normalize_rows(graph().x)
    torch.testing.assert_close(found.x, (own + augment.generate(data.x, first, 2).sum(0)) / 3)
    assert found.edge_index is data.edge_index
    assert data.x.is_sparse_csr == sparse  # the graph itself stays
    assert not torch.equal(view(data).x, found.x)
    assert "num_generated=2" in repr(view)


def test_the_generator_is_left_alone() -> None:
    task, model = augmented(), network()
    before = copy.deepcopy(task.cvae.state_dict())
    Experiment(task, model, adam(model), 3).run(device="cpu", progress=False)
    assert all(torch.equal(value, before[name]) for name, value in task.cvae.state_dict().items())
    assert all(p.grad is None for p in task.cvae.parameters())
    assert not any("cvae" in name for name in model.state_dict())


class Killed(Exception):
    pass


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    def run(folder: Path, resume: bool, stop_at: int | None = None) -> tuple[dict, nn.Module]:
        task, model = augmented(), network()

        def stop(epoch: int, row: dict[str, float]) -> None:
            if epoch == stop_at:
                raise Killed

        trainer = Trainer(8, device="cpu", folder=folder, resume=resume, progress=False, seed=3)
        result = trainer.fit(model, task, adam(model), on_epoch_end=stop)
        return result.best, model

    whole, model = run(tmp_path / "whole", resume=False)
    with pytest.raises(Killed):
        run(tmp_path / "killed", resume=False, stop_at=5)
    best, again = run(tmp_path / "killed", resume=True)
    assert best == whole
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_number_of_the_sample_is_chosen_with_the_weights() -> None:
    task, model = augmented(None), network()
    seen: list[tuple[float, int]] = []

    def follow(epoch: int, row: dict[str, float]) -> None:
        seen.append((row["valid/Likelihood"], int(model.sample)))

    Trainer(10, device="cpu", progress=False).fit(model, task, adam(model), on_epoch_end=follow)
    assert int(model.sample) == max(seen, key=lambda pair: pair[0])[1]
    assert len({number for _, number in seen}) == 10


def test_it_learns_and_gains_from_neighbours() -> None:
    data, cvae = graph(), generator()
    pairs = NeighborFeatureTask(data.x, data.edge_index, batch_size=16)
    Experiment(pairs, cvae, torch.optim.Adam(cvae.parameters(), 0.01), 10).run(device="cpu", progress=False)
    task = LocalAugmentationTask(data, thirds(), LocalAugmentation(cvae, pool_size=10))
    model = network()
    result = Experiment(task, model, adam(model), 60).run(device="cpu", progress=False)
    assert result.test("Accuracy") > 80


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augmented(pool_size=4, num_samples=4), "pool_size must be at least the 5 samples"),
        (lambda: augmented(num_samples=1), "num_samples must be >= 2 with weight=1.0"),
        (lambda: augmented(num_samples=0), "num_samples"),
        (lambda: augmented(temperature=0), "temperature"),
        (lambda: augmented(weight=-1), "weight"),
        (lambda: augmented(num_generated=2, fixed=True), "num_generated=1"),
        (lambda: ConsistencyTask(graph(), thirds(), num_samples=1), "num_samples must be >= 2"),
    ],
)
def test_wrong_input_of_the_task(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_data_and_models_that_do_not_fit() -> None:
    augment = LocalAugmentation(generator())
    for change, message in (
        ({"x": None, "num_nodes": SIZE}, "features"),
        ({"x": torch.rand(SIZE, 5)}, "augment generates 12 features, but data.x has 5"),
        ({"x": 3 * torch.ones(SIZE, WIDTH)}, r"data.x must lie in \[0, 1\]"),
    ):
        data = graph()
        for name, value in change.items():
            setattr(data, name, value)
        with pytest.raises(ValueError, match=message):
            LocalAugmentationTask(data, thirds(), augment)
    task = augmented()
    with pytest.raises(TypeError, match="AugmentedNetwork"):
        task.loss(LAGCN(WIDTH, 4, CLASSES), next(task.batches(1)))
    with pytest.raises(ValueError, match=r"x_list must hold 3 matrices"):
        task.loss(network(2), next(task.batches(1)))


def test_features_stay_sparse() -> None:
    data = graph()
    data.x = F.one_hot(torch.arange(SIZE) % WIDTH, WIDTH).float()
    task = LocalAugmentationTask(data, thirds(), LocalAugmentation(generator()))
    given = task.features(network())
    assert given[0].layout == task.condition.layout == torch.sparse_csr
    assert sparsify(data.x).layout == torch.sparse_csr
    assert isinstance(task, NodeClassificationTask)
