"""Provable Training for Graph Contrastive Learning (https://arxiv.org/abs/2309.13944) with the four methods that it
improves: GRACE (https://arxiv.org/abs/2006.04131), GCA (https://arxiv.org/abs/2010.14945), ProGCL
(https://arxiv.org/abs/2110.02027) and COSTA (https://arxiv.org/abs/2206.04726)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import GCNEncoder, adjacency_bounds
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import COSTA, GCA, GRACE, ContrastiveTask, Experiment, POTLoss, ProGCL
from graphkit.transforms import BudgetedEdgeDrop
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

METHODS = ("GRACE", "GCA", "ProGCL", "COSTA")
MODELS = tuple(f"{name}{ending}" for name in METHODS for ending in ("", "+POT"))
VARIANTS = (*(f"{name}+POT-released" for name in METHODS), "ProGCL-mix", "ProGCL-mix+POT")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of contrastive learning with and without POT. What differs from method to method is the
    published value for method and dataset if not given."""

    dataset: str = "digits"
    """Any single graph with node classes among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split for the linear probe; the dataset's first one for nodes if not given."""
    row_normalize: bool = True
    """Scale each node's features to sum one."""
    lr: float | None = None
    """Learning rate."""
    weight_decay: float | None = None
    """L2 penalty of all weights."""
    hidden: int | None = None
    """Width of the node vectors; the hidden layer is twice as wide."""
    proj: int | None = None
    """Width inside the projection head."""
    activation: str | None = None
    """relu or prelu, after both layers."""
    p1: float | None = None
    """Share of edges that the first view drops."""
    p2: float | None = None
    """Share of edges that the second view drops."""
    tau: float | None = None
    """Temperature of the contrastive loss."""
    epochs: int | None = None
    """Steps; each is on the whole graph."""
    kappa: float | None = None
    """Weight of the POT loss."""
    start: int | None = None
    """Steps before ProGCL weights its negatives."""
    false_share: float | None = None
    """Share of false negatives that ProGCL's fit begins with."""
    centrality: str = "degree"
    """What GCA and ProGCL keep: degree, pagerank or eigenvector."""
    batch_size: int | None = None
    """Nodes whose contrastive loss is computed in a step; all if not given."""
    pot_batch_size: int | None = None
    """Nodes that are bounded in a step, in the graph among them; all if not given."""
    budgeted: bool = False
    """Let no view drop more edges of a node than its budget, so that the bounds hold for every view."""
    eval_every: int | None = None
    """Epochs between evaluations, of which the best by validation counts; the last epoch alone if not given."""
    probe_epochs: int = 3000
    """Epochs of the linear probe."""


@dataclass(frozen=True)
class Method:
    """The published hyperparameters of one method on one dataset; see :class:`Config`."""

    lr: float
    hidden: int
    proj: int
    activation: str
    p1: float
    p2: float
    tau: float
    epochs: int
    kappa: float = 0.2
    weight_decay: float = 1e-5
    start: int = 400
    false_share: float = 0.05


# From the released configurations. On Cora GRACE's temperature is the one that the released command sets; for
# BlogCatalog there is none of GCA, which takes ProGCL's here. The weight of POT is ours: the released 0.4, 0.3 and 0.2
# of GRACE, GCA and COSTA on Cora are for the released form of the bound; with the sound one 0.2 is better than 0.4 for
# GRACE on Cora by validation accuracy of seeds 0 and 1, and 0.05 than 0.02 and 0.1 for COSTA by seeds 100 to 102.
PUBLISHED: dict[str, dict[str, Method]] = {
    "Cora": {
        "GRACE": Method(5e-4, 128, 128, "relu", 0.4, 0.3, 0.9, 200),
        "GCA": Method(5e-4, 128, 128, "relu", 0.3, 0.1, 0.9, 700),
        "ProGCL": Method(5e-4, 128, 128, "relu", 0.3, 0.1, 0.6, 700),
        "COSTA": Method(1e-3, 256, 256, "relu", 0.2, 0.4, 0.4, 700, kappa=0.05, weight_decay=0),
    },
    "CiteSeer": {
        "GRACE": Method(1e-3, 256, 256, "prelu", 0.3, 0.1, 0.9, 200),
        "GCA": Method(1e-3, 256, 256, "prelu", 0.2, 0.2, 0.9, 1000),
        "ProGCL": Method(1e-2, 256, 256, "prelu", 0.4, 0.3, 0.4, 1000),
        "COSTA": Method(1e-3, 256, 256, "relu", 0.3, 0.1, 0.4, 1500, weight_decay=0),
    },
    "PubMed": {
        "GRACE": Method(1e-3, 256, 256, "relu", 0.4, 0.1, 0.7, 2500),
        "GCA": Method(1e-2, 256, 256, "relu", 0.4, 0.1, 0.3, 3000),
        "ProGCL": Method(1e-3, 256, 256, "prelu", 0.4, 0.1, 0.5, 2000, start=600),
        "COSTA": Method(1e-3, 256, 256, "relu", 0.4, 0.1, 0.4, 2000, weight_decay=0),
    },
    "BlogCatalog": {
        "GRACE": Method(1e-3, 256, 256, "relu", 0.4, 0.3, 0.7, 1000),
        "GCA": Method(1e-3, 256, 256, "prelu", 0.4, 0.2, 0.4, 1000),
        "ProGCL": Method(1e-3, 256, 256, "prelu", 0.4, 0.2, 0.4, 1000, start=600),
        "COSTA": Method(1e-3, 256, 256, "relu", 0.4, 0.2, 0.4, 2500, weight_decay=0),
    },
    "Flickr": {
        "GRACE": Method(1e-3, 256, 256, "relu", 0.4, 0.1, 0.4, 1000),
        "GCA": Method(1e-3, 256, 256, "prelu", 0.3, 0.1, 0.5, 2000),
        "ProGCL": Method(1e-3, 256, 256, "prelu", 0.4, 0.1, 0.6, 2000),
        "COSTA": Method(1e-3, 256, 256, "relu", 0.4, 0.1, 0.4, 2500, weight_decay=0),
    },
    "Amazon-Photo": {
        "GRACE": Method(5e-4, 256, 64, "relu", 0.3, 0.5, 0.2, 1000),
        "GCA": Method(5e-4, 256, 64, "relu", 0.3, 0.5, 0.3, 2000),
        "ProGCL": Method(1e-2, 128, 128, "prelu", 0.6, 0.3, 0.2, 2500, false_share=0.15),
        "COSTA": Method(1e-3, 256, 64, "relu", 0.3, 0.5, 0.4, 4000, weight_decay=0),
    },
}
# Ours, for graphs that the papers do not have; of two weights of POT the better one by validation on digits.
OTHERWISE = {
    "GRACE": Method(1e-3, 128, 128, "relu", 0.4, 0.3, 0.5, 100, 0.1),
    "GCA": Method(1e-3, 128, 128, "relu", 0.3, 0.1, 0.5, 100, 0.1),
    "ProGCL": Method(1e-3, 128, 128, "relu", 0.3, 0.1, 0.5, 100, 0.1, start=60),
    "COSTA": Method(1e-3, 128, 128, "relu", 0.2, 0.4, 0.4, 100, 0.1, weight_decay=0),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"protocol": "per-class"},
    "Cora": {"protocol": "public"},
    "CiteSeer": {"protocol": "public"},
    "PubMed": {"protocol": "public", "batch_size": 4096, "pot_batch_size": 4096},
    "BlogCatalog": {"protocol": "random-10", "pot_batch_size": 1024},
    "Flickr": {"protocol": "random-10", "pot_batch_size": 1024},
    "Amazon-Photo": {"protocol": "random-10", "pot_batch_size": 1024},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` or ``VARIANTS`` with views, weights and a random split of ``seed``.

    Edges get both directions and self-loops are removed: the encoder brings the node itself in.
    """
    check_choice(model, "model", MODELS + VARIANTS)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    dataset.require_features("contrastive learning")
    data = _prepared(dataset.data, config.row_normalize)
    name = model.partition("+")[0]
    method = hyperparameters(config, name.removesuffix("-mix"))
    seed_everything(seed)
    encoder = GCNEncoder(data.num_features, out_channels=method.hidden, activation=method.activation)
    network = _network(config, name, method, encoder)
    views = network.views(method.p1, method.p2)
    edges, num_nodes = data.edge_index, data.num_nodes
    bounds = [adjacency_bounds(edges, num_nodes, budget=view.budget(edges, num_nodes)) for view in views]
    if config.budgeted:
        first, second = (
            BudgetedEdgeDrop(view.probabilities(edges, num_nodes), view.budget(edges, num_nodes)) for view in views
        )
        views = first, second
    pot = None
    if "+POT" in model:
        form = "released" if model.endswith("-released") else "crown"
        pot = POTLoss(encoder, (bounds[0], bounds[1]), config.pot_batch_size, form)
    task = ContrastiveTask(
        data,
        split,
        views,
        pot=pot,
        kappa=method.kappa,
        batch_size=config.batch_size,
        bounds=bounds[0],
        probe_epochs=config.probe_epochs,
        seed=seed,
    )
    optimizer = torch.optim.Adam(network.parameters(), method.lr, weight_decay=method.weight_decay)
    return Experiment(task, network, optimizer, method.epochs, eval_every=config.eval_every or max(method.epochs, 1))


def hyperparameters(config: Config, name: str) -> Method:
    """What ``config`` gives for a method, and the published values for the rest."""
    published = PUBLISHED.get(config.dataset, OTHERWISE)[name]
    given = {field.name: getattr(config, field.name) for field in fields(Method)}
    return replace(published, **{key: value for key, value in given.items() if value is not None})


def _network(config: Config, name: str, method: Method, encoder: GCNEncoder) -> GRACE:
    sizes = encoder, method.hidden, method.proj, method.tau
    if name == "GRACE":
        return GRACE(*sizes)
    if name == "COSTA":
        return COSTA(*sizes)
    if name == "GCA":
        return GCA(*sizes, config.centrality)
    mode = "mix" if name.endswith("-mix") else "weight"
    return ProGCL(*sizes, config.centrality, start=method.start, mode=mode, false_share=method.false_share)


def _prepared(data: Data, row_normalize: bool) -> Data:
    return Compose([ToUndirected(), RemoveSelfLoops(), *[NormalizeFeatures()] * row_normalize])(data)


# The paper's tables could not be read.
_RECALLED = "recalled with low confidence from Provable Training for Graph Contrastive Learning; not checked against it"
_CORA = {
    "GRACE": (78.2, 0.6),
    "GRACE+POT": (79.2, 1.2),
    "GCA": (78.6, 0.2),
    "GCA+POT": (79.6, 1.4),
    "ProGCL": (77.9, 1.4),
    "ProGCL+POT": (79.9, 1.0),
    "COSTA": (79.9, 0.7),
    "COSTA+POT": (80.5, 0.9),
}

RECIPE = Recipe(
    key="pot_gcl",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "hidden": 16, "proj": 16, "start": 2, "probe_epochs": 40},
    models=MODELS,
    build=build,
    task="node",
    protocol="a seed draws the views, the weights, and the split where it is random; no label is seen in training; "
    "logistic regression on the vectors of the last epoch, its own epoch by validation accuracy",
    reported={(model, "Cora"): Reported(mean, std, "Accuracy", _RECALLED) for model, (mean, std) in _CORA.items()},
    headline=("F1", "Unit compactness", "Certified"),
)
