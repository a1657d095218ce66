"""One experiment a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer

from graphkit.nn import ForwardStack
from graphkit.train.experiment import Experiment
from graphkit.train.tasks.task import Task


def layer_by_layer(
    task: Task,
    stack: ForwardStack,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    *,
    name: str,
    max_epochs: int = 1000,
    patience: int | None = 100,
    eval_every: int = 2,
) -> Experiment:
    """A chain of experiments, each of which trains one more layer on top of those that are finished.

    Each layer has its own optimizer, its own early stopping and its own checkpoint; the best state of a layer is that
    with the best validation value of all layers up to it.

    Args:
        task: a task that trains the last layer of the network that it is given, such as
            :class:`~graphkit.train.local.SingleForwardTask`.
        stack: all layers.
        optimizer: makes the optimizer of a layer's parameters.
        name: the last experiment's name; those before it are called ``name.layer1`` and so on.
        max_epochs, patience, eval_every: of each layer, as in :class:`~graphkit.train.Experiment`.

    Returns:
        The experiment of the last layer, which starts from the one before; its ``chain()`` lists all of them.

    Example:
        >>> from functools import partial
        >>> make = partial(torch.optim.Adam, lr=1e-3, weight_decay=5e-4)
        >>> last = layer_by_layer(task, ForwardStack([64, 32, 32]), make, name="SF")  # doctest: +SKIP
        >>> results = [stage.run(device="cpu") for stage in last.chain()]  # doctest: +SKIP
    """
    chain: Experiment | None = None
    for depth in range(1, len(stack.layers) + 1):
        part = stack.prefix(depth)
        chain = Experiment(
            task,
            part,
            optimizer(part.layers[-1].parameters()),
            max_epochs,
            patience,
            eval_every=eval_every,
            start_from=None if chain is None else (f"{name}.layer{depth - 1}", chain),
        )
    assert chain is not None
    return chain
