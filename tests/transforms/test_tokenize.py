"""Tokenizers against loops and closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch_geometric.data import Data, TemporalData

from graphkit.ops import TokenLayout
from graphkit.transforms import (
    EventTokens,
    HopTokens,
    ImageTokens,
    PPRTokens,
    RandomWalkTokens,
    SequenceTokens,
    SeriesTokens,
    TableTokens,
)
from graphkit.transforms.tokenize import grid_edges, image_patches


def ring(num_nodes: int = 12) -> Data:
    place = torch.arange(num_nodes)
    after = (place + 1) % num_nodes
    edge_index = torch.stack([torch.cat([place, after]), torch.cat([after, place])])
    x = torch.randn(num_nodes, 3, generator=torch.Generator().manual_seed(0))
    return Data(x=x, edge_index=edge_index, y=place, train_mask=place < 4)


def test_image_tokens_are_the_patches_row_by_row():
    image = torch.arange(2 * 4 * 6.0).view(2, 4, 6)
    data = ImageTokens(2)(Data(image=image, y=torch.tensor([3])))
    assert data.grid_size.tolist() == [[2, 3]]
    for i in range(6):
        r, c = divmod(i, 3)
        assert data.pos[i].tolist() == [r, c]
        assert torch.equal(data.x[i], image[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten())
    assert "image" not in data
    assert data.y.tolist() == [3]


@pytest.mark.parametrize(("rows", "columns", "kernel"), [(3, 4, 3), (1, 1, 3), (2, 5, 5), (3, 3, 1)])
def test_grid_edges_lead_to_each_token_from_those_around_it(rows, columns, kernel):
    found = {*map(tuple, grid_edges(rows, columns, kernel).t().tolist())}
    reach = kernel // 2
    wanted = {
        (a * columns + b, r * columns + c)
        for r in range(rows)
        for c in range(columns)
        for a in range(max(0, r - reach), min(rows, r + reach + 1))
        for b in range(max(0, c - reach), min(columns, c + reach + 1))
    }
    assert found == wanted
    assert grid_edges(rows, columns, kernel).size(1) == len(wanted)


def test_series_and_sequences_and_tables():
    series = torch.arange(14.0).view(7, 2)
    data = SeriesTokens(3)(Data(series=series))
    assert data.x.tolist() == [series[1:4].flatten().tolist(), series[4:7].flatten().tolist()]
    assert SeriesTokens(by="variable")(Data(series=series)).x.tolist() == series.t().tolist()
    data = SequenceTokens()(Data(sequence=torch.tensor([4, 4, 1])))
    assert data.x.tolist() == [4, 4, 1]
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]]
    data = TableTokens()(Data(row=torch.tensor([1.0, 2.0, 3.0])))
    assert data.x[:, 0].tolist() == [1, 2, 3]
    assert torch.equal(data.x[:, 1:], torch.eye(3))
    assert data.edge_index.size(1) == 6


def test_event_tokens_are_each_sources_events_in_time():
    generator = torch.Generator().manual_seed(0)
    src, t = torch.randint(0, 5, (40,), generator=generator), torch.randint(0, 99, (40,), generator=generator)
    msg = torch.randn(40, 2, generator=generator)
    stream = TemporalData(src=src, dst=src, t=t, msg=msg)
    for size in (None, 3):
        data = EventTokens(size)(stream)
        for b, node in enumerate(data.node.tolist()):
            events = sorted((i for i in range(40) if int(src[i]) == node), key=lambda i: (int(t[i]), i))
            gaps = [0, *(int(t[b]) - int(t[a]) for a, b in pairwise(events))]
            kept = slice(None) if size is None else slice(-size, None)
            span = slice(int(data.ptr[b]), int(data.ptr[b + 1]))
            assert data.e_id[span].tolist() == events[kept]
            torch.testing.assert_close(data.x[span, 2], torch.tensor(gaps).float().log1p()[kept])
            assert torch.equal(data.x[span, :2], msg[events[kept]])


def test_hop_tokens_are_powers_of_the_propagation_from_far_to_near():
    data = ring()
    dense = torch.zeros(12, 12).index_put_(tuple(data.edge_index), torch.ones(24)) + torch.eye(12)
    dense = dense / dense.sum(1).sqrt()[:, None] / dense.sum(1).sqrt()
    tokens = HopTokens(2)(data)
    x = tokens.x.view(12, 3, 3)
    for place, power in enumerate((2, 1, 0)):
        torch.testing.assert_close(x[:, place], torch.linalg.matrix_power(dense, power) @ data.x)
    assert torch.equal(tokens.y, data.y)
    assert torch.equal(tokens.train_mask, data.train_mask)
    layout = TokenLayout.of(tokens, 36)
    assert (layout.num_graphs, layout.max_length) == (12, 3)
    assert torch.equal(layout.last(tokens.x), data.x)


def test_ppr_tokens_end_with_the_node_and_hold_its_neighbours():
    data = PPRTokens(2)(ring())
    node = data.token_node.view(12, 3)
    assert node[:, -1].tolist() == list(range(12))
    for i in range(12):
        assert {int(v) for v in node[i, :2]} == {(i - 1) % 12, (i + 1) % 12}
    assert torch.equal(data.x, ring().x[data.token_node])


def test_walk_tokens_lie_within_their_distance_and_find_all_of_it():
    data = ring()
    tokens = RandomWalkTokens(m=3, s=2, num_walks=2)(data)
    length, ptr, node = 7, tokens.token_ptr, tokens.token_node
    for i in range(12 * length):
        root, place = divmod(i, length)
        reach = 0 if place == 6 else 3 - place // 2
        members = node[ptr[i] : ptr[i + 1]]
        away = torch.minimum((members - root) % 12, (root - members) % 12)
        assert int(away.max()) <= reach
        assert root in members.tolist()
        torch.testing.assert_close(tokens.x[i], data.x[members].mean(0))
    many = RandomWalkTokens(m=2, s=1, num_walks=200)(data)
    first = many.token_node[many.token_ptr[0] : many.token_ptr[1]]
    assert first.tolist() == [0, 1, 2, 10, 11]
    again = RandomWalkTokens(m=3, s=2, num_walks=2)(data)
    assert torch.equal(again.token_node, node)
    alone = RandomWalkTokens(m=0)(data)
    assert torch.equal(alone.x, data.x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImageTokens(3)(Data(image=torch.ones(1, 4, 6))), ValueError, "patch=3 divides"),
        (lambda: ImageTokens()(Data(x=torch.ones(1, 4))), ValueError, "data.image must be"),
        (lambda: ImageTokens(1, kernel=2), ValueError, "kernel must be odd"),
        (lambda: SeriesTokens(9)(Data(series=torch.ones(4, 2))), ValueError, "at least patch=9"),
        (lambda: SeriesTokens(by="place"), ValueError, "by must be one of"),
        (lambda: SequenceTokens()(Data(sequence=torch.ones(0))), ValueError, "data.sequence must be"),
        (
            lambda: SequenceTokens()(Data(sequence=torch.tensor([1.0, torch.nan]))),
            ValueError,
            r"finite .got nan at \[1\]",
        ),
        (lambda: TableTokens()(Data()), ValueError, "data.row must be"),
        (lambda: EventTokens()(Data()), TypeError, "must be a torch_geometric.data.TemporalData"),
        (lambda: HopTokens(-1), ValueError, "num_hops must be"),
        (lambda: HopTokens(1)(Data(x=torch.ones(2, 1))), ValueError, "missing: edge_index"),
        (lambda: RandomWalkTokens(num_walks=0), ValueError, "num_walks must be"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])


@pytest.mark.parametrize("transform", [HopTokens(2), PPRTokens(1), RandomWalkTokens(1, 1, 2)])
@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"x": torch.eye(3) * torch.nan}, ValueError, "data.x holds nan at"),
        ({"x": torch.eye(3).long()}, TypeError, "data.x must be floating point"),
        ({"x": torch.ones(3)}, ValueError, "data.x must be a matrix"),
        ({"x": torch.eye(3).to("meta")}, ValueError, "edge_index is on cpu, x on meta"),
        ({"num_nodes": 3}, ValueError, "missing: x.; graphkit.transforms.RandomWalkEncoding"),
    ],
)
def test_graphs_that_cannot_be_tokenized(transform, fields, error, message):
    with pytest.raises(error, match=message):
        transform(Data(edge_index=PATH, **fields))


def test_hops_need_both_directions():
    with pytest.raises(ValueError, match="both directions of each edge; see ToUndirected"):
        HopTokens(1)(Data(x=torch.eye(3), edge_index=PATH[:, :1]))


def test_sequences_of_nodes_leave_places_and_old_edges_behind():
    graph = Data(
        x=torch.eye(3), edge_index=PATH, edge_attr=torch.ones(4), pos=torch.zeros(3, 2).long(), y=torch.arange(3)
    )
    graph.batch = torch.zeros(3, dtype=torch.int64)
    tokens = HopTokens(1)(graph)
    assert sorted(tokens.keys()) == ["edge_index", "order", "ptr", "x", "y"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImageTokens()(Data(image=torch.ones(2, 2, device="meta"))), ValueError, "data.image must have values"),
        (lambda: ImageTokens()(Data(image=torch.ones(2, 2).byte().to("meta"))), ValueError, "data.image must have val"),
        (lambda: EventTokens()(events().to("meta")), ValueError, "data.src must have values"),
        (lambda: image_patches(torch.ones(1, 4, 4), 2), ValueError, "images must have shape"),
        (lambda: image_patches(torch.ones(1, 1, 4, 4), 0), ValueError, "patch must be in"),
        (lambda: image_patches(torch.ones(1, 1, 4, 4).long(), 2), TypeError, "images must be bytes"),
        (lambda: grid_edges(-1, 2), ValueError, "rows must be in"),
        (lambda: EventTokens()(events(msg=torch.tensor([[torch.nan]]))), ValueError, "data.msg holds nan"),
        (lambda: EventTokens()(events(t=torch.tensor([torch.inf]))), ValueError, "data.t holds inf"),
    ],
)
def test_what_is_not_finite_or_of_another_shape(call, error, message):
    with pytest.raises(error, match=message):
        call()


def events(**fields: torch.Tensor) -> TemporalData:
    zero = torch.zeros(1, dtype=torch.int64)
    return TemporalData(**{"src": zero, "dst": zero, "t": zero, **fields})
