"""Layers for local training: row norms, constant parts against PyG's layers, states and widths."""

from __future__ import annotations

import pytest
import torch
from samples import messy_graph
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, GraphConv, SAGEConv

from graphkit.nn import CachedConv, DotDecoder, ForwardLayer, ForwardStack, sparsify
from graphkit.nn.conv.propagate import graph_for
from graphkit.nn.models.forward_stack import unit_rows
from graphkit.ops import NeighborIndex


def small(seed: int = 0, features: int = 6) -> tuple[Tensor, NeighborIndex]:
    edge_index, size = messy_graph(seed)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    return torch.randn(size, features, generator=torch.Generator().manual_seed(seed)), NeighborIndex(edge_index, size)


def words(size: int, seed: int = 0) -> Tensor:
    """Features of which few are not zero, as a sparse matrix."""
    x = torch.rand(size, 12, generator=torch.Generator().manual_seed(seed))
    found = sparsify(torch.where(x > 0.9, x, 0))
    assert found.is_sparse_csr
    return found


# Row norms ------------------------------------------------------------------------------------------------------------


def test_row_norm_golden_values() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = unit_rows(x)
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    out.sum().backward()
    assert bool(x.grad.isfinite().all())


def test_row_norm_of_a_sparse_matrix_is_that_of_the_dense_one() -> None:
    x = words(40)
    out = unit_rows(x)
    assert out.is_sparse_csr
    torch.testing.assert_close(out.to_dense(), unit_rows(x.to_dense()))


# The layer against PyG's ----------------------------------------------------------------------------------------------


def theirs(conv: CachedConv) -> nn.Module:
    if conv.conv == "gcn":
        other: nn.Module = GCNConv(conv.in_channels, conv.out_channels)
        weights = {"lin.weight": conv.linears[0].weight, "bias": conv.bias}
    else:
        other = SAGEConv(conv.in_channels, conv.out_channels)
        weights = {
            "lin_l.weight": conv.linears[0].weight,
            "lin_l.bias": conv.bias,
            "lin_r.weight": conv.linears[1].weight,
        }
    other.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    return other


@pytest.mark.parametrize("kind", ["gcn", "sage"])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_equal_pygs_layer(kind: str, seed: int) -> None:
    x, graph = small(seed)
    conv = CachedConv(6, 5, kind)
    nn.init.normal_(conv.bias)
    wanted = theirs(conv)(x, graph.edge_index)
    torch.testing.assert_close(conv(x, graph), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(conv.combine(conv.gather([(x, graph)])), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(conv((x[:, :2], x[:, 2:]), graph), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_constant_parts_of_many_inputs_give_outputs_and_gradients(
    kind: str, sparse: bool, shared: bool, count: int
) -> None:
    """Same or different features, same or different graphs, only some rows."""
    size = 20
    conv = CachedConv(12, 5, kind)
    xs = [words(size, k) if sparse else words(size, k).to_dense() for k in range(count)]
    if shared:
        xs = [xs[0]] * count
    draws = (torch.randint(size, (2, 60), generator=torch.Generator().manual_seed(k)) for k in range(count))
    graphs = [NeighborIndex(edges, size) for edges in draws]
    rows = torch.tensor([3, 19, 0, 7])
    inputs = list(zip(xs, graphs, strict=True))
    prepared = conv.gather(inputs, rows)
    wanted = torch.cat([conv(x.to_dense(), graph)[rows] for x, graph in inputs])
    got = conv.combine(prepared)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(wanted)
    for made in (got, wanted):
        (made * weight).sum().backward()
    halves = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    (conv.combine(prepared) * weight).sum().backward()
    for half, one in zip(halves, conv.parameters(), strict=True):
        torch.testing.assert_close(half, 2 * one.grad, atol=1e-4, rtol=1e-4)


def test_what_is_made_once_is_the_cheaper_way() -> None:
    x, graph = small(1)
    rows = torch.tensor([0, 1])
    conv = CachedConv(6, 5)
    (found,) = conv.gather([(x, graph)], rows)
    assert found.operator is None
    assert found.x.shape == (2, 6)
    # Many graphs share one matrix, which is then multiplied once.
    many = [NeighborIndex(graph.edge_index, graph.num_nodes) for _ in range(40)]
    (found,) = conv.gather([(x, g) for g in many])
    assert found.operator is not None
    assert found.x is x
    # Sums of sparse rows are less sparse.
    bag = words(graph.num_nodes)
    (found,) = CachedConv(12, 5).gather([(bag, graph)])
    assert found.x is bag


def test_directed_edges_are_heard_at_their_target() -> None:
    """PyG's edges go from source to target; an index lists for each node those that it hears from."""
    edges = torch.tensor([[0, 0, 1], [1, 2, 2]])
    x = torch.randn(3, 4)
    index = NeighborIndex(edges.flip(0), 3)
    ours = CachedConv(4, 2, "sage")
    torch.testing.assert_close(ours(x, index), theirs(ours)(x, edges))
    layer = ForwardLayer(SAGEConv(4, 2))
    torch.testing.assert_close(layer(x, index), layer(x, edges))
    torch.testing.assert_close(layer.finish(layer.prepare([(x, index)])), layer(x, edges))


# Layer and stack ------------------------------------------------------------------------------------------------------

LAYERS = {
    "gcn": lambda: ForwardStack([12, 8], "gcn").layers[0],
    "sage": lambda: ForwardStack([12, 8], "sage").layers[0],
    "gat": lambda: ForwardStack([12, 8], "gat").layers[0],
    "PyG's GCNConv": lambda: ForwardLayer(GCNConv(12, 8)),
    "PyG's GATConv": lambda: ForwardLayer(GATConv(12, 4, heads=2)),
    "PyG's GraphConv, tanh": lambda: ForwardLayer(GraphConv(12, 8), nn.Tanh()),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("sparse", [False, True])
def test_prepared_equals_called(name: str, sparse: bool) -> None:
    """The constant part made once, for several features and graphs, against the layer on each."""
    layer, size = LAYERS[name](), 15
    xs = [words(size, k) if sparse else words(size, k).to_dense() for k in (0, 0, 1)]
    graphs = [NeighborIndex(torch.randint(size, (2, 40)), size) for _ in xs]
    graphs[1] = graphs[0]
    rows = torch.tensor([4, 2, 9])
    inputs = list(zip(xs, graphs, strict=True))
    wanted = [layer(x, graph) for x, graph in inputs]
    torch.testing.assert_close(layer.finish(layer.prepare(inputs)), torch.cat(wanted), atol=1e-5, rtol=1e-4)
    got = layer.finish(layer.prepare(inputs, rows))
    torch.testing.assert_close(got, torch.cat([h[rows] for h in wanted]), atol=1e-5, rtol=1e-4)
    assert got.requires_grad


def test_what_is_prepared_holds_no_graph() -> None:
    x, graph = small()
    x.requires_grad_()
    for layer in (ForwardStack([6, 4]).layers[0], ForwardLayer(GATConv(6, 4))):
        layer.finish(layer.prepare([(x, graph)])).sum().backward()
        assert x.grad is None


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
def test_length_of_a_layer_below_does_not_matter(conv: str) -> None:
    """Goodness of layer l + 1 cannot be raised by a longer output of layer l."""
    x, graph = small(2)
    layer = ForwardStack([6, 8], conv).layers[0]
    torch.testing.assert_close(layer(7.0 * x, graph), layer(x, graph), atol=1e-5, rtol=1e-4)


def test_prefix_shares_its_layers() -> None:
    stack = ForwardStack([6, 5, 4, 3], "sage")
    x, graph = small()
    part = stack.prefix(2)
    assert [id(p) for p in part.parameters()] == [id(p) for layer in stack.layers[:2] for p in layer.parameters()]
    torch.testing.assert_close(part(x, graph), stack.outputs(x, graph)[1])
    assert list(part.state_dict()) == list(stack.state_dict())[: len(part.state_dict())]
    for depth in (0, 4):
        with pytest.raises(ValueError, match="depth"):
            stack.prefix(depth)


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("top", [0, 3])
def test_layers_see_what_is_above(conv: str, top: int) -> None:
    x, graph = small()
    stack = ForwardStack([6, 8, 4], conv, top_channels=top)
    states = [torch.rand(x.size(0), 8), torch.rand(x.size(0), 4)]
    label = torch.rand(x.size(0), 3) if top else None
    below, above = unit_rows(x), unit_rows(states[1])
    first = stack.layers[0]
    wanted = first.act(first.conv(torch.cat([below, above], 1), graph_for(first.conv, graph)))
    torch.testing.assert_close(stack.step(0, x, graph, states, label), wanted, atol=1e-5, rtol=1e-4)
    second = stack.layers[1]
    blocks = [unit_rows(states[0]), *([unit_rows(label)] if top else [])]
    wanted = second.act(second.conv(torch.cat(blocks, 1), graph_for(second.conv, graph)))
    torch.testing.assert_close(stack.step(1, x, graph, states, label), wanted, atol=1e-5, rtol=1e-4)
    # In a pass from below, nothing is known of the states above.
    zero = [torch.zeros_like(states[0]), torch.zeros_like(states[1])]
    outs = stack.outputs(x, graph, label)
    torch.testing.assert_close(outs[0], stack.step(0, x, graph, zero, label))
    torch.testing.assert_close(outs[1], stack.step(1, x, graph, [outs[0], zero[1]], label))


def test_sparse_features_beside_a_state() -> None:
    _, graph = small()
    x = words(graph.num_nodes)
    for conv in ("gcn", "sage", "gat"):
        stack = ForwardStack([12, 8, 8], conv, top_channels=2)
        torch.testing.assert_close(stack(x, graph), stack(x.to_dense(), graph), atol=1e-5, rtol=1e-4)


def test_states_are_kept_in_the_state_dict() -> None:
    stack = ForwardStack([6, 5, 4], num_nodes=7)
    assert [state.shape for state in stack.states] == [(7, 5), (7, 4)]
    stack.states[1].fill_(2.0)
    other = ForwardStack([6, 5, 4], num_nodes=7)
    other.load_state_dict(stack.state_dict())
    assert bool((other.states[1] == 2).all())
    other.reset_parameters()
    assert not other.states[1].any()
    with pytest.raises(ValueError, match="num_nodes"):
        _ = ForwardStack([6, 5]).states


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardStack([6, 10], "gat", heads=4), r"heads=4 divides \(got 10\)"),
        (lambda: ForwardStack([6]), "at least one more"),
        (lambda: ForwardStack([6, 0]), "layers"),
        (lambda: ForwardStack([6, 4], "gin"), "gcn, sage, gat"),
        (lambda: ForwardStack([6, GCNConv(6, 4)]), "not both"),
        (lambda: ForwardStack([GCNConv(6, 4)], num_nodes=3), "come with widths"),
        (lambda: ForwardStack([6, 4], top_channels=-1), "top_channels"),
        (lambda: ForwardStack([6, 4, 4], top_channels=2).prefix(1), "no prefix"),
        (lambda: CachedConv(0, 4), "in_channels"),
        (lambda: CachedConv(4, 4, "gat"), "gcn, sage"),
        (lambda: CachedConv(4, 4)((torch.ones(2, 1), torch.ones(2, 2)), torch.zeros(2, 0).long()), r"1 \+ 2"),
    ],
)
def test_what_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_dot_decoder() -> None:
    z, pairs = torch.randn(5, 3), torch.tensor([[0, 4, 2], [1, 4, 0]])
    torch.testing.assert_close(DotDecoder()(z, None, pairs)[:, 0], (z @ z.t())[pairs[0], pairs[1]])
    for bad in (-1, 5):
        with pytest.raises(IndexError, match=f"node id {bad}"):
            DotDecoder()(z, None, torch.tensor([[0], [bad]]))
