"""Composite backbones: which stages are connected, their sums, their start, what is trained, wrong arguments."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

from graphkit.nn import (
    CompositeBackbone,
    CompositeClassifier,
    Level,
    MixerBlock,
    SparseLinear,
    StagedGNN,
    composite_connections,
    composite_loss,
    pool_grid,
)
from graphkit.ops import NeighborIndex, TokenLayout

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4, 4, 5], [1, 0, 2, 1, 3, 2, 4, 3, 5, 4]])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def backbone(stages: int = 3, **options) -> CompositeBackbone:
    torch.manual_seed(0)
    return CompositeBackbone(partial(StagedGNN, 4, 5, stages), [5] * stages, **options).double()


def scrambled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data = 0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return module


def test_connections_of_each_style():
    assert composite_connections("dhlc", 4) == {(1, i) for i in (1, 2, 3, 4)} | {
        (2, 2),
        (2, 3),
        (2, 4),
        (3, 3),
        (3, 4),
        (4, 4),
    }
    assert composite_connections("dhlc", 4, 1) == {(2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4)}
    assert composite_connections("slc", 4) == {(2, 1), (3, 2), (4, 3)}
    assert composite_connections("ahlc", 4) == {(1, 1), (2, 2), (3, 3), (4, 4)}
    assert composite_connections("allc", 4) == {(3, 1), (4, 2)}
    assert composite_connections("fcc", 4) == {(to, of) for to in (1, 2, 3, 4) for of in (1, 2, 3, 4)}


@pytest.mark.parametrize("style", ["dhlc", "slc", "ahlc", "allc", "fcc"])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_at_first_the_lead_is_its_assistant(style, shared):
    """Bit for bit, with copies of one trained backbone."""
    single = StagedGNN(4, 5, 3).double()
    composite = backbone(num_backbones=3, style=style, shared_stages=shared)
    composite.load_pretrained(single.state_dict())
    x = random(6, 4)
    found = composite.train()(x, EDGES)
    for outputs in found:
        for got, want in zip(outputs, single(x, EDGES), strict=True):
            assert torch.equal(got, want)
    assert float(composite_loss([out[-1] for out in found[:2]], torch.sum)) == pytest.approx(
        1.5 * float(found[0][-1].sum())
    )


def halves(graph):
    """Pairs of nodes become one."""
    count = int(graph.max()) + 1
    cluster = torch.arange(count) // 2
    return cluster, cluster[graph].unique(dim=1)


@pytest.mark.parametrize("shared", [0, 1])
def test_sums_of_stages_on_pooled_graphs(shared):
    torch.manual_seed(0)
    edges = torch.stack([torch.arange(8), torch.arange(8).roll(1)])
    composite = CompositeBackbone(
        lambda: StagedGNN(4, 5, 3, pool=halves), [5, 5, 5], shared_stages=shared, resize="nearest"
    ).double()
    scrambled(composite)
    x = random(8, 4)
    levels = [edges, halves(edges)[1], halves(halves(edges)[1])[1]]
    assist, lead = composite.backbones
    joined = {pair: part for pair, part in zip(composite.pairs, composite.connections[0], strict=True)}

    def g(to, of, h):
        part = joined[to, of]
        return h @ part.lin.weight.t() * part.scale + part.shift

    def mean(h):
        return h.view(-1, 2, 5).mean(1)

    def twice(h):
        return h.repeat_interleave(2, 0)

    a1 = assist.stages[0](assist.stem(x), levels[0])
    a2 = assist.stages[1](mean(a1), levels[1])
    a3 = assist.stages[2](mean(a2), levels[2])
    if shared:
        b1 = a1
    else:
        start = lead.stem(x) + g(1, 1, a1) + twice(g(1, 2, a2)) + twice(twice(g(1, 3, a3)))
        b1 = lead.stages[0](start, levels[0])
    b2 = lead.stages[1](mean(b1 + twice(g(2, 2, a2)) + twice(twice(g(2, 3, a3)))), levels[1])
    b3 = lead.stages[2](mean(b2 + twice(g(3, 3, a3))), levels[2])
    found = composite.train()(x, edges)
    for outputs, want in zip(found, ([a1, a2, a3], [b1, b2, b3]), strict=True):
        for got, expected in zip(outputs, want, strict=True):
            torch.testing.assert_close(got, expected)


def test_features_of_finer_stages_are_averaged():
    torch.manual_seed(0)
    make = partial(StagedGNN, 4, 5, 3, pool=halves)
    edges = torch.stack([torch.arange(8), torch.arange(8).roll(1)])
    found = []

    def resize(x, of, to, levels):
        found.append((of, to, x.size(0)))
        rows = 8 >> max(to - 1, 0)
        return x.new_zeros(rows, 5)

    CompositeBackbone(make, [5] * 3, style="allc", resize=resize)(torch.rand(8, 4), edges)
    assert found == [(1, 2, 8)]
    fine = CompositeBackbone(make, [5] * 3, style="allc", resize="nearest", zero_init=False)
    outputs = fine.train()(torch.rand(8, 4), edges)
    connection = fine.connections[0][0]
    start = outputs[1][1] + connection(outputs[0][0]).view(4, 2, 5).mean(1)
    want = fine.backbones[1].stages[2](start.view(2, 2, 5).mean(1), halves(halves(edges)[1])[1])
    torch.testing.assert_close(outputs[1][2], want)


def test_first_scale_and_shift_learn_then_the_maps():
    composite = backbone()
    single = StagedGNN(4, 5, 3).double()
    composite.load_pretrained(single.state_dict())
    for part in composite.backbones.parameters():
        part.requires_grad_(False)
    before = {name: value.clone() for name, value in composite.connections.named_parameters()}
    optimizer = torch.optim.SGD(composite.parameters(), 0.1)
    for step in (1, 2):
        optimizer.zero_grad()
        (composite.train()(random(6, 4), EDGES)[1][-1] * random(6, 5)).sum().backward()
        optimizer.step()
        moved = {
            name.rsplit(".", 1)[1] if "lin" not in name else "lin"
            for name, value in composite.connections.named_parameters()
            if not torch.equal(value, before[name])
        }
        assert moved == ({"scale", "shift"} if step == 1 else {"scale", "shift", "lin"})


def test_one_backbone_is_the_plain_one():
    composite, x = backbone(num_backbones=1), random(6, 4)
    for got, want in zip(composite.eval()(x, EDGES), composite.backbones[0](x, EDGES), strict=True):
        assert torch.equal(got, want)


def test_the_lead_answers_and_assistants_do_not_train_it():
    composite, x = scrambled(backbone()), random(6, 4)
    found = composite.train()(x, EDGES)
    assert [len(outputs) for outputs in found] == [3, 3]
    for got, want in zip(composite.eval()(x, EDGES), found[-1], strict=True):
        assert torch.equal(got, want)
    found = composite.train()(x, EDGES)
    found[0][-1].sum().backward()
    lead = [*composite.backbones[1].parameters(), *composite.connections.parameters()]
    assert lead
    assert all(value.grad is None for value in lead)
    assert any(bool((value.grad != 0).any()) for value in composite.backbones[0].parameters())


def test_shared_stages_are_left_out():
    sizes = {
        shared: sum(p.numel() for p in backbone(shared_stages=shared).backbones[1].parameters()) for shared in (0, 1, 2)
    }
    stage = sum(p.numel() for p in StagedGNN(4, 5, 3).stages[0].parameters())
    stem = 4 * 5 + 5
    assert sizes == {0: stem + 3 * stage, 1: 2 * stage, 2: stage}


def test_stages_of_mixers_get_the_tokens():
    class Mixers(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(MixerBlock(4, num_tokens=5) for _ in range(3))

    composite = scrambled(CompositeBackbone(Mixers, [4, 4, 4]).double())
    x, ptr = random(7, 4), torch.tensor([0, 2, 7])
    outputs = composite.eval()(x, ptr)
    torch.testing.assert_close(outputs[-1][:2], composite(x[:2])[-1])


def test_any_layer_makes_a_staged_network():
    torch.manual_seed(0)
    network = StagedGNN(4, 5, 2, 2, conv=GCNConv)
    x = torch.rand(6, 4)
    outputs = network(x, EDGES)
    assert isinstance(network.stem, SparseLinear)
    torch.testing.assert_close(network(x.to_sparse_csr(), NeighborIndex(EDGES.flip(0), 6)), outputs)
    h = network.stem(x)
    for stage, want in zip(network.stages, outputs, strict=True):
        for norm, layer in zip(stage.norms, stage.layers, strict=True):
            h = h + layer(norm(h), EDGES).relu()
        torch.testing.assert_close(h, want)


def test_a_classifier_answers_for_all_in_training():
    model = CompositeClassifier(scrambled(backbone(num_backbones=3)), 2).double()
    x = random(6, 4)
    lead, second, first = model(x, EDGES)
    torch.testing.assert_close(model.eval()(x, EDGES), lead)
    outputs = model.backbone.train()(x, EDGES)
    torch.testing.assert_close(first, model.lin(model.norm(outputs[0][-1])))
    torch.testing.assert_close(second, model.lin(model.norm(outputs[1][-1])))
    assert isinstance(CompositeClassifier(backbone(num_backbones=1), 2).double()(x, EDGES), torch.Tensor)


def test_squares_of_a_grid_become_one():
    """Two grids, one with odd sides and a hole, by a dictionary of squares."""
    places = [(0, r, c) for r in range(3) for c in range(5) if (r, c) != (2, 4)] + [
        (1, r, c) for r in (0, 1) for c in (0, 1)
    ]
    pos = torch.tensor([place[1:] for place in places])
    tokens = TokenLayout(torch.tensor([0, 14, 18]), pos=pos, grid_size=torch.tensor([[3, 5], [2, 2]]))
    squares = sorted({(g, r // 2, c // 2) for g, r, c in places})
    cluster, coarse = pool_grid(tokens)
    assert cluster.tolist() == [squares.index((g, r // 2, c // 2)) for g, r, c in places]
    assert coarse.ptr.tolist() == [0, 5, 6]  # the hole was alone in its square
    assert [(int(g), *place) for g, place in zip(coarse.batch, coarse.pos.tolist(), strict=True)] == squares
    assert coarse.grid_size.tolist() == [[2, 3], [1, 1]]
    again, least = pool_grid(pool_grid(coarse)[1])
    assert again.tolist() == [0, 0, 1]
    assert least.ptr.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="tokens must have pos"):
        pool_grid(Data(num_nodes=3))


def test_squares_of_a_grid_that_begins_before_its_origin():
    pos = torch.cartesian_prod(torch.arange(4), torch.arange(6))
    shift = torch.tensor([2, 4])  # whole squares
    cluster, coarse = pool_grid(TokenLayout(torch.tensor([0, 24]), pos=pos))
    moved, coarse_moved = pool_grid(TokenLayout(torch.tensor([0, 24]), pos=pos - shift))
    assert torch.equal(cluster, moved)
    assert torch.equal(coarse.pos - shift // 2, coarse_moved.pos)


def test_a_neck_adds_up_all_stages():
    torch.manual_seed(0)
    stages = CompositeBackbone(partial(StagedGNN, 4, 5, 3, pool=halves), [5] * 3, resize="nearest")
    model = scrambled(CompositeClassifier(stages, 2, neck=True)).double()
    edges, x = torch.stack([torch.arange(8), torch.arange(8).roll(1)]), random(8, 4)
    for out, outputs in zip(model(x, edges), reversed(stages(x, edges)), strict=True):
        a, b, c = (lateral(h) for lateral, h in zip(model.laterals, outputs, strict=True))
        summed = a + b.repeat_interleave(2, 0) + c.repeat_interleave(4, 0)
        torch.testing.assert_close(out, model.lin(model.norm(summed)))
    assert model.eval()(x, edges).shape == (8, 2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.reset_parameters()
    assert all(not torch.equal(before[name], value) for name, value in model.named_parameters())


def test_only_stages_that_are_joined_need_to_be_resized():
    """The output that a stage's own input comes from has its nodes, also where each stage pools."""
    edges, x = torch.stack([torch.arange(8), torch.arange(8).roll(1)]), torch.rand(8, 4)
    made = [
        CompositeBackbone(lambda: StagedGNN(4, 5, 3, pool=halves), [5] * 3, style="slc", resize=resize)
        for resize in ("identity", "nearest")
    ]
    made[1].load_state_dict(made[0].state_dict())
    for got, want in zip(made[0].eval()(x, edges), made[1].eval()(x, edges), strict=True):
        assert torch.equal(got, want)


def test_weights_of_the_losses():
    values = [torch.tensor(v) for v in (1.0, 10.0, 100.0, 1000.0)]
    assert float(composite_loss(values[:1], lambda v: v)) == 1
    assert float(composite_loss(values[:2], lambda v: v)) == 10.5
    assert float(composite_loss(values[:3], lambda v: v)) == 110.5
    assert float(composite_loss(values, lambda v: v)) == 1055.5
    assert float(composite_loss(values[:2], lambda v: v, [0.25])) == 10.25


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"shared_stages must be below the number of stages, 3.*got 3"):
        backbone(shared_stages=3)
    with pytest.raises(ValueError, match="2 widths, and a backbone of 3 stages"):
        CompositeBackbone(lambda: StagedGNN(4, 5, 3), [5, 5])
    with pytest.raises(ValueError, match=r"stage 1 gives rows of 6 \(got \[6, 5\]\)"):
        CompositeBackbone(lambda: StagedGNN(4, 5, 2), [6, 5])(torch.rand(6, 4), EDGES)
    with pytest.raises(ValueError, match="ModuleList `stages`"):
        CompositeBackbone(lambda: nn.Linear(4, 5), [5, 5])
    with pytest.raises(ValueError, match=r"resize must be 'nearest' or a function.*stage 2.*got 'identity'"):
        CompositeBackbone(lambda: StagedGNN(4, 5, 3, pool=halves), [5] * 3)(torch.rand(6, 4), EDGES)
    with pytest.raises(ValueError, match="resize must be"):  # the same number of nodes, but others
        CompositeBackbone(lambda: StagedGNN(4, 5, 3, pool=lambda g: (torch.arange(6).flip(0), 5 - g)), [5] * 3)(
            torch.rand(6, 4), EDGES
        )
    with pytest.raises(ValueError, match="style must be one of"):
        backbone(style="dense")
    with pytest.raises(ValueError, match=r"one number for each of 1 assistants \(got \[0.5, 0.5\]\)"):
        composite_loss([torch.tensor(1.0)] * 2, lambda v: v, [0.5, 0.5])
    stages = iter([3, 2])
    with pytest.raises(ValueError, match="a backbone of 2 stages"):
        CompositeBackbone(lambda: StagedGNN(4, 5, next(stages)), [5] * 3)


class SelfPooling(nn.Module):
    """A backbone whose stages halve their input without telling."""

    class Stage(nn.Module):
        def forward(self, x, graph):
            return x[::2]

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(self.Stage() for _ in range(3))


ONE = StagedGNN(4, 5, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: backbone(style="slc")(random(6, 4), [Level(EDGES)]), ValueError, r"each of 3 stages .got 1"),
        (lambda: backbone()(random(6, 4), [EDGES] * 3), TypeError, "a Level for each stage.*got Tensor"),
        (lambda: CompositeBackbone(SelfPooling, [4] * 3)(torch.rand(8, 4)), ValueError, "2 after stage 2 and 4 after"),
        (lambda: CompositeBackbone(ONE, [5, 5]), TypeError, "make_backbone must make a backbone"),
        (lambda: CompositeBackbone(lambda: ONE, [5, 5]), ValueError, "a new module at each call"),
        (lambda: CompositeBackbone(lambda: ONE, 5), TypeError, r"stage_channels must hold .*got 5"),
        (lambda: backbone(stem_channels=0), ValueError, "stem_channels must be in"),
        (
            lambda: backbone(stem_channels=7, shared_stages=0)(random(6, 4), EDGES),
            ValueError,
            r"stem_channels must be 5, .*got 7",
        ),
        (lambda: composite_connections("dhlc", 0), ValueError, "num_stages must be in"),
        (lambda: composite_connections("dhlc", 3, -1), ValueError, "shared_stages must be in"),
        (lambda: composite_loss([], torch.sum), ValueError, "outputs must hold"),
        (lambda: composite_loss([torch.ones(1)] * 2, torch.sum, 0.5), TypeError, r"weights must hold .*got 0.5"),
        (lambda: composite_loss([torch.ones(1)] * 2, torch.sum, [torch.nan]), ValueError, "weights must be .*got nan"),
        (lambda: composite_loss([torch.ones(1)] * 2, torch.sum, [-1.0]), ValueError, "weights must be .*got -1"),
        (lambda: CompositeClassifier(ONE, 2), TypeError, "backbone must be a CompositeBackbone .got StagedGNN"),
        (
            lambda: StagedGNN(4, 5, 2, pool=lambda g: (torch.arange(3), g))(torch.rand(6, 4), EDGES),
            ValueError,
            r"cluster must have shape \[6\], .*got \[3\]",
        ),
        (
            lambda: StagedGNN(4, 5, 2, pool=lambda g: (torch.zeros(6), g))(torch.rand(6, 4), EDGES),
            TypeError,
            "cluster must be int64",
        ),
        (lambda: backbone()(random(6, 4).float(), EDGES), TypeError, "x is torch.float32, but the weights"),
        (lambda: backbone()(random(6, 4), EDGES.to("meta")), ValueError, "edge_index must have values"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
