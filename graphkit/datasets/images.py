"""Sets of images as sets of graphs: each graph holds an ``image``, which a tokenizer turns into a grid of tokens.

All images of a set are one uint8 tensor, training images before those of the official test part. Reading needs neither
torchvision nor a network.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.datasets.cache import cached
from graphkit.datasets.pyg import Graphs
from graphkit.datasets.splits import IndexSplit, per_class_split, random_node_split

# What the third byte of an idx file says of its numbers; images and labels are of this kind alone.
_UINT8 = 8


class Images(NamedTuple):
    """Images and their classes.

    Args:
        images: ``[N, C, H, W]`` uint8.
        y: ``[N]`` class numbers, or ``[N, H, W]`` those of pixels.
        num_train: how many of them, from the first on, are not of the official test part; N if there is none.
    """

    images: Tensor
    y: Tensor
    num_train: int

    def graphs(self, name: str) -> Graphs:
        """A graph an image, with ``image`` ``[C, H, W]`` and ``y`` ``[1]`` (or ``[1, H, W]``)."""
        count, channels = self.images.shape[:2]
        slices = {"image": channels * torch.arange(count + 1), "y": torch.arange(count + 1)}
        return Graphs(Data(image=self.images.flatten(0, 1), y=self.y), slices, name)

    def split(self, seed: int = 0) -> IndexSplit:
        """A tenth of the training images of each class, drawn by ``seed``, validates. Without an official test part
        half of each class is for test, a tenth for validation."""
        if self.num_train == self.y.numel():
            return random_node_split(self.y, 0.4, 0.1, seed)
        return self._with_test(random_node_split(self.y[: self.num_train], 0.9, 0.1, seed))

    def few_shot_split(self, seed: int = 0) -> IndexSplit:
        """Ten training and ten validation images of each class; the test part is that of :meth:`split`."""
        if self.num_train == self.y.numel():
            whole = self.split(seed)
            rest = torch.cat([whole.train, whole.valid]).sort().values
            few = per_class_split(self.y[rest], 10, 10, seed)
            return IndexSplit(rest[few.train], rest[few.valid], whole.test)
        return self._with_test(per_class_split(self.y[: self.num_train], 10, 10, seed))

    def _with_test(self, split: IndexSplit) -> IndexSplit:
        return IndexSplit(split.train, split.valid, torch.arange(self.num_train, self.y.numel()))


def digit_images() -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn; their 17 greys go from 0 to 255.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), test part, UCI Machine
    Learning Repository, CC BY 4.0.

    Example:
        >>> digit_images().images.shape
        torch.Size([1797, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels * (255 / 16)).round().astype(np.uint8)).view(-1, 1, 8, 8)
    return Images(images, torch.from_numpy(label.astype(np.int64)), len(pixels))


#: Training, validation and test canvases of :func:`digit_canvases`.
CANVASES = (1000, 250, 250)


def digit_canvases() -> Images:
    """Canvases of 24 x 24 pixels on which three to five of :func:`digit_images` lie, and what each pixel shows: 0 is
    background, 1 to 10 the ink of a digit from 0 to 9.

    Places and digits are drawn at random, always the same; a later digit covers an earlier one with its ink. Training
    canvases come first, then those for validation and for test (``CANVASES``); each part has digits of its own: 60, 20
    and 20 % of each class.

    Example:
        >>> canvases = digit_canvases()
        >>> canvases.images.shape, canvases.y.shape, canvases.y.unique().numel()
        (torch.Size([1500, 1, 24, 24]), torch.Size([1500, 24, 24]), 11)
    """
    digits, generator = digit_images(), torch.Generator().manual_seed(0)
    split = random_node_split(digits.y, 0.6, 0.2, seed=0)
    parts = [
        _canvases(digits, ids, count, generator)
        for ids, count in zip((split.train, split.valid, split.test), CANVASES, strict=True)
    ]
    images, y = (torch.cat(part) for part in zip(*parts, strict=True))
    return Images(images, y, sum(CANVASES[:2]))


def _canvases(digits: Images, ids: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Canvases of the digits ``ids``, and the classes of their pixels."""
    side, most = 24, 5
    size = digits.images.size(-1)
    images = torch.zeros(count, side * side, dtype=torch.uint8)
    y = torch.zeros(count, side * side, dtype=torch.long)
    number = torch.randint(3, most + 1, (count, 1), generator=generator)
    square = (torch.arange(size)[:, None] * side + torch.arange(size)).flatten()
    for layer in range(most):
        chosen = ids[torch.randint(ids.numel(), (count,), generator=generator)]
        row, column = torch.randint(side - size + 1, (2, count, 1), generator=generator)
        place, ink = row * side + column + square, digits.images[chosen].flatten(1)
        shown = (ink > 0) & (layer < number)
        images.scatter_(1, place, torch.where(shown, ink, images.gather(1, place)))
        y.scatter_(1, place, torch.where(shown, digits.y[chosen, None] + 1, y.gather(1, place)))
    return images.view(count, 1, side, side), y.view(count, side, side)


def read_idx(path: Path) -> Tensor:
    """The numbers of an idx file, the form in which MNIST comes, or of ``path`` with ``.gz``: uint8 of any shape.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: no idx file of bytes, or one that is cut off.
    """
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file():
        try:
            content = gzip.decompress(packed.read_bytes())
        except (OSError, EOFError) as error:
            raise ValueError(f"{packed} is damaged ({error})") from error
    else:
        content = path.read_bytes()
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UINT8:
        raise ValueError(f"{path} must be an idx file of bytes (got the first bytes {content[:4].hex() or 'none'})")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(int).tolist()
    if len(content) - start != int(np.prod(shape)):
        raise ValueError(f"{path} must hold {shape} bytes after its head (got {len(content) - start})")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).view(*shape)


def read_idx_images(folder: Path, train: int | None = None) -> Images:
    """MNIST, or a set in the same four files, from ``folder/raw``.

    Args:
        folder: where ``raw`` is, as torchvision lays it out.
        train: take so many training images, the first ones, so that a whole copy and one that holds no more of them
            are the same; all if None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, fewer training images than ``train``, or not a label an image.
    """
    images, labels = [], []
    for part, count in (("train", train), ("t10k", None)):
        image = read_idx(folder / "raw" / f"{part}-images-idx3-ubyte")
        label = read_idx(folder / "raw" / f"{part}-labels-idx1-ubyte")
        if image.dim() != 3 or label.shape != image.shape[:1]:
            raise ValueError(
                f"{folder / 'raw'} must hold one label an image (got {list(label.shape)} labels of "
                f"{list(image.shape)} images in {part})"
            )
        if count is not None and image.size(0) < count:
            raise ValueError(f"{folder / 'raw'} must hold {count} training images (got {image.size(0)})")
        images.append(image[:count, None])
        labels.append(label[:count].long())
    return Images(torch.cat(images), torch.cat(labels), images[0].size(0))


def read_image_folders(folder: Path) -> Images:
    """Colour images of one size in ``folder/train/<class>`` and ``folder/test/<class>``, as JPEG or PNG files.

    Classes and files go by name.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: parts with other classes, or images of different sizes.
    """

    def files() -> list[Path]:
        return [path for part in ("train", "test") for path in sorted((folder / part).glob("*/*.[jp][pn]*g"))]

    def build() -> dict[str, Tensor | int]:
        from PIL import Image

        paths = files()
        classes = {part: sorted({path.parent.name for path in (folder / part).glob("*/*")}) for part in names}
        if not all(classes.values()):
            missing = next(part for part in names if not classes[part])
            raise FileNotFoundError(f"{folder / missing} holds no folders of images")
        if classes["train"] != classes["test"]:
            raise ValueError(f"{folder} must have the same classes in train and test (got {classes})")
        pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        if len({image.shape for image in pixels}) != 1:
            raise ValueError(f"{folder} must hold images of one size (got {sorted({p.shape for p in pixels})})")
        number = {name: i for i, name in enumerate(classes["train"])}
        return {
            "images": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            "y": torch.tensor([number[path.parent.name] for path in paths]),
            "num_train": sum(path.parts[-3] == "train" for path in paths),
        }

    names = ("train", "test")
    return Images(**cached(folder.name, files, build))
