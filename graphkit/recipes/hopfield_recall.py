"""The associative memory of "Hopfield Networks is All You Need" (https://arxiv.org/abs/2008.02217): half-erased images
recalled, against the number of images that are stored and the temperature. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.datasets import load
from graphkit.nn.mixer.hopfield import hopfield_retrieve
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, Task
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import stream

MODELS = ("Hopfield", "One retrieval", "Hebbian")


@dataclass(frozen=True)
class Config:
    """What is stored, what is erased, and how it is looked up."""

    dataset: str = "digits"
    """A graph whose features are rows to remember."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    patterns: int = 500
    """Rows stored, drawn by seed."""
    beta: float = 4.0
    """Inverse temperature."""
    steps: int = 3
    """Retrievals of Hopfield, and passes of the Hebbian network."""
    norm: float = 8.0
    """Length of the rows, centred first."""
    erased: float = 0.5
    """Share of the features set to zero, the last ones."""
    within: float = 0.8
    """Largest distance at which a row counts as recalled."""
    curve: tuple[int, ...] = (50, 100, 200, 500, 1000)
    """Numbers of rows of the table that goes with the record."""
    betas: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Temperatures of that table."""


class RecallTask(Task):
    """Rows recalled from what is left of them, as a task that is only evaluated. ``"Recalled"`` is the share in percent
    that comes back, ``"Error"`` the mean distance in percent of a row's length, negated so that higher is better. There
    is nothing to choose, so that validation and test are the same."""

    monitor = "Recalled"

    def __init__(self, rows: Tensor, config: Config, model: str, seed: int) -> None:
        if check_int(config.patterns, "patterns", 2) > len(rows):
            raise ValueError(f"patterns must be at most {len(rows)}, the rows there are (got {config.patterns})")
        self.config, self.model, self.seed = config, check_choice(model, "model", MODELS), seed
        order = torch.randperm(len(rows), generator=stream(seed))
        self._rows = rows.double()[order]

    def recall(self, count: int, beta: float, steps: int) -> dict[str, float]:
        """The metrics with ``count`` rows stored."""
        stored = self._rows[:count] - self._rows[:count].mean(0)
        stored = self.config.norm * stored / stored.norm(dim=1, keepdim=True)
        left = stored.clone()
        left[:, round(left.size(1) * (1 - self.config.erased)) :] = 0
        if self.model == "Hebbian":
            found = self._hebbian(stored, left, steps)
        else:
            found = hopfield_retrieve(left, stored, beta, steps)[0]
        error = (found - stored).norm(dim=1)
        return {
            "Recalled": 100 * float((error < self.config.within).double().mean()),
            "Error": -100 * float(error.mean()) / self.config.norm,
        }

    @staticmethod
    def _hebbian(stored: Tensor, left: Tensor, steps: int) -> Tensor:
        """A classical network: signs of the rows, their correlations without the diagonal, all units at once."""
        signs = stored.sign()
        weight = signs.T @ signs
        weight.fill_diagonal_(0)
        state = left
        for _ in range(steps):
            state = (state @ weight).sign()
        # A row of signs stands for the sizes of the stored rows.
        return state * stored.abs().mean(0)

    def num_batches(self) -> int:
        return 0

    def batches(self, epoch: int) -> Any:
        return iter(())

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} is only evaluated; give the experiment no optimizer")

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        return self.recall(self.config.patterns, self.config.beta, self._steps)

    def table(self, model: nn.Module) -> dict[str, list[Any]]:
        """Metrics against the number of stored rows and the temperature, which the Hebbian network has not."""
        betas = self.config.betas[:1] if self.model == "Hebbian" else self.config.betas
        counts = [count for count in self.config.curve if count <= len(self._rows)]
        pairs = [(count, beta) for count in counts for beta in betas]
        found = [self.recall(count, beta, self._steps) for count, beta in pairs]
        columns: dict[str, list[Any]] = {"patterns": [count for count, _ in pairs], "beta": [beta for _, beta in pairs]}
        return columns | {name: [round(row[name], 3) for row in found] for name in ("Recalled", "Error")}

    @property
    def _steps(self) -> int:
        return 1 if self.model == "One retrieval" else self.config.steps

    def to(self, device: torch.device | str) -> RecallTask:
        self._rows = self._rows.to(device)
        return self


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table, with rows drawn by ``seed``."""
    data = load(config.dataset, config.root).data
    if getattr(data, "x", None) is None:
        raise ValueError(f"{config.dataset} has no rows of features to remember; take digits")
    rows = data.x.to_dense() if data.x.is_sparse_csr else data.x
    return Experiment(RecallTask(rows, config, model, seed), nn.Identity())


RECIPE = Recipe(
    key="hopfield_recall",
    config=Config,
    settings={"digits": {}},
    fast={"patterns": 50, "curve": (50,)},
    models=MODELS,
    build=build,
    task=None,
    protocol="nothing is trained: rows, centred and of one length, are looked up by what is left when the last half of "
    "their features is erased; a row within a tenth of its length counts as recalled; a seed draws the rows",
    headline=("Error",),
)
