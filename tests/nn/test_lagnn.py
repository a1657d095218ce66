"""Networks with generated matrices: without any they are the plain network, and branches are what they say."""

from __future__ import annotations

import pytest
import torch
from samples import messy_graph
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv, GraphConv, SAGEConv

from graphkit.nn import GCNII, GNN, LAGAT, LAGCN, LAGCNII, LASAGE, LocallyAugmented
from graphkit.ops import NeighborIndex

MAKERS = [
    lambda m, **k: LAGCN(5, 4, 3, m, **k),
    lambda m, **k: LAGCN(5, 4, 3, m, num_layers=3, **k),
    lambda m, **k: LASAGE(5, 4, 3, m, **k),
    lambda m, **k: LAGAT(5, 4, 3, m, heads=2, output_heads=2, **k),
    lambda m, **k: LAGCNII(5, 4, 3, m, num_layers=3, **k),
]


def inputs(count: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    edge_index, num_nodes = messy_graph(seed)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]].unique(dim=1)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_nodes, 5, generator=generator) for _ in range(count)], edge_index


# Without generated matrices


@pytest.mark.parametrize(("kind", "conv"), [(LAGCN, "gcn"), (LASAGE, "sage")])
def test_without_generated_matrices_it_is_the_plain_network(kind: type, conv: str) -> None:
    (x,), edge_index = inputs(1)
    model = kind(5, 4, 3, 0, dropout=0.5)
    plain = GNN(5, 4, 2, 3, conv=conv, input_dropout=0.5, dropout=0.5, layer_norm=False)
    first, rest = model.branches[0], model.rest
    for mine, theirs in ((plain.neighbor_linears, "neighbor_linears"), (plain.root_linears, "root_linears")):
        for layer, part in zip(mine, (first, rest), strict=False):
            layer.load_state_dict(getattr(part, theirs)[0].state_dict())
    for bias, part in zip(plain.biases, (first, rest), strict=True):
        bias.data.copy_(part.biases[0])
    for training in (False, True):
        # The same numbers are drawn in the same order.
        torch.manual_seed(1)
        expected = plain.train(training)(x, edge_index)
        torch.manual_seed(1)
        assert torch.equal(model.train(training)(x, edge_index), expected)
    assert torch.equal(model.eval()([x], edge_index), model(x, edge_index))


def test_gcnii_without_generated_matrices() -> None:
    (x,), edge_index = inputs(1)
    model, plain = LAGCNII(5, 4, 3, 0, num_layers=3, dropout=0.3), GCNII(5, 4, 3, num_layers=3, dropout=0.3)
    plain.input.load_state_dict(model.branches[0].linear.state_dict())
    plain.layers.load_state_dict(model.rest.state_dict())
    assert torch.equal(model.eval()(x, edge_index), plain.eval()(x, edge_index))


def test_gat_without_generated_matrices_is_pygs() -> None:
    (x,), edge_index = inputs(1)
    model = LAGAT(5, 4, 3, 0, heads=2).eval()
    first, second = GATConv(5, 4, 2), GATConv(8, 3, 1, concat=False)
    first.load_state_dict(model.branches[0].conv.state_dict())
    second.load_state_dict(model.rest.conv.state_dict())
    expected = second(F.elu(first(x, edge_index), 0.2), edge_index)
    torch.testing.assert_close(model(x, edge_index), expected)


# With them


def test_lagcn_is_the_papers_equation() -> None:
    x_list, edge_index = inputs(3)
    model = LAGCN(5, 4, 3, 2).eval()
    parts = []
    for x, branch in zip(x_list, model.branches, strict=True):
        conv = GCNConv(5, 4)
        conv.lin.weight.data.copy_(branch.neighbor_linears[0].weight)
        conv.bias.data.copy_(branch.biases[0].data.normal_())
        parts.append(conv(x, edge_index).relu())
    last = GCNConv(12, 3)
    last.lin.weight.data.copy_(model.rest.neighbor_linears[0].weight)
    torch.testing.assert_close(model(x_list, edge_index), last(torch.cat(parts, 1), edge_index))


@pytest.mark.parametrize("make", MAKERS)
def test_a_tied_branch_on_the_same_features_doubles_the_hidden_units(make) -> None:
    (x,), edge_index = inputs(1)
    torch.manual_seed(0)
    model = make(1).eval()
    model.branches[1].load_state_dict(model.branches[0].state_dict())
    hidden = []
    model.activation.register_forward_hook(lambda _, __, out: hidden.append(out))
    model([x, x], edge_index)
    left, right = hidden[0].chunk(2, dim=1)
    assert torch.equal(left, right)
    alone = make(0).eval()
    alone.branches[0].load_state_dict(model.branches[0].state_dict())
    alone.activation.register_forward_hook(lambda _, __, out: hidden.append(out))
    alone(x, edge_index)
    torch.testing.assert_close(hidden[1], left)


def test_doubled_hidden_units_with_halved_weights_give_the_same_output() -> None:
    (x,), edge_index = inputs(1)
    model, alone = LAGCN(5, 4, 3, 1).eval(), LAGCN(5, 4, 3, 0).eval()
    for branch in model.branches:
        branch.load_state_dict(alone.branches[0].state_dict())
    weight = alone.rest.neighbor_linears[0].weight.data
    model.rest.neighbor_linears[0].weight.data.copy_(torch.cat([weight, weight], 1) / 2)
    torch.testing.assert_close(model([x, x], edge_index), alone(x, edge_index))


@pytest.mark.parametrize("make", MAKERS)
def test_average_is_the_plain_network_on_the_mean(make) -> None:
    x_list, edge_index = inputs(2)
    torch.manual_seed(0)
    model = make(1, mode="average").eval()
    plain = make(0).eval()
    plain.load_state_dict(model.state_dict())
    expected = plain((x_list[0] + x_list[1]) / 2, edge_index)
    torch.testing.assert_close(model(x_list, edge_index), expected)
    sparse = [x_list[0].to_sparse_csr(), x_list[1]]
    torch.testing.assert_close(model(sparse, edge_index), expected)


@pytest.mark.parametrize("make", MAKERS)
def test_copies_side_by_side_are_the_views_one_by_one(make) -> None:
    x_list, edge_index = inputs(4)
    num_nodes = x_list[0].size(0)
    torch.manual_seed(0)
    model = make(1).eval()
    graph = NeighborIndex(edge_index, num_nodes)
    views = [torch.cat(x_list[:2]), torch.cat(x_list[2:])]
    views[0] = views[0].to_sparse_csr()
    apart = [model([x_list[k], x_list[2 + k]], edge_index) for k in range(2)]
    torch.testing.assert_close(model(views, graph.repeat(2)), torch.cat(apart))


def test_any_layers_fit() -> None:
    """PyG's get its edges and dense features; GraphKit's an index."""
    x_list, edge_index = inputs(2)
    torch.manual_seed(0)
    first, rest = SAGEConv(5, 4), GraphConv(8, 3)
    model = LocallyAugmented(lambda: SAGEConv(5, 4), rest, activation=nn.Tanh())
    expected = rest(
        torch.cat([b(x, edge_index) for b, x in zip(model.branches, x_list, strict=True)], 1).tanh(), edge_index
    )
    torch.testing.assert_close(model(x_list, edge_index), expected)
    torch.testing.assert_close(model([x_list[0].to_sparse_csr(), x_list[1]], edge_index), expected)
    assert first is not model.branches[0]
    mixed = LocallyAugmented(lambda: GNN(5, 4, 1), GraphConv(8, 3))
    assert mixed(x_list, NeighborIndex(edge_index, x_list[0].size(0))).shape == (x_list[0].size(0), 3)


def test_directed_edges_reach_all_layers_alike() -> None:
    edge_index = torch.tensor([[0, 1], [1, 2]])
    x = torch.eye(3, 5)
    for make in MAKERS:
        torch.manual_seed(0)
        model = make(0).eval()
        graph = NeighborIndex(edge_index.flip(0), 3)  # row i lists whom node i hears from
        base = model(x, graph)
        changed = model(x + torch.tensor([[0.0], [0.0], [1.0]]), graph)
        # Node 2 is heard by nobody else.
        assert torch.equal(base[:2], changed[:2])
        assert not torch.equal(base[2], changed[2])


# Wrong input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LAGCN(5, 4, 3, -1), "num_generated"),
        (lambda: LAGCN(5, 4, 3, mode="sum"), "mode must be one of concat, average"),
        (lambda: LAGCN(5, 0, 3), "hidden_channels"),
        (lambda: LAGCN(5, 4, 3, num_layers=1), "num_layers"),
        (lambda: LAGCN(5, 4, 3, dropout=2), "dropout"),
        (lambda: LAGAT(5, 4, 3, heads=0), "heads"),
        (lambda: LAGAT(5, 4, 3, dropout=-1), "dropout"),
    ],
)
def test_sizes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", MAKERS)
def test_a_list_of_another_length(make, count: int) -> None:
    x_list, edge_index = inputs(count)
    with pytest.raises(ValueError, match=rf"x_list must hold 2 matrices.*\(got {count}\)"):
        make(1)(x_list, edge_index)
