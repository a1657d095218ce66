"""Codebook Features (https://arxiv.org/abs/2310.17230): hidden vectors as a few codes, on texts of a state machine
whose states are known and on nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.analysis import CodeReport, code_report, state_codes, state_control, valid_transitions
from graphkit.datasets import PROTOCOLS, load
from graphkit.nn import GNN, GraphSequential, SelfAttention, TokenModel, codebooks, wrap_codebooks
from graphkit.recipes.recipe import Recipe
from graphkit.train import CosineSchedule, Experiment, NextTokenTask, NodeClassificationTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything, stream

# Codes of a vector and loss of the codes; None is the model without codebooks.
CODES: dict[str, tuple[int, str] | None] = {
    "Plain": None,
    "k=1": (1, "aeloss"),
    "k=8": (8, "aeloss"),
    "k=1-base": (1, "base"),
    "k=1-vqvae": (1, "vqvae"),
}
MODELS = tuple(CODES)


@dataclass(frozen=True)
class Config:
    """Settings of the models, of the codebooks and of training."""

    dataset: str = "state-machine"
    """state-machine, or a graph with node classes among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split nodes; the dataset's first one for nodes if not given."""
    num_codes: int = 500
    """Codes of each codebook."""
    kmeans_init: bool = False
    """Start the codes with k-means on the first batch."""
    replace_every: int = 0
    """Steps after which unused codes are replaced; never if 0."""
    channels: int = 64
    """Width of the model."""
    layers: int = 2
    """Blocks of the language model, or layers of the GCN."""
    heads: int = 4
    """Heads of attention, a codebook each."""
    context: int = 50
    """Tokens of a window of text; no multiple of the tokens of a state, or all windows of an epoch would begin at the
    same place of a state."""
    batch_size: int = 64
    """Windows a step."""
    dropout: float = 0.0
    """Dropout."""
    lr: float = 0.002
    """Learning rate, after a cosine's fall zero."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    epochs: int = 50
    """Epochs."""
    eval_every: int = 1
    """Epochs between evaluations."""
    walks: int = 128
    """Texts that are written, and that are read to see which codes stand for which state."""


SETTINGS: dict[str, dict[str, Any]] = {
    "state-machine": {"eval_every": 5},
    "Cora": {"num_codes": 512, "dropout": 0.5, "lr": 0.01, "weight_decay": 0.05, "epochs": 150},
    "digits": {"num_codes": 256, "dropout": 0.2, "lr": 0.01, "epochs": 150},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: the same model without codebooks, or with k codes a vector and a loss of the codes."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    served = {PROTOCOLS[name].task for name in dataset.info.protocols}
    seed_everything(seed)
    if "text" in served:
        if "transitions" not in dataset.data:
            raise ValueError(f"{config.dataset} is not the text of a state machine; take state-machine")
        task: Any = NextTokenTask(
            dataset.data.x, dataset.split(seed), config.context, config.batch_size, dataset.info.classes, seed
        )
        network: nn.Module = _language_model(config, task.num_tokens)
        where = [(f"mixers.{i}.lin_out", "input", config.heads) for i in range(config.layers)]
        where += [(f"feed_forwards.{i}.lin_out", "output", 1) for i in range(config.layers)]
        measure: Callable[[Experiment], dict[str, float]] = partial(_states, config, dataset.data)
    else:
        dataset.require_features("a GCN here")
        split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
        graph = Compose([ToUndirected(), RemoveSelfLoops(), NormalizeFeatures()])(dataset.data)
        task = NodeClassificationTask(graph, split, num_classes=dataset.info.classes)
        network = _gcn(config, task)
        # After every ReLU, the second part of each hidden layer.
        where = [(str(place), "output", 1) for place, part in enumerate(network) if isinstance(part, nn.ReLU)]
        measure = _classes
    chosen = CODES[model]
    if chosen is not None:
        k, loss = chosen
        options: dict[str, Any] = {"kmeans_init": config.kmeans_init, "replace_every": config.replace_every}
        for name, at, groups in where:
            options |= {"k": k, "groups": groups, "loss": loss, "at": at, "channels": config.channels}
            wrap_codebooks(network, name, config.num_codes, **options)
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)
    return Experiment(
        task,
        network,
        optimizer,
        config.epochs,
        clip_grad_norm=1.0,
        eval_every=config.eval_every,
        schedule=CosineSchedule(config.epochs),
        measure=measure,
    )


def _language_model(config: Config, num_tokens: int) -> TokenModel:
    return TokenModel(
        1,
        config.channels,
        num_tokens,
        lambda channels: SelfAttention(channels, config.heads, causal=True),
        config.layers,
        num_embeddings=num_tokens,
        max_positions=config.context + 16,
        dropout=config.dropout,
    )


def _gcn(config: Config, task: NodeClassificationTask) -> GraphSequential:
    parts: list[nn.Module] = []
    for inputs in [task.num_features, *[config.channels] * (config.layers - 2)]:
        conv = GNN(inputs, config.channels, 1, conv="gcn", input_dropout=config.dropout, layer_norm=False)
        parts += [conv, nn.ReLU()]
    last = GNN(config.channels, config.channels, 1, task.num_classes, conv="gcn", input_dropout=config.dropout)
    return GraphSequential(*parts, last)


def _states(config: Config, data: Data, experiment: Experiment) -> dict[str, float]:
    """What codes say of states: measured on texts of the test, and on texts that the model writes."""
    model = experiment.model.eval()
    device = next(model.parameters()).device
    data = data.clone().to(device)
    task = experiment.task
    assert isinstance(task, NextTokenTask)
    context = min(config.context - 3 * data.width, 8 * data.width) // data.width * data.width
    first = int(task.split.test[0]) // data.width + context // data.width
    count = task.ids.numel() // data.width - first
    places = first + torch.randperm(count, generator=stream(0, 9))
    length = max(1, min(10, config.context // data.width - 1))
    found = {"Valid transitions": 100 * valid_transitions(model, data, config.walks, length)}
    moved, stayed = state_control(model, data, places[: config.walks].to(device), context)
    found |= {"Control": 100 * moved, "Left of the old state": 100 * stayed}
    # Enough states to see each a few times.
    ids, state = state_codes(model, data, places[: 16 * config.walks].to(device), context)
    return found | _best([code_report(part, state, config.num_codes) for part in ids.values()])


@torch.no_grad()
def _classes(experiment: Experiment) -> dict[str, float]:
    """What codes say of classes: over the nodes of the test."""
    task, model = experiment.task, experiment.model.eval()
    assert isinstance(task, NodeClassificationTask)
    task.logits(model)
    ids = task.split.test
    layers = codebooks(model).values()
    return _best([code_report(part.last_ids[ids], task.y[ids], part.num_codes) for part in layers])  # type: ignore[index]


def _best(reports: list[CodeReport]) -> dict[str, float]:
    """Purity of the codebook that knows most, that of codes without a meaning beside it, and the codes in use."""
    if not reports:
        return {"Code precision": 0.0, "Precision by chance": 0.0, "Active codes": 0.0}
    purity = torch.cat([report.purity for report in reports])
    place = int(purity.argmax())
    chance, active = torch.cat([_by_chance(r) for r in reports]), torch.cat([report.active for report in reports])
    return {
        "Code precision": 100 * float(purity[place]),
        "Precision by chance": 100 * float(chance[place]),
        "Active codes": float(active[place]),
    }


def _by_chance(report: CodeReport) -> torch.Tensor:
    """Purity of codes used as often, which labels are dealt to at random."""
    groups = []
    labels = torch.repeat_interleave(torch.arange(len(report.labels), device=report.labels.device), report.labels)
    for count in report.uses:
        k = max(1, int(count.sum()) // max(len(labels), 1))
        codes = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        dealt = labels.repeat(k)[torch.randperm(len(codes), generator=stream(0, 10)).to(labels.device)]
        groups.append(code_report(codes[:, None, None], dealt, len(count), len(report.labels)).purity)
    return torch.cat(groups)


RECIPE = Recipe(
    key="codebook_features",
    config=Config,
    settings=SETTINGS,
    fast={"num_codes": 20, "channels": 16, "epochs": 1, "walks": 8, "heads": 2},
    models=MODELS,
    build=build,
    task=("text", "node"),
    protocol="a seed draws the weights, the order of training and random splits; test at the epoch of the best "
    "validation value. Valid transitions: in texts that the model writes. Control: probability of the next states of "
    "another state whose codes the model is given. Code precision: mean over uses of a code of the share of its most "
    "frequent label, of the codebook where it is highest, beside that of codes dealt at random",
    headline=("Valid transitions", "Control", "Code precision"),
)
