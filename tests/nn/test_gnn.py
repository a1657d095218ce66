"""GCN and GraphSAGE against PyG's layers with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric import EdgeIndex
from torch_geometric.nn import GCNConv, SAGEConv
from torch_geometric.utils import add_self_loops, erdos_renyi_graph

from graphkit.nn import GNN
from graphkit.ops import NeighborIndex

SIZE, WIDTH, HIDDEN, CLASSES = 40, 12, 8, 5


@pytest.fixture(params=["dense", "sparse"])
def x(request: pytest.FixtureRequest) -> Tensor:
    torch.manual_seed(0)
    features = torch.randn(SIZE, WIDTH)
    if request.param == "dense":
        return features
    return (features * (torch.rand(SIZE, WIDTH) < 0.2)).to_sparse_csr()


@pytest.fixture
def edge_index() -> Tensor:
    torch.manual_seed(1)
    edges = erdos_renyi_graph(SIZE, 0.1)
    # The last node has no neighbours.
    return edges[:, (edges < SIZE - 1).all(0)]


class Reference(nn.Module):
    """The layers of PyG, one after the other, with the weights of one of ours."""

    def __init__(self, model: GNN) -> None:
        super().__init__()
        self.layers, self.loops = nn.ModuleList(), model.conv == "sage-gcn"
        for place, linear in enumerate(model.neighbor_linears):
            layer: GCNConv | SAGEConv
            if model.conv == "gcn":
                layer = GCNConv(linear.in_features, linear.out_features)
                pairs = [(layer.lin.weight, linear.weight), (layer.bias, model.biases[place])]
            else:
                layer = SAGEConv(linear.in_features, linear.out_features, root_weight=model.conv == "sage")
                pairs = [(layer.lin_l.weight, linear.weight), (layer.lin_l.bias, model.biases[place])]
                if model.conv == "sage":
                    pairs.append((layer.lin_r.weight, model.root_linears[place].weight))
            for theirs, ours in pairs:
                theirs.data.copy_(ours.data)
            self.layers.append(layer)
        self.norms = model.norms

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        if self.loops:
            edge_index, _ = add_self_loops(edge_index, num_nodes=x.size(0))
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.relu(norm(layer(x, edge_index)))
        return self.layers[-1](x, edge_index)


def model_of(conv: str, num_layers: int = 2, **options) -> GNN:
    torch.manual_seed(2)
    model = GNN(WIDTH, HIDDEN, num_layers, CLASSES, conv=conv, **options)
    for bias in model.biases:
        nn.init.normal_(bias)
    return model


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("conv", ["gcn", "sage", "sage-gcn"])
def test_same_function_as_pyg(conv: str, num_layers: int, layer_norm: bool, x: Tensor, edge_index: Tensor) -> None:
    model = model_of(conv, num_layers, layer_norm=layer_norm)
    expected = Reference(model)(x.to_dense(), edge_index)
    torch.testing.assert_close(model(x, edge_index), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conv", ["gcn", "sage", "sage-gcn"])
def test_same_gradients_as_pyg(conv: str, x: Tensor, edge_index: Tensor) -> None:
    model = model_of(conv, layer_norm=False)
    reference = Reference(model)
    target = torch.arange(SIZE) % CLASSES
    F.cross_entropy(model(x, edge_index), target).backward()
    F.cross_entropy(reference(x.to_dense(), edge_index), target).backward()
    for place, layer in enumerate(reference.layers):
        theirs = layer.lin if conv == "gcn" else layer.lin_l
        torch.testing.assert_close(model.neighbor_linears[place].weight.grad, theirs.weight.grad, atol=1e-5, rtol=1e-5)
        bias = layer.bias if conv == "gcn" else layer.lin_l.bias
        torch.testing.assert_close(model.biases[place].grad, bias.grad, atol=1e-5, rtol=1e-5)
        if conv == "sage":
            torch.testing.assert_close(
                model.root_linears[place].weight.grad, layer.lin_r.weight.grad, atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("conv", ["gcn", "sage", "sage-gcn"])
def test_every_form_of_the_graph_gives_the_same(conv: str, x: Tensor, edge_index: Tensor) -> None:
    model = model_of(conv).eval()
    expected = model(x, edge_index)
    for graph in (
        NeighborIndex(edge_index, SIZE),
        EdgeIndex(edge_index, sparse_size=(SIZE, SIZE)),
        edge_index[:, torch.randperm(edge_index.size(1))],
    ):
        torch.testing.assert_close(model(x, graph), expected)


@pytest.mark.parametrize("conv", ["gcn", "sage", "sage-gcn"])
def test_dropout_draws_in_training_alone(conv: str, x: Tensor, edge_index: Tensor) -> None:
    model = model_of(conv, input_dropout=0.5, dropout=0.5, edge_dropout=0.3, tail_dropout=0.2)
    assert not torch.equal(model(x, edge_index), model(x, edge_index))
    model.eval()
    assert torch.equal(model(x, edge_index), model(x, edge_index))
    torch.testing.assert_close(model(x, edge_index), Reference(model)(x.to_dense(), edge_index), atol=1e-5, rtol=1e-5)


def test_residual_adds_the_input_where_widths_agree(edge_index: Tensor) -> None:
    x = torch.randn(SIZE, HIDDEN)
    torch.manual_seed(0)
    plain = GNN(HIDDEN, HIDDEN, 1)
    same = GNN(HIDDEN, HIDDEN, 1, residual=True)
    same.load_state_dict(plain.state_dict())
    torch.testing.assert_close(same(x, edge_index), plain(x, edge_index) + x)
    narrower, plain = GNN(HIDDEN, HIDDEN, 1, CLASSES, residual=True), GNN(HIDDEN, HIDDEN, 1, CLASSES)
    narrower.load_state_dict(plain.state_dict())
    torch.testing.assert_close(narrower(x, edge_index), plain(x, edge_index))


def test_reset_parameters_draws_anew() -> None:
    model = model_of("sage")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    model.reset_parameters()
    after = model.state_dict()
    assert not any(torch.equal(after[name], before[name]) for name in before if "linears" in name)
    assert all(bool((bias == 0).all()) for bias in model.biases)
    torch.manual_seed(3)
    model.reset_parameters()
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())


def test_a_graph_without_features_learns_an_embedding(edge_index: Tensor) -> None:
    model = GNN(0, HIDDEN, 2, CLASSES, num_nodes=SIZE)
    assert model(None, edge_index).shape == (SIZE, CLASSES)
    with pytest.raises(ValueError, match="num_nodes must be given with in_channels=0"):
        GNN(0, HIDDEN, 2)
    with pytest.raises(ValueError, match=r"x must be a matrix \[N, 12\] \(got None\)"):
        model_of("gcn")(None, edge_index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv": "gat"}, "conv must be one of gcn, sage, sage-gcn"),
        ({"dropout": 1.5}, "dropout must be in"),
        ({"edge_dropout": -0.1}, "edge_dropout must be in"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GNN(WIDTH, HIDDEN, 2, **options)


def test_features_of_another_width_are_named(edge_index: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \[N, 12\] \(got \[40, 3\]\)"):
        model_of("gcn")(torch.randn(SIZE, 3), edge_index)
