"""Runs of seconds that the tests of training start in processes of their own, and kill.

The processes are forked from a server that has imported everything, since importing takes longer than training.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from graphkit.datasets.splits import LinkSplit, NCNRandomLinkSplit
from graphkit.nn import LinkPredictor, NCNCDecoder, NCNDecoder, PureGNN
from graphkit.train import LinkPredictionTask, Trainer
from graphkit.utils import io as files
from graphkit.utils.seed import seed_everything


def small_split(seed: int = 0, num_nodes: int = 120, features: int | None = 6, reach: int = 4) -> LinkSplit:
    """A ring in which every node knows the next few."""
    source = torch.arange(num_nodes).repeat_interleave(reach)
    target = (source + torch.arange(1, reach + 1).repeat(num_nodes)) % num_nodes
    edges = torch.stack([source, target])
    x = None if features is None else torch.randn(num_nodes, features, generator=torch.Generator().manual_seed(7))
    data = Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=num_nodes)
    return NCNRandomLinkSplit(seed=seed).split(data)


def small_model(task: LinkPredictionTask, decoder: str = "NCNC", dropout: float = 0.2, seed: int = 0) -> LinkPredictor:
    seed_everything(seed)
    encoder = PureGNN(task.num_features, 8, 1, task.num_nodes, dropout=dropout, edge_dropout=dropout)
    if decoder == "NCN":
        return LinkPredictor(encoder, NCNDecoder(8, 8, dropout=dropout, edge_dropout=dropout))
    # A cap on neighbours draws random numbers in evaluation too.
    return LinkPredictor(encoder, NCNCDecoder(8, 8, dropout=dropout, edge_dropout=dropout, max_neighbors=(2, 4)))


class Counting:
    """A task that kills its process at the n-th step or evaluation."""

    _kill: tuple[str, int] = ("", 0)
    _seen = 0

    def loss(self, model, batch):
        self._count("step")
        return super().loss(model, batch)

    def evaluate(self, model, split):
        self._count("evaluate")
        return super().evaluate(model, split)

    def _count(self, what: str) -> None:
        if self._kill[0] == what:
            self._seen += 1
            if self._seen == self._kill[1]:
                die()


class CountingTask(Counting, LinkPredictionTask):
    pass


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(place: str, number: int) -> Callable[..., None]:
    """Let this process end itself at the n-th time that a checkpoint is written or moved, or a history written.

    Returns ``torch.save`` as it was.
    """
    seen = {"write": 0, "replace": 0, "history": 0}

    def reached(what: str) -> bool:
        seen[what] += 1
        return (what, seen[what]) == (place, number)

    save, replace, history = torch.save, os.replace, Trainer._write_history

    def dying_save(content, file):
        if not reached("write"):
            return save(content, file)
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()

    def dying_replace(source, target):
        if Path(target).name == "checkpoint.pt" and reached("replace"):
            die()
        replace(source, target)

    def dying_history(self, result):
        if reached("history"):
            die()
        history(self, result)

    files.torch.save, files.os.replace, Trainer._write_history = dying_save, dying_replace, dying_history
    return save


def train(folder: Path, report: Path | None, kill: tuple[str, int] = ("", 0), **options: Any) -> None:
    """Train in ``folder`` and leave the outcome in ``report``; ``kill`` says where the process ends itself."""
    torch.set_num_threads(1)
    save = dies_at(*kill)
    task = CountingTask(small_split(), 48, ("Hits@20", "MRR", "AUC"))
    task._kill = kill
    model = small_model(task)
    groups = [{"params": model.encoder.parameters(), "lr": 0.02}, {"params": model.decoder.parameters(), "lr": 0.01}]
    optimizer = torch.optim.Adam(groups)
    settings = {"device": "cpu", "progress": False, "clip_grad_norm": 1.0, **options}
    trainer = Trainer(settings.pop("max_epochs", 6), folder=folder, **settings)
    (folder / "started").touch() if folder.exists() else None
    result = trainer.fit(model, task, optimizer)
    if report is not None:
        save({"best": result.best, "history": result.history, "weights": model.state_dict()}, report)
        Path(f"{report}.csv").write_bytes((folder / "history.csv").read_bytes())


def command_line(words: list[str], log: Path) -> None:
    """The command line in this process, with its output in ``log``."""
    from graphkit.cli import main

    torch.set_num_threads(1)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.exit(main(words))


def server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["graphkit.train", "graphkit.recipes.ncnc", "graphkit.bench.runner", "tyro"])
    return context
