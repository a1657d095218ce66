"""What recipes of token mixers share: their problems, from sequences with a known answer to texts and nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import PROTOCOLS, IndexSplit, load
from graphkit.datasets.dataset import Dataset
from graphkit.datasets.recall import SEQUENCE_TASKS
from graphkit.loader import PackedGraphs
from graphkit.nn import MeanMixer, NGram, TokenMixer, TokenModel
from graphkit.ops import TokenLayout
from graphkit.train import (
    CosineSchedule,
    Experiment,
    GraphClassificationTask,
    NextTokenTask,
    TokenClassificationTask,
)
from graphkit.train.tasks import Task
from graphkit.transforms import HopTokens

KINDS = ("token", "text", "node")
PROTOCOL = (
    "a seed draws the weights, the order of training and random splits; test at the epoch of the best validation "
    "value. Sequences: accuracy at the tokens asked. Texts: every character of a part is scored once, in windows that "
    "overlap by half, with at least half a context before it. Nodes: the mean of what is read of their surroundings, "
    "far to near; of digits, pixel by pixel"
)


# A smoke run of any of the problems.
FAST = {
    "warmup": 0,
    "channels": 16,
    "layers": 1,
    "heads": 2,
    "epochs": 1,
    "context": 32,
    "fewer": 500,
    "order": 3,
    "hops": 2,
}


@dataclass(frozen=True)
class TokenConfig:
    """Settings of the problems and of training, the same for all models of a table."""

    dataset: str = "reset-majority"
    """Sequences with a known answer, a text, or a graph with node classes among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split nodes; the dataset's first one for nodes if not given."""
    channels: int = 32
    """Width of a token."""
    layers: int = 1
    """Blocks."""
    heads: int = 2
    """Heads of mixers that have any."""
    dropout: float = 0.0
    """Dropout within the model."""
    context: int = 256
    """Characters of a window of text."""
    hops: int = 10
    """Hops of a node's surroundings, a token each."""
    batch_size: int = 32
    """Sequences, windows or nodes a step."""
    lr: float = 0.01
    """Highest learning rate; it falls to zero along half a cosine."""
    warmup: float = 0.0
    """Epochs in which the learning rate rises."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    epochs: int = 8
    """Epochs."""
    order: int = 6
    """Characters that the n-gram model looks at, the predicted one included."""
    fewer: int | None = None
    """Use only the first sequences, characters or nodes of each part, so many; all if not given."""


@dataclass(frozen=True)
class Problem:
    """A task, and what a model must know of it.

    Args:
        task: the task.
        head: head of a model: ``"token"`` or ``"mean"``.
        num_embeddings: number of ids, if tokens are ids.
        in_channels: width of a token's features, otherwise.
        out_channels: width of a model's output.
        max_length: tokens of the longest graph.
    """

    task: Task
    head: str
    num_embeddings: int | None
    in_channels: int
    out_channels: int
    max_length: int


def problem(config: TokenConfig, seed: int) -> Problem:
    """The task of a dataset, by what it is: sequences, a text, or nodes."""
    dataset = load(config.dataset, config.root)
    served = {PROTOCOLS[name].task for name in dataset.info.protocols}
    if "token" in served:
        return _sequences(config, dataset, seed)
    if "text" in served:
        return _text(config, dataset, seed)
    return _nodes(config, dataset, seed)


def experiment(config: TokenConfig, task: Task, network: nn.Module) -> Experiment:
    """AdamW with a cosine schedule, as the GLA paper has it."""
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = CosineSchedule(config.epochs, config.warmup)
    return Experiment(task, network, optimizer, config.epochs, clip_grad_norm=config.clip, schedule=schedule)


def _fewer(config: TokenConfig, split: IndexSplit) -> IndexSplit:
    """The first of each part; a text needs some more than a window for each part."""
    if config.fewer is None:
        return split
    return IndexSplit(*(part[: config.fewer] for part in (split.train, split.valid, split.test)))


class NoMixing(TokenMixer):
    """Nothing comes from other tokens."""

    causal = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels

    def mix(self, x: torch.Tensor, tokens: TokenLayout) -> torch.Tensor:
        return torch.zeros_like(x)


def baseline(config: TokenConfig, found: Problem) -> Experiment:
    """The least to compare with: the n-gram model of a text, the mean of a node's tokens, a token of a sequence
    without the others."""
    task = found.task
    if isinstance(task, NextTokenTask):
        return Experiment(task, NGram(task.num_tokens, config.order).fit(task.ids[task.split.train]))
    mixer = NoMixing if found.head == "token" else MeanMixer
    return experiment(config, task, token_model(config, found, mixer))


def token_model(
    config: TokenConfig, found: Problem, mixer: Callable[[int], TokenMixer], positions: bool = False
) -> TokenModel:
    """A :class:`~graphkit.nn.TokenModel` for a problem, of any mixer, if need be with learned places."""
    return TokenModel(
        found.in_channels,
        config.channels,
        found.out_channels,
        mixer,
        config.layers,
        found.head,
        num_embeddings=found.num_embeddings,
        max_positions=found.max_length if positions else 0,
        dropout=config.dropout,
    )


def _sequences(config: TokenConfig, dataset: Dataset, seed: int) -> Problem:
    split = _fewer(config, dataset.split(seed))
    length = int(dataset.info.nodes)
    # Drawn with another seed: sequences that no model has seen, twice as long.
    longer = PackedGraphs(SEQUENCE_TASKS[dataset.info.name](split.test.numel(), length=2 * length, seed=1))
    graphs = PackedGraphs(dataset.graphs)
    task = TokenClassificationTask(graphs, split, config.batch_size, seed, longer)
    return Problem(task, "token", int(graphs["x"].max()) + 1, 1, task.num_classes, 2 * length)


def _text(config: TokenConfig, dataset: Dataset, seed: int) -> Problem:
    split = _fewer(config, dataset.split(seed))
    task = NextTokenTask(dataset.data.x, split, config.context, config.batch_size, seed=seed)
    return Problem(task, "token", task.num_tokens, 1, task.num_tokens, config.context)


def _nodes(config: TokenConfig, dataset: Dataset, seed: int) -> Problem:
    split = _fewer(config, dataset.split(seed, dataset.info.protocol_for("node", config.protocol)))
    data: Data = dataset.data
    if dataset.info.name == "digits":
        count, pixels = data.x.shape
        grey = Data(x=(16 * data.x).round().long().view(-1), ptr=torch.arange(count + 1) * pixels)
        grey.num_nodes = grey.x.numel()
        task = GraphClassificationTask(PackedGraphs(grey), data.y, split, config.batch_size, seed)
        return Problem(task, "mean", 17, 1, task.num_classes, pixels)
    prepared = Compose([NormalizeFeatures(), RemoveSelfLoops(), ToUndirected()])(data)
    graphs = PackedGraphs(HopTokens(config.hops)(prepared))
    task = GraphClassificationTask(graphs, data.y, split, config.batch_size, seed)
    # The last token, the node itself, would do with what it holds alone.
    return Problem(task, "mean", None, graphs.num_features, task.num_classes, config.hops + 1)
