"""Every public class of ``graphkit.nn`` keeps its contract, and the contract suite catches layers that do not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import BatchNorm, GATConv, GCNConv, SAGEConv

import graphkit.nn
from graphkit.nn import (
    GCNII,
    GNN,
    GRAND,
    LAGAT,
    LAGCN,
    LAGCNII,
    LASAGE,
    SKAN,
    TPGN,
    AdditivePointer,
    CachedConv,
    CodebookLayer,
    CodeDistillMLP,
    CompositeBackbone,
    CompositeClassifier,
    DegreePowerGCNConv,
    DotDecoder,
    ForwardLayer,
    ForwardStack,
    GatedGCNConv,
    GCNEncoder,
    Genotype,
    GMNLayer,
    GRANDPropagation,
    GraphForecaster,
    GraphMambaNet,
    GraphSequential,
    GraphTokenizer,
    HopfieldConv,
    IntegerMLP,
    LinearForecast,
    LinkHeuristic,
    LinkPredictor,
    LocallyAugmented,
    LowPrecisionGNN,
    LowRankGCNConv,
    NCNCDecoder,
    NCNDecoder,
    NeighborCVAE,
    PGNConv,
    PureConv,
    PureGNN,
    RandomWalkFeatures,
    RepeatForecast,
    SelectableKANLinear,
    SelectiveSSM,
    SparseLinear,
    StableContrast,
    StagedGNN,
    TokenForecaster,
    VectorQuantizer,
    low_precision_space,
)
from graphkit.ops import NeighborIndex, neighborhood_walks
from graphkit.testing import DECODER_CHECKS, LAYER_CHECKS, check_decoder, check_layer


def indexed(module: nn.Module, x: Tensor, edge_index: Tensor, *pairs: Tensor) -> Tensor:
    """With the graph made outside, since only what comes after it can be compiled without breaks."""
    return module(x, NeighborIndex(edge_index, x.size(0)), *pairs)


def vectors(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    return module.encode(x, edge_index)


def without_graph(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    return module(x)


def bag_of_words(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    # A sparse matrix made of x carries no gradient back to it.
    return module(x.to_sparse_csr() if not x.requires_grad else x)


def series_of_nodes(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    """A row of x is the course of a node, a row of the output its forecast."""
    graph = (edge_index,) if getattr(module, "takes_graph", False) else ()
    return module(x.t()[None], None, *graph)[0].t()


def tokenized(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    """With the losses of training, which the linear map of nodes serves alone."""
    out = module(x, edge_index)
    return out.logits + sum(out.losses.values())


def both_heads(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.cat(module(x, edge_index), dim=1)


def two_matrices(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    return module([x, x.flip(1)], edge_index)


def as_centre_too(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.cat(module(x, x), dim=1)


def low_precision(weights: str, activations: str, attention: str, aggregation: str, dropout: float = 0.0) -> nn.Module:
    one = {"attention": [attention], "heads": [2], "aggregation": [aggregation], "activation": ["elu"], "widths": [1]}
    formats = {"weight_options": [weights], "activation_options": [activations]}
    space = low_precision_space(8, 5, 3, **one, **formats)
    opened = [{}, {"shortcut0": 1}, {"shortcut1": 1}]
    return LowPrecisionGNN(Genotype.take(8, space, opened), dropout)


def along_walks(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    """The tokens of each node in a row."""
    graph = NeighborIndex(edge_index, x.size(0))
    return module(x, graph, neighborhood_walks(graph, 2, 1, 2, seed=0)).view(x.size(0), -1)


Row = tuple[Callable[..., list[str]], Callable[[], nn.Module], dict[str, Any]]


def last_stage(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    """Of the lead, whose last stage comes last."""
    out = module(x, edge_index)
    return out[-1][-1] if isinstance(out[-1], list) else out[-1]


def all_answers(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    out = module(x, edge_index)
    return sum(out) if isinstance(out, tuple) else out


OURS = {"set_semantics": True, "strict_errors": True}
COMPILED = {**OURS, "compile": True, "call": indexed}
EMBEDDING = (
    "permutation",
    "separate_graphs",
    "isolated_nodes",
    "one_node",
    "duplicate_edges",
    "self_loops",
    "nan_stays_local",
)
# A score that reads no features has nothing to differentiate, and counts are float32 whatever the features.
NO_FEATURES = {"skip": ("dtype", "gradients", "gradcheck", "nan_stays_local")}
# A code does not change with small changes of its vector, and NaN has no nearest code.
QUANTISED = ("gradcheck", "nan_stays_local")
FORECAST = {"strict_errors": True, "in_channels": 8, "call": series_of_nodes}
TABLE: dict[type, list[Row]] = {
    HopfieldConv: [
        (check_layer, lambda: HopfieldConv(8, 5, 3, heads=2), {"strict_errors": True}),
        (
            check_layer,
            lambda: HopfieldConv(8, 5, 3, heads=2, beta=[0.5, 2.0], steps=2, dropout=0.3),
            {"strict_errors": True},
        ),
    ],
    # Each node compares with itself alone: it is told nothing of graphs.
    AdditivePointer: [
        (
            check_layer,
            lambda: AdditivePointer(8, 8, 4),
            {
                "call": lambda module, x, edge_index: module(x[:, None], x[:, None]).flatten(1),
                "set_semantics": True,
                "skip": ("wrong_ids",),
            },
        )
    ],
    PGNConv: [(check_layer, lambda: PGNConv(8, 5, window=3), {"strict_errors": True})],
    **{
        kind: [(check_layer, make, {**FORECAST, "skip": ("wrong_ids",)})]
        for kind, make in (
            (TPGN, lambda: TPGN(8, 5, period=3, time_dim=0, share_weights=True)),
            (LinearForecast, lambda: LinearForecast(8, 5)),
            (RepeatForecast, lambda: RepeatForecast(8, 5, period=2, count=3)),
            (TokenForecaster, lambda: TokenForecaster(8, 5, SelectiveSSM, 4, patch=2)),
        )
    },
    GraphForecaster: [(check_layer, lambda: GraphForecaster(LinearForecast(8, 5), GNN(13, 6, 2, 5)), FORECAST)],
    NeighborCVAE: [
        (check_layer, lambda o=o: NeighborCVAE(8, 6, 3, **o), {**OURS, "call": as_centre_too, "skip": ("wrong_ids",)})
        for o in ({}, {"likelihood": "gaussian", "batch_norm": True})
    ],
    LocallyAugmented: [
        (
            check_layer,
            lambda: LocallyAugmented(lambda: GNN(8, 4, 1), GCNConv(8, 3), in_channels=8),
            {**OURS, "call": two_matrices},
        ),
        (
            check_layer,
            lambda: LocallyAugmented(lambda: GNN(8, 4, 1), GNN(4, 3, 1), mode="average", in_channels=8),
            {**OURS, "call": two_matrices},
        ),
    ],
    **{
        kind: [(check_layer, lambda kind=kind: kind(8, 4, 3), {**OURS, "call": two_matrices})]
        for kind in (LAGCN, LASAGE, LAGAT)
    },
    LAGCNII: [(check_layer, lambda: LAGCNII(8, 4, 3, num_layers=3), {**OURS, "call": two_matrices})],
    GCNII: [(check_layer, lambda: GCNII(8, 6, 3, num_layers=3, dropout=0.3), COMPILED)],
    GatedGCNConv: [(check_layer, lambda: GatedGCNConv(8, 6), COMPILED)],
    GMNLayer: [
        # Nodes are read in the order in which they stand, and two graphs as one sequence.
        (check_layer, lambda: GMNLayer(8), {**OURS, "skip": EMBEDDING}),
        (check_layer, lambda: GMNLayer(8, mixer=None, dropout=0.5), COMPILED),
        (check_layer, lambda: GMNLayer(8, mixer=None, conv="gcn"), COMPILED),
    ],
    GraphMambaNet: [
        (
            check_layer,
            lambda e=e, o=o: GraphMambaNet(8, 6, 3, 1, m=2, s=2, encoder=e, order=o),
            {**OURS, "skip": EMBEDDING},
        )
        for e, o in (("pool", "degree"), ("rwf", "pagerank"), ("mpnn", "core"))
    ]
    + [(check_layer, lambda: GraphMambaNet(8, 6, 3, 2, mixer=None), OURS)],
    RandomWalkFeatures: [
        (check_layer, lambda: RandomWalkFeatures(8), {**OURS, "call": along_walks, "skip": EMBEDDING})
    ],
    GRANDPropagation: [(check_layer, lambda: GRANDPropagation(2, 0.4), COMPILED)],
    GRAND: [
        (check_layer, lambda: GRAND(8, 6, 3, order=2), COMPILED),
        (check_layer, lambda: GRAND(8, 6, 3, order=2, batch_norm=True), OURS),
    ],
    VectorQuantizer: [
        (
            check_layer,
            lambda options=options: VectorQuantizer(8, 5, **options),
            {
                **OURS,
                "in_channels": 8,
                "call": lambda module, x, edge_index: module(x).quantized,
                "skip": (*QUANTISED, "wrong_ids"),
            },
        )
        for options in (
            {"heads": 2, "dead_code_threshold": 0.5, "temperature": 0.5},
            {"metric": "euclidean", "kmeans_init": True},
        )
    ],
    CodebookLayer: [
        (
            check_layer,
            lambda options=options: CodebookLayer(8, 5, **options),
            {**OURS, "call": without_graph, "skip": (*QUANTISED, "wrong_ids")},
        )
        for options in ({"k": 2, "groups": 2}, {"loss": "fullaeloss", "metric": "euclidean"})
    ],
    GraphTokenizer: [
        (
            check_layer,
            lambda options=options: GraphTokenizer(8, 6, 4, 7, **options),
            {**OURS, "call": tokenized, "skip": QUANTISED},
        )
        for options in (
            {"dropout": 0.5},
            {"conv": "sage", "code_dim": 5, "recon": "sce", "edge_recon": "sigmoid"},
        )
    ],
    CodeDistillMLP: [
        (
            check_layer,
            lambda: CodeDistillMLP(8, 6, 4),
            {**OURS, "call": lambda m, x, e: m(x)[0], "skip": ("wrong_ids",)},
        ),
        (
            check_layer,
            lambda: CodeDistillMLP(8, 6, 4, 5, num_layers=3, dropout=0.5, norm="layer"),
            {**OURS, "call": both_heads, "skip": ("wrong_ids",)},
        ),
    ],
    IntegerMLP: [
        # Finite differences of a rounded function are zero or infinite.
        (
            check_layer,
            lambda: IntegerMLP(8, 6, 4, num_layers=3, dropout=0.5),
            {**OURS, "call": without_graph, "skip": ("wrong_ids", "gradcheck")},
        ),
    ],
    # Values that are not finite are refused: splines would silently be zero.
    SelectableKANLinear: [
        (
            check_layer,
            lambda o=o: SelectableKANLinear(8, 4, **o),
            {**OURS, "call": without_graph, "skip": ("nan_stays_local", "wrong_ids")},
        )
        for o in ({}, {"families": ("gram", "jacobi", "rswaf", "relu"), "per": "layer", "bias": False})
    ],
    SKAN: [
        (
            check_layer,
            lambda: SKAN([8, 5, 4], norm="layer", dropout=0.5),
            {**OURS, "call": without_graph, "skip": ("nan_stays_local", "wrong_ids")},
        )
    ],
    PureConv: [(check_layer, lambda a=a: PureConv(a), COMPILED) for a in ("gcn", "sum", "mean", "max")],
    SparseLinear: [
        (check_layer, lambda: SparseLinear(8, 4, dropout=0.5), {**OURS, "call": without_graph, "skip": ("wrong_ids",)}),
        (check_layer, lambda: SparseLinear(8, 4), {**OURS, "call": bag_of_words, "skip": ("wrong_ids",)}),
    ],
    PureGNN: [
        (check_layer, lambda: PureGNN(8, 6, num_layers=0), {**OURS, "call": indexed}),
        (check_layer, lambda: PureGNN(8, 6, num_layers=2, residual=True, dropout=0.5), COMPILED),
        (
            check_layer,
            lambda: PureGNN(8, 6, 3, jumping=True, input_dropout=0.2, dropout=0.3, tail_dropout=0.1, edge_dropout=0.4),
            OURS,
        ),
    ],
    GCNEncoder: [
        (check_layer, lambda: GCNEncoder(8, 6, 4), COMPILED),
        (check_layer, lambda: GCNEncoder(8, out_channels=4, activation="prelu"), COMPILED),
    ],
    LowPrecisionGNN: [
        (check_layer, lambda: low_precision("fp32", "fp32", "gat", "sum", dropout=0.5), OURS),
        (check_layer, lambda: low_precision("fp32", "fp32", "gene-linear", "max"), OURS),
        # Finite differences of a rounded function are zero or infinite.
        *(
            (check_layer, lambda w=w: low_precision(w, "FIX4.4", "cos", "mean"), {**OURS, "skip": ("gradcheck",)})
            for w in ("FIX2.6", "ternary", "binary")
        ),
    ],
    StagedGNN: [
        (check_layer, lambda: StagedGNN(8, 6, 2, 2, dropout=0.3), {**OURS, "call": last_stage}),
        (check_layer, lambda: StagedGNN(8, 6, 3, conv=SAGEConv), {"call": last_stage}),
    ],
    CompositeBackbone: [
        (
            check_layer,
            lambda: CompositeBackbone(lambda: StagedGNN(8, 6, 3, conv="gcn"), [6] * 3, zero_init=False),
            {**OURS, "call": last_stage},
        ),
    ],
    CompositeClassifier: [
        (
            check_layer,
            lambda: CompositeClassifier(CompositeBackbone(lambda: StagedGNN(8, 6, 3), [6] * 3, 3, "fcc"), 4, 0.3),
            {**OURS, "call": all_answers},
        ),
    ],
    GNN: [
        (check_layer, lambda: GNN(8, 6, 2, dropout=0.5), COMPILED),
        (check_layer, lambda: GNN(8, 8, 3, 5, conv="sage", residual=True, layer_norm=False), COMPILED),
        (check_layer, lambda: GNN(8, 6, 2, input_dropout=0.2, dropout=0.3, tail_dropout=0.1, edge_dropout=0.4), OURS),
    ],
    DegreePowerGCNConv: [(check_layer, lambda a=a: DegreePowerGCNConv(8, 6, a), COMPILED) for a in (-0.5, 0.0, 0.6)],
    # Graphs of a few nodes keep their whole rank; one of low rank mixes what is separate.
    LowRankGCNConv: [(check_layer, lambda: LowRankGCNConv(8, 6), OURS)],
    StableContrast: [
        # The vectors have no part of the loss in them.
        (check_layer, lambda: StableContrast(8, 6), {**OURS, "call": vectors, "skip": ("gradients",)}),
    ],
    NCNDecoder: [
        (check_decoder, lambda: NCNDecoder(8, 6, dropout=0.5), {**COMPILED, "symmetric": True}),
        (
            check_decoder,
            lambda: NCNDecoder(8, 6, 3, dropout=0.3, edge_dropout=0.4, tail_act=False, two_layer_head=True),
            {**OURS, "symmetric": True},
        ),
        (
            check_decoder,
            lambda: NCNDecoder(8, 6, orders=((1, 1), (1, 2), (2, 1)), use_residual=True, layer_norm=False),
            {**OURS, "symmetric": True},
        ),
        # On N(i) and N²(j) alone the two ends play different parts.
        (check_decoder, lambda: NCNDecoder(8, 6, orders=((1, 2),), node_mlp=False, use_pair=False), OURS),
        (check_decoder, lambda: NCNDecoder(8, 6, pool="count"), {**OURS, "symmetric": True}),
        (check_decoder, lambda: NCNDecoder(8, 6, pool="none"), {**OURS, "symmetric": True}),
    ],
    NCNCDecoder: [
        (check_decoder, lambda: NCNCDecoder(8, 6, depth=0), {**OURS, "symmetric": True}),
        # Completion probabilities carry no gradient on purpose, so finite differences disagree.
        (
            check_decoder,
            lambda: NCNCDecoder(8, 6, offset=0.0, scale=1.0, dropout=0.3, edge_dropout=0.3, max_neighbors=(2, None)),
            {**OURS, "symmetric": True, "skip": ("gradcheck",)},
        ),
        (
            check_decoder,
            lambda: NCNCDecoder(8, 6, depth=2, offset=0.0, learn_prior=True, chunk_size=5, completion_input="h"),
            {**OURS, "symmetric": True, "skip": ("gradcheck",)},
        ),
        (
            check_decoder,
            lambda: NCNCDecoder(8, 6, pool="count", offset=0.0),
            {**OURS, "symmetric": True, "skip": ("gradcheck",)},
        ),
    ],
    GraphSequential: [
        (check_layer, lambda: GraphSequential(GNN(8, 6, 1), nn.ReLU(), nn.Dropout(0.5), GNN(6, 4, 1)), OURS),
        (check_layer, lambda: GraphSequential(SAGEConv(8, 6), nn.Tanh(), SAGEConv(6, 4)), {}),
    ],
    CachedConv: [
        (check_layer, lambda: CachedConv(8, 4), COMPILED),
        (check_layer, lambda: CachedConv(8, 4, "sage"), COMPILED),
    ],
    ForwardLayer: [
        (check_layer, lambda: ForwardLayer(CachedConv(8, 4), nn.Tanh()), COMPILED),
        (check_layer, lambda: ForwardLayer(SAGEConv(8, 4)), {"call": indexed}),
    ],
    ForwardStack: [
        (check_layer, lambda: ForwardStack([8, 6, 4], "sage"), COMPILED),
        (check_layer, lambda: ForwardStack([8, 6, 4], top_channels=3), COMPILED),
        (check_layer, lambda: ForwardStack([8, 8, 4], "gat"), {}),
    ],
    # It looks at no edge; ids of pairs have a test of their own.
    DotDecoder: [(check_decoder, DotDecoder, {**OURS, "symmetric": True, "skip": ("wrong_ids",)})],
    LinkHeuristic: [
        (check_decoder, lambda k=k: LinkHeuristic(k), {**OURS, **NO_FEATURES, "symmetric": True})
        for k in ("cn", "aa", "ra", "jaccard", "katz", "ppr")
    ],
    LinkPredictor: [
        (
            check_decoder,
            lambda: LinkPredictor(PureGNN(8, 6), NCNDecoder(6, 6)),
            {**OURS, "in_channels": 8, "symmetric": True},
        ),
        (
            check_decoder,
            lambda: LinkPredictor(GCNConv(8, 6), NCNDecoder(6, 6)),
            {"in_channels": 8, "call": indexed, "symmetric": True},
        ),
    ],
}
# Models of event streams and of tokens have contracts of their own: test_temporal_contracts, test_mixer_contracts.
PUBLIC = {
    name: value
    for name in graphkit.nn.__all__
    if inspect.isclass(value := getattr(graphkit.nn, name))
    and issubclass(value, nn.Module)
    and not issubclass(value, graphkit.nn.TokenMixer)
    and not getattr(value, "takes_tokens", False)
    and not value.__module__.startswith(
        ("graphkit.nn.temporal", "graphkit.nn.spiking", "graphkit.nn.mixer", "graphkit.nn.models.token_model")
    )
    and not value.__module__.startswith("graphkit.nn.models.maxim")  # networks of images
}


def test_every_public_class_is_listed() -> None:
    missing = sorted(name for name, cls in PUBLIC.items() if cls not in TABLE)
    assert not missing, f"add {', '.join(missing)} to TABLE"
    assert set(TABLE) <= set(PUBLIC.values())


@pytest.mark.parametrize(
    ("cls", "row"),
    [pytest.param(c, row, id=f"{c.__name__}-{i}") for c, rows in TABLE.items() for i, row in enumerate(rows)],
)
def test_contract(cls: type, row: Row) -> None:
    check, factory, options = row
    assert type(factory()) is cls
    ran = check(factory, **options)
    every = DECODER_CHECKS if check is check_decoder else LAYER_CHECKS
    left_out = {*options.get("skip", ()), "compile", "symmetric", "wrong_width"}
    assert set(every) - left_out <= set(ran)
    assert ("compile" in ran) == options.get("compile", False)


@pytest.mark.parametrize("cls", [PureGNN, GNN])
def test_encoder_of_a_graph_without_features(cls: type) -> None:
    """The nodes own their vectors, so what moves or adds nodes does not apply."""

    def call(module: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
        # x only enters as something to differentiate.
        return module(None, edge_index) + 0 * x[:, :1]

    check_layer(lambda: cls(0, 6, 2, num_nodes=9), call=call, strict_errors=True, skip=EMBEDDING)


@pytest.mark.parametrize("make", [lambda: GCNConv(8, 4), lambda: SAGEConv(-1, 4), lambda: GATConv(8, 4, heads=2)])
def test_layers_of_pyg_pass(make: Callable[[], nn.Module]) -> None:
    assert "gradcheck" in check_layer(make, call=None)


# The suite itself ----------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """A correct layer of neighbour means; each class below breaks one promise of it."""

    in_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def mean(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        if edge_index.numel() and int(edge_index.min()) < 0:
            raise IndexError(f"node id {int(edge_index.min())}")
        degree = x.new_zeros(x.size(0)).index_add(0, dst, torch.ones_like(dst, dtype=x.dtype))
        return x.new_zeros(x.shape).index_add(0, dst, x[src]) / degree.clamp(min=1)[:, None]

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.linear(x + self.mean(x, edge_index))


class NodeOrder(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + torch.arange(x.size(0), dtype=x.dtype)[:, None]


class EdgeOrder(Mean):
    def forward(self, x, edge_index):
        place = torch.arange(edge_index.size(1), dtype=x.dtype)
        return super().forward(x, edge_index) + x.new_zeros(x.size(0)).index_add(0, edge_index[1], place)[:, None]


class Vector(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index).sum(1)


class Single(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index).float()


class GlobalMean(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + x.mean()


class NodeCount(Mean):
    """An isolated node changes it for all."""

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) * x.size(0)


class NoGuard(Mean):
    def mean(self, x, edge_index):
        src, dst = edge_index
        degree = x.new_zeros(x.size(0)).index_add(0, dst, torch.ones_like(dst, dtype=x.dtype))
        return x.new_zeros(x.shape).index_add(0, dst, x[src]) / degree[:, None]


class NeedsEdges(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + 0 * edge_index.max()


class Spread(Mean):
    """The sample deviation of one node is NaN."""

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + 0 * x.std(0).sum()


class CountsRepeats(Mean):
    def forward(self, x, edge_index):
        return self.linear(x + x.new_zeros(x.shape).index_add(0, edge_index[1], x[edge_index[0]]))


class LoopNaN(Mean):
    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        return out / (0 if bool((edge_index[0] == edge_index[1]).any()) else 1)


class RawMemory(Mean):
    def forward(self, x, edge_index):
        return super().forward(x.as_strided(x.shape, (x.size(1), 1)), edge_index)


class HidesNaN(Mean):
    def forward(self, x, edge_index):
        return super().forward(x.nan_to_num(), edge_index)


class OwnGenerator(Mean):
    """Draws from a source that the seed does not reach."""

    source = torch.Generator().manual_seed(0)

    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        return out + torch.rand(1, generator=self.source) if self.training else out


class AlwaysDrops(Mean):
    def forward(self, x, edge_index):
        return F.dropout(super().forward(x, edge_index), 0.5, training=True)


class Counts(Mean):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, edge_index):
        self.calls += 1
        return super().forward(x, edge_index)


class WritesInput(Mean):
    def forward(self, x, edge_index):
        with torch.no_grad():
            x += 0
        return super().forward(x, edge_index)


class SortsEdges(Mean):
    def forward(self, x, edge_index):
        edge_index.copy_(edge_index[:, edge_index[1].argsort(stable=True)])
        return super().forward(x, edge_index)


class Norm(Mean):
    """The norm of a zero vector has no gradient."""

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + (x**2).sum(1, keepdim=True).sqrt()


class Unused(Mean):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 4)

    def reset_parameters(self):
        super().reset_parameters()
        self.other.reset_parameters()


class Detached(Mean):
    def forward(self, x, edge_index):
        return self.linear(x + self.mean(x, edge_index).detach())


class NoReset(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Mean()

    def forward(self, x, edge_index):
        return self.inner(x, edge_index)


class ForgetsBias(Mean):
    def reset_parameters(self):
        nn.init.ones_(self.linear.weight)


class HiddenScale(Mean):
    """A drawn number that state_dict does not know."""

    def __init__(self):
        super().__init__()
        self.scale = float(torch.rand(()))

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) * self.scale


class HoldsLambda(Mean):
    def __init__(self):
        super().__init__()
        self.act = lambda x: x

    def forward(self, x, edge_index):
        return self.act(super().forward(x, edge_index))


class SharedCopies(Mean):
    def __deepcopy__(self, memo):
        return self


class PlainTensor(Mean):
    def __init__(self):
        super().__init__()
        self.shift = torch.ones(4)

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) + self.shift


class PlainList(Mean):
    def __init__(self):
        super().__init__()
        self.parts = [nn.Identity()]


class Mute(Mean):
    def __repr__(self):
        return "Mute"


class AnyWidth(Mean):
    def forward(self, x, edge_index):
        return super().forward(x[:, :8], edge_index)


class Wraps(Mean):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index % x.size(0))


class Breaks(Mean):
    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        return -out if float(out.detach().sum()) > 1e30 else out


def test_the_correct_layer_passes() -> None:
    assert set(check_layer(Mean, set_semantics=False)) == set(LAYER_CHECKS) - {"compile"}


#: Checks whose broken layers above keep every other promise.
ALONE = ("memory_layout", "gradients", "reset_parameters", "state_dict", "pickle", "repr", "wrong_width", "wrong_ids")
CAUGHT: list[tuple[str, type, dict[str, Any]]] = [
    ("shape", Vector, {}),
    ("dtype", Single, {}),
    ("permutation", NodeOrder, {}),
    ("edge_order", EdgeOrder, {}),
    ("separate_graphs", GlobalMean, {}),
    ("isolated_nodes", NodeCount, {"skip": ("separate_graphs",)}),
    ("isolated_nodes", NoGuard, {}),
    ("no_edges", NeedsEdges, {}),
    ("no_edges", NoGuard, {"skip": ("isolated_nodes",)}),
    ("one_node", Spread, {}),
    ("duplicate_edges", CountsRepeats, {"set_semantics": True}),
    ("self_loops", LoopNaN, {}),
    ("memory_layout", RawMemory, {}),
    ("nan_stays_local", HidesNaN, {}),
    ("nan_stays_local", GlobalMean, {"skip": ("separate_graphs", "isolated_nodes")}),
    ("deterministic", OwnGenerator, {}),
    ("eval_keeps_state", AlwaysDrops, {"only": True}),
    ("eval_keeps_state", Counts, {}),
    ("inputs_unchanged", WritesInput, {}),
    ("inputs_unchanged", SortsEdges, {}),
    ("gradients", Norm, {}),
    ("gradients", Unused, {}),
    ("gradcheck", Detached, {}),
    ("reset_parameters", NoReset, {}),
    ("reset_parameters", ForgetsBias, {}),
    ("state_dict", HiddenScale, {}),
    ("pickle", HoldsLambda, {}),
    ("deepcopy", SharedCopies, {}),
    ("device", PlainTensor, {"only": True}),
    ("device", PlainList, {}),
    ("repr", Mute, {}),
    ("wrong_width", AnyWidth, {}),
    ("wrong_ids", Wraps, {}),
    ("wrong_width", Mean, {"strict_errors": True}),
    ("compile", Breaks, {"compile": True}),
]


@pytest.mark.parametrize(("check", "layer", "options"), CAUGHT, ids=[f"{c}-{cls.__name__}" for c, cls, _ in CAUGHT])
def test_a_broken_layer_is_caught(check: str, layer: type, options: dict[str, Any]) -> None:
    options = dict(options)
    if options.pop("only", False):  # it also breaks others, which come first
        options["skip"] = tuple(name for name in LAYER_CHECKS if name != check)
    with pytest.raises(AssertionError, match=rf"^{layer.__name__} fails the check '{check}': .+"):
        check_layer(layer, **options)
    if check in ALONE:
        check_layer(layer, **{**options, "compile": False, "strict_errors": False}, skip=(check,))


class Score(nn.Module):
    """A correct decoder; each class below breaks one promise of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def forward(self, z: Tensor, edge_index: Tensor, pairs: Tensor) -> Tensor:
        for name, ids in {"edge_index": edge_index, "pairs": pairs}.items():
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < z.size(0):
                raise IndexError(f"{name} outside the graph")
        return self.linear(z[pairs[0]] * z[pairs[1]])


class Softmax(Score):
    def forward(self, z, edge_index, pairs):
        return super().forward(z, edge_index, pairs).softmax(0)


class NeedsPairs(Score):
    def forward(self, z, edge_index, pairs):
        return super().forward(z, edge_index, pairs) + 0 * pairs.max()


class Directed(Score):
    def forward(self, z, edge_index, pairs):
        return super().forward(z, edge_index, pairs) + z[pairs[0]][:, :1]


class ById(Score):
    def forward(self, z, edge_index, pairs):
        return super().forward(z, edge_index, pairs) + pairs.sum(0)[:, None]


class Unchecked(Score):
    def forward(self, z, edge_index, pairs):
        return super().forward(z, edge_index, pairs.clamp(0, z.size(0) - 1))


def test_the_correct_decoder_passes() -> None:
    assert set(check_decoder(Score, 8, symmetric=True)) == set(DECODER_CHECKS) - {"compile"}


@pytest.mark.parametrize(
    ("check", "decoder", "skip"),
    [
        ("permutation", ById, ()),
        ("separate_graphs", Softmax, ()),
        ("pair_order", Softmax, ("separate_graphs", "nan_stays_local")),
        ("no_pairs", NeedsPairs, ()),
        ("symmetric", Directed, ()),
        ("wrong_ids", Unchecked, ()),
    ],
)
def test_a_broken_decoder_is_caught(check: str, decoder: type, skip: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError, match=f"^{decoder.__name__} fails the check '{check}'"):
        check_decoder(decoder, 8, symmetric=True, skip=skip)


def test_a_module_is_checked_on_copies() -> None:
    layer = Mean()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    check_layer(layer)
    assert layer.training
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers must go on as they were"
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == torch.float32


def test_layers_with_buffers_that_train() -> None:
    class Normed(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(4)

        def reset_parameters(self) -> None:
            super().reset_parameters()
            self.norm.reset_parameters()

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.norm(super().forward(x, edge_index))

    ran = check_layer(Normed, skip=("pickle",))  # a local class cannot be pickled
    assert "eval_keeps_state" in ran


def test_unknown_check() -> None:
    with pytest.raises(ValueError, match=r"permutation.*got typo"):
        check_layer(Mean, skip=("typo",))


def test_the_message_tells_how_far_off() -> None:
    with pytest.raises(AssertionError, match=r"off by \d\S* \(allowed 1e-09\) when nodes are relabelled"):
        check_layer(NodeOrder)
