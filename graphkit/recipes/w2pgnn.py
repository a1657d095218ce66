"""W2PGNN (https://arxiv.org/abs/2303.16458): does feasibility, known before training, foretell what pre-training is
worth?

Encoders are pre-trained on each source and fine-tuned on each target, and the gains over training from scratch are
correlated with feasibility and with simpler differences between graphs. Sources and targets have known generators, or
the target is one set of real graphs and the sources are named datasets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.analysis import GraphonEstimator, PretrainFeasibility, graph_descriptors
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.analysis.graph_descriptors import NAMES
from graphkit.datasets import info, load
from graphkit.datasets.splits import IndexSplit
from graphkit.datasets.synthetic import GRAPHON_DOMAINS, GRAPHON_SOURCES
from graphkit.loader import PackedGraphs
from graphkit.recipes.recipe import Recipe
from graphkit.train import Experiment, GraphClassificationTask
from graphkit.train.pretrain import (
    EdgePerturbation,
    GraphContrastTask,
    GraphEncoder,
    NodeDropping,
    TransferTask,
    WalkSubgraph,
    gin_encoder,
    projection_head,
)
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("GCC", "GraphCL")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the encoder, of pre-training, of fine-tuning and of the graphons."""

    dataset: str = "graphon-domains"
    """The planted domains, or a set of graphs to go to from `sources`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str = "few-shot"
    """Way to split the target's graphs: few-shot, or another that the dataset has."""
    sources: tuple[str, ...] = (
        *("Cora", "CiteSeer", "PubMed", "Amazon-Photo", "Coauthor-CS", "Actor", "Minesweeper", "pyimports", "digits"),
        *("MUTAG", "PROTEINS", "ENZYMES", "NCI1", "IMDB-BINARY"),
    )
    """Datasets to pre-train on, without the one to go to; the planted domains have their own."""
    graphs: int = 300
    """Most ego-nets, or graphs, of such a dataset; drawn by seed."""
    max_nodes: int = 200
    """Its ego-nets of more nodes are left out."""
    hidden: int = 32
    """Width of the encoder, a GIN."""
    layers: int = 3
    """Layers of the encoder."""
    tau: float = 0.2
    """Temperature of the contrast."""
    drop: float = 0.2
    """Share of nodes, and of edges, that GraphCL's views change."""
    pretrain_lr: float = 0.005
    """Learning rate of pre-training."""
    pretrain_epochs: int = 60
    """Epochs of pre-training."""
    pretrain_batch_size: int = 64
    """Graphs a step of pre-training."""
    draws: int = 20
    """How often the training graphs of a target are drawn; gains are means over the draws."""
    lr: float = 0.0001
    """Learning rate of fine-tuning, of the encoder."""
    head_lr: float = 0.01
    """Learning rate of fine-tuning, of the linear head, which is new."""
    epochs: int = 30
    """Epochs of fine-tuning."""
    batch_size: int = 20
    """Graphs a step of fine-tuning."""
    resolution: int = 24
    """Squares a side of the graphons."""
    clusters: int = 5
    """Clusters of a source's graphs with like topology, each of which has a graphon."""


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a way to pre-train, with first weights, few-shot draws and trainings of ``seed``."""
    check_choice(model, "model", MODELS)
    dataset = load(config.dataset, config.root)
    if dataset.graphs is None or dataset.graphs[0].edge_index is None:
        raise ValueError(f"dataset must be graphs with edges, such as PROTEINS (got {config.dataset})")
    graphs = [Data(edge_index=graph.edge_index, num_nodes=graph.num_nodes) for graph in dataset.graphs]
    label = torch.cat([graph.y for graph in dataset.graphs])
    if "domain" in dataset.graphs[0]:
        domain = torch.cat([graph.domain for graph in dataset.graphs])
        sets = {name: domain == d for d, name in enumerate(GRAPHON_DOMAINS)}
        chosen = {name: sets.pop(name) for name in list(sets)[:GRAPHON_SOURCES]}
        sources = {name: _of(graphs, inside) for name, inside in chosen.items()}
    else:
        sets = {config.dataset: torch.ones(len(graphs), dtype=torch.bool)}
        sources = {
            name: dataset_graphs(load(name, config.root), config.graphs, max_nodes=config.max_nodes, seed=seed)
            for name in (info(name).name for name in config.sources)
            if name != dataset.info.name
        }
    protocol = dataset.info.protocol_for("graph", config.protocol)
    splits = [dataset.split(config.draws * seed + draw, protocol) for draw in range(config.draws)]
    packed = PackedGraphs(graphs)
    targets = {
        name: [GraphClassificationTask(packed, label, _within(split, inside), config.batch_size) for split in splits]
        for name, inside in sets.items()
    }
    wanted = {name: _of(graphs, inside) for name, inside in sets.items()}
    task = TransferTask(
        sources,
        targets,
        _scores(config, sources, wanted),
        partial(_pretrain, config, model),
        partial(_finetune, config),
        seed,
    )
    seed_everything(seed)
    return Experiment(task, gin_encoder(config.hidden, config.layers))


def _of(graphs: list[Data], inside: Tensor) -> list[Data]:
    return [graphs[i] for i in inside.nonzero().view(-1).tolist()]


def _within(split: IndexSplit, chosen: Tensor) -> IndexSplit:
    """The part of a split that lies in one domain."""
    return IndexSplit(*(ids[chosen[ids]] for ids in (split.train, split.valid, split.test)))


def _pretrain(config: Config, model: str, graphs: Sequence[Data], encoder: nn.Module) -> Experiment:
    network = GraphEncoder(encoder, projection_head(config.hidden, config.hidden))
    walks = WalkSubgraph()
    views = (walks, walks) if model == "GCC" else (NodeDropping(config.drop), EdgePerturbation(config.drop))
    task = GraphContrastTask(graphs, views, config.pretrain_batch_size, config.tau)
    optimizer = torch.optim.Adam(network.parameters(), config.pretrain_lr)
    return Experiment(task, network, optimizer, config.pretrain_epochs, eval_every=5)


def _finetune(config: Config, task: GraphClassificationTask, encoder: nn.Module) -> Experiment:
    network = GraphEncoder(encoder, nn.Linear(config.hidden, task.num_classes))
    groups = [
        {"params": network.encoder.parameters(), "lr": config.lr},
        {"params": network.head.parameters(), "lr": config.head_lr},
    ]
    return Experiment(task, network, torch.optim.Adam(groups), config.epochs, eval_every=3)


def _scores(config: Config, sources: dict[str, list[Data]], targets: dict[str, list[Data]]) -> dict[str, Tensor]:
    """What is known before training, ``[S, T]`` each: feasibility, and minus the differences of simple numbers.

    A source here is one generator, so that its feasibility is that of one graphon. With clusters it is that of the best
    mixture of the graphons of its clusters, too.
    """
    scorer = PretrainFeasibility(estimator=GraphonEstimator(resolution=config.resolution), clusters=config.clusters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a resolution beyond the graphs of a cluster
        bases = [scorer.fit({name: graphs}) for name, graphs in sources.items()]
        wanted = [scorer.estimator.fit(graphs) for graphs in targets.values()]
    results = [[scorer.score(basis, goal) for goal in wanted] for basis in bases]
    here, there = (
        torch.stack([graph_descriptors(graphs).mean(0) for graphs in sets.values()]) for sets in (sources, targets)
    )

    def difference(*columns: str) -> Tensor:
        places = [NAMES.index(name) for name in columns]
        spread = torch.cat([here, there])[:, places].std(0).clamp(min=1e-9)
        return -torch.cdist(here[:, places] / spread, there[:, places] / spread)

    return {
        "Feasibility": torch.tensor([[-result.distances["all"] for result in row] for row in results]),
        "With clusters": torch.tensor([[result.score for result in row] for row in results]),
        "Density": difference("density"),
        "Clustering": difference("clustering"),
        "Descriptors": difference(*NAMES),
    }


RECIPE = Recipe(
    key="w2pgnn",
    config=Config,
    settings={"graphon-domains": {}, "PROTEINS": {}, "ENZYMES": {}, "IMDB-BINARY": {}},
    fast={
        "sources": ("pyimports", "digits", "graphon-domains"),
        "graphs": 20,
        "hidden": 8,
        "layers": 2,
        "pretrain_epochs": 1,
        "epochs": 2,
        "draws": 1,
        "resolution": 12,
        "clusters": 2,
    },
    models=MODELS,
    build=build,
    task="graph",
    protocol="an encoder is pre-trained on each source without labels and fine-tuned on each target, where validation "
    "chooses the epoch; the gain is the accuracy over that from scratch, with the same first weights; values are "
    "correlations of scores with gains over all pairs of source and target, in percent",
    headline=("With clusters", "Density", "Clustering", "Scratch", "Pretrained"),
)
