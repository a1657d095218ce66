"""How good frozen vectors are: logistic regression on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_f1_score

from graphkit.datasets.splits import IndexSplit
from graphkit.utils.checks import check_features, check_int, check_range
from graphkit.utils.seed import stream


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe found.

    Attributes:
        epoch: epoch of the best validation accuracy, the first of equal ones.
        valid: ``"Accuracy"`` and ``"F1"`` (macro) of that epoch on the validation nodes, in percent.
        test: the same on the test nodes.
    """

    epoch: int
    valid: dict[str, float]
    test: dict[str, float]


def linear_probe(
    z: Tensor,
    y: Tensor,
    split: IndexSplit,
    *,
    epochs: int = 3000,
    lr: float = 0.01,
    eval_every: int = 20,
    seed: int = 0,
) -> ProbeResult:
    """Logistic regression on vectors that stay as they are, as self-supervised node vectors are judged.

    Adam on the cross-entropy of all training nodes without weight decay; every ``eval_every`` epochs the validation
    nodes are scored, and the epoch of their best accuracy (which is micro-F1 where each node has one class) gives the
    test values. The weights are drawn by ``seed`` alone, so that the same vectors give the same result.
    O(n D C) time an epoch for n training nodes and C classes.

    Args:
        z: ``[N, D]`` vectors; no gradient reaches them.
        y: ``[N]`` class numbers from 0.
        split: ids of the training, validation and test nodes.
        epochs: steps.
        lr: learning rate.
        eval_every: steps between evaluations.
        seed: seed of the first weights (Glorot; zero for biases).

    Raises:
        ValueError: vectors that are not finite, another number of labels than vectors, an empty part, a label below 0
            in the split, a number out of range.

    Example:
        >>> z, y = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
        >>> split = IndexSplit(torch.arange(4), torch.arange(4, 8), torch.arange(8, 12))
        >>> linear_probe(z, y, split, epochs=200).test["Accuracy"]
        100.0
    """
    check_features(z, "z")
    check_int(epochs, "epochs", 1)
    check_int(eval_every, "eval_every", 1)
    check_range(lr, "lr", 0, low_open=True)
    if y.shape != (z.size(0),):
        raise ValueError(f"y must hold one class for each of the {z.size(0)} vectors (got {list(y.shape)})")
    for name in ("train", "valid", "test"):
        ids = getattr(split, name)
        if ids.numel() == 0:
            raise ValueError(f"split.{name} holds no nodes; training, validation and test need at least one each")
        if bool((y[ids] < 0).any()):
            raise ValueError(f"split.{name} holds nodes without a label; leave them out of the split")
    z = z.detach()
    num_classes = int(y[torch.cat([split.train, split.valid, split.test])].max()) + 1
    layer = nn.utils.skip_init(nn.Linear, z.size(1), num_classes)
    nn.init.xavier_uniform_(layer.weight, generator=stream(seed))
    nn.init.zeros_(layer.bias)
    layer.to(z.device, z.dtype)
    optimizer = torch.optim.Adam(layer.parameters(), lr, fused=z.dtype in (torch.float32, torch.float64))
    inputs, target = z[split.train], y[split.train]
    valid_z, valid_y = z[split.valid], y[split.valid]
    best, best_epoch, best_state = -1.0, 0, {}
    with torch.enable_grad():
        for epoch in range(1, epochs + 1):
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs), target).backward()
            optimizer.step()
            if epoch % eval_every == 0 or epoch == epochs:
                with torch.no_grad():
                    accuracy = float((layer(valid_z).argmax(1) == valid_y).float().mean())
                if accuracy > best:
                    best, best_epoch = accuracy, epoch
                    best_state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(best_state)
    with torch.no_grad():
        answer = layer(z).argmax(1)
    values = []
    for ids in (split.valid, split.test):
        right = float((answer[ids] == y[ids]).double().mean())
        f1 = float(multiclass_f1_score(answer[ids], y[ids], num_classes, average="macro"))
        values.append({"Accuracy": 100 * right, "F1": 100 * f1})
    return ProbeResult(best_epoch, *values)
