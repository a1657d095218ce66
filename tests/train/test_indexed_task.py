"""Tasks on numbered samples: what a split must be, and which samples an epoch has."""

from __future__ import annotations

import pytest
import torch

from graphkit.datasets import IndexSplit
from graphkit.train import RegressionTask

X = torch.arange(20.0)[:, None]
SPLIT = IndexSplit(*torch.arange(20).split([11, 4, 5]))


def test_an_epoch_has_each_training_sample_once_in_an_order_of_its_own():
    task = RegressionTask(X, X, SPLIT, batch_size=4, seed=3)
    first, second, again = (torch.cat(list(task.batches(epoch))) for epoch in (1, 2, 1))
    assert torch.equal(first.sort().values, SPLIT.train)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(list(RegressionTask(X, X, SPLIT, batch_size=4, seed=4).batches(1))))
    assert [task.size(batch) for batch in task.batches(1)] == [4, 4, 3]
    assert (task.num_batches(), task.epoch_size()) == (3, 11)
    assert RegressionTask(X, X, SPLIT).num_batches() == 1


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        (torch.arange(3), TypeError, "split must be .*IndexSplit .got Tensor"),
        (IndexSplit(SPLIT.train, SPLIT.valid[:0], SPLIT.test), ValueError, r"split\.valid holds no rows"),
        (IndexSplit(SPLIT.train, SPLIT.valid, torch.tensor([20])), IndexError, r"test holds row 20, outside \[0, 20\)"),
    ],
)
def test_wrong_splits(split, error, message):
    with pytest.raises(error, match=message):
        RegressionTask(X, X, split)
