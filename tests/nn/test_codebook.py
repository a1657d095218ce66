"""Codebook layers: top-k means, gradients by hand, k-means, hooks into other models, interventions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import GAT, GCN

from graphkit.nn import CodebookLayer, SelfAttention, TokenModel
from graphkit.nn.quantize import (
    codebooks,
    codebooks_off,
    codes_blocked,
    codes_forced,
    unwrap_codebooks,
    wrap_codebooks,
)
from graphkit.utils.seed import seed_everything


@pytest.fixture(autouse=True)
def _seed():
    seed_everything(0)


EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(["cosine", "euclidean"]))
def test_output_is_the_mean_of_the_best_codes(groups, k, metric):
    layer = CodebookLayer(6 * groups, 7, k, groups, metric).double().eval()
    x = torch.randn(5, 6 * groups, dtype=torch.float64)
    out = layer(x)
    for n in range(5):
        for g in range(groups):
            z = F.layer_norm(x[n, 6 * g : 6 * g + 6], (6,))
            codes = layer.codebook[g]
            score = codes @ z / codes.norm(dim=1) if metric == "cosine" else -(codes - z).norm(dim=1)
            best = score.argsort(descending=True)[:k]
            assert layer.last_ids[n, g].tolist() == best.tolist()
            torch.testing.assert_close(out[n, 6 * g : 6 * g + 6], codes[best].mean(0))
    torch.testing.assert_close(layer.lookup(layer.last_ids), out)


def two_steps(loss, task_weight, **options):
    """Gradients of x, of z and of the codes in a task of known gradient."""
    layer = CodebookLayer(2, 3, loss=loss, **options).double()
    layer.codebook.data = torch.tensor([[[1.0, -1.5], [-2.0, 1.0], [5.0, 5.0]]], dtype=torch.float64)
    x = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    (layer(x) * task_weight).sum().backward()
    return layer, x


WEIGHT = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.1, 0.7]], dtype=torch.float64)


@pytest.mark.parametrize("loss", ["aeloss", "base", "vqvae", "fullaeloss"])
def test_gradients_by_hand(loss):
    layer, x = two_steps(loss, WEIGHT)
    z = layer.normalize(x.detach())[:, 0]
    # Rows 0 and 2 have z near (1, -1) and code 0, row 1 code 1; nobody has code 2.
    ids = layer.last_ids[:, 0, 0].tolist()
    assert ids == [0, 1, 0]
    out = layer.codebook[0, ids]
    task = torch.zeros(3, 2).double().index_add(0, torch.tensor(ids), WEIGHT)
    error = torch.zeros(3, 2).double().index_add(0, torch.tensor(ids), 2 * (out - z).detach() / 3)
    wanted = {"aeloss": task + error, "base": task, "vqvae": error, "fullaeloss": task + error}[loss]
    torch.testing.assert_close(layer.codebook.grad[0], wanted)
    assert float(layer.codebook.grad[0, 2].abs().sum()) == 0
    # What arrives at z is what left the layer, and goes on through the normalisation alone.
    plain = x.detach().clone().requires_grad_()
    arrived = WEIGHT + (2 * 0.25 * (z - out).detach() if loss in ("vqvae", "fullaeloss") else 0)
    F.layer_norm(plain, (2,)).backward(arrived)
    torch.testing.assert_close(x.grad, plain.grad)
    torch.testing.assert_close(layer.aux_loss(), (out - z).square().sum(1).mean().detach())


def test_as_many_codes_as_vectors_reproduce_them():
    layer = CodebookLayer(8, 6)
    x = torch.randn(6, 8)
    layer.codebook.data = layer.normalize(x).transpose(0, 1).detach()
    torch.testing.assert_close(layer(x), layer.normalize(x).flatten(1))


def test_length_of_a_code_does_not_change_who_takes_it():
    layer = CodebookLayer(8, 6, k=2).eval()
    x = torch.randn(20, 8)
    layer(x)
    before = layer.last_ids
    layer.codebook.data *= torch.rand(6, 1) * 5 + 0.1
    layer(x)
    assert torch.equal(layer.last_ids, before)


def test_padding_and_company_change_nothing():
    layer = CodebookLayer(8, 6, k=2, groups=2)
    x = torch.randn(3, 4, 8)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    layer(x, mask).sum().backward()
    usage, grad, loss = layer.usage().clone(), layer.codebook.grad, layer.aux_loss()
    assert int(usage.sum()) == 7 * 2 * 2
    ids = layer.last_ids.view(3, 4, 2, 2)
    layer.reset_usage()
    layer(x[mask])
    assert torch.equal(layer.usage(), usage)
    assert torch.equal(layer.last_ids, ids[mask])
    torch.testing.assert_close(layer.aux_loss(), loss)
    # Padded rows take part in the task alone, which has no gradient there when their output is not used.
    layer.zero_grad()
    layer(x, mask)[mask].sum().backward()
    wanted = layer.codebook.grad.clone()
    layer.zero_grad()
    layer(x[mask]).sum().backward()
    torch.testing.assert_close(layer.codebook.grad, wanted)
    assert grad is not None
    layer.eval()
    torch.testing.assert_close(layer(x)[1, 0], layer(x[1, :1])[0])


def test_kmeans_starts_at_the_clusters():
    centre = torch.tensor([[3.0, 0, 0, -3], [0, 3, -3, 0], [-1, 2, 2, -3]])
    x = (centre[:, None] + 0.01 * torch.randn(3, 10, 4)).flatten(0, 1)
    layer = CodebookLayer(4, 3, kmeans_init=True)
    out = layer(x)
    assert float((out - layer.normalize(x).flatten(1)).abs().max()) < 0.05
    again = CodebookLayer(4, 3, kmeans_init=True)
    again.load_state_dict(layer.state_dict())
    before = again.codebook.clone()
    again(torch.randn(9, 4))
    assert torch.equal(again.codebook, before)  # it has started already
    other = CodebookLayer(4, 3)
    other.start_from(x)
    other.eval()
    assert float((other(x) - other.normalize(x).flatten(1)).abs().max()) < 0.05
    with pytest.raises(ValueError, match=r"num_codes=3 needs as many vectors \(got 2\)"):
        CodebookLayer(4, 3, kmeans_init=True)(torch.randn(2, 4))


def test_dead_codes_come_back():
    layer = CodebookLayer(2, 3, replace_every=2)
    layer.codebook.data[0, 2] = -1e-3 * layer.codebook.data[0, :2].sum(0)
    x = torch.randn(50, 2)
    used = 0
    for _ in range(5):
        layer(x)
    layer.reset_usage()
    layer(x)
    used = int((layer.usage() > 0).sum())
    assert used >= 2
    known = CodebookLayer(4, 5).eval()
    assert known.replace_dead(torch.randn(10, 4)) == 5
    known.train()
    known(torch.randn(40, 4))
    assert known.replace_dead(torch.randn(10, 4)) == int((known.usage() == 0).sum())


# In other models ------------------------------------------------------------------------------------------------------


def test_wrapped_model_trains_and_comes_off_again():
    model = GCN(4, 8, 2, 3)
    x = torch.randn(4, 4)
    before, names = model(x, EDGES), {*model.state_dict()}
    made = wrap_codebooks(model, ["convs.0", "convs.1"], 16, k=2)
    assert [layer.in_channels for layer in made.values()] == [8, 3]
    assert codebooks(model) == made
    assert {name for name in model.state_dict() if name not in names and "codebook" not in name} == set()
    out = model(x, EDGES)
    assert not torch.allclose(out, before)
    out.sum().backward()
    assert all(layer.codebook.grad is not None for layer in made.values())
    with codebooks_off(model):
        assert torch.equal(model(x, EDGES), before)
    unwrap_codebooks(model)
    assert torch.equal(model(x, EDGES), before)
    assert {*model.state_dict()} == names
    by_class = wrap_codebooks(model, type(model.convs[0]), 4)
    assert {*by_class} == {"convs.0", "convs.1"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_codebooks_of_its_own(duplicate):
    model = GCN(4, 8, 2, 3).eval()
    wrap_codebooks(model, "convs.0", 16)
    other = duplicate(model)
    x = torch.randn(4, 4)
    before = model(x, EDGES)
    assert torch.equal(other(x, EDGES), before)
    codebooks(other)["convs.0"].codebook.data.zero_()
    assert torch.equal(model(x, EDGES), before)
    assert not torch.allclose(other(x, EDGES), before)
    unwrap_codebooks(other)
    assert not codebooks(other)
    assert torch.equal(model(x, EDGES), before)


def test_heads_of_an_attention_and_of_gat():
    model = TokenModel(0 + 1, 8, 5, lambda channels: SelfAttention(channels, heads=2, causal=True), num_embeddings=5)
    made = wrap_codebooks(model, ["mixers.0.lin_out", "mixers.1.lin_out"], 6, at="input", groups=2)
    made |= wrap_codebooks(model, ["feed_forwards.0.lin_out"], 6)
    model.eval()
    ids = torch.tensor([0, 1, 2, 3, 4])
    model(ids, torch.tensor([0, 2, 5]))
    assert [tuple(layer.last_ids.shape) for layer in made.values()] == [(5, 2, 1), (5, 2, 1), (5, 1, 1)]
    # Causal it stays: what comes later changes no code before.
    first = model(ids)[:3]
    torch.testing.assert_close(model(torch.tensor([0, 1, 2, 0, 0]))[:3], first)
    wrap_codebooks(GAT(4, 8, 2, heads=2), "convs.0", 4)


def test_blocked_codes_never_appear():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()
    layer = wrap_codebooks(model, "0", 6, k=2)["0"]
    x = torch.randn(30, 4)
    model(x)
    before = layer.last_ids
    with codes_blocked(model, {"0": torch.tensor([1, 4])}):
        model(x)
        assert not bool(torch.isin(layer.last_ids, torch.tensor([1, 4])).any())
        # The next best ones move up.
        untouched = ~torch.isin(before, torch.tensor([1, 4])).any(-1)[:, 0]
        assert torch.equal(layer.last_ids[untouched], before[untouched])
    h = model[0].codebook(F.linear(x, model[0].weight, model[0].bias))
    with codes_blocked(model, {"0": torch.arange(6)}, replace=False):
        assert float(model(x).abs().max()) == 0
    torch.testing.assert_close(model(x), h.relu())


def test_forced_codes_make_the_layer_deaf():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    layer = wrap_codebooks(model, "0", 6, k=2, groups=2)["0"]
    x = torch.randn(5, 4, requires_grad=True)
    ids = torch.tensor([[0, 1], [5, 5]])
    with codes_forced(model, {"0": ids}):
        out = model(x)
        assert torch.equal(out, out[:1].expand(5, 2))
        torch.testing.assert_close(out[0], model[1](layer.lookup(ids[None]))[0])
    where = torch.tensor([True, False, False, True, False])
    plain = model(x)
    with codes_forced(model, {"0": ids}, where):
        changed = model(x)
    assert torch.equal(changed[~where], plain[~where])
    assert torch.equal(changed[where], out[where])
    torch.testing.assert_close(model(x), plain)


def test_wrong_arguments():
    for options, message in (
        ({"k": 9}, r"k must be in \[1, 8\]"),
        ({"k": 0}, "k must be"),
        ({"groups": 4}, "divisible by groups"),
        ({"loss": "aelos"}, "did you mean 'aeloss'"),
        ({"metric": "dot"}, "metric must be"),
    ):
        with pytest.raises(ValueError, match=message):
            CodebookLayer(6, 8, **options)
    layer = CodebookLayer(6, 8)
    with pytest.raises(ValueError, match=r"\[\.\.\., 6\]"):
        layer(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="mask must be bool"):
        layer(torch.zeros(2, 6), torch.ones(2))
    with pytest.raises(IndexError, match=r"\[0, 8\)"):
        layer.lookup(torch.tensor([[[8]]]))
    model = GCN(4, 8, 2, 3)
    with pytest.raises(ValueError, match="no module or class"):
        wrap_codebooks(model, "conv.0", 4)
    with pytest.raises(ValueError, match="container"):
        wrap_codebooks(nn.Sequential(nn.Sequential(nn.Linear(2, 2))), "0", 4)
    with pytest.raises(ValueError, match="does not tell its width"):
        wrap_codebooks(nn.Sequential(nn.ReLU()), "0", 4)
    wrap_codebooks(model, "convs.0", 4)
    with pytest.raises(ValueError, match="already"):
        wrap_codebooks(model, "convs.0", 4)
    with pytest.raises(ValueError, match="eval mode"), codes_forced(model, {"convs.0": torch.tensor([[0]])}):
        pass
    model.eval()
    with pytest.raises(IndexError, match=r"\[0, 4\)"), codes_forced(model, {"convs.0": torch.tensor([[4]])}):
        pass
    with pytest.raises(ValueError, match=r"\[groups, k\]"), codes_forced(model, {"convs.0": torch.tensor([0, 1])}):
        pass
    with pytest.raises(ValueError, match="layer must be one of"), codes_forced(model, {"convs.1": torch.tensor([[0]])}):
        pass
    with pytest.raises(ValueError, match="leave k=1"), codes_blocked(model, {"convs.0": torch.arange(4)}):
        pass


def test_what_is_not_a_number_does_not_become_a_code():
    layer = CodebookLayer(4, num_codes=3).eval()
    x = torch.randn(3, 4)
    x[1, 2] = torch.nan
    out = layer(x)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], layer(x[[0, 2]]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(torch.ones(3, 4).long()), TypeError, "x must be floating point"),
        (lambda layer: layer(torch.ones(3, 4).to("meta")), ValueError, "is on"),
        (lambda layer: layer.start_from(torch.full((9, 4), torch.nan)), ValueError, "x holds nan"),
        (lambda layer: layer.start_from(torch.ones(9, 3)), ValueError, r"x must have shape \[N, 4\]"),
        (lambda layer: layer.replace_dead(torch.ones(0, 4)), ValueError, "must hold vectors to replace codes by"),
        (lambda layer: layer.lookup(torch.zeros(1, 1, 1)), ValueError, "ids must be int64"),
    ],
)
def test_vectors_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call(CodebookLayer(4, num_codes=3))
