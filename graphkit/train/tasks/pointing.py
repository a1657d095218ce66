"""Pointing: answers that are sequences of a graph's own nodes, learned from known ones and judged by the problem."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, InMemoryDataset

from graphkit.datasets.pointing import PointingProblem
from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.nn.decoder.pointer import pointing_loss
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import stream


class PointingTask(Task):
    r"""Learn to point at nodes, as in `"Pointer Networks" <https://arxiv.org/abs/1506.03134>`_: training graphs are
    drawn anew in every epoch, cross-entropy under teacher forcing is the loss, and decoded answers are judged.

    A model is called as ``model(x, graphs, target)``, which gives logits for
    :func:`~graphkit.nn.pointing_loss`, and as ``model.decode(x, graphs, beam=..., unique=..., max_steps=...)``, which
    gives places ``[B, M]`` first; :class:`~graphkit.nn.PointerNetwork` is one. With several processes each takes its
    share of every batch.

    Metrics are those of the problem in percent, averaged over answers; what is not a number, such as the area of a
    polygon that crosses itself, is left out of its mean.

    Args:
        problem: how graphs are drawn and answers judged.
        valid: the graphs that choose the epoch, with ``x`` and ``target``.
        test: the graphs to score in the end.
        epoch_size: training graphs an epoch.
        batch_size: graphs a step.
        beam: partial answers that the search keeps.
        unique: the search never takes a node twice; as the model was trained if None.
        other_sizes: numbers of nodes of further graphs, which are scored once, at the end.
        seed: of the training graphs.

    Raises:
        ValueError: a number out of range, or graphs without answers.

    Example:
        >>> from graphkit.datasets.pointing import pointing_problem
        >>> problem = pointing_problem("sort-5")
        >>> PointingTask(problem, *(problem.draw(100, seed, None, False) for seed in (0, 1)))
        PointingTask(Exact, valid=100, test=100, epoch_size=12800, beam=1)
    """

    unit = "graph"

    def __init__(
        self,
        problem: PointingProblem,
        valid: PackedGraphs | InMemoryDataset | Data,
        test: PackedGraphs | InMemoryDataset | Data,
        epoch_size: int = 12800,
        batch_size: int = 128,
        beam: int = 1,
        unique: bool | None = None,
        other_sizes: tuple[int, ...] = (),
        seed: int = 0,
    ) -> None:
        self.problem, self.monitor = problem, problem.monitor.capitalize()
        self._graphs = {
            name: graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
            for name, graphs in (("valid", valid), ("test", test))
        }
        for name, graphs in self._graphs.items():
            if "target" not in graphs:
                raise ValueError(f"{name} must hold graphs with their answers, target [B, M] (got none)")
        self.epoch_graphs = check_int(epoch_size, "epoch_size", 1)
        self.batch_size, self.beam = check_int(batch_size, "batch_size", 1), check_int(beam, "beam", 1)
        self.unique, self.other_sizes = unique, tuple(other_sizes)
        self.seed = check_int(seed, "seed", 0)
        self.num_features = self._graphs["valid"].num_features
        self._device = torch.device("cpu")

    def num_batches(self) -> int:
        return -(-self.epoch_graphs // self.batch_size)

    def size(self, batch: Batch) -> int:
        return batch.num_graphs

    def epoch_size(self) -> int:
        return self.epoch_graphs

    def batches(self, epoch: int) -> Iterator[Batch]:
        """New graphs, which follow from the seed and the epoch alone. Seeds below 2³² are left to what is scored."""
        drawn = int(torch.randint(2**32, 2**62, (1,), generator=stream(self.seed, epoch)))
        graphs = PackedGraphs(self.problem.draw(self.epoch_graphs, drawn, None, True)).to(self._device)
        for ids in torch.arange(self.epoch_graphs).split(self.batch_size):
            # A process without a graph of its own takes part all the same, with a loss of nothing.
            share = ids[self.rank :: self.world_size]
            batch = graphs.batch(share if share.numel() else ids[:1])
            batch.weight = share.numel() * self.world_size / ids.numel()
            yield batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.weight * pointing_loss(model(batch.x, batch, batch.target), batch.target)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return self._score(model, self._graphs[check_choice(split, "split", ("valid", "test"))])

    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """The same numbers on graphs of other sizes, 500 of each for validation and for test."""
        found: dict[str, dict[str, float]] = {}
        for nodes in self.other_sizes:
            for part, seed in (("valid", 2), ("test", 3)):
                graphs = PackedGraphs(self.problem.draw(500, seed, nodes, False)).to(self._device)
                for name, value in self._score(model, graphs).items():
                    found.setdefault(f"{name} n={nodes}", {})[part] = value
        return found

    def _score(self, model: nn.Module, graphs: PackedGraphs) -> dict[str, float]:
        model.eval()
        numbers: list[dict[str, float]] = []
        for ids in torch.arange(len(graphs)).split(4 * self.batch_size):
            batch = graphs.batch(ids)
            steps = self.problem.longest * int(batch.ptr.diff().max())
            answer = model.decode(batch.x, batch, beam=self.beam, unique=self.unique, max_steps=steps)  # type: ignore[operator]
            x, ptr, found, target = (part.cpu().numpy() for part in (batch.x, batch.ptr, answer[0], batch.target))
            for row, wanted, low, high in zip(found, target, ptr[:-1], ptr[1:], strict=True):
                numbers.append(self.problem.judge(x[low:high], row[row >= 0], wanted[wanted >= 0]))
        out = {}
        for name in numbers[0]:
            values = np.array([row[name] for row in numbers])
            known = values[np.isfinite(values)]
            out[name.capitalize()] = 100 * float(known.mean()) if known.size else 0.0
        return out

    def to(self, device: torch.device | str) -> PointingTask:
        self._device = torch.device(device)
        self._graphs = {name: graphs.to(device) for name, graphs in self._graphs.items()}
        return self

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={len(graphs)}" for name, graphs in self._graphs.items())
        return f"{type(self).__name__}({self.monitor}, {sizes}, epoch_size={self.epoch_graphs}, beam={self.beam})"
