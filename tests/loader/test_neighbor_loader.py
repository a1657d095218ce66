"""NeighborLoader: PyG's batches, whatever the number of workers."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import NeighborLoader as PyGLoader
from torch_geometric.nn import SAGEConv
from torch_geometric.transforms import ToUndirected
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE
from torch_geometric.utils import k_hop_subgraph, trim_to_layer

from graphkit.loader import NeighborLoader, NeighborSampler

N, E = 120, 700


def graph(seed: int = 0) -> Data:
    """Duplicate edges and self-loops; the last five nodes have no edge."""
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(N, 6, generator=generator),
        y=torch.arange(N),
        edge_index=torch.randint(N - 5, (2, E), generator=generator),
        edge_attr=torch.randn(E, 2, generator=generator),
        edge_time=torch.randint(100, (E,), generator=generator),
        node_time=torch.randint(100, (N,), generator=generator),
        edge_weight=torch.rand(E, generator=generator),
        train_mask=torch.arange(N) % 3 == 0,
        name="graph",
    )


def hetero() -> HeteroData:
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["user"].x = torch.randn(30, 4, generator=generator)
    data["item"].x = torch.randn(50, 3, generator=generator)
    data["user"].time, data["item"].time = torch.arange(30), torch.arange(50) % 30
    data["tag"].num_nodes = 4
    ends = {("user", "buys", "item"): (30, 50), ("user", "knows", "user"): (30, 30), ("tag", "of", "item"): (4, 50)}
    for kind, (num_src, num_dst) in ends.items():
        rows = torch.randint(num_src, (150,), generator=generator), torch.randint(num_dst, (150,), generator=generator)
        data[kind].edge_index = torch.stack(rows)
        data[kind].edge_attr = torch.arange(150)
    return ToUndirected(merge=False)(data)


def assert_same(a: Data, b: Data) -> None:
    assert set(a.keys()) == set(b.keys())
    for key, value in a.items():
        assert value.equal(b[key]) if isinstance(value, Tensor) else value == b[key], key


OPTIONS = [
    {},
    {"replace": True},
    {"disjoint": True},
    {"subgraph_type": "bidirectional"},
    {"subgraph_type": "induced"},
    {"weight_attr": "edge_weight"},
    {"time_attr": "node_time"},
    {"time_attr": "node_time", "temporal_strategy": "last", "time_window": 30},
    {"time_attr": "edge_time", "input_time": torch.full((N,), 50)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batches(options: dict) -> None:
    """Edges and attributes are the graph's, seeds come first, all seeds come once."""
    data = graph()
    seen = []
    for batch in NeighborLoader(data, [4, 3], batch_size=32, shuffle=True, **options):
        seeds = batch.n_id[: batch.batch_size]
        assert batch.input_id.equal(seeds)
        seen.append(seeds)
        assert batch.x.equal(data.x[batch.n_id])
        assert batch.y.equal(batch.n_id)
        assert batch.train_mask.equal(data.train_mask[batch.n_id])
        assert batch.name == "graph"
        ends = batch.n_id[batch.edge_index]
        if options.get("subgraph_type") == "bidirectional":
            both = torch.cat([batch.edge_index, batch.edge_index.flip(0)], 1).unique(dim=1)
            assert both.size(1) == batch.edge_index.size(1)
        else:
            assert ends.equal(data.edge_index[:, batch.e_id])
            assert batch.edge_attr.equal(data.edge_attr[batch.e_id])
        if "time_attr" in options:
            first = data.node_time[seeds] if "input_time" not in options else options["input_time"][seeds]
            now = first[batch.batch[batch.edge_index[0]]]
            times = data.node_time[ends[0]] if options["time_attr"] == "node_time" else batch.edge_time
            assert bool((times <= now).all())
            if "time_window" in options:
                assert bool((times > now - options["time_window"]).all())
        if "disjoint" in options or "time_attr" in options:
            assert batch.batch[: batch.batch_size].equal(torch.arange(batch.batch_size))
            assert batch.batch[batch.edge_index[0]].equal(batch.batch[batch.edge_index[1]])
        if "subgraph_type" not in options:
            assert sum(batch.num_sampled_nodes) == batch.num_nodes
            assert sum(batch.num_sampled_edges) == batch.num_edges
            limit = torch.bincount(batch.edge_index[1])
            assert int(limit.max()) <= 4
    assert torch.cat(seen).sort().values.equal(torch.arange(N))


@pytest.mark.parametrize("input_nodes", [None, "mask", "index", "list"])
def test_input_nodes(input_nodes) -> None:
    data = graph()
    chosen = torch.tensor([5, 99, 5, 2])
    given = {"mask": data.train_mask, "index": chosen, "list": chosen.tolist(), None: None}[input_nodes]
    batches = list(NeighborLoader(data, [2], input_nodes=given, batch_size=3))
    seeds = torch.cat([batch.n_id[: batch.batch_size] for batch in batches])
    expected = {"mask": data.train_mask.nonzero().view(-1), None: torch.arange(N)}.get(input_nodes, chosen)
    assert seeds.equal(expected)
    positions = torch.cat([batch.input_id for batch in batches])
    assert positions.equal(torch.arange(4) if input_nodes in ("index", "list") else expected)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_all_neighbors_is_k_hop_subgraph(hops: int) -> None:
    data = graph()
    for batch in NeighborLoader(data, [-1] * hops, batch_size=40):
        seeds = batch.n_id[: batch.batch_size]
        nodes, _, _, mask = k_hop_subgraph(seeds, hops, data.edge_index, num_nodes=N, directed=True)
        assert batch.n_id.sort().values.equal(nodes)
        assert batch.e_id.sort().values.equal(mask.nonzero().view(-1))


@pytest.mark.parametrize("disjoint", [False, True])
def test_two_layers_equal_full_batch(disjoint: bool) -> None:
    torch.manual_seed(0)
    data = graph()
    first, second = SAGEConv(6, 8), SAGEConv(8, 4)
    full = second(first(data.x, data.edge_index).relu(), data.edge_index)
    for batch in NeighborLoader(data, [-1, -1], batch_size=16, disjoint=disjoint):
        out = second(first(batch.x, batch.edge_index).relu(), batch.edge_index)
        torch.testing.assert_close(out[: batch.batch_size], full[batch.n_id[: batch.batch_size]])
        # PyG's way to skip what the seeds do not need relies on the order of nodes and edges.
        x, edge_index = batch.x, batch.edge_index
        for layer, conv in enumerate((first, second)):
            x, edge_index, _ = trim_to_layer(layer, batch.num_sampled_nodes, batch.num_sampled_edges, x, edge_index)
            x = conv(x, edge_index).relu() if layer == 0 else conv(x, edge_index)
        torch.testing.assert_close(x[: batch.batch_size], full[batch.n_id[: batch.batch_size]])


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}, {"filter_per_worker": True}], ids=str)
def test_workers_give_the_same(options: dict) -> None:
    data = graph()

    def batches(**more) -> list[Data]:
        torch.manual_seed(7)
        found = []
        for batch in NeighborLoader(data, [4, 3], batch_size=32, shuffle=True, **more):
            found.append(batch)
            if not more:
                torch.rand(10)  # what a model draws in between does not matter
        return found

    expected, found = batches(), batches(num_workers=2, **options)
    assert len(expected) == len(found) == 4
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)


def test_reproducible_and_fresh() -> None:
    data = graph()
    loader = NeighborLoader(data, [4, 3], batch_size=N)
    torch.manual_seed(1)
    first, second = next(iter(loader)), next(iter(loader))
    torch.manual_seed(1)
    assert_same(next(iter(loader)), first)
    assert not first.e_id.equal(second.e_id)
    # The batches of an epoch draw apart from each other.
    twice = list(NeighborLoader(data, [4], input_nodes=torch.arange(50).repeat(2), batch_size=50))
    assert not twice[0].e_id.equal(twice[1].e_id)
    generator = [
        next(iter(NeighborLoader(data, [4], batch_size=N, generator=torch.Generator().manual_seed(5))))
        for _ in range(2)
    ]
    assert_same(*generator)


def test_call_transform_and_repr() -> None:
    data = graph()

    def mark(batch: Data) -> Data:
        batch.marked = True
        return batch

    loader = NeighborLoader(data, [2], batch_size=10, transform=mark)
    batch = loader(torch.tensor([3, 4]))
    assert batch.marked
    assert batch.n_id[:2].tolist() == [3, 4]
    assert repr(loader) == f"NeighborLoader({N} nodes, batch_size=10)"
    assert len(loader) == N // 10
    outputs = []
    NeighborLoader(data, [2], batch_size=N, transform_sampler_output=lambda o: outputs.append(o) or o)([0])
    assert outputs[0].node[0] == 0


def test_weight_zero_is_never_drawn() -> None:
    data = graph()
    data.edge_weight = (torch.arange(E) % 2).float()
    for batch in NeighborLoader(data, [-1, 5], batch_size=50, weight_attr="edge_weight"):
        assert bool((batch.edge_weight > 0).all())
    induced = next(iter(NeighborLoader(data, [5], batch_size=50, weight_attr="edge_weight", subgraph_type="induced")))
    inside = torch.isin(data.edge_index, induced.n_id).all(0)
    assert induced.e_id.sort().values.equal(inside.nonzero().view(-1))


def test_small_graphs() -> None:
    one = Data(x=torch.ones(1, 2), edge_index=torch.empty(2, 0, dtype=torch.int64))
    batch = next(iter(NeighborLoader(one, [3, 3])))
    assert (batch.n_id.tolist(), batch.num_edges, batch.num_sampled_nodes) == ([0], 0, [1, 0, 0])
    loop = Data(x=torch.ones(1, 2), edge_index=torch.tensor([[0], [0]]))
    assert next(iter(NeighborLoader(loop, [3, 3]))).num_sampled_edges == [1, 0]
    no_edge_index = Data(x=torch.ones(2, 2))
    assert next(iter(NeighborLoader(no_edge_index, [3]))).n_id.tolist() == [0]
    assert list(NeighborLoader(one, [3], input_nodes=torch.empty(0, dtype=torch.int64))) == []


# Several types of nodes and edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"disjoint": True}, {"time_attr": "time"}], ids=str)
def test_hetero(options: dict) -> None:
    data = hetero()
    if "time_attr" in options:
        del data["tag", "of", "item"], data["item", "rev_of", "tag"], data["tag"]
    for batch in NeighborLoader(data, [3, 2], input_nodes=("item", torch.arange(20)), batch_size=7, **options):
        size = batch["item"].batch_size
        assert batch["item"].n_id[:size].equal(batch["item"].input_id)
        assert batch["user"].x.equal(data["user"].x[batch["user"].n_id])
        for kind in data.edge_types:
            row, col = batch[kind].edge_index
            ends = torch.stack([batch[kind[0]].n_id[row], batch[kind[2]].n_id[col]])
            assert ends.equal(data[kind].edge_index[:, batch[kind].e_id])
            assert batch[kind].edge_attr.equal(data[kind].edge_attr[batch[kind].e_id])
            assert sum(batch[kind].num_sampled_edges) == row.numel()
            if options:
                assert batch[kind[0]].batch[row].equal(batch[kind[2]].batch[col])
            if "time_attr" in options:
                now = data["item"].time[batch["item"].input_id][batch[kind[0]].batch[row]]
                assert bool((batch[kind[0]].time[row] <= now).all())
        for kind in data.node_types:
            assert sum(batch[kind].num_sampled_nodes) == batch[kind].n_id.numel()


def test_hetero_all_neighbors() -> None:
    """As many nodes and edges as in the same graph with all types in one."""
    data = hetero()
    whole = data.to_homogeneous(node_attrs=[], edge_attrs=[])
    offset = int((whole.node_type < data.node_types.index("item")).sum())
    batch = next(iter(NeighborLoader(data, [-1, -1], input_nodes=("item", [3, 8]), batch_size=2)))
    seeds = torch.tensor([3, 8]) + offset
    nodes, edge_index, _, _ = k_hop_subgraph(seeds, 2, whole.edge_index, num_nodes=whole.num_nodes, directed=True)
    assert sum(store.n_id.numel() for store in batch.node_stores) == nodes.numel()
    assert sum(store.e_id.numel() for store in batch.edge_stores) == edge_index.size(1)


def test_hetero_induced_and_bidirectional() -> None:
    data = hetero()
    loader = NeighborLoader(data, [3, 2], input_nodes="item", batch_size=7, subgraph_type="induced")
    batch = next(iter(loader))
    for kind in data.edge_types:
        row, col = data[kind].edge_index
        inside = torch.isin(row, batch[kind[0]].n_id) & torch.isin(col, batch[kind[2]].n_id)
        assert batch[kind].e_id.sort().values.equal(inside.nonzero().view(-1))
        ends = torch.stack([batch[kind[i]].n_id[batch[kind].edge_index[i // 2]] for i in (0, 2)])
        assert ends.equal(data[kind].edge_index[:, batch[kind].e_id])
    del data["user", "knows", "user"], data["user", "rev_knows", "user"]
    both = next(iter(NeighborLoader(data, [3, 2], input_nodes="item", batch_size=7, subgraph_type="bidirectional")))
    forward, backward = both["user", "buys", "item"].edge_index, both["item", "rev_buys", "user"].edge_index
    assert forward.unique(dim=1).equal(backward.flip(0).unique(dim=1))


def test_hetero_numbers_by_edge_type() -> None:
    data = hetero()
    numbers = {kind: [0, 0] for kind in data.edge_types} | {("user", "buys", "item"): [2, 0]}
    batch = next(iter(NeighborLoader(data, numbers, input_nodes="item", batch_size=50)))
    assert batch["user", "buys", "item"].num_sampled_edges[1] == 0
    assert sum(store.e_id.numel() for store in batch.edge_stores) == batch["user", "buys", "item"].e_id.numel() > 0


def test_hetero_edge_time_and_workers() -> None:
    data = hetero()
    data["user", "buys", "item"].when = torch.arange(150)

    def batches(workers: int) -> list[HeteroData]:
        torch.manual_seed(0)
        times = torch.arange(50) * 3
        loader = NeighborLoader(
            data, [4, 4], ("item", None), times, time_attr="when", batch_size=16, num_workers=workers
        )
        return list(loader)

    for a, b in zip(batches(0), batches(2), strict=True):
        kind = ("user", "buys", "item")
        now = a["item"].seed_time[a["user"].batch[a[kind].edge_index[0]]]
        assert bool((a[kind].when <= now).all())
        assert all(a[kind].e_id.equal(b[kind].e_id) for kind in data.edge_types)


# Beside PyG -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="PyG samples with pyg-lib or torch-sparse only")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"replace": True}, {"subgraph_type": "induced"}], ids=str)
@pytest.mark.parametrize("neighbors", [[-1, -1], [4, 3]])
def test_like_pyg(options: dict, neighbors: list[int]) -> None:
    data = graph()
    loaders = [
        cls(data, neighbors, input_nodes=torch.arange(0, N, 2), batch_size=20, **options)
        for cls in (NeighborLoader, PyGLoader)
    ]
    degree = torch.bincount(data.edge_index[1], minlength=N)
    for ours, theirs in zip(*loaders, strict=True):
        # Only pyg-lib counts by hop.
        assert set(ours.keys()) - {"num_sampled_nodes", "num_sampled_edges"} <= set(theirs.keys()) <= set(ours.keys())
        assert ours.input_id.equal(theirs.input_id)
        assert ours.batch_size == theirs.batch_size
        assert ours.n_id[:20].equal(theirs.n_id[:20])
        if neighbors == [-1, -1]:
            assert ours.n_id.sort().values.equal(theirs.n_id.sort().values)
            assert ours.e_id.sort().values.equal(theirs.e_id.sort().values)
        elif not options:
            for batch in (ours, theirs):
                first = torch.bincount(batch.edge_index[1], minlength=20)[:20]
                assert first.equal(degree[batch.n_id[:20]].clamp(max=4))


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_neighbors": []}, ValueError, "num_neighbors must name at least one hop"),
        ({"num_neighbors": [3, -2]}, ValueError, "num_neighbors\\[1\\] must be >= 0, or -1"),
        ({"num_neighbors": 3}, TypeError, "num_neighbors must be a list"),
        ({"num_neighbors": {("a", "b", "c"): [1]}}, TypeError, "num_neighbors must be a list for a Data"),
        ({"input_nodes": torch.tensor([0, N])}, IndexError, f"input_nodes holds node id {N}"),
        ({"input_nodes": torch.tensor([-1])}, IndexError, "input_nodes holds node id -1"),
        ({"input_nodes": torch.tensor([0.5])}, TypeError, "input_nodes must be int64"),
        ({"input_time": torch.zeros(N)}, ValueError, "input_time needs time_attr"),
        ({"time_attr": "edge_time"}, ValueError, "input_time must be given"),
        ({"time_attr": "edge_time", "input_time": torch.zeros(3)}, ValueError, "input_time must have one value"),
        ({"time_attr": "nothing"}, ValueError, "time_attr='nothing' is no attribute"),
        ({"time_attr": "name"}, ValueError, "time_attr='name' must hold one time a node or an edge"),
        ({"weight_attr": "nothing"}, ValueError, "weight_attr='nothing' is no attribute"),
        ({"weight_attr": "edge_attr"}, ValueError, "weight must have one value per edge"),
        ({"temporal_strategy": "newest"}, ValueError, "temporal_strategy must be one of"),
        ({"subgraph_type": "undirected"}, ValueError, "subgraph_type must be one of"),
        ({"subgraph_type": "induced", "disjoint": True}, ValueError, "cannot be disjoint"),
        ({"time_window": 3}, ValueError, "time_window needs time_attr"),
        ({"time_attr": "node_time", "time_window": -3}, ValueError, "window must be positive"),
        ({"is_sorted": True}, ValueError, "out of the order"),
        ({"data": torch.zeros(3)}, TypeError, "data must be a Data or HeteroData"),
        ({"data": Data(edge_index=torch.tensor([[0], [9]]), num_nodes=3)}, IndexError, "node id 9"),
        ({"data": hetero()}, ValueError, "input_nodes must name a node type"),
        ({"data": hetero(), "input_nodes": ("item", [50])}, IndexError, "input_nodes holds node id 50"),
        ({"data": hetero(), "input_nodes": "item", "num_neighbors": {}}, ValueError, "must name each edge type"),
        ({"data": hetero(), "input_nodes": "tag", "time_attr": "time"}, ValueError, "input_time must be given"),
        ({"data": hetero(), "input_nodes": "tag", "time_attr": "x_"}, ValueError, "found on neither"),
        ({"data": hetero(), "input_nodes": "tag", "weight_attr": "w"}, ValueError, "no attribute of any edge type"),
    ],
)
def test_refuses(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        NeighborLoader(**{"data": graph(), "num_neighbors": [3]} | arguments)


def test_directed_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="subgraph_type='induced'"):
        loader = NeighborLoader(graph(), [3], directed=False)
    assert loader.node_sampler.subgraph_type.value == "induced"


def test_shared_sampler() -> None:
    data = graph()
    sampler = NeighborSampler(data, [3])
    batch = NeighborLoader(data, [3], neighbor_sampler=sampler)(torch.tensor([1]))
    assert batch.n_id[0] == 1


def test_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "neighbor_loader.py"
    if not path.exists():
        pytest.skip("the examples are not part of an installed package")
    monkeypatch.setattr(sys, "argv", [str(path), "--fast"])
    runpy.run_path(str(path), run_name="__main__")
    result = capsys.readouterr().out.splitlines()[-1]
    assert float(result.split(":")[1].rstrip(" %")) > 70
