"""What a recipe is: a paper's settings and how its parts are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from graphkit.datasets import PROTOCOLS, info
from graphkit.train import Experiment
from graphkit.utils.checks import check_choice

ModelName = str
DatasetName = str


@dataclass(frozen=True)
class Reported:
    """A figure as a paper prints it.

    Args:
        mean, std: over the paper's runs; ``std`` None if it gives none.
        metric: the metric's name here.
        source: where it stands.
    """

    mean: float
    std: float | None
    metric: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """A paper's experiments.

    Args:
        key: its row in ``papers.toml``.
        config: dataclass of hyperparameters; has a field ``dataset``, and a property ``label`` if more than that
            names the data, such as an attack on it. Its field docstrings are the ``--help``.
        settings: for each dataset, the fields that differ from the class's defaults.
        fast: fields of a smoke run of seconds.
        models: the models of the table, in order.
        build: ``build(config, model, seed)`` makes the experiment of one model.
        reported: the paper's figures by (model, dataset).
        absent: models that do not apply to a dataset: its table goes without them.
        headline: metrics that tables show beside the one that chooses the epoch.
        task: the kind of task: ``"link"``, ``"node"`` and so on; it chooses the dataset's way to split. Of several, the
            first that the dataset has a way to split for. None if nothing is split.
        protocol: what else there is to the protocol, in one sentence.
    """

    key: str
    config: type
    settings: dict[DatasetName, dict[str, Any]]
    fast: dict[str, Any]
    models: tuple[ModelName, ...]
    build: Callable[[Any, ModelName, int], Experiment]
    task: str | tuple[str, ...] | None
    protocol: str
    reported: dict[tuple[ModelName, DatasetName], Reported] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    absent: dict[DatasetName, tuple[ModelName, ...]] = field(default_factory=dict)

    def models_for(self, dataset: str) -> tuple[ModelName, ...]:
        """The models of a dataset's table."""
        return tuple(model for model in self.models if model not in self.absent.get(info(dataset).name, ()))

    def defaults(self, dataset: str | None = None, fast: bool = False) -> Any:
        """The config with the settings of ``dataset``; of the first dataset if None."""
        name = info(dataset or next(iter(self.settings))).name
        changed = {"dataset": name, **self.settings.get(name, {}), **(self.fast if fast else {})}
        for key in changed:
            check_choice(key, f"a setting of {self.key}", [f.name for f in fields(self.config)])
        return replace(self.config(), **changed)

    def describe(self, config: Any) -> str:
        """The whole protocol of a config in words: how the data is split, and the rest."""
        if self.task is None:
            return self.protocol
        facts = info(config.dataset)
        kinds = (self.task,) if isinstance(self.task, str) else self.task
        served = {PROTOCOLS[name].task for name in facts.protocols}
        task = next((kind for kind in kinds if kind in served), kinds[0])
        split = facts.protocol_for(task, getattr(config, "protocol", None))
        return f"{PROTOCOLS[split].text}; {self.protocol}"
