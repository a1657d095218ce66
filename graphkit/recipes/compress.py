"""From a graph network to whole numbers in one chain: GCN, a GCN with local augmentation
(https://arxiv.org/abs/2109.03856), the tokenizer and the MLP that it teaches (https://arxiv.org/abs/2308.02117), and
that MLP in 4 and 8 bits (https://arxiv.org/abs/1712.05877); what each stage gets right, weighs and takes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import scipy.sparse
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, RemoveSelfLoops, ToUndirected

from graphkit.datasets import IndexSplit, load
from graphkit.nn import GNN, LAGCN, CodeDistillMLP, GraphTokenizer, IntegerMLP, NeighborCVAE, load_integer_mlp
from graphkit.nn.conv.sparse_linear import select_rows
from graphkit.ops import NeighborIndex
from graphkit.ops.sample import sample_subgraph, sampling_graph
from graphkit.recipes.recipe import Recipe
from graphkit.train import (
    AugmentedClassifier,
    AugmentedNetwork,
    Experiment,
    GraphTokenizerTask,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    NodeClassificationTask,
    NodeDistillationTask,
)
from graphkit.train.augment.local_augmentation import normalize_rows
from graphkit.train.search import SearchedExperiment
from graphkit.utils.checks import check_choice
from graphkit.utils.cost import latency, model_bytes
from graphkit.utils.seed import seed_everything

MODELS = ("GCN", "LAGCN", "Tokenizer", "Student", "Student-int")
#: An MLP that nobody taught, the student of a tokenizer that learned from labels alone, the student rounded after its
#: training.
VARIANTS = ("MLP", "Student-untaught", "Student-int-PTQ")
METRICS = ("Accuracy", "F1", "Likelihood")
LAYERS = 2  # of every graph network


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the stages, in their order."""

    dataset: str = "digits"
    """Any single graph with node classes and features from 0 on among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str = "per-class"
    """Way to split: per-class, public, or another that the dataset has for nodes and that hides none."""
    row_normalize: bool = True
    """Scale each node's features to sum one in GCN and LAGCN."""
    gnn_hidden: int = 8
    """Width of each branch of LAGCN; GCN is as wide as all of them."""
    gnn_dropout: float = 0.5
    """Dropout of both layers' inputs in GCN and LAGCN."""
    gnn_lr: float = 0.01
    """Learning rate of GCN and LAGCN."""
    gnn_weight_decay: float = 5e-4
    """L2 penalty of GCN and LAGCN."""
    gnn_epochs: int = 1000
    """Most epochs of GCN and LAGCN."""
    patience: int | None = 200
    """Epochs without a better validation value before GCN, LAGCN, the tokenizer or a student stops; never if not
    given."""
    cvae_hidden: int = 256
    """Width of the generator's hidden layers."""
    cvae_epochs: int = 10
    """Passes of the generator over the edges."""
    pool_size: int = 20
    """Generated matrices that LAGCN draws from."""
    samples: int = 4
    """Views of a training step of LAGCN."""
    consistency: float = 1.0
    """Weight of the views' consistency."""
    num_codes: int = 1024
    """Size of the tokenizer's codebook."""
    code_dim: int = 256
    """Width of the codes."""
    token_hidden: int = 64
    """Width after the tokenizer's second layer."""
    token_dropout: float = 0.5
    """Dropout of the tokenizer's features."""
    token_lr: float = 0.01
    """Learning rate of the tokenizer."""
    token_weight_decay: float = 1e-3
    """L2 penalty of the tokenizer."""
    token_epochs: int = 100
    """Most epochs of the tokenizer."""
    w_teacher: float = 1.0
    """Weight of LAGCN's answers for the tokenizer, beside the labels."""
    hidden: int = 128
    """Width of the student's hidden layers."""
    layers: int = 2
    """Layers of the student."""
    dropout: float = 0.6
    """Dropout in the student."""
    lr: float = 0.01
    """Learning rate of the student."""
    weight_decay: float = 5e-3
    """L2 penalty of the student."""
    epochs: int = 500
    """Most epochs of the student."""
    w_code: float = 100.0
    """Weight of the assignment to codes for the student."""
    tau: float = 0.1
    """Temperature of that assignment."""
    batch_size: int = 512
    """Nodes a step of the student."""
    w_bits: int = 4
    """Bits of a weight."""
    a_bits: int = 8
    """Bits of an activation."""
    int_lr: float = 1e-3
    """Learning rate of the student with rounded weights."""
    int_epochs: int = 100
    """Most epochs of that."""
    repeats: int = 200
    """Calls of which a latency is the median: of as many test nodes, or a tenth as many calls with the whole graph."""


SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "row_normalize": False,
        "gnn_hidden": 32,
        "gnn_epochs": 300,
        "num_codes": 256,
        "code_dim": 64,
        "token_dropout": 0.1,
        "dropout": 0.1,
        "weight_decay": 0.0,
    },
    "CPF-Cora": {},
    "Cora": {"protocol": "public"},
    "CiteSeer": {"protocol": "public"},
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a stage, with the split and the weights of ``seed``, after those that it starts from."""
    check_choice(model, "model", MODELS + VARIANTS)
    experiment = _Stages(config, seed).stage(model)
    experiment.measure = partial(serving_costs, repeats=config.repeats)
    return experiment


class _Stages:
    """The stages on one graph; each makes those before it."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        dataset = load(config.dataset, config.root)
        dataset.require_features("a student")
        self.split: IndexSplit = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
        self.data: Data = Compose([ToUndirected(), RemoveSelfLoops()])(dataset.data)
        self.options: dict[str, Any] = {"num_classes": dataset.info.classes}
        if float(self.data.x.max()) > 1:
            # Into the range of the generator's likelihood.
            self.data.x = self.data.x / self.data.x.max()

    def stage(self, name: str) -> Experiment:
        made: dict[str, Callable[[], Experiment]] = {
            "GCN": self.gcn,
            "LAGCN": self.lagcn,
            "Tokenizer": self.tokenizer,
            "Student": self.student,
            "Student-int": self.integer,
            "MLP": self.mlp,
            "Student-untaught": partial(self.student, taught=False),
            "Student-int-PTQ": partial(self.integer, epochs=0),
        }
        return made[name]()

    def gcn(self) -> Experiment:
        """LAGCN without generated features, as wide."""
        c, data = self.config, Data(**self.data.to_dict())
        if c.row_normalize:
            data.x = normalize_rows(data.x)
        task = NodeClassificationTask(data, self.split, METRICS, **self.options)
        seed_everything(self.seed)
        dropouts: dict[str, Any] = {"input_dropout": c.gnn_dropout, "dropout": c.gnn_dropout}
        network = GNN(
            task.num_features, 2 * c.gnn_hidden, LAYERS, task.num_classes, conv="gcn", layer_norm=False, **dropouts
        )
        return self._trained(task, network, c.gnn_lr, c.gnn_weight_decay, c.gnn_epochs)

    def lagcn(self) -> Experiment:
        """The generator, then the network that sees what it generates."""
        c = self.config
        pairs = NeighborFeatureTask(self.data.x, self.data.edge_index, seed=self.seed)
        seed_everything(self.seed)
        cvae = NeighborCVAE(pairs.x.size(1), c.cvae_hidden)
        optimizer = torch.optim.Adam(cvae.parameters(), 0.01, fused=True)
        first = Experiment(pairs, cvae, optimizer, c.cvae_epochs)
        augment = LocalAugmentation(cvae, normalize=c.row_normalize, pool_size=c.pool_size, seed=self.seed)
        views: dict[str, Any] = {"num_samples": c.samples, "weight": c.consistency}
        task = LocalAugmentationTask(self.data, self.split, augment, seed=self.seed, **views, **self.options)
        seed_everything(self.seed)
        network = AugmentedNetwork(LAGCN(task.num_features, c.gnn_hidden, task.num_classes, dropout=c.gnn_dropout))
        made = self._trained(task, network, c.gnn_lr, c.gnn_weight_decay, c.gnn_epochs)
        made.start_from = ("CVAE", first)
        return made

    def tokenizer(self, taught: bool = True) -> Experiment:
        """The tokenizer, which learns from labels and from LAGCN."""
        c = self.config
        first, teacher = None, None
        if taught:
            first = self.lagcn()
            assert isinstance(first.model, AugmentedNetwork)
            assert isinstance(first.task, LocalAugmentationTask)
            teacher = AugmentedClassifier(first.model, first.task.augment)
        task = GraphTokenizerTask(self.data, self.split, METRICS, teacher=teacher, w_soft=c.w_teacher, **self.options)
        seed_everything(self.seed)
        network = GraphTokenizer(
            task.num_features,
            c.token_hidden,
            task.num_classes,
            c.num_codes,
            code_dim=c.code_dim,
            input_dropout=c.token_dropout,
            kmeans_init=True,
            dead_code_threshold=0.1,
        )
        made = self._trained(task, network, c.token_lr, c.token_weight_decay, c.token_epochs)
        made.start_from = None if first is None else ("LAGCN", first)
        return made

    def student(self, taught: bool = True) -> Experiment:
        """The MLP that the tokenizer teaches classes and codes."""
        c, first = self.config, self.tokenizer(taught)
        task = self._taught(first.model, w_code=c.w_code, tau=c.tau)
        made = self._trained(task, self._mlp(task, c.code_dim), c.lr, c.weight_decay, c.epochs)
        made.start_from = ("Tokenizer" if taught else "Tokenizer-untaught", first)
        return made

    def integer(self, epochs: int | None = None) -> Experiment:
        """The student with rounded weights and activations, taught once more."""
        c, first = self.config, self.student()
        epochs = c.int_epochs if epochs is None else epochs
        task = self._taught(first.task.teacher)  # type: ignore[attr-defined]

        def make(student: nn.Module) -> Experiment:
            assert isinstance(student, CodeDistillMLP)
            x = task.features(student).to(next(student.parameters()).device)
            return self._trained(task, IntegerMLP.from_student(student, x, c.w_bits, c.a_bits), c.int_lr, 0.0, epochs)

        start = ("Student", first)
        return SearchedExperiment(task, first.model, None, epochs, c.patience, start_from=start, make=make)

    def mlp(self) -> Experiment:
        """The student's layers, trained with labels alone."""
        c = self.config
        task = NodeClassificationTask(self.data, self.split, METRICS, **self.options)
        return self._trained(task, self._mlp(task, None), c.lr, c.weight_decay, c.epochs)

    def _mlp(self, task: NodeClassificationTask, code_dim: int | None) -> CodeDistillMLP:
        c = self.config
        seed_everything(self.seed)
        return CodeDistillMLP(task.num_features, c.hidden, task.num_classes, code_dim, c.layers, c.dropout)

    def _taught(self, teacher: nn.Module, **settings: Any) -> NodeDistillationTask:
        settings |= {"batch_size": self.config.batch_size, "seed": self.seed}
        return NodeDistillationTask(self.data, self.split, teacher, METRICS, **settings, **self.options)

    def _trained(
        self, task: NodeClassificationTask, network: nn.Module, lr: float, weight_decay: float, epochs: int
    ) -> Experiment:
        optimizer = torch.optim.Adam(network.parameters(), lr, weight_decay=weight_decay)
        return Experiment(task, network, optimizer, epochs, self.config.patience)


# What it costs to serve -----------------------------------------------------------------------------------------------


def serving_costs(experiment: Experiment, repeats: int) -> dict[str, float]:
    """What is left to serve: ``Model kB``, thousand bytes of its weights or of its file; ``Latency us``, microseconds
    until one node has its answer; ``Graph us``, until all have.

    Both are medians of calls one after the other, on this machine and with its threads. The input lies in memory as the
    model takes it, generated features included. A graph network reads the rows of all nodes within one hop more than
    its layers, so that the degrees are right and the answer is that of the whole graph.
    """
    task, model = experiment.task, experiment.model
    assert isinstance(task, NodeClassificationTask)
    whole, alone, size = _server(task, model.eval())
    nodes = itertools.cycle(task.split.test.tolist())
    with torch.no_grad():
        one = latency(lambda: alone(next(nodes)), repeats)
        all_nodes = latency(whole, max(repeats // 10, 1))
    return {"Model kB": size / 1000, "Latency us": 1e6 * one, "Graph us": 1e6 * all_nodes}


def _server(task: NodeClassificationTask, model: nn.Module) -> tuple[Callable[[], Any], Callable[[int], Any], int]:
    """How all nodes are answered, how one is, and the bytes of what answers."""
    if isinstance(model, (CodeDistillMLP, IntegerMLP)):
        assert task.x is not None
        x, features = task.x.to_dense() if task.x.is_sparse_csr else task.x, task.features(model)
        if isinstance(model, CodeDistillMLP):
            network, student = model.serving(), model
            # All rows at once as they are kept, which may be sparse; one row is dense.
            return (
                lambda: student.lin_out(student.hidden(features)),
                lambda node: network(x[node : node + 1]),
                model_bytes(network),
            )
        with tempfile.TemporaryDirectory() as folder:
            path = model.save(Path(folder, "student.npz"))
            answer, size = load_integer_mlp(path), path.stat().st_size
        rows = x.cpu().numpy()
        return partial(answer, _in_numpy(features)), lambda node: answer(rows[node : node + 1]), size
    features, graph = task.features(model), sampling_graph(task.edge_index, task.num_nodes)

    def alone(node: int) -> Any:
        found = sample_subgraph(graph, torch.tensor([node], device=task.y.device), [-1] * (LAYERS + 1))
        near = NeighborIndex(torch.stack([found.col, found.row]), found.node.numel())
        parts = features if isinstance(features, list) else [features]
        rows = [select_rows(part, found.node) for part in parts]
        out = model(rows if isinstance(features, list) else rows[0], near)
        # The node that is asked for comes first.
        return (out[0] if isinstance(out, tuple) else out)[:1]

    size = model_bytes(model)
    if isinstance(model, GraphTokenizer):
        codebook = model.quantizer.codebook  # no parameter, but nothing is answered without it
        size += codebook.numel() * codebook.element_size()
    return partial(model, features, task.graph), alone, size


def _in_numpy(x: Tensor) -> Any:
    """The same features for NumPy, sparse ones for SciPy."""
    if not x.is_sparse_csr:
        return x.cpu().numpy()
    parts = (x.values(), x.col_indices(), x.crow_indices())
    return scipy.sparse.csr_array(tuple(part.cpu().numpy() for part in parts), shape=tuple(x.shape))


RECIPE = Recipe(
    key="compress",
    config=Config,
    settings=SETTINGS,
    fast={
        "gnn_epochs": 3,
        "gnn_hidden": 4,
        "cvae_hidden": 8,
        "cvae_epochs": 1,
        "pool_size": 6,
        "num_codes": 32,
        "code_dim": 16,
        "token_epochs": 3,
        "hidden": 16,
        "epochs": 3,
        "int_epochs": 2,
        "repeats": 10,
    },
    models=MODELS,
    build=build,
    task="node",
    protocol="a chain: each stage learns from the one before it, at that one's best validation epoch; test at the "
    "epoch of the best validation value, for each metric by itself, LAGCN at that of its best likelihood; latencies "
    "are medians of calls of one node and of the whole graph",
    headline=("Model kB", "Latency us", "Graph us"),
)
