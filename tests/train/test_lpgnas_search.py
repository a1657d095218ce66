"""The search for layers and bit widths: the supernet, its controllers, the schedule, and what comes out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GAT
from torch_geometric.utils import remove_self_loops, to_undirected

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import Genotype, LowPrecisionGNN, low_precision_space, uniform_quantize
from graphkit.nn.models.low_precision import buffer_bits, model_bits
from graphkit.train import Trainer
from graphkit.train.search import (
    LPGNASSearch,
    LPGNASSupernet,
    RandomCandidates,
    RandomSearchTask,
    SearchedExperiment,
    SizedNodeClassificationTask,
)
from graphkit.utils.seed import seed_everything

FP32: dict[str, Any] = {"weight_options": ["fp32"], "activation_options": ["fp32"]}


def graph(num_nodes: int = 60) -> Data:
    """Three classes that features and edges tell apart, with noise."""
    source = torch.Generator().manual_seed(0)
    y = torch.arange(num_nodes) % 3
    x = F.one_hot(y, 3).float().repeat(1, 4)
    x = x * (torch.rand(x.shape, generator=source) < 0.5)
    ends = torch.randint(num_nodes, (2, 6 * num_nodes), generator=source)
    ends = ends[:, (y[ends[0]] == y[ends[1]]) | (torch.rand(ends.size(1), generator=source) < 0.2)]
    edges = to_undirected(remove_self_loops(ends)[0])
    return Data(x=x, y=y, edge_index=edges)


def split(num_nodes: int = 60) -> IndexSplit:
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(1))
    return IndexSplit(order[:30], order[30:45], order[45:])


def supernet(seed: int = 0, **options: Any) -> LPGNASSupernet:
    seed_everything(seed)
    return LPGNASSupernet(12, 8, 3, **options)


def decide(net: LPGNASSupernet, seed: int, strength: float = 1.0) -> None:
    """Random logits in the tables."""
    source = torch.Generator().manual_seed(seed)
    for p in net.controllers.parameters():
        p.data.copy_(strength * torch.randn(p.shape, generator=source))


# The supernet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_supernet_is_the_network_of_its_most_probable_genotype(seed: int) -> None:
    data = graph()
    net = supernet(seed, num_blocks=3, controller="table").double().eval()
    decide(net, seed)
    for block in net.blocks:
        nn.init.normal_(block.bias)
    x = data.x.double() if seed % 2 else data.x.double().to_sparse_csr()
    found = net.inherit()
    assert found.genotype == net.genotype()
    torch.testing.assert_close(net(x, data.edge_index), found.eval()(x, data.edge_index))


def test_with_one_candidate_each_it_is_a_plain_network() -> None:
    """Which test_low_precision.py compares with PyG's GAT."""
    one: dict[str, Any] = {"attention": ["gat"], "heads": [2], "aggregation": ["sum"], "activation": ["elu"]}
    net = supernet(**one, **FP32, widths=[1], shortcuts=False).eval()
    assert net.decisions == {"architecture": [], "quantisation": []}
    data = graph()
    first, last = net.blocks
    model = GAT(12, 8, num_layers=2, out_channels=3, heads=2, act="elu").eval()
    order = torch.tensor([(c % 2) * 4 + c // 2 for c in range(8)])
    with torch.no_grad():
        conv = model.convs[0]
        conv.lin.weight[order] = first.linear
        conv.att_dst.view(-1)[order] = first.attention["left"]
        conv.att_src.view(-1)[order] = first.attention["right"]
        # PyG's last layer has two heads, too, so that only the hidden layer can be compared.
        hidden = F.elu(conv(data.x, data.edge_index))
        seen = []
        last.register_forward_pre_hook(lambda _, args: seen.append(args[0][-1].x))
        net(data.x, data.edge_index)
    torch.testing.assert_close(seen[0], hidden[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_expected_sizes_of_certain_choices_are_the_sizes_of_the_model(seed: int) -> None:
    net = supernet(seed, num_blocks=3, controller="table")
    decide(net, seed, strength=1e4)
    choices = net.choose()
    found = LowPrecisionGNN(net.genotype())
    assert -(-float(model_bits(net.blocks, choices)) // 8) == found.model_bytes() == net.model_bytes()
    assert -(-100 * float(buffer_bits(net.blocks, choices)) // 8) == found.buffer_bytes(100) == net.buffer_bytes(100)


def test_expected_sizes_are_means_of_the_probabilities() -> None:
    """Of one format, by hand."""
    one: dict[str, Any] = {"attention": ["const"], "heads": [1], "aggregation": ["sum"], "activation": ["relu"]}
    net = supernet(
        controller="table", num_blocks=1, **one, weight_options=["FIX1.3", "FIX2.6"], activation_options=["fp32"]
    )
    net.controllers["quantisation"].logits[0].data.copy_(torch.tensor([3.0, 1.0]).log())
    bits = float(model_bits(net.blocks, net.choose()))
    assert bits == pytest.approx(12 * 3 * (0.75 * 4 + 0.25 * 8) + 3 * 32)


@pytest.mark.parametrize("controller", ["table", "chained"])
def test_every_decision_gets_a_gradient_and_the_size_pulls_it_down(controller: str) -> None:
    data = graph()
    net = supernet(controller=controller, num_blocks=3)
    logits, size = net(data.x, data.edge_index, noise=0.5, penalty=True)
    (F.cross_entropy(logits, data.y) + size).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.controllers.parameters())
    before = float(net.log_size(net.choose()))
    optimizer = torch.optim.Adam(net.controllers.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        net.log_size(net.choose()).backward()
        optimizer.step()
    assert float(net.log_size(net.choose())) < before - 1


def test_the_chained_controller_passes_decisions_on() -> None:
    net = supernet(controller="chained")
    chain = net.controllers["architecture"]
    before = [p.detach() for p in chain()]
    chain.embeddings[0].data.add_(1)
    after = [p.detach() for p in chain()]
    assert torch.equal(before[0], after[0])
    assert not any(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))


def test_noise_explores_and_its_absence_does_not() -> None:
    net = supernet(controller="table")
    assert len({str(net.choose(1.0)[0]["attention"].taken) for _ in range(30)}) > 2
    assert len({str(net.choose()[0]["attention"].taken) for _ in range(5)}) == 1


def test_sampled_gradients_cost_one_other_option_and_are_finite() -> None:
    data = graph()
    net = supernet(controller="table", sample_grad=True)
    decide(net, 0)
    net(data.x, data.edge_index).square().sum().backward()
    place = net.decisions["quantisation"].index((0, "format.linear"))
    grad = net.controllers["quantisation"].logits[place].grad
    assert bool(grad.isfinite().all())


# The search -----------------------------------------------------------------------------------------------------------


def run(seed: int = 0, steps: int = 12, **options: Any) -> tuple[LPGNASSupernet, Any]:
    net = supernet(seed, **options.pop("net", {}))
    search = LPGNASSearch(net, steps=steps, **{"arch_start": 2, "quant_start": 4, "noise_steps": 6, **options})
    result = search.fit(graph(), split(), device="cpu", progress=False, seed=seed)
    return net, result


def test_equal_seeds_find_the_same_network() -> None:
    (first, found), (second, again) = run(noise=0.0), run(noise=0.0)
    assert found.genotype == again.genotype
    assert [row["loss"] for row in found.history] == [row["loss"] for row in again.history]
    assert len(found.history) == 12
    for name, p in first.state_dict().items():
        assert torch.equal(p, second.state_dict()[name]), name


def test_parts_move_when_the_schedule_says_so() -> None:
    states: list[dict[str, torch.Tensor]] = []

    def moved(part: str) -> list[bool]:
        names = [name for name in states[0] if name.startswith(part)]
        return [any(not torch.equal(a[name], b[name]) for name in names) for a, b in pairwise(states)]

    net = supernet()
    search = LPGNASSearch(net, steps=6, arch_start=2, quant_start=4)
    stage = search.experiment(graph(), split())

    def keep(*_: Any) -> None:
        states.append({name: p.detach().clone() for name, p in net.named_parameters()})

    keep()
    trainer = Trainer(6, eval_every=6, device="cpu", progress=False)
    trainer.fit(stage.model, stage.task, stage.optimizer, on_epoch_end=keep)
    assert moved("blocks") == [True] * 6
    assert moved("controllers.architecture") == [False, False, True, True, True, True]
    assert moved("controllers.quantisation") == [False, False, False, False, True, True]


def test_a_step_of_one_part_leaves_the_other_without_gradient() -> None:
    net = supernet()
    task = LPGNASSearch(net, arch_start=0, quant_start=0).experiment(graph(), split()).task
    weights, controllers = task.batches(1)
    assert torch.equal(weights.ids, split().train)
    assert torch.equal(controllers.ids, split().valid)
    task.loss(net, weights).backward()
    assert all(p.grad is None for p in net.controllers.parameters())
    assert net.blocks[0].linear.grad is not None
    net.zero_grad(set_to_none=True)
    task.loss(net, controllers).backward()
    assert all(p.grad is None for p in net.blocks.parameters())
    assert all(p.grad is not None for p in net.controllers.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_single_level_never_looks_at_validation_labels() -> None:
    data = graph()
    spoilt = data.clone()
    spoilt.y[split().valid] = 0
    nets = []
    for given in (data, spoilt):
        net = supernet()
        search = LPGNASSearch(net, steps=5, arch_start=0, quant_start=0, single_level=True)
        search.fit(given, split(), device="cpu", progress=False)
        nets.append(net)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_search_never_looks_at_test_labels() -> None:
    spoilt = graph()
    spoilt.y[split().test] = 2 - spoilt.y[split().test]
    net, result = run()
    other = supernet()
    search = LPGNASSearch(other, steps=12, arch_start=2, quant_start=4, noise_steps=6)
    assert search.fit(spoilt, split(), device="cpu", progress=False).genotype == result.genotype
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_more_weight_on_sizes_finds_smaller_networks() -> None:
    for seed in (0, 1):
        small: dict[str, Any] = {"attention": ["gcn", "gat"], "aggregation": ["mean"], "activation": ["relu"]}
        net = {"controller": "table", "heads": [1, 2], **small}
        options: dict[str, Any] = {"steps": 30, "noise": 0.0, "controller_lr": 0.05, "net": net}
        nets = [run(seed, beta=beta, **{**options, "net": dict(net)})[0] for beta in (0.0, 0.1, 3.0)]
        sizes = [net.model_bytes() * net.buffer_bytes(60) for net in nets]
        assert sizes[1] <= 1.05 * sizes[0]
        assert sizes[2] <= 1.05 * sizes[1]
        assert sizes[2] < sizes[0]


def test_a_killed_search_goes_on_exactly(tmp_path) -> None:
    whole, result = run()

    class Killed(Exception):
        pass

    def kill(epoch: int, _: Any) -> None:
        if epoch == 5:
            raise Killed

    nets = []
    for resume in (False, True):
        net = supernet()
        stage = LPGNASSearch(net, steps=12, arch_start=2, quant_start=4, noise_steps=6).experiment(graph(), split())
        options: dict[str, Any] = {"folder": tmp_path, "device": "cpu", "progress": False, "eval_every": 12}
        trainer = Trainer(12, resume=resume, **options)
        if resume:
            trainer.fit(stage.model, stage.task, stage.optimizer)
        else:
            with pytest.raises(Killed):
                trainer.fit(stage.model, stage.task, stage.optimizer, on_epoch_end=kill)
        nets.append(net)
    assert nets[1].genotype() == result.genotype
    assert all(torch.equal(a, b) for a, b in zip(nets[1].parameters(), whole.parameters(), strict=True))


def test_a_searched_experiment_trains_what_was_found() -> None:
    net = supernet()
    stage = LPGNASSearch(net, steps=4, arch_start=1, quant_start=2).experiment(graph(), split())
    task = SizedNodeClassificationTask(graph(), split())

    def make(found: nn.Module):
        assert found is net
        model = LowPrecisionGNN(net.genotype())
        return type(stage)(task, model, torch.optim.Adam(model.parameters()))

    later = SearchedExperiment(task, net, None, 3, start_from=("search", stage), make=make)
    stage.run(device="cpu", progress=False)
    later.begin()
    assert isinstance(later.model, LowPrecisionGNN)
    assert later.num_parameters() < sum(p.numel() for p in net.parameters())
    result = later.run(device="cpu", progress=False)
    assert result.best["Model kB"]["test"] == net.model_bytes() / 1000
    assert result.best["Buffer kB"]["valid"] == net.buffer_bytes(60) / 1000
    assert 0 <= result.best["Saturated"]["test"] <= 100


def test_sizes_of_other_models() -> None:
    task = SizedNodeClassificationTask(graph(), split())
    model = GAT(12, 8, num_layers=2, out_channels=3, heads=2)
    found = task.final_metrics(model)
    assert found["Model kB"]["test"] == 4 * sum(p.numel() for p in model.parameters()) / 1000
    # The first layer's linear map and its sum, 8 columns each of 60 nodes in four bytes.
    assert found["Buffer kB"]["test"] == 60 * 16 * 4 / 1000
    small = task.final_metrics(uniform_quantize(model, 4, 8))
    assert small["Buffer kB"]["test"] == 60 * 16 / 1000
    assert small["Model kB"]["test"] < found["Model kB"]["test"] / 3


# Random search --------------------------------------------------------------------------------------------------------


def test_candidates_learn_as_each_would_alone() -> None:
    space = low_precision_space(8, 3)
    candidates = RandomCandidates(12, space, 3, seed=4)
    alone = [LowPrecisionGNN(one.genotype) for one in candidates.candidates]
    for copy, one in zip(alone, candidates.candidates, strict=True):
        copy.load_state_dict(one.state_dict())
    task = RandomSearchTask(graph(), split())
    Trainer(3, eval_every=3, device="cpu", progress=False).fit(
        candidates, task, torch.optim.Adam(candidates.parameters(), 0.01)
    )
    plain = SizedNodeClassificationTask(graph(), split())
    for copy, one in zip(alone, candidates.candidates, strict=True):
        trainer = Trainer(3, eval_every=3, device="cpu", progress=False)
        trainer.fit(copy, plain, torch.optim.Adam(copy.parameters(), 0.01))
        for name, p in copy.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], p, atol=1e-5, rtol=1e-4)


def test_the_best_candidate_is_small_and_good() -> None:
    candidates = RandomCandidates(12, low_precision_space(8, 3), 6, seed=0).eval()
    data, parts = graph(), split()
    losses, sizes = [], []
    for one in candidates.candidates:
        losses.append(float(F.cross_entropy(one(data.x, data.edge_index)[parts.valid], data.y[parts.valid])))
        sizes.append(one.model_bytes() * one.buffer_bytes(60))
    with torch.no_grad():
        by_loss = RandomSearchTask(data, parts, beta=0).best(candidates)
        by_size = RandomSearchTask(data, parts, beta=1e6).best(candidates)
    assert by_loss is candidates.candidates[losses.index(min(losses))]
    assert by_size is candidates.candidates[sizes.index(min(sizes))]
    assert RandomSearchTask(data, parts, beta=0).evaluate(candidates, "test")["Accuracy"] >= 0


def test_a_seed_fixes_the_candidates() -> None:
    space = low_precision_space(8, 3)
    drawn = [[one.genotype for one in RandomCandidates(12, space, 3, seed=s).candidates] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({one.to_json() for one in drawn[0]}) == 3


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: supernet(controller="tabel"), "controller must be one of.*did you mean 'table'"),
        (lambda: supernet(attention=["gta"]), "attention must be one of"),
        (lambda: supernet(activation_options=[]), "at least one option of format.input"),
        (
            lambda: LPGNASSearch(supernet(), arch_start=50, quant_start=40),
            r"arch_start must be at most .*=40 \(got 50\)",
        ),
        (lambda: LPGNASSearch(supernet(), beta=-1), "beta must be in"),
        (lambda: LPGNASSearch(supernet(), steps=0), "steps must be in"),
        (lambda: LPGNASSearch(supernet()).fit(graph()), "no train_mask"),
        (lambda: RandomCandidates(12, low_precision_space(8, 3), 0), "count must be in"),
        (
            lambda: supernet().inherit(Genotype.take(12, low_precision_space(4, 3, shortcuts=False))),
            "genotype is of another space",
        ),
        (
            lambda: supernet().inherit(Genotype.take(11, low_precision_space(8, 3))),
            r"in_channels=12 .*got in_channels=11",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_split_without_validation_nodes_is_refused() -> None:
    parts = split()
    with pytest.raises(ValueError, match="valid holds no nodes"):
        LPGNASSearch(supernet()).fit(graph(), IndexSplit(parts.train, parts.valid[:0], parts.test))


def test_a_search_runs_in_one_process() -> None:
    net = supernet()
    task = LPGNASSearch(net).experiment(graph(), split()).task
    task.world_size = 2
    with pytest.raises(ValueError, match="one process"):
        task.loss(net, next(iter(task.batches(1))))
