"""Labels of events by TGN (https://arxiv.org/abs/2006.10637), JODIE (https://arxiv.org/abs/1908.01207), APAN
(https://arxiv.org/abs/2011.11545), NAT (https://arxiv.org/abs/2209.01084) and an MLP that sees messages alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphkit.datasets import load
from graphkit.nn.temporal.node_head import TemporalNodeClassifier
from graphkit.nn.temporal.state import TemporalModel
from graphkit.recipes import _streams
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment
from graphkit.train.tasks.temporal_node_classification import TemporalNodeClassificationTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("TGN", "JODIE", "APAN", "NAT", "MLP")


@dataclass(frozen=True)
class Config(_streams.Config):
    """Hyperparameters of the encoders and their training by link prediction, and of the head."""

    encoder: str = "frozen"
    """frozen (trained by link prediction, then left alone), tuned (then trained on with the head) or new (trained with
    the head from the start)."""
    use_msg: bool = True
    """Give the head the message of the event in question, if the dataset has messages."""
    node_epochs: int = 20
    """Most epochs of the head."""
    node_patience: int | None = 5
    """Epochs of the head without a better validation value before it stops; never if not given."""
    node_lr: float = 1e-3
    """Learning rate of the head, and of an encoder that is tuned or new."""
    hidden: int = 80
    """Width of the head's hidden layer."""


SETTINGS: dict[str, dict[str, Any]] = {
    "nycflights": {**_streams.SETTINGS["nycflights"], "node_epochs": 5},
    "wikipedia": {},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights of ``seed``."""
    check_choice(model, "model", MODELS)
    check_choice(config.encoder, "encoder", ("frozen", "tuned", "new"))
    dataset = load(config.dataset, config.root)
    stream, split = dataset.data, dataset.split(seed, dataset.info.protocol_for("temporal", config.protocol))
    if stream.y is None:
        raise ValueError(f"{config.dataset} has no labels of events")
    use_msg = config.use_msg and stream.msg is not None
    task = TemporalNodeClassificationTask(stream, split, config.batch_size, use_msg=use_msg)
    encoder: Any
    if model == "MLP":
        first, encoder, width = None, _NoEncoder(stream.num_nodes), 1
    else:
        links = _streams.build(replace(config, mrr_negatives=0), model, seed)
        first = None if config.encoder == "new" else (f"{model}-links", links)
        encoder, width = links.model, config.nat_self_dim if model == "NAT" else config.memory_dim
    seed_everything(seed)
    frozen = config.encoder == "frozen"
    network = TemporalNodeClassifier(encoder, width, task.num_classes, config.hidden, task.event_dim, freeze=frozen)
    head = [*network.lin_hidden.parameters(), *network.lin_out.parameters()]
    optimizer = torch.optim.Adam(head if frozen else network.parameters(), config.node_lr, fused=True)
    return Experiment(task, network, optimizer, config.node_epochs, config.node_patience, start_from=first)


class _NoEncoder(TemporalModel):
    """Says nothing of a node, so that the head has the message alone; without one it can but guess."""

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_nodes(n_id, t, msg)
        return torch.zeros(n_id.numel(), 1, device=n_id.device)


RECIPE = Recipe(
    key="temporal_nodes",
    config=Config,
    settings=SETTINGS,
    fast={**_streams.FAST, "node_epochs": 1, "hidden": 8},
    models=MODELS,
    build=build,
    task="temporal",
    protocol="an encoder is trained by link prediction and frozen, unless encoder says otherwise, and a head on its "
    "embeddings predicts the label of each event from the events of earlier batches; a seed draws the weights; test at "
    "the epoch of the best validation value, for each metric by itself, from the state after validation",
    headline=("AUC", "AP"),
)
