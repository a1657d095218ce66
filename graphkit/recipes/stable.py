"""Reliable Representations Make A Stronger Defender (https://arxiv.org/abs/2207.00012): node classification on graphs
whose edges were attacked, by STABLE and by the usual defences: GCN after Jaccard pruning
(https://arxiv.org/abs/1903.01610), GCN on a low-rank graph (https://doi.org/10.1145/3336191.3371789), GAT and GCN."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.datasets import Dataset, IndexSplit, load
from graphkit.nn import GraphSequential, LowRankGCNConv
from graphkit.recipes import gcn
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import STABLE, Experiment, NodeClassificationTask
from graphkit.transforms import DICEAttack, JaccardPrune, PRBCDPoison, RandomEdgeAttack
from graphkit.utils.checks import check_choice, check_range
from graphkit.utils.seed import seed_everything

MODELS = ("STABLE", "Jaccard-GCN", "SVD-GCN", "GAT", "GCN")
ATTACKS = ("none", "random", "dice", "prbcd")


@dataclass(frozen=True)
class Config(gcn.Config):
    """Hyperparameters of the attack, of STABLE and of the other defences; GCN and GAT are those of the recipe gcn."""

    dataset: str = "pyimports"
    """A graph with node classes. Metattack's graphs are datasets: Cora-meta-0.20 has a fifth of its edges changed."""
    attack: str = "none"
    """Attack on the dataset's graph before training: none, random (new edges), dice (edges within classes removed,
    edges between them added; knows all labels) or prbcd (flips that mislead a GCN most on the test nodes)."""
    rate: float = 0.2
    """Share of the edges that the attack changes."""
    attack_epochs: int = 125
    """Steps of prbcd."""
    attack_block: int = 250_000
    """Pairs of nodes that prbcd considers at once."""
    alpha: float | None = None
    """Power of the degrees in STABLE's classifier; the released one for the graph and the share of changed edges if not
    given, as the next four. By validation where the released one fails (PolBlogs-meta-0.20)."""
    k: int | None = None
    """Nodes that each node picks as neighbours, itself included."""
    jaccard: float | None = None
    """Threshold of STABLE's rough pruning, which asks only whether a feature is zero."""
    cosine: float | None = None
    """Threshold of the refinement."""
    beta: float | None = None
    """Weight of a node itself in STABLE's encoder."""
    embed: int = 512
    """Width of STABLE's node vectors."""
    recover: float = 0.2
    """Share of the pruned edges that comes back in a view."""
    fuse: str = "sum_logits"
    """Loss of the encoder: sum_logits (as released) or mean_loss (as the equation)."""
    contrast_lr: float = 1e-3
    """Learning rate of the encoder."""
    contrast_epochs: int = 10_000
    """Most epochs of the encoder."""
    contrast_patience: int = 20
    """Epochs without a lower loss before the encoder stops."""
    gcn_jaccard: float = 0.03
    """Threshold of Jaccard-GCN; of 0.01, 0.03 and 0.05 the best on validation for Cora, clean and attacked."""
    svd_rank: int = 50
    """Rank of SVD-GCN's graph; of 5, 10, 15, 50 and 100 the best on validation for Cora, clean and attacked."""

    @property
    def label(self) -> str:
        """Name of the record: the dataset and, if there is one, the attack on it."""
        return self.dataset if self.attack == "none" else f"{self.dataset}+{self.attack}-{self.rate:.2f}"


@dataclass(frozen=True)
class Defence:
    """STABLE's settings for a graph and a share of changed edges."""

    alpha: float = -0.3
    k: int = 5
    jaccard: float = 0.03
    cosine: float = 0.1
    beta: float = 2.0


# As released, for 0, 5, 10, 15 and 20 % of changed edges.
DEFENCES = {
    "Cora": (
        Defence(-0.5, 1, 0.0, 0.1),
        Defence(-0.3, 5, 0.03, 0.1),
        Defence(0.3, 7, 0.03, 0.1),
        Defence(0.6, 7, 0.03, 0.2),
        Defence(0.6, 7, 0.03, 0.25),
    ),
    "CiteSeer": (
        Defence(-0.5, 3, 0.0, 0.1),
        Defence(-0.3, 3, 0.02, 0.1),
        Defence(-0.1, 5, 0.02, 0.1),
        Defence(-0.1, 5, 0.04, 0.1),
        Defence(0.1, 5, 0.03, 0.1),
    ),
    "PolBlogs": (
        Defence(-0.5, 0, 0.0, 0.1),
        Defence(0.3, 3, 0.0, 0.1, beta=1.0),
        Defence(0.5, 3, 0.0, 0.1, beta=1.0),
        Defence(2.0, 3, 0.0, 0.1),
        Defence(2.0, 3, 0.0, 0.1),
    ),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "pyimports": {"hidden": 64, "contrast_epochs": 200},
    # With the released 2 every node listens to hubs alone, which this graph does not forgive. Of -0.5, 0, 0.5, 1 and 2
    # the best by the validation accuracy of seed 0; with 15 % of the edges changed 2 is as good as 0.5 and 1.
    "PolBlogs-meta-0.20": {"alpha": 0.5},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` with weights of ``seed`` on the attacked graph.

    Edges get both directions and self-loops are removed before the attack, which ``seed`` draws, too. A graph without
    features gives each node one of its own.
    """
    check_choice(model, "model", MODELS)
    check_choice(config.attack, "attack", ATTACKS)
    check_range(config.rate, "rate", 0, 1)
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    data = _attacked(config, _prepared(dataset.data), split, seed)
    classes = dataset.info.classes
    if dataset.data.x is None:
        # Nodes share no features, and pruning would leave no edge.
        config = replace(config, jaccard=0.0, gcn_jaccard=0.0)
    if model == "STABLE":
        return _stable(config, data, split, classes, seed)
    if model == "Jaccard-GCN":
        data = JaccardPrune(config.gcn_jaccard, binarize=True)(data)
    if config.row_normalize:
        data = NormalizeFeatures()(data)
    task = NodeClassificationTask(data, split, num_classes=classes)
    if model == "SVD-GCN":
        return _svd(config, task, seed)
    return gcn.experiment(config, "GAT" if model == "GAT" else "GCN", task, seed)


def defence(config: Config) -> Defence:
    """STABLE's settings: those of the config, else the paper's, else the defaults."""
    rate = config.rate if config.attack != "none" else 0.0
    graph, _, variant = config.dataset.partition("-")
    if variant.startswith("meta-"):
        rate = float(variant.removeprefix("meta-"))
    elif variant.startswith("nettack-"):
        rate = 0.05  # it changes a few per cent of the edges
    known = DEFENCES.get(graph) if variant != "" or graph == "PolBlogs" else None
    # The table goes in steps of 5 %; stronger attacks get its last row.
    found = Defence() if known is None else known[min(round(20 * rate), len(known) - 1)]
    given = {name: getattr(config, name) for name in ("alpha", "k", "jaccard", "cosine", "beta")}
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def _prepared(data: Data) -> Data:
    data = Compose([ToUndirected(), RemoveSelfLoops()])(data)
    if data.x is None:
        data.x = _identity(data.num_nodes)
    return data


def _identity(size: int) -> Tensor:
    return torch.sparse_csr_tensor(torch.arange(size + 1), torch.arange(size), torch.ones(size), (size, size))


def _attacked(config: Config, data: Data, split: IndexSplit, seed: int) -> Data:
    if config.attack == "random":
        return RandomEdgeAttack(config.rate, seed)(data)
    if config.attack == "dice":
        return DICEAttack(config.rate, seed)(data)
    if config.attack == "prbcd":
        poisoned = Data(**data.to_dict())
        poisoned.edge_index = _prbcd(config, seed)
        return poisoned
    return data


@functools.lru_cache(maxsize=64)
def _prbcd(config: Config, seed: int) -> Tensor:
    """Edges after PRBCD on a GCN that learned from the clean graph; searched once for all models of a run."""
    dataset: Dataset = load(config.dataset, config.root)
    dataset.require_features("attack=prbcd")
    data = _prepared(dataset.data)
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    seed_everything(seed)
    surrogate = torch_geometric.nn.GCN(data.num_features, config.hidden, 2, dataset.info.classes, config.dropout)
    optimizer = torch.optim.Adam(surrogate.parameters(), config.lr, weight_decay=config.weight_decay)
    task = NodeClassificationTask(data, split, num_classes=dataset.info.classes)
    Experiment(task, surrogate, optimizer, config.epochs).run(seed=seed, device="cpu", progress=False)
    options: dict[str, Any] = {"epochs": config.attack_epochs, "block_size": config.attack_block, "seed": seed}
    return PRBCDPoison(config.rate, surrogate, split.test, **options)(data).edge_index


def _stable(config: Config, data: Data, split: IndexSplit, classes: int, seed: int) -> Experiment:
    chosen = defence(config)
    seed_everything(seed)
    model = STABLE(
        data.num_features,
        classes,
        config.hidden,
        config.embed,
        chosen.jaccard,
        chosen.cosine,
        chosen.k,
        chosen.alpha,
        chosen.beta,
        recover=config.recover,
        fuse=config.fuse,
        binarize=True,
        dropout=config.dropout,
    )
    return model.experiment(
        data,
        split,
        seed=seed,
        contrast_epochs=config.contrast_epochs,
        contrast_patience=config.contrast_patience,
        contrast_lr=config.contrast_lr,
        epochs=config.epochs,
        patience=config.patience,
        lr=config.lr,
        weight_decay=config.weight_decay,
    )


def _svd(config: Config, task: NodeClassificationTask, seed: int) -> Experiment:
    seed_everything(seed)
    network = GraphSequential(
        LowRankGCNConv(task.num_features, config.hidden, config.svd_rank),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        LowRankGCNConv(config.hidden, task.num_classes, config.svd_rank),
    )
    optimizer = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)
    return Experiment(task, network, optimizer, config.epochs, config.patience)


_READ = "Reliable Representations Make A Stronger Defender, introduction; on graphs attacked by its authors"
_RECALLED = (
    "recalled from Reliable Representations Make A Stronger Defender, not checked against the paper; graphs "
    "attacked by its authors"
)


def _figures(model: str, graph: str, *means: float | None, source: str) -> dict[tuple[str, str], Reported]:
    """Accuracy at 0, 5, 10, 15 and 20 % of edges changed by Metattack."""
    clean = graph if graph == "PolBlogs" else f"{graph}-LCC"
    names = [clean, *(f"{graph}-meta-{rate}" for rate in ("0.05", "0.10", "0.15", "0.20"))]
    return {
        (model, name): Reported(mean, None, "Accuracy", source)
        for name, mean in zip(names, means, strict=True)
        if mean is not None
    }


RECIPE = Recipe(
    key="stable",
    config=Config,
    settings=SETTINGS,
    fast={
        "epochs": 3,
        "hidden": 8,
        "gat_epochs": 2,
        "gat_hidden": 4,
        "gat_heads": 2,
        "embed": 16,
        "contrast_epochs": 3,
        "svd_rank": 4,
        "attack_epochs": 2,
        "attack_block": 20_000,
    },
    models=MODELS,
    build=build,
    task="node",
    protocol="the graph is attacked before training, so that every model learns and is tested on changed edges; a seed "
    "draws the weights and, for random, dice and prbcd, the attack; test at the epoch of the best validation value, "
    "for each metric by itself",
    reported={
        **_figures("STABLE", "Cora", 85.6, 81.4, 80.5, 78.6, 77.8, source=_RECALLED),
        **_figures("STABLE", "CiteSeer", 75.8, 74.1, 73.5, 73.2, 72.8, source=_RECALLED),
        **_figures("STABLE", "PolBlogs", 96.0, 93.8, 92.5, 90.0, 88.5, source=_RECALLED),
        **_figures("GCN", "Cora", 83.56, 76.36, 71.62, None, 60.31, source=_READ),
        **_figures("Jaccard-GCN", "Cora", 81.79, 80.23, 74.65, None, 73.11, source=_READ),
    },
    headline=("Accuracy",),
)
