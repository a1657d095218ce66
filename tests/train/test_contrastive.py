"""Contrastive losses against dense formulas, POT against its parts, and the task in the trainer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN
from torch_geometric.transforms import BaseTransform

from graphkit.datasets import IndexSplit
from graphkit.nn import GNN, GCNBoundPropagation, GCNEncoder, adjacency_bounds, contrast_vectors
from graphkit.train import (
    COSTA,
    GCA,
    GRACE,
    ContrastiveTask,
    NodeClassificationTask,
    POTLoss,
    ProGCL,
    Trainer,
    info_nce,
    linear_probe,
)
from graphkit.train.contrastive.costa import random_mixtures
from graphkit.train.contrastive.progcl import beta_mixture_log_odds
from graphkit.transforms import AdaptiveEdgeDrop, EdgeDrop
from graphkit.utils.seed import seed_everything

DOUBLE = torch.float64
SIZE = 40


def vectors(n: int = 13, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def dense_info_nce(u: Tensor, v: Tensor, tau: float, intra_view: bool = True) -> Tensor:
    """Node by node, as the paper writes it."""
    losses = []
    for a, b in ((u, v), (v, u)):
        for i in range(len(a)):
            negatives = [F.cosine_similarity(a[i], b[k], dim=0) for k in range(len(b))]
            if intra_view:
                negatives += [F.cosine_similarity(a[i], a[k], dim=0) for k in range(len(a)) if k != i]
            logit = torch.stack(negatives) / tau
            losses.append(torch.logsumexp(logit, 0) - logit[i])
    return torch.stack(losses).mean()


def two_groups(seed: int = 0, num_nodes: int = SIZE) -> Data:
    """Two dense groups with few links between them, and features that tell the group now and then."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(num_nodes) % 2
    ends = torch.randint(num_nodes, (2, 8 * num_nodes), generator=draw)
    same = y[ends[0]] == y[ends[1]]
    kept = (ends[0] < ends[1]) & (same | (torch.rand(same.shape, generator=draw) < 0.1))
    ends = ends[:, kept].unique(dim=1)
    x = 0.5 * torch.randn(num_nodes, 6, generator=draw)
    x[:, 0] += y
    return Data(x=x, edge_index=torch.cat([ends, ends.flip(0)], 1), y=y)


def split(num_nodes: int = SIZE) -> IndexSplit:
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(1))
    return IndexSplit(order[:10], order[10:20], order[20:])


def encoder(seed: int = 0, **options: Any) -> GCNEncoder:
    torch.manual_seed(seed)
    return GCNEncoder(6, out_channels=8, **options)


# InfoNCE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intra_view", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 4, 13, 50])
def test_blocks_give_the_loss_of_the_equation_and_its_gradient(intra_view: bool, chunk: int | None) -> None:
    u, v = vectors().requires_grad_(), vectors(seed=1).requires_grad_()
    loss = info_nce(u, v, 0.4, intra_view, chunk)
    expected = dense_info_nce(u, v, 0.4, intra_view)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(torch.autograd.grad(loss, [u, v]), torch.autograd.grad(expected, [u, v]), strict=True):
        torch.testing.assert_close(found, wanted)


def test_info_nce_by_finite_differences() -> None:
    u, v = vectors(7, 3).requires_grad_(), vectors(7, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, 0.3, chunk=3), (u, v))


def test_info_nce_by_hand() -> None:
    # Orthogonal nodes: the positive has similarity one, 2 (n - 1) negatives have zero.
    eye = torch.eye(4, dtype=DOUBLE)
    expected = -torch.log(torch.tensor(1 / (1 + 6 * torch.tensor(-2.0, dtype=DOUBLE).exp())))
    torch.testing.assert_close(info_nce(eye, 3 * eye, 0.5), expected)
    torch.testing.assert_close(info_nce(eye[:1], eye[:1], 0.5), torch.zeros((), dtype=DOUBLE))


def test_single_and_half_precision() -> None:
    u, v = vectors(300, 16), vectors(300, 16, 1)
    expected = info_nce(u, v, 0.1)
    torch.testing.assert_close(info_nce(u.float(), v.float(), 0.1).double(), expected, rtol=1e-5, atol=1e-5)
    assert info_nce(u.bfloat16(), v.bfloat16(), 0.1).dtype == torch.float32
    half = u.bfloat16().requires_grad_()
    info_nce(half, v.bfloat16(), 0.1).backward()
    assert half.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(u.float(), v.float(), 0.1).double(), expected, rtol=1e-5, atol=1e-5)


def test_low_temperatures_and_zero_vectors_stay_finite() -> None:
    u = vectors(20, 4)
    u[3] = 0
    u.requires_grad_()
    loss = info_nce(u.float(), -u.detach().float(), 0.03)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(u.grad.isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((vectors(3), vectors(4)), "one shape"),
        ((vectors(3)[0], vectors(3)[0]), "one shape"),
        ((vectors(3)[:0], vectors(3)[:0]), "one shape"),
        ((vectors(3), vectors(3), 0.0), "tau must be in"),
        ((vectors(3), vectors(3), 0.5, True, 0), "chunk must be in"),
    ],
)
def test_info_nce_input(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(*arguments)


# Methods -------------------------------------------------------------------------------------------------------------


def test_grace_projects_and_contrasts() -> None:
    model = GRACE(encoder(), 8, 5, tau=0.4)
    data = two_groups()
    view = EdgeDrop(0.3)(data)
    loss, z1, z2 = model(data.x, data.edge_index, other=(view.x, view.edge_index))
    torch.testing.assert_close(z1, model(data.x, data.edge_index))
    torch.testing.assert_close(z2, model.encoder(data.x, view.edge_index))
    first, second = model.head[0], model.head[2]
    u, v = (second(F.elu(first(z))) for z in (z1, z2))
    torch.testing.assert_close(loss, dense_info_nce(u, v, 0.4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.loss(z1, z2), loss)


def test_a_batch_is_a_random_sample_of_nodes() -> None:
    model, z1, z2 = GRACE(encoder(), 8, 5), vectors(30, 8).float(), vectors(30, 8, 1).float()
    torch.manual_seed(3)
    found = model.loss(z1, z2, batch_size=10)
    torch.manual_seed(3)
    nodes = torch.randperm(30)[:10].sort().values
    torch.testing.assert_close(found, model.loss(z1[nodes], z2[nodes]))
    torch.testing.assert_close(model.loss(z1, z2, batch_size=30), model.loss(z1, z2))
    with pytest.raises(ValueError, match="batch_size must be in"):
        model.loss(z1, z2, batch_size=1)


def test_every_method_says_how_its_views_are_drawn() -> None:
    net = encoder()
    assert [type(view) for view in GRACE(net, 8, 8).views(0.4, 0.3)] == [EdgeDrop, EdgeDrop]
    first, second = ProGCL(net, 8, 8, centrality="eigenvector").views(0.4, 0.3)
    assert isinstance(first, AdaptiveEdgeDrop)
    assert (first.p, second.p, first.centrality) == (0.4, 0.3, "eigenvector")
    with pytest.raises(ValueError, match="centrality must be one of"):
        GCA(net, 8, 8, centrality="betweenness")


def test_costa_mixes_both_views_with_one_matrix() -> None:
    z = vectors(11, 4)
    eye = random_mixtures(torch.eye(11, dtype=DOUBLE), 5, seed=3, block=2)
    torch.testing.assert_close(random_mixtures(z, 5, seed=3, block=2), eye @ z)
    model = COSTA(encoder(), 8, 5, tau=0.4, ratio=0.5)
    z1, z2 = vectors(12, 8).float(), vectors(12, 8, 1).float()
    torch.manual_seed(5)
    found = model.loss(z1, z2)
    torch.manual_seed(5)
    matrix = random_mixtures(torch.eye(12), 6, int(torch.randint(2**62, ())))
    u, v = model.head(matrix @ z1), model.head(matrix @ z2)
    torch.testing.assert_close(found, dense_info_nce(u, v, 0.4, intra_view=False), rtol=1e-4, atol=1e-4)


def test_mixtures_keep_the_covariance_and_have_their_gradient() -> None:
    z = vectors(50, 3)
    found = torch.stack([random_mixtures(z, 25, seed).t() @ random_mixtures(z, 25, seed) for seed in range(400)])
    expected = z.t() @ z
    assert float((found.mean(0) - expected).norm() / expected.norm()) < 0.05
    small = vectors(7, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: random_mixtures(a, 5, 1, block=2), (small,))
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
        COSTA(encoder(), 8, 5, ratio=0)


# ProGCL --------------------------------------------------------------------------------------------------------------


def test_the_mixture_finds_two_kinds() -> None:
    torch.manual_seed(0)
    low, high = torch.distributions.Beta(3.0, 12.0), torch.distributions.Beta(12.0, 3.0)
    x = torch.cat([low.sample((9000,)), high.sample((1000,))])
    a, b, c = beta_mixture_log_odds(x, 0.05, steps=50)
    likely = torch.sigmoid(c + a * x.log() + b * (1 - x).log())
    # Told apart as well as with the true densities, whose log odds are log 9 - 9 log x + 9 log (1 - x).
    best = torch.sigmoid(torch.tensor(9.0).log() - 9 * x.log() + 9 * (1 - x).log())
    right = [float(torch.cat([p[:9000] > 0.5, p[9000:] < 0.5]).double().mean()) for p in (likely, best)]
    assert right[0] > right[1] - 0.002 > 0.9
    assert float(likely.mean()) == pytest.approx(0.9, abs=0.01)


def progcl(start: int, mode: str = "weight", **options: Any) -> ProGCL:
    torch.manual_seed(0)
    return ProGCL(encoder(), 8, 5, 0.4, start=start, mode=mode, **options)


def test_before_the_start_it_is_gca_and_only_training_counts() -> None:
    model = progcl(start=3)
    plain = GCA(model.encoder, 8, 5, 0.4)
    plain.head = model.head
    z1, z2 = vectors(20, 8).float(), vectors(20, 8, 1).float()
    expected = plain.loss(z1, z2)
    model.eval()
    for _ in range(5):
        torch.testing.assert_close(model.loss(z1, z2), expected)
    model.train()
    torch.testing.assert_close(model.loss(z1, z2), expected)
    torch.testing.assert_close(model.loss(z1, z2), expected)
    assert float((model.loss(z1, z2) - expected).abs()) > 1e-4


@pytest.mark.parametrize("mode", ["weight", "mix"])
def test_weighted_losses_are_those_of_the_equation(mode: str, monkeypatch) -> None:
    monkeypatch.setattr("graphkit.train.contrastive.progcl.BLOCK", 4)
    model = progcl(start=1, mode=mode, mixed=5).double()
    z1, z2 = vectors(11, 8).requires_grad_(), vectors(11, 8, 1).requires_grad_()
    model.loss(z1, z2)  # fits
    odds = model.log_odds.clone()
    u, v = (F.normalize(model.head(z), dim=1) for z in (z1, z2))
    losses = []
    # All blocks mix with one permutation here, which is drawn anew for each otherwise.
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n).flip(0))
    for a, b in ((u, v), (v, u)):
        for i in range(11):
            others = [k for k in range(11) if k != i]
            between, within = (a[i] @ b[others].t()), (a[i] @ a[others].t())
            x = ((between.detach() + 1) / 2).clamp(1e-4, 1 - 1e-4)
            posterior = torch.sigmoid(odds[2] + odds[0] * x.log() + odds[1] * (1 - x).log())
            weight = posterior * (between.detach() + 1) / 2
            positive = a[i] @ b[i] / 0.4
            if mode == "weight":
                weight = weight / weight.mean()
                total = positive.exp() + (weight * ((between / 0.4).exp() + (within / 0.4).exp())).sum()
            else:
                hardest = weight.argsort(descending=True)[:5]
                s, w = between[hardest], weight[hardest]
                mixed = (s * w + s.flip(0) * w.flip(0)) / (w + w.flip(0))
                negatives = torch.cat([between, within, mixed])
                total = positive.exp() + (negatives / 0.4).exp().sum()
            losses.append(total.log() - positive)
    expected = torch.stack(losses).mean()
    found = model.loss(z1, z2)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, [z1, z2]), torch.autograd.grad(expected, [z1, z2]), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(model.log_odds, odds)


def test_progcls_count_and_fit_are_in_its_state() -> None:
    model, z1, z2 = progcl(start=2), vectors(20, 8).float(), vectors(20, 8, 1).float()
    model.loss(z1, z2)
    again = progcl(start=2)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.manual_seed(0)
    first = model.loss(z1, z2)
    torch.manual_seed(0)
    torch.testing.assert_close(again.loss(z1, z2), first)
    assert torch.equal(again.log_odds, model.log_odds)
    assert bool((model.log_odds != 0).any())
    third = progcl(start=2)
    third.load_state_dict(model.state_dict())
    torch.testing.assert_close(third.loss(z1, z2), model.loss(z1, z2))
    with pytest.raises(ValueError, match="mode must be one of weight, mix"):
        progcl(start=1, mode="both")


# POT -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["crown", "released"])
def test_pot_is_the_softplus_of_both_scores(bound: str) -> None:
    data, net = two_groups(), encoder()
    first, second = (adjacency_bounds(data.edge_index, SIZE, drop_rate=p) for p in (0.4, 0.3))
    pot = POTLoss(net, (first, second), bound=bound)
    view1, view2 = (EdgeDrop(p)(data).edge_index for p in (0.4, 0.3))
    z1, z2 = net(data.x, view1), net(data.x, view2)
    propagation = GCNBoundPropagation(net)
    one = propagation.score(data.x, view1, contrast_vectors(z2), first, bound)
    two = propagation.score(data.x, view2, contrast_vectors(z1), second, bound)
    expected = (torch.log1p(torch.exp(-one)).mean() + torch.log1p(torch.exp(-two)).mean()) / 2
    torch.testing.assert_close(pot(data.x, view1, view2, z1, z2), expected)


def test_gradient_reaches_the_reference_view_too() -> None:
    data, net = two_groups(), encoder()
    pot = POTLoss(net, adjacency_bounds(data.edge_index, SIZE, drop_rate=0.4))
    z1, z2 = (net(data.x, data.edge_index).detach().requires_grad_() for _ in range(2))
    pot(data.x, data.edge_index, data.edge_index, z1, z2).backward()
    assert float(z1.grad.abs().sum()) > 0
    assert float(z2.grad.abs().sum()) > 0


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_pot_by_finite_differences(activation: str) -> None:
    data = two_groups(num_nodes=8)
    torch.manual_seed(1)
    net = GCNEncoder(6, 5, 4, activation).double()
    for bias in (net.bias1, net.bias2):
        nn.init.normal_(bias, std=0.2)
    pot = POTLoss(net, adjacency_bounds(data.edge_index, 8, drop_rate=0.6))
    view, x = data.edge_index[:, 2:], data.x.double()
    names, weights = zip(*net.named_parameters(), strict=True)

    def loss(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))

        def apply() -> Tensor:
            z1, z2 = net(x, view), net(x, data.edge_index)
            return pot(x, view, data.edge_index, z1, z2)

        return _with_weights(net, parameters, apply)

    assert torch.autograd.gradcheck(loss, tuple(w.detach().clone().requires_grad_() for w in weights), eps=1e-7)


def _with_weights(module: nn.Module, weights: dict[str, Tensor], function: Any) -> Tensor:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self) -> Tensor:
            return function()

    return torch.func.functional_call(Calls(), {f"inner.{name}": value for name, value in weights.items()}, ())


def test_a_batch_is_bounded_in_its_own_graph() -> None:
    data, net = two_groups(), encoder()
    bounds = adjacency_bounds(data.edge_index, SIZE, drop_rate=0.4)
    view = EdgeDrop(0.4)(data).edge_index
    z = net(data.x, view)
    torch.manual_seed(2)
    found = POTLoss(net, bounds, batch_size=12)(data.x, view, view, z, z)
    torch.manual_seed(2)
    nodes = torch.randperm(SIZE)[:12].sort().values
    place = torch.full((SIZE,), -1)
    place[nodes] = torch.arange(12)
    inside = place[view][:, (place[view] >= 0).all(0)]
    w = contrast_vectors(z[nodes])
    score = GCNBoundPropagation(net).score(data.x[nodes], inside, w, bounds.induced(nodes))
    torch.testing.assert_close(found, F.softplus(-score).mean())


def test_pot_raises_the_bounds() -> None:
    """What the loss is for: with it alone, the certain contrast grows."""
    data, net = two_groups(), encoder()
    bounds = adjacency_bounds(data.edge_index, SIZE, drop_rate=0.3)
    pot, optimizer = POTLoss(net, bounds), torch.optim.Adam(net.parameters(), 0.01)
    propagation = GCNBoundPropagation(net)

    def compactness() -> float:
        w = contrast_vectors(net(data.x, data.edge_index))
        return float(propagation.score(data.x, data.edge_index, w, bounds).mean().detach())

    before = compactness()
    torch.manual_seed(0)
    for _ in range(30):
        view1, view2 = (EdgeDrop(0.3)(data).edge_index for _ in range(2))
        optimizer.zero_grad()
        pot(data.x, view1, view2, net(data.x, view1), net(data.x, view2)).backward()
        optimizer.step()
    assert compactness() > before + 0.1


def test_pot_input() -> None:
    data, net = two_groups(), encoder()
    bounds = adjacency_bounds(data.edge_index, SIZE, drop_rate=0.4)
    with pytest.raises(TypeError, match=r"encoder must be a graphkit\.nn\.GCNEncoder"):
        POTLoss(GCN(6, 8, 2), bounds)
    with pytest.raises(ValueError, match="bounds must be of one graph"):
        POTLoss(net, (bounds, adjacency_bounds(data.edge_index[:, 2:], SIZE, drop_rate=0.4)))
    with pytest.raises(ValueError, match="bound must be one of crown, released"):
        POTLoss(net, bounds, bound="exact")
    z = net(data.x, data.edge_index)
    other = torch.tensor([[0, 1], [1, 0]])
    few = POTLoss(net, adjacency_bounds(other, SIZE, drop_rate=0.4))
    with pytest.raises(ValueError, match="view has edges that bounds were not computed for"):
        few(data.x, data.edge_index, data.edge_index, z, z)


# The task ------------------------------------------------------------------------------------------------------------


def task(**options: Any) -> ContrastiveTask:
    return ContrastiveTask(two_groups(), split(), (EdgeDrop(0.4), EdgeDrop(0.3)), **{"probe_epochs": 40, **options})


def test_views_depend_on_seed_and_epoch_alone() -> None:
    made = task()
    (first,), (again,), (other,) = (list(made.batches(epoch)) for epoch in (3, 3, 4))
    assert torch.equal(first[0].edge_index, again[0].edge_index)
    assert not torch.equal(first[0].edge_index, other[0].edge_index)
    (reseeded,) = task(seed=1).batches(3)
    assert not torch.equal(first[0].edge_index, reseeded[0].edge_index)
    torch.manual_seed(0)
    before = torch.rand(())
    torch.manual_seed(0)
    list(made.batches(5))
    assert torch.rand(()) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: GCNEncoder(6, out_channels=8, activation="prelu"),
        lambda: GNN(6, 8, 2, conv="sage"),
        lambda: GCN(6, 8, 2),
        lambda: GAT(6, 8, 2, heads=2),
    ],
)
@pytest.mark.parametrize("method", [GRACE, GCA, COSTA, ProGCL])
def test_any_encoder_learns_without_labels(make, method) -> None:
    seed_everything(0)
    options = {"start": 2} if method is ProGCL else {}
    made, model = task(), method(make(), 8, 8, **options)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    result = Trainer(3, device="cpu", progress=False, eval_every=3).fit(model, made, optimizer)
    assert set(result.best) == {"Accuracy", "F1"}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_loss_weighs_contrast_and_pot() -> None:
    net = encoder()
    bounds = adjacency_bounds(two_groups().edge_index, SIZE, drop_rate=0.4)
    model, pot = GRACE(net, 8, 8), POTLoss(net, bounds)
    plain, both, alone = task(), task(pot=pot, kappa=0.3), task(pot=pot, kappa=1.0)
    (views,) = plain.batches(1)
    losses = [float(made.loss(model, next(made.batches(1)))) for made in (plain, both, alone)]
    assert losses[1] == pytest.approx(0.7 * losses[0] + 0.3 * losses[2], rel=1e-5)
    view1, view2 = (view.edge_index for view in views)
    x = two_groups().x
    assert losses[0] == pytest.approx(float(model.loss(net(x, view1), net(x, view2))), rel=1e-5)


def test_evaluation_is_the_probe_of_the_whole_graphs_vectors() -> None:
    made, model = task(), GRACE(encoder(), 8, 8)
    z = model(made.x, made.edge_index)
    expected = linear_probe(z, made.y, made.split, epochs=40)
    assert made.evaluate(model, "valid") == expected.valid
    assert made.evaluate(model, "test") == expected.test
    assert made.final_metrics(model) == {}
    assert made.histogram(model) == {}


def test_compactness_is_reported_where_there_are_bounds() -> None:
    net = encoder()
    bounds = adjacency_bounds(two_groups().edge_index, SIZE, drop_rate=0.2)
    made, model = task(bounds=bounds), GRACE(net, 8, 8)
    with torch.no_grad():
        z = net(made.x, made.edge_index)
        w = contrast_vectors(z)
        score = GCNBoundPropagation(net).score(made.x, made.edge_index, w, bounds)
    found = made.final_metrics(model)
    ids = made.split.test
    assert found["Compactness"]["test"] == pytest.approx(100 * float(score[ids].mean()), rel=1e-4)
    assert found["Unit compactness"]["test"] == pytest.approx(
        100 * float((score / z.norm(dim=1))[ids].mean()), rel=1e-4
    )
    certified = GCNBoundPropagation(net).certified(made.x, w, bounds)
    assert found["Certified"]["valid"] == pytest.approx(100 * float((certified[made.split.valid] > 0).double().mean()))
    bins = made.histogram(model)
    assert set(bins) == {"edges", "compactness", "certified"}
    assert len(bins["edges"]) == 41
    assert sum(bins["compactness"]) == pytest.approx(1, abs=1e-3)
    assert sum(bins["certified"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["GRACE", "ProGCL"])
def test_a_resumed_run_ends_as_one_that_never_stopped(method: str, tmp_path) -> None:
    def fit(epochs: int, folder: str, resume: bool) -> tuple[Any, nn.Module]:
        seed_everything(0)
        net = encoder()
        bounds = adjacency_bounds(two_groups().edge_index, SIZE, drop_rate=0.4)
        model = GRACE(net, 8, 8) if method == "GRACE" else ProGCL(net, 8, 8, start=3)
        made = task(pot=POTLoss(net, bounds, batch_size=20), batch_size=30)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        trainer = Trainer(epochs, device="cpu", progress=False, eval_every=2, folder=tmp_path / folder, resume=resume)
        return trainer.fit(model, made, optimizer), model

    whole, model = fit(6, "whole", False)
    fit(4, "parts", False)
    resumed, again = fit(6, "parts", True)
    assert resumed.best == whole.best
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    for name, weight in model.state_dict().items():
        if isinstance(weight, Tensor):
            assert torch.equal(weight, again.state_dict()[name]), name


class Doubled(BaseTransform):
    def forward(self, data: Data) -> Data:
        data.x = 2 * data.x
        return data


class Fewer(BaseTransform):
    def forward(self, data: Data) -> Data:
        return Data(x=data.x[:5], edge_index=data.edge_index[:, :0])


def test_views_may_change_features_and_pot_takes_each_view_with_its_own() -> None:
    net = encoder()
    pot = POTLoss(net, adjacency_bounds(two_groups().edge_index, SIZE, drop_rate=0.4))
    model, data = GRACE(net, 8, 8), two_groups()
    free = ContrastiveTask(data, split(), (Doubled(), EdgeDrop(0.2)))
    (views,) = free.batches(1)
    assert torch.equal(views[0].x, 2 * data.x)
    expected = model.loss(net(2 * data.x, data.edge_index), net(data.x, views[1].edge_index))
    torch.testing.assert_close(free.loss(model, views), expected)
    bounded = ContrastiveTask(data, split(), (Doubled(), EdgeDrop(0.2)), pot=pot, kappa=1.0)
    x, edges, fewer = data.x, views[0].edge_index, views[1].edge_index
    z1, z2 = net(2 * x, edges), net(x, fewer)
    score, bounds = GCNBoundPropagation(net).score, pot.bounds[0]
    wanted = (
        F.softplus(-score(2 * x, edges, contrast_vectors(z2), bounds)).mean(),
        F.softplus(-score(x, fewer, contrast_vectors(z1), bounds)).mean(),
    )
    torch.testing.assert_close(bounded.loss(model, views), (wanted[0] + wanted[1]) / 2)
    with pytest.raises(ValueError, match="views keep all nodes"):
        next(ContrastiveTask(data, split(), (Fewer(), EdgeDrop(0.2))).batches(1))


def test_pot_bounds_the_encoder_that_is_trained() -> None:
    made = task(pot=POTLoss(encoder(), adjacency_bounds(two_groups().edge_index, SIZE, drop_rate=0.4)))
    with pytest.raises(ValueError, match="pot bounds another encoder"):
        made.loss(GRACE(encoder(), 8, 8), next(made.batches(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": 1.5}, r"kappa must be in \[0, 1\]"),
        ({"kappa": -0.1}, r"kappa must be in \[0, 1\]"),
        ({"batch_size": 1}, "batch_size must be in"),
        ({"probe_epochs": 0}, "probe_epochs must be in"),
        ({"bounds": adjacency_bounds(torch.tensor([[0], [1]]), 2, drop_rate=0.1)}, "bounds are of 2 nodes"),
    ],
)
def test_task_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_more_task_input() -> None:
    data = two_groups()
    with pytest.raises(ValueError, match="views must hold two"):
        ContrastiveTask(data, split(), (EdgeDrop(0.1),))
    with pytest.raises(ValueError, match="data must have features"):
        ContrastiveTask(Data(edge_index=data.edge_index, y=data.y, num_nodes=SIZE), split(), (EdgeDrop(0.1),) * 2)
    bounded = task(bounds=adjacency_bounds(data.edge_index, SIZE, drop_rate=0.1))
    with pytest.raises(TypeError, match=r"encoder must be a graphkit\.nn\.GCNEncoder"):
        bounded.final_metrics(GRACE(GCN(6, 8, 2), 8, 8))
    assert isinstance(task(), NodeClassificationTask)
