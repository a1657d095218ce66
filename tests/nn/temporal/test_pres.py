"""PRES: statistics against numpy, linear motion, gamma = 1, gradients, Kalman weights, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphkit.nn.temporal.memory_dgnn import MemoryDGNN
from graphkit.nn.temporal.pres import PredictCorrectFilter, memory_coherence_loss

NODES, DIM = 6, 3


def updates(number: int, seed: int) -> list[tuple[int, int, int, Tensor]]:
    """Random updates of single nodes: (node, component, gap, memory after)."""
    rng = np.random.default_rng(seed)
    integers = np.stack([rng.integers(high, size=number) for high in (NODES, 2, 50)], axis=1).tolist()
    return [(*row, torch.from_numpy(rng.normal(size=DIM))) for row in integers]


def feed(pres: PredictCorrectFilter, events: list, batch: int) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Track the updates, ``batch`` at a time at most (a node only once in each); the rates that should count."""
    memory, seen, rates = torch.zeros(NODES, DIM, dtype=torch.float64), set(), {node: [] for node in range(NODES)}
    while events:
        size = 1
        while size < min(batch, len(events)) and events[size][0] not in {event[0] for event in events[:size]}:
            size += 1
        rows, events = events[:size], events[size:]
        node, component, gap = (torch.tensor([row[place] for row in rows]) for place in range(3))
        new = torch.stack([row[3] for row in rows])
        pres.track(node, memory[node], new, gap, component)
        for i, (v, j, dt, _) in enumerate(rows):
            if v in seen and dt > 0:
                rates[v].append((j, ((new[i] - memory[v]) / dt).numpy()))
            seen.add(v)
        memory[node] = new
    return rates


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, NODES))
def test_statistics(seed: int, batch: int) -> None:
    """Mean and variance are numpy's over the recorded rates, whatever the batches."""
    pres = PredictCorrectFilter(NODES, DIM)
    rates = feed(pres, updates(60, seed), batch)
    mean, var = pres.mean_var(torch.arange(NODES))
    assert mean.shape == var.shape == (NODES, 2, DIM)
    for node, recorded in rates.items():
        for component in range(2):
            want = np.array([rate for j, rate in recorded if j == component]).reshape(-1, DIM)
            assert int(pres.count[node, component]) == len(want)
            want = want if len(want) else np.zeros((1, DIM))
            np.testing.assert_allclose(mean[node, component], want.mean(0), atol=1e-12)
            np.testing.assert_allclose(var[node, component], want.var(0), atol=1e-12)


def test_mixture_mean() -> None:
    """The prediction moves at sum_j pi_j mu_j."""
    pres = PredictCorrectFilter(NODES, DIM, horizon_cap=None)
    feed(pres, updates(80, 0), 4)
    node = torch.arange(NODES)
    count, (mean, _) = pres.count.double(), pres.mean_var(node)
    assert bool((count > 0).all())
    rate = (count / count.sum(1, keepdim=True)).unsqueeze(-1).mul(mean).sum(1)
    old, dt = torch.randn(NODES, DIM, dtype=torch.float64), torch.arange(NODES)
    torch.testing.assert_close(pres.predict(node, old, dt), old + dt[:, None] * rate)


def test_clusters_share() -> None:
    cluster = torch.tensor([0, 1, 0, 1, 1, 0])
    pres, whole = PredictCorrectFilter(NODES, DIM, anchors=cluster), PredictCorrectFilter(NODES, DIM)
    events = updates(60, 1)
    feed(pres, events, 3)
    feed(whole, events, 3)
    assert pres.rate_sum.shape == (2, 2, DIM)
    for name in ("count", "rate_sum", "rate_square", "inverse_gap"):
        value = getattr(whole, name)
        want = torch.zeros_like(value[:2]).index_add_(0, cluster, value)
        torch.testing.assert_close(getattr(pres, name), want)
    assert PredictCorrectFilter(5, DIM, anchors=2).cluster.tolist() == [0, 1, 0, 1, 0]


def test_cluster_does_not_predict_a_first_update() -> None:
    pres = PredictCorrectFilter(NODES, DIM, anchors=1, gamma=0.0)
    feed(pres, [event for event in updates(60, 2) if event[0] != 5], 1)
    new = torch.randn(2, DIM, dtype=torch.float64)
    got = pres.correct(torch.tensor([5, 0]), torch.zeros_like(new), new, torch.tensor([9, 9]))
    assert torch.equal(got[0], new[0])
    assert not torch.isclose(got[1], new[1]).any()


@pytest.mark.parametrize("gaps", [[4, 4, 4, 4], [5, 1, 30, 2]])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, "learned", "kalman"])
def test_linear_motion(gaps: list[int], gamma: str | float) -> None:
    """After two updates the prediction is exact; with an exact computed memory so is the blend, for any gamma."""
    cap = 1.0 if len(set(gaps)) == 1 else None
    pres = PredictCorrectFilter(NODES, DIM, gamma=gamma, horizon_cap=cap).double()
    node = torch.tensor([4, 2])
    start, slope = torch.randn(2, 2, DIM, dtype=torch.float64)
    s, t = torch.zeros(2, DIM, dtype=torch.float64), 0
    for step, gap in enumerate(gaps):
        dt, t = torch.tensor([gap, gap]), t + gap
        exact = start + t * slope
        if step >= 2:
            torch.testing.assert_close(pres.predict(node, s, dt), exact, atol=1e-12, rtol=0)
        bar = pres.correct(node, s, exact, dt).detach()
        torch.testing.assert_close(bar, exact, atol=1e-12, rtol=0)
        pres.track(node, s, bar, dt, step % 2, s_new=exact)
        s = bar
    assert pres.num_updates.tolist() == [0, 0, 4, 0, 4, 0]


def test_horizon() -> None:
    """A prediction over a long gap moves by a weighted mean of past changes, at cap 1."""
    pres = PredictCorrectFilter(1, 1, components=1)
    node, changes, gaps = torch.tensor([0]), [0.0, 2.0, -1.0, 0.5], [7, 1, 10, 100]
    s = torch.zeros(1, 1, dtype=torch.float64)
    for change, gap in zip(changes, gaps, strict=True):
        pres.track(node, s, s + change, torch.tensor([gap]), 0)
        s = s + change
    weight = 1 / np.array(gaps[1:])
    far = pres.predict(node, s, torch.tensor([10**9]))
    assert float(far - s) == pytest.approx((weight * changes[1:]).sum() / weight.sum())
    near = pres.predict(node, s, torch.tensor([1]))
    assert float(near - s) == pytest.approx((weight * changes[1:]).mean())


def test_gamma_one_is_the_plain_model() -> None:
    """Memories, loss and gradients are equal bit for bit, whatever was tracked before."""

    def run(pres: PredictCorrectFilter | None) -> list[Tensor]:
        torch.manual_seed(0)
        cell, memory = nn.GRUCell(DIM, DIM), torch.zeros(NODES, DIM)
        out = []
        for step in range(4):
            node, dt = torch.randperm(NODES)[:4], torch.randint(1, 9, (4,))
            old = memory[node]
            new = cell(torch.randn(4, DIM), old)
            if pres is not None:
                computed, new = new, pres.correct(node, old, new, dt)
                pres.track(node, old, new, dt, step % 2, s_new=computed)
            loss = new.square().sum()
            out += [new.detach(), loss.detach(), *torch.autograd.grad(loss, list(cell.parameters()))]
            memory[node] = new.detach()
        return out

    pres = PredictCorrectFilter(NODES, DIM, gamma=1.0)
    feed(pres, updates(30, 3), 3)
    assert all(torch.equal(a, b) for a, b in zip(run(None), run(pres), strict=True))
    assert not list(pres.parameters())
    blended = PredictCorrectFilter(NODES, DIM, gamma=0.9)
    assert not all(torch.equal(a, b) for a, b in zip(run(None), run(blended), strict=True))


def test_blend_and_gradients() -> None:
    pres = PredictCorrectFilter(NODES, DIM, init_gamma=0.7).double()
    feed(pres, updates(80, 4), 3)
    node, dt = torch.arange(NODES), torch.arange(1, NODES + 1)
    old, new = torch.randn(2, NODES, DIM, dtype=torch.float64).requires_grad_().unbind()
    bar = pres.correct(node, old, new, dt)
    torch.testing.assert_close(bar, 0.7 * new + 0.3 * pres.predict(node, old, dt))
    pres.track(node, old, bar, dt)  # statistics may change before the backward pass
    (gradient,) = torch.autograd.grad((bar * torch.arange(DIM)).sum(), pres.parameters())
    want = ((new - pres_prediction(pres, bar, new)) * torch.arange(DIM)).sum() * 0.7 * 0.3
    torch.testing.assert_close(gradient, want)
    assert not any(value.requires_grad for _, value in pres.named_state())


def pres_prediction(pres: PredictCorrectFilter, bar: Tensor, new: Tensor) -> Tensor:
    """Solve the blend for the prediction that went into it."""
    return (bar - 0.7 * new) / 0.3


def test_correct_changes_no_state_and_repeats_agree() -> None:
    pres = PredictCorrectFilter(NODES, DIM)
    feed(pres, updates(50, 5), 2)
    before = pres.snapshot()
    node, dt = torch.tensor([3, 1, 3]), torch.tensor([5, 6, 5])
    old, new = torch.randn(2, 3, DIM)
    old[2], new[2] = old[0], new[0]
    got = pres.correct(node, old, new, dt)
    assert torch.equal(got[0], got[2])
    assert all(torch.equal(before[name], value) for name, value in pres.named_state())


def test_mask() -> None:
    """Masked rows leave no trace, repeated nodes and NaN included."""
    masked, plain = PredictCorrectFilter(NODES, DIM), PredictCorrectFilter(NODES, DIM)
    for step in range(5):
        node, dt = torch.tensor([2, 2, 4, 0]), torch.tensor([3, 8, 1, 2])
        old, new = torch.randn(2, 4, DIM)
        keep = torch.tensor([False, True, True, False])
        plain.track(node[keep], old[keep], new[keep], dt[keep], step % 2)
        new[3] = math.nan
        masked.track(node, old, new, dt, step % 2, mask=keep)
    for (name, want), (_, got) in zip(plain.named_state(), masked.named_state(), strict=True):
        torch.testing.assert_close(got, want, msg=name)


def test_kalman() -> None:
    """gamma = v / (v + r), from the rates and errors of one node written out."""
    torch.manual_seed(0)
    pres = PredictCorrectFilter(1, 1, gamma="kalman", horizon_cap=None)
    node, s, rates, errors = torch.tensor([0]), torch.zeros(1, 1, dtype=torch.float64), [], []
    for step in range(12):
        dt = int(torch.randint(1, 6, ()))
        new = s + torch.randn(1, 1, dtype=torch.float64)
        gamma = 1.0
        predicted = float(s) + dt * np.mean(rates) if rates else None
        if errors:
            v, r = dt**2 * np.var(rates), np.mean(np.square(errors))
            gamma = v / (v + r)
        bar = pres.correct(node, s, new, torch.tensor([dt]))
        if predicted is None:
            assert torch.equal(bar, new)
        else:
            assert float(bar) == pytest.approx(gamma * float(new) + (1 - gamma) * predicted)
            errors.append(float(new) - predicted)
        pres.track(node, s, bar, torch.tensor([dt]), s_new=new)
        if step > 0:
            rates.append(float(bar - s) / dt)
        s = bar
    assert 0 < gamma < 1


def test_reset_and_snapshot() -> None:
    pres = PredictCorrectFilter(NODES, DIM, gamma="kalman", anchors=2)
    empty = pres.snapshot()
    node, dt = torch.tensor([3, 1]), torch.tensor([5, 6])
    for _ in range(3):
        old, new = torch.randn(2, 2, DIM)
        pres.track(node, old, new, dt, 1, s_new=new)
    full = pres.snapshot()
    assert all(bool(value.any()) for value in full.values())
    pres.reset_state()
    assert all(torch.equal(empty[name], value) for name, value in pres.named_state())
    assert pres.cluster.tolist() == [0, 1, 0, 1, 0, 1]
    pres.load_snapshot(full)
    assert all(torch.equal(full[name], value) for name, value in pres.named_state())
    pres = PredictCorrectFilter(NODES, DIM, init_gamma=0.25)
    nn.init.zeros_(pres.gamma_logit)
    pres.reset_parameters()
    assert torch.sigmoid(pres.gamma_logit).item() == pytest.approx(0.25)


def test_coherence_loss() -> None:
    torch.manual_seed(0)
    old = torch.randn(7, DIM, dtype=torch.float64)
    old[2] = 0
    new = torch.randn(7, DIM, dtype=torch.float64, requires_grad=True)
    kept = [i for i in range(7) if i != 2]
    turned = [1 - (new[i] @ old[i]).item() / (new[i].norm() * old[i].norm()).item() for i in range(7) if i in kept]
    assert memory_coherence_loss(new, old).item() == pytest.approx(np.mean(turned))
    weight = torch.tensor([1.0, 2, 5, 0, 0.5, 1, 0])
    assert memory_coherence_loss(new, old, weight).item() == pytest.approx(
        np.average(turned, weights=weight[kept].numpy())
    )
    assert memory_coherence_loss(new, old, weight > 0).item() == pytest.approx(
        np.average(turned, weights=(weight[kept] > 0).numpy())
    )
    old.requires_grad_()
    loss = memory_coherence_loss(new, old, weight)
    loss.backward()
    assert old.grad is None
    assert [bool(row.any()) for row in new.grad] == [True, True, False, False, True, True, False]
    assert torch.autograd.gradcheck(lambda x: memory_coherence_loss(x, old), new)


def test_coherence_of_nothing() -> None:
    new = torch.zeros(2, DIM, requires_grad=True)
    for old, weight in ((torch.zeros(2, DIM), None), (torch.ones(2, DIM), torch.zeros(2))):
        new.grad = None
        loss = memory_coherence_loss(new, old, weight)
        loss.backward()
        assert float(loss) == 0
        assert not new.grad.any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\] \(got 1.5\)"),
        ({"gamma": "kalmann"}, "gamma must be 'learned', 'kalman'"),
        ({"init_gamma": 1}, "init_gamma"),
        ({"init_gamma": 0}, "init_gamma"),
        ({"components": 0}, "components"),
        ({"memory_dim": 0}, "memory_dim"),
        ({"num_nodes": 0}, "num_nodes"),
        ({"horizon_cap": 0}, "horizon_cap"),
        ({"anchors": 7}, "anchors"),
        ({"anchors": torch.zeros(5, dtype=torch.int64)}, r"anchors must be an int64 tensor \[6\]"),
        ({"anchors": torch.full((NODES,), -1)}, "anchors must not be negative"),
    ],
)
def test_bad_settings(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        PredictCorrectFilter(**{"num_nodes": NODES, "memory_dim": DIM, **arguments})


def test_bad_batches() -> None:
    pres = PredictCorrectFilter(NODES, DIM, gamma="kalman")
    node, s, dt = torch.tensor([0, 5]), torch.zeros(2, DIM), torch.tensor([1, 1])
    with pytest.raises(ValueError, match="track needs s_new"):
        pres.track(node, s, s, dt)
    pres.track(node, s, s, torch.tensor([-4, -4]), s_new=s)  # nothing to count from yet
    with pytest.raises(ValueError, match=r"dt must not be negative \(got -2 for node 5, at place 1\)"):
        pres.track(node, s, s, torch.tensor([1, -2]), s_new=s)
    with pytest.raises(ValueError, match="dt must not be negative"):
        pres.correct(node, s, s, torch.tensor([-1, 2]))
    with pytest.raises(IndexError, match=r"node id 6, outside \[0, 6\)"):
        pres.predict(torch.tensor([0, 6]), s, dt)
    with pytest.raises(ValueError, match=r"s_new must have shape \[2, 3\] \(got \[2, 4\]\)"):
        pres.correct(node, s, torch.zeros(2, 4), dt)
    with pytest.raises(ValueError, match="vectors of one length"):
        pres.predict(node, s, dt[:1])
    with pytest.raises(IndexError, match=r"component 2 is outside \[0, 2\)"):
        pres.track(node, s, s, dt, torch.tensor([0, 2]), s_new=s)
    with pytest.raises(IndexError, match="component -1"):
        pres.track(node, s, s, dt, -1, s_new=s)
    with pytest.raises(ValueError, match=r"component must have shape \[2\]"):
        pres.track(node, s, s, dt, torch.tensor([0]), s_new=s)
    with pytest.raises(ValueError, match="one shape"):
        memory_coherence_loss(s, s[:1])
    with pytest.raises(ValueError, match=r"weight must have shape \[2\]"):
        memory_coherence_loss(s, s, torch.ones(3))


def train(kind: str, pres: PredictCorrectFilter | None, beta: float) -> list[Tensor]:
    """Scores, losses and gradients of a few steps of a whole model, then its parameters."""
    torch.manual_seed(0)
    nodes, events, batch = 12, 120, 20
    src, dst = torch.randint(nodes, (2, events))
    t, neg = torch.randint(500, (events,)).sort().values, torch.randint(nodes, (events, 1))
    msg = torch.randn(events, 2)
    model = MemoryDGNN(nodes, 2, kind, DIM * 2, DIM * 2, DIM * 2, pres=pres, beta=beta)
    # What the filter adds must not shift the other weights.
    own = [p for name, p in model.named_parameters() if not name.endswith("gamma_logit")]
    torch.manual_seed(1)
    for parameter in own:
        nn.init.normal_(parameter, std=0.3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.eval()  # no dropout
    out = []
    for e_id in torch.arange(events).split(batch):
        candidates = torch.cat([dst[e_id, None], neg[e_id]], 1)
        score = model(src[e_id], candidates, t[e_id], msg)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, torch.tensor([[1.0, 0]]).expand_as(score))
        extra = model.auxiliary_loss()
        loss = loss if extra is None else loss + extra
        model.update_state(src[e_id], dst[e_id], t[e_id], e_id, msg)
        optimizer.zero_grad()
        loss.backward()
        gamma = None if pres is None or pres.gamma_logit is None else pres.gamma_logit.grad
        out += [score.detach(), loss.detach(), *(p.grad.clone() for p in own if p.grad is not None)]
        optimizer.step()
    return [*out, *own, torch.zeros(()) if gamma is None else gamma]


@pytest.mark.parametrize("kind", ["tgn", "jodie", "dyrep", "apan"])
def test_whole_models(kind: str) -> None:
    """gamma = 1 and beta = 0 is the plain model bit for bit; a learned gamma changes it and has a gradient."""
    plain = train(kind, None, 0.1)
    same = train(kind, PredictCorrectFilter(12, 2 * DIM, gamma=1.0), beta=0.0)
    assert len(plain) == len(same)
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))
    pres = PredictCorrectFilter(12, 2 * DIM)
    learned = train(kind, pres, beta=0.0)
    assert int(pres.count.sum()) > 0
    assert float(learned[-1]) != 0
    assert not all(torch.equal(a, b) for a, b in zip(plain, learned, strict=True))
    coherent = train(kind, PredictCorrectFilter(12, 2 * DIM, gamma=1.0), beta=0.5)
    assert not all(torch.equal(a, b) for a, b in zip(plain, coherent, strict=True))
