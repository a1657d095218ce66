"""Pointer Networks (https://arxiv.org/abs/1506.03134): sorting, convex hulls, Delaunay triangulations, shortest tours,
and shortest paths in pieces of a real graph, against attention with a fixed alphabet and against simple rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphkit.datasets import load
from graphkit.datasets.pointing import hull_order, nearest_neighbor_tour, pointing_problem
from graphkit.nn import AttentionSeq2Seq, PointerNetwork
from graphkit.ops import TokenLayout
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import Experiment
from graphkit.train.tasks import PointingTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("Ptr-Net", "Set Ptr-Net", "Attention", "Rule")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of all networks; the paper trains 256 or 512 units by plain gradient descent on a million
    examples, ten and more times as long."""

    dataset: str = "convex-hull-5"
    """sort-5, sort-10, convex-hull-5, convex-hull-10, delaunay-5, tsp-10 or digit-paths."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    hidden: int = 128
    """Units of encoder, decoder and pointer."""
    glimpses: int = 0
    """Looks at the nodes before each pointing, which the paper does not take."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    clip_grad_norm: float = 2.0
    """Largest norm of the gradient."""
    epochs: int = 200
    """Epochs."""
    epoch_size: int = 12_800
    """Examples an epoch, each drawn anew."""
    batch_size: int = 128
    """Examples a step."""
    eval_every: int = 5
    """Epochs between evaluations."""
    beam: int = 1
    """Partial answers that the search keeps."""
    other_sizes: tuple[int, ...] = ()
    """Numbers of nodes of further graphs, scored at the end by models that can."""


SETTINGS: dict[str, dict[str, Any]] = {
    "convex-hull-5": {"other_sizes": (10,)},
    "convex-hull-10": {"hidden": 256, "other_sizes": (10, 15, 20)},
    "sort-5": {"hidden": 64, "lr": 2e-3, "epochs": 40, "other_sizes": (10,)},
    "sort-10": {"hidden": 64, "lr": 2e-3, "epochs": 40, "other_sizes": (15,)},
    "delaunay-5": {"hidden": 256},
    "tsp-10": {"beam": 4, "other_sizes": (12,)},
    "digit-paths": {"epochs": 60, "epoch_size": 6_400, "other_sizes": (20,)},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table, with first weights and training graphs of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    dataset.info.protocol_for("pointing")
    split, problem = dataset.split(seed), pointing_problem(dataset.info.name)
    assert dataset.graphs is not None
    longest = int(dataset.graphs.slices["x"].diff().max())
    task = PointingTask(
        problem,
        dataset.graphs[split.valid],
        dataset.graphs[split.test],
        config.epoch_size,
        config.batch_size,
        config.beam,
        other_sizes=tuple(n for n in config.other_sizes if model != "Attention" or n <= longest),
        seed=seed,
    )
    seed_everything(seed)
    if model == "Rule":
        return Experiment(task, Rule(config.dataset))
    ends: dict[str, Any] = {
        "end_token": problem.end_token,
        "unique": problem.unique,
        "follow_edges": problem.follow_edges,
    }
    if model == "Attention":
        network: nn.Module = AttentionSeq2Seq(task.num_features, config.hidden, longest, **ends)
    else:
        encoder = "set" if model == "Set Ptr-Net" else "lstm"
        network = PointerNetwork(task.num_features, config.hidden, encoder, glimpses=config.glimpses, **ends)
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    return Experiment(
        task, network, optimizer, config.epochs, clip_grad_norm=config.clip_grad_norm, eval_every=config.eval_every
    )


class Rule(nn.Module):
    """What can be done without learning: numbers as they stand; all points around their mean; the triangles from one
    corner of the hull; always on to the nearest point; always on to the neighbour nearest to the end."""

    def __init__(self, dataset: str) -> None:
        super().__init__()
        self.kind = dataset.split("-")[0]

    def decode(self, x: Tensor, tokens: Any, **_: Any) -> tuple[Tensor]:
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        if self.kind == "digit":
            return (_greedy_paths(x, layout),)
        rule, parts = _RULES[self.kind], x.double().cpu().split(layout.length.tolist())
        answers = [torch.from_numpy(rule(part.numpy()).astype(np.int64)) for part in parts]
        return (nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=-1),)


def _around(points: np.ndarray) -> np.ndarray:
    offset = points - points.mean(0)
    return np.argsort(np.arctan2(offset[:, 1], offset[:, 0]))


def _fan(points: np.ndarray) -> np.ndarray:
    hull = hull_order(points)
    return np.stack([np.full(len(hull) - 2, hull[0]), hull[1:-1], hull[2:]], axis=1).reshape(-1)


_RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sort": lambda points: np.arange(len(points)),
    "convex": _around,
    "delaunay": _fan,
    "tsp": nearest_neighbor_tour,
}


def _greedy_paths(x: Tensor, layout: TokenLayout) -> Tensor:
    """All graphs at once, until each has come to its end or has been everywhere."""
    place, mark, mask = layout.pad(x[:, :-2]), layout.pad(x[:, -2:]), layout.mask
    src, dst = layout.edge_index  # type: ignore[misc]
    graphs, longest = mask.shape
    joined = torch.zeros(graphs, longest, longest, dtype=torch.bool, device=x.device)
    joined[layout.batch[src], layout.rank[src], layout.rank[dst]] = True
    here, end = mark[..., 0].argmax(1), mark[..., 1].argmax(1)
    row = torch.arange(graphs, device=x.device)
    away = (place - place[row, end][:, None]).norm(dim=2)
    found = torch.full((graphs, longest), -1, device=x.device)
    found[:, 0] = here
    free = mask.clone()
    done = here == end
    for step in range(1, longest):
        free[row, here] = False
        open_ = joined[row, here] & free
        done = done | ~open_.any(1)
        following = away.masked_fill(~open_, torch.inf).argmin(1)
        here = torch.where(done, here, following)
        found[:, step] = torch.where(done, -1, here)
        done = done | (here == end)
    return found


# Recalled, and not compared with the paper.
_PAPER = "recalled from Pointer Networks, trained far longer; not checked against the paper"

RECIPE = Recipe(
    key="pointer_net",
    config=Config,
    settings=SETTINGS,
    fast={"hidden": 8, "epochs": 1, "epoch_size": 128, "batch_size": 64, "other_sizes": ()},
    models=MODELS,
    build=build,
    task="pointing",
    protocol="a seed draws weights and training graphs; test at the epoch of the best validation value, for each "
    "metric by itself; metrics at other sizes are of the epoch that the first metric chooses",
    reported={
        ("Ptr-Net", "convex-hull-5"): Reported(92.0, None, "Exact", _PAPER),
        ("Ptr-Net", "delaunay-5"): Reported(93.0, None, "Coverage", _PAPER),
        ("Ptr-Net", "tsp-10"): Reported(99.7, None, "Optimality", f"2.87 / 2.88, {_PAPER}"),
    },
    headline=("Exact", "Area", "Valid", "Coverage", "Optimality", "Share"),
)
