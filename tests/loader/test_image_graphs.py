"""Packed images give the batches of ImageTokens one by one."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphkit.datasets import load
from graphkit.datasets.images import Images
from graphkit.loader import GraphLoader, ImageGraphs, PackedGraphs
from graphkit.transforms import ImageTokens


def images(channels: int = 2, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    found = torch.randint(0, 256, (5, channels, 4, 6), generator=torch.Generator().manual_seed(0))
    return found.to(torch.uint8) if dtype == torch.uint8 else found.to(dtype) / 100


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("patch", "kernel"), [(1, 3), (2, 3), (2, 1), (1, 5)])
def test_a_batch_is_that_of_image_tokens_one_by_one(patch, kernel, dtype):
    pixels, y = images(dtype=dtype), torch.tensor([3, 1, 4, 1, 5])
    tokenize = ImageTokens(patch, kernel)
    index = torch.tensor([4, 0, 0, 2])
    want = Batch.from_data_list([tokenize(Data(image=pixels[i], y=y[i : i + 1])) for i in index.tolist()])
    graphs = ImageGraphs(pixels, patch, kernel, y=y)
    got = graphs.batch(index)
    assert sorted(got.keys()) == sorted([*want.keys(), "num_nodes"])
    for name, value in want.to_dict().items():
        assert torch.equal(got[name], value), name
    assert got.x.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert (got.num_graphs, got.num_nodes) == (want.num_graphs, want.num_nodes)
    assert graphs.num_features == got.x.size(1)
    assert graphs.num_nodes == len(graphs) * want.num_nodes // 4


def test_a_dataset_its_parts_and_grey_images():
    found = Images(images(), torch.arange(5), 5)
    dataset = found.graphs("five")
    index = torch.tensor([1, 0])
    whole = ImageGraphs(dataset, patch=2).batch(torch.tensor([3, 2]))
    part = ImageGraphs(dataset[2:4], patch=2).batch(index)
    listed = PackedGraphs([ImageTokens(2)(dataset[i]) for i in (2, 3)]).batch(index)
    for name in ("x", "y", "pos", "edge_index", "ptr"):
        assert torch.equal(whole[name], part[name]), name
        assert torch.equal(whole[name], listed[name]), name
    grey = images(1)
    assert torch.equal(ImageGraphs(grey[:, 0], 2).batch(index).x, ImageGraphs(grey, 2).batch(index).x)


def test_it_is_packed_graphs_to_all_who_take_them():
    graphs = ImageGraphs(load("digit_images").graphs, patch=4)
    assert isinstance(graphs, PackedGraphs)
    assert len(graphs) == 1797
    assert "y" in graphs
    assert "z" not in graphs
    assert graphs["y"].shape == (1797,)
    batch = next(iter(GraphLoader(graphs, batch_size=7)))
    assert batch.y.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert 0 <= float(batch.x.min()) < float(batch.x.max()) == 1
    moved = graphs.to("cpu")
    assert torch.equal(moved.batch(torch.tensor([9])).x, graphs.batch(torch.tensor([9])).x)
    empty = graphs.batch(torch.empty(0, dtype=torch.long))
    assert (empty.num_nodes, list(empty.x.shape), list(empty.edge_index.shape)) == (0, [0, 16], [2, 0])
    assert repr(graphs) == "ImageGraphs(1797 of 1 x 8 x 8, patch=4)"


def test_without_edges_the_rest_is_the_same():
    index = torch.tensor([3, 1])
    linked, apart = (ImageGraphs(images(), 2, kernel, y=torch.arange(5)) for kernel in (3, None))
    assert "edge_index" in linked
    assert "edge_index" not in apart
    batch = apart.batch(index)
    assert batch.edge_index is None
    want = linked.batch(index)
    for name in ("x", "y", "pos", "grid_size", "batch", "ptr"):
        assert torch.equal(batch[name], want[name]), name


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImageGraphs([images()]), TypeError, "got list"),
        (lambda: ImageGraphs(torch.ones(4, 4)), ValueError, r"got \[4, 4\]"),
        (lambda: ImageGraphs(images(), 4), ValueError, "patch=4 divides"),
        (lambda: ImageGraphs(images(), 2, y=torch.arange(4)), ValueError, "y must have a row for each of 5"),
        (lambda: ImageGraphs(images(), 2, kernel=2), ValueError, "kernel must be odd"),
        (lambda: ImageGraphs(load("graphon-domains").graphs), ValueError, "must have an image each"),
        (lambda: ImageGraphs(images())["y"], KeyError, "no field 'y'"),
        (lambda: ImageGraphs(images()).batch(torch.tensor([5])), IndexError, r"index must be in \[0, 5\)"),
        (lambda: ImageGraphs(images()).batch([1]), TypeError, "vector of int64"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImageGraphs(torch.tensor([0, torch.nan]).view(2, 1, 1, 1)), ValueError, "images holds nan at"),
        (lambda: ImageGraphs(torch.ones(2, 1, 2, 2, device="meta")), ValueError, "images must have values"),
        (lambda: ImageGraphs(images(), y=torch.ones(5, device="meta")), ValueError, "y must have values"),
        (lambda: ImageGraphs(torch.ones(2, 1, 2, 2).long()), TypeError, "bytes .uint8., 0 to 255"),
        (lambda: ImageGraphs(torch.ones(2, 1, 2, 2), y=[0, 1]), TypeError, "y must be a torch.Tensor"),
        (lambda: ImageGraphs(torch.ones(2, 1, 2, 2), pos=torch.ones(2, 2)), ValueError, "other names than"),
    ],
)
def test_what_is_no_set_of_images(call, error, message):
    with pytest.raises(error, match=message):
        call()
