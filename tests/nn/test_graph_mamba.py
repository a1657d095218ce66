"""Graph Mamba: tokens, the two levels of reading, invariances, and wrong input."""

from __future__ import annotations

import copy
import gc
import weakref

import networkx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv, ResGatedGraphConv
from torch_geometric.utils import from_networkx, to_dense_adj

from graphkit.datasets.ring_transfer import ring_transfer
from graphkit.nn import BiMamba, GatedGCNConv, GMNLayer, GraphMambaNet, RandomWalkFeatures, SelectiveSSM, SelfAttention
from graphkit.nn.mixer import mamba
from graphkit.nn.models import graph_mamba
from graphkit.nn.models.neighborhood_encoders import NeighborhoodSubgraphs, PooledNeighborhoods, induced_subgraphs
from graphkit.ops import NeighborIndex, TokenLayout, neighborhood_walks, visited_sets
from graphkit.transforms import SortTokens
from graphkit.transforms.sort_tokens import node_importance


def graph(num_nodes: int = 12, seed: int = 0) -> Tensor:
    return from_networkx(networkx.gnp_random_graph(num_nodes, 0.3, seed=seed)).edge_index


def asymmetric() -> Tensor:
    """A graph whose nodes all have PageRanks of their own."""
    edge_index = graph(10, seed=4)
    assert node_importance(NeighborIndex(edge_index, 10), "pagerank").unique().numel() == 10
    return edge_index


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(**options) -> GraphMambaNet:
    torch.manual_seed(0)
    arguments = {"num_layers": 2, "m": 2, "s": 2, "num_walks": 3, **options}
    return GraphMambaNet(4, 6, 3, **arguments).double().eval()


# The gated layer ------------------------------------------------------------------------------------------------------


def test_gates_against_dense_matrices():
    edge_index, x = graph(), random(12, 4)
    conv = GatedGCNConv(4, 5).double()
    root, value, here, there = conv.lin(x).chunk(4, 1)
    adjacency = to_dense_adj(edge_index, max_num_nodes=12)[0].double()[:, :, None]
    gate = torch.sigmoid(here[:, None] + there[None]) * adjacency
    expected = root + (gate * value[None]).sum(1) / (gate.sum(1) + 1e-6)
    torch.testing.assert_close(conv(x, edge_index), expected)


def test_without_the_denominator_it_is_pygs_layer():
    edge_index, x = graph(), random(12, 4)
    conv, other = GatedGCNConv(4, 5).double(), ResGatedGraphConv(4, 5).double()
    with torch.no_grad():
        for part, weight, bias in zip(
            (other.lin_skip, other.lin_value, other.lin_key, other.lin_query),
            conv.lin.weight.chunk(4),
            conv.lin.bias.chunk(4),
            strict=True,
        ):
            part.weight.copy_(weight)
            if part.bias is not None:
                part.bias.copy_(bias)
        other.bias.copy_(conv.lin.bias[:5])
    root, _, here, there = conv.lin(x).chunk(4, 1)
    row, col = NeighborIndex(edge_index, 12).edge_index
    weight = torch.zeros(12, 5).double().index_add(0, row, torch.sigmoid(here[row] + there[col]))
    torch.testing.assert_close((conv(x, edge_index) - root) * (weight + 1e-6), other(x, edge_index) - root)


def test_messages_go_along_edges():
    x = random(3, 4)
    conv = GatedGCNConv(4, 5).double()
    changed = x.clone()
    changed[0] += 1
    moved = (conv(x, torch.tensor([[0], [1]])) != conv(changed, torch.tensor([[0], [1]]))).any(1)
    assert moved.tolist() == [True, True, False]


# Encoders of neighbourhoods -------------------------------------------------------------------------------------------


def test_walk_features_by_hand():
    """On a triangle with a tail: which places are the same node, and which are linked."""
    edge_index = torch.tensor([[0, 1, 1, 2, 2, 0, 2, 3], [1, 0, 2, 1, 0, 2, 3, 2]])
    index = NeighborIndex(edge_index, 4)
    features = RandomWalkFeatures(2, window=3)
    walk = torch.tensor([[0, 1, 2, 0, 2], [3, 2, 3, 2, 1]])
    bits = features.bits(index, walk)
    for r, nodes in enumerate(walk.tolist()):
        for i, node in enumerate(nodes):
            for k in (1, 2, 3):
                assert bool(bits[r, i, k - 1]) == (i >= k and node == nodes[i - k])
            for k in (2, 3):
                linked = i >= k and (node, nodes[i - k]) in zip(*edge_index.tolist(), strict=True)
                assert bool(bits[r, i, 3 + k - 2]) == linked


def test_walk_features_against_a_convolution_of_torch():
    index, h = NeighborIndex(graph(), 12), random(12, 4)
    torch.manual_seed(0)
    features = RandomWalkFeatures(4, window=2).double()
    features.norm.running_mean.normal_()
    features.eval()
    walks = neighborhood_walks(index, 3, 2, 5, seed=0)
    tokens = features(h, index, walks).view(12, 7, 4)
    walk = walks[0]
    z = features.lin_node(h)[walk] + features.lin_bits(features.bits(index, walk.flatten(0, 2)).double()).view(
        *walk.shape, 4
    )
    rows = F.pad(z.flatten(0, 2).transpose(1, 2), (2, 0))
    places = F.conv1d(rows, features.conv_weight.flip(0).t()[:, None], groups=4).transpose(1, 2)
    places = F.relu(features.norm(places.flatten(0, 1)))
    places = F.relu(features.lin_out(places)).view(12, 2, 20, 4)
    torch.testing.assert_close(tokens[:, :2], places.mean(2))


def test_pooled_tokens_are_means_over_balls():
    index, h = NeighborIndex(graph(), 12), random(12, 4)
    encoder = PooledNeighborhoods(4).double()
    walks = neighborhood_walks(index, 2, 1, 400, seed=0)
    tokens = encoder(h, index, walks).view(12, 3, 4)
    z = h + F.relu(encoder.conv(h, index))
    adjacency = to_dense_adj(graph(), max_num_nodes=12)[0] + torch.eye(12)
    # Every node reached by a walk of that length; a walk from a node without edges stays.
    for place, power in enumerate((2, 1, 0)):
        ball = (torch.linalg.matrix_power(adjacency, power) > 0).double()
        torch.testing.assert_close(tokens[:, place], ball @ z / ball.sum(1, keepdim=True))


def test_subgraphs_of_sets_by_brute_force():
    index = NeighborIndex(graph(), 12)
    ptr, member = visited_sets(neighborhood_walks(index, 3, 2, 3, seed=0), 12)
    found = {tuple(edge) for edge in induced_subgraphs(index, ptr, member).edge_index.t().tolist()}
    edges = set(zip(*graph().tolist(), strict=True))
    expected = set()
    for start, stop in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        for a in range(start, stop):
            expected |= {(a, b) for b in range(start, stop) if (int(member[a]), int(member[b])) in edges}
    assert found == expected


def test_edges_between_the_visited_nodes_tell_a_triangle_from_a_path():
    triangle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
    path = triangle[:, [0, 1, 4, 5]]  # 1 - 0 - 2
    h = random(3, 16)
    walks = [torch.tensor([1, 0, 2]).view(1, 1, 1, 3).expand(3, -1, -1, -1)]
    torch.manual_seed(0)
    for encoder in (RandomWalkFeatures(16), NeighborhoodSubgraphs(16)):
        encoder.double().eval()
        first, second = (encoder(h, NeighborIndex(edges, 3), walks)[0] for edges in (triangle, path))
        assert not torch.allclose(first, second)


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["pool", "rwf", "mpnn"])
def test_with_the_same_walks_renumbering_nodes_renumbers_outputs(encoder):
    edge_index, x = asymmetric(), random(10, 4)
    model = net(encoder=encoder, order="pagerank")
    walks = neighborhood_walks(NeighborIndex(edge_index, 10), 2, 2, 3, seed=5)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(10))
    moved = model(x[order], place[edge_index], walks=[place[walk[order]] for walk in walks])
    torch.testing.assert_close(moved, model(x, edge_index, walks=walks)[order])


@pytest.mark.parametrize("head", ["node", "mean", "max", "first"])
@pytest.mark.parametrize("encoder", ["pool", "rwf"])
def test_a_graph_of_a_batch_is_as_if_alone(encoder, head):
    model = net(encoder=encoder, head=head, order="zagreb")
    sizes = (5, 1, 12, 2)
    graphs = [(random(n, 4, seed=n), graph(n, seed=n)) for n in sizes]
    alone = torch.cat([model(x, edge_index, torch.zeros(len(x), dtype=torch.long)) for x, edge_index in graphs])
    start = torch.tensor([0, *sizes]).cumsum(0)
    x = torch.cat([x for x, _ in graphs])
    edge_index = torch.cat([edges + first for (_, edges), first in zip(graphs, start[:-1], strict=True)], 1)
    batch = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    torch.testing.assert_close(model(x, edge_index, batch), alone)
    more = model(x, edge_index, batch, 5)  # a last graph without nodes
    torch.testing.assert_close(more[: len(alone)], alone)
    assert more.size(0) == len(alone) + (head != "node")


def test_without_neighbourhoods_it_is_gps_with_a_mamba():
    edge_index, x = asymmetric(), random(10, 4)
    model = net(m=0, order="pagerank")
    assert model.encoder is None
    rank = torch.argsort(node_importance(NeighborIndex(edge_index, 10), "pagerank"))
    place = torch.empty_like(rank).index_copy_(0, rank, torch.arange(10))
    h = F.linear(x, model.embed.weight, model.embed.bias)
    for layer in model.layers:
        mixed = layer.mixer(layer.mixer_norm(h)[rank])[place]
        passed = layer.conv(layer.conv_norm(h), NeighborIndex(edge_index, 10))
        h = h + mixed + F.relu(passed)
    torch.testing.assert_close(model(x, edge_index), model.lin_out(model.norm(h)))
    # The same order as the transform's.
    from torch_geometric.data import Data

    assert SortTokens("pagerank")(Data(x=x, edge_index=edge_index)).order.equal(place)


def test_neighbourhoods_are_read_from_far_to_near_and_the_last_token_goes_on():
    edge_index, x = graph(), random(12, 4)
    model = net(num_layers=1, token_layers=2, mixer=SelectiveSSM, conv=None)
    walks = neighborhood_walks(NeighborIndex(edge_index, 12), 2, 2, 3, seed=0)
    h = F.linear(x, model.embed.weight, model.embed.bias)
    tokens = model.encoder(h, NeighborIndex(edge_index, 12), walks).view(12, 5, 6)
    read = []
    for sequence in tokens:
        for norm, mixer in zip(model.token_norms, model.token_mixers, strict=True):
            sequence = sequence + mixer(norm(sequence))
        read.append(sequence[-1])
    index = NeighborIndex(edge_index, 12)
    order = model._plan(index, None, None).order(index, training=False)
    out = model.layers[0](torch.stack(read), edge_index, order)
    torch.testing.assert_close(model(x, edge_index, walks=walks), model.lin_out(model.norm(out)))


@pytest.mark.parametrize(("mixer", "hears"), [(SelectiveSSM, False), (BiMamba, True)])
def test_only_two_directions_let_unimportant_nodes_hear_of_important_ones(mixer, hears):
    star = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])
    model = net(m=0, mixer=mixer, conv=None)
    x = random(4, 4)
    changed = x.clone()
    changed[0] += 1  # the hub, read last
    moved = (model(x, star) - model(changed, star)).abs().amax(1) > 1e-9
    assert moved.tolist() == [True, hears, hears, hears]


def test_a_node_far_away_is_heard_without_message_passing_and_not_without_a_mixer():
    ring = from_networkx(networkx.cycle_graph(40)).edge_index
    x = random(40, 4)
    changed = x.clone()
    changed[20] += 1
    for options, hears in (({"conv": None}, True), ({"mixer": None}, False)):
        model = net(num_layers=3, m=1, s=1, head="first", **options)
        assert bool(((model(x, ring) - model(changed, ring)).abs() > 1e-9).any()) == hears


def test_chance_in_training_and_none_in_evaluation():
    ring = from_networkx(networkx.cycle_graph(12)).edge_index
    x = random(12, 4)
    model = net(conv=None, dropout=0.0)
    assert model(x, ring).equal(model(x, ring))
    model.train()
    torch.manual_seed(0)
    first, second = model(x, ring), model(x, ring)
    assert not first.equal(second)  # equals are read in another order
    torch.manual_seed(0)
    assert model(x, ring).equal(first)


def test_walks_stay_unless_resampled():
    edge_index = graph()
    index, h = NeighborIndex(edge_index, 12), random(12, 6)
    kept, drawn = net(s=3).train(), net(s=3, resample=True).train()
    walks = neighborhood_walks(index, 2, 3, 3, seed=0)

    def tokens(model):
        return model._tokens(h, index, model._plan(index, None, None), None).view(12, 7, 6)

    base = kept.encoder(h, index, walks).view(12, 7, 6)
    torch.manual_seed(1)
    moved = tokens(kept)
    torch.manual_seed(1)
    places = [*torch.randperm(3).tolist(), *(3 + torch.randperm(3)).tolist(), 6]
    assert places != list(range(7))  # tokens of equal length change places, those of all nodes alike
    assert moved.equal(base[:, places])
    assert not tokens(drawn).equal(tokens(drawn))
    for model in (kept, drawn):
        assert tokens(model.eval()).equal(model.encoder(h, index, walks).view(12, 7, 6))


def from_the_start(model: GraphMambaNet, x: Tensor, index: NeighborIndex) -> Tensor:
    """A training step's output with nothing kept: walks, sets, ranks and orders made anew, and all tokens mixed."""
    count = x.size(0)
    h = F.linear(x, model.embed.weight, model.embed.bias)
    walks = neighborhood_walks(index, model.m, model.s, model.num_walks, seed=model.seed, rank=torch.arange(count))
    t = model.encoder(h, index, [walk[:, torch.randperm(model.s)] for walk in walks])
    length = model.m * model.s + 1
    ptr = torch.arange(count + 1) * length
    for norm, mixer in zip(model.token_norms, model.token_mixers, strict=True):
        t = t + mixer(norm(t), ptr)
    h = t.view(count, length, -1)[:, -1]
    place = node_importance(index, model.order).unique(return_inverse=True)[1]
    order = TokenLayout(torch.tensor([0, count]), place + torch.rand(count, dtype=torch.float64))
    for layer in model.layers:
        h = layer(h, index, order)
    return model.lin_out(model.norm(h))


@pytest.mark.parametrize("mixer", [BiMamba, SelectiveSSM, lambda channels: SelfAttention(channels, 2)])
@pytest.mark.parametrize("encoder", ["pool", "rwf", "mpnn"])
def test_what_is_kept_with_the_graph_changes_no_output(encoder, mixer):
    x, index = random(12, 4), NeighborIndex(graph(), 12)
    model = net(encoder=encoder, mixer=mixer, s=3, token_layers=2, dropout=0.0).train()
    for step in range(3):
        torch.manual_seed(step)
        expected = from_the_start(model, x, NeighborIndex(graph(), 12))
        torch.manual_seed(step)
        torch.testing.assert_close(model(x, index), expected)


def test_steps_on_one_graph_walk_and_rank_its_nodes_once(monkeypatch):
    made = []
    for name in ("neighborhood_walks", "node_importance"):
        plain = getattr(graph_mamba, name)
        monkeypatch.setattr(graph_mamba, name, lambda *a, _f=plain, _n=name, **k: made.append(_n) or _f(*a, **k))
    x, index, batch = random(12, 4), NeighborIndex(graph(), 12), torch.arange(12) // 6
    model = net().train()
    for _ in range(3):
        model(x, index)
    model.eval()(x, index)
    once = ["neighborhood_walks", "node_importance"]
    assert made == once
    for other, given in ((net(seed=1), None), (net(seed=1), batch), (net(seed=1), batch.clone())):
        made.clear()
        other(x, index, given)
        assert made == once
    made.clear()
    given.fill_(0)  # written to, it is another batch
    torch.testing.assert_close(other(x, index, given), other(x, NeighborIndex(graph(), 12)))
    assert made == once * 2


def without_values(thing, known=None):
    """A copy of tensors, and of what GraphKit keeps tensors in, on the device that has no values. To read one, for
    which a GPU would be waited for, raises."""
    known = {} if known is None else known
    if id(thing) in known:
        return known[id(thing)]
    if isinstance(thing, Tensor):
        out = thing.to("meta")
    elif type(thing) in (list, tuple):
        out = type(thing)(without_values(part, known) for part in thing)
    elif isinstance(thing, dict):
        out = {name: without_values(part, known) for name, part in thing.items()}
    elif type(thing).__module__.startswith("graphkit") and not isinstance(thing, (type, tuple)):
        out = known[id(thing)] = copy.copy(thing)
        vars(out).update({name: without_values(part, known) for name, part in vars(thing).items()})
    else:
        out = thing
    known[id(thing)] = out
    return out


@pytest.mark.parametrize("batch", [None, torch.arange(12) // 6], ids=["one graph", "two"])
@pytest.mark.parametrize("encoder", ["pool", "rwf", "mpnn"])
def test_no_step_after_the_first_reads_a_value(encoder, batch, monkeypatch):
    # The scan has kernels, which tests of their own hold to this.
    monkeypatch.setattr(mamba, "selective_scan", lambda x, dt, *rest: x * dt)
    index, model = NeighborIndex(graph(), 12), net(encoder=encoder, head="mean").train()
    model(random(12, 4), index, batch, 2 if batch is not None else None)
    there = without_values(index)
    plan = there.kept["graph_mamba"]
    model, x = model.to("meta"), random(12, 4).to("meta")
    model(x, there, plan.batch, plan.settings.num_graphs).sum().backward()
    assert there.kept["graph_mamba"] is plan
    there.kept.clear()
    with pytest.raises(ValueError, match="meta"):
        model(x, there, plan.batch, plan.settings.num_graphs)


def test_rings_are_learned_that_message_passing_cannot_see_around():
    """A label 20 steps away: of rings not seen, one layer of a Mamba tells it and ten of GCN guess."""
    train, test = (Batch.from_data_list(ring_transfer(count, seed=count)) for count in (20, 100))

    def accuracy(steps: int, **options) -> float:
        torch.manual_seed(0)
        # In evaluation: rings are then read in one order, which is learned sooner.
        model = GraphMambaNet(6, 32, 5, m=0, head="first", dropout=0.0, **options).eval()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            out = model(train.x, train.edge_index, train.batch, 20)
            F.cross_entropy(out, train.y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            right = model(test.x, test.edge_index, test.batch, 100).argmax(1) == test.y
        return float(right.float().mean())

    commonest = int(test.y.bincount().max()) / 100
    assert (
        accuracy(100, num_layers=1, mixer=lambda channels: BiMamba(channels, d_state=4, expand=1), conv="gcn") >= 0.95
    )
    assert accuracy(40, num_layers=10, mixer=None, conv="gcn") <= commonest


def test_a_layer_of_gcn_has_a_map_of_the_node_itself():
    edge_index, x = graph(), random(12, 6)
    conv = GMNLayer(6, None, "gcn").double().conv
    root, weight = conv.lin.weight.chunk(2)
    adjacency = to_dense_adj(edge_index, max_num_nodes=12)[0].double() + torch.eye(12)
    scale = adjacency.sum(1).rsqrt()
    mean = scale[:, None] * adjacency * scale
    bias, own_bias = conv.lin.bias.chunk(2)[::-1]
    expected = x @ root.t() + own_bias + mean @ (x @ weight.t() + bias)
    torch.testing.assert_close(conv(x, NeighborIndex(edge_index, 12)), expected)


def test_a_graph_goes_with_its_last_user():
    index = NeighborIndex(graph(), 12)
    net().train()(random(12, 4), index)
    left = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert left() is None  # nothing that it keeps keeps it
    finally:
        gc.enable()


def test_a_layer_of_pyg_passes_messages():
    edge_index, x = graph(), random(12, 6)
    layer = GMNLayer(6, None, lambda channels: GCNConv(channels, channels)).double()
    expected = x + F.relu(layer.conv(layer.conv_norm(x), edge_index))
    torch.testing.assert_close(layer(x, NeighborIndex(edge_index, 12)), expected)


def test_sparse_features_are_the_same_features():
    edge_index, x = graph(), (random(12, 4) > 0.5).double()
    model = net()
    torch.testing.assert_close(model(x.to_sparse_csr(), edge_index), model(x, edge_index))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": -1}, "m must be in"),
        ({"m": 1, "s": 0}, "s must be in"),
        ({"num_walks": 0}, "num_walks must be in"),
        ({"order": "pagernak"}, "order must be one of .* did you mean 'pagerank'"),
        ({"encoder": "gin"}, "encoder must be one of pool, rwf, mpnn"),
        ({"head": "edge"}, "head must be one of"),
        ({"conv": "gat"}, "conv must be one of gatedgcn, gcn"),
        ({"mixer": None, "conv": None}, "needs a mixer or message passing"),
        ({"dropout": 2.0}, "dropout must be in"),
        ({"mixer": lambda channels: BiMamba(channels, d_state=0)}, "d_state must be in"),
        ({"token_layers": 0}, "token_layers must be in"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": None}, ValueError, "x must be a matrix"),
        ({"x": torch.randn(3, 5)}, ValueError, r"x must have shape \[N, 4\]"),
        ({"edge_index": torch.tensor([[0], [3]])}, IndexError, "node id 3"),
        ({"batch": torch.tensor([0, 1, 0])}, ValueError, "batch must be ascending"),
        ({"batch": torch.tensor([-1, 0, 0])}, ValueError, "batch must be ascending from 0"),
        ({"batch": torch.tensor([0.0, 0.0, 1.0])}, TypeError, "batch must hold int64 ids"),
        ({"batch": torch.tensor([0, 1, 2]), "num_graphs": 2}, ValueError, r"num_graphs must be above .*ids to 2"),
        ({"batch": torch.tensor([0, 1])}, ValueError, "graph of each of 3 nodes"),
        ({"x": torch.randn(3, 4, device="meta")}, ValueError, "graph is on cpu, x on meta"),
    ],
)
def test_bad_calls(arguments, error, message):
    given = {"x": torch.randn(3, 4), "edge_index": torch.tensor([[0, 1], [1, 2]]), "batch": None, **arguments}
    with pytest.raises(error, match=message):
        net().float()(given.pop("x"), given.pop("edge_index"), **given)


def test_every_weight_is_trained():
    edge_index, x = graph(), random(12, 4)
    for encoder in ("pool", "rwf", "mpnn"):
        model = net(encoder=encoder, head="mean").train()
        model(x, edge_index, torch.arange(12) // 6).square().sum().backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert bool(weight.grad.isfinite().all()), name
    assert isinstance(model.layers[0].mixer, nn.Module)
