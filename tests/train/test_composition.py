"""The systems on static graphs, two at a time: generated features in contrastive views under POT, layer-local training
of any layer, a refined graph before everything, and what teaches and shrinks what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import (
    ChebConv,
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    SAGEConv,
    TAGConv,
    TransformerConv,
)
from torch_geometric.transforms import Compose

from graphkit.datasets.splits import random_node_split
from graphkit.nn import (
    GCNII,
    GNN,
    GRAND,
    LAGAT,
    LAGCN,
    LAGCNII,
    LASAGE,
    CodeDistillMLP,
    DegreePowerGCNConv,
    ForwardStack,
    GCNEncoder,
    Genotype,
    GraphSequential,
    GraphTokenizer,
    IntegerMLP,
    LowPrecisionGNN,
    LowRankGCNConv,
    NeighborCVAE,
    adjacency_bounds,
    low_precision_space,
    uniform_quantize,
)
from graphkit.train import (
    COSTA,
    GCA,
    GRACE,
    STABLE,
    AugmentedClassifier,
    AugmentedNetwork,
    AugmentedView,
    ContrastiveTask,
    Experiment,
    GraphTokenizerTask,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    NodeClassificationTask,
    NodeDistillationTask,
    POTLoss,
    ProGCL,
)
from graphkit.train.local import ForwardForwardTask, SingleForwardTask, layer_by_layer
from graphkit.train.search import LPGNASSearch, LPGNASSupernet, SearchedExperiment
from graphkit.train.search.lpgnas import LPGNASTask

NODES, WIDTH, CLASSES = 90, 24, 3
CHANCE = 100 / CLASSES


def topics(seed: int = 0) -> Data:
    """Texts with words of their topic; edges mostly within topics, a fifth of them the work of an attacker."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(NODES) % CLASSES
    own = (torch.arange(WIDTH) % CLASSES) == y[:, None]
    x = (torch.rand(NODES, WIDTH, generator=generator) < torch.where(own, 0.5, 0.1)).float()
    chance = torch.where(y[:, None] == y, 0.1, 0.012)
    half = (torch.rand(NODES, NODES, generator=generator) < chance).triu(1).nonzero().t()
    return Data(x=x, edge_index=torch.cat([half, half.flip(0)], 1), y=y)


DATA = topics()
SPLIT = random_node_split(DATA.y, 0.2, 0.3, seed=0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def experiment(task: Any, model: nn.Module, epochs: int = 20, lr: float = 0.02, **options: Any) -> Experiment:
    return Experiment(task, model, torch.optim.Adam(model.parameters(), lr), epochs, **options)


def check_learns(last: Experiment, metric: str | None = "Accuracy", above: float = CHANCE + 15) -> None:
    """Every stage reaches all its weights and ends with a lower loss; the last one has learned something."""
    result = None
    for stage in last.chain():
        stage.begin()
        assert stage.optimizer is not None
        weights = [p for group in stage.optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in weights]
        result = stage.run(device="cpu", progress=False)
        if isinstance(stage.task, LPGNASTask):
            continue  # its loss has another meaning once the controllers start, and few of them move in some steps
        losses = [row["loss"] for row in result.history]
        assert min(losses[-3:]) < losses[0]
        for old, new in zip(before, weights, strict=True):
            assert bool(new.isfinite().all())
            assert not torch.equal(old, new), f"a weight {list(new.shape)} of {type(stage.model).__name__} never moved"
    if metric is not None:
        assert result is not None
        assert result.test(metric) > above


def generator_of(data: Data, **options: Any) -> tuple[NeighborCVAE, Experiment]:
    cvae = NeighborCVAE(data.num_features, 16, 4, **options)
    return cvae, experiment(NeighborFeatureTask(data.x, data.edge_index, batch_size=32), cvae, 3, 0.01)


def augmented(data: Data, network: Callable[..., nn.Module] = LAGCN, **options: Any) -> Experiment:
    """A network with generated features, its generator first."""
    cvae, first = generator_of(data, **options)
    augment = LocalAugmentation(cvae, normalize=not options, pool_size=12)
    task = LocalAugmentationTask(data, SPLIT, augment, num_samples=2)
    return experiment(task, AugmentedNetwork(network(data.num_features, 8, CLASSES)), start_from=("CVAE", first))


def tokens(data: Data, **options: Any) -> Experiment:
    tokenizer = GraphTokenizer(data.num_features, 16, CLASSES, 12, code_dim=16, dead_code_threshold=0.1)
    return experiment(GraphTokenizerTask(data, SPLIT, **options.pop("task", {})), tokenizer, **options)


def student_of(first: Experiment, data: Data) -> Experiment:
    task = NodeDistillationTask(data, SPLIT, first.model, w_code=1.0)
    student = CodeDistillMLP(data.num_features, 16, CLASSES, code_dim=16)
    return experiment(task, student, start_from=("teacher", first))


def stack_of(layers: list[nn.Module], data: Data, task: Any = SingleForwardTask) -> Experiment:
    adam = partial(torch.optim.Adam, lr=0.01)
    return layer_by_layer(task(data, SPLIT), ForwardStack(layers), adam, name="local", max_epochs=15, patience=None)


def contrastive(data: Data, method: type[GRACE] = GRACE, views: tuple[Any, Any] | None = None) -> Experiment:
    """A method with POT."""
    encoder = GCNEncoder(data.num_features, out_channels=12)
    model = method(encoder, 12, 12)
    drawn = model.views(0.3, 0.2)
    bounds = [adjacency_bounds(data.edge_index, NODES, budget=v.budget(data.edge_index, NODES)) for v in drawn]
    task = ContrastiveTask(
        data,
        SPLIT,
        drawn if views is None else (Compose([views[0], drawn[0]]), Compose([views[1], drawn[1]])),
        pot=POTLoss(encoder, (bounds[0], bounds[1])),
        kappa=0.3,
        probe_epochs=60,
    )
    return experiment(task, model, 15, 0.01, eval_every=15)


# POT on LAGNN's views -------------------------------------------------------------------------------------------------


@functools.cache
def trained_generator() -> NeighborCVAE:
    torch.manual_seed(0)
    cvae, training = generator_of(DATA)
    training.run(device="cpu", progress=False)
    return cvae


@pytest.mark.parametrize("method", [GRACE, GCA, partial(ProGCL, start=5), COSTA])
def test_pot_on_views_with_generated_features(method: Any) -> None:
    augment = LocalAugmentation(trained_generator(), pool_size=10)
    made = contrastive(DATA, method, (AugmentedView(augment), AugmentedView(augment)))
    (views,) = made.task.batches(1)
    assert not torch.equal(views[0].x, views[1].x)
    assert views[0].edge_index.size(1) < DATA.edge_index.size(1)
    check_learns(made, above=CHANCE + 10)


def test_a_view_of_one_side_alone_and_the_same_draw_again() -> None:
    augment = LocalAugmentation(trained_generator(), pool_size=10)
    made = contrastive(DATA, GRACE, (AugmentedView(augment), Compose([])))
    ((first, second),) = made.task.batches(2)
    assert torch.equal(second.x, DATA.x)
    assert torch.equal(first.x, next(made.task.batches(2))[0].x)
    assert not torch.equal(first.x, next(made.task.batches(3))[0].x)
    check_learns(made, above=CHANCE + 10)


# ForwardGNN on any encoder --------------------------------------------------------------------------------------------


def fixed(a: int, b: int) -> nn.Module:
    """A layer with few bits."""
    one = {"attention": ["gcn"], "heads": [1], "aggregation": ["sum"], "activation": ["relu"], "widths": [1]}
    formats = {"weight_options": ["FIX2.6"], "activation_options": ["FIX4.8"]}
    space = low_precision_space(b, b, 1, shortcuts=False, **one, **formats)
    return LowPrecisionGNN(Genotype.take(a, space))


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "GNN gcn": lambda a, b: GNN(a, b, 1, conv="gcn"),
    "GNN sage": lambda a, b: GNN(a, b, 1, conv="sage"),
    "GCNEncoder": lambda a, b: GCNEncoder(a, b, b),
    "DegreePowerGCNConv": lambda a, b: DegreePowerGCNConv(a, b, 0.3),
    "LowRankGCNConv": lambda a, b: LowRankGCNConv(a, b, 20),
    "GraphSequential": lambda a, b: GraphSequential(DegreePowerGCNConv(a, b), nn.ReLU(), nn.Linear(b, b)),
    "GCNII": lambda a, b: GCNII(a, b, b, num_layers=2, dropout=0.1),
    "GRAND": lambda a, b: GRAND(a, b, b, order=2, drop_node=0.1, input_dropout=0.1, dropout=0.1),
    "LAGCN": lambda a, b: LAGCN(a, b, b, 0, dropout=0.1),
    "LASAGE": lambda a, b: LASAGE(a, b, b, 0, dropout=0.1),
    "LAGAT": lambda a, b: LAGAT(a, b, b, 0, heads=2, dropout=0.1),
    "LAGCNII": lambda a, b: LAGCNII(a, b, b, 0, num_layers=2, dropout=0.1),
    "LowPrecisionGNN": fixed,
    "uniform_quantize": lambda a, b: uniform_quantize(GCNConv(a, b)),
    "GCNConv": GCNConv,
    "SAGEConv": SAGEConv,
    "GATConv": lambda a, b: GATConv(a, b // 2, heads=2),
    "GATv2Conv": lambda a, b: GATv2Conv(a, b // 2, heads=2),
    "GINConv": lambda a, b: GINConv(nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b))),
    "GraphConv": GraphConv,
    "TAGConv": lambda a, b: TAGConv(a, b, K=2),
    "ChebConv": lambda a, b: ChebConv(a, b, K=2),
    "TransformerConv": lambda a, b: TransformerConv(a, b // 2, heads=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_forward_learning_of_any_layer(name: str) -> None:
    make = LAYERS[name]
    check_learns(stack_of([make(WIDTH, 16), make(16, 16)], DATA))


@pytest.mark.parametrize("name", ["GNN sage", "GCNII", "LAGCN", "GATConv", "uniform_quantize"])
def test_forward_forward_of_any_layer(name: str) -> None:
    make = LAYERS[name]
    task = partial(ForwardForwardTask, mode="virtual")
    check_learns(stack_of([make(WIDTH, 16), make(16, 16)], DATA, task), metric=None)


def test_layers_of_several_kinds_in_one_stack() -> None:
    check_learns(stack_of([LAYERS["GATConv"](WIDTH, 16), LAYERS["LAGCN"](16, 12), GNN(12, 8, 1)], DATA))


# STABLE before everything ---------------------------------------------------------------------------------------------


@functools.cache
def refined() -> Data:
    """Vectors and graph of STABLE, its encoder trained for a moment."""
    torch.manual_seed(0)
    stable = STABLE(WIDTH, CLASSES, embed_channels=20, k=3)
    last = stable.experiment(DATA, SPLIT, contrast_epochs=30)
    last.chain()[0].run(device="cpu", progress=False)
    return stable.refine(DATA)


def with_search(data: Data) -> Experiment:
    search = LPGNASSearch(LPGNASSupernet(data.num_features, 8, CLASSES), steps=6, arch_start=1, quant_start=2)
    stage = search.experiment(data, SPLIT)
    task = NodeClassificationTask(data, SPLIT)

    def make(supernet: nn.Module) -> Experiment:
        return experiment(task, LowPrecisionGNN(supernet.genotype()))

    return SearchedExperiment(task, stage.model, None, 20, start_from=("search", stage), make=make)


REFINED: dict[str, Callable[[Data], Experiment]] = {
    "GCN": lambda d: experiment(NodeClassificationTask(d, SPLIT), GNN(d.num_features, 16, 2, CLASSES)),
    "LAGCN": partial(augmented, likelihood="gaussian"),
    "LAGAT": partial(augmented, network=LAGAT, likelihood="gaussian"),
    "VQGraph": lambda d: student_of(tokens(d), d),
    "ForwardGNN": lambda d: stack_of([GCNConv(d.num_features, 16), GNN(16, 16, 1)], d),
    "POT": contrastive,
    "LPGNAS": with_search,
}


@pytest.mark.parametrize("name", REFINED)
def test_a_refined_graph_before(name: str) -> None:
    data = refined()
    assert data.x.shape == (NODES, 20)
    check_learns(REFINED[name](data))


def test_the_refined_edges_with_the_words_themselves() -> None:
    """Only the edges are taken over: what needs features from 0 to 1 has them."""
    data = Data(x=DATA.x, edge_index=refined().edge_index, y=DATA.y)
    check_learns(augmented(data))


# Who teaches whom, and what becomes small -----------------------------------------------------------------------------


def test_lagcn_teaches_the_tokenizer_which_teaches_whole_numbers() -> None:
    first = augmented(DATA)
    teacher = AugmentedClassifier(first.model, first.task.augment)
    second = tokens(DATA, task={"teacher": teacher}, start_from=("LAGCN", first))
    third = student_of(second, DATA)
    check_learns(third)
    # The tokenizer heard what LAGCN said with the sample that it was chosen with.
    with torch.no_grad():
        said = first.task.logits(first.model.eval())
    torch.testing.assert_close(second.task.soft_labels(), said)
    small = IntegerMLP.from_student(third.model, DATA.x)
    task = NodeDistillationTask(DATA, SPLIT, second.model)
    check_learns(experiment(task, small, 15, 0.003))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GNN(WIDTH, 16, 2, CLASSES, conv="sage"),
        lambda: LAGCN(WIDTH, 8, CLASSES, 0),
        lambda: LAGAT(WIDTH, 4, CLASSES, 0, heads=2),
        lambda: GCNII(WIDTH, 16, CLASSES, num_layers=2),
        lambda: GRAND(WIDTH, 16, CLASSES, order=2),
        lambda: GraphSequential(GATConv(WIDTH, 8, heads=2), nn.ReLU(), GCNConv(16, CLASSES)),
    ],
)
def test_any_network_teaches_a_student_and_learns_in_few_bits(make: Callable[[], nn.Module]) -> None:
    network = uniform_quantize(make(), 4, 8)
    first = experiment(NodeClassificationTask(DATA, SPLIT), network)
    task = NodeDistillationTask(DATA, SPLIT, network)
    student = CodeDistillMLP(WIDTH, 16, CLASSES)
    check_learns(experiment(task, student, start_from=("teacher", first)))


def test_a_contrastive_encoder_under_a_classifier_of_its_own() -> None:
    """Vectors that POT shaped are features like any others: here for a tokenizer."""
    first = contrastive(DATA)
    first.run(device="cpu", progress=False)
    with torch.no_grad():
        z: Tensor = F.normalize(first.task.embed(first.model.eval()))
    check_learns(tokens(Data(x=z, edge_index=DATA.edge_index, y=DATA.y)))
