"""Networks with a format for every tensor: equations, PyG's layers, sizes, integers, genotypes."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import pytest
import torch
from samples import messy_graph
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv

from graphkit.nn import Genotype, LowPrecisionGNN, low_precision_space
from graphkit.nn.models.low_precision import (
    ACTIVATION,
    AGGREGATION,
    ATTENTION,
    LPGNNBlock,
    Source,
    check_space,
)
from graphkit.nn.quantize import pack_bits, saturation_rates
from graphkit.ops import NeighborIndex

FP32: dict[str, Any] = {"weight_options": ["fp32"], "activation_options": ["fp32"]}
EDGES = torch.tensor([[0, 1, 1, 2, 2, 3, 0, 3], [1, 0, 2, 1, 3, 2, 3, 0]])


def single(**changes: Any) -> dict[str, Any]:
    """Options of a space with one network."""
    plain = {"attention": ["gat"], "heads": [2], "aggregation": ["sum"], "activation": ["relu"], "widths": [1]}
    return {**plain, "shortcuts": False, **FP32, **changes}


def network(in_channels: int = 5, hidden: int = 8, classes: int = 3, num_blocks: int = 2, **changes: Any):
    torch.manual_seed(0)
    space = low_precision_space(hidden, classes, num_blocks, **single(**changes))
    return LowPrecisionGNN(Genotype.take(in_channels, space))


# Functions ------------------------------------------------------------------------------------------------------------


def score(name: str, i: int, j: int, h: Tensor, w: dict[str, Tensor]) -> Tensor:
    """The table of attention scores for one head, whose columns h has."""
    if name in ("gat", "sym-gat"):
        one = F.leaky_relu(w["left"] @ h[i] + w["right"] @ h[j], 0.2)
        return one if name == "gat" else one + F.leaky_relu(w["left"] @ h[j] + w["right"] @ h[i], 0.2)
    if name == "linear":
        return torch.tanh(w["left"] @ h[j])
    query, key = w["left_map"] @ h[i], w["right_map"] @ h[j]
    return query @ key if name == "cos" else w["score"] @ torch.tanh(query + key)


def by_equation(block: LPGNNBlock, x: Tensor, neighbors: list[list[int]]) -> Tensor:
    """One node, one head and one neighbour at a time."""
    (name,), (how,), (activation,) = (block.space[key] for key in ("attention", "aggregation", "activation"))
    h = x @ block.linear.t()
    heads = block.heads
    out = torch.zeros_like(h)
    for head, i in product(range(heads), range(x.size(0))):
        columns = torch.arange(head, h.size(1), heads)
        w = {}
        for key, weight in block.attention.items():
            # Maps read all columns; a head scores its own.
            w[key] = weight[columns]
        if name in ("const", "gcn"):
            degree = [len(one) for one in neighbors]
            alpha = [1.0 if name == "const" else (degree[i] * degree[j]) ** -0.5 for j in neighbors[i]]
        else:
            view = h if "left_map" in w else h[:, columns]
            alpha = torch.stack([score(name, i, j, view, w) for j in neighbors[i]]).softmax(0).tolist()
        messages = torch.stack([a * h[j, columns] for a, j in zip(alpha, neighbors[i], strict=True)])
        found = {"sum": messages.sum(0), "mean": messages.mean(0), "max": messages.max(0).values}[how]
        out[i, columns] = found
    return ACTIVATION[activation](out + block.bias)


@pytest.mark.parametrize("how", AGGREGATION)
@pytest.mark.parametrize("name", ATTENTION)
def test_block_is_its_equations(name: str, how: str) -> None:
    edges, num_nodes = messy_graph(3)
    torch.manual_seed(1)
    (first, _) = low_precision_space(6, 3, 2, **single(attention=[name], aggregation=[how], heads=[3]))
    block = LPGNNBlock([4], first).double()
    torch.nn.init.normal_(block.bias)
    x = torch.randn(num_nodes, 4, dtype=torch.float64)
    graph = NeighborIndex(edges, num_nodes).with_self_loops()
    neighbors = [graph.col[graph.rowptr[i] : graph.rowptr[i + 1]].tolist() for i in range(num_nodes)]
    assert all(i in own for i, own in enumerate(neighbors))
    got = block([Source(x, 4)], graph).x
    torch.testing.assert_close(got, by_equation(block, x, neighbors), atol=1e-9, rtol=1e-9)


def test_in_full_precision_it_is_gat() -> None:
    model = network().double()
    first, second = GATConv(5, 4, heads=2).double(), GATConv(8, 3).double()
    torch.nn.init.normal_(first.bias)
    # Here a column's head is its number mod 2; PyG has one head after the other.
    order = torch.tensor([(c % 2) * 4 + c // 2 for c in range(8)])
    with torch.no_grad():
        for block, layer, place in ((model.blocks[0], first, order), (model.blocks[1], second, torch.arange(3))):
            block.linear.copy_(layer.lin.weight[place])
            block.attention["left"].copy_(layer.att_dst.flatten()[place])
            block.attention["right"].copy_(layer.att_src.flatten()[place])
            block.bias.copy_(layer.bias[place])
        model.blocks[1].linear.copy_(second.lin.weight[:, order])
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x, EDGES), second(F.relu(first(x, EDGES)), EDGES))


def test_in_full_precision_it_is_gcn() -> None:
    model = network(attention=["gcn"], heads=[1]).double()
    layers = [GCNConv(5, 8).double(), GCNConv(8, 3).double()]
    for block, layer in zip(model.blocks, layers, strict=True):
        block.linear.data.copy_(layer.lin.weight)
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x, EDGES), layers[1](F.relu(layers[0](x, EDGES)), EDGES))


def test_shortcuts_bring_earlier_outputs_in() -> None:
    """A hidden block adds a map of them, the last one maps them to the logits."""
    torch.manual_seed(0)
    space = low_precision_space(8, 3, 3, **single(attention=["const"], heads=[1], activation=["none"], shortcuts=True))
    opened = [{f"shortcut{j}": 1 for j in range(place)} for place in range(3)]
    model = LowPrecisionGNN(Genotype.take(5, space, opened)).double()
    graph = NeighborIndex(EDGES, 4).with_self_loops()
    adjacency = torch.zeros(4, 4, dtype=torch.float64)
    adjacency[graph.row, graph.col] = 1
    x0 = torch.randn(4, 5, dtype=torch.float64)
    one, two, three = model.blocks
    x1 = adjacency @ x0 @ one.linear.t()
    x2 = adjacency @ (x1 + x0 @ two.shortcuts["0"].t()) @ two.linear.t()
    together = torch.cat([three.shortcuts["0"], three.shortcuts["1"], three.linear], 1)
    expected = adjacency @ torch.cat([x0, x1, x2], 1) @ together.t()
    torch.testing.assert_close(model(x0, EDGES), expected)


def test_a_closed_shortcut_has_no_weights() -> None:
    space = low_precision_space(8, 3, 2, **single(shortcuts=True))
    assert not LowPrecisionGNN(Genotype.take(5, space)).blocks[1].shortcuts
    assert len(LowPrecisionGNN(Genotype.take(5, space, [{}, {"shortcut0": 1}])).blocks[1].shortcuts) == 1


LOW: dict[str, Any] = {"weight_options": ["FIX1.3"], "activation_options": ["FIX4.4"]}


@pytest.mark.parametrize("changes", [FP32, LOW, {"weight_options": ["binary"], "activation_options": ["FIX2.2"]}])
def test_sparse_features_give_what_dense_ones_give(changes: dict[str, Any]) -> None:
    model = network(**changes)
    x = torch.randint(2, (4, 5)).float()
    torch.testing.assert_close(model(x.to_sparse_csr(), EDGES), model(x, EDGES))


# Quantisation ---------------------------------------------------------------------------------------------------------


def test_every_tensor_is_on_its_grid() -> None:
    formats = {
        "linear": "FIX2.3",
        "attention": "FIX1.1",
        "input": "FIX3.2",
        "hidden": "FIX4.4",
        "coefficients": "FIX1.2",
    }
    formats |= {"aggregated": "FIX3.3", "output": "FIX2.1"}
    (first, _) = low_precision_space(8, 3, 2, **single())
    block = LPGNNBlock([5], {**first, **{f"format.{name}": (form,) for name, form in formats.items()}})
    seen: dict[str, list[Tensor]] = {}
    for name, quantizer in block.quantizers.items():
        quantizer.register_forward_hook(lambda _, args, out, name=name: seen.setdefault(name, []).append(out))
    graph = NeighborIndex(EDGES, 4).with_self_loops()
    x = block.quantize_features(3 * torch.randn(4, 5))
    out = block([Source(x, 5)], graph).x
    assert set(seen) == set(formats)
    assert torch.equal(seen["output"][-1], out)
    for name, tensors in seen.items():
        integer, fraction = map(int, formats[name].removeprefix("FIX").split("."))
        for tensor in tensors:
            codes = tensor * 2**fraction
            assert torch.equal(codes, codes.round()), name
            # Coefficients and what follows a ReLU are not negative and have the range of the sign, too.
            low, high = -(2 ** (integer + fraction - 1)), 2 ** (integer + fraction - 1) - 1
            if name in ("coefficients", "output"):
                low, high = 0, 2 ** (integer + fraction) - 1
            assert low <= float(codes.min()), name
            assert float(codes.max()) <= high, name
            assert len(tensor.unique()) > 1, name


def test_large_degrees_saturate_sums_and_not_means() -> None:
    leaves = torch.arange(1, 40)
    edges = torch.stack([torch.cat([leaves, torch.zeros_like(leaves)]), torch.cat([torch.zeros_like(leaves), leaves])])
    found = {}
    for how in ("sum", "mean"):
        model = network(attention=["const"], heads=[1], aggregation=[how], **LOW)
        model.blocks[0].linear.data.fill_(0.5)
        rates = saturation_rates(model, torch.ones(40, 5), edges)
        found[how] = rates["blocks.0.quantizers.aggregated"]
    assert found["mean"] == 0
    assert found["sum"] == pytest.approx(1 / 40)  # the hub


def test_binary_weights_stay_within_reach_of_the_gradient() -> None:
    model = network(weight_options=["binary"], activation_options=["fp32"])
    model.blocks[0].linear.data.mul_(100)
    model.eval()(torch.randn(4, 5), EDGES)
    assert float(model.blocks[0].linear.abs().max()) > 1
    model.train()(torch.randn(4, 5), EDGES)
    assert float(model.blocks[0].linear.abs().max()) == 1


def test_it_learns_with_few_bits() -> None:
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = F.one_hot(y, 3).float().repeat(1, 4)
    x[torch.rand(60, 12) < 0.4] = 0
    edges = torch.stack([torch.arange(60), (torch.arange(60) + 3) % 60])
    edges = torch.cat([edges, edges.flip(0)], 1)
    model = network(12, 8, 3, weight_options=["ternary"], activation_options=["FIX2.2"])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x, edges), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.3 < 0.9 < losses[0]


# Sizes and integers ---------------------------------------------------------------------------------------------------

MIXED = [
    {"attention": ["gat"], "weight_options": ["FIX1.3"]},
    {"attention": ["gene-linear"], "weight_options": ["ternary"]},
    {"attention": ["cos"], "weight_options": ["binary"]},
    {"attention": ["gcn"], "heads": [1], "weight_options": ["FIX4.12"]},
    {"attention": ["linear"], "weight_options": ["FIX2.6"]},
]


def open_network(**changes: Any) -> LowPrecisionGNN:
    torch.manual_seed(2)
    space = low_precision_space(8, 3, 3, **single(activation_options=["FIX4.4"], shortcuts=True, **changes))
    opened = [{f"shortcut{j}": 1 for j in range(place)} for place in range(3)]
    return LowPrecisionGNN(Genotype.take(5, space, opened))


@pytest.mark.parametrize("changes", MIXED)
def test_integers_give_exactly_the_same_logits(changes: dict[str, Any]) -> None:
    model = open_network(**changes).eval()
    x = torch.randn(4, 5)
    exported = model.export()
    assert all(not codes.is_floating_point() for codes, _ in exported["weights"].values())
    again = LowPrecisionGNN.from_export(exported).eval()
    assert torch.equal(again(x, EDGES), model(x, EDGES))
    # The same weights in full precision do not.
    plain = LowPrecisionGNN(again.genotype)
    plain.load_state_dict(model.state_dict())
    assert not torch.equal(plain.eval()(x, EDGES), model(x, EDGES))


@pytest.mark.parametrize("changes", MIXED)
def test_model_bytes_are_those_of_packed_integers(changes: dict[str, Any]) -> None:
    model = open_network(**changes)
    exported = model.export()
    bits = {"FIX1.3": 4, "ternary": 2, "binary": 1, "FIX4.12": 16, "FIX2.6": 8}[changes["weight_options"][0]]
    packed = [pack_bits((codes + 1) // 2 if bits == 1 else codes, bits) for codes, _ in exported["weights"].values()]
    scales = 4 * len(packed) if bits <= 2 else 0
    biases = sum(4 * bias.numel() for bias in exported["biases"].values())
    total = sum(part.numel() for part in packed) + scales + biases
    # Each tensor by itself is rounded up to whole bytes.
    assert 0 <= total - model.model_bytes() <= len(packed)


def test_sizes_by_hand() -> None:
    model = network(weight_options=["FIX1.3"], activation_options=["FIX4.4"])
    weights = 5 * 8 + 2 * 8 + 8 * 3 + 2 * 3
    assert model.model_bytes() == weights // 2 + 4 * (8 + 3)
    # First block: h and what is aggregated, 8 columns of a byte each. Last: 8 + 3, then 3 + 3 of four bytes.
    assert model.buffer_bytes(1) == 16
    assert model.buffer_bytes(10) == 160
    fp32 = network()
    assert fp32.model_bytes() == 4 * sum(p.numel() for p in fp32.parameters())
    assert fp32.buffer_bytes(1) == 64
    # Block 1 is alive in block 3, which reads block 2 and writes h.
    kept = open_network(attention=["const"], heads=[1], weight_options=["binary"])
    assert kept.buffer_bytes(1) == 8 + 16


def test_full_precision_has_no_integers() -> None:
    with pytest.raises(RuntimeError, match="fp32 has no integers"):
        network().export()


# Genotypes ------------------------------------------------------------------------------------------------------------


def test_a_genotype_survives_as_text() -> None:
    genotype = open_network(attention=["cos"], weight_options=["ternary"]).genotype
    text = genotype.to_json()
    assert Genotype.from_json(text) == genotype
    assert (genotype.out_channels, LowPrecisionGNN.from_genotype(text, dropout=0.5).dropout) == (3, 0.5)
    assert LowPrecisionGNN.from_genotype(text).genotype == genotype


def test_the_space_has_what_the_card_of_options_says() -> None:
    first, last = low_precision_space(16, 7)
    assert first["width"] == (4, 8, 16, 32)
    assert len(first["attention"]) == 7
    assert last["width"] == (7,)
    assert last["activation"] == ("none",)
    assert "format.output" in first
    assert "format.output" not in last
    assert len(first["format.linear"]) == 6
    assert len(first["format.hidden"]) == 5


def genotype_text(**changes: Any) -> str:
    content = json.loads(network(**LOW).genotype.to_json())
    for key, value in changes.items():
        if value is None:
            content["blocks"][0].pop(key)
        else:
            content["blocks"][0][key.replace("__", ".")] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low_precision_space(8, 3, attention=[]), "at least one option of attention"),
        (lambda: low_precision_space(8, 3, weight_options=[]), "at least one option of format.linear"),
        (lambda: low_precision_space(8, 3, attention=["gta"]), "attention must be one of.*did you mean 'gat'"),
        (lambda: low_precision_space(8, 3, activation=["swish"]), "activation must be one of"),
        (lambda: low_precision_space(8, 3, weight_options=["FIX0.0"]), r"bits must be in \[1, 24\] \(got 0\)"),
        (lambda: low_precision_space(8, 3, activation_options=["binary"]), "must be FIXi.f or fp32.*got 'binary'"),
        (lambda: low_precision_space(8, 3, heads=[3, 2]), "heads must divide"),
        (lambda: low_precision_space(6, 3, heads=[4], widths=[1]), "heads must divide"),
        (lambda: low_precision_space(0, 3), "base_channels must be in"),
        (
            lambda: check_space({"width": (4,)}, 0),
            "space lacks heads, attention, aggregation, activation, format.input",
        ),
        (lambda: Genotype(5, ()), "blocks must hold at least one block"),
        (lambda: Genotype.from_json("[]"), "text is no genotype"),
        (lambda: Genotype.from_json("{"), "text is no genotype"),
        (lambda: Genotype.from_json(genotype_text(attention="none")), "attention must be one of"),
        (lambda: Genotype.from_json(genotype_text(width=None)), "width"),
        (lambda: Genotype.from_json(genotype_text(shortcut0="open")), "a decision of blocks"),
        (lambda: Genotype.from_json(genotype_text(format__linear="int8")), "fp32, binary, ternary or FIXi.f"),
        (lambda: network()(None, EDGES), "got NoneType.; graphkit.transforms.RandomWalkEncoding"),
        (lambda: network()(torch.randn(4, 6), EDGES), r"x must have shape \[N, 5\] \(got \[4, 6\]\)"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_last_block_gives_plain_logits() -> None:
    (first, _) = (dict(block) for block in network(**LOW).genotype.blocks)
    with pytest.raises(ValueError, match="full precision and without activation"):
        Genotype(5, (first,))


def test_a_choice_is_needed_where_there_are_options() -> None:
    (first, _) = low_precision_space(8, 3)
    block = LPGNNBlock([5], first)
    with pytest.raises(ValueError, match="choices lacks width, which has 4 options"):
        block([Source(torch.randn(4, 5), 5)], NeighborIndex(EDGES, 4).with_self_loops())
    assert math.isfinite(float(block.linear.sum()))
