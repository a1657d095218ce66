"""Hopfield retrieval against its theory, its limits and PyTorch's attention; a memory of real digits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphkit.datasets import load
from graphkit.nn import Hopfield, HopfieldConv, HopfieldMemory, HopfieldPooling
from graphkit.nn.mixer.hopfield import hopfield_energy, hopfield_retrieve, hopfield_separation, metastable_size


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_retrieval_increases_the_energy():
    for seed in range(20):
        stored, state = random(7, 5, seed=seed), random(3, 5, seed=99 + seed)
        beta = float(random(1, seed=seed).exp())
        for _ in range(5):
            before = hopfield_energy(state, stored, beta)
            state, _ = hopfield_retrieve(state, stored, beta)
            assert bool((hopfield_energy(state, stored, beta) <= before + 1e-12).all())


def test_limits_of_the_temperature():
    stored, state = random(6, 4), random(2, 4, seed=1)
    cold, _ = hopfield_retrieve(state, stored, beta=1e6)
    torch.testing.assert_close(cold, stored[(state @ stored.T).argmax(1)])
    hot, weight = hopfield_retrieve(state, stored, beta=1e-9)
    torch.testing.assert_close(hot, stored.mean(0).expand(2, -1), atol=1e-7, rtol=0)
    assert metastable_size(weight).tolist() == [6, 6]


def test_one_retrieval_recalls_well_separated_patterns():
    stored = random(40, 64)
    stored = 8 * stored / stored.norm(dim=1, keepdim=True)
    noisy = stored + 0.5 * random(40, 64, seed=1) / 8
    found, _ = hopfield_retrieve(noisy, stored, beta=1.0)
    torch.testing.assert_close(found, stored, atol=1e-6, rtol=0)


def test_a_state_stops_by_itself_whatever_its_neighbours_do():
    stored, state = random(6, 4), random(5, 4, seed=1)
    together, _ = hopfield_retrieve(state, stored, 0.7, steps=8, tol=1e-2)
    alone = torch.cat([hopfield_retrieve(row[None], stored, 0.7, steps=8, tol=1e-2)[0] for row in state])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, hopfield_retrieve(state, stored, 0.7, steps=8)[0])


def test_without_steps_it_is_attention():
    ours = Hopfield(6, hidden_channels=3, heads=2).double().eval()
    theirs = nn.MultiheadAttention(6, 2, batch_first=True).double()
    part = ours.association
    for norm in (part.state_norm, part.stored_norm, part.value_norm):
        norm.eps = 0.0
    theirs.in_proj_weight.data = torch.cat([part.lin_state.weight, part.lin_stored.weight, part.lin_value.weight]).data
    theirs.in_proj_bias.data.zero_()
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = part.lin_out.weight.data, part.lin_out.bias.data
    x = random(7, 6)
    z = nn.functional.layer_norm(x, (6,), eps=0.0)[None]
    torch.testing.assert_close(ours(x), theirs(z, z, z)[0][0])
    torch.testing.assert_close(ours.train()(x), ours.eval()(x))


def test_a_temperature_for_each_head_is_the_heads_one_by_one():
    both = Hopfield(6, hidden_channels=3, heads=2, beta=[0.3, 2.0], steps=2).double()
    x = random(5, 6)
    total = both.association.lin_out.bias.expand(5, -1)
    for head, beta in enumerate([0.3, 2.0]):
        one = Hopfield(6, hidden_channels=3, heads=1, beta=beta, steps=2).double()
        span = slice(3 * head, 3 * head + 3)
        for name in ("lin_state", "lin_stored", "lin_value"):
            getattr(one.association, name).weight.data = getattr(both.association, name).weight.data[span]
        one.association.lin_out.weight.data = both.association.lin_out.weight.data[:, span]
        total = total + one(x)
    torch.testing.assert_close(both(x), total)


def test_pooling_depends_on_its_graph_alone_and_copes_with_empty_ones():
    pool = HopfieldPooling(4, 3, queries=2, steps=3).double()
    x = random(6, 4)
    index = torch.tensor([0, 0, 0, 2, 2, 2])
    out = pool(x, index)
    assert out.shape == (3, 6)
    assert bool((out[1] == 0).all())
    torch.testing.assert_close(out[2:], pool(x[3:], torch.zeros(3, dtype=torch.long)))
    torch.testing.assert_close(pool(x[[2, 0, 1, 5, 4, 3]], index), out)
    assert pool(x[:0], torch.zeros(0, dtype=torch.long), dim_size=2).tolist() == [[0.0] * 6] * 2


def test_memory_is_a_look_up_in_its_patterns():
    memory = HopfieldMemory(4, 4, num_patterns=5, hidden_channels=4, heads=1, beta=1e4).double().eval()
    part = memory.association
    for norm in (part.state_norm, part.stored_norm, part.value_norm):
        norm.eps = 0.0
    for linear in (part.lin_state, part.lin_stored, part.lin_value, part.lin_out):
        nn.init.eye_(linear.weight)
    patterns = random(5, 4)
    memory.init_from(patterns)
    torch.testing.assert_close(memory(patterns), nn.functional.layer_norm(patterns, (4,), eps=0.0))
    with pytest.raises(ValueError, match="a row a pattern"):
        memory.init_from(patterns[:2])


def test_patterns_and_their_mixtures_are_fixed_points():
    """Well separated patterns are recalled each by itself, patterns alike as their mean; there the energy is flat."""
    apart = 8 * nn.functional.normalize(random(6, 32), dim=1)
    near = apart[:1] + 0.05 * random(3, 32, seed=1)
    stored = torch.cat([near, apart[1:]])
    assert bool((hopfield_separation(apart) > 20).all())
    for start, wanted, size in ((near[0], near.mean(0), 3), (apart[3], apart[3], 1)):
        state, weight = hopfield_retrieve(start[None], stored, beta=1.0, steps=500)
        again, _ = hopfield_retrieve(state, stored, beta=1.0)
        torch.testing.assert_close(again, state, atol=1e-9, rtol=0)
        assert float((state - wanted).norm()) < 0.2
        assert metastable_size(weight).tolist() == [size]
        point = state.requires_grad_()
        (slope,) = torch.autograd.grad(hopfield_energy(point, stored).sum(), point)
        assert float(slope.norm()) < 1e-8


def test_a_retrieval_is_a_step_down_the_energy():
    """The gradient of the energy is the state less what is retrieved."""
    stored, state = random(7, 5), random(3, 5, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(hopfield_energy(state, stored, 0.7).sum(), state)
    torch.testing.assert_close(slope, state - hopfield_retrieve(state, stored, 0.7)[0])


def test_separation_is_a_loop_over_patterns():
    stored = random(5, 3)
    for i, found in enumerate(hopfield_separation(stored)):
        x = stored[i]
        assert float(found) == pytest.approx(min(float(x @ x - x @ stored[j]) for j in range(5) if j != i))
    with pytest.raises(ValueError, match="at least two patterns"):
        hopfield_separation(stored[:1])


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_error_of_one_retrieval_is_below_its_bound(beta):
    """2 exp(-beta (separation - 2 M distance)) (N - 1) M, from the paper's theory (recalled, not checked there)."""
    stored = 8 * nn.functional.normalize(random(20, 64), dim=1)
    state = stored + 0.02 * random(20, 64, seed=1)
    found, _ = hopfield_retrieve(state, stored, beta)
    fixed, _ = hopfield_retrieve(stored, stored, beta, steps=200)
    away = torch.maximum((state - stored).norm(dim=1), (fixed - stored).norm(dim=1))
    bound = 2 * torch.exp(-beta * (hopfield_separation(stored) - 2 * 8 * away)) * 19 * 8
    assert bool((bound < 64).all())  # it says something
    assert bool(((found - stored).norm(dim=1) <= bound + 1e-12).all())


def test_capacity_grows_with_the_dimension():
    """A classical network with sign units holds 0.14 d patterns; this one holds far more than d."""
    for d, count in ((16, 40), (32, 400)):
        stored = random(count, d).sign()
        noisy = stored.clone()
        noisy[:, 0] *= -1
        found, _ = hopfield_retrieve(noisy, stored, beta=2.0)
        recalled = float((found.sign() == stored).all(1).double().mean())
        weight = stored.T @ stored - count * torch.eye(d, dtype=torch.float64)
        classical = float(((stored @ weight).sign() == stored).all(1).double().mean())
        assert recalled > 0.95
        assert classical < 0.1


# Along edges ----------------------------------------------------------------------------------------------------------


def same_weights(heads: int = 2, **options):
    torch.manual_seed(0)
    dense = Hopfield(6, 3, heads, out_channels=5, **options).double()
    edges = HopfieldConv(6, 5, 3, heads, **options).double()
    with torch.no_grad():
        for weight in dense.parameters():
            weight.add_(torch.randn_like(weight))  # scores far from zero
    edges.load_state_dict(dense.state_dict())
    return dense, edges


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("beta", [None, 2.0, [0.3, 2.0]])
def test_on_complete_graphs_the_edges_are_the_dense_layer(steps, beta):
    dense, edges = same_weights(steps=steps, beta=beta)
    x, ptr = random(7, 6), torch.tensor([0, 3, 7])
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    edge_index = (batch[:, None] == batch).nonzero().t()
    torch.testing.assert_close(edges(x, edge_index), dense(x, ptr))
    # The order of the edges makes no difference.
    torch.testing.assert_close(edges(x, edge_index[:, torch.randperm(25)]), dense(x, ptr))


@pytest.mark.parametrize("steps", [0, 2])
def test_on_stars_the_centre_pools_the_leaves(steps):
    """What a node gets is a dense retrieval among the nodes that it has edges from."""
    _, edges = same_weights(steps=steps)
    x = random(6, 6)
    out = edges(x, torch.tensor([[1, 2, 3], [0, 0, 4]]))
    part = edges.association
    for node, leaves in ((0, [1, 2]), (4, [3])):
        torch.testing.assert_close(out[node], part(x[None, [node]], x[None, leaves], None)[0, 0])
    for alone in (1, 2, 3, 5):
        torch.testing.assert_close(out[alone], part.lin_out.bias)


def test_a_memory_of_labels_is_nearest_neighbours():
    memory = HopfieldMemory(4, 3, num_patterns=6, hidden_channels=4, heads=1, beta=1e4, targets=True).double()
    part = memory.association
    for linear in (part.lin_state, part.lin_stored):
        nn.init.eye_(linear.weight)
    patterns, y = random(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    memory.init_from(patterns, y)
    torch.testing.assert_close(memory(patterns + 1e-3 * random(6, 4)), nn.functional.one_hot(y, 3).double())
    memory.init_from(patterns, random(6, 3))
    torch.testing.assert_close(memory(patterns), random(6, 3))
    memory.association.beta.fill_(1e-9)
    torch.testing.assert_close(memory(patterns), random(6, 3).mean(0).expand(6, -1))
    before = memory.targets.clone()
    memory.reset_parameters()
    assert not torch.equal(memory.targets, before)
    memory(patterns).sum().backward()
    assert all(p.grad is not None for p in memory.parameters())


@pytest.mark.parametrize(("count", "once", "thrice"), [(50, 0.94, 0.94), (200, 0.815, 0.855), (500, 0.74, 0.80)])
def test_half_erased_digits_are_recalled(count, once, thrice):
    """No training: the share of the first images that come back whole, as an independent check of this memory found."""
    images = load("digits").data.x[:count].double()
    stored = images - images.mean(0)
    stored = 8 * stored / stored.norm(dim=1, keepdim=True)
    half = stored.clone()
    half[:, 32:] = 0
    for steps, wanted in ((1, once), (3, thrice)):
        found, _ = hopfield_retrieve(half, stored, beta=4.0, steps=steps)
        share = float(((found - stored).norm(dim=1) < 0.8).double().mean())
        assert abs(share - wanted) <= 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hopfield_retrieve(random(1, 2), random(2, 2), beta=0.0), "beta must be in"),
        (lambda: hopfield_retrieve(random(1, 2), random(2, 2), steps=0), "steps must be in"),
        (lambda: Hopfield(4, heads=2, beta=[1.0, 1.0, 1.0]), "one for each of the 2 heads"),
        (lambda: Hopfield(4, steps=-1), "steps must be in"),
        (lambda: HopfieldPooling(4, 2)(random(3, 4).float(), torch.tensor([1, 0, 0])), "index must be ascending"),
        (
            lambda: HopfieldPooling(4, 2)(random(3, 4).float(), torch.tensor([-1, 0, 0])),
            "index must be ascending from 0",
        ),
        (lambda: HopfieldPooling(4, 2)(random(3, 4).float(), torch.tensor([0, 0])), "one for each of 3 rows"),
        (lambda: Hopfield(4, beta=float("nan")), "beta must be in"),
        (lambda: hopfield_retrieve(random(1, 2), random(2, 3)), "must have one width"),
        (lambda: hopfield_retrieve(random(1, 2), random(2, 2), values=random(3, 2)), "values a row a pattern"),
        (lambda: hopfield_retrieve(random(1, 2), random(2, 2), mask=torch.ones(4, 1, 2).bool()), "mask must broadcast"),
        (lambda: HopfieldMemory(4, 2, 3).init_from(random(3, 4) * torch.nan), "x holds nan"),
        (lambda: HopfieldMemory(4, 2, num_patterns=0), "num_patterns must be"),
        (lambda: HopfieldMemory(4, 2, 3).init_from(random(3, 4), random(3, 2)), "needs a memory with targets=True"),
        (lambda: HopfieldMemory(4, 2, 3, targets=True).init_from(random(3, 4), random(3, 1)), "y must have shape"),
        (lambda: HopfieldMemory(4, 2, 3, targets=True).init_from(random(3, 4), torch.arange(3)), "classes in"),
        (lambda: HopfieldConv(4, 2)(random(3, 5), torch.zeros(2, 0).long()), r"x must have shape \[N, 4\]"),
        (lambda: HopfieldMemory(4, 2, num_patterns=3)(random(2, 5)), r"x must have shape \[N, 4\]"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_masks_are_bool():
    with pytest.raises(TypeError, match="mask must be bool"):
        hopfield_retrieve(random(1, 2), random(3, 2), mask=torch.ones(1, 3))
