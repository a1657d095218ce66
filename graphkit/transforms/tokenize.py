"""Tokenizers: images, series, tables, events and the surroundings of nodes as token graphs.

A token graph has one row of ``x`` a token, its place (``order``, or ``pos`` and ``grid_size`` on a grid, or ``time``)
and edges between tokens that are near. Tokenizers of nodes make one short sequence for each node: ``ptr`` says where
each begins, and labels and masks of nodes become those of sequences.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch_geometric.data import Data, TemporalData
from torch_geometric.transforms import BaseTransform

from graphkit.ops import NeighborIndex, neighborhood_walks, ppr, spmm, visited_sets
from graphkit.ops.csr import counts_to_ptr
from graphkit.utils.checks import (
    NO_FEATURES,
    check_choice,
    check_device,
    check_features,
    check_finite,
    check_int,
    check_range,
    check_values,
)


def chain_edges(length: int) -> Tensor:
    """``[2, 2 (L - 1)]`` both directions between each token and the next.

    Example:
        >>> chain_edges(3)
        tensor([[0, 1, 1, 2],
                [1, 2, 0, 1]])
    """
    place = torch.arange(max(length - 1, 0))
    return torch.stack([torch.cat([place, place + 1]), torch.cat([place + 1, place])])


@lru_cache(maxsize=64)
def grid_edges(rows: int, columns: int, kernel: int = 3) -> Tensor:
    """``[2, E]`` edges of a grid, row by row: to each token from all in a square of ``kernel`` around it, itself too.

    Example:
        >>> grid_edges(1, 3)[:, :2]
        tensor([[0, 1],
                [0, 0]])
    """
    check_int(rows, "rows", 0)
    check_int(columns, "columns", 0)
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive (got {kernel})")
    row, column = (part.flatten() for part in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    reach = torch.arange(kernel) - kernel // 2
    down, right = (part.flatten() for part in torch.meshgrid(reach, reach, indexing="ij"))
    from_row, from_column = row[:, None] + down, column[:, None] + right
    inside = (from_row >= 0) & (from_row < rows) & (from_column >= 0) & (from_column < columns)
    target = torch.arange(rows * columns)[:, None].expand_as(inside)
    return torch.stack([(from_row * columns + from_column)[inside], target[inside]])


def image_patches(images: Tensor, patch: int) -> Tensor:
    """``[N, C, H, W]`` to ``[N, n, C patch²]``: squares of pixels row by row; bytes become numbers from 0 to 1.

    Raises:
        TypeError: neither bytes (uint8) nor floating point.
        ValueError: another shape, sides that ``patch`` does not divide.

    Example:
        >>> image_patches(torch.tensor([[[[255, 0, 51], [0, 255, 0]]]], dtype=torch.uint8), 1)[0, :3, 0]
        tensor([1.0000, 0.0000, 0.2000])
    """
    if images.dim() != 4:
        raise ValueError(f"images must have shape [N, C, H, W] (got {list(images.shape)})")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be bytes (uint8), 0 to 255, or floating point (got {images.dtype})")
    count, channels, height, width = images.shape
    check_int(patch, "patch", 1)
    if height % patch or width % patch or not height * width:
        raise ValueError(f"image must have sides that patch={patch} divides (got {height} x {width})")
    rows, columns = height // patch, width // patch
    parts = images.reshape(count, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    parts = parts.reshape(count, rows * columns, channels * patch * patch)
    return parts.float() / 255 if parts.dtype == torch.uint8 else parts


class ImageTokens(BaseTransform):
    """An image as tokens on a grid, one a square of pixels; :class:`~graphkit.loader.ImageGraphs` does many at once.

    Args:
        patch: pixels a side of a square; 1 makes every pixel a token.
        kernel: tokens are linked to those within a square of so many around them.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``image`` ``[C, H, W]`` or ``[H, W]``
        - **output:** the same with ``x`` ``[n, C patch²]`` (bytes become numbers from 0 to 1), ``pos`` ``[n, 2]`` (row,
          column), ``grid_size`` ``[1, 2]`` and ``edge_index`` instead

    Raises:
        ValueError: no image, or sides that ``patch`` does not divide.

    Example:
        >>> ImageTokens(2)(Data(image=torch.rand(3, 4, 6)))
        Data(x=[6, 12], edge_index=[2, 28], pos=[6, 2], grid_size=[1, 2])
    """

    def __init__(self, patch: int = 1, kernel: int = 3) -> None:
        self.patch, self.kernel = check_int(patch, "patch", 1), check_int(kernel, "kernel", 1)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd (got {kernel})")

    def forward(self, data: Data) -> Data:
        image = _given(data, "image", (2, 3))
        (tokens,) = image_patches(image[None, None] if image.dim() == 2 else image[None], self.patch)
        rows, columns = (side // self.patch for side in image.shape[-2:])
        place = torch.arange(rows * columns)
        fields = {
            "x": tokens,
            "pos": torch.stack([place // columns, place % columns], 1),
            "grid_size": torch.tensor([[rows, columns]]),
            "edge_index": grid_edges(rows, columns, self.kernel),
        }
        return _with(data, "image", fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.patch})"


class SequenceTokens(BaseTransform):
    """A sequence of ids or vectors as a chain of tokens.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``sequence`` ``[L]`` (ids) or ``[L, F]``
        - **output:** the same with ``x`` ``[L]`` or ``[L, F]``, ``order`` ``[L]`` and ``edge_index`` instead

    Raises:
        ValueError: no sequence.

    Example:
        >>> SequenceTokens()(Data(sequence=torch.tensor([5, 2, 7])))
        Data(x=[3], edge_index=[2, 4], order=[3])
    """

    def forward(self, data: Data) -> Data:
        sequence = _given(data, "sequence", (1, 2))
        length = sequence.size(0)
        fields = {"x": sequence, "order": torch.arange(length), "edge_index": chain_edges(length)}
        return _with(data, "sequence", fields)


class SeriesTokens(BaseTransform):
    """A series of measurements as tokens: one a stretch of time, or one a variable.

    Args:
        patch: times of a stretch; those that are left over at the beginning are left out.
        by: ``"time"``, or ``"variable"`` (a token is the whole course of a variable; ``patch`` is not used).

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``series`` ``[T, V]``
        - **output:** the same with ``x`` ``[T / patch, patch V]`` or ``[V, T]``, ``order`` and ``edge_index`` instead

    Raises:
        ValueError: no series, or one shorter than ``patch``.

    Example:
        >>> SeriesTokens(patch=4)(Data(series=torch.rand(24, 7)))
        Data(x=[6, 28], edge_index=[2, 10], order=[6])
    """

    def __init__(self, patch: int = 1, by: str = "time") -> None:
        self.patch, self.by = check_int(patch, "patch", 1), check_choice(by, "by", ("time", "variable"))

    def forward(self, data: Data) -> Data:
        series = _given(data, "series", (2,))
        if self.by == "variable":
            x = series.t().contiguous()
        else:
            count = series.size(0) // self.patch
            if count == 0:
                raise ValueError(f"series must have at least patch={self.patch} times (got {series.size(0)})")
            x = series[series.size(0) - count * self.patch :].reshape(count, self.patch * series.size(1))
        length = x.size(0)
        return _with(data, "series", {"x": x, "order": torch.arange(length), "edge_index": chain_edges(length)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(patch={self.patch}, by={self.by!r})"


class TableTokens(BaseTransform):
    """A row of a table as one token a cell: the value, and which column it is in. All cells are linked.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``row`` ``[C]``
        - **output:** the same with ``x`` ``[C, 1 + C]``, ``order`` and ``edge_index`` instead

    Raises:
        ValueError: no row.

    Example:
        >>> TableTokens()(Data(row=torch.tensor([0.5, 2.0]))).x
        tensor([[0.5000, 1.0000, 0.0000],
                [2.0000, 0.0000, 1.0000]])
    """

    def forward(self, data: Data) -> Data:
        row = _given(data, "row", (1,))
        columns = row.numel()
        place = torch.arange(columns)
        apart = place[:, None] != place
        fields = {
            "x": torch.cat([row[:, None], torch.eye(columns, dtype=row.dtype)], 1),
            "order": place,
            "edge_index": apart.nonzero().t().contiguous(),
        }
        return _with(data, "row", fields)


class EventTokens(BaseTransform):
    r"""The events of each source of a stream as a sequence of tokens: the message and :math:`\log(1 + \Delta t)` since
    the event before (0 for the first).

    Args:
        size: latest events of a source that are kept; all if None.

    Shapes:
        - **input:** :class:`~torch_geometric.data.TemporalData` of E events
        - **output:** :class:`~torch_geometric.data.Data` with ``x`` ``[n, D + 1]``, ``time`` and ``e_id`` ``[n]``, and,
          for the B sources that occur, ``ptr`` ``[B + 1]`` and ``node`` ``[B]``

    Raises:
        TypeError: no ``TemporalData``.
        ValueError: ``size`` below 1, no events, or times or messages that are not finite.

    Example:
        >>> src, dst, t = torch.tensor([[4, 2, 4], [0, 0, 1], [5, 6, 9]])
        >>> EventTokens()(TemporalData(src=src, dst=dst, t=t)).node
        tensor([2, 4])
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = None if size is None else check_int(size, "size", 1)

    def forward(self, data: TemporalData) -> Data:
        if not isinstance(data, TemporalData):
            raise TypeError(f"data must be a torch_geometric.data.TemporalData (got {type(data).__name__})")
        if not data.num_events:
            raise ValueError("data must hold events (got none)")
        check_values(**{f"data.{name}": value for name, value in data.to_dict().items()})
        for name in ("t", "msg"):
            if isinstance(getattr(data, name, None), Tensor):
                check_finite(getattr(data, name), f"data.{name}")
        order = torch.argsort(data.t, stable=True)
        order = order[torch.argsort(data.src[order], stable=True)]
        node, count = data.src[order].unique_consecutive(return_counts=True)
        ptr = counts_to_ptr(count)
        time = data.t[order]
        since = torch.diff(time, prepend=time[:1])
        since[ptr[:-1]] = 0
        columns = [since.double().log1p().float()[:, None]]
        msg = getattr(data, "msg", None)
        if isinstance(msg, Tensor):
            columns.insert(0, msg[order].float().reshape(order.numel(), -1))
        x = torch.cat(columns, 1)
        if self.size is not None:
            end = torch.repeat_interleave(ptr[1:], count)
            keep = torch.arange(order.numel()) >= end - self.size
            x, time, order, ptr = x[keep], time[keep], order[keep], counts_to_ptr(count.clamp(max=self.size))
        return Data(x=x, time=time, e_id=order, ptr=ptr, node=node, num_nodes=x.size(0))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


class HopTokens(BaseTransform):
    r"""For each node a sequence of its surroundings from far to near, as in `"NAGphormer: A Tokenized Graph Transformer
    for Node Classification in Large Graphs" <https://arxiv.org/abs/2206.04910>`_:

    .. math:: \tilde A^K x, \dots, \tilde A x, x \qquad \tilde A = D^{-1/2} (A + I) D^{-1/2}

    O(K E F), once.

    Args:
        num_hops: K.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]`` and ``edge_index``, both directions
        - **output:** the same with ``x`` ``[N (K + 1), F]``, ``order``, ``ptr`` ``[N + 1]`` and the edges of chains

    Raises:
        ValueError: ``num_hops`` below 0, no features, ones that are not finite, no edges, or an edge without its other
            direction.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> HopTokens(2)(data)
        Data(x=[9, 3], edge_index=[2, 12], order=[9], ptr=[4])
    """

    def __init__(self, num_hops: int) -> None:
        self.num_hops = check_int(num_hops, "num_hops", 0)

    def forward(self, data: Data) -> Data:
        x, graph = _graph(data)
        if not bool(graph.has_edge(graph.col, graph.row).all()):
            raise ValueError("data.edge_index must hold both directions of each edge; see ToUndirected")
        x = x.to_dense() if x.is_sparse_csr else x
        scale = (graph.degree.to(x.dtype) + 1).rsqrt()[:, None]
        hops = [x]
        for _ in range(self.num_hops):
            scaled = hops[-1] * scale
            hops.append(scale * (scaled + spmm(graph.rowptr, graph.col, scaled)))
        length = self.num_hops + 1
        tokens = torch.stack(hops[::-1], 1).flatten(0, 1)
        return _sequences(data, tokens, torch.full((graph.num_nodes,), length))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_hops})"


class PPRTokens(BaseTransform):
    """For each node the nodes that matter most to it by personalised PageRank, least first, the node itself last.

    O(1 / (eps alpha)) a node, once.

    Args:
        size: most tokens of a node besides itself.
        alpha: probability of going back to the node at each step.
        eps: tolerance of :func:`graphkit.ops.ppr`.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]`` and ``edge_index``
        - **output:** the same with ``x`` ``[n, F]``, ``order`` and ``token_node`` ``[n]``, ``ptr`` ``[N + 1]`` and the
          edges of chains

    Raises:
        ValueError: a number out of range, no features, ones that are not finite, or no edges.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> PPRTokens(1)(data).token_node
        tensor([1, 0, 0, 1, 1, 2])
    """

    def __init__(self, size: int, alpha: float = 0.15, eps: float = 1e-4) -> None:
        self.size = check_int(size, "size", 1)
        self.alpha, self.eps = check_range(alpha, "alpha", 0, 1, low_open=True), check_range(eps, "eps", 0, 1)

    def forward(self, data: Data) -> Data:
        x, graph = _graph(data)
        root = torch.arange(graph.num_nodes, device=x.device)
        found = ppr(graph, root, self.alpha, self.eps, top_k=self.size + 1)
        other = found.node != found.batch
        batch, node, value = found.batch[other], found.node[other], found.value[other]
        # Where the node itself is not among its own best, there is one too many.
        place = torch.arange(batch.numel(), device=x.device) - torch.searchsorted(batch, batch)
        keep = place < self.size
        batch, node, value = torch.cat([batch[keep], root]), torch.cat([node[keep], root]), value[keep]
        value = torch.cat([value, value.new_full(root.shape, torch.inf)])
        order = torch.argsort(value, stable=True)
        order = order[torch.argsort(batch[order], stable=True)]
        node = node[order]
        rows = (x.to_dense() if x.is_sparse_csr else x)[node]
        out = _sequences(data, rows, torch.bincount(batch, minlength=graph.num_nodes))
        out.token_node = node
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size})"


class RandomWalkTokens(BaseTransform):
    r"""For each node a sequence of sampled neighbourhoods from far to near, as in `"Graph Mamba: Towards Learning on
    Graphs with State Space Models" <https://arxiv.org/abs/2402.08678>`_.

    For each length :math:`l = m, \dots, 1` and each of ``s`` repeats, a token is the set of all nodes that
    ``num_walks`` uniform walks of length l from the node visit; the last token is the node alone. Its features are the
    mean over the set. O(N s m² num_walks), whatever the degrees, once.

    Args:
        m: length of the longest walks.
        s: tokens of each length.
        num_walks: walks of a token.
        seed: seed of the walks.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]`` and ``edge_index``
        - **output:** the same with ``x`` ``[N (s m + 1), F]``, ``order``, ``ptr`` ``[N + 1]``, the edges of chains, and
          the sets: ``token_ptr`` ``[N (s m + 1) + 1]``, ``token_node``

    Raises:
        ValueError: a number out of range, no features, ones that are not finite, or no edges.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> RandomWalkTokens(m=2, s=1, num_walks=8)(data).x[:3]
        tensor([[0.3333, 0.3333, 0.3333],
                [0.5000, 0.5000, 0.0000],
                [1.0000, 0.0000, 0.0000]])
    """

    def __init__(self, m: int = 4, s: int = 4, num_walks: int = 4, seed: int = 0) -> None:
        self.m, self.s = check_int(m, "m", 0), check_int(s, "s", 1)
        self.num_walks, self.seed = check_int(num_walks, "num_walks", 1), check_int(seed, "seed", 0)

    def forward(self, data: Data) -> Data:
        x, graph = _graph(data)
        walks = neighborhood_walks(graph, self.m, self.s, self.num_walks, seed=self.seed)
        token_ptr, member = visited_sets(walks, graph.num_nodes, x.device)
        count = token_ptr.diff()
        dense = x.to_dense() if x.is_sparse_csr else x
        rows = spmm(token_ptr, member, dense) / count[:, None].to(dense.dtype)
        out = _sequences(data, rows, torch.full((graph.num_nodes,), self.s * self.m + 1))
        out.token_ptr, out.token_node = token_ptr, member
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}(m={self.m}, s={self.s}, num_walks={self.num_walks})"


def _given(data: Data, name: str, dims: tuple[int, ...]) -> Tensor:
    value = getattr(data, name, None)
    if not isinstance(value, Tensor) or value.dim() not in dims or not value.numel():
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"data.{name} must be a tensor of {' or '.join(map(str, dims))} dimensions (got {got})")
    check_values(**{f"data.{name}": value})
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise ValueError(f"data.{name} must be finite (got {float(value[tuple(bad)])} at {bad})")
    return value


def _with(data: Data, taken: str, fields: dict[str, Tensor]) -> Data:
    """``data`` with ``fields`` in place of ``taken``."""
    rest = {name: value for name, value in data.to_dict().items() if name != taken}
    return Data(**fields, **{name: value for name, value in rest.items() if name not in fields})


def _graph(data: Data) -> tuple[Tensor, NeighborIndex]:
    if data.x is None or data.edge_index is None:
        missing = [name for name in ("x", "edge_index") if getattr(data, name) is None]
        remedy = f"; {NO_FEATURES}" if data.x is None else ""
        raise ValueError(f"data must have x and edge_index (missing: {', '.join(missing)}){remedy}")
    check_device(x=data.x, edge_index=data.edge_index)
    check_features(data.x, "data.x")
    return data.x, NeighborIndex(data.edge_index, data.x.size(0))


_REPLACED = ("x", "num_nodes", "batch", "ptr", "order", "time", "pos", "grid_size")


def _sequences(data: Data, x: Tensor, length: Tensor) -> Data:
    """One chain of tokens for each node of ``data``. What belonged to its edges, and the places of its nodes, stay
    behind."""
    ptr = counts_to_ptr(length.to(x.device))
    place = torch.arange(x.size(0), device=x.device)
    order = place - torch.repeat_interleave(ptr[:-1], length.to(x.device), output_size=x.size(0))
    later = place[order > 0]
    out = Data(
        **{name: value for name, value in data.to_dict().items() if name not in _REPLACED and "edge" not in name}
    )
    out.x = x
    out.edge_index = torch.stack([torch.cat([later - 1, later]), torch.cat([later, later - 1])])
    out.order, out.ptr = order, ptr
    return out
