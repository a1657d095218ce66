"""ConViT: the linear limit, edges against all pairs, translation, the class token, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

from graphkit.loader import ImageGraphs
from graphkit.nn import ConViT, GatedPositionalAttention, SelfAttention, TransformerBlock
from graphkit.ops import TokenLayout
from graphkit.transforms import ImageTokens


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(rows: int, columns: int) -> Data:
    return ImageTokens()(Data(image=torch.rand(1, rows, columns)))


def perturbed(mixer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for i, p in enumerate(mixer.double().parameters()):
            p.add_(random(*p.shape, seed=i) * 0.3)
    return mixer


def small(**options) -> ConViT:
    return ConViT(4, 3, max_positions=16, heads=4, head_dim=2, num_layers=3, **{"local_layers": 2, **options}).double()


def test_positions_alone_make_a_linear_map():
    mixer = perturbed(GatedPositionalAttention(6, heads=2))
    data, x, y = grid(3, 3), random(9, 6), random(9, 6, seed=1)
    nn.init.zeros_(mixer.lin_out.bias)
    assert not torch.allclose(mixer(x + y, data), mixer(x, data) + mixer(y, data))
    nn.init.constant_(mixer.gating, 1e9)
    torch.testing.assert_close(mixer(x + y, data), mixer(x, data) + mixer(y, data))


def test_edges_among_all_are_attention_to_all():
    """Grids of different sizes, one of them with two tokens at distance: the edge form is the dense one."""
    mixer = perturbed(GatedPositionalAttention(8, heads=4))
    graphs = [grid(2, 3), grid(1, 1), Data(pos=torch.tensor([[0, 5], [3, 1]]), grid_size=torch.tensor([[4, 6]]))]
    for graph in graphs:
        graph.num_nodes = graph.pos.size(0)
        graph.x = None
        graph.edge_index = torch.cartesian_prod(*[torch.arange(graph.num_nodes)] * 2).t()
    batch = Batch.from_data_list(graphs)
    along = GatedPositionalAttention(8, heads=4, over="edges").double()
    along.load_state_dict(mixer.state_dict())
    x = random(9, 8)
    torch.testing.assert_close(along(x, batch), mixer(x, batch))
    # In a window only those within it are seen.
    window = grid(1, 4)
    x = random(4, 8).requires_grad_()
    (found,) = torch.autograd.grad(along(x, window)[0].sum(), x)
    assert (found.abs().sum(1) > 0).tolist() == [True, True, False, False]


def test_attention_by_place_moves_with_the_image():
    """A patch of features on an empty grid, two columns on: the output moves along."""
    mixer = GatedPositionalAttention(9, heads=9, locality=4.0).double()
    nn.init.constant_(mixer.gating, 1e9)
    nn.init.zeros_(mixer.lin_out.bias)
    there, here = torch.zeros(2, 8, 8, 9, dtype=torch.float64).unbind()
    here[3:5, 2:4] = there[3:5, 4:6] = random(2, 2, 9)
    one, two = (mixer(image.reshape(64, 9), grid(8, 8)).view(8, 8, 9) for image in (here, there))
    torch.testing.assert_close(two[1:7, 3:7], one[1:7, 1:5], atol=1e-6, rtol=0)
    assert float(one.abs().max()) > 0


def test_grids_of_equal_area_in_one_batch():
    model = perturbed(ConViT(1, 3, max_positions=36, heads=4, head_dim=2, num_layers=3, local_layers=2))
    graphs = [grid(4, 9), grid(6, 6)]
    for graph in graphs:
        graph.x = random(36, 1)
    batch = Batch.from_data_list(graphs)
    want = torch.cat([model(graph.x, graph) for graph in graphs])
    torch.testing.assert_close(model(batch.x, batch), want)
    assert not torch.allclose(want[0], want[1])


def test_the_class_token_is_one_more_token_of_the_last_blocks():
    model = perturbed(small())
    batch = ImageGraphs(torch.rand(3, 1, 8, 6, dtype=torch.float64), patch=2).batch(torch.arange(3))
    h = model.embed(batch.x) + model.position.weight[:12].repeat(3, 1)
    for block in model.blocks[:2]:
        h = block(h, batch)
    rows = torch.cat([model.class_token.expand(3, 1, 8), h.view(3, 12, 8)], 1).reshape(39, 8)
    rows = model.blocks[2](rows, torch.arange(0, 40, 13))
    want = model.lin_out(model.norm(rows.view(3, 13, 8)[:, 0]))
    torch.testing.assert_close(model(batch.x, batch), want)


@pytest.mark.parametrize("options", [{}, {"local_layers": 0}, {"local_layers": 3, "head": "mean"}])
def test_images_are_independent_of_their_batch_and_of_the_order_of_nodes(options):
    model = perturbed(small(**options)).eval()
    graphs = [
        ImageTokens(2)(Data(image=torch.rand(1, *size, dtype=torch.float64))) for size in ((4, 8), (8, 8), (2, 2))
    ]
    batch = Batch.from_data_list(graphs)
    out = model(batch.x, batch)
    torch.testing.assert_close(out, torch.cat([model(graph.x, graph) for graph in graphs]))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    moved = Data(x=graphs[1].x[order], pos=graphs[1].pos[order], grid_size=graphs[1].grid_size)
    torch.testing.assert_close(model(moved.x, moved)[0], out[1])
    empty = TokenLayout(torch.tensor([0, 0, 8]), pos=graphs[0].pos, grid_size=torch.cat([graphs[0].grid_size] * 2))
    torch.testing.assert_close(model(graphs[0].x, empty)[1], out[0])
    out.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert bool(torch.isfinite(p.grad).all()), name


@pytest.mark.parametrize(("size", "count"), [("tiny", 5_710_512), ("small", 27_777_322), ("base", 86_540_040)])
def test_sizes_are_those_of_the_released_models(size, count):
    with torch.device("meta"):
        model = ConViT.of_size(size, 3 * 16**2, 1000, max_positions=14**2)
    assert sum(p.numel() for p in model.parameters()) == count


def test_drawing_the_weights_anew_keeps_the_local_start():
    model = small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.reset_parameters()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"embed.weight", "class_token", "position.weight", "blocks.0.mixer.lin_qk.weight"} <= changed
    first = model.blocks[0].mixer
    assert torch.equal(first.lin_v.weight, torch.eye(8, dtype=torch.float64))
    assert first.gating.tolist() == [1.0] * 4
    # Heads look left and right by half a place, up and down by as much: 2 * offset for a strength of one.
    assert first.lin_pos.weight.tolist() == [[a, b, -1] for b in (-1, 1) for a in (-1, 1)]
    with torch.no_grad():
        model.norm.weight.fill_(3)
    model.reset_parameters()
    assert model.norm.weight.tolist() == [1.0] * 8


def test_heads_look_farther_as_their_gates_close():
    mixer = GatedPositionalAttention(8, heads=4, locality=5.0).double()
    layout = TokenLayout.of(grid(6, 6), 36)
    near = mixer.non_locality(random(36, 8), layout)
    nn.init.constant_(mixer.gating, -1e9)
    assert bool((mixer.non_locality(random(36, 8), layout) > near).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(local_layers=4), "local_layers must be in"),
        (lambda: small(local_layers=3), "for the class token to see the image"),
        (lambda: small(head="last"), "head must be one of"),
        (lambda: ConViT.of_size("huge", 4, 3, 4), "size must be one of"),
        (lambda: small()(random(4, 4), torch.tensor([0, 4])), "needs pos"),
        (lambda: small()(random(4, 4), Data(pos=torch.rand(4, 2), num_nodes=4)), "needs pos"),
        (lambda: small()(random(4, 3), grid(2, 2)), r"x must have shape \[N, 4\]"),
        (lambda: small()(random(25, 4), grid(5, 5)), "25 patches, max_positions=16"),
        (lambda: GatedPositionalAttention(4, over="near"), "over must be one of"),
        (
            lambda: GatedPositionalAttention(4, over="edges").non_locality(
                torch.rand(4, 4), TokenLayout.of(grid(2, 2), 4)
            ),
            "over all tokens",
        ),
        (lambda: TransformerBlock(SelfAttention(4), drop_path=2.0), "p must"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GatedPositionalAttention(4, locality=float("nan")), ValueError, "locality must be in"),
        (lambda: TransformerBlock(SelfAttention(4), mlp_ratio=0), ValueError, "mlp_ratio"),
        (lambda: small()(torch.ones(4, 4), grid(2, 2)), TypeError, "but the weights are"),
    ],
)
def test_numbers_that_make_no_model(call, error, message):
    with pytest.raises(error, match=message):
        call()
