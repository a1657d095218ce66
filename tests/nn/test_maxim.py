"""MAXIM: windows, gates, the U-shaped network and images of tokens, each against its definition."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

from graphkit.nn import MAXIM, AxisGatedMLP, CrossGating, MultiAxisGatedMLP, OnGrids, RestorationStack
from graphkit.nn.mixer.maxim import PlaceLinear, TokenWindows
from graphkit.ops import TokenLayout
from graphkit.transforms import ImageTokens


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scrambled(module: nn.Module) -> nn.Module:
    """With weights that are all of some size, in double precision."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(3)
    for value in module.parameters():
        value.data = 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return module


def tokens_of(images: torch.Tensor) -> Data:
    """Images ``[B, H, W, C]`` as token graphs, each with its tokens in another order."""
    graphs = []
    for i, image in enumerate(images):
        graph = ImageTokens()(Data(image=image.permute(2, 0, 1)))
        order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(i))
        graphs.append(Data(x=graph.x[order], pos=graph.pos[order], grid_size=graph.grid_size))
    return Batch.from_data_list(graphs)


@pytest.mark.parametrize("axis", ["block", "grid"])
def test_places_are_mixed_within_windows_alone(axis):
    """Against a loop over windows, for graphs of different grids with tokens missing."""
    size, channels = 2, 3
    places = [
        [(r, c) for r, c in product(range(5), range(4)) if (r, c) != (1, 2)],
        [(r, c) for r, c in product(range(3), range(7)) if r + c != 4],
        [(0, 0)],
    ]
    sizes = torch.tensor([[5, 4], [3, 7], [1, 1]])
    pos = torch.tensor([place for graph in places for place in graph])
    ptr = torch.tensor([0, *[len(graph) for graph in places]]).cumsum(0)
    layout = TokenLayout(ptr, pos=pos, grid_size=sizes)
    linear = scrambled(PlaceLinear(size))
    x = random(len(pos), channels)
    out = linear(x, TokenWindows(layout, size, axis))

    weight = linear.weight.view(size, size, size, size)
    want = torch.zeros_like(x)
    for graph, (rows, columns) in enumerate(sizes.tolist()):
        at = {tuple(place): int(ptr[graph]) + i for i, place in enumerate(places[graph])}
        cell = (-(-rows // size), -(-columns // size))
        for (r, c), row in at.items():
            if axis == "block":
                inner = (r % size, c % size)
                window = {(i, j): (r - inner[0] + i, c - inner[1] + j) for i, j in product(range(size), repeat=2)}
            else:
                inner = (r // cell[0], c // cell[1])
                offset = (r % cell[0], c % cell[1])
                window = {
                    (i, j): (i * cell[0] + offset[0], j * cell[1] + offset[1])
                    for i, j in product(range(size), repeat=2)
                }
            want[row] = linear.bias.view(size, size)[inner]
            for (i, j), place in window.items():
                if place in at:
                    want[row] += weight[inner[0], inner[1], i, j] * x[at[place]]
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("make", [lambda: AxisGatedMLP(4, 3), lambda: AxisGatedMLP(4, 3, "grid")])
def test_an_axis_is_its_equation(make):
    mixer = scrambled(make())
    x = random(1, 6, 6, 4)
    u, v = nn.functional.gelu(mixer.lin_in(mixer.norm(x)), approximate="tanh").chunk(2, -1)
    v = mixer.gate_norm(v)
    mixed = torch.empty_like(v)
    for r, c in product(range(2), repeat=2):
        cut = np.s_[:, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3] if mixer.axis == "block" else np.s_[:, r::2, c::2]
        window = v[cut].reshape(9, 4)
        mixed[cut] = (mixer.gate.weight @ window + mixer.gate.bias[:, None]).view(1, 3, 3, 4)
    torch.testing.assert_close(mixer.mix_images(x), x + mixer.lin_out(u * (mixed + 1)))


MIXERS = {
    "block": lambda: AxisGatedMLP(4, 2, "block"),
    "grid": lambda: AxisGatedMLP(4, 2, "grid"),
    "both": lambda: MultiAxisGatedMLP(4, 2, 3),
}


@pytest.mark.parametrize("name", MIXERS)
def test_images_and_tokens_agree(name):
    mixer = scrambled(MIXERS[name]())
    images = random(2, 6, 12, 4)
    data = tokens_of(images)
    layout = TokenLayout.of(data, data.num_nodes)
    torch.testing.assert_close(layout.to_canvas(mixer(data.x, data)), mixer.mix_images(images))


def test_cross_gating_of_images_and_tokens_agrees():
    gating = scrambled(CrossGating(4, 2, 3, x_channels=5, y_channels=3))
    x, y = random(2, 6, 12, 5), random(2, 6, 12, 3, seed=1)
    data = tokens_of(torch.cat([x, y], -1))
    layout = TokenLayout.of(data, data.num_nodes)
    got = gating(data.x[:, :5], data.x[:, 5:], data)
    for part, want in zip(got, gating.mix_images(x, y), strict=True):
        torch.testing.assert_close(layout.to_canvas(part), want)


def test_shifts():
    """The block axis commutes with shifts by whole blocks, the grid axis with shifts within all cells alike."""
    x = random(1, 8, 8, 4)
    block, grid = scrambled(AxisGatedMLP(4, 4, "block")), scrambled(AxisGatedMLP(4, 2, "grid"))

    def by_blocks(h):
        return h.roll((4, -4), (1, 2))

    def in_cells(h):
        return h.view(1, 2, 4, 2, 4, 4).roll((1, -2), (2, 4)).reshape(h.shape)

    torch.testing.assert_close(block.mix_images(by_blocks(x)), by_blocks(block.mix_images(x)))
    torch.testing.assert_close(grid.mix_images(in_cells(x)), in_cells(grid.mix_images(x)))
    assert not torch.allclose(block.mix_images(x.roll(1, 1)), block.mix_images(x).roll(1, 1))
    assert not torch.allclose(grid.mix_images(x.roll(1, 1)), grid.mix_images(x).roll(1, 1))


@pytest.mark.parametrize("axis", ["block", "grid"])
def test_a_pixel_sees_its_window(axis):
    mixer = scrambled(AxisGatedMLP(4, 2, axis))
    x = random(1, 6, 4, 4).requires_grad_()
    row, column = 4, 1
    weights = random(4, seed=5)
    (found,) = torch.autograd.grad((mixer.mix_images(x)[0, row, column] * weights).sum(), x)
    seen = {tuple(place) for place in (found[0].abs().sum(-1) > 0).nonzero().tolist()}
    if axis == "block":
        assert seen == {(4, 0), (4, 1), (5, 0), (5, 1)}
    else:
        assert seen == {(1, 1), (1, 3), (4, 1), (4, 3)}


def test_gates_that_do_nothing():
    mixer = scrambled(AxisGatedMLP(4, 2))
    nn.init.zeros_(mixer.gate.weight)
    nn.init.zeros_(mixer.gate.bias)
    x = random(1, 4, 4, 4)
    u = nn.functional.gelu(mixer.lin_in(mixer.norm(x)), approximate="tanh")[..., :4]
    torch.testing.assert_close(mixer.mix_images(x), x + mixer.lin_out(u))

    gating = scrambled(CrossGating(4, 2))
    for part in gating.modules():
        if isinstance(part, PlaceLinear):
            nn.init.zeros_(part.weight)
            nn.init.ones_(part.bias)
    y = random(1, 4, 4, 4, seed=1)
    _, got = gating.mix_images(x, y)
    constant = gating.gate_x.lin_out(torch.ones(8, dtype=torch.float64))
    h = gating.lin_y(y)
    v = nn.functional.gelu(gating.in_y(gating.norm_y(h)), approximate="tanh")
    torch.testing.assert_close(got, h + gating.out_y(v * constant))


def test_gates_start_as_the_paper_has_them():
    gating, mixer = CrossGating(4, 8), MultiAxisGatedMLP(4, 8)
    places = [part for part in gating.modules() if isinstance(part, PlaceLinear)]
    assert len(places) == 4
    assert all(bool((part.bias == 1).all()) for part in places)
    assert bool((mixer.block.gate.bias == 0).all())
    assert float(mixer.block.gate.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert float(mixer.grid.gate.weight.std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 6_108_515),
        ({"channels": 64}, 19_361_219),
        ({"stages": 2, "scales": 3}, 14_176_178),
        ({"stages": 3, "scales": 3}, 22_212_795),
    ],
)
def test_parameters_of_the_papers_networks(settings, count):
    """The comments of the authors' code, and 14.1 and 22.2 million in the paper."""
    with torch.device("meta"):
        network = MAXIM(**settings)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.multiple == 64


def small(**settings) -> MAXIM:
    torch.manual_seed(0)
    return MAXIM(2, 4, **{"depth": 2, "groups": 1, "bottlenecks": 1, "block": (2, 2), "grid": (2, 2), **settings})


def test_one_network_takes_images_of_any_size():
    network = small().eval()
    for size in ((8, 8), (16, 8), (24, 32)):
        assert network(torch.rand(1, 2, *size)).shape == (1, 2, *size)


def test_stages_and_scales():
    network = small(stages=2, scales=2)
    images = torch.rand(3, 2, 8, 16)
    outputs = network(images)
    assert [tuple(out.shape[2:]) for out in outputs] == [(8, 16), (4, 8)] * 2
    sum(out.square().sum() for out in outputs).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    alone = network.eval()(images)
    torch.testing.assert_close(alone, outputs[0])
    # The last convolutions give what is added to the input, or to the pixels nearest to the middles of squares.
    for head in network.stages[-1].heads:
        nn.init.zeros_(head.weight)
    torch.testing.assert_close(network(images), images)
    torch.testing.assert_close(network.train()(images)[1], images[:, :, 1::2, 1::2])


def test_other_outputs_are_not_added_to_the_input():
    network = small(out_channels=3).eval()
    nn.init.zeros_(network.stages[0].heads[0].weight)
    assert network(torch.rand(1, 2, 8, 8)).shape == (1, 3, 8, 8)
    assert float(network(torch.rand(1, 2, 8, 8)).abs().max()) == 0


def test_parts_of_a_batch_do_not_mix():
    network = small().double().eval()
    images = random(3, 2, 8, 8)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@pytest.mark.parametrize("make", [lambda: small(stages=2), lambda: RestorationStack(2, 4, block=2)])
def test_reset_draws_all_weights_anew(make):
    network = make()
    fresh = copy.deepcopy(network)
    for value in network.parameters():
        value.data.fill_(torch.nan)
    network.reset_parameters()
    for (name, value), other in zip(network.named_parameters(), fresh.parameters(), strict=True):
        assert bool(value.isfinite().all()), name
        if value.numel() > 100:
            assert float(value.std()) == pytest.approx(float(other.std()), rel=0.4), name


def test_an_image_can_be_learned_by_heart():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 1, 8, 8, generator=generator)
    noisy = target + 0.2 * torch.randn(1, 1, 8, 8, generator=generator)
    network = MAXIM(1, 8, depth=1, groups=1, bottlenecks=1, block=4, grid=4)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network(noisy) - target).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert -10 * float(loss.detach().log10()) > 40


class Half(nn.Module):
    """Half of each pixel, of images whose sides are multiples of 4."""

    multiple = 4

    def forward(self, images):
        assert images.size(2) % 4 == images.size(3) % 4 == 0
        self.seen = images
        return images / 2


@pytest.mark.parametrize(("height", "width"), [(7, 5), (4, 8), (1, 2)])
def test_images_of_other_sizes_are_reflected_and_cut(height, width):
    images = random(2, height, width, 3)
    data = tokens_of(images)
    network = Half()
    torch.testing.assert_close(OnGrids(network)(data.x, data), data.x / 2)
    down, right = -height % 4, -width % 4
    border = ((0, 0), (0, 0), (down // 2, down - down // 2), (right // 2, right - right // 2))
    want = np.pad(images.permute(0, 3, 1, 2).numpy(), border, mode="symmetric")
    np.testing.assert_array_equal(network.seen.numpy(), want)


def test_grids_must_be_full():
    whole = ImageTokens()(Data(image=torch.rand(1, 4, 4)))
    missing = Data(x=whole.x[1:], pos=whole.pos[1:], grid_size=whole.grid_size)
    other = ImageTokens()(Data(image=torch.rand(1, 2, 8)))
    network = OnGrids(nn.Identity())
    for data in (missing, Batch.from_data_list([whole, other])):
        with pytest.raises(ValueError, match=r"fill a grid of one size.*got \d+ tokens"):
            network(data.x, data)
    with pytest.raises(ValueError, match="pos"):
        network(whole.x, None)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="axis must be one of"):
        AxisGatedMLP(4, 2, "row")
    with pytest.raises(ValueError, match="size must be"):
        AxisGatedMLP(4, 0)
    with pytest.raises(ValueError, match=r"multiples of 3, the grid size \(got 4 x 6\)"):
        AxisGatedMLP(4, 3, "grid").mix_images(torch.rand(1, 4, 6, 4))
    with pytest.raises(ValueError, match="grid_size"):
        AxisGatedMLP(4, 2)(torch.rand(2, 4), Data(pos=torch.tensor([[0, 0], [0, 1]]), num_nodes=2))
    double = Data(pos=torch.tensor([[0, 0], [0, 0]]), grid_size=torch.tensor([[2, 2]]), num_nodes=2)
    with pytest.raises(ValueError, match="places of their own"):
        AxisGatedMLP(4, 2)(torch.rand(2, 4), double)
    with pytest.raises(ValueError, match="images of one size"):
        CrossGating(4, 2).mix_images(torch.rand(1, 4, 4, 4), torch.rand(1, 2, 2, 4))
    with pytest.raises(ValueError, match="one row a token"):
        CrossGating(4, 2)(torch.rand(4, 4), torch.rand(3, 4))
    with pytest.raises(ValueError, match="block must be a number or one for each of 3 levels"):
        MAXIM(block=(16, 8))
    with pytest.raises(ValueError, match="scales must be"):
        MAXIM(scales=4)
    with pytest.raises(ValueError, match=r"multiples of 8 for these.*got 8 x 12"):
        small()(torch.rand(1, 2, 8, 12))
    with pytest.raises(ValueError, match=r"images must have shape \[B, 2, H, W\]"):
        small()(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images must have shape \[B, 1, H, W\]"):
        RestorationStack(1, 4)(torch.rand(8, 8))
    with pytest.raises(ValueError, match="blocks must be one of"):
        RestorationStack(1, 4, blocks="mixed")


def test_a_stack_is_its_parts():
    images = random(2, 1, 4, 4)
    for blocks, count in (("both", 35_541), ("mlp", 13_977), ("conv", 22_021)):
        assert sum(p.numel() for p in RestorationStack(1, 24, blocks=blocks).parameters()) == count
        stack = scrambled(RestorationStack(1, 3, 2, block=2, blocks=blocks))
        h = stack.stem(images).permute(0, 2, 3, 1)
        for layer in range(2):
            h = stack.mixers[layer].mix_images(h) if blocks != "conv" else h
            h = stack.convs[layer](h) if blocks != "mlp" else h
        torch.testing.assert_close(stack(images), images + stack.head(h.permute(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MAXIM(1, 4, depth=1, block=2, grid=2)(torch.rand(1, 1, 0, 4)), ValueError, "H and W > 0"),
        (lambda: MAXIM(1, 4, depth=1, block=2, grid=2)(torch.rand(1, 1, 4, 4).double()), TypeError, "images is"),
        (lambda: RestorationStack(1, 4, block=2)(torch.ones(1, 1, 4, 4).byte()), TypeError, "must be floating point"),
        (lambda: MultiAxisGatedMLP(4, 2).mix_images(torch.rand(4, 4, 4)), ValueError, r"images \[B, H, W, 4\]"),
        (lambda: AxisGatedMLP(4, 2).mix_images(torch.rand(1, 4, 4, 3)), ValueError, r"images \[B, H, W, 4\]"),
        (lambda: CrossGating(4, 2)(torch.rand(6, 3), torch.rand(6, 4)), ValueError, r"x must have shape \[N, 4\]"),
        (lambda: CrossGating(4, 2).mix_images(*[torch.rand(1, 4, 4, 3)] * 2), ValueError, r"images \[B, H, W, 4\]"),
        (
            lambda: OnGrids(RestorationStack(1, 4))(torch.rand(0, 1), Data(pos=torch.zeros(0, 2).long())),
            ValueError,
            "tokens",
        ),
    ],
)
def test_images_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
