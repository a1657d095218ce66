"""ViG: scans against loops, the convolution against PyTorch's and against messages, gates at their limits, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from graphkit.loader import ImageGraphs
from graphkit.nn import (
    BiGatedLinearAttention,
    ConvStem,
    GridDepthwiseConv,
    NeighborDepthwiseConv,
    StochasticDepth,
    ViG,
)
from graphkit.ops import TokenLayout
from graphkit.transforms import ImageTokens


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(rows: int, columns: int, kernel: int = 3) -> Data:
    return ImageTokens(kernel=kernel)(Data(image=torch.rand(1, rows, columns)))


def without(data: Data, missing: list[int]) -> Data:
    """The grid less some tokens, in another order."""
    kept = torch.tensor([i for i in range(data.num_nodes) if i not in missing])
    order = kept[torch.randperm(kept.numel(), generator=torch.Generator().manual_seed(3))]
    back = torch.full((data.num_nodes,), -1).index_copy(0, order, torch.arange(order.numel()))
    edges = back[data.edge_index]
    edges = edges[:, (edges >= 0).all(0)]
    return Data(x=data.x[order], pos=data.pos[order], grid_size=data.grid_size, edge_index=edges)


def perturbed(mixer: nn.Module, seed: int = 1) -> nn.Module:
    """The mixer with weights of order one, biases too."""
    with torch.no_grad():
        for i, p in enumerate(mixer.double().parameters()):
            p.copy_(random(*p.shape, seed=seed + i) * 0.5 + (1 if p.dim() == 1 else 0))
    return mixer


def test_what_both_directions_read_is_the_mean_of_two_loops():
    mixer = perturbed(BiGatedLinearAttention(8, heads=2, local="none", gate_tau=2.0))
    ptr, near = torch.tensor([0, 4, 5, 9]), random(9, 8)
    q, k = (lin(near).view(9, 2, 2) for lin in (mixer.lin_q, mixer.lin_k))
    v = mixer.lin_v(near).view(9, 2, 4)
    gate = torch.sigmoid(mixer.lin_gate(mixer.lin_gate_down(near))) ** 0.5
    want = torch.zeros(9, 2, 4, dtype=torch.float64)
    for decay, backward in ((gate[:, :4], False), (gate[:, 4:], True)):
        for start, stop in ((0, 4), (4, 5), (5, 9)):
            memory = torch.zeros(2, 2, 4, dtype=torch.float64)
            for t in reversed(range(start, stop)) if backward else range(start, stop):
                memory = decay[t].view(2, 2, 1) * memory + k[t][:, :, None] * v[t][:, None]
                want[t] += torch.einsum("hk,hkv->hv", q[t], memory) / 2**0.5 / 2
    torch.testing.assert_close(mixer.scan(near, ptr), want)


def test_reversing_the_tokens_and_swapping_the_gates_reverses_the_output():
    mixer = perturbed(BiGatedLinearAttention(8, heads=2, local="none"))
    x = random(7, 8)
    want = mixer(x).flip(0)
    assert not torch.allclose(mixer(x.flip(0)), want)
    with torch.no_grad():
        for p in mixer.lin_gate.parameters():
            p.copy_(torch.cat([*p.chunk(2)][::-1]))
    torch.testing.assert_close(mixer(x.flip(0)), want)
    shared = perturbed(BiGatedLinearAttention(8, heads=2, local="none", own_gates=False))
    torch.testing.assert_close(shared(x.flip(0)), shared(x).flip(0))


@pytest.mark.parametrize(("kernel", "rows", "columns"), [(3, 4, 5), (5, 4, 5), (3, 1, 6), (1, 2, 2)])
def test_the_convolution_is_pytorchs_on_full_grids(kernel, rows, columns):
    ours, theirs = GridDepthwiseConv(6, kernel).double(), nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6)
    theirs = theirs.double()
    theirs.weight.data, theirs.bias.data = ours.weight.data, torch.zeros(6, dtype=torch.float64)
    x = random(2 * rows * columns, 6)
    tokens = Batch.from_data_list([grid(rows, columns)] * 2)
    want = theirs(x.view(2, rows, columns, 6).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(ours(x, tokens), want)


def test_along_edges_it_is_the_same_where_all_are_there():
    """Grids of several sizes, with tokens missing, in any order: the two forms and a loop agree, gradients too."""
    graphs = [grid(3, 4, kernel=5), without(grid(4, 3), [0, 5, 7]), without(grid(5, 2), [3]), grid(1, 1)]
    batch = Batch.from_data_list(graphs)
    x = random(batch.num_nodes, 3).requires_grad_()
    over_grid = GridDepthwiseConv(3).double()
    along_edges = GridDepthwiseConv(3, over="edges").double()
    along_edges.load_state_dict(over_grid.state_dict())
    out = over_grid(x, batch)
    want = torch.zeros_like(x)
    for i in range(batch.num_nodes):
        for j in range(batch.num_nodes):
            step = batch.pos[j] - batch.pos[i]
            if batch.batch[i] == batch.batch[j] and int(step.abs().max()) <= 1:
                want[i] += over_grid.weight[:, 0, int(step[0]) + 1, int(step[1]) + 1] * x[j]
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(along_edges(x, batch), out)
    for form in (over_grid, along_edges):
        (form(x, batch) * random(batch.num_nodes, 3, seed=2)).sum().backward()
    torch.testing.assert_close(along_edges.weight.grad, over_grid.weight.grad)


def test_messages_stop_at_walls():
    data = grid(1, 3)
    data.edge_index = data.edge_index[:, (data.edge_index.sum(0) != 1)]  # none between the first two
    conv, x = GridDepthwiseConv(1, over="edges").double(), random(3, 1)
    want = GridDepthwiseConv(1).double()
    want.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x, data)[:1], want.weight[:, 0, 1, 1] * x[:1])
    torch.testing.assert_close(conv(x, data)[2:], want(x, grid(1, 3))[2:])


def test_on_any_graph_it_weighs_the_token_and_its_neighbours():
    conv, x = NeighborDepthwiseConv(2).double(), random(4, 2)
    star = Data(edge_index=torch.tensor([[1, 2, 3, 0], [0, 0, 0, 1]]), num_nodes=4)
    own, other = conv.weight
    out = conv(x, star)
    torch.testing.assert_close(out[0], own * x[0] + other * x[1:].mean(0))
    torch.testing.assert_close(out[1], own * x[1] + other * x[0])
    torch.testing.assert_close(out[2:], own * x[2:])


def test_the_gate_leads_from_the_convolution_alone_to_the_scans_alone():
    mixer = perturbed(BiGatedLinearAttention(8, heads=2))
    data, x = grid(2, 3), random(6, 8)
    near = mixer.conv(x, data)
    with torch.no_grad():
        mixer.lin_mix.bias.fill_(-1e9)
    want = mixer.lin_out(mixer.local_norm(near.view(6, 2, 4)).flatten(1))
    torch.testing.assert_close(mixer(x, data), want)
    with torch.no_grad():
        mixer.lin_mix.bias.fill_(1e9)
    want = mixer.lin_out(mixer.norm(mixer.scan(near, torch.tensor([0, 6]))).flatten(1))
    torch.testing.assert_close(mixer(x, data), want)


def test_without_the_local_branch_it_is_the_scans_alone():
    mixer = perturbed(BiGatedLinearAttention(8, heads=2, local="none"))
    x = random(5, 8)
    torch.testing.assert_close(mixer(x), mixer.lin_out(mixer.norm(mixer.scan(x, torch.tensor([0, 5]))).flatten(1)))


def test_silu_comes_after_the_convolution_and_before_the_last_map():
    plain, silu = (perturbed(BiGatedLinearAttention(4, heads=1, silu=s)) for s in (False, True))
    with torch.no_grad():
        for mixer in (plain, silu):
            mixer.lin_mix.bias.fill_(-1e9)
    data, x = grid(2, 2), random(4, 4)
    near = F.silu(plain.conv(x, data))
    want = silu.lin_out(F.silu(silu.local_norm(near[:, None])).flatten(1))
    torch.testing.assert_close(silu(x, data), want)
    assert not torch.allclose(plain(x, data), want)


def test_every_token_reaches_every_token():
    mixer = perturbed(BiGatedLinearAttention(4, heads=2))
    data, x = grid(3, 4), random(12, 4).requires_grad_()
    out = mixer(x, data)
    for i in range(12):
        (found,) = torch.autograd.grad(out[i].sum(), x, retain_graph=True)
        assert bool((found.abs().sum(1) > 0).all())


@pytest.mark.parametrize(("size", "count"), [("tiny", 5_834_536), ("small", 22_615_144), ("base", 89_022_184)])
def test_sizes_are_those_of_the_paper(size, count):
    with torch.device("meta"):
        model = ViG.of_size(size, 3 * 16**2, 1000, max_positions=14**2)
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_stem_is_two_convolutions_of_the_image():
    images = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    stem = ConvStem(3 * 16, 6, patch=4).double()
    batch = ImageGraphs(images, patch=4).batch(torch.tensor([1, 0]))
    h = stem.first(images.flip(0))
    h = F.silu(F.layer_norm(h.movedim(1, -1), (3,)).movedim(-1, 1))
    want = F.layer_norm(stem.second(h).movedim(1, -1), (6,)).reshape(-1, 6)
    torch.testing.assert_close(stem(batch.x, TokenLayout.of(batch, 12)), want)


@pytest.mark.parametrize("stem", ["conv", "linear"])
def test_a_model_learns_and_answers_alike_in_training_and_evaluation(stem):
    torch.manual_seed(0)
    images = torch.zeros(8, 1, 8, 8)
    images[:4, :, :4] = 1  # the upper half is light, or the right one
    images[4:, :, :, 4:] = 1
    graphs = ImageGraphs(images, patch=4, y=torch.tensor([0] * 4 + [1] * 4))
    batch = graphs.batch(torch.arange(8))
    model = ViG(16, 12, 2, max_positions=4, patch=4, heads=2, num_layers=1, stem=stem)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x, batch), batch.y).backward()
        optimizer.step()
    logit = model(batch.x, batch)
    assert bool((logit.argmax(1) == batch.y).all())
    torch.testing.assert_close(model.eval()(batch.x, batch), logit)


def test_stochastic_depth_skips_whole_graphs_and_keeps_the_mean():
    torch.manual_seed(0)
    tokens = TokenLayout(torch.arange(0, 3001, 3))
    h = torch.ones(3000, 2)
    drop = StochasticDepth(0.25)
    out = drop(h, tokens).view(1000, 3, 2)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert bool((out == out[:, :1, :1]).all())
    assert abs(float(out.mean()) - 1) < 0.06
    assert drop.eval()(h, tokens) is h


def test_vig_drops_branches_in_training_alone():
    model = ViG(4, 8, 2, max_positions=4, patch=2, heads=2, num_layers=2, stem="linear", drop_path=0.9)
    assert [part.p for part in model.drop_paths] == [0.0, 0.9]
    batch = ImageGraphs(torch.rand(6, 1, 4, 4), patch=2).batch(torch.arange(6))
    torch.manual_seed(0)
    assert not torch.allclose(model(batch.x, batch), model(batch.x, batch))
    model.eval()
    assert torch.equal(model(batch.x, batch), model(batch.x, batch))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BiGatedLinearAttention(6, heads=2), "multiple of twice heads=2"),
        (lambda: BiGatedLinearAttention(8, heads=2, local="image"), "local must be one of"),
        (lambda: BiGatedLinearAttention(8, heads=2)(torch.ones(3, 8)), "needs pos"),
        (lambda: BiGatedLinearAttention(8, heads=2, local="graph")(torch.ones(3, 8)), "needs edge_index"),
        (lambda: GridDepthwiseConv(2, kernel=2), "kernel must be odd"),
        (
            lambda: GridDepthwiseConv(1)(torch.ones(3, 1), Data(pos=torch.tensor([[0, 1], [0, 0], [0, 1]]))),
            r"places of their own \(got \[0, 1\] for tokens 0 and 2\)",
        ),
        (
            lambda: GridDepthwiseConv(1)(torch.ones(2, 1), Data(pos=torch.tensor([[0, 1], [-1, 0]]))),
            r"must not be negative \(got \[-1, 0\] at token 1\)",
        ),
        (lambda: ConvStem(4, 8, patch=2), r"patch must be in \[4, inf\] .got 2"),
        (lambda: ConvStem(25, 8, patch=5), "patch must be even"),
        (lambda: ConvStem(20, 8, patch=4), "multiple of patch²=16"),
        (lambda: ViG(16, 12, 2, 4, 4, heads=2, stem="patches"), "stem must be one of"),
        (lambda: ViG.of_size("huge", 3, 2, 4), "size must be one of"),
        (lambda: StochasticDepth(1.5), "p must"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
