"""Neural Common Neighbor and its completion: the card's acceptance, brute force in plain Python, closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest
import torch
from samples import GOLDEN, Sets, all_pairs, messy_graph, neighbor_sets
from torch import Tensor, nn
from torch_geometric.utils import to_networkx, to_undirected

from graphkit.datasets import LinkSplit, NCNRandomLinkSplit
from graphkit.datasets.synthetic import random_geometric_graph
from graphkit.nn import LinkPredictor, NCNCDecoder, NCNDecoder, PureGNN
from graphkit.ops import NeighborIndex, common_neighbor_count
from graphkit.train import LinkPredictionTask, Trainer

DOUBLE = torch.float64


def features(num_nodes: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def simple_graph(num_nodes: int = 14, p: float = 0.25, seed: int = 0) -> tuple[Tensor, nx.Graph]:
    """Undirected, without loops or repeats."""
    graph = nx.gnp_random_graph(num_nodes, p, seed=seed)
    edges = torch.tensor(list(graph.edges)).view(-1, 2).t()
    return torch.cat([edges, edges.flip(0)], 1), graph


def make(cls: type[NCNDecoder], *sizes: int, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return cls(*sizes, **options).double().eval()


def pooling(cls: type[NCNDecoder], width: int, **options: Any) -> Any:
    """A decoder whose output is the pooled vector itself: identity for every map, no pair branch."""
    decoder = make(cls, width, width, node_mlp=False, use_pair=False, **options)
    identity = nn.Linear(width, width, bias=False).double()
    nn.init.eye_(identity.weight)
    for name in ("common_mlp", "order_mlp", "residual_mlp"):
        if getattr(decoder, name) is not None:
            setattr(decoder, name, nn.Sequential(identity))
    decoder.head = nn.Identity()
    return decoder


def logits_of(decoder: nn.Module, z: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
    with torch.no_grad():
        return decoder(z, edges, pairs)


# (a) 1: sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_one_hot_features_are_indicators_of_the_sets(seed: int) -> None:
    edges, num_nodes = messy_graph(seed)
    sets, pairs = neighbor_sets(edges, num_nodes), all_pairs(num_nodes)
    eye = torch.eye(num_nodes, dtype=DOUBLE)
    common, one_sided, second = torch.zeros(3, pairs.size(1), num_nodes, dtype=DOUBLE)
    far = [set().union(*(sets[w] for w in near)) for near in sets]
    for row, (i, j) in enumerate(pairs.t().tolist()):
        for w in (sets[i] & sets[j]) - {i, j}:
            common[row, w] = 1
        for w in (sets[i] ^ sets[j]) - {i, j}:
            one_sided[row, w] = 1
        for a, b in ((sets[i], far[j]), (far[i], sets[j])):
            for w in (a & b) - {i, j}:
                second[row, w] += 1
    assert torch.equal(logits_of(pooling(NCNDecoder, num_nodes), eye, edges, pairs), common)
    different = pooling(NCNDecoder, num_nodes, use_residual=True)
    assert torch.equal(logits_of(different, eye, edges, pairs), common + one_sided)
    ncn2 = pooling(NCNDecoder, num_nodes, orders=((1, 1), (1, 2), (2, 1)))
    assert torch.equal(logits_of(ncn2, eye, edges, pairs), common + second)
    beta = pooling(NCNDecoder, num_nodes, beta=0.25)
    assert torch.equal(logits_of(beta, eye, edges, pairs), 0.25 * common)


def test_golden_graph() -> None:
    eye, pair = torch.eye(5, dtype=DOUBLE), torch.tensor([[0], [1]])
    assert logits_of(pooling(NCNDecoder, 5), eye, GOLDEN, pair).tolist() == [[0, 0, 1, 0, 0]]
    everything = pooling(NCNCDecoder, 5, offset=-1e6, prior=1.0)
    assert logits_of(everything, eye, GOLDEN, pair).tolist() == [[0, 0, 1, 1, 1]]


# (a) 2: closed forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_degree_features_are_adamic_adar_and_resource_allocation(seed: int) -> None:
    edges, graph = simple_graph(seed=seed)
    degree = NeighborIndex(edges, 14).degree.double()
    pairs = torch.combinations(torch.arange(14)).t()
    cases = {nx.adamic_adar_index: 1 / degree.clamp(min=2).log(), nx.resource_allocation_index: 1 / degree.clamp(min=1)}
    for index, feature in cases.items():
        want = torch.tensor([score for _, _, score in index(graph, pairs.t().tolist())], dtype=DOUBLE)
        got = logits_of(pooling(NCNDecoder, 1), feature[:, None], edges, pairs)[:, 0]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_count_pool_is_a_function_of_the_count() -> None:
    edges, num_nodes = messy_graph(3)
    decoder = make(NCNDecoder, 4, 6, pool="count", use_pair=False)
    pairs = all_pairs(num_nodes)
    count = common_neighbor_count(NeighborIndex(edges, num_nodes), pairs).double()[:, None]
    got = logits_of(decoder, features(num_nodes, 4), edges, pairs)
    with torch.no_grad():
        want = decoder.head(decoder.common_mlp(count) * decoder.beta)
    torch.testing.assert_close(got, want)


def test_pool_none_is_the_pair_branch_alone() -> None:
    edges, num_nodes = messy_graph(3)
    decoder, z, pairs = make(NCNDecoder, 4, 6, pool="none"), features(num_nodes, 4), all_pairs(num_nodes)
    with torch.no_grad():
        want = decoder.head(decoder.pair_mlp(z[pairs[0]] * z[pairs[1]]))
    torch.testing.assert_close(logits_of(decoder, z, edges, pairs), want)
    assert decoder.beta is None


# (a) 3: where completion is none or all ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"depth": 0}, {"alpha": 0.0}, {"offset": 1e6}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_without_completion_it_is_ncn_bit_for_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    edges, num_nodes = messy_graph(4)
    ncn = make(NCNDecoder, 8, 16).to(dtype)
    ncnc = make(NCNCDecoder, 8, 16, seed=1, **options).to(dtype)
    ncnc.load_state_dict(ncn.state_dict())
    z, pairs = features(num_nodes, 8).to(dtype), all_pairs(num_nodes)
    assert torch.equal(logits_of(ncn, z, edges, pairs), logits_of(ncnc, z, edges, pairs))


@pytest.mark.parametrize("depth", [1, 2])
def test_full_completion_pools_the_union(depth: int) -> None:
    edges, num_nodes = messy_graph(5)
    decoder = pooling(NCNCDecoder, num_nodes, offset=-1e6, prior=1.0, alpha=1.0, depth=depth)
    sets, pairs = neighbor_sets(edges, num_nodes), all_pairs(num_nodes)
    want = torch.zeros(pairs.size(1), num_nodes, dtype=DOUBLE)
    for row, (i, j) in enumerate(pairs.t().tolist()):
        want[row, sorted((sets[i] | sets[j]) - {i, j})] = 1
    assert torch.equal(logits_of(decoder, torch.eye(num_nodes, dtype=DOUBLE), edges, pairs), want)


@pytest.mark.parametrize(
    ("logit", "scale", "offset", "prior", "alpha", "want"),
    [
        (2, 4.3, 2.8, 0.75, 1.0, 0.023484),
        (3, 4.3, 2.8, 0.75, 1.0, 0.639298),
        (5, 6.5, 4.4, 0.75, 0.4, 0.389488),
        (0, 5.3, 0.5, 0.5, 0.3, 0.010236),
    ],
)
def test_golden_calibration(logit, scale, offset, prior, alpha, want) -> None:
    decoder = NCNCDecoder(2, 2, scale=scale, offset=offset, prior=prior, alpha=alpha)
    for dtype, limit in ((DOUBLE, 5e-7), (torch.float32, 2e-6)):
        assert abs(float(decoder.calibrate(torch.tensor(float(logit), dtype=dtype))) - want) < limit
    assert decoder.calibrate(torch.tensor([1e9, -1e9])).tolist() == pytest.approx([alpha, 0.0])


# Brute force ---------------------------------------------------------------------------------------------------------


def brute_force(decoder: Any, z: Tensor, shown: Tensor, sets: Sets, i: int, j: int, depth: int) -> tuple[Tensor, float]:
    """The pooled vector and the logit of one pair, as the equation says: Python sets, one inner call a neighbour."""

    def weight(end: int, w: int) -> float:
        transformed = decoder.completion_input == "transformed" and decoder.pool == "features"
        inner_z = shown if transformed else z
        inner_shown = decoder._features(shown) if transformed else shown
        _, logit = brute_force(decoder, inner_z, inner_shown, sets, end, w, depth - 1)
        p = 1 / (1 + math.exp(-decoder.scale * (logit - decoder.offset)))
        prior = decoder.prior if decoder.prior_mlp is None else float(decoder.prior_mlp(z[i] * z[j]))
        return decoder.alpha * prior * p / (prior * p + 1 - p)

    near, far = sets[i] - {i, j}, sets[j] - {i, j}
    pooled = torch.zeros(shown.size(1), dtype=DOUBLE)
    for w in near & far:
        pooled += shown[w]
    if depth > 0:
        for w in near - far:
            pooled += weight(j, w) * shown[w]
        for w in far - near:
            pooled += weight(i, w) * shown[w]
    hidden = decoder.beta * decoder.common_mlp(pooled[None]) + decoder.pair_mlp((z[i] * z[j])[None])
    return pooled, float(decoder.head(hidden))


COMPLETIONS: list[dict[str, Any]] = [
    {},
    {"completion_input": "h"},
    {"learn_prior": True, "alpha": 0.7},
    {"pool": "count", "alpha": 1.5},
    {"tail_act": False, "two_layer_head": True, "layer_norm": False, "beta": 0.6},
    {"node_mlp": False},
]


@pytest.mark.parametrize("options", COMPLETIONS, ids=str)
@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_completion_equals_brute_force(depth: int, options: dict[str, Any]) -> None:
    edges, _ = simple_graph(7, 0.4, seed=2)
    edges = torch.cat([edges, torch.tensor([[3, 5], [3, 5]])], 1)  # two self-loops
    sets = neighbor_sets(edges, 7)
    # A flat calibration around the logits' own size, so that every weight counts.
    decoder = make(NCNCDecoder, 4, 5, depth=depth, scale=1.5, offset=0.1, prior=0.8, **options)
    z = features(7, 4)
    pairs = all_pairs(7)[:, ::3] if depth == 2 else all_pairs(7)
    shown = decoder._features(z)
    found = [brute_force(decoder, z, shown, sets, i, j, depth) for i, j in pairs.t().tolist()]
    want = torch.tensor([logit for _, logit in found], dtype=DOUBLE)
    got = decoder(z, edges, pairs)[:, 0]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    pooled = decoder._common_sum(z, shown, NeighborIndex(edges, 7), pairs, depth)
    torch.testing.assert_close(pooled, torch.stack([vector for vector, _ in found]), rtol=0, atol=1e-10)
    shallow = [brute_force(decoder, z, shown, sets, i, j, depth - 1)[1] for i, j in pairs.t().tolist()]
    assert float((want - torch.tensor(shallow, dtype=DOUBLE)).abs().max()) > 1e-6, "the depth must matter here"


def test_the_two_completion_inputs_differ() -> None:
    edges, _ = simple_graph()
    z, pairs = features(14, 4), all_pairs(14)
    outs = [
        logits_of(make(NCNCDecoder, 4, 5, scale=1.0, offset=0.0, completion_input=way), z, edges, pairs)
        for way in ("transformed", "h")
    ]
    assert not torch.allclose(*outs)


# (a) 4: symmetries and target link removal ---------------------------------------------------------------------------

SYMMETRIC: list[tuple[type[NCNDecoder], dict[str, Any]]] = [
    (NCNDecoder, {}),
    (NCNDecoder, {"pool": "none"}),
    (NCNDecoder, {"pool": "count"}),
    (NCNDecoder, {"use_residual": True}),
    (NCNDecoder, {"orders": ((1, 1), (1, 2), (2, 1))}),
    (NCNDecoder, {"use_pair": False}),
    (NCNCDecoder, {"offset": 0.0, "scale": 1.0}),
    (NCNCDecoder, {"offset": 0.0, "scale": 1.0, "depth": 2, "learn_prior": True}),
]


@pytest.mark.parametrize(("cls", "options"), SYMMETRIC, ids=str)
def test_ends_labels_and_removed_targets(cls: type[NCNDecoder], options: dict[str, Any]) -> None:
    edges, num_nodes = messy_graph(6)
    decoder, z, pairs = make(cls, 8, 6, **options), features(num_nodes, 8), all_pairs(num_nodes)
    scores = logits_of(decoder, z, edges, pairs)
    torch.testing.assert_close(scores, logits_of(decoder, z, edges, pairs.flip(0)))
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(0))
    renamed = torch.empty_like(z)
    renamed[order] = z
    torch.testing.assert_close(scores, logits_of(decoder, renamed, order[edges], order[pairs]))
    # With the target removed it does not matter whether it was there.
    index = NeighborIndex(edges, num_nodes)
    target = torch.tensor([[1], [2]])
    with_it = NeighborIndex(torch.cat([edges, target, target.flip(0)], 1), num_nodes)
    kept, removed = with_it.without(target), index.without(target)
    assert torch.equal(kept.keys, removed.keys)
    assert torch.equal(logits_of(decoder, z, kept, target), logits_of(decoder, z, removed, target))


def test_the_task_removes_its_targets_and_only_in_training() -> None:
    """The loss of a batch does not change when its own links are taken out of the training graph by hand."""
    split = NCNRandomLinkSplit(seed=0).split(random_geometric_graph(60, 0.25, seed=1))
    model = LinkPredictor(PureGNN(1, 8), NCNDecoder(8, 8)).eval()
    task = LinkPredictionTask(split, batch_size=40)
    batch = next(task.batches(1))
    with torch.no_grad():
        loss = task.loss(model, batch)
        index = NeighborIndex(split.train_edge_index, 60).without(batch[0])
        fields = {
            name: getattr(split, name) for name in ("train_pos", "valid_pos", "valid_neg", "test_pos", "test_neg")
        }
        bare = LinkSplit(num_nodes=60, train_edge_index=index.edge_index, x=split.x, **fields)
        plain = LinkPredictionTask(bare, batch_size=40, target_link_removal=False)
        assert float(loss) == pytest.approx(float(plain.loss(model, batch)), abs=1e-6)
        keep = LinkPredictionTask(split, batch_size=40, target_link_removal=False)
        assert abs(float(keep.loss(model, batch)) - float(loss)) > 1e-4
    assert task.train_graph.num_edges == split.train_edge_index.size(1)


# (a) 5: gradients ----------------------------------------------------------------------------------------------------


def completed(**options: Any) -> NCNCDecoder:
    return make(NCNCDecoder, 6, 8, scale=1.0, offset=0.0, **options)


@pytest.mark.parametrize("depth", [1, 2])
def test_completion_is_detached(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    edges, _ = simple_graph()
    decoder, pairs = completed(depth=depth), all_pairs(14)
    z = features(14, 6).requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(decoder(z, edges, pairs).square().sum(), (z, *decoder.parameters()))

    want = gradients()
    whole = NCNCDecoder._complete
    logits = whole(decoder, z, decoder._features(z), NeighborIndex(edges, 14), *inner_pairs(edges, pairs), depth - 1)
    assert not logits.requires_grad
    constant = logits.detach().clone()
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_complete", lambda *args: constant)
        for got, expected in zip(gradients(), want, strict=True):
            torch.testing.assert_close(got, expected)
    with monkeypatch.context() as patch:  # and it is not so by chance
        patch.setattr(NCNCDecoder, "_complete", whole.__wrapped__)
        assert not torch.allclose(gradients()[0], want[0])


def inner_pairs(edges: Tensor, pairs: Tensor) -> tuple[Tensor]:
    """The pairs to complete, in the order of the decoder: first all (j, w in R_i), then all (i, w in R_j)."""
    sets = neighbor_sets(edges, 14)
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for i, j in pairs.t().tolist():
        found[0].extend((j, w) for w in sorted(sets[i] - sets[j] - {i, j}))
        found[1].extend((i, w) for w in sorted(sets[j] - sets[i] - {i, j}))
    return (torch.tensor([*found[0], *found[1]]).t(),)


def test_a_learned_prior_learns() -> None:
    edges, _ = simple_graph()
    decoder = completed(learn_prior=True)
    decoder(features(14, 6), edges, all_pairs(14)).sum().backward()
    for parameter in decoder.prior_mlp.parameters():
        assert bool(parameter.grad.abs().max() > 0)
    fixed = completed()
    assert fixed.prior_mlp is None
    assert not any(name.startswith("prior") for name, _ in fixed.named_parameters())


# (a) 6: chunks and samples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 10**6])
@pytest.mark.parametrize("depth", [1, 2])
def test_chunks_change_nothing(chunk_size: int, depth: int) -> None:
    edges, num_nodes = messy_graph(8)
    z, pairs = features(num_nodes, 6), all_pairs(num_nodes)[:, ::5]
    want = logits_of(completed(depth=depth), z, edges, pairs)
    torch.testing.assert_close(logits_of(completed(depth=depth, chunk_size=chunk_size), z, edges, pairs), want)


@pytest.mark.parametrize("orders", [((1, 1),), ((1, 1), (1, 2)), ((1, 1), (1, 2), (2, 1))], ids=str)
def test_batches_change_nothing(orders: tuple[tuple[int, int], ...]) -> None:
    """All pairs of a dense graph ask for the same inner links many times, a few pairs do not."""
    edges, _ = simple_graph(14, 0.4)
    decoder, z, pairs = completed(orders=orders), features(14, 6), all_pairs(14)
    parts = [logits_of(decoder, z, edges, few) for few in pairs.split(3, dim=1)]
    torch.testing.assert_close(logits_of(decoder, z, edges, pairs), torch.cat(parts))


def test_sampled_residuals_are_unbiased() -> None:
    edges, _ = simple_graph(20, 0.5)
    pair = torch.tensor([[0], [1]])
    exact = pooling(NCNCDecoder, 20, scale=1.0, offset=0.0)
    capped = pooling(NCNCDecoder, 20, scale=1.0, offset=0.0, max_neighbors=(2, 2))
    z = features(20, 20)
    want = logits_of(exact, z, edges, pair)
    torch.manual_seed(0)
    draws = logits_of(capped, z, edges, pair.expand(2, 2000))  # each copy of the pair draws for itself
    error = (draws.mean(0) - want[0]).abs()
    assert bool((draws.std(0) > 0).any())
    assert bool((error < 3.5 * draws.std(0) / 2000**0.5).all())


def test_caps_of_training_and_evaluation() -> None:
    edges, _ = simple_graph(20, 0.5)
    pairs, z = all_pairs(20), features(20, 6)
    want = logits_of(completed(), z, edges, pairs)
    training_only = completed(max_neighbors=(1, None))
    assert torch.equal(logits_of(training_only, z, edges, pairs), want)
    assert not torch.allclose(logits_of(training_only.train(), z, edges, pairs), want)
    assert not torch.allclose(logits_of(completed(max_neighbors=(None, 1)), z, edges, pairs), want)


# (a) 7: expressiveness -----------------------------------------------------------------------------------------------


def test_it_tells_pairs_apart_that_message_passing_cannot() -> None:
    """A 6-cycle and two triangles: all nodes look alike, pairs at distance two and three do not."""
    graph = nx.disjoint_union_all([nx.cycle_graph(6), nx.cycle_graph(3), nx.cycle_graph(3)])
    edges = to_undirected(torch.tensor(list(graph.edges)).t())
    torch.manual_seed(0)
    z = PureGNN(1, 8, num_layers=3).double()(torch.ones(12, 1, dtype=DOUBLE), edges).detach()
    torch.testing.assert_close(z, z[:1].expand(12, 8))
    pairs = torch.tensor([[0, 0], [2, 3]])
    one, none = logits_of(make(NCNDecoder, 8, 8), z, edges, pairs)[:, 0].tolist()
    assert abs(one - none) > 1e-3
    one, none = logits_of(make(NCNDecoder, 8, 8, pool="none"), z, edges, pairs)[:, 0].tolist()
    assert abs(one - none) < 1e-12


# Dropout of edges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "depth", "calls"), [(False, 1, 2), (True, 1, 1), (False, 2, 3), (True, 2, 1)])
def test_the_inner_call_sees_a_thinner_graph(
    shared: bool, depth: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges, _ = simple_graph(20, 0.5)
    seen: list[tuple[NeighborIndex, NeighborIndex]] = []
    dropout = NeighborIndex.dropout

    def watched(self: NeighborIndex, p: float, training: bool = True) -> NeighborIndex:
        assert p == 0.5
        assert training
        seen.append((self, dropout(self, p, training)))
        return seen[-1][1]

    monkeypatch.setattr(NeighborIndex, "dropout", watched)
    decoder = completed(depth=depth, edge_dropout=0.5, shared_dropout=shared).train()
    logits_of(decoder, features(20, 6), edges, all_pairs(20)[:, :40])
    assert len(seen) == calls
    for (_, outer), (given, _) in pairwise(seen):
        assert given is outer  # thinned once more, not anew
    assert seen[0][1].num_edges < edges.size(1)


def test_dropout_is_for_training() -> None:
    edges, _ = simple_graph(20, 0.5)
    decoder, z, pairs = completed(edge_dropout=0.5, dropout=0.5), features(20, 6), all_pairs(20)
    assert torch.equal(logits_of(decoder, z, edges, pairs), logits_of(completed(), z, edges, pairs))
    decoder.train()
    first, second = (logits_of(decoder, z, edges, pairs) for _ in range(2))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("cls", [NCNDecoder, NCNCDecoder])
@pytest.mark.parametrize("options", [{}, {"pool": "count"}, {"node_mlp": False}, {"use_pair": False}], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_training_and_evaluation_agree_without_dropout(
    cls: type[NCNDecoder], options: dict[str, Any], sparse: bool
) -> None:
    """Sparse and dense graphs may take different ways to the same numbers and gradients."""
    edges, num_nodes = (simple_graph(90, 0.01)[0], 90) if sparse else messy_graph(9)
    pairs = all_pairs(num_nodes)
    few = pairs[:, torch.randperm(pairs.size(1), generator=torch.Generator().manual_seed(0))[: num_nodes // 2]]
    decoder = make(cls, 6, 8, **options)
    found = []
    for training in (False, True):
        z = features(num_nodes, 6).requires_grad_()
        out = decoder.train(training)(z, edges, few)
        parameters = [p for p in decoder.parameters() if p.requires_grad]
        found.append([out, *torch.autograd.grad(out.sum(), (z, *parameters), allow_unused=True)])
    for got, want in zip(*found, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)


# (b) structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({}, {"Hits@100": 95, "AUC": 97}, {}), ({"pool": "none"}, {}, {"Hits@100": 30, "AUC": 65})],
    ids=["NCN", "without common neighbours"],
)
def test_structure(options: dict[str, Any], low: dict[str, float], high: dict[str, float]) -> None:
    """Points in a square with constant features: only common neighbours tell where links are."""
    data = random_geometric_graph(800, 0.075, seed=0)
    assert 11 < data.num_edges / 800 < 15
    task = LinkPredictionTask(NCNRandomLinkSplit(seed=0).split(data), 512, ("Hits@100", "AUC"))
    torch.manual_seed(0)
    model = LinkPredictor(PureGNN(1, 32), NCNDecoder(32, 32, **options))
    trainer = Trainer(12, device="cpu", progress=False)
    result = trainer.fit(model, task, torch.optim.Adam(model.parameters(), 0.005))
    for metric, bound in low.items():
        assert result.test(metric) >= bound
    for metric, bound in high.items():
        assert result.test(metric) < bound


# (c) bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [NCNDecoder(4, 8, 3), NCNCDecoder(4, 8), NCNCDecoder(4, 8, depth=2, chunk_size=2)])
@pytest.mark.parametrize("num_edges", [0, 10])
def test_no_pairs(decoder: NCNDecoder, num_edges: int) -> None:
    edges = simple_graph()[0][:, :num_edges]
    z = torch.randn(14, 4, requires_grad=True)
    out = decoder(z, edges, torch.zeros(2, 0, dtype=torch.long))
    assert out.shape == (0, decoder.out_channels)
    assert out.requires_grad
    out.sum().backward()
    assert not z.grad.any()


@pytest.mark.parametrize("cls", [NCNDecoder, NCNCDecoder])
@pytest.mark.parametrize(
    ("z", "edges", "pairs", "error", "message"),
    [
        (torch.ones(5, 4), GOLDEN, torch.tensor([[0], [9]]), IndexError, "edge_label_index holds node id 9"),
        (torch.ones(5, 4), GOLDEN, torch.tensor([[-2], [0]]), IndexError, "node id -2"),
        (torch.ones(4, 4), GOLDEN, torch.tensor([[0], [1]]), IndexError, "edge_index holds node id 4"),
        (torch.ones(5, 4), GOLDEN, torch.tensor([[0.0], [1.0]]), (TypeError, ValueError), "float32"),
        (torch.ones(5, 4), GOLDEN, torch.tensor([0, 1]), ValueError, r"shape \[2, num_pairs\] \(got \[2\]\)"),
        (
            torch.ones(5, 3),
            GOLDEN,
            torch.tensor([[0], [1]]),
            ValueError,
            r"z must have shape \[N, 4\] \(got \[5, 3\]\)",
        ),
        (torch.ones(3, 4), NeighborIndex(GOLDEN, 5), torch.tensor([[0], [1]]), ValueError, "5 nodes, the features 3"),
    ],
)
def test_bad_calls(cls: type[NCNDecoder], z: Tensor, edges: Any, pairs: Tensor, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        cls(4, 8)(z, edges, pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": -1},
        {"alpha": -0.1},
        {"alpha": 1.6},
        {"prior": 0.0},
        {"prior": -1.0},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"offset": float("nan")},
        {"max_neighbors": (0, None)},
        {"max_neighbors": (1,)},
        {"chunk_size": 0},
        {"completion_input": "raw"},
        {"out_channels": 2},
        {"pool": "none"},
        {"orders": ((1, 2),)},
    ],
    ids=str,
)
def test_bad_options_of_the_completion(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*"):
        NCNCDecoder(4, 8, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 0},
        {"hidden_channels": 0},
        {"out_channels": 0},
        {"dropout": 1.5},
        {"edge_dropout": -0.1},
        {"pool": "mean"},
        {"orders": ()},
        {"orders": ((2, 2),)},
        {"use_pair": False, "pool": "none"},
        {"use_residual": True, "pool": "none"},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*got|{next(iter(options))}"):
        NCNDecoder(**{"in_channels": 4, "hidden_channels": 8, **options})


def test_nothing_left_after_removal() -> None:
    split = NCNRandomLinkSplit(seed=0).split(random_geometric_graph(60, 0.25, seed=1))
    links = split.train_pos.size(1)
    with pytest.raises(ValueError, match=f"batch_size={links + 5} takes every training edge"):
        LinkPredictionTask(split, links + 5)
    assert LinkPredictionTask(split, links + 5, target_link_removal=False).num_batches() == 1


def test_networkx_graphs_come_in_unchanged() -> None:
    """Scores depend on the graph alone, whichever library made it."""
    data = random_geometric_graph(30, 0.3, seed=2)
    edges = torch.tensor(list(to_networkx(data, to_undirected=True).edges)).t()
    decoder, z, pairs = completed(), features(30, 6), all_pairs(30)
    same = logits_of(decoder, z, torch.cat([edges, edges.flip(0)], 1), pairs)
    assert torch.equal(logits_of(decoder, z, data.edge_index, pairs), same)
