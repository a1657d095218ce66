"""Pointer networks: scores against loops, teacher forcing against decoding, search against all answers, what may be
pointed at, what must not matter."""

from __future__ import annotations

import copy
import math
from itertools import pairwise, permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, GraphConv

from graphkit.datasets.pointing import convex_hull_graphs, delaunay_graphs, tsp_graphs
from graphkit.nn import AdditivePointer, AttentionSeq2Seq, PointerNetwork, SelfAttention, pointing_loss
from graphkit.nn.decoder import pointer as module
from graphkit.ops import TokenLayout


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int = 0, scale: float = 3.0, kind: type = PointerNetwork, **options) -> PointerNetwork:
    """Weights far from zero, so that probabilities differ."""
    torch.manual_seed(seed)
    model = kind(2, 8, **options).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    return model


HULLS = convex_hull_graphs(6, 4, 7)
HULLS.x = HULLS.x.double()
TOURS = tsp_graphs(5, 4, 6)
TOURS.x = TOURS.x.double()
KINDS = {
    "lstm": {},
    "set": {"encoder": "set"},
    "glimpses": {"glimpses": 2},
    "state": {"feed": "state"},
    "unique": {"unique": True},
    "baseline": {"kind": AttentionSeq2Seq, "max_nodes": 7},
}


def test_scores_are_a_loop_over_pairs(monkeypatch):
    pointer = AdditivePointer(3, 4, hidden=5).double()
    query, keys = random(2, 3, 3), random(2, 6, 4, seed=1)
    mask = random(2, 3, 6, seed=2) > 0
    found = pointer(query, keys, mask)
    v = pointer.lin_score.weight[0]
    for b in range(2):
        for i in range(3):
            for j in range(6):
                score = v @ torch.tanh(pointer.lin_key.weight @ keys[b, j] + pointer.lin_query.weight @ query[b, i])
                wanted = score if mask[b, i, j] else torch.tensor(-math.inf)
                torch.testing.assert_close(found[b, i, j], wanted, check_dtype=False)
    # In blocks, whose size changes nothing.
    monkeypatch.setattr(module, "_BLOCK", 1)
    assert torch.equal(pointer(query, keys, mask), found)
    with pytest.raises(TypeError, match="mask must be bool"):
        pointer(query, keys, mask.float())


@pytest.mark.parametrize("name", KINDS)
def test_teacher_forcing_is_decoding_step_by_step(name):
    """The logits of a step are those of the answer so far alone, and decoding reports their probabilities."""
    model = network(**KINDS[name])
    logits = model(HULLS.x, HULLS.ptr, HULLS.target)
    for step in range(HULLS.target.size(1)):
        part = model(HULLS.x, HULLS.ptr, HULLS.target[:, :step].contiguous())
        torch.testing.assert_close(part, logits[:, : step + 1])
    for beam in (1, 3):
        found, length, logp = model.decode(HULLS.x, HULLS.ptr, beam=beam, max_steps=20)
        assert torch.equal(length, (found >= 0).sum(1))
        assert bool((length < 20).any())
        again = model(HULLS.x, HULLS.ptr, found).log_softmax(2)
        ended = length < 20
        for b in ended.nonzero().view(-1):
            steps = [*found[b, : length[b]].tolist(), -1]
            total = sum(again[b, i, j] for i, j in enumerate(steps))
            torch.testing.assert_close(logp[b], total)


def test_the_loss_is_that_of_each_answer():
    model = network()
    loss = pointing_loss(model(HULLS.x, HULLS.ptr, HULLS.target), HULLS.target)
    total = 0.0
    for low, high, target in zip(HULLS.ptr[:-1], HULLS.ptr[1:], HULLS.target, strict=True):
        row = target[target >= 0]
        logp = model(HULLS.x[low:high], None, row[None])[0].log_softmax(1)
        assert len(logp) == len(row) + 1
        total -= sum(logp[i, j] for i, j in enumerate([*row.tolist(), -1]))
    torch.testing.assert_close(loss, total / 6)


@pytest.mark.parametrize("options", [{}, {"unique": True}, {"end_token": False, "unique": True}, {"glimpses": 1}])
def test_probabilities_are_of_candidates_alone(options):
    model = network(**options)
    probability = model(TOURS.x, TOURS.ptr, TOURS.target).softmax(2)
    longest = probability.size(2) - 1
    for b, (count, target) in enumerate(zip(TOURS.ptr.diff().tolist(), TOURS.target.tolist(), strict=True)):
        steps = count + (options.get("end_token", True))
        for i in range(steps):
            p = probability[b, i]
            assert float(p.sum()) == pytest.approx(1)
            gone = [*range(count, longest), *(target[:i] if options.get("unique") else [])]
            assert p[gone].abs().sum() == 0
            assert bool((p[[j for j in range(count) if j not in gone]] > 0).all())
            assert (float(p[-1]) > 0) == options.get("end_token", True)


def test_a_beam_of_one_takes_the_best_of_each_step():
    model = network(end_token=False, unique=True)
    found, _, _ = model.decode(TOURS.x, TOURS.ptr)
    assert torch.equal(found >= 0, TokenLayout(TOURS.ptr).mask)
    logits = model(TOURS.x, TOURS.ptr, found)
    best = logits.argmax(2)
    assert torch.equal(torch.where(found >= 0, best, -1), found)


@pytest.mark.parametrize("feed", ["input", "state"])
def test_a_beam_of_all_answers_finds_the_best(feed):
    model = network(seed=4, end_token=False, unique=True, feed=feed)
    x = random(4, 2)
    answers = torch.tensor(list(permutations(range(4))))
    logp = model(x.repeat(24, 1), 4 * torch.arange(25), answers).log_softmax(2)
    total = logp.gather(2, answers[..., None]).sum((1, 2))
    found, length, value = model.decode(x, None, beam=24)
    assert found[0].tolist() == answers[total.argmax()].tolist()
    assert length.tolist() == [4]
    torch.testing.assert_close(value[0], total.max())
    narrow = model.decode(x, None)[2]
    assert bool(narrow <= value + 1e-12)


def test_a_wider_beam_finds_what_the_greedy_search_misses():
    better = 0
    for seed in range(8):
        model = network(seed, end_token=False, unique=True)
        greedy, wide = (model.decode(TOURS.x, TOURS.ptr, beam=beam)[2] for beam in (1, 20))
        assert bool((wide >= greedy - 1e-9).all())
        better += int((wide > greedy + 1e-6).sum())
    assert better > 0


def test_the_search_can_be_told_to_take_no_node_twice():
    model = network(seed=1)
    loose, _, _ = model.decode(HULLS.x, HULLS.ptr, max_steps=9)
    strict, length, _ = model.decode(HULLS.x, HULLS.ptr, beam=4, unique=True, max_steps=9)
    assert any(len(set(row[row >= 0].tolist())) < int((row >= 0).sum()) for row in loose)
    for row, count in zip(strict, length, strict=True):
        assert len(set(row[row >= 0].tolist())) == int(count)


@pytest.mark.parametrize("name", KINDS)
def test_a_longer_graph_in_the_batch_changes_nothing(name):
    model = network(**KINDS[name])
    together, found = model(HULLS.x, HULLS.ptr, HULLS.target), model.decode(HULLS.x, HULLS.ptr, beam=2, max_steps=7)
    for b, (low, high) in enumerate(zip(HULLS.ptr[:-1].tolist(), HULLS.ptr[1:].tolist(), strict=True)):
        alone = model(HULLS.x[low:high], None, HULLS.target[b : b + 1])[0]
        steps = int((HULLS.target[b] >= 0).sum()) + 1
        columns = [*range(high - low), -1]
        torch.testing.assert_close(together[b, :steps, columns], alone[:steps])
        own = model.decode(HULLS.x[low:high], None, beam=2, max_steps=7)
        assert torch.equal(own[0][0], found[0][b])
        torch.testing.assert_close(own[2][0], found[2][b])


def test_a_set_has_no_order():
    model = network(encoder="set")
    x, order = random(6, 2), torch.tensor([4, 2, 0, 5, 1, 3])
    target = torch.tensor([[3, 0, 5, 1]])
    moved = torch.empty(6, dtype=torch.long)
    moved[order] = torch.arange(6)  # the new place of each node
    here, there = model(x, None, target), model(x[order], None, moved[target])
    torch.testing.assert_close(there[..., [*moved.tolist(), 6]], here)
    assert torch.equal(model.decode(x[order])[0], F.pad(moved, (0, 1), value=-1)[model.decode(x)[0]])
    # An LSTM reads in order.
    ordered = network()
    assert not torch.allclose(
        ordered(x[order], None, moved[target])[..., [*moved.tolist(), 6]], ordered(x, None, target)
    )


# Candidates by edges --------------------------------------------------------------------------------------------------


def complete(ptr: torch.Tensor) -> torch.Tensor:
    layout = TokenLayout(ptr)
    return (layout.batch[:, None] == layout.batch).nonzero().t()


@pytest.mark.parametrize("encoder", ["lstm", "set"])
def test_on_a_complete_graph_edges_restrict_nothing(encoder):
    free, bound = network(encoder=encoder), network(encoder=encoder, follow_edges=True)
    graph = Data(x=HULLS.x, ptr=HULLS.ptr, edge_index=complete(HULLS.ptr))
    torch.testing.assert_close(bound(graph.x, graph, HULLS.target), free(HULLS.x, HULLS.ptr, HULLS.target))
    assert torch.equal(bound.decode(graph.x, graph, beam=3)[0], free.decode(HULLS.x, HULLS.ptr, beam=3)[0])


def test_answers_follow_the_edges():
    model = network(unique=True, follow_edges=True)
    # Two graphs: a directed path of four, and a star of three.
    edges = torch.tensor([[0, 1, 2, 4, 4], [1, 2, 3, 5, 6]])
    graph = Data(x=random(7, 2), ptr=torch.tensor([0, 4, 7]), edge_index=edges)
    probability = model(graph.x, graph, torch.tensor([[1, 2, -1], [0, 2, -1]])).softmax(2)
    assert (probability[0, 0] > 0).tolist() == [True] * 5
    assert (probability[0, 1] > 0).tolist() == [False, False, True, False, True]
    assert (probability[0, 2] > 0).tolist() == [False, False, False, True, True]
    assert (probability[1, 1] > 0).tolist() == [False, True, True, False, True]
    joined = set(map(tuple, edges.t().tolist()))
    for beam in (1, 4):
        for found, low in zip(model.decode(graph.x, graph, beam=beam)[0], (0, 4), strict=True):
            steps = [low + int(node) for node in found if node >= 0]
            assert all(pair in joined for pair in pairwise(steps))


def test_an_answer_without_a_way_on_has_no_probability():
    model = network(end_token=False, unique=True, follow_edges=True)
    graph = Data(x=random(3, 2), ptr=torch.tensor([0, 3]), edge_index=torch.tensor([[0], [1]]))
    for beam in (1, 3):
        assert model.decode(graph.x, graph, beam=beam)[2].tolist() == [-math.inf]
    # With a way through all, a wide search finds it wherever the greedy one starts.
    graph.edge_index = torch.tensor([[1, 0], [0, 2]])
    found, _, logp = model.decode(graph.x, graph, beam=6)
    assert found.tolist() == [[1, 0, 2]]
    assert math.isfinite(float(logp))


@pytest.mark.parametrize(
    "encoder", [SelfAttention(2, 1), GCNConv(2, 2), GraphConv(2, 2)], ids=["mixer", "GCN", "GraphConv"]
)
def test_any_encoder_fits(encoder):
    model = PointerNetwork(2, 2, copy.deepcopy(encoder)).double()
    ring = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
    graph = Data(x=random(5, 2), ptr=torch.tensor([0, 3, 5]), edge_index=ring)
    target = torch.tensor([[2, 0], [1, -1]])
    pointing_loss(model(graph.x, graph, target), target).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert model.decode(graph.x, graph)[0].shape == (2, 3)


def test_places_are_those_of_reading():
    """With an order, places count along it."""
    model = network()
    x, order = random(5, 2), torch.tensor([3, 0, 4, 1, 2])
    read = Data(x=x, order=order)
    first = x[order.argsort()]
    target = torch.tensor([[4, 0, 2]])
    torch.testing.assert_close(model(x, read, target), model(first, None, target))


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_learns_and_can_be_drawn_anew(name):
    options = dict(KINDS[name])
    model = options.pop("kind", PointerNetwork)(2, 8, **options)
    pointing_loss(model(HULLS.x.float(), HULLS.ptr, HULLS.target), HULLS.target).backward()
    for weight in model.parameters():
        assert weight.grad is not None
        assert bool(weight.grad.isfinite().all())
    before = copy.deepcopy(model.state_dict())
    model.reset_parameters()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert {key.split(".")[0] for key in changed} == {key.split(".")[0] for key in before}
    torch.manual_seed(0)
    model.reset_parameters()
    again = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    model.reset_parameters()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    assert repr(model).startswith(type(model).__name__)


def test_gradients_are_those_of_finite_differences():
    model = network(scale=1.0, glimpses=1)
    x = HULLS.x[:9].clone().requires_grad_()
    ptr, target = torch.tensor([0, 4, 9]), torch.tensor([[2, 0, -1], [4, 1, 3]])
    assert torch.autograd.gradcheck(lambda x: pointing_loss(model(x, ptr, target), target), (x,))


def test_delaunay_answers_repeat_nodes():
    graphs = delaunay_graphs(3, 5, 5)
    model = PointerNetwork(2, 8)
    assert math.isfinite(float(pointing_loss(model(graphs.x, graphs.ptr, graphs.target), graphs.target)))
    assert model.decode(graphs.x, graphs.ptr, max_steps=30)[0].shape == (3, 30)


def test_a_few_hundred_steps_sort_three_numbers():
    torch.manual_seed(0)
    model = PointerNetwork(1, 24, end_token=False, unique=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ptr = 3 * torch.arange(65)
    for _ in range(150):
        x = torch.rand(64, 3)
        target = x.argsort(1)
        optimizer.zero_grad()
        pointing_loss(model(x.view(-1, 1), ptr, target), target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
    x = torch.rand(64, 3)
    right = (model.decode(x.view(-1, 1), ptr)[0] == x.argsort(1)).all(1)
    assert float(right.float().mean()) > 0.8  # chance is a sixth


X, PTR = random(5, 2), torch.tensor([0, 2, 5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PointerNetwork(2, 0), "hidden must be in"),
        (lambda: PointerNetwork(2, 8, "gru"), "encoder must be one of lstm, set"),
        (lambda: PointerNetwork(2, 8, feed="stat"), "did you mean 'state'"),
        (lambda: network()(random(5, 3), PTR, torch.zeros(2, 1, dtype=torch.long)), r"x must have shape \[N, 2\]"),
        (lambda: network()(X, PTR, torch.tensor([[2], [0]])), r"target\[0\] must lie in \[0, 2\)"),
        (lambda: network()(X, PTR, torch.tensor([[-2], [0]])), r"target\[0\] must lie in"),
        (lambda: network()(X, PTR, torch.tensor([[0]])), "a row of places for each of 2 graphs"),
        (lambda: network()(X, PTR, torch.zeros(2, 1)), "a row of places"),
        (lambda: network()(X, PTR, torch.tensor([[-1, 0], [0, 1]])), "only after the end"),
        (lambda: network(unique=True)(X, PTR, torch.tensor([[0, 0], [0, 1]])), "must not repeat a node"),
        (
            lambda: network(unique=True, end_token=False)(X, PTR, torch.tensor([[0, 1], [0, 1]])),
            "must hold every node",
        ),
        (lambda: network().decode(X, torch.tensor([0, 0, 5])), "every graph must have a node"),
        (lambda: network().decode(X, PTR, beam=0), "beam must be in"),
        (lambda: network(end_token=False).decode(X, PTR), "max_steps must be given"),
        (lambda: network(follow_edges=True).decode(X, PTR), r"edge_index \[2, E\] with follow_edges"),
        (lambda: network(encoder=GCNConv(2, 8)).decode(X, PTR), "for an encoder of graphs"),
        (lambda: network(encoder=SelfAttention(2, 1)).decode(X, PTR), "encoder must make vectors of hidden=8"),
        (lambda: network(kind=AttentionSeq2Seq, max_nodes=2).decode(X, PTR), "a graph has 3 nodes, but max_nodes=2"),
        (lambda: pointing_loss(torch.zeros(1, 4, 3), torch.zeros(1, 2, dtype=torch.long)), "must have 2 steps"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


POINTS, STARTS, ANSWERS = torch.rand(7, 2), torch.tensor([0, 3, 7]), torch.tensor([[0, 2, 1, -1], [3, 0, 1, 2]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: PointerNetwork(2, 4)(POINTS, STARTS, None),
            ValueError,
            "a row of places for each of 2 graphs .got NoneType",
        ),
        (lambda: PointerNetwork(2, 4)(POINTS, STARTS, ANSWERS.to("meta")), ValueError, "is on"),
        (lambda: PointerNetwork(2, 4).decode(POINTS * torch.nan, STARTS), ValueError, "x holds nan"),
        (lambda: PointerNetwork(2, 4)(POINTS.long(), STARTS, ANSWERS), TypeError, "x must be floating point"),
        (lambda: along(torch.tensor([[0], [4]])), ValueError, "of graphs 0 and 1"),
        (lambda: along(torch.tensor([[0], [9]])), IndexError, "node id 9"),
        (
            lambda: along(torch.tensor([[0], [1]])),
            ValueError,
            "must follow edges .got .0, 2, 1, -1.: no edge from 0 to 2",
        ),
        (
            lambda: AdditivePointer(4, 4, 8)(torch.ones(2, 3, 5), torch.ones(2, 5, 4)),
            ValueError,
            "query must have shape",
        ),
        (lambda: AdditivePointer(4, 4, 8)(torch.ones(3, 3, 4), torch.ones(2, 5, 4)), ValueError, "2 sets of keys"),
        (
            lambda: AdditivePointer(4, 4, 8)(torch.ones(2, 3, 4), torch.ones(2, 5, 4), torch.ones(2, 3, 4).bool()),
            ValueError,
            r"mask must broadcast to \[2, 3, 5\] \(got \[2, 3, 4\]\)",
        ),
    ],
)
def test_what_cannot_be_pointed_at(call, error, message):
    with pytest.raises(error, match=message):
        call()


def along(edge_index: torch.Tensor) -> torch.Tensor:
    tokens = TokenLayout(STARTS, edge_index=edge_index)
    return PointerNetwork(2, 4, follow_edges=True)(POINTS, tokens, ANSWERS)
