"""The linear probe: scikit-learn's logistic regression, validation's choice, determinism."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor

from graphkit.datasets import IndexSplit
from graphkit.train import linear_probe


def blobs(seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor, IndexSplit]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(150) % 3
    centers = torch.tensor([[2.0, 0], [-1, 2], [-1, -2]])
    z = centers[y] + spread * torch.randn(150, 2, generator=draw)
    order = torch.randperm(150, generator=draw)
    return z, y, IndexSplit(order[:60], order[60:100], order[100:])


def test_it_is_logistic_regression() -> None:
    z, y, split = blobs(spread=1.5)
    theirs = LogisticRegression(C=1e9).fit(z[split.train].numpy(), y[split.train].numpy())
    # Evaluated once, at the end of the fit.
    found = linear_probe(z, y, split, epochs=3000, eval_every=3000)
    answer = theirs.predict(z.numpy())
    for part in ("valid", "test"):
        ids = getattr(split, part)
        values = getattr(found, part)
        assert values["Accuracy"] == pytest.approx(100 * (answer[ids] == y[ids].numpy()).mean(), abs=0.1)
        expected = 100 * f1_score(y[ids].numpy(), answer[ids], average="macro")
        assert values["F1"] == pytest.approx(expected, abs=0.1)
        micro = f1_score(y[ids].numpy(), answer[ids], average="micro")
        assert values["Accuracy"] == pytest.approx(100 * micro, abs=0.1)


def test_validation_chooses_the_epoch() -> None:
    """Training labels that are wrong for all others: every step makes validation worse, and the first one wins."""
    torch.manual_seed(0)
    z, y, split = blobs(spread=0.3)
    wrong = y.clone()
    wrong[split.train] = (y[split.train] + 1) % 3
    found = linear_probe(z, wrong, split, epochs=300, eval_every=10)
    last = linear_probe(z, wrong, split, epochs=300, eval_every=300)
    assert found.epoch < 300
    assert found.valid["Accuracy"] > last.valid["Accuracy"]
    assert last.epoch == 300


def test_the_same_vectors_give_the_same_and_nothing_else_moves() -> None:
    z, y, split = blobs()
    z.requires_grad_()
    torch.manual_seed(0)
    before = torch.rand(())
    torch.manual_seed(0)
    with torch.no_grad():
        first = linear_probe(z, y, split, epochs=50)
    assert torch.rand(()) == before
    assert linear_probe(z, y, split, epochs=50) == first
    assert z.grad is None
    double = linear_probe(z.double(), y, split, epochs=50)
    assert double.test["Accuracy"] == pytest.approx(first.test["Accuracy"], abs=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": torch.full((150, 2), float("nan"))}, "z holds nan"),
        ({"y": torch.zeros(10, dtype=torch.long)}, "one class for each of the 150"),
        ({"y": torch.full((150,), -1)}, "without a label"),
        ({"split": IndexSplit(torch.arange(5), torch.arange(0), torch.arange(6, 9))}, "split.valid holds no nodes"),
        ({"epochs": 0}, "epochs must be in"),
        ({"eval_every": 0}, "eval_every must be in"),
        ({"lr": 0}, "lr must be in"),
    ],
)
def test_wrong_input(changes: dict, message: str) -> None:
    z, y, split = blobs()
    given = {"z": z, "y": y, "split": split, **changes}
    with pytest.raises(ValueError, match=message):
        linear_probe(**given)
