"""Sets of images: files read as they are written, splits by seed, damaged files found."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from graphkit.datasets import images as module
from graphkit.datasets import load
from graphkit.datasets.images import (
    CANVASES,
    Images,
    digit_canvases,
    digit_images,
    read_idx,
    read_idx_images,
    read_image_folders,
)


def write_idx(path, values, packed=True):
    values = np.asarray(values, dtype=np.uint8)
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)
    return values


@pytest.fixture
def mnist(tmp_path):
    """Four files of 30 + 20 images of 3 x 2 pixels."""
    generator = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 300), ("t10k", 20)):
        image = generator.integers(0, 256, (count, 3, 2))
        write_idx(tmp_path / "raw" / f"{part}-images-idx3-ubyte", image, packed=part == "train")
        write_idx(tmp_path / "raw" / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
        parts[part] = image
    return tmp_path, parts


def test_idx_files_packed_or_not(tmp_path):
    for packed, shape in ((True, (2, 3, 4)), (False, (5,)), (True, (0,))):
        path = tmp_path / f"{packed}{len(shape)}{shape[0]}"
        want = write_idx(path, np.arange(np.prod(shape)).reshape(shape), packed)
        got = read_idx(path)
        assert got.dtype == torch.uint8
        assert got.numpy().tolist() == want.tolist()


def test_images_of_four_files(mnist):
    folder, parts = mnist
    found = read_idx_images(folder)
    assert found.images.shape == (320, 1, 3, 2)
    assert found.images.dtype == torch.uint8
    assert found.images[:300, 0].tolist() == parts["train"].tolist()
    assert found.images[300:, 0].tolist() == parts["t10k"].tolist()
    assert found.y.tolist() == [i % 10 for i in (*range(300), *range(20))]
    fewer = read_idx_images(folder, 250)
    assert fewer.num_train == 250
    assert fewer.images[:250, 0].tolist() == parts["train"][:250].tolist()
    assert fewer.images[250:, 0].tolist() == parts["t10k"].tolist()
    graphs = found.graphs("small")
    assert len(graphs) == 320
    assert graphs[301].image[0].tolist() == parts["t10k"][1].tolist()
    assert graphs[301].y.tolist() == [1]


def test_the_official_test_part_stays_what_it_is(mnist):
    found = read_idx_images(mnist[0])
    for split, sizes in ((found.split, (270, 30)), (found.few_shot_split, (100, 100))):
        first, again, other = split(3), split(3), split(4)
        assert first.test.tolist() == list(range(300, 320))
        assert (first.train.numel(), first.valid.numel()) == sizes
        assert torch.equal(first.train, again.train)
        assert not torch.equal(first.train, other.train)
        assert found.y[first.train].bincount().tolist() == [sizes[0] // 10] * 10
        assert found.y[first.valid].bincount().tolist() == [sizes[1] // 10] * 10


def test_digits_have_half_of_each_class_for_test():
    found = digit_images()
    split, few = found.split(0), found.few_shot_split(0)
    share = found.y[split.test].bincount() / found.y.bincount()
    assert share.min() > 0.49
    assert share.max() < 0.51
    assert torch.equal(split.test, few.test)
    assert found.y[few.train].bincount().tolist() == [10] * 10
    # The same pictures as those of the graph of digits, in bytes.
    x = load("digits").data.x
    assert float((found.images.flatten(1) / 255 - x).abs().max()) < 0.5 / 255 + 1e-6
    assert found.images.unique().numel() == 17


def test_folders_of_images(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    generator = np.random.default_rng(0)
    want = []
    for part, count in (("train", 2), ("test", 1)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
                want.append(pixels.transpose(2, 0, 1).tolist())
    for _ in range(2):  # the second time from the cache
        found = read_image_folders(folder)
        assert found.images.tolist() == want
        assert found.y.tolist() == [0, 0, 1, 1, 0, 1]
        assert found.num_train == 4
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(folder / "test" / "cat" / "1.png")
    with pytest.raises(ValueError, match="images of one size"):
        read_image_folders(folder)
    (folder / "test" / "bird").mkdir()
    (folder / "test" / "bird" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="same classes"):
        read_image_folders(folder)
    with pytest.raises(FileNotFoundError, match="no folders of images"):
        read_image_folders(tmp_path / "nothing")


def test_damaged_and_missing_files(mnist):
    folder, _ = mnist
    raw = folder / "raw"
    with pytest.raises(ValueError, match="must hold 301 training images"):
        read_idx_images(folder, 301)
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(19))
    with pytest.raises(ValueError, match="one label an image"):
        read_idx_images(folder)
    images = raw / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"must hold \[20, 3, 2\] bytes"):
        read_idx(images)
    images.write_bytes(b"\x00\x00\x0d\x01")
    with pytest.raises(ValueError, match="idx file of bytes"):
        read_idx(images)
    packed = raw / "train-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-4])
    with pytest.raises(ValueError, match="damaged"):
        read_idx(raw / "train-labels-idx1-ubyte")
    with pytest.raises(FileNotFoundError, match=r"MNIST is not on disk .*it comes from LeCun"):
        load("MNIST", folder)


def test_canvases_show_the_digits_of_their_part(monkeypatch):
    """Digits are squares whose grey tells which digit it is."""
    y = torch.arange(250) % 10
    squares = (torch.arange(250) + 1).to(torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    squares[:, :, 0] = 0  # no ink
    monkeypatch.setattr(module, "digit_images", lambda: Images(squares, y, 250))
    found = digit_canvases()
    grey = found.images[:, 0].long()
    assert found.y.tolist() == torch.cat([torch.tensor([0]), y + 1])[grey].tolist()
    parts = [set(part.unique().tolist()) - {0} for part in grey.split(CANVASES)]
    assert [len(part) for part in parts] == [150, 50, 50]
    assert len(set.union(*parts)) == 250
    shown = torch.tensor([canvas[canvas > 0].unique().numel() for canvas in grey])
    assert 1 <= int(shown.min()) < 3 < int(shown.max()) == 5  # some are covered, or drawn twice
    for canvas in grey[shown == 5]:  # the last one is covered by none
        assert 56 in [int((canvas == value).sum()) for value in canvas.unique()]


def test_canvases_of_the_registry():
    dataset = load("digit_canvases")
    facts, graph = dataset.info, dataset.graphs[7]
    assert (graph.image.shape, graph.y.shape) == ((1, 24, 24), (1, 24, 24))
    assert torch.equal(graph.y[0] > 0, graph.image[0] > 0)
    assert (facts.nodes, facts.classes, facts.graphs) == (24 * 24, 11, len(dataset.graphs))
    split = dataset.split(seed=3)
    assert torch.cat([split.train, split.valid, split.test]).equal(torch.arange(1500))
    assert torch.equal(digit_canvases().images[7], graph.image)
