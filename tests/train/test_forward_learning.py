"""Local learning: no gradient and no graph crosses a layer; losses by brute force, labels, resuming, learning."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import BatchNorm, GCNConv
from torch_geometric.utils import to_undirected

from graphkit.datasets import IndexSplit
from graphkit.datasets.splits import LinkSplit, random_link_split
from graphkit.nn import GNN, DotDecoder, ForwardStack, GraphSequential, LinkPredictor
from graphkit.ops import NeighborIndex
from graphkit.train import LinkPredictionTask, NodeClassificationTask, Trainer
from graphkit.train.local import (
    ForwardForwardTask,
    ForwardLinkTask,
    SingleForwardTask,
    TopDownLinkTask,
    TopDownTask,
    forward_forward_loss,
    goodness,
    layer_by_layer,
    virtual_node_logits,
)
from graphkit.train.local.losses import link_logit
from graphkit.utils.cost import saved_activation_bytes
from graphkit.utils.seed import seed_everything

SIZE, CLASSES, FEATURES = 60, 3, 8
ADAM = partial(torch.optim.Adam, lr=0.01, weight_decay=5e-4)


def planted(seed: int = 0, size: int = SIZE, signal: float = 1.0) -> Data:
    """Three groups that know each other, with features that tell a little."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % CLASSES
    ends = torch.randint(size, (2, 12 * size), generator=generator)
    ends = ends[:, (y[ends[0]] == y[ends[1]]) | (torch.rand(ends.size(1), generator=generator) < 0.05)]
    ends = ends[:, ends[0] != ends[1]][:, : 3 * size]
    x = torch.randn(size, FEATURES, generator=generator)
    x[:, :CLASSES] += signal * F.one_hot(y, CLASSES)
    return Data(x=x, edge_index=to_undirected(ends, num_nodes=size), y=y)


def fold(size: int = SIZE, seed: int = 0) -> IndexSplit:
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return IndexSplit(order[: size // 2], order[size // 2 : 3 * size // 4], order[3 * size // 4 :])


def node_task(kind: str, data: Data | None = None, split: IndexSplit | None = None, **options):
    data, split = planted() if data is None else data, fold() if split is None else split
    if kind == "SF":
        return SingleForwardTask(data, split, **options)
    if kind in ("input", "loss"):
        return TopDownTask(data, split, top_down=kind, **{"num_layers": 2, **options})
    return ForwardForwardTask(data, split, mode={"FF-LA": "label", "FF-VN": "virtual"}[kind], **options)


def links(seed: int = 0) -> LinkSplit:
    return random_link_split(planted(), seed=seed)


def make_task(kind: str):
    if kind == "link":
        return ForwardLinkTask(links())
    if kind == "link-ff":
        return ForwardLinkTask(links(), objective="ff")
    if kind == "link-top":
        return TopDownLinkTask(links(), num_layers=2)
    return node_task(kind)


def make_stack(task, depth: int = 2, conv: str = "gcn", hidden: int = 8) -> ForwardStack:
    seed_everything(0)
    top = {"input": CLASSES, "loss": None}.get(getattr(task, "top_down", ""))
    top = 0 if isinstance(task, TopDownLinkTask) else top
    size = task.num_nodes if hasattr(task, "top_down") else None
    widths = [task.num_features, *[hidden] * depth]
    return ForwardStack(widths, conv, heads=2, top_channels=top, num_nodes=size)


LAYERWISE = ("SF", "FF-LA", "FF-VN", "link", "link-ff")
TOP_DOWN = ("input", "loss", "link-top")


def trainer(epochs: int, **options) -> Trainer:
    return Trainer(epochs, device="cpu", progress=False, **options)


def step(task, model: nn.Module, batch, optimizer) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(model, batch)
    loss.backward()
    optimizer.step()
    return loss.detach()


# Losses ---------------------------------------------------------------------------------------------------------------


def test_golden_values() -> None:
    h = torch.ones(1, 3)
    assert goodness(h).tolist() == [3.0]
    assert goodness(h, "mean").tolist() == [1.0]
    far = torch.tensor([1e9])
    torch.testing.assert_close(forward_forward_loss(goodness(h), -far), torch.tensor(0.313262), atol=1e-6, rtol=0)
    torch.testing.assert_close(forward_forward_loss(far, goodness(h)), torch.tensor(1.313262), atol=1e-6, rtol=0)


def test_forward_forward_loss_is_a_binary_cross_entropy() -> None:
    pos, neg = torch.randn(7).exp(), torch.randn(4, 7).exp()
    wanted = (
        F.binary_cross_entropy_with_logits(pos - 1.5, torch.ones(7))
        + torch.stack([F.binary_cross_entropy_with_logits(part - 1.5, torch.zeros(7)) for part in neg]).mean()
    )
    torch.testing.assert_close(forward_forward_loss(pos, neg, 1.5), wanted)


def test_virtual_node_logits_by_brute_force() -> None:
    h, mask = torch.randn(6, 4), torch.tensor([True, False, True, True, False, True])
    got = virtual_node_logits(h, mask, tau=0.5)
    for row, v in enumerate((0, 2, 3, 5)):
        for column, c in enumerate((1, 4)):
            torch.testing.assert_close(got[row, column], (h[v] * h[c]).sum() / 0.5)


def test_link_logits() -> None:
    product = torch.tensor([[1.0, -2.0, 3.0]])
    assert link_logit(product, "bce").tolist() == [2.0]
    assert link_logit(product, "ff", theta=4.0).tolist() == [10.0]


# Locality -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("kind", LAYERWISE)
def test_a_step_of_a_layer_touches_no_other(kind: str, conv: str) -> None:
    task = make_task(kind)
    stack = make_stack(task, 3, conv)
    before = copy.deepcopy(stack.state_dict())
    for depth in (1, 2, 3):
        part = stack.prefix(depth)
        optimizer = ADAM(part.layers[-1].parameters())
        for parameter in stack.parameters():
            parameter.grad = None
        step(task, part, next(iter(task.batches(1))), optimizer)
        for place, layer in enumerate(stack.layers):
            for name, parameter in layer.named_parameters():
                changed = not torch.equal(parameter, before[f"layers.{place}.{name}"])
                assert (parameter.grad is not None) == (place == depth - 1)
                assert changed == (place == depth - 1), f"layer {place + 1}, {name}"
        before = copy.deepcopy(stack.state_dict())


@pytest.mark.parametrize("kind", TOP_DOWN)
def test_a_batch_of_a_time_step_touches_one_layer(kind: str) -> None:
    task = make_task(kind)
    stack = make_stack(task)
    optimizer = ADAM([{"params": layer.parameters()} for layer in stack.layers])
    for epoch in (1, 2):
        seen = []
        for update in task.batches(epoch):
            before = copy.deepcopy(stack.state_dict())
            step(task, stack, update, optimizer)
            for place, layer in enumerate(stack.layers):
                for name, parameter in layer.named_parameters():
                    mine = place == update.layer
                    assert (parameter.grad is not None) == mine
                    assert torch.equal(parameter, before[f"layers.{place}.{name}"]) != mine, (place, name)
            seen.append(update.layer)
        assert sorted(seen) == [0, 1]


@pytest.mark.parametrize("kind", LAYERWISE)
def test_the_weights_above_do_not_matter(kind: str) -> None:
    """Through the whole chain: other weights of the second layer leave the first as it is."""
    ends = []
    for factor in (1.0, 5.0):
        task = make_task(kind)
        stack = make_stack(task)
        with torch.no_grad():
            for parameter in stack.layers[1].parameters():
                parameter.mul_(factor).add_(factor - 1)
        first, _ = layer_by_layer(task, stack, ADAM, name="x", max_epochs=4).chain()
        first.run(device="cpu", progress=False)
        ends.append([p.detach().clone() for p in stack.layers[0].parameters()])
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["input", "link-top"])
def test_layers_above_matter_through_their_states_alone(kind: str) -> None:
    """Once the states are given, the weights above change nothing; the states above change the update."""
    ends = []
    for weight, state in ((1.0, 1.0), (3.0, 1.0), (1.0, 3.0)):
        task = make_task(kind)
        stack = make_stack(task)
        optimizer = ADAM([{"params": layer.parameters()} for layer in stack.layers])
        first, *_ = (update for update in task.batches(2) if update.layer == 0)
        with torch.no_grad():
            for parameter in stack.layers[1].parameters():
                parameter.mul_(weight)
            stack.states[1].copy_(torch.linspace(0, 1, stack.states[1].numel()).view_as(stack.states[1]) ** state)
        step(task, stack, first, optimizer)
        ends.append(torch.cat([p.detach().flatten() for p in stack.layers[0].parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("kind", ["SF", "link", "input", "loss", "link-top"])
def test_memory_for_the_backward_pass_does_not_grow_with_depth(kind: str) -> None:
    """The most bytes kept at any moment of training, against backpropagation through the same layers."""
    local, whole = {}, {}
    data = planted()
    data.x = torch.cat([data.x, data.x], dim=1)  # as wide as the layers
    for depth in (2, 4, 8):
        split = random_link_split(data)
        if kind in ("input", "loss"):
            task = node_task(kind, data, num_layers=depth)
        elif kind == "link-top":
            task = TopDownLinkTask(split, num_layers=depth)
        else:
            task = node_task(kind, data) if kind == "SF" else ForwardLinkTask(split)
        stack = make_stack(task, depth, hidden=16)
        graph = task.train_graph if kind.startswith("link") else task.graph
        held = (graph.rowptr, graph.col, graph.degree)
        with saved_activation_bytes(stack, *held) as saved:
            if kind in TOP_DOWN:
                trainer(2).fit(stack, task, ADAM(stack.parameters()))
            else:
                for stage in layer_by_layer(task, stack, ADAM, name="x", max_epochs=2).chain():
                    stage.run(device="cpu", progress=False)
        assert saved.now == 0, "a graph is still there after training"
        assert saved.total > 2 * saved.peak, "all steps must have been seen"
        local[depth] = saved.peak
        if kind.startswith("link"):
            plain: nn.Module = LinkPredictor(GNN(16, 16, depth, layer_norm=False), DotDecoder())
            usual = LinkPredictionTask(split, 10**6, ("AUC",), target_link_removal=False, negatives="fixed")
            held = (usual.train_graph.rowptr, usual.train_graph.col)
        else:
            plain, usual = GNN(16, 16, depth, CLASSES, layer_norm=False), NodeClassificationTask(data, fold())
            held = (usual.graph.rowptr, usual.graph.col)
        with saved_activation_bytes(plain, *held) as saved:
            trainer(2).fit(plain, usual, ADAM(plain.parameters()))
        whole[depth] = saved.peak
    assert max(local.values()) <= 1.1 * min(local.values())
    # What scores of pairs keep is the same at each depth.
    assert whole[8] >= (2.4 if kind.startswith("link") else 3) * whole[2]


def test_no_graph_crosses_a_layer() -> None:
    """Between two layers of a time step nothing is kept."""
    task = node_task("input", num_layers=3)
    stack = make_stack(task, 3)
    optimizer = ADAM(stack.parameters())
    with saved_activation_bytes(stack) as saved:
        for update in task.batches(1):
            assert saved.now == 0
            loss = task.loss(stack, update)
            assert saved.now > 0
            assert not any(state.requires_grad for state in stack.states)
            loss.backward()
            optimizer.step()
    assert saved.now == 0


# Losses and scores by brute force -------------------------------------------------------------------------------------


def single_forward_by_hand(task: SingleForwardTask, stack: ForwardStack, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the last layer and class scores, every layer called on the whole graph."""
    h, scores = task.x, 0
    for layer in stack.layers:
        h = layer(h.detach(), task.graph)
        logits = h[:SIZE] @ h[SIZE:].t() / task.tau
        scores = scores + logits.softmax(-1)
    return F.cross_entropy(logits[task.split.train], y[task.split.train]), scores.detach()


def labelled(task: ForwardForwardTask, label: Tensor) -> tuple[Tensor, NeighborIndex]:
    """Features and graph with labels, -1 for none, written down node by node."""
    data, x = planted(), task.x
    edges = data.edge_index.t().tolist()
    if task.mode == "label":
        rows = [F.one_hot(c, CLASSES).float() if c >= 0 else torch.full((CLASSES,), 1 / CLASSES) for c in label]
        x = torch.cat([data.x, torch.stack(rows)], 1)
    else:
        for v, c in enumerate(label.tolist()):
            edges += [[v, SIZE + c], [SIZE + c, v]] if c >= 0 else []
    return x, NeighborIndex(torch.tensor(edges).t(), x.size(0))


def forward_forward_by_hand(task: ForwardForwardTask, stack: ForwardStack, known: Tensor) -> tuple[Tensor, Tensor]:
    y, train = task.y, task.split.train
    labels = [torch.full((SIZE,), -1) for _ in range(1 + task.wrong.size(1))]
    for k, label in enumerate(labels):
        label[train] = y[train] if k == 0 else task.wrong[:, k - 1]
    inputs = [labelled(task, label) for label in labels]
    for layer in stack.layers:
        outs = [layer(x.detach(), graph) for x, graph in inputs]
        found = [h[train].square().sum(1) for h in outs]
        nexts = outs if task.mode == "label" else [outs[0]] * len(outs)
        inputs = [(h, graph) for h, (_, graph) in zip(nexts, inputs, strict=True)]
    loss = F.softplus(task.theta - found[0]).mean()
    loss = loss + torch.stack([F.softplus(g - task.theta).mean() for g in found[1:]]).mean()
    scores = torch.zeros(SIZE, CLASSES)
    for c in range(CLASSES):
        label = torch.full((SIZE,), c)
        label[known] = y[known]
        h, graph = labelled(task, label)
        for layer in stack.layers:
            h = layer(h, graph)
            scores[:, c] += h[:SIZE].square().sum(1).detach() - task.theta
    return loss, scores


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", ["SF", "FF-LA", "FF-VN"])
def test_node_losses_and_scores_by_brute_force(kind: str, depth: int, conv: str) -> None:
    task = node_task(kind, **({"tau": 0.7} if kind == "SF" else {"num_negatives": 2, "theta": 0.5}))
    stack = make_stack(task, depth, conv)
    train = task.split.train
    if kind == "SF":
        wanted, scores = single_forward_by_hand(task, stack, planted().y)
    else:
        wanted, scores = forward_forward_by_hand(task, stack, train)
    wanted.backward()
    grads = [p.grad.clone() for p in stack.layers[-1].parameters()]
    stack.zero_grad()
    for _ in range(2):  # also from what is remembered
        stack.zero_grad()
        loss = task.loss(stack, train)
        loss.backward()
        torch.testing.assert_close(loss, wanted.detach(), atol=1e-5, rtol=1e-4)
        for p, grad in zip(stack.layers[-1].parameters(), grads, strict=True):
            torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(task.logits(stack).detach(), scores, atol=1e-4, rtol=1e-4)
    for split in ("valid", "test"):
        ids = getattr(task.split, split)
        torch.testing.assert_close(task.scores(stack, split), scores[ids], atol=1e-4, rtol=1e-4)
        right = float((scores[ids].argmax(1) == task.y[ids]).float().mean())
        assert task.evaluate(stack, split)["Accuracy"] == pytest.approx(100 * right)


@pytest.mark.parametrize("conv", ["gcn", "gat"])
@pytest.mark.parametrize("objective", ["bce", "ff"])
def test_link_losses_and_scores_by_brute_force(objective: str, conv: str) -> None:
    split = links()
    task = ForwardLinkTask(split, objective=objective, theta=0.3, eval_batch_size=7)
    stack = make_stack(task, 2, conv)

    def by_hand(graph: NeighborIndex, pos: Tensor, neg: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        h, out = split.x, ([], [])
        for layer in stack.layers:
            h = layer(h.detach(), graph)
            for place, pairs in enumerate((pos, neg)):
                o = h[pairs[0]] * h[pairs[1]]
                out[place].append(o.sum(1) if objective == "bce" else o.square().sum(1) - 0.3)
        return out

    graph = NeighborIndex(split.train_edge_index, SIZE)
    pos, neg = (logits[-1] for logits in by_hand(graph, split.train_pos, split.train_neg))
    wanted = F.binary_cross_entropy_with_logits(pos, torch.ones_like(pos)) + F.binary_cross_entropy_with_logits(
        neg, torch.zeros_like(neg)
    )
    wanted.backward()
    grads = [p.grad.clone() for p in stack.layers[-1].parameters()]
    stack.zero_grad()
    loss = task.loss(stack, next(iter(task.batches(3))))
    loss.backward()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)
    for p, grad in zip(stack.layers[-1].parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=1e-3)
    # Test links are scored with the validation links in the graph.
    both = torch.cat([split.train_pos, split.valid_pos], 1)
    for name, edges in (("valid", split.train_pos), ("test", both)):
        seen = NeighborIndex(torch.cat([edges, edges.flip(0)], 1), SIZE)
        pairs = getattr(split, f"{name}_pos"), getattr(split, f"{name}_neg")
        for found, logits in zip(task.scores(stack, name), by_hand(seen, *pairs), strict=True):
            logit = torch.stack(logits).detach()
            score = logit.sigmoid().mean(0) if objective == "bce" else logit.sum(0)
            torch.testing.assert_close(found, score, atol=1e-5, rtol=1e-4)


def test_links_train_on_the_fixed_non_links() -> None:
    task = ForwardLinkTask(links())
    for epoch in (1, 2):
        ((pos, neg),) = task.batches(epoch)
        for got, wanted in ((pos, task.split.train_pos), (neg, task.split.train_neg)):
            assert sorted(got.t().tolist()) == sorted(wanted.t().tolist())


@pytest.mark.parametrize("alternating", [True, False])
@pytest.mark.parametrize("kind", ["input", "loss", "link-top"])
def test_time_steps_by_brute_force(kind: str, alternating: bool) -> None:
    """Three layers for two time steps with plain tensors, then a prediction."""
    options = {"num_layers": 3, "infer_steps": 4, "skip_steps": 1, "alternating": alternating}
    task = TopDownLinkTask(links(), **options) if kind == "link-top" else node_task(kind, **options)
    stack = make_stack(task, 3)
    other = copy.deepcopy(stack)
    optimizer = ADAM([{"params": layer.parameters()} for layer in stack.layers])
    for epoch in (1, 2):
        for update in task.batches(epoch):
            step(task, stack, update, optimizer)

    graph = task.train_graph if kind == "link-top" else task.graph
    x = task.split.x if kind == "link-top" else task.x
    nodes = x.size(0)
    train = task.split.train if kind != "link-top" else None
    top = None
    if kind == "input":
        top = torch.full((nodes, CLASSES), 1 / CLASSES)
        top[train], top[SIZE:] = F.one_hot(task.y[train], CLASSES).float(), torch.eye(CLASSES)

    def normed(h: Tensor) -> Tensor:
        return h / (h.norm(dim=1, keepdim=True) + 1e-8)

    def layer(place: int, states: list[Tensor]) -> Tensor:
        blocks = [x if place == 0 else states[place - 1]]
        if kind != "loss":
            above = states[place + 1] if place < 2 else top
            blocks += [] if above is None else [above]
        conv = other.layers[place].conv
        return conv(torch.cat([normed(part) for part in blocks], 1), graph).relu()

    def judged(place: int, h: Tensor, states: list[Tensor]) -> Tensor:
        return h if kind != "loss" else sum([h, *(normed(s) for s in states[place + 1 :])]) / (3 - place)

    def scores(h: Tensor) -> Tensor:
        if kind == "link-top":
            return (h[pairs[0]] * h[pairs[1]]).sum(1)
        return h[:SIZE] @ h[SIZE:].t()

    def first_pass() -> list[Tensor]:
        states = [torch.zeros(nodes, 8) for _ in range(3)]
        for place in range(3):
            states[place] = layer(place, states).detach()
        return states

    order = [[0, 2], [1]] if alternating else [[0, 1, 2]]
    order = [[0], [1], [2]] if kind == "loss" else order
    pairs = torch.cat([task.split.train_pos, task.split.train_neg], 1) if kind == "link-top" else None
    optimizers = [ADAM(part.parameters()) for part in other.layers]
    states = first_pass()
    for _ in range(2):
        for phase in order:
            fresh = {}
            for place in phase:
                h = layer(place, states)
                fresh[place] = h.detach()
                logits = scores(judged(place, h, states))
                if kind == "link-top":
                    half = logits.numel() // 2
                    loss = F.softplus(-logits[:half]).mean() + F.softplus(logits[half:]).mean()
                else:
                    loss = F.cross_entropy(logits[train], task.y[train])
                optimizers[place].zero_grad()
                loss.backward()
                optimizers[place].step()
            for place, h in fresh.items():
                states[place] = h
    for got, wanted in zip(stack.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for got, wanted in zip(stack.states, states, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)

    with torch.no_grad():
        states, found = first_pass(), []
        if kind == "loss":
            found = [scores(judged(place, states[place], states)).softmax(-1) for place in range(3)]
            steps = 0
        else:
            steps = 4
        if kind == "link-top":
            pairs = torch.cat([task.split.valid_pos, task.split.valid_neg], 1)
        for number in range(steps):
            for phase in order:
                fresh = {place: layer(place, states) for place in phase}
                states = [fresh.get(place, state) for place, state in enumerate(states)]
            if number >= 1:
                found += [scores(h).sigmoid() if kind == "link-top" else scores(h).softmax(-1) for h in states]
    wanted = torch.stack(found).mean(0)
    if kind == "link-top":
        torch.testing.assert_close(torch.cat(task.scores(stack, "valid")), wanted, atol=1e-4, rtol=1e-4)
    else:
        torch.testing.assert_close(task.logits(stack).detach(), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(task.scores(stack, "test"), wanted[task.split.test], atol=1e-4, rtol=1e-4)


def test_one_layer_of_single_forward_is_ordinary_training() -> None:
    task = node_task("SF")
    ours = make_stack(task, 1)
    plain = GCNConv(FEATURES, 8)
    plain.load_state_dict({"lin.weight": ours.layers[0].conv.linears[0].weight, "bias": ours.layers[0].conv.bias})
    (stage,) = layer_by_layer(task, ours, ADAM, name="x", max_epochs=20, eval_every=20).chain()
    stage.run(device="cpu", progress=False)
    optimizer = ADAM(plain.parameters())
    x, train = F.normalize(task.x), task.split.train
    for _ in range(20):
        h = plain(x, task.edge_index).relu()
        optimizer.zero_grad()
        F.cross_entropy((h[:SIZE] @ h[SIZE:].t())[train], task.y[train]).backward()
        optimizer.step()
    torch.testing.assert_close(ours.layers[0].conv.linears[0].weight, plain.lin.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.layers[0].conv.bias, plain.bias, atol=1e-4, rtol=1e-3)


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SF", "FF-LA", "FF-VN", "input", "loss"])
def test_labels_that_are_not_known_change_nothing(kind: str) -> None:
    """Training without early stopping and predictions, with the labels of other nodes permuted."""
    ends = []
    for others in (None, "test", "valid"):
        data, split = planted(), fold()
        if others is not None:
            ids = getattr(split, others)
            data.y[ids] = (data.y[ids] + 1) % CLASSES
        task = node_task(kind, data, split)
        stack = make_stack(task)
        stages = [(task, stack)] if kind in TOP_DOWN else [(task, stack.prefix(d)) for d in (1, 2)]
        for part, model in stages:
            optimizer = ADAM([{"params": layer.parameters()} for layer in model.layers])
            for epoch in (1, 2, 3):
                for batch in part.batches(epoch):
                    step(part, model, batch, optimizer)
        ends.append(task.logits(stack).detach())
    for other in ends[1:]:
        assert torch.equal(ends[0], other)


@pytest.mark.parametrize("kind", ["FF-LA", "FF-VN"])
def test_validation_labels_are_shown_on_request_and_to_the_test_alone(kind: str) -> None:
    task, released = node_task(kind), node_task(kind, use_val_labels=True)
    stack = make_stack(task, 2, "sage")
    known = torch.cat([task.split.train, task.split.valid])
    _, wanted = forward_forward_by_hand(released, stack, known)
    torch.testing.assert_close(released.scores(stack, "test"), wanted[task.split.test], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(released.scores(stack, "valid"), task.scores(stack, "valid"))
    assert not torch.allclose(released.scores(stack, "test"), task.scores(stack, "test"), atol=1e-5)


def test_wrong_labels_are_wrong_different_and_follow_from_the_seed() -> None:
    tasks = [node_task("FF-LA", seed=seed) for seed in (0, 0, 1)]
    y = planted().y[fold().train]
    for task in tasks:
        assert task.wrong.shape == (SIZE // 2, CLASSES - 1)
        together = torch.cat([y[:, None], task.wrong], 1)
        assert torch.equal(together.sort(1).values, torch.arange(CLASSES).expand(SIZE // 2, -1))
    assert torch.equal(tasks[0].wrong, tasks[1].wrong)
    assert not torch.equal(tasks[0].wrong, tasks[2].wrong)


def test_other_names_of_the_classes_permute_the_scores() -> None:
    """With the columns of the weights that read the label permuted, too."""
    order = torch.tensor([2, 0, 1])
    data, renamed = planted(), planted()
    renamed.y = order[data.y]
    tasks = [node_task("FF-LA", graph) for graph in (data, renamed)]
    stacks = [make_stack(task, 2) for task in tasks]
    # The k-th negatives of neighbours enter together, so these must be the same wrong labels by other names.
    tasks[1].wrong = order[tasks[0].wrong]
    for place in range(2):
        stacks[1].layers[place].load_state_dict(stacks[0].layers[place].state_dict())
    with torch.no_grad():
        first = stacks[0].layers[0].conv.linears[0].weight
        stacks[1].layers[0].conv.linears[0].weight[:, FEATURES + order] = first[:, FEATURES:]
    losses = [task.loss(stack, task.split.train) for task, stack in zip(tasks, stacks, strict=True)]
    torch.testing.assert_close(losses[0], losses[1])
    scores, permuted = (task.logits(stack).detach() for task, stack in zip(tasks, stacks, strict=True))
    torch.testing.assert_close(permuted[:, order], scores, atol=1e-4, rtol=1e-4)


def test_mean_goodness_weights_layers_by_their_widths() -> None:
    summed, released = node_task("FF-LA"), node_task("FF-LA", reduce="mean")
    seed_everything(0)
    stack = ForwardStack([summed.num_features, 4, 32])
    assert not torch.equal(*(task.logits(stack).argmax(1) for task in (summed, released)))
    seed_everything(0)
    equal = ForwardStack([summed.num_features, 16, 16])
    assert torch.equal(*(task.logits(equal).argmax(1) for task in (summed, released)))


def test_edges_to_the_virtual_nodes_alone_tell_the_others_nothing() -> None:
    """Their features do not reach the real nodes then."""
    for direction, same in (("to_virtual", True), ("both", False)):
        tasks = [node_task("SF", direction=direction, seed=seed) for seed in (0, 1)]
        stack = make_stack(tasks[0])
        outs = [stack(task.x, task.graph)[:SIZE] for task in tasks]
        assert torch.equal(*outs) == same


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LAYERWISE, *TOP_DOWN])
def test_a_run_that_is_resumed_ends_like_one_that_was_not(kind: str, tmp_path) -> None:
    ends = []
    for way, epochs in (("whole", (6,)), ("in parts", (2, 6))):
        for number in epochs:
            task = make_task(kind)
            stack = make_stack(task)
            if kind in TOP_DOWN:
                folder = tmp_path / way
                results = [trainer(number, folder=folder, resume=True).fit(stack, task, ADAM(stack.parameters()))]
            else:
                chain = layer_by_layer(task, stack, ADAM, name="x", max_epochs=number, eval_every=1).chain()
                # A first part that is interrupted in the second layer has finished the first.
                results = []
                for depth, stage in enumerate(chain):
                    stage.max_epochs = 6 if depth == 0 else number
                    folder = tmp_path / f"{way}{depth}"
                    results.append(stage.run(device="cpu", progress=False, folder=folder, resume=True))
        history = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.history] for r in results]
        ends.append((history, [r.best for r in results], copy.deepcopy(stack.state_dict())))
    assert ends[0][:2] == ends[1][:2]
    for name, value in ends[0][2].items():
        assert torch.equal(value, ends[1][2][name]), name


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
def test_a_chain_stops_each_layer_apart_and_keeps_its_best(conv: str) -> None:
    task = node_task("SF")
    stack = make_stack(task, 2, conv)
    last = layer_by_layer(task, stack, ADAM, name="SF", max_epochs=40, patience=3, eval_every=2)
    first, second = last.chain()
    assert last.start_from is not None
    assert last.start_from[0] == "SF.layer1"
    result = first.run(device="cpu", progress=False)
    second.begin()  # the weights are there already
    assert task.evaluate(first.model, "valid")["Accuracy"] == result.best["Accuracy"]["valid"]
    kept = [p.detach().clone() for p in stack.layers[0].parameters()]
    result = second.run(device="cpu", progress=False)
    assert all(torch.equal(p, q) for p, q in zip(stack.layers[0].parameters(), kept, strict=True))
    assert task.evaluate(stack, "valid")["Accuracy"] == result.best["Accuracy"]["valid"]
    assert second.num_parameters() == sum(p.numel() for p in stack.parameters())


@pytest.mark.parametrize(
    ("kind", "conv"),
    [("SF", "gcn"), ("SF", "gat"), ("FF-LA", "gcn"), ("FF-VN", "sage"), ("input", "gcn"), ("loss", "sage")],
)
def test_nodes_are_learned(kind: str, conv: str) -> None:
    """Three groups of equal size: guessing is right in a third of the cases."""
    data, split = planted(size=150), fold(150)
    task = node_task(kind, data, split)
    stack = make_stack(task, 2, conv, 16)
    if kind in TOP_DOWN:
        result = trainer(60, eval_every=5).fit(stack, task, ADAM(stack.parameters()))
    else:
        stages = layer_by_layer(task, stack, ADAM, name="x", max_epochs=60, eval_every=5).chain()
        *_, result = [stage.run(device="cpu", progress=False) for stage in stages]
    assert result.test("Accuracy") > 75


@pytest.mark.parametrize("kind", ["link", "link-ff", "link-top"])
def test_links_are_learned(kind: str) -> None:
    """A third of the non-links are within a group, too, which bounds what can be learned."""
    split = random_link_split(planted(size=150, signal=4.0))
    options = {"num_layers": 2} if kind == "link-top" else {"objective": "ff" if kind == "link-ff" else "bce"}
    task = (TopDownLinkTask if kind == "link-top" else ForwardLinkTask)(split, **options)
    stack = make_stack(task, 2, "gcn", 16)
    if kind == "link-top":
        result = trainer(60, eval_every=5).fit(stack, task, ADAM(stack.parameters()))
    else:
        stages = layer_by_layer(task, stack, ADAM, name="x", max_epochs=60, eval_every=5).chain()
        *_, result = [stage.run(device="cpu", progress=False) for stage in stages]
    assert result.test("AUC") > 70


def test_weights_that_change_are_noticed() -> None:
    """What the finished layers give is made again after their weights were loaded."""
    task = node_task("SF")
    stack, other = make_stack(task), make_stack(task)
    with torch.no_grad():
        other.layers[0].conv.linears[0].weight.neg_()
    before = task.scores(stack, "test")
    wanted = task.scores(other, "test")
    stack.load_state_dict(other.state_dict())
    assert torch.equal(task.scores(stack, "test"), wanted)
    assert not torch.equal(before, wanted)


@pytest.mark.parametrize("kind", ["SF", "FF-LA", "FF-VN", "input"])
def test_sparse_features(kind: str) -> None:
    """Given as a sparse matrix, or found to be sparse, they are the same features."""
    data, sparse = planted(), planted()
    data.x = F.pad(data.x * (data.x > 1), (0, 20))
    sparse.x = data.x.to_sparse_csr()
    tasks = [node_task(kind, graph) for graph in (data, sparse)]
    assert tasks[0].sparse_x.is_sparse_csr
    stack = make_stack(tasks[0])
    outs = [task.scores(stack, "test") for task in tasks]
    assert torch.equal(*outs)
    # Against the same task with dense features.
    tasks[0].__dict__["sparse_x"] = tasks[0].x
    tasks[0].to("cpu")
    torch.testing.assert_close(tasks[0].scores(stack, "test"), outs[1], atol=1e-5, rtol=1e-4)


def test_in_double_precision() -> None:
    for kind in LAYERWISE:
        task = make_task(kind)
        stack = make_stack(task).double()
        batch = next(iter(task.batches(1)))
        assert task.loss(stack, batch).dtype == torch.float64
        task.evaluate(stack, "valid")


# What is refused ------------------------------------------------------------------------------------------------------


def without_class(kind: str):
    split = fold()
    y = planted().y
    return node_task(kind, planted(), IndexSplit(split.train[y[split.train] != 1], split.valid, split.test))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: without_class("SF"), "no node of class 1"),
        (lambda: without_class("FF-LA"), "no node of class 1"),
        (lambda: node_task("SF", tau=0), "tau"),
        (lambda: node_task("FF-LA", theta=-1), "theta"),
        (lambda: node_task("FF-LA", num_negatives=0), "num_negatives"),
        (lambda: node_task("FF-LA", reduce="max"), "sum, mean"),
        (lambda: node_task("input", infer_steps=2, skip_steps=2), r"more than skip_steps=2 \(got 2\)"),
        (lambda: node_task("input", num_layers=0), "num_layers"),
        (lambda: ForwardForwardTask(planted(), fold(), mode="edges"), "label, virtual"),
        (lambda: TopDownTask(planted(), fold(), num_layers=2, top_down="both"), "input, loss"),
        (lambda: ForwardLinkTask(links(), objective="mse"), "bce, ff"),
        (lambda: ForwardLinkTask(links(), theta=-1.0), "theta"),
        (
            lambda: node_task("SF", Data(edge_index=planted().edge_index, y=planted().y, num_nodes=SIZE)),
            "data must have x",
        ),
        (lambda: virtual_node_logits(torch.ones(3, 2), torch.ones(2, dtype=torch.bool)), "real_mask"),
        (lambda: forward_forward_loss(torch.ones(1), torch.ones(1), -1.0), "theta"),
    ],
)
def test_bad_arguments(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_links_need_fixed_non_links() -> None:
    split = links()
    for neg in (None, split.train_neg[:, 1:]):
        parts = {name: getattr(split, name) for name in ("num_nodes", "train_edge_index", "train_pos", "valid_pos")}
        parts |= {name: getattr(split, name) for name in ("valid_neg", "test_pos", "test_neg", "x")}
        with pytest.raises(ValueError, match="train_neg"):
            ForwardLinkTask(LinkSplit(**parts, train_neg=neg))


def test_models_of_another_kind() -> None:
    task = node_task("SF")
    with pytest.raises(TypeError, match=r"ForwardStack \(got GNN\)"):
        task.loss(GNN(FEATURES, 8, 1), task.split.train)
    task = node_task("input")
    update = next(iter(task.batches(1)))
    for stack in (
        ForwardStack([FEATURES, 8, 8], top_channels=CLASSES, num_nodes=3),
        ForwardStack([FEATURES, 8], top_channels=CLASSES, num_nodes=task.num_nodes),
        ForwardStack([FEATURES, 8, 8], num_nodes=task.num_nodes),
    ):
        with pytest.raises(ValueError, match="model must have"):
            task.loss(stack, update)


@pytest.mark.parametrize("kind", ["SF", "input", "link"])
def test_several_processes_are_refused(kind: str) -> None:
    task = make_task(kind)
    task.world_size = 2
    with pytest.raises(ValueError, match=r"one process \(got 2"):
        next(iter(task.batches(1)))


def test_too_many_wrong_labels_are_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="in 2 ways only"):
        task = node_task("FF-LA", num_negatives=3)
    assert task.wrong.size(1) == 2


def test_batch_normalisation_is_warned_of() -> None:
    task = node_task("FF-LA")
    conv = GraphSequential(GCNConv(task.num_features, 4), BatchNorm(4))
    with pytest.warns(UserWarning, match="batch normalisation"):
        task.loss(ForwardStack([conv]), task.split.train)
