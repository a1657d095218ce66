"""From a tokenizer to a student: losses of a step, schedules, hidden nodes, exact resume, export, and learning."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets import IndexSplit, inductive_split, per_class_split
from graphkit.nn import GNN, CodeDistillMLP, GraphTokenizer, code_scores
from graphkit.train import (
    Experiment,
    GraphTokenizerTask,
    NodeClassificationTask,
    NodeDistillationTask,
    Trainer,
    distillation_kl,
    export_student,
    soft_code_kl,
)
from graphkit.utils.seed import seed_everything

NODES, CLASSES, WIDTH = 240, 3, 12


def communities(seed: int = 0, noise: float = 1.5) -> Data:
    """Three groups: edges inside them, features that tell the group only faintly."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(NODES) % CLASSES
    ends = torch.randint(NODES, (2, 6000), generator=generator)
    same = y[ends[0]] == y[ends[1]]
    kept = ends[:, same | (torch.rand(6000, generator=generator) < 0.03)][:, :900]
    kept = kept[:, kept[0] != kept[1]]
    x = F.one_hot(y, WIDTH).float() + noise * torch.randn(NODES, WIDTH, generator=generator)
    return Data(x=x, edge_index=torch.cat([kept, kept.flip(0)], 1).unique(dim=1), y=y)


def split_of(data: Data, hidden: bool = False) -> IndexSplit:
    split = per_class_split(data.y, 5, 10)
    return inductive_split(split) if hidden else split


def tokenizer(seed: int = 0, **options) -> GraphTokenizer:
    seed_everything(seed)
    return GraphTokenizer(WIDTH, 16, CLASSES, **{"num_codes": 24, "dead_code_threshold": 0.1, **options})


def student(code_dim: int | None = WIDTH, seed: int = 1, **options) -> CodeDistillMLP:
    seed_everything(seed)
    return CodeDistillMLP(WIDTH, 16, CLASSES, code_dim, **options)


def task_of(teacher: nn.Module, **options) -> NodeDistillationTask:
    data = communities()
    return NodeDistillationTask(data, split_of(data, options.pop("hidden", False)), teacher, **options)


# The tokenizer's task -------------------------------------------------------------------------------------------------


def test_the_tokenizers_loss_is_cross_entropy_and_its_own_losses() -> None:
    data = communities()
    task = GraphTokenizerTask(data, split_of(data))
    one, other = tokenizer(), tokenizer()
    loss = task.loss(one, next(task.batches(1)))
    out = task.outputs(other)
    ids = task.split.train
    want = F.cross_entropy(out.logits[ids], data.y[ids]) + sum(out.losses.values())
    torch.testing.assert_close(loss, want)
    assert len(out.losses) == 3


def test_the_tokenizer_may_have_a_teacher() -> None:
    data = communities()
    seed_everything(3)
    teacher = GNN(WIDTH, 8, 2, CLASSES, dropout=0.5)
    alone = GraphTokenizerTask(data, split_of(data))
    taught = GraphTokenizerTask(data, split_of(data), teacher=teacher, w_soft=0.5)
    batch = next(alone.batches(1))
    one, other, third = tokenizer(), tokenizer(), tokenizer()
    more = taught.loss(one, batch) - alone.loss(other, batch)
    with torch.no_grad():
        said = teacher.eval()(data.x, taught.graph)
        wanted = 0.5 * distillation_kl(third(data.x, taught.graph).logits, said)
    torch.testing.assert_close(more, wanted)
    torch.testing.assert_close(taught.soft_labels(), said)
    assert all(p.grad is None for p in teacher.parameters())
    # A tokenizer teaches a tokenizer, too, and is not the one whose codes are followed.
    again = GraphTokenizerTask(data, split_of(data), teacher=tokenizer(seed=5))
    result = Experiment(again, third, torch.optim.Adam(third.parameters(), 0.01), 2).run(device="cpu", progress=False)
    assert result.history[-1]["codes"] == again.outputs(third.eval()).tokens.code.unique().numel()
    with pytest.raises(ValueError, match="w_soft"):
        GraphTokenizerTask(data, split_of(data), teacher=teacher, w_soft=-1)


def test_codes_in_use_are_followed_and_few_of_them_told() -> None:
    data = communities()
    task = GraphTokenizerTask(data, split_of(data))
    model = tokenizer(num_codes=200, dead_code_threshold=0.0)
    trainer = Trainer(3, device="cpu", progress=False)
    # Directions that all point one way: few codes are the nearest of any.
    task.x = task.x[:1].repeat(NODES, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with pytest.warns(UserWarning, match=r"only [1-9] of 200 codes are in use"):
        trainer.fit(model, task, optimizer)
    task, model = GraphTokenizerTask(data, split_of(data)), tokenizer()
    result = trainer.fit(model, task, torch.optim.Adam(model.parameters(), 0.01))
    for row in result.history:
        assert 1 <= row["perplexity"] <= row["codes"] <= 24
    model.eval()
    code = task.outputs(model).tokens.code
    assert task.observe(model)["codes"] == code.unique().numel()


# A step of the student ------------------------------------------------------------------------------------------------


def test_the_three_terms() -> None:
    teacher = tokenizer().eval()
    weights = {"w_hard": 0.3, "w_soft": 0.7, "w_code": 2.0}
    task = task_of(teacher, **weights, temperature=2.0, tau=0.2, batch_size=1000)
    model = student().eval()
    (batch,) = task.batches(1)
    assert sorted(batch.nodes.tolist()) == list(range(NODES))
    logits, vectors = model(task.x)
    with torch.no_grad():
        taught = teacher(task.x, task.graph)
    hard = F.cross_entropy(logits[task.split.train], task.y[task.split.train])
    soft = distillation_kl(logits, taught.logits, 2.0)
    code = soft_code_kl(taught.tokens.scores, code_scores(vectors, teacher.quantizer.codebook), 0.2)
    torch.testing.assert_close(task.loss(model, batch), 0.3 * hard + 0.7 * soft + 2 * code)


@pytest.mark.parametrize("relation", ["cosine", "l2", "released"])
def test_relations(relation: str) -> None:
    teacher, model = tokenizer().eval(), student().eval()
    task = task_of(teacher, w_soft=0.0, w_code=1.0, tau=0.5, relation=relation, batch_size=1000)
    (batch,) = task.batches(1)
    with torch.no_grad():
        h, book, s = teacher.encode(task.x, task.graph), teacher.quantizer.codebook, model(task.x)[1]
        cosine = F.normalize(h) @ F.normalize(book).t()
        want = {
            "cosine": (cosine, F.normalize(s) @ F.normalize(book).t()),
            "l2": (
                -torch.cdist(F.normalize(h), F.normalize(book)),
                -torch.cdist(F.normalize(s), F.normalize(book)),
            ),
            "released": (cosine, -torch.cdist(s, book)),
        }[relation]
    loss = soft_code_kl(*want, 0.5, released=relation == "released")
    torch.testing.assert_close(task.loss(model, batch), loss, rtol=1e-4, atol=1e-5)


def test_hard_labels_of_batches_add_up_to_the_mean() -> None:
    task = task_of(GNN(WIDTH, 8, 2, CLASSES), w_hard=1.0, w_soft=0.0, batch_size=60)
    model = student(None).eval()
    losses = [task.loss(model, batch) for batch in task.batches(1)]
    assert len(losses) == task.num_batches() == 4
    ids = task.split.train
    want = F.cross_entropy(model(task.x)[0][ids], task.y[ids])
    torch.testing.assert_close(torch.stack(losses).mean(), want)
    # A label that is not for training plays no part.
    task.y[task.split.test] = 0
    torch.testing.assert_close(torch.stack([task.loss(model, batch) for batch in task.batches(1)]).mean(), want)


def test_schedules() -> None:
    options = {"w_hard": 0.5, "w_soft": 0.5, "w_code": 1.0, "batch_size": 100}
    summed, sweeps = (task_of(tokenizer(), schedule=name, **options) for name in ("summed", "sweeps"))
    batches = list(summed.batches(1))
    assert [batch.terms for batch in batches] == [("code", "hard", "soft")] * 3
    assert [batch.nodes.numel() for batch in batches] == [100, 100, 40]
    batches = list(sweeps.batches(1))
    # 240 nodes make two whole batches; the 15 labelled ones are fewer than one.
    assert [(batch.terms[0], batch.nodes.numel()) for batch in batches] == [
        *[("code", 100)] * 2,
        ("hard", 15),
        *[("soft", 100)] * 2,
    ]
    assert sweeps.num_batches() == len(batches)
    assert set(batches[2].nodes.tolist()) == set(sweeps.split.train.tolist())
    for task in (summed, sweeps):
        first, again, later = (torch.cat([b.nodes for b in task.batches(epoch)]) for epoch in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, later)


def test_shares_of_processes_add_up() -> None:
    teacher, model = tokenizer().eval(), student().eval()
    options = {"w_hard": 0.3, "w_soft": 0.7, "w_code": 1.0, "batch_size": 1000}
    whole = task_of(teacher, **options)
    (batch,) = whole.batches(1)
    parts = []
    for rank in range(3):
        task = task_of(teacher, **options)
        task.rank, task.world_size = rank, 3
        parts.append(task.loss(model, batch))
    # The hard term of a share is an estimate, exact where all shares are of one length: 240 nodes in three.
    torch.testing.assert_close(torch.stack(parts).mean(), whole.loss(model, batch))


def test_the_teacher_is_asked_once_in_eval_mode_and_gets_no_gradient() -> None:
    teacher = tokenizer(dropout=0.9)
    codebook = teacher.quantizer.codebook.clone()
    task = task_of(teacher, w_code=1.0)
    model = student()
    for batch in task.batches(1):
        task.loss(model, batch).backward()
    assert not teacher.training
    assert torch.equal(teacher.quantizer.codebook, codebook)
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(task.soft_labels(), task.logits(teacher))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_soft": 0.0}, "must be above zero"),
        ({"w_hard": -1}, "w_hard must be"),
        ({"tau": 0.0}, "tau must be"),
        ({"temperature": 0.0}, "temperature must be"),
        ({"relation": "dot"}, "relation must be one of"),
        ({"schedule": "sweep"}, "did you mean 'sweeps'"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"w_code": 1.0}, r"codebook of one head \(got GNN\)"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of(GNN(WIDTH, 8, 2, CLASSES), **options)


def test_a_student_without_a_code_head() -> None:
    task = task_of(tokenizer(), w_code=1.0)
    with pytest.raises(ValueError, match="code_dim must be given"):
        task.loss(student(None), next(task.batches(1)))


# Hidden nodes ---------------------------------------------------------------------------------------------------------


class Degree(nn.Module):
    """Says the degree of each node, as logits, and remembers how many nodes it saw in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[bool, int]] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.seen.append((self.training, x.size(0)))
        degree = x.new_zeros(x.size(0)).index_add_(0, edge_index[1], torch.ones(edge_index.size(1)))
        return self.weight * torch.stack([degree, x[:, 0], x[:, 1]], 1)


def test_hidden_nodes_are_not_there_in_training_and_have_all_neighbours_in_the_test() -> None:
    data = communities()
    split = split_of(data, hidden=True)
    task = NodeClassificationTask(data, split)
    count = split.hidden.numel()
    assert count == int(0.2 * split.test.numel())
    assert task.num_nodes == NODES - count
    keep = torch.ones(NODES, dtype=torch.bool)
    keep[split.hidden] = False
    assert torch.equal(task.x, data.x[keep])
    inside = keep[data.edge_index[0]] & keep[data.edge_index[1]]
    assert task.edge_index.size(1) == int(inside.sum()) < data.edge_index.size(1)
    model = Degree()
    model.train()
    task.loss(model, next(task.batches(1)))
    valid, test = task.evaluate(model, "valid"), task.evaluate(model, "test")
    assert model.seen == [(True, NODES - count), (False, NODES - count), (False, NODES - count), (False, NODES)]
    assert valid["Accuracy"] == valid["Accuracy seen"] == valid["Accuracy unseen"]
    # By hand: degrees in the observed graph for those that are there, in the whole graph for the others.
    whole = model(data.x, data.edge_index).argmax(1)
    observed = torch.full((NODES,), -1)
    observed[keep] = model(task.x, task.edge_index).argmax(1)
    seen = split.test[keep[split.test]]
    right_seen, right_unseen = observed[seen] == data.y[seen], whole[split.hidden] == data.y[split.hidden]
    assert test["Accuracy seen"] == pytest.approx(100 * float(right_seen.float().mean()))
    assert test["Accuracy unseen"] == pytest.approx(100 * float(right_unseen.float().mean()))
    assert test["Accuracy"] == pytest.approx(100 * float(torch.cat([right_seen, right_unseen]).float().mean()))


def test_nothing_of_the_hidden_nodes_reaches_the_training() -> None:
    """Other features and edges of hidden nodes: teacher and student end with the same weights."""
    data = communities()
    split = split_of(data, hidden=True)
    other = data.clone()
    other.x[split.hidden] = 100.0
    touches = torch.isin(data.edge_index, split.hidden).any(0)
    other.edge_index = data.edge_index[:, ~touches]
    weights = []
    for graph in (data, other):
        teacher, model = tokenizer(), student()
        Trainer(2, device="cpu", progress=False).fit(
            teacher, GraphTokenizerTask(graph, split), torch.optim.Adam(teacher.parameters(), 0.01)
        )
        task = NodeDistillationTask(graph, split, teacher, w_code=1.0)
        Trainer(2, device="cpu", progress=False).fit(model, task, torch.optim.Adam(model.parameters(), 0.01))
        weights.append({**teacher.state_dict(), **{f"student.{k}": v for k, v in model.state_dict().items()}})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


# Runs -----------------------------------------------------------------------------------------------------------------


def chain(w_code: float = 1.0, epochs: int = 4, hidden: bool = False) -> tuple[Experiment, Experiment]:
    data = communities()
    split = split_of(data, hidden)
    teacher = tokenizer(dropout=0.3)
    first = Experiment(
        GraphTokenizerTask(data, split), teacher, torch.optim.Adam(teacher.parameters(), 0.01), max_epochs=epochs
    )
    model = student(WIDTH if w_code else None, dropout=0.1)
    task = NodeDistillationTask(data, split, teacher, w_code=w_code, batch_size=64)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    return first, Experiment(task, model, optimizer, epochs, start_from=("teacher", first))


def test_resumed_runs_end_as_whole_ones(tmp_path) -> None:
    def run(name: str, stops: tuple[int, ...]) -> dict[str, Tensor]:
        for epochs in stops:
            first, second = chain()
            for part, experiment in (("first", first), ("second", second)):
                experiment.max_epochs = epochs
                folder = tmp_path / name / part
                experiment.run(device="cpu", progress=False, folder=folder, resume=True)
            second.begin()
        return {**first.model.state_dict(), **{f"student.{k}": v for k, v in second.model.state_dict().items()}}

    # The teacher is whole before the student begins in either run.
    whole = run("whole", (4,))
    first, second = chain()
    first.run(device="cpu", progress=False, folder=tmp_path / "parts" / "first")
    second.max_epochs = 2
    second.run(device="cpu", progress=False, folder=tmp_path / "parts" / "second")
    parts = run("parts", (4,))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_a_tokenizer_resumes_bit_for_bit(tmp_path) -> None:
    def train(epochs: int, folder, resume: bool) -> dict[str, Tensor]:
        first, _ = chain()
        first.max_epochs = epochs
        first.run(device="cpu", progress=False, folder=folder, resume=resume)
        return first.model.state_dict()

    whole = train(5, tmp_path / "whole", False)
    train(2, tmp_path / "parts", False)
    parts = train(5, tmp_path / "parts", True)
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_a_student_learns_the_graph_from_its_teacher() -> None:
    """Where features say little, it is ahead of an MLP with labels alone, on hidden nodes as well."""
    first, second = chain(epochs=40, hidden=True)
    first.run(device="cpu", progress=False)
    taught = second.run(device="cpu", progress=False)
    alone = student(None)
    data = communities()
    task = NodeClassificationTask(data, split_of(data, hidden=True))
    plain = Trainer(40, device="cpu", progress=False).fit(alone, task, torch.optim.Adam(alone.parameters(), 0.01))
    assert taught.test("Accuracy") > plain.test("Accuracy") + 8
    assert taught.test("Accuracy unseen") > plain.test("Accuracy unseen")


# Export ---------------------------------------------------------------------------------------------------------------


def test_an_exported_student_needs_neither_graph_nor_graphkit(tmp_path) -> None:
    model = student(norm="batch", dropout=0.5)
    x = communities().x
    model(x)
    model.eval()
    path = export_student(model, tmp_path / "student.pt2")
    program = torch.export.load(path)
    served = program.module()
    for rows in (1, 7, NODES):
        torch.testing.assert_close(served(x[:rows]), model(x[:rows])[0])
    # Operators of PyTorch alone, and no code head.
    assert all(str(node.target).startswith("aten.") for node in program.graph.nodes if node.op == "call_function")
    assert sum(value.numel() for value in program.parameters()) == sum(p.numel() for p in model.serving().parameters())
    # The module itself is as it was.
    assert next(model.parameters()).requires_grad


def test_onnx(tmp_path, monkeypatch) -> None:
    model = student()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'graphkit\[onnx\]'"):
        export_student(model, tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    onnx = pytest.importorskip("onnx", reason="ONNX needs the extra onnx")
    path = export_student(model, tmp_path / "student.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    (logits,) = onnx.load(path).graph.output
    assert (logits.name, logits.type.tensor_type.shape.dim[1].dim_value) == ("logits", CLASSES)


def test_another_suffix(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"path must end with \.pt2 or \.onnx"):
        export_student(student(), tmp_path / "student.pkl")
    assert not list(tmp_path.iterdir())
