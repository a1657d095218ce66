"""LinkNeighborLoader: PyG's batches of links."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkNeighborLoader as PyGLoader
from torch_geometric.nn import SAGEConv
from torch_geometric.sampler import NegativeSampling
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

from graphkit.loader import LinkNeighborLoader

N, E = 100, 500


def graph() -> Data:
    generator = torch.Generator().manual_seed(0)
    return Data(
        x=torch.randn(N, 6, generator=generator),
        edge_index=torch.randint(N - 5, (2, E), generator=generator),
        edge_attr=torch.arange(E),
        edge_time=torch.arange(E) * 31 % 97,
        node_time=torch.arange(N) * 7 % 50,
    )


def hetero() -> HeteroData:
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["user"].x, data["item"].x = torch.arange(30.0)[:, None], torch.arange(50.0)[:, None]
    row, col = torch.randint(30, (200,), generator=generator), torch.randint(50, (200,), generator=generator)
    data["user", "buys", "item"].edge_index = torch.stack([row, col])
    data["item", "sold", "user"].edge_index = torch.stack([col, row])
    return data


def check_edges(data: Data, batch: Data) -> None:
    assert batch.x.equal(data.x[batch.n_id])
    assert batch.n_id[batch.edge_index].equal(data.edge_index[:, batch.e_id])
    assert batch.edge_attr.equal(batch.e_id)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("chosen", [None, torch.tensor([[3, 99, 3], [4, 4, 3]])])
def test_positive_links(disjoint: bool, chosen: Tensor | None) -> None:
    data = graph()
    links = data.edge_index if chosen is None else chosen
    labels = torch.arange(links.size(1))
    loader = LinkNeighborLoader(data, [3, 2], chosen, labels, batch_size=64, disjoint=disjoint)
    found = []
    for batch in loader:
        check_edges(data, batch)
        assert batch.n_id[batch.edge_label_index].equal(links[:, batch.input_id])
        assert batch.edge_label.equal(batch.input_id)
        found.append(batch.input_id)
        if disjoint:
            assert batch.batch[batch.edge_label_index].equal(torch.arange(len(batch.input_id)).repeat(2, 1))
    assert torch.cat(found).equal(labels)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("amount", [1, 2.5])
def test_binary_negatives(disjoint: bool, amount: float) -> None:
    data = graph()
    negatives = NegativeSampling("binary", amount)
    for batch in LinkNeighborLoader(data, [3, 2], neg_sampling=negatives, batch_size=50, disjoint=disjoint):
        check_edges(data, batch)
        assert batch.edge_label.tolist() == [1.0] * 50 + [0.0] * int(50 * amount)
        assert batch.n_id[batch.edge_label_index[:, :50]].equal(data.edge_index[:, batch.input_id])


def test_labels_are_raised_by_one() -> None:
    data = graph()
    labels = torch.arange(E) % 3
    loader = LinkNeighborLoader(data, [2], data.edge_index, labels, neg_sampling="binary", batch_size=20)
    batch = next(iter(loader))
    assert batch.edge_label.tolist() == (labels[:20] + 1).tolist() + [0] * 20


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("amount", [1, 3])
def test_triplets(disjoint: bool, amount: int) -> None:
    data = graph()
    loader = LinkNeighborLoader(
        data, [3, 2], neg_sampling={"mode": "triplet", "amount": amount}, batch_size=50, disjoint=disjoint
    )
    for batch in loader:
        check_edges(data, batch)
        assert batch.n_id[batch.src_index].equal(data.edge_index[0, batch.input_id])
        assert batch.n_id[batch.dst_pos_index].equal(data.edge_index[1, batch.input_id])
        assert batch.dst_neg_index.shape == ((50,) if amount == 1 else (50, amount))
        if disjoint:
            negatives = batch.batch[batch.dst_neg_index.view(50, amount)]
            assert negatives.equal(torch.arange(50)[:, None].expand(50, amount))


@pytest.mark.parametrize("time_attr", ["edge_time", "node_time"])
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_time(time_attr: str, mode: str | None) -> None:
    data = graph()
    times = torch.arange(E) % 60
    loader = LinkNeighborLoader(
        data,
        [3, 2],
        edge_label_index=data.edge_index,
        edge_label_time=times,
        time_attr=time_attr,
        time_window=40,
        temporal_strategy="last",
        neg_sampling=mode,
        batch_size=40,
    )
    for batch in loader:
        check_edges(data, batch)
        row = batch.edge_index[0]
        seen = batch.edge_time if time_attr == "edge_time" else batch.node_time[row]
        now = times[batch.input_id][batch.batch[row]]
        assert bool((seen <= now).all())
        assert bool((seen > now - 40).all())


def test_scores_equal_full_batch() -> None:
    torch.manual_seed(0)
    data = graph()
    first, second = SAGEConv(6, 8), SAGEConv(8, 4)
    full = second(first(data.x, data.edge_index).relu(), data.edge_index)
    for batch in LinkNeighborLoader(data, [-1, -1], batch_size=100):
        out = second(first(batch.x, batch.edge_index).relu(), batch.edge_index)
        torch.testing.assert_close(out[batch.edge_label_index], full[data.edge_index[:, batch.input_id]])


@pytest.mark.parametrize("mode", ["binary", "triplet"])
def test_workers_give_the_same(mode: str) -> None:
    """The negatives as well."""
    data = graph()

    def batches(workers: int) -> list[Data]:
        torch.manual_seed(3)
        options = {"batch_size": 100, "shuffle": True, "neg_sampling": mode, "num_workers": workers}
        return list(LinkNeighborLoader(data, [3, 2], **options))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert set(a.keys()) == set(b.keys())
        assert all(value.equal(b[key]) for key, value in a.items() if isinstance(value, Tensor))


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_hetero(disjoint: bool, mode: str | None) -> None:
    data = hetero()
    kind = ("user", "buys", "item")
    loader = LinkNeighborLoader(data, [3, 2], kind, neg_sampling=mode, batch_size=40, disjoint=disjoint)
    for batch in loader:
        links = data[kind].edge_index[:, batch[kind].input_id]
        users, items = batch["user"].n_id, batch["item"].n_id
        if mode == "triplet":
            assert users[batch["user"].src_index].equal(links[0])
            assert items[batch["item"].dst_pos_index].equal(links[1])
        else:
            index = batch[kind].edge_label_index[:, :40]
            assert torch.stack([users[index[0]], items[index[1]]]).equal(links)
        row, col = batch[kind].edge_index
        assert torch.stack([users[row], items[col]]).equal(data[kind].edge_index[:, batch[kind].e_id])
        if disjoint:
            assert batch["user"].batch[row].equal(batch["item"].batch[col])
            assert int(batch["user"].batch.max()) < 40


@pytest.mark.skipif(not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="PyG samples with pyg-lib or torch-sparse only")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_like_pyg(mode: str | None) -> None:
    data = graph()
    loaders = [cls(data, [-1, -1], neg_sampling=mode, batch_size=50) for cls in (LinkNeighborLoader, PyGLoader)]
    for ours, theirs in zip(*loaders, strict=True):
        # Only pyg-lib counts by hop.
        assert set(ours.keys()) - {"num_sampled_nodes", "num_sampled_edges"} <= set(theirs.keys()) <= set(ours.keys())
        assert ours.input_id.equal(theirs.input_id)
        if mode is None:
            assert ours.edge_label_index.equal(theirs.edge_label_index)
            assert ours.n_id.sort().values.equal(theirs.n_id.sort().values)
            assert ours.e_id.sort().values.equal(theirs.e_id.sort().values)
        if mode == "binary":
            assert ours.edge_label.equal(theirs.edge_label)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"edge_label_index": torch.tensor([[0], [N]])}, IndexError, f"edge_label_index holds node id {N}"),
        ({"edge_label_index": torch.tensor([[-1], [0]])}, IndexError, "node id -1"),
        ({"edge_label_index": torch.tensor([0, 1])}, ValueError, "edge_label_index must have shape"),
        ({"edge_label_index": torch.rand(2, 3)}, TypeError, "edge_label_index must be int64"),
        ({"edge_label": torch.ones(3)}, ValueError, "edge_label must have one label a link, 500 \\(got 3\\)"),
        ({"edge_label_time": torch.ones(E)}, ValueError, "must be given together \\(time_attr is missing\\)"),
        ({"time_attr": "edge_time"}, ValueError, "must be given together \\(edge_label_time is missing\\)"),
        ({"edge_label_time": torch.ones(3), "time_attr": "edge_time"}, ValueError, "edge_label_time must have one"),
        ({"num_neighbors": [-3]}, ValueError, "num_neighbors\\[0\\] must be >= 0"),
        ({"neg_sampling": "triplet", "edge_label": torch.ones(E)}, ValueError, "edge_label"),
        ({"data": hetero()}, ValueError, "edge_label_index must name an edge type"),
        (
            {"data": hetero(), "edge_label_index": (("user", "buys", "item"), torch.tensor([[30], [0]]))},
            IndexError,
            "edge_label_index\\[0\\] holds node id 30",
        ),
    ],
)
def test_refuses(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        LinkNeighborLoader(**{"data": graph(), "num_neighbors": [3]} | arguments)


def test_repr() -> None:
    assert repr(LinkNeighborLoader(graph(), [3], batch_size=8)) == f"LinkNeighborLoader({E} links, batch_size=8)"
