"""Batches of packed graphs are PyG's."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import FakeDataset

from graphkit.loader import GraphLoader, PackedGraphs
from graphkit.transforms import HopTokens, ImageTokens


def molecules() -> list[Data]:
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for count in (3, 1, 5, 2, 4):
        edges = torch.randint(0, count, (2, 2 * count), generator=generator)
        graphs.append(
            Data(
                x=torch.randn(count, 2, generator=generator),
                edge_index=edges,
                edge_attr=torch.randn(2 * count, 3, generator=generator),
                y=torch.tensor([count]),
                root_index=torch.tensor([count - 1]),
                name=f"of {count}",
            )
        )
    return graphs


def assert_same(got: Batch, want: Batch) -> None:
    for name, value in want.to_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got[name], value), name
    assert got.num_graphs == want.num_graphs
    assert got.num_nodes == want.num_nodes


@pytest.mark.parametrize("index", [[0, 1, 2, 3, 4], [4, 1, 1], [2], []])
def test_a_batch_is_the_one_of_pyg(index):
    graphs = molecules()
    packed = PackedGraphs(graphs)
    got = packed.batch(torch.tensor(index, dtype=torch.long))
    if index:
        assert_same(got, Batch.from_data_list([graphs[i] for i in index]))
        assert got.edge_index.numel() == 0 or int(got.edge_index.max()) < got.num_nodes
    else:
        assert got.num_nodes == 0
        assert list(got.x.shape) == [0, 2]


def test_datasets_and_parts_of_them():
    dataset = FakeDataset(num_graphs=6, avg_num_nodes=8, avg_degree=3, task="graph")
    index = torch.tensor([5, 0])
    assert_same(PackedGraphs(dataset).batch(index), Batch.from_data_list([dataset[5], dataset[0]]))
    part = dataset[2:5]
    assert_same(PackedGraphs(part).batch(torch.tensor([2, 0])), Batch.from_data_list([part[2], part[0]]))


def test_images():
    generator = torch.Generator().manual_seed(0)
    graphs = [ImageTokens(2)(Data(image=torch.rand(1, 4, size, generator=generator))) for size in (4, 6)]
    assert_same(
        PackedGraphs(graphs).batch(torch.tensor([1, 0, 1])), Batch.from_data_list([graphs[i] for i in (1, 0, 1)])
    )


def test_sequences_of_nodes():
    place = torch.arange(6)
    after = (place + 1) % 6
    data = Data(x=torch.randn(6, 2), edge_index=torch.stack([torch.cat([place, after]), torch.cat([after, place])]))
    data.y = place
    tokens = HopTokens(2)(data)
    batch = PackedGraphs(tokens).batch(torch.tensor([4, 1]))
    assert batch.y.tolist() == [4, 1]
    assert torch.equal(batch.x, torch.cat([tokens.x[12:15], tokens.x[3:6]]))
    assert batch.edge_index.tolist() == [[0, 1, 1, 2, 3, 4, 4, 5], [1, 2, 0, 1, 4, 5, 3, 4]] or {
        *map(tuple, batch.edge_index.t().tolist())
    } == {(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3), (4, 5), (5, 4)}


def test_loader_goes_through_all_graphs_in_an_order_of_its_seed():
    loader = GraphLoader(molecules(), batch_size=2, shuffle=True, seed=1)
    first, second = ([y for batch in loader for y in batch.y.tolist()] for _ in range(2))
    assert len(loader) == 3
    assert sorted(first) == sorted(second) == [1, 2, 3, 4, 5]
    assert first != second
    again = GraphLoader(molecules(), batch_size=2, shuffle=True, seed=1)
    assert [y for batch in again for y in batch.y.tolist()] == first
    part = GraphLoader(molecules(), batch_size=2, index=torch.tensor([3, 0]))
    assert [batch.y.tolist() for batch in part] == [[2, 3]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PackedGraphs([]), ValueError, "at least one graph"),
        (lambda: PackedGraphs([Data(x=torch.ones(1, 1)), Data(pos=torch.ones(1, 1))]), ValueError, "same attributes"),
        (lambda: PackedGraphs(Data(x=torch.ones(1, 1))), TypeError, "must have ptr"),
        (lambda: PackedGraphs("graphs"), TypeError, "got str"),
        (lambda: PackedGraphs([Data(y=torch.ones(1))]), ValueError, "must have x, pos or num_nodes"),
        (lambda: PackedGraphs(molecules()).batch(torch.tensor([5])), IndexError, r"index must be in \[0, 5\)"),
        (lambda: PackedGraphs(molecules()).batch(torch.tensor([0.0])), TypeError, "vector of int64"),
        (lambda: PackedGraphs(molecules())["z"], KeyError, "no attribute 'z'"),
        (lambda: GraphLoader(molecules(), batch_size=0), ValueError, "batch_size must be"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PackedGraphs([Data(x=torch.ones(1, n)) for n in (1, 2)]), ValueError, "the same widths"),
        (
            lambda: PackedGraphs([Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0], [9]]))]),
            IndexError,
            "its 3 nodes",
        ),
        (lambda: sequences(torch.tensor([0, 2, 1])), ValueError, "ptr must ascend"),
        (lambda: sequences(torch.tensor([0, 1, 2])), ValueError, "number of tokens 3"),
        (lambda: sequences(torch.tensor([0.0, 3.0])), ValueError, "vector of int64"),
        (lambda: sequences(torch.tensor([0, 1, 3]), [[0], [2]]), ValueError, "link nodes of one graph each"),
        (lambda: sequences(torch.tensor([0, 1, 3]), [[0], [3]]), IndexError, "node id 3"),
        (lambda: PackedGraphs([molecules()[0].to("meta")]), ValueError, "must have values .*on meta"),
        (lambda: sequences(torch.tensor([0, 3], device="meta")), ValueError, "ptr must have values"),
        (lambda: PackedGraphs(molecules()).batch(torch.tensor([0], device="meta")), ValueError, "index must have val"),
        (lambda: GraphLoader(molecules(), index=[0]), TypeError, "got list"),
        (lambda: GraphLoader(molecules(), index=torch.tensor([True])), TypeError, "of a mask, mask.nonzero"),
        (lambda: GraphLoader(molecules(), index=torch.tensor([99])), IndexError, "index must be in"),
    ],
)
def test_what_cannot_be_packed(call, error, message):
    with pytest.raises(error, match=message):
        call()


def sequences(ptr: torch.Tensor, edges: list | None = None) -> PackedGraphs:
    edge_index = None if edges is None else torch.tensor(edges)
    return PackedGraphs(Data(x=torch.ones(3, 1), ptr=ptr, edge_index=edge_index))


def test_no_ids_are_no_batches():
    loader = GraphLoader(molecules(), index=torch.empty(0, dtype=torch.int64))
    assert len(loader) == 0
    assert list(loader) == []
