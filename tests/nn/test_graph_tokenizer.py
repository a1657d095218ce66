"""The graph tokenizer and the student: equations by hand, tokens of equal neighbourhoods, gradients, digits."""

from __future__ import annotations

import pytest
import torch
from samples import messy_graph
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv
from torch_geometric.utils import grid, to_undirected

from graphkit.nn import CodeDistillMLP, GraphTokenizer
from graphkit.ops import NeighborIndex
from graphkit.ops.edge_reconstruction import edge_reconstruction_loss_reference

DOUBLE = torch.float64


def features(num_nodes: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(num_nodes, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def made(*sizes: int, seed: int = 0, **options) -> GraphTokenizer:
    torch.manual_seed(seed)
    return GraphTokenizer(*sizes, **options).double()


def loopless(seed: int) -> tuple[Tensor, int]:
    edges, num_nodes = messy_graph(seed)
    return edges[:, edges[0] != edges[1]].unique(dim=1), num_nodes


@pytest.mark.parametrize("seed", range(3))
def test_the_network_is_the_papers_with_pygs_layers(seed: int) -> None:
    edges, num_nodes = loopless(seed)
    tokenizer, x = made(6, 5, 3, 20, seed=seed), features(num_nodes)
    first, second = GCNConv(6, 6).double(), GCNConv(6, 5).double()
    for ours, theirs in ((tokenizer.conv1, first), (tokenizer.conv2, second)):
        theirs.load_state_dict({"bias": ours.biases[0], "lin.weight": ours.neighbor_linears[0].weight})
    h = F.relu(first(x, edges))
    codebook = tokenizer.quantizer.codebook.clone()
    code = (F.normalize(h, dim=1) @ codebook.t()).argmax(1)
    e = tokenizer.lin_edge(codebook[code])
    want = tokenizer.lin_out(F.relu(second(e, edges)))
    tokenizer.eval()
    out = tokenizer(x, edges)
    torch.testing.assert_close(out.logits, want)
    assert torch.equal(out.tokens.code, code)
    assert out.losses == {}
    out = tokenizer.train()(x, edges)
    torch.testing.assert_close(out.logits, want)
    torch.testing.assert_close(out.losses["node"], 1e-3 * F.mse_loss(tokenizer.lin_node(codebook[code]), h))
    torch.testing.assert_close(out.losses["edge"], 0.03 * edge_reconstruction_loss_reference(e, edges))
    torch.testing.assert_close(out.losses["commitment"], 0.25 * F.mse_loss(h, codebook[code]))


def test_paper_forms_of_the_reconstructions() -> None:
    edges, num_nodes = loopless(1)
    x = features(num_nodes)
    tokenizer = made(6, 5, 3, 20, recon="sce", edge_recon="sigmoid", code_dim=4)
    codebook = tokenizer.quantizer.codebook.clone()
    out = tokenizer(x, edges)
    q = codebook[out.tokens.code]
    cosine = F.cosine_similarity(tokenizer.lin_node(q), x)
    torch.testing.assert_close(out.losses["node"], 1e-3 * (1 - cosine).square().mean())
    dense = edge_reconstruction_loss_reference(tokenizer.lin_edge(q), edges, "sigmoid")
    torch.testing.assert_close(out.losses["edge"], 0.03 * dense)
    # The same of a bag of words.
    sparse = x * (x > 0.6)
    results = [made(6, 5, 3, 20, recon="sce")(form, edges).losses["node"] for form in (sparse, sparse.to_sparse_csr())]
    torch.testing.assert_close(results[0], results[1])


def test_sparse_features_and_an_index_give_the_same() -> None:
    edges, num_nodes = loopless(2)
    x = features(num_nodes) * (features(num_nodes, seed=1) > 0.7)
    tokenizer = made(6, 5, 3, 20).eval()
    want = tokenizer(x, edges)
    got = tokenizer(x.to_sparse_csr(), NeighborIndex(edges, num_nodes))
    torch.testing.assert_close(got.logits, want.logits)
    assert torch.equal(got.tokens.code, want.tokens.code)


@pytest.mark.parametrize("conv", ["gcn", "sage", lambda a, b: GATConv(a, b)])
def test_every_weight_is_trained(conv) -> None:
    edges, num_nodes = loopless(0)
    tokenizer = made(6, 5, 3, 20, conv=conv)
    out = tokenizer(features(num_nodes), edges)
    (out.logits.square().mean() + sum(out.losses.values())).backward()
    for name, weight in tokenizer.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
        assert float(weight.grad.abs().sum()) > 0 or "bias" in name, name


def test_reconstructions_with_weight_zero_are_left_out() -> None:
    edges, num_nodes = loopless(0)
    tokenizer = made(6, 5, 3, 20, lambda_node=0, lambda_edge=0)
    assert tokenizer.lin_node is None
    assert list(tokenizer(features(num_nodes), edges).losses) == ["commitment"]


@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_tokens_move_with_the_nodes(conv: str) -> None:
    edges, num_nodes = loopless(3)
    tokenizer, x = made(6, 5, 3, 20, conv=conv).eval(), features(num_nodes)
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(1))
    moved = torch.empty_like(x)
    moved[order] = x
    code, prob = tokenizer.tokenize(Data(x=x, edge_index=edges))
    other, other_prob = tokenizer.tokenize(Data(x=moved, edge_index=order[edges]))
    assert torch.equal(other[order], code)
    torch.testing.assert_close(other_prob[order], prob)
    torch.testing.assert_close(prob.sum(1), torch.ones(num_nodes, dtype=DOUBLE))
    assert torch.equal(prob.argmax(1), code)


def test_equal_neighbourhoods_get_equal_codes() -> None:
    """Two paths of four nodes with the same features."""
    path = torch.tensor([[0, 0, 1, 4, 4, 5], [1, 3, 2, 5, 7, 6]])
    edges = to_undirected(path)
    x = features(4).repeat(2, 1)
    tokenizer = made(6, 5, 3, 200)
    code, prob = tokenizer.tokenize(Data(x=x, edge_index=edges))
    assert torch.equal(code[:4], code[4:])
    torch.testing.assert_close(prob[:4], prob[4:])
    # A third neighbour of node 5 changes its degree, and by it the vector of node 4, though not node 4's neighbours.
    more = torch.cat([edges, torch.tensor([[5, 8], [8, 5]])], 1)
    _, changed = tokenizer.tokenize(Data(x=torch.cat([x, x[:1]]), edge_index=more))
    assert not torch.allclose(changed[4], prob[4])
    torch.testing.assert_close(changed[:4], prob[:4])


def test_tokenize_leaves_the_mode_and_the_codebook_alone() -> None:
    edges, num_nodes = loopless(0)
    tokenizer = made(6, 5, 3, 20, dropout=0.9)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    data = Data(x=features(num_nodes), edge_index=edges)
    first, second = tokenizer.tokenize(data), tokenizer.tokenize(data)
    assert tokenizer.training
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    with pytest.raises(ValueError, match="x and edge_index"):
        tokenizer.tokenize(Data(edge_index=edges))


def test_digits_as_grids() -> None:
    """Each image is a grid of 64 pixels; how often each code occurs tells the digit, without labels for the codes."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    pixels, label = torch.from_numpy(pixels[:400] / 16), torch.from_numpy(label[:400])
    (row, col), place = grid(8, 8)
    keep = row != col
    edge = torch.stack([row, col])[:, keep]
    edges = torch.cat([edge + 64 * i for i in range(400)], 1)
    where = F.one_hot(place.long()[:, 0] // 2, 4)
    x = torch.cat([pixels.reshape(-1, 1), 0.3 * where.repeat(400, 1)], 1).float()
    torch.manual_seed(0)
    num_codes = 32
    tokenizer = GraphTokenizer(5, 8, 1, num_codes, code_dim=8, dead_code_threshold=0.2, edge_recon="sampled")
    optimizer = torch.optim.Adam(tokenizer.parameters(), 0.01)
    graph = NeighborIndex(edges, x.size(0))
    for _ in range(15):
        optimizer.zero_grad()
        out = tokenizer(x, graph)
        sum(out.losses.values()).backward()
        optimizer.step()
    code, _ = tokenizer.tokenize(Data(x=x, edge_index=edges))
    share = code.bincount(minlength=num_codes).double() / code.numel()
    assert float(torch.special.entr(share).sum().exp()) >= num_codes / 4
    histogram = F.one_hot(code.view(400, 64), num_codes).sum(1).numpy()
    model = LogisticRegression(max_iter=300).fit(histogram[:300], label[:300])
    majority = float((label[300:] == label[:300].mode().values).double().mean())
    assert model.score(histogram[300:], label[300:]) > majority + 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes must be"),
        ({"conv": "gat"}, "conv must be one of gcn, sage"),
        ({"recon": "l1"}, "recon must be one of"),
        ({"edge_recon": "dense"}, "edge_recon must be one of"),
        ({"dropout": 2}, "dropout must be"),
        ({"lambda_node": -1}, "lambda_node must be"),
        ({"decay": 1}, "decay must be"),
        ({"code_dim": 0}, "code_dim must be"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphTokenizer(**{"in_channels": 4, "hidden_channels": 4, "out_channels": 2, "num_codes": 8, **options})


def test_features_that_are_not_finite() -> None:
    x = torch.ones(3, 4)
    x[1, 2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        GraphTokenizer(4, 4, 2, 8)(x, torch.tensor([[0, 1], [1, 0]]))


# The student ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_student_serves_the_same_logits_without_graph_and_code_head(norm: str | None, num_layers: int) -> None:
    torch.manual_seed(0)
    student = CodeDistillMLP(6, 5, 3, 7 if num_layers > 1 else None, num_layers, dropout=0.5, norm=norm)
    x = features(9).float()
    student(x)  # gives batch norm something to remember
    student.eval()
    logits, code = student(x)
    served = student.serving()
    torch.testing.assert_close(served(x), logits)
    assert (code is None) == (num_layers == 1)
    assert code is None or code.shape == (9, 7)
    assert not any(isinstance(part, nn.Dropout) for part in served.modules())
    sizes = sum(p.numel() for p in served.parameters())
    assert sizes == sum(p.numel() for name, p in student.named_parameters() if "lin_code" not in name)


def test_student_ignores_the_graph() -> None:
    student, x = CodeDistillMLP(6, 5, 3, 7).eval(), features(9).float()
    want = student(x)
    for edges in (torch.tensor([[0, 1], [1, 0]]), torch.empty(2, 0, dtype=torch.long), None):
        assert torch.equal(student(x, edges)[0], want[0])
        assert torch.equal(student(x, edges)[1], want[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be"),
        ({"num_layers": 1, "code_dim": 4}, r"num_layers >= 2 \(got 1\)"),
        ({"norm": "group"}, "norm must be one of batch, layer"),
        ({"dropout": -1}, "dropout must be"),
        ({"code_dim": 0}, "code_dim must be"),
    ],
)
def test_bad_students(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeDistillMLP(4, 4, 2, **options)


@pytest.mark.parametrize(("x", "error"), [(None, ValueError), (torch.ones(2, 3).long(), TypeError)])
def test_what_is_no_matrix_of_node_features(x, error):
    with pytest.raises(error, match="x must"):
        GraphTokenizer(3, 4, 2, num_codes=4)(x, torch.tensor([[0, 1], [1, 0]]))
