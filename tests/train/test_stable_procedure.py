"""STABLE's two stages: what is trained, when it stops, what is refined, and that it repairs an attacked graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

from graphkit.datasets.splits import IndexSplit, random_node_split
from graphkit.nn import GNN, StableContrast
from graphkit.ops import NeighborIndex
from graphkit.train import STABLE, Experiment, NodeClassificationTask, StableContrastTask
from graphkit.transforms import DICEAttack, JaccardPrune


def topics(num_nodes: int = 240, classes: int = 4, words: int = 80, seed: int = 0) -> Data:
    """Texts with words of their topic, and edges mostly within topics."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num_nodes) % classes
    own = (torch.arange(words) % classes)[None] == y[:, None]
    x = (torch.rand(num_nodes, words, generator=generator) < torch.where(own, 0.3, 0.05)).float()
    chance = torch.where(y[:, None] == y, 0.08, 0.003)
    half = (torch.rand(num_nodes, num_nodes, generator=generator) < chance).triu(1).nonzero().t()
    return Data(x=x, edge_index=torch.cat([half, half.flip(0)], 1), y=y)


DATA = topics()
SPLIT = random_node_split(DATA.y, 0.1, 0.2, seed=0)


def small(seed: int = 0, **options: Any) -> STABLE:
    torch.manual_seed(seed)
    return STABLE(80, 4, **{"embed_channels": 24, **options})


def edge_set(edge_index: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.t().tolist()))


# The first stage -----------------------------------------------------------------------------------------------------


def test_the_views_lie_between_the_pruned_and_the_whole_graph() -> None:
    task = StableContrastTask(DATA, jaccard=0.1, num_views=3, seed=5)
    whole, pruned = edge_set(DATA.edge_index), edge_set(task.edge_index)
    assert pruned == edge_set(JaccardPrune(0.1)(DATA).edge_index)
    assert 0 < len(pruned) < len(whole)
    views = [edge_set(view) for view in task.view_edge_indices]
    assert all(pruned < view < whole for view in views)
    assert {len(view) - len(pruned) for view in views} == {2 * int(0.2 * (len(whole) - len(pruned)) / 2 + 1e-9)}
    assert len({frozenset(view) for view in views}) == 3
    again = StableContrastTask(DATA, jaccard=0.1, num_views=3, seed=5)
    assert all(map(torch.equal, again.view_edge_indices, task.view_edge_indices))
    assert f"edges={len(whole)}, kept={len(pruned)}, views=3" in repr(task)


def test_the_loss_is_the_models_and_the_metric_is_the_last_loss() -> None:
    task = StableContrastTask(DATA, seed=1)
    model = StableContrast(80, 8)
    (order,) = task.batches(4)
    assert torch.equal(order, next(task.batches(4)))
    assert not torch.equal(order, next(task.batches(5)))
    loss = task.loss(model, order)
    want = model(DATA.x, task.edge_index, task.view_edge_indices, order)
    torch.testing.assert_close(loss, want)
    assert task.evaluate(model, "valid") == task.evaluate(model, "test") == {"NegativeLoss": -float(loss)}
    fresh = StableContrastTask(DATA, seed=1)
    assert fresh.evaluate(model, "valid")["NegativeLoss"] == -float(fresh.loss(model, next(fresh.batches(0))))


def test_training_stops_when_the_loss_falls_no_more() -> None:
    torch.manual_seed(0)
    task, model = StableContrastTask(DATA), StableContrast(80, 8)
    first = Experiment(task, model, torch.optim.Adam(model.parameters(), 0.02), 400, patience=8)
    result = first.run(device="cpu", progress=False)
    losses = [row["loss"] for row in result.history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 1 + 8 < 400
    assert result.best["NegativeLoss"]["epoch"] == best + 1
    assert losses[best] < 0.7 * losses[0]


# The refinement ------------------------------------------------------------------------------------------------------


def test_the_refined_graph_is_the_cards_in_dense_algebra() -> None:
    model = small(jaccard=0.05, cosine=0.5, k=4)
    refined = model.refine(DATA)
    pruned = JaccardPrune(0.05)(DATA).edge_index
    h = model.encoder.embed(DATA.x, pruned)
    torch.testing.assert_close(refined.x, h)
    unit = F.normalize(h, dim=1)
    near = unit @ unit.t()
    adjacency = torch.zeros(240, 240, dtype=torch.bool)
    adjacency[DATA.edge_index[0], DATA.edge_index[1]] = True
    adjacency &= near > 0.5
    assert 0 < int(adjacency.sum()) < DATA.num_edges
    picked = near.clone()
    picked[:, adjacency.sum(1) <= 1] = -2
    adjacency[torch.arange(240)[:, None], picked.topk(4, dim=1).indices] = True
    adjacency.fill_diagonal_(False)
    # A row of the matrix hears from its columns.
    assert edge_set(refined.edge_index) == edge_set(adjacency.nonzero().t().flip(0))
    assert torch.equal(model.refined_edge_index, refined.edge_index)


def test_the_classifier_leaves_the_encoder_alone() -> None:
    model = small()
    experiment = model.experiment(DATA, SPLIT)
    loss = experiment.task.loss(model, next(experiment.task.batches(1)))
    loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.classifier.parameters())
    trained = {id(p) for group in experiment.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.classifier.parameters()}
    assert experiment.num_parameters() == sum(p.numel() for p in model.parameters())


def test_the_task_waits_for_the_trained_encoder() -> None:
    """Nothing of the untrained encoder is left in what the classifier sees."""
    model = small()
    experiment = model.experiment(DATA, SPLIT, contrast_epochs=30, contrast_lr=0.01, epochs=2)
    before = model.refine(DATA).x
    result = model.fit(DATA, SPLIT, contrast_epochs=30, contrast_lr=0.01, epochs=2, device="cpu")
    after = model.refine(DATA).x
    assert not torch.allclose(before, after)
    torch.testing.assert_close(experiment.task.refined.x, after)
    assert set(result.best) == {"Accuracy", "F1"}


# The whole -----------------------------------------------------------------------------------------------------------


def gcn_accuracy(data: Data) -> float:
    torch.manual_seed(0)
    task = NodeClassificationTask(data, SPLIT)
    network = GNN(80, 16, 2, 4, dropout=0.5, layer_norm=False)
    optimizer = torch.optim.Adam(network.parameters(), 0.01, weight_decay=5e-4)
    return Experiment(task, network, optimizer, 100).run(device="cpu", progress=False).test("Accuracy")


def test_it_repairs_an_attacked_graph() -> None:
    attacked = DICEAttack(0.8)(DATA)
    model = small(jaccard=0.06, cosine=0.5, k=8, alpha=0.3, embed_channels=64)
    result = model.fit(attacked, SPLIT, contrast_epochs=120, epochs=100, device="cpu")
    y = DATA.y

    def homophily(edge_index: Tensor) -> float:
        return float((y[edge_index[0]] == y[edge_index[1]]).double().mean())

    assert homophily(model.refined_edge_index) > homophily(attacked.edge_index) + 0.1
    assert result.test("Accuracy") > gcn_accuracy(attacked) + 5
    right = model.predict(attacked) == y
    assert 100 * float(right[SPLIT.test].double().mean()) == pytest.approx(result.test("Accuracy"), abs=1e-4)


def test_a_seed_fixes_everything() -> None:
    outs = []
    for seed in (0, 0, 1):
        model = small(seed)
        model.fit(DATA, SPLIT, seed=seed, contrast_epochs=5, epochs=3, device="cpu")
        outs.append(model.state_dict())
    assert all(torch.equal(outs[0][name], outs[1][name]) for name in outs[0])
    assert not torch.equal(outs[0]["encoder.linear.weight"], outs[2]["encoder.linear.weight"])


def test_it_resumes_bit_for_bit(tmp_path) -> None:
    """The second stage is cut short, and both go on in new objects."""

    def stages(epochs: int, folder: str, resume: bool) -> STABLE:
        model = small()
        experiment = model.experiment(DATA, SPLIT, contrast_epochs=6, epochs=epochs)
        name, first = experiment.start_from
        for part, place in ((first, name), (experiment, "STABLE")):
            part.run(device="cpu", progress=False, folder=tmp_path / folder / place, resume=resume)
            experiment.begin()
        return model

    whole = stages(7, "whole", False)
    stages(3, "cut", False)
    resumed = stages(7, "cut", True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("takes_index", [True, False])
def test_any_classifier(takes_index: bool) -> None:
    torch.manual_seed(0)
    classifier = GNN(24, 8, 2, 4) if takes_index else GCNConv(24, 4)
    model = small(classifier=classifier)
    model.fit(DATA, SPLIT, contrast_epochs=5, epochs=5, device="cpu")
    h = model.refine(DATA).x
    edges = model.refined_edge_index
    logits = classifier.eval()(h, NeighborIndex(edges.flip(0), 240) if takes_index else edges)
    assert torch.equal(model.predict(DATA), logits.argmax(1))


def test_the_split_of_the_masks() -> None:
    train, valid, test = SPLIT.masks(240)
    data = Data(**DATA.to_dict(), train_mask=train, val_mask=valid, test_mask=test)
    result = small().fit(data, contrast_epochs=2, epochs=2, device="cpu")
    assert result.best == small().fit(DATA, SPLIT, contrast_epochs=2, epochs=2, device="cpu").best


LOOPED = Data(x=DATA.x, y=DATA.y, edge_index=torch.cat([DATA.edge_index, torch.tensor([[3], [3]])], 1))
ONE_WAY = Data(x=DATA.x, y=DATA.y, edge_index=DATA.edge_index[:, : DATA.num_edges // 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StableContrastTask(LOOPED), "must not hold self-loops .got 1, the first at node 3"),
        (lambda: small().experiment(ONE_WAY, SPLIT), "must hold both directions"),
        (lambda: small().fit(Data(edge_index=DATA.edge_index, y=DATA.y), SPLIT), "must have edge_index and x"),
        (lambda: StableContrastTask(Data(x=2 * DATA.x, edge_index=DATA.edge_index)), "zeros and ones alone .got 2.0"),
        (lambda: StableContrastTask(DATA, recover=1.2), "ratio must be in"),
        (lambda: small(k=-1), "k must be in"),
        (lambda: small(cosine=2), "cosine must be in"),
        (lambda: small(jaccard=2), "jaccard must be in"),
        (lambda: small(recover=2), "recover must be in"),
        (lambda: STABLE(80, 1), "out_channels must be in"),
        (lambda: small(k=300).refine(DATA), "k=300 needs as many nodes"),
        (lambda: small().refined_edge_index, "no graph was refined yet"),
        (lambda: small().fit(DATA), "data has no train_mask"),
        (lambda: small().fit(DATA, IndexSplit(SPLIT.train[:0], SPLIT.valid, SPLIT.test)), "split.train holds no nodes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_features_that_are_not_finite():
    x, edge_index = torch.tensor([[1.0], [torch.nan]]), torch.tensor([[0, 1], [1, 0]])
    for features in (x, x.to_sparse_csr()):
        with pytest.raises(ValueError, match=r"data\.x holds nan"):
            STABLE(1, 2, binarize=True).refine(Data(x=features, edge_index=edge_index))
