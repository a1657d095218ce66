"""Node classification: what the task gives a model, its loss, its metrics against scikit-learn, and its errors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GCNConv

from graphkit.datasets import IndexSplit, load
from graphkit.nn import GNN
from graphkit.ops import NeighborIndex
from graphkit.train import NodeClassificationTask, Trainer
from graphkit.utils.seed import seed_everything

SIZE = 30


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def graph(classes: int = 3, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(SIZE, (2, 60), generator=generator)
    x = torch.randn(SIZE, 4, generator=generator)
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), y=torch.arange(SIZE) % classes)


def thirds() -> IndexSplit:
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    return IndexSplit(order[:11], order[11:20], order[20:])


class Fixed(nn.Module):
    """Returns the same logits whatever it is given, and keeps what it was given."""

    def __init__(self, logits: Tensor, takes_index: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(logits)
        self.takes_index = takes_index
        self.given: tuple = ()

    def forward(self, *given):
        self.given = given
        return self.weight


def random_logits(classes: int, seed: int = 0) -> Tensor:
    return torch.randn(SIZE, classes, generator=torch.Generator().manual_seed(seed))


# The contract ---------------------------------------------------------------------------------------------------------


def test_an_epoch_is_one_step_on_all_training_nodes() -> None:
    task = NodeClassificationTask(graph(), thirds())
    assert task.num_batches() == 1
    for epoch in (1, 2):
        (batch,) = task.batches(epoch)
        assert torch.equal(batch, task.split.train)
    assert (task.num_nodes, task.num_features, task.num_classes) == (SIZE, 4, 3)
    assert repr(task) == (
        "NodeClassificationTask(nodes=30, features=4, classes=3, IndexSplit(train=11, valid=9, test=10))"
    )


def test_the_loss_is_the_mean_cross_entropy_of_training_nodes_alone() -> None:
    data, split = graph(), thirds()
    task, model = NodeClassificationTask(data, split), Fixed(random_logits(3))
    loss = task.loss(model, next(task.batches(1)))
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(model.weight[split.train], data.y[split.train]))
    assert model.weight.grad is not None
    touched = model.weight.grad.abs().sum(1).nonzero().view(-1)
    assert torch.equal(touched, split.train.sort().values)


@pytest.mark.parametrize("world", [2, 3, 16])
def test_the_ranks_losses_average_to_that_of_one_process(world: int) -> None:
    task, model = NodeClassificationTask(graph(), thirds()), Fixed(random_logits(3))
    batch = next(task.batches(1))
    whole = task.loss(model, batch)
    parts = []
    for task.rank in range(world):
        task.world_size = world
        parts.append(task.loss(model, batch))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_models_get_the_graph_in_the_form_that_they_take() -> None:
    data = Data(x=torch.eye(SIZE), edge_index=torch.tensor([[0, 1], [2, 2]]), y=torch.arange(SIZE) % 3)
    task = NodeClassificationTask(data, thirds())
    ours, others = Fixed(random_logits(3), takes_index=True), Fixed(random_logits(3))
    task.logits(ours)
    task.logits(others)
    assert others.given[0] is data.x
    assert others.given[1] is data.edge_index
    x, index = ours.given
    assert x.layout == torch.sparse_csr
    assert torch.equal(x.to_dense(), data.x)
    assert isinstance(index, NeighborIndex)
    # Node 2 hears from nodes 0 and 1, as in PyG's layers.
    assert index.expand(torch.tensor([0, 1, 2]))[1].tolist() == [0, 1]
    assert index.degree[2] == 2


def test_directed_edges_mean_the_same_to_both_kinds_of_models() -> None:
    data = graph()
    data.edge_index = torch.tensor([[0, 0, 1, 5, 6], [1, 2, 2, 6, 7]])
    task = NodeClassificationTask(data, thirds())
    torch.manual_seed(0)
    theirs, ours = GCN(4, 8, 2, 3), GNN(4, 8, 2, 3, layer_norm=False)
    # GCN's symmetric normalisation differs on directed graphs; only who hears from whom is compared.
    for model in (theirs, ours):
        base = task.logits(model.eval()).detach()
        task.x[0] += 1
        changed = (task.logits(model).detach() - base).abs().sum(1) > 1e-6
        task.x[0] -= 1
        assert changed.nonzero().view(-1).tolist() == [0, 1, 2]


def test_features_take_the_type_of_the_weights() -> None:
    task = NodeClassificationTask(graph(), thirds())
    assert task.logits(GNN(4, 8, 2, 3).double()).dtype == torch.float64
    task.evaluate(GNN(4, 8, 2, 3).double(), "valid")


def test_to_keeps_values_and_gives_the_task_itself() -> None:
    task = NodeClassificationTask(graph(), thirds())
    task.logits(GNN(4, 8, 2, 3))
    before = task.graph.edge_index
    assert task.to("cpu") is task
    assert torch.equal(task.graph.edge_index, before)


def test_no_features_are_needed_with_an_embedding_for_each_node() -> None:
    data = graph()
    del data.x
    data.num_nodes = SIZE
    task = NodeClassificationTask(data, thirds())
    assert task.num_features == 0
    assert task.logits(GNN(0, 8, 2, 3, num_nodes=SIZE)).shape == (SIZE, 3)


# Metrics --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_agree_with_scikit_learn(split: str, classes: int) -> None:
    data = graph(classes)
    task, model = NodeClassificationTask(data, thirds()), Fixed(random_logits(classes, seed=classes))
    found = task.evaluate(model, split)
    assert not model.training
    chosen = getattr(task.split, split)
    y, logit = data.y[chosen].numpy(), model.weight.detach()[chosen].numpy()
    guess = logit.argmax(1)
    expected = {"Accuracy": accuracy_score(y, guess), "F1": f1_score(y, guess, average="macro")}
    if classes == 2:
        expected["AUC"] = roc_auc_score(y, logit[:, 1] - logit[:, 0])
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-3)


def test_likelihood_is_largest_where_the_cross_entropy_is_least() -> None:
    data = graph()
    task, model = NodeClassificationTask(data, thirds(), ("Likelihood", "Accuracy")), Fixed(random_logits(3))
    assert task.monitor == "Likelihood"
    valid = task.split.valid
    chosen = model.weight.detach().softmax(1)[valid, data.y[valid]]
    expected = 100 * float(np.exp(np.log(chosen.numpy()).mean()))
    assert task.evaluate(model, "valid")["Likelihood"] == pytest.approx(expected, rel=1e-5)


def test_auc_does_not_saturate_for_large_logits() -> None:
    data = graph(2)
    logits = torch.zeros(SIZE, 2)
    logits[:, 1] = 100 + torch.arange(SIZE) % 2 + torch.linspace(0, 0.5, SIZE)
    task = NodeClassificationTask(data, thirds(), "AUC")
    assert task.evaluate(Fixed(logits), "test") == pytest.approx({"AUC": 100.0})


def test_the_first_metric_chooses_the_epoch() -> None:
    assert NodeClassificationTask(graph(2), thirds()).monitor == "Accuracy"
    assert NodeClassificationTask(graph(2), thirds(), ("AUC", "F1")).monitor == "AUC"


def test_auc_is_left_out_where_a_part_has_one_class() -> None:
    data = graph(2)
    split = IndexSplit(ids(0, 1), ids(2, 4), ids(3, 6))
    assert NodeClassificationTask(data, split).metrics == ("Accuracy", "F1")
    with pytest.raises(ValueError, match="metrics holds 'AUC', which needs two classes"):
        NodeClassificationTask(data, split, ("AUC",))


# Labels and errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "column", "int32", "missing elsewhere"])
def test_labels_come_in_several_forms(form: str) -> None:
    data = graph()
    plain = NodeClassificationTask(data, thirds()).y
    if form == "float":
        data.y = data.y.float()
    elif form == "column":
        data.y = data.y[:, None]
    elif form == "int32":
        data.y = data.y.int()
    else:
        outside = thirds().train[0]
        data.y = data.y.float()
        data.y[outside] = float("nan")
        split = IndexSplit(thirds().train[1:], thirds().valid, thirds().test)
        assert NodeClassificationTask(data, split).y[outside] == -1
        return
    assert torch.equal(NodeClassificationTask(data, thirds()).y, plain)


def spoiled(**changes) -> Data:
    data = graph()
    for name, value in changes.items():
        data[name] = value
    return data


def with_value(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone().float()
    changed.view(-1)[int(thirds().train[0])] = value
    return changed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (spoiled(y=None), r"missing: y"),
        (spoiled(edge_index=None), r"missing: edge_index"),
        (spoiled(y=torch.zeros(SIZE, 2)), r"one label for each of the 30 nodes \(got shape \[30, 2\]\)"),
        (spoiled(y=torch.zeros(SIZE - 1)), r"one label for each of the 30 nodes"),
        (spoiled(y=with_value(graph().y, 0.5)), r"class numbers, not real values"),
        (spoiled(y=with_value(graph().y, float("inf"))), r"class numbers, not real values"),
        (spoiled(y=with_value(graph().y, float("nan"))), r"split.train holds 1 nodes without a label, first node \d+"),
        (spoiled(y=with_value(graph().y, -1)), r"split.train holds 1 nodes without a label"),
        (spoiled(y=torch.ones(SIZE)), r"all training nodes have label 1"),
        (spoiled(x=with_value(graph().x, float("nan"))), r"data.x holds nan at \[\d+, \d+\]"),
        (spoiled(x=torch.ones(SIZE)), r"data.x must be a matrix"),
    ],
)
def test_bad_data_is_named(data: Data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeClassificationTask(data, thirds())


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_empty_parts_are_refused(part: str) -> None:
    parts = {"train": ids(0, 1, 2), "valid": ids(3, 4), "test": ids(5, 6), part: ids().long()}
    with pytest.raises(ValueError, match=f"split.{part} holds no nodes"):
        NodeClassificationTask(graph(), IndexSplit(**parts))


def test_other_bad_arguments_are_named() -> None:
    data, split = graph(), thirds()
    with pytest.raises(TypeError, match="data must be a torch_geometric"):
        NodeClassificationTask(SimpleNamespace(x=data.x), split)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="split must be a graphkit"):
        NodeClassificationTask(data, (ids(0), ids(1), ids(2)))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=r"split.test holds node id 30, outside \[0, 30\)"):
        NodeClassificationTask(data, IndexSplit(ids(0, 1), ids(2), ids(30)))
    with pytest.raises(ValueError, match="must not overlap"):
        NodeClassificationTask(data, IndexSplit(ids(0, 1), ids(1), ids(2)))
    with pytest.raises(TypeError, match=r"train must be ids, int64 \(got torch.float32\)"):
        NodeClassificationTask(data, IndexSplit(torch.tensor([0.0, 1.0]), torch.tensor([2.0]), torch.tensor([3.0])))
    with pytest.raises(ValueError, match=r"data.y holds label 2, but num_classes=2"):
        NodeClassificationTask(data, split, num_classes=2)
    with pytest.raises(ValueError, match="did you mean 'Accuracy'"):
        NodeClassificationTask(data, split, ("acuracy",))
    with pytest.raises(ValueError, match="at least one metric"):
        NodeClassificationTask(data, split, ())
    with pytest.raises(IndexError, match=r"data.edge_index holds node id 30"):
        NodeClassificationTask(spoiled(edge_index=torch.tensor([[0], [30]])), split)
    sparse = data.x.clone()
    sparse[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"data.x.values\(\) holds nan"):
        NodeClassificationTask(spoiled(x=sparse.to_sparse_csr()), split)


def test_bad_logits_are_named() -> None:
    task = NodeClassificationTask(graph(), thirds())
    with pytest.raises(ValueError, match=r"model must return logits \[30, 3\].*got \[30, 2\]"):
        task.evaluate(Fixed(random_logits(2)), "valid")
    with pytest.raises(ValueError, match="logits of test nodes that are NaN"):
        task.evaluate(Fixed(torch.full((SIZE, 3), float("nan"))), "test")
    with pytest.raises(ValueError, match="split must be one of valid, test"):
        task.evaluate(Fixed(random_logits(3)), "train")


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ours", "PyG's"])
def test_training_beats_the_majority_class(kind: str, tmp_path) -> None:
    dataset = load("digits")
    task = NodeClassificationTask(dataset.data, dataset.split(seed=0))
    seed_everything(0)
    model = GNN(64, 32, 2, 10, layer_norm=False) if kind == "ours" else GCN(64, 32, 2, 10)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    result = Trainer(20, device="cpu", progress=False, folder=tmp_path).fit(model, task, optimizer)
    majority = 100 * np.bincount(dataset.data.y[task.split.test]).max() / task.split.test.numel()
    assert result.test("Accuracy") > max(80.0, majority)
    # The model is left with the weights of the best epoch.
    assert task.evaluate(model, "test")["Accuracy"] == pytest.approx(result.test("Accuracy"))


@pytest.mark.parametrize("model", [GCNConv(5, 2), GNN(5, 4, 2)])
def test_a_graph_without_features_is_told_what_makes_some(model):
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    data = Data(edge_index=edge_index, y=torch.tensor([0, 1, 0, 1]), num_nodes=4)
    task = NodeClassificationTask(data, IndexSplit(torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3])))
    with pytest.raises(ValueError, match="OneHotDegree make features of the edges"):
        task.logits(model)


@pytest.mark.parametrize("error", [TypeError("one argument too many"), AttributeError("no attribute 'lin'")])
def test_other_errors_of_a_model_without_features_are_its_own(error):
    class Wrong(nn.Module):
        def forward(self, x, edge_index):
            raise error

    data = graph()
    del data.x
    data.num_nodes = SIZE
    with pytest.raises(type(error), match=str(error)):
        NodeClassificationTask(data, thirds()).logits(Wrong())
