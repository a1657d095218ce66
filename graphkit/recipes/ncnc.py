"""Neural Common Neighbor with Completion for Link Prediction (https://arxiv.org/abs/2302.00890)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphkit.datasets import load
from graphkit.nn import GNN, LinkHeuristic, LinkPredictor, NCNCDecoder, NCNDecoder, PureGNN
from graphkit.recipes.recipe import Recipe, Reported
from graphkit.train import Experiment, LinkPredictionTask
from graphkit.utils.checks import check_choice
from graphkit.utils.seed import seed_everything

HEURISTICS = {"CN": "cn", "AA": "aa", "RA": "ra", "Jaccard": "jaccard", "Katz": "katz", "PPR": "ppr"}
BASELINES = {"GCN": "gcn", "SAGE": "sage"}
MODELS = ("NCNC", "NCN", "GAE", *BASELINES, *HEURISTICS)
VARIANTS = ("NCNC-2", "NCN-diff", "NCN2", "GAE+CN", "NCN-NoTLR", "NCNC-NoTLR", "NCN-Pure")


@dataclass(frozen=True)
class Config:
    """Hyperparameters of NCN and NCNC; the defaults are those of the dataset."""

    dataset: str = "pyimports"
    """Any single-graph dataset of `graphkit datasets`."""
    root: str | None = None
    """Folder of the datasets; $GRAPHKIT_ROOT if not given."""
    encoder: str = "pure"
    """pure (one linear layer, then message passing without weights), gcn or sage."""
    aggr: str = "gcn"
    """Aggregation of the pure encoder: gcn, walk, sum, mean or max."""
    hidden: int = 256
    """Width of node vectors and MLPs."""
    layers: int = 1
    """Message-passing layers."""
    input_dropout: float = 0.0
    """Dropout of the features."""
    dropout: float = 0.0
    """Dropout after the encoder's linear layer, or between its layers."""
    tail_dropout: float = 0.0
    """Dropout after the last message passing."""
    edge_dropout: float = 0.0
    """Share of edges the encoder leaves out while training."""
    jumping: bool = False
    """Sum all layers' outputs with free weights."""
    residual: bool = False
    """Add each layer's input to its output."""
    decoder_dropout: float = 0.0
    """Dropout in the decoder's MLPs."""
    decoder_edge_dropout: float = 0.0
    """Share of edges the decoder leaves out while training."""
    node_mlp: bool = True
    """Transform node vectors before they are pooled."""
    tail_act: bool = True
    """End the decoder's branches with their activation."""
    two_layer_head: bool = False
    """One more hidden layer in the decoder's head."""
    depth: int = 1
    """How often NCNC calls itself."""
    scale: float = 5.0
    """Calibration of completed links: factor of the logit."""
    offset: float = 3.0
    """Calibration of completed links: logit that becomes one half."""
    prior: float = 0.5
    """Calibration of completed links: factor of the odds."""
    alpha: float = 1.0
    """Largest weight of a completed link."""
    learn_prior: bool = False
    """Learn the prior from the pair instead."""
    completion_input: str = "transformed"
    """Node vectors of the inner call: transformed (as released) or h (as the paper's equation)."""
    max_neighbors: int | None = None
    """Cap on the one-sided neighbours of each end in training, and twice that in evaluation."""
    chunk_size: int | None = 1_048_576
    """Inner links scored at once; bounds the memory."""
    target_link_removal: bool = True
    """Take a batch's links out of the input graph."""
    negatives: str = "uniform"
    """uniform non-links, or source: random tails."""
    epochs: int = 100
    """Passes over the training links."""
    batch_size: int = 1024
    """Training links a step."""
    eval_batch_size: int = 65536
    """Links scored at once in evaluation."""
    encoder_lr: float = 0.005
    """Learning rate of the encoder."""
    decoder_lr: float = 0.003
    """Learning rate of the decoder."""
    completion_epochs: int | None = None
    """Train NCNC from a trained NCN, its encoder frozen, for so many epochs; from scratch if not given."""
    completion_lr: float = 0.001
    """Learning rate of NCNC's decoder after such a start."""
    clip_grad_norm: float | None = None
    """Largest gradient norm of encoder and of decoder."""


SETTINGS: dict[str, dict[str, Any]] = {
    # Ours, made to fit the first run into minutes. The calibration is the best of three by the validation Hits@100 of
    # NCNC on seeds 0 and 1.
    "pyimports": {
        "hidden": 64,
        "epochs": 20,
        "batch_size": 2048,
        "decoder_dropout": 0.1,
        "dropout": 0.1,
        "input_dropout": 0.2,
        "encoder_lr": 0.01,
        "decoder_lr": 0.005,
        "scale": 5.0,
        "offset": 6.0,
        "alpha": 0.5,
        "max_neighbors": 16,
    },
    "Cora": {
        "batch_size": 1152,
        "input_dropout": 0.7,
        "tail_dropout": 0.3,
        "dropout": 0.05,
        "decoder_dropout": 0.05,
        "decoder_edge_dropout": 0.4,
        "encoder_lr": 0.0043,
        "decoder_lr": 0.0024,
        "scale": 4.3,
        "offset": 2.8,
        "prior": 0.75,
        "alpha": 1.0,
        "jumping": True,
    },
    "CiteSeer": {
        "batch_size": 384,
        "input_dropout": 0.4,
        "dropout": 0.75,
        "decoder_dropout": 0.55,
        "encoder_lr": 0.0085,
        "decoder_lr": 0.0078,
        "scale": 6.5,
        "offset": 4.4,
        "prior": 0.75,
        "alpha": 0.4,
        "jumping": True,
        "two_layer_head": True,
    },
    "PubMed": {
        "batch_size": 2048,
        "input_dropout": 0.3,
        "dropout": 0.1,
        "decoder_dropout": 0.05,
        "encoder_lr": 0.0097,
        "decoder_lr": 0.002,
        "scale": 5.3,
        "offset": 0.5,
        "prior": 0.5,
        "alpha": 0.3,
        "jumping": True,
    },
    "ogbl-collab": {
        "encoder": "gcn",
        "hidden": 64,
        "batch_size": 65536,
        "input_dropout": 0.25,
        "tail_dropout": 0.05,
        "dropout": 0.1,
        "edge_dropout": 0.25,
        "decoder_dropout": 0.3,
        "encoder_lr": 0.0082,
        "decoder_lr": 0.0037,
        "scale": 2.5,
        "offset": 6.0,
        "prior": 0.1,
        "alpha": 1.05,
        "residual": True,
    },
    "ogbl-ppa": {
        "encoder": "gcn",
        "hidden": 64,
        "layers": 3,
        "epochs": 25,
        "batch_size": 16384,
        "dropout": 0.0,
        "edge_dropout": 0.1,
        "decoder_dropout": 0.1,
        "encoder_lr": 0.0013,
        "decoder_lr": 0.0013,
        "scale": 4.0,
        "offset": 8.5,
        "prior": 0.1,
        "alpha": 0.9,
        "residual": True,
        "node_mlp": False,
    },
    "ogbl-citation2": {
        "hidden": 64,
        "layers": 3,
        "epochs": 20,
        "batch_size": 32768,
        "tail_dropout": 0.3,
        "dropout": 0.2,
        "decoder_dropout": 0.2,
        "encoder_lr": 0.0088,
        "decoder_lr": 0.0058,
        "scale": 1.4,
        "offset": -0.3,
        "prior": 0.25,
        "residual": True,
        "target_link_removal": False,
        "negatives": "source",
        "max_neighbors": 96,
        "clip_grad_norm": 1.0,
        "completion_epochs": 20,
        "completion_lr": 0.001,
    },
    "ogbl-ddi": {
        "aggr": "sum",
        "hidden": 224,
        "batch_size": 24576,
        "input_dropout": 0.05,
        "dropout": 0.4,
        "decoder_dropout": 0.6,
        "encoder_lr": 0.0021,
        "decoder_lr": 0.0018,
        "scale": 10.0,
        "offset": 3.0,
        "prior": 0.1,
        "alpha": 0.5,
        "residual": True,
        "two_layer_head": True,
        "tail_act": False,
        "completion_epochs": 2,
        "completion_lr": 0.0025,
    },
}


def build(config: Config, model: str, seed: int) -> Experiment:
    """One row of the table: a model of ``MODELS`` or ``VARIANTS`` on the split of ``seed``."""
    check_choice(model, "model", MODELS + VARIANTS)
    check_choice(config.encoder, "encoder", ("pure", "gcn", "sage"))
    dataset = load(config.dataset, config.root)
    split = dataset.split(seed, dataset.info.protocol_for("link"))
    task = LinkPredictionTask(
        split,
        config.batch_size,
        target_link_removal=config.target_link_removal and not model.endswith("NoTLR"),
        negatives=config.negatives,
        seed=seed,
        eval_batch_size=config.eval_batch_size,
        evaluator=dataset.evaluator() if dataset.info.origin == "ogb" else None,
    )
    if model in HEURISTICS:
        return Experiment(task, LinkHeuristic(HEURISTICS[model]))
    if model == "NCNC" and config.completion_epochs is not None:
        return _completion_of_ncn(config, seed, task)
    seed_everything(seed)
    predictor = LinkPredictor(_encoder(config, model, task), _decoder(config, model))
    optimizer = torch.optim.Adam(
        [
            {"params": predictor.encoder.parameters(), "lr": config.encoder_lr},
            {"params": predictor.decoder.parameters(), "lr": config.decoder_lr},
        ]
    )
    return Experiment(task, predictor, optimizer, config.epochs, clip_grad_norm=config.clip_grad_norm)


def _completion_of_ncn(config: Config, seed: int, task: LinkPredictionTask) -> Experiment:
    """NCNC that starts with a trained NCN's weights and leaves the encoder as it is."""
    trained = build(config, "NCN", seed)
    trained.task = task
    predictor = LinkPredictor(_encoder(config, "NCNC", task), _decoder(config, "NCNC"))
    predictor.encoder.requires_grad_(False)
    optimizer = torch.optim.Adam(predictor.decoder.parameters(), lr=config.completion_lr)
    return Experiment(
        task,
        predictor,
        optimizer,
        config.completion_epochs or 0,
        clip_grad_norm=config.clip_grad_norm,
        start_from=("NCN", trained),
    )


def _encoder(config: Config, model: str, task: LinkPredictionTask) -> nn.Module:
    kind = BASELINES.get(model, config.encoder)
    if kind == "pure":
        return PureGNN(
            task.num_features,
            config.hidden,
            config.layers,
            task.num_nodes,
            aggr=config.aggr,
            input_dropout=config.input_dropout,
            dropout=config.dropout,
            tail_dropout=config.tail_dropout,
            edge_dropout=config.edge_dropout,
            residual=config.residual,
            jumping=config.jumping,
        )
    return GNN(
        task.num_features,
        config.hidden,
        max(config.layers, 2) if model in BASELINES else config.layers,
        num_nodes=task.num_nodes,
        conv=kind,
        input_dropout=config.input_dropout,
        dropout=config.dropout,
        tail_dropout=config.tail_dropout,
        edge_dropout=config.edge_dropout,
        residual=config.residual,
    )


def _decoder(config: Config, model: str) -> nn.Module:
    common: dict[str, Any] = {
        "dropout": config.decoder_dropout,
        "edge_dropout": config.decoder_edge_dropout,
        "node_mlp": config.node_mlp,
        "tail_act": config.tail_act,
        "two_layer_head": config.two_layer_head,
    }
    name = model.removesuffix("-NoTLR")
    if name in ("NCNC", "NCNC-2"):
        cap = config.max_neighbors
        return NCNCDecoder(
            config.hidden,
            config.hidden,
            depth=2 if name == "NCNC-2" else config.depth,
            alpha=config.alpha,
            prior=config.prior,
            scale=config.scale,
            offset=config.offset,
            learn_prior=config.learn_prior,
            max_neighbors=(cap, None if cap is None else 2 * cap),
            chunk_size=config.chunk_size,
            completion_input=config.completion_input,
            **common,
        )
    variants: dict[str, dict[str, Any]] = {
        "GAE+CN": {"pool": "count"},
        "NCN-diff": {"use_residual": True},
        "NCN2": {"orders": ((1, 1), (1, 2), (2, 1))},
        "NCN-Pure": {"use_pair": False},
        "NCN": {},
    }
    return NCNDecoder(config.hidden, config.hidden, **{**common, **variants.get(name, {"pool": "none"})})


# Most of these figures were recalled and could not be compared with the paper; two were read on a leaderboard.
_RECALLED = "recalled from Neural Common Neighbor with Completion for Link Prediction; not checked against the paper"
_LEADERBOARD = "OGB leaderboard, as a mirror of it shows"
_READ = {("NCN", "ogbl-ppa"), ("NCN", "ogbl-ddi")}


def _figures(metric: str, dataset: str, **rows: tuple[float, float]) -> dict[tuple[str, str], Reported]:
    return {
        (model, dataset): Reported(mean, std, metric, _LEADERBOARD if (model, dataset) in _READ else _RECALLED)
        for model, (mean, std) in rows.items()
    }


RECIPE = Recipe(
    key="ncnc",
    config=Config,
    settings=SETTINGS,
    fast={"epochs": 2, "hidden": 16, "layers": 1},
    models=MODELS,
    build=build,
    task="link",
    protocol="test at the epoch of the best validation value, for each metric by itself",
    reported={
        **_figures("Hits@100", "Cora", CN=(33.92, 0.46), GCN=(66.79, 1.65), NCN=(89.05, 0.96), NCNC=(89.65, 1.36)),
        **_figures("Hits@100", "CiteSeer", CN=(29.79, 0.90), GCN=(67.08, 2.94), NCN=(91.56, 1.43), NCNC=(93.47, 0.95)),
        **_figures("Hits@100", "PubMed", CN=(23.13, 0.15), GCN=(53.02, 1.39), NCN=(79.05, 1.16), NCNC=(81.29, 0.95)),
        **_figures("Hits@50", "ogbl-collab", GCN=(44.75, 1.07), NCN=(64.76, 0.87), NCNC=(66.61, 0.71)),
        **_figures("Hits@100", "ogbl-ppa", GCN=(18.67, 1.32), NCN=(61.19, 0.85), NCNC=(61.42, 0.73)),
        **_figures("MRR", "ogbl-citation2", GCN=(84.74, 0.21), NCN=(88.09, 0.06), NCNC=(89.12, 0.40)),
        **_figures("Hits@20", "ogbl-ddi", GCN=(37.07, 5.07), NCN=(82.32, 6.10), NCNC=(84.11, 3.67)),
    },
)
