"""Images as packed grids of tokens, cut into patches when a batch is made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset

from graphkit.loader.packed_graphs import PackedGraphs, check_graph_ids
from graphkit.transforms.tokenize import ImageTokens, image_patches
from graphkit.utils.checks import check_finite, check_values

# What a batch has of its own.
_MADE = ("x", "pos", "grid_size", "edge_index", "batch", "ptr")


class ImageGraphs(PackedGraphs):
    """Images of one size, each a grid of tokens: batches as :class:`~graphkit.transforms.ImageTokens` makes them.

    What is kept are the images themselves (a byte a pixel for uint8); tokens, places and edges come into being with the
    batch, without a Python step for each image. O(pixels + edges of the batch).

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W]``, uint8 or floating; or a dataset whose graphs have ``image``, such as
            ``load("digit_images").graphs``, with what else they have a row of.
        patch: pixels a side of a token.
        kernel: tokens are linked to those within a square of so many around them; None makes no edges, which most
            models of images do not read.
        **fields: what else an image has, such as labels ``y``: ``[N, ...]`` each.

    Shapes:
        - **a batch of B:** ``x`` ``[B n, C patch²]``, ``pos`` ``[B n, 2]``, ``grid_size`` ``[B, 2]``, ``edge_index``
          and ``fields`` ``[B, ...]``; uint8 becomes float from 0 to 1

    Raises:
        TypeError: no images, or whole numbers that are no bytes.
        ValueError: images of different sizes, numbers that are not finite, sides that ``patch`` does not divide, fields
            of another length.

    Example:
        >>> graphs = ImageGraphs(torch.rand(100, 1, 8, 8), patch=2, y=torch.arange(100) % 10)
        >>> batch = graphs.batch(torch.tensor([3, 5]))
        >>> batch.x.shape, batch.grid_size.tolist(), batch.y
        (torch.Size([32, 4]), [[4, 4], [4, 4]], tensor([3, 5]))
    """

    def __init__(
        self, images: Tensor | InMemoryDataset, patch: int = 1, kernel: int | None = 3, **fields: Tensor
    ) -> None:
        if isinstance(images, InMemoryDataset):
            images, found = _of_dataset(images)
            fields = {**found, **fields}
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor or a PyG in-memory dataset (got {type(images).__name__})")
        if images.dim() not in (3, 4) or not images.numel():
            raise ValueError(f"images must have shape [N, C, H, W] or [N, H, W], N > 0 (got {list(images.shape)})")
        check_values(images=images, **fields)
        self.images = check_finite(images if images.dim() == 4 else images[:, None], "images")
        for name, value in fields.items():
            if name in _MADE:
                raise ValueError(f"fields must have other names than {', '.join(_MADE)} (got {name!r})")
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor (got {type(value).__name__})")
            if value.dim() == 0 or value.size(0) != len(self):
                raise ValueError(f"{name} must have a row for each of {len(self)} images (got {list(value.shape)})")
        self.tokenize = ImageTokens(patch, 1 if kernel is None else kernel)
        self.fields = fields
        # Of what every image has the same: places and edges.
        self._grid = self.tokenize(Data(image=self.images[0]))
        if kernel is None:
            del self._grid.edge_index
        self.tokens_per_image = int(self._grid.num_nodes or 0)
        self.num_nodes = len(self) * self.tokens_per_image

    def __len__(self) -> int:
        return self.images.size(0)

    def __contains__(self, name: str) -> bool:
        return name in self.fields or name in self._grid

    def __getitem__(self, name: str) -> Tensor:
        """A field of all images, such as ``graphs["y"]``; tokens come with :meth:`batch`."""
        if name not in self.fields:
            raise KeyError(f"images have no field {name!r} (got {', '.join(self.fields) or 'none'})")
        return self.fields[name]

    @property
    def num_features(self) -> int:
        """Width of a token."""
        return self._grid.num_features

    def batch(self, index: Tensor) -> Batch:
        index = check_graph_ids(index, len(self)).to(self.images.device)
        grid, tokens, count = self._grid, self.tokens_per_image, index.numel()
        first = torch.arange(count + 1, device=index.device) * tokens
        edges = {}
        if grid.edge_index is not None:
            edges["edge_index"] = (grid.edge_index[:, None] + first[:-1, None]).flatten(1)
        out = Batch(
            _base_cls=Data,
            x=image_patches(self.images[index], self.tokenize.patch).flatten(0, 1),
            **edges,
            **{name: value[index] for name, value in self.fields.items()},
            pos=grid.pos.repeat(count, 1),
            grid_size=grid.grid_size.expand(count, 2),
            batch=torch.arange(count, device=index.device).repeat_interleave(tokens),
            ptr=first,
        )
        out.num_nodes, out._num_graphs = count * tokens, count
        return out

    def to(self, device: torch.device | str) -> ImageGraphs:
        out = object.__new__(ImageGraphs)
        out.__dict__.update(self.__dict__)
        out.images, out._grid = self.images.to(device), self._grid.clone().to(device)
        out.fields = {name: value.to(device) for name, value in self.fields.items()}
        return out

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.images.shape[1:]))
        return f"{type(self).__name__}({len(self)} of {sizes}, patch={self.tokenize.patch})"


def _of_dataset(graphs: InMemoryDataset) -> tuple[Tensor, dict[str, Tensor]]:
    data, slices = graphs._data, graphs.slices
    if "image" not in data or slices is None:
        raise ValueError(f"the graphs of {graphs} must have an image each (got {', '.join(data.keys())})")
    depth = slices["image"].diff()
    if not bool((depth == depth[0]).all()):
        raise ValueError(f"images must have one number of channels (got {int(depth.min())} to {int(depth.max())})")
    images = data.image.view(-1, int(depth[0]), *data.image.shape[1:])
    fields = {
        name: value
        for name, value in data.to_dict().items()
        if name != "image" and isinstance(value, Tensor) and value.dim() and value.size(0) == images.size(0)
    }
    if graphs._indices is not None:  # a part of a dataset keeps the whole in memory
        index = torch.as_tensor(list(graphs.indices()))
        images, fields = images[index], {name: value[index] for name, value in fields.items()}
    return images, fields
