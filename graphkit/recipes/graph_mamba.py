"""Graph Mamba: Towards Learning on Graphs with State Space Models (https://arxiv.org/abs/2402.08678), its ablations and
message passing alone, on nodes and on graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GIN
from torch_geometric.transforms import Compose, RemoveSelfLoops, ToUndirected

from graphkit.datasets import Dataset, load
from graphkit.nn import BiMamba, GraphMambaNet, SelectiveSSM
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import CosineSchedule, Experiment, GraphClassificationTask, NodeClassificationTask
from graphkit.train.pretrain import GraphEncoder
from graphkit.transforms import RandomWalkEncoding
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import seed_everything

MODELS = ("GMN", "GMN-OneWay", "GMN-NoMPNN", "GMN-PageRank", "GatedGCN", "GCN", "GIN")
VARIANTS = ("GMN-NoTokens", "GMN-NoEncoding", "GMN-RandomOrder")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of Graph Mamba. The paper gives ranges; widths and walks are ours where it names none."""

    dataset: str = "digits"
    """Any graph with node classes, or any set of graphs with classes, among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split; the dataset's first one for nodes or graphs if not given."""
    standardize: bool = False
    """Shift and scale each feature to mean 0 and variance 1."""
    walk_encoding: int = 8
    """Return probabilities of so many steps beside the features; none for 0."""
    hidden: int = 64
    """Width of all models but GCN."""
    layers: int = 3
    """Layers over the nodes, and of the baselines but GCN."""
    gcn_hidden: int = 64
    """Width of GCN."""
    gcn_layers: int = 3
    """Layers of GCN."""
    token_layers: int = 1
    """Layers over the tokens of a node."""
    m: int = 4
    """Length of the longest walks; 0 for no neighbourhoods."""
    s: int = 4
    """Tokens of each length."""
    num_walks: int = 4
    """Walks of a token."""
    encoder: str = "pool"
    """What makes a vector of the nodes that walks visit: pool, rwf or mpnn."""
    conv: str = "gatedgcn"
    """Message passing beside the mixer: gatedgcn or gcn."""
    order: str = "degree"
    """Nodes are read from low to high degree, zagreb, core or pagerank, or in random order."""
    d_state: int = 16
    """Numbers of state for each inner channel of a Mamba."""
    expand: int = 2
    """Inner width of a Mamba as a multiple of the width."""
    resample: bool = False
    """Draw new walks in each training step."""
    readout: str = "mean"
    """How a graph's vector comes from its nodes': mean, max or first."""
    dropout: float = 0.1
    """Dropout in all models."""
    lr: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Decoupled weight decay, but of the rates and skips of Mambas."""
    clip: float = 1.0
    """Largest gradient norm."""
    warmup: int = 10
    """Epochs in which the learning rate rises; half a cosine follows."""
    epochs: int = 300
    """Epochs."""
    patience: int | None = None
    """Evaluations without a better validation value before a model stops; never if not given."""
    eval_every: int = 1
    """Epochs between evaluations."""
    batch_size: int = 32
    """Graphs a step."""


# Sized for a laptop: a state space model over all nodes costs what its inner width and state cost.
_SMALL: dict[str, Any] = {"hidden": 32, "m": 2, "s": 2, "d_state": 8, "expand": 1}
_GRAPHS: dict[str, Any] = {**_SMALL, "epochs": 100, "dropout": 0.3}
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {**_SMALL, "epochs": 60, "lr": 0.003, "eval_every": 2},
    # By validation on the first split (AUC, 80 to 150 epochs). 3 layers 89.5, 6 layers 90.7; these with a rate of 0.01
    # instead of 0.005 92.9, of 0.015 92.5; with dropout of 0 or 0.2 instead of 0.1 91.5 and 91.0. GatedGCN of 6 layers
    # 91.1. GCN of 12 layers and width 64 92.5; without its map of a node 89.6 (rate 0.005), of 6 layers 89.8. On the
    # second split the choice of GMN came to 94.0. In 240 epochs it overfits after the first 100, 93.1 at their end.
    "Minesweeper": {**_SMALL, "s": 1, "layers": 6, "gcn_layers": 12, "lr": 0.01, "epochs": 120, "eval_every": 5},
    "Tolokers": {**_SMALL, "lr": 0.003, "eval_every": 5},
    "Roman-empire": {**_SMALL, "lr": 0.003, "eval_every": 5},
    "Amazon-ratings": {**_SMALL, "lr": 0.003, "eval_every": 5},
    "Chameleon-filtered": {**_SMALL, "dropout": 0.5, "epochs": 100},
    # By validation: at a rate of 0.01 one of six seeds stays at 43 % and one needs 22 epochs; at this one five of five
    # (100 to 104) have 100 % by epoch 8. Of the record's three runs one stays at 43 % all the same.
    "ring-transfer": {
        **_SMALL,
        "layers": 2,
        "m": 1,
        "s": 1,
        "readout": "first",
        "walk_encoding": 0,
        "lr": 0.003,
        "warmup": 3,
        "epochs": 20,
        "batch_size": 16,
        "expand": 2,
        "dropout": 0.0,
        "eval_every": 2,
    },
    "MUTAG": _GRAPHS,
    "PROTEINS": {**_GRAPHS, "standardize": True},
    "ENZYMES": {**_GRAPHS, "standardize": True},
    "NCI1": {**_GRAPHS, "epochs": 60},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` or ``VARIANTS`` with weights, and where it is random the split, of
    ``seed``."""
    check_choice(model, "model", MODELS + VARIANTS)
    check_int(config.walk_encoding, "walk_encoding", 0)
    dataset = load(config.dataset, config.root)
    encoding = 0 if model == "GMN-NoEncoding" else config.walk_encoding
    kind = "graph" if dataset.graphs is not None else "node"
    split = dataset.split(seed, dataset.info.protocol_for(kind, config.protocol))
    graphs = _prepared(dataset, config.standardize, encoding)
    task: NodeClassificationTask | GraphClassificationTask
    if kind == "graph":
        label = torch.cat([graph.y.view(-1) for graph in graphs])
        task = GraphClassificationTask(graphs, label, split, config.batch_size, seed, dataset.info.classes)
    else:
        metrics = ("AUC", "Accuracy", "F1") if dataset.info.metric == "rocauc" else None
        task = NodeClassificationTask(graphs[0], split, metrics, num_classes=dataset.info.classes)
    seed_everything(seed)
    network = _network(config, model, graphs[0].num_features, task.num_classes, kind, seed)
    kept = [p for name, p in network.named_parameters() if name.endswith(("log_rate", "skip"))]
    decayed = [p for name, p in network.named_parameters() if not name.endswith(("log_rate", "skip"))]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return Experiment(
        task,
        network,
        torch.optim.AdamW([group for group in groups if group["params"]], config.lr),
        config.epochs,
        config.patience,
        clip_grad_norm=config.clip,
        eval_every=config.eval_every,
        schedule=CosineSchedule(config.epochs, min(config.warmup, config.epochs / 2)),
    )


def _prepared(dataset: Dataset, standardize: bool, encoding: int) -> list[Data]:
    """The graphs without self-loops and in both directions, with features and encodings."""
    graphs = [dataset.data] if dataset.graphs is None else list(dataset.graphs)
    steps: list[Any] = [ToUndirected(), RemoveSelfLoops()]
    if encoding:
        steps.append(RandomWalkEncoding(encoding))
    if standardize:
        x = torch.cat([graph.x for graph in graphs])
        mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
        graphs = [graph.clone() for graph in graphs]
        for graph in graphs:
            graph.x = (graph.x - mean) / spread
    graphs = [Compose(steps)(graph) for graph in graphs]
    if graphs[0].x is None:
        raise ValueError(f"{dataset.info.name} has no node features; ask for walk_encoding")
    return [Data(x=graph.x, edge_index=graph.edge_index, y=graph.y) for graph in graphs]


def _network(config: Config, model: str, features: int, classes: int, kind: str, seed: int) -> nn.Module:
    if model == "GIN":
        wide = config.hidden
        encoder = GIN(
            features, wide, config.layers, classes if kind == "node" else wide, config.dropout, norm="batch_norm"
        )
        return encoder if kind == "node" else GraphEncoder(encoder, nn.Linear(wide, classes), config.readout)
    mixer = partial(SelectiveSSM if model == "GMN-OneWay" else BiMamba, d_state=config.d_state, expand=config.expand)
    return GraphMambaNet(
        features,
        config.gcn_hidden if model == "GCN" else config.hidden,
        classes,
        config.gcn_layers if model == "GCN" else config.layers,
        0 if model == "GMN-NoTokens" else config.m,
        config.s,
        config.num_walks,
        token_layers=config.token_layers,
        encoder=config.encoder,
        mixer=None if model in ("GatedGCN", "GCN") else mixer,
        conv={"GMN-NoMPNN": None, "GatedGCN": "gatedgcn", "GCN": "gcn"}.get(model, config.conv),
        order={"GMN-PageRank": "pagerank", "GMN-RandomOrder": "random"}.get(model, config.order),
        head="node" if kind == "node" else config.readout,
        dropout=config.dropout,
        resample=config.resample,
        seed=seed,
    )


_PAPER = "Graph Mamba: Towards Learning on Graphs with State Space Models, arXiv 2402.08678"
_ABLATION = f"{_PAPER}, ablation"

RECIPE = Recipe(
    key="graph_mamba",
    config=Config,
    settings=SETTINGS,
    fast={
        "epochs": 2,
        "hidden": 8,
        "layers": 1,
        "gcn_hidden": 8,
        "gcn_layers": 1,
        "m": 1,
        "s": 1,
        "num_walks": 2,
        "d_state": 2,
        "walk_encoding": 2,
    },
    models=MODELS,
    build=build,
    task=("node", "graph"),
    protocol="a seed draws the weights and the walks; test at the epoch of the "
    "best validation value, for each metric by itself",
    reported={
        ("GMN", "Minesweeper"): Reported(91.01, 0.23, "AUC", _PAPER),
        ("GMN-OneWay", "Minesweeper"): Reported(85.97, None, "AUC", _ABLATION),
        ("GMN-NoMPNN", "Minesweeper"): Reported(89.83, None, "AUC", _ABLATION),
        ("GMN-PageRank", "Minesweeper"): Reported(89.91, None, "AUC", _ABLATION),
        ("GMN-NoEncoding", "Minesweeper"): Reported(90.11, None, "AUC", _ABLATION),
        ("GCN", "Minesweeper"): Reported(89.75, 0.52, "AUC", _PAPER),
        ("GMN", "Tolokers"): Reported(84.52, 0.21, "AUC", _PAPER),
        ("GCN", "Tolokers"): Reported(83.64, 0.67, "AUC", _PAPER),
        ("GMN", "Roman-empire"): Reported(87.69, 0.50, "Accuracy", _PAPER),
        ("GMN-OneWay", "Roman-empire"): Reported(83.27, None, "Accuracy", _ABLATION),
        ("GMN-NoMPNN", "Roman-empire"): Reported(86.20, None, "Accuracy", _ABLATION),
        ("GMN-PageRank", "Roman-empire"): Reported(86.12, None, "Accuracy", _ABLATION),
        ("GMN-NoEncoding", "Roman-empire"): Reported(85.91, None, "Accuracy", _ABLATION),
        ("GMN", "Amazon-ratings"): Reported(54.07, 0.31, "Accuracy", _PAPER),
        ("GMN-OneWay", "Amazon-ratings"): Reported(50.16, None, "Accuracy", _ABLATION),
        ("GMN-NoMPNN", "Amazon-ratings"): Reported(53.12, None, "Accuracy", _ABLATION),
        ("GMN-PageRank", "Amazon-ratings"): Reported(52.99, None, "Accuracy", _ABLATION),
        ("GMN-NoEncoding", "Amazon-ratings"): Reported(53.08, None, "Accuracy", _ABLATION),
    },
)
