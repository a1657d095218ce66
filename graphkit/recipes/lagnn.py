"""Local Augmentation for Graph Neural Networks (https://arxiv.org/abs/2109.03856), on GCN, GAT, GCNII and GRAND."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import GNN, GRAND, LAGAT, LAGCN, LAGCNII, LASAGE, NeighborCVAE
from graphkit.ops import NeighborIndex
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import (
    AugmentedNetwork,
    ConsistencyTask,
    Experiment,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    NodeClassificationTask,
    PredictionUncertainty,
)
from graphkit.train.augment.local_augmentation import normalize_rows
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

MODELS = ("GCN", "LAGCN", "GAT", "LAGAT", "GCNII", "LAGCNII", "GRAND", "LAGRAND")
VARIANTS = ("GCN-twice", "LAGCN-NoConsistency", "LAGCN-NoSharpening", "SAGE", "LASAGE")
SELECTORS = ("elbo", "bald", "agreement", "last")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of local augmentation; the defaults are the paper's for the dataset."""

    dataset: str = "digits"
    """Any single graph with node classes and features in [0, 1] among `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    protocol: str | None = None
    """Way to split: public, geom-gcn, fixed, per-class or random; the dataset's first one for nodes if not given."""
    row_normalize: bool = True
    """Scale each node's features, and those that are generated, to sum one."""
    generated: int = 1
    """Generated matrices beside the features."""
    samples: int = 4
    """Views of a training step."""
    pool_size: int | None = 20
    """Generated matrices that are made once and drawn from; new ones in each step if not given."""
    cvae_hidden: int = 256
    """Width of the generator's hidden layers."""
    cvae_latent: int = 10
    """Width of the generator's latent vector."""
    cvae_lr: float = 0.01
    """Learning rate of the generator."""
    cvae_batch_size: int = 64
    """Pairs of neighbours a step of the generator."""
    cvae_epochs: int = 10
    """Passes of the generator over the edges."""
    held_out: float = 0.1
    """Share of the edges that the generator does not see; half of them chooses its epoch."""
    selector: str = "elbo"
    """What chooses the generator's epoch: elbo (held-out edges), bald (most uncertain predictions, as the paper),
    agreement (least uncertain ones, as released) or last."""
    selector_passes: int = 100
    """Passes with dropout of the classifier behind bald and agreement."""
    hidden: int = 8
    """Width of each branch of LAGCN; GCN is as wide as all its branches together, and so are the other baselines."""
    dropout: float = 0.5
    """Dropout of both layers' inputs in GCN and LAGCN."""
    lr: float = 0.01
    """Learning rate of GCN, LAGCN, GAT and LAGAT."""
    weight_decay: float = 5e-4
    """L2 penalty of all weights but those of GCNII's layers."""
    epochs: int = 2000
    """Most epochs of GCN and LAGCN."""
    patience: int | None = None
    """Epochs without a better validation value before GCN, LAGCN, GAT and LAGAT stop; never if not given."""
    consistency: float = 1.0
    """Weight of the consistency in LAGCN and LAGAT."""
    temperature: float = 0.5
    """Sharpening of the views' mean in LAGCN, LAGAT and LAGCNII."""
    gat_hidden: int = 8
    """Width of a head of LAGAT's first layers."""
    gat_heads: int = 4
    """Heads of each branch of LAGAT."""
    gat_output_heads: int = 1
    """Heads of the second layer of GAT and LAGAT."""
    gat_dropout: float = 0.6
    """Dropout of both layers' inputs and attention weights in GAT and LAGAT."""
    gat_epochs: int = 1000
    """Most epochs of GAT and LAGAT."""
    gcnii_hidden: int = 32
    """Width of each branch of LAGCNII."""
    gcnii_layers: int = 64
    """Layers of GCNII and LAGCNII."""
    gcnii_alpha: float = 0.1
    """Share of the first vectors in every layer of GCNII and LAGCNII."""
    gcnii_theta: float = 0.5
    """Strength of the maps in GCNII and LAGCNII."""
    gcnii_dropout: float = 0.6
    """Dropout in GCNII and LAGCNII."""
    gcnii_lr: float = 0.01
    """Learning rate of GCNII and LAGCNII."""
    gcnii_conv_decay: float = 0.01
    """L2 penalty of the layers of GCNII and LAGCNII."""
    gcnii_consistency: float = 1.0
    """Weight of the consistency in LAGCNII."""
    gcnii_epochs: int = 1000
    """Most epochs of GCNII and LAGCNII."""
    gcnii_patience: int | None = 200
    """Epochs without a better validation value before GCNII and LAGCNII stop; never if not given."""
    grand_hidden: int = 32
    """Width of the hidden layer of GRAND and LAGRAND."""
    grand_order: int = 8
    """Hops of GRAND and LAGRAND."""
    grand_drop_node: float = 0.5
    """Share of the nodes whose features a view of GRAND and LAGRAND drops."""
    grand_input_dropout: float = 0.5
    """Dropout of the propagated features in GRAND and LAGRAND."""
    grand_dropout: float = 0.5
    """Dropout of the hidden layer in GRAND and LAGRAND."""
    grand_batch_norm: bool = False
    """Batch normalisation in GRAND and LAGRAND."""
    grand_consistency: float = 1.0
    """Weight of the consistency in GRAND and LAGRAND."""
    grand_temperature: float = 0.5
    """Sharpening of the views' mean in GRAND and LAGRAND."""
    grand_lr: float = 0.01
    """Learning rate of GRAND and LAGRAND."""
    grand_epochs: int = 5000
    """Most epochs of GRAND and LAGRAND."""
    grand_patience: int | None = 200
    """Epochs without a better validation value before GRAND and LAGRAND stop; never if not given."""


SETTINGS: dict[str, dict[str, Any]] = {
    # Ours, made to fit the first run into minutes.
    "digits": {
        "row_normalize": False,
        "hidden": 32,
        "epochs": 300,
        "gat_epochs": 300,
        "gcnii_layers": 8,
        "gcnii_epochs": 300,
        "grand_order": 4,
        "grand_epochs": 300,
    },
    "Cora": {"gcnii_consistency": 0.0},
    "CiteSeer": {
        "gcnii_layers": 32,
        "gcnii_hidden": 128,
        "gcnii_theta": 0.6,
        "gcnii_dropout": 0.7,
        "grand_order": 2,
        "grand_input_dropout": 0.2,
        "grand_dropout": 0.1,
        "grand_drop_node": 0.5,
        "grand_consistency": 0.7,
        "grand_temperature": 0.2,
    },
    "PubMed": {
        "generated": 3,
        "hidden": 4,
        "lr": 0.02,
        "epochs": 300,
        "gat_heads": 2,
        "gcnii_layers": 16,
        "gcnii_hidden": 64,
        "gcnii_theta": 0.4,
        "gcnii_dropout": 0.5,
        "gcnii_conv_decay": 5e-4,
        "grand_order": 5,
        "grand_input_dropout": 0.7,
        "grand_dropout": 0.8,
        "grand_consistency": 1.2,
        "grand_temperature": 0.2,
        "grand_batch_norm": True,
        "grand_lr": 0.2,
    },
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` or ``VARIANTS`` with the generator, weights and, where there is one,
    random split of ``seed``. All models with augmentation share the seed's generator, which is trained first."""
    check_choice(model, "model", MODELS + VARIANTS)
    check_choice(config.selector, "selector", SELECTORS)
    dataset = load(config.dataset, config.root)
    dataset.require_features("the generator of neighbours")
    split = dataset.split(seed, dataset.info.protocol_for("node", config.protocol))
    data = Compose([ToUndirected(), RemoveSelfLoops()])(dataset.data)
    common: dict[str, Any] = {"num_classes": dataset.info.classes, **_views(config, model)}
    start_from = None
    if model.startswith("LA"):
        if config.row_normalize and float(data.x.max()) > 1:
            # Into the range of the generator's likelihood; rows of sum one are the same at any scale.
            data.x = data.x / data.x.max()
        cvae, trained = _generator(config, data, split, dataset.info.classes, seed)
        start_from = ("CVAE", trained)
        fixed = model == "LAGRAND"
        augment = LocalAugmentation(
            cvae,
            1 if fixed else config.generated,
            normalize=config.row_normalize,
            pool_size=1 if fixed else config.pool_size,
            seed=seed,
        )
        task: ConsistencyTask = LocalAugmentationTask(data, split, augment, fixed=fixed, seed=seed, **common)
    else:
        if config.row_normalize:
            data.x = normalize_rows(data.x)
        task = ConsistencyTask(data, split, **common)
    seed_everything(seed)
    network = _network(config, model, task)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "weight_decay": config.weight_decay}]
    if isinstance(network, LAGCNII):
        layers = {id(weight) for weight in network.rest.weights}  # type: ignore[union-attr]
        groups[0]["params"] = [p for p in network.parameters() if id(p) not in layers]
        groups.append({"params": list(network.rest.weights), "weight_decay": config.gcnii_conv_decay})  # type: ignore
    lr, epochs, patience = {
        "GAT": (config.lr, config.gat_epochs, config.patience),
        "GCNII": (config.gcnii_lr, config.gcnii_epochs, config.gcnii_patience),
        "GRAND": (config.grand_lr, config.grand_epochs, config.grand_patience),
    }.get(model.removeprefix("LA"), (config.lr, config.epochs, config.patience))
    if model.startswith("LA") and model != "LAGRAND":
        network = AugmentedNetwork(network)
    return Experiment(task, network, torch.optim.Adam(groups, lr), epochs, patience, start_from=start_from)


def _views(config: Config, model: str) -> dict[str, Any]:
    """Number of views and consistency of a model."""
    if model in ("GRAND", "LAGRAND"):
        weight, temperature = config.grand_consistency, config.grand_temperature
    elif model.startswith("LA"):
        weight, temperature = config.consistency, config.temperature
        if model == "LAGCNII":
            weight = config.gcnii_consistency
        elif model == "LAGCN-NoConsistency":
            weight = 0.0
        elif model == "LAGCN-NoSharpening":
            temperature = 1.0
    else:
        return {"num_samples": 1, "weight": 0.0}
    return {"num_samples": config.samples, "weight": weight, "temperature": temperature}


def _network(config: Config, model: str, task: ConsistencyTask) -> nn.Module:
    name = model.removeprefix("LA").split("-")[0]
    if name == "GRAND":
        return GRAND(
            task.num_features,
            config.grand_hidden,
            task.num_classes,
            order=config.grand_order,
            drop_node=config.grand_drop_node,
            input_dropout=config.grand_input_dropout,
            dropout=config.grand_dropout,
            batch_norm=config.grand_batch_norm,
        )
    branches = 1 + config.generated
    # A baseline is the same network without generated matrices, as wide as all branches together.
    augmented = model.startswith("LA") or model == "GCN-twice"
    generated, wider = (config.generated, 1) if augmented else (0, branches)
    if name == "GAT":
        return LAGAT(
            task.num_features,
            config.gat_hidden,
            task.num_classes,
            generated,
            heads=config.gat_heads * wider,
            output_heads=config.gat_output_heads,
            dropout=config.gat_dropout,
        )
    if name == "GCNII":
        return LAGCNII(
            task.num_features,
            config.gcnii_hidden * wider,
            task.num_classes,
            generated,
            num_layers=config.gcnii_layers,
            alpha=config.gcnii_alpha,
            theta=config.gcnii_theta,
            dropout=config.gcnii_dropout,
        )
    made = {"GCN": LAGCN, "SAGE": LASAGE}[name](
        task.num_features, config.hidden * wider, task.num_classes, generated, dropout=config.dropout
    )
    return _Repeated(made, branches) if model == "GCN-twice" else made


class _Repeated(nn.Module):
    """A network of several matrices that gets the features in place of each: what its form does without generation."""

    takes_index = True

    def __init__(self, network: nn.Module, copies: int) -> None:
        super().__init__()
        self.network, self.copies = network, copies

    def forward(self, x: Tensor, graph: NeighborIndex) -> Tensor:
        return self.network([x] * self.copies, graph)


def _generator(config: Config, data: Data, split: Any, num_classes: int, seed: int) -> tuple[NeighborCVAE, Experiment]:
    """The generator and its training."""
    selector, critic = None, None
    if config.selector in ("bald", "agreement"):
        selector, critic = _selector(config, data, split, num_classes, seed)
    assert data.x is not None
    task = NeighborFeatureTask(
        data.x,
        data.edge_index,
        batch_size=config.cvae_batch_size,
        held_out=config.held_out,
        selector=selector,
        seed=seed,
    )
    seed_everything(seed)
    cvae = NeighborCVAE(data.x.size(1), config.cvae_hidden, config.cvae_latent)
    return cvae, Experiment(
        task,
        cvae,
        torch.optim.Adam(cvae.parameters(), config.cvae_lr, fused=True),
        config.cvae_epochs,
        # The last epoch is always evaluated, so it is the best if no other one is.
        eval_every=config.cvae_epochs if config.selector == "last" else 1,
        start_from=critic,
    )


def _selector(
    config: Config, data: Data, split: Any, num_classes: int, seed: int
) -> tuple[PredictionUncertainty, tuple[str, Experiment]]:
    """The score of generated features, and the training of the classifier behind it."""
    plain = copy.copy(data)
    plain.x = normalize_rows(data.x)
    task = NodeClassificationTask(plain, split, num_classes=num_classes)
    seed_everything(seed)
    critic = GNN(task.num_features, 32, 2, num_classes, dropout=0.5, layer_norm=False)
    optimizer = torch.optim.Adam(critic.parameters(), 0.01, weight_decay=5e-4)
    selector = PredictionUncertainty(
        critic, task.graph, config.selector, y=task.y, nodes=split.train, passes=config.selector_passes, seed=seed
    )
    return selector, ("critic", Experiment(task, critic, optimizer, 100))


_PAPER = "Local Augmentation for Graph Neural Networks, results on the public splits"


def _figures(dataset: str, **rows: tuple[float, float]) -> dict[tuple[str, str], Reported]:
    return {(model, dataset): Reported(mean, std, "Accuracy", _PAPER) for model, (mean, std) in rows.items()}


RECIPE = Recipe(
    key="lagnn",
    config=Config,
    settings=SETTINGS,
    fast={
        "epochs": 2,
        "hidden": 4,
        "pool_size": 8,
        "cvae_hidden": 8,
        "cvae_batch_size": 1024,
        "cvae_epochs": 2,
        "gat_epochs": 2,
        "gcnii_epochs": 2,
        "gcnii_layers": 2,
        "gcnii_hidden": 4,
        "grand_epochs": 2,
        "grand_order": 2,
        "selector_passes": 4,
    },
    models=MODELS,
    build=build,
    task="node",
    protocol="a seed draws the weights, the generator, and the split where it is random; test at the epoch of the "
    "least validation cross-entropy, with the generated features of that validation",
    reported={
        **_figures(
            "Cora",
            GCN=(81.5, 0.5),
            LAGCN=(84.6, 0.5),
            GAT=(83.0, 0.7),
            LAGAT=(84.7, 0.4),
            GCNII=(85.5, 0.5),
            LAGCNII=(85.7, 0.3),
            GRAND=(85.4, 0.4),
            LAGRAND=(85.7, 0.3),
        ),
        **_figures(
            "CiteSeer",
            GCN=(70.3, 0.7),
            LAGCN=(74.7, 0.5),
            GAT=(72.5, 0.7),
            LAGAT=(73.7, 0.5),
            GCNII=(73.4, 0.6),
            LAGCNII=(74.1, 0.5),
            GRAND=(75.4, 0.4),
            LAGRAND=(75.8, 0.5),
        ),
        **_figures(
            "PubMed",
            GCN=(79.0, 0.5),
            LAGCN=(81.7, 0.7),
            GAT=(79.0, 0.3),
            LAGAT=(81.0, 0.4),
            GCNII=(80.2, 0.4),
            LAGCNII=(80.6, 0.7),
            GRAND=(82.7, 0.6),
            LAGRAND=(83.4, 0.6),
        ),
    },
    headline=("Accuracy",),
)
