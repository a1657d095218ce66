"""Where the tokens of each graph lie, in what order they are read, and how they go to padded matrices and back."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.ops.scan import sequence_ptr
from graphkit.utils.checks import INDEX_DTYPES, check_device, check_int, check_pairs, check_values


class TokenLayout:
    """The tokens of a batch of graphs: whose they are and in what order they are read.

    Features stay apart, as ``[N, F]`` in the order of the nodes, each graph's nodes together. Mixers that go from token
    to token take them in reading order, graph after graph (:meth:`sequence`, :meth:`restore`); those that compare
    tokens take padded matrices (:meth:`pad`, :meth:`unpad`). Everything derived is computed once, so one layout serves
    all layers of a model.

    Args:
        ptr: ``[B + 1]`` first token of each graph, ending with N.
        key: ``[N]`` numbers by which each graph's tokens are read, ascending, equal ones as they stand; as they stand
            if None.
        pos: ``[N, 2]`` rows and columns on a grid.
        grid_size: ``[B, 2]`` rows and columns of each graph's grid.
        time: ``[N]`` moments.
        edge_index: ``[2, E]`` edges between tokens.

    Raises:
        TypeError: no tensor, places that are no whole numbers.
        ValueError: shapes that do not fit, positions outside the grid, a key that is NaN, tensors on several devices.

    Example:
        >>> layout = TokenLayout(torch.tensor([0, 1, 4]), key=torch.tensor([0, 2, 1, 0]))
        >>> layout.sequence(torch.tensor([10, 20, 30, 40]))
        tensor([10, 40, 30, 20])
        >>> layout.pad(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).squeeze(-1)
        tensor([[1., 0., 0.],
                [4., 3., 2.]])
    """

    def __init__(
        self,
        ptr: Tensor,
        key: Tensor | None = None,
        *,
        pos: Tensor | None = None,
        grid_size: Tensor | None = None,
        time: Tensor | None = None,
        edge_index: Tensor | None = None,
    ) -> None:
        if not isinstance(ptr, Tensor):
            raise TypeError(f"ptr must be a torch.Tensor of int64 (got {type(ptr).__name__})")
        check_device(ptr=ptr, key=key, pos=pos, grid_size=grid_size, time=time, edge_index=edge_index)
        check_values(ptr=ptr)
        tokens = int(ptr[-1]) if ptr.dim() == 1 and ptr.numel() else 0
        self.ptr = sequence_ptr(ptr, ptr.new_empty(tokens))
        self.num_tokens, self.num_graphs = tokens, ptr.numel() - 1
        for name, value, shape in (
            ("key", key, (tokens,)),
            ("pos", pos, (tokens, 2)),
            ("grid_size", grid_size, (self.num_graphs, 2)),
            ("time", time, (tokens,)),
        ):
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor (got {type(value).__name__})")
            if value.shape != shape:
                raise ValueError(
                    f"{name} must have shape {list(shape)} for {tokens} tokens of {self.num_graphs} graphs "
                    f"(got {list(value.shape)})"
                )
            if name in ("pos", "grid_size") and value.dtype not in INDEX_DTYPES:
                raise TypeError(f"{name} must hold rows and columns, int64 or int32 (got {value.dtype})")
        # NaN has no place in an order; a GPU is not waited for.
        if key is not None and key.is_floating_point() and key.device.type == "cpu" and bool(key.isnan().any()):
            bad = int(key.isnan().nonzero()[0])
            raise ValueError(f"key, by which tokens are read (order, time), must be numbers (got nan at token {bad})")
        if pos is not None and grid_size is not None:
            outside = ((pos < 0) | (pos >= grid_size[self.batch])).any(1)
            if bool(outside.any()):
                bad = int(outside.nonzero()[0])
                size = grid_size[int(self.batch[bad])].tolist()
                raise ValueError(f"pos[{bad}] is {pos[bad].tolist()}, outside its grid of {size[0]} x {size[1]}")
        self.pos, self.grid_size, self.time, self.edge_index = pos, grid_size, time, edge_index
        self._order = None if key is None else self._sorted(key)
        self._edges_checked = False
        self._windows: dict[tuple[int, bool], tuple[Tensor, int]] = {}

    @classmethod
    def of(cls, tokens: Any, num_tokens: int, device: torch.device | None = None) -> TokenLayout:
        """A layout from a layout, a PyG ``Data`` or ``Batch``, a ``ptr``, or None (one graph, read as it stands).

        Tokens of a ``Data`` are read by ``order``, else by ``time``, else row by row by ``pos``, else as they stand.

        Raises:
            TypeError: something else.
            ValueError: another number of tokens, a ``batch`` that is not ascending, tensors on several devices.
        """
        if device is not None and isinstance(tokens, Tensor) and tokens.device != device:
            raise ValueError(f"tokens is on {tokens.device}, x on {device}; move one with .to(...)")
        if tokens is None:
            tokens = torch.tensor([0, num_tokens], device=device)
        if isinstance(tokens, Tensor):
            found = cls(tokens)
        elif isinstance(tokens, Data):
            found = cls._from_data(tokens)
        elif isinstance(tokens, TokenLayout):
            found = tokens
        else:
            raise TypeError(
                f"tokens must be a TokenLayout, a torch_geometric Data or Batch, a ptr or None "
                f"(got {type(tokens).__name__})"
            )
        if device is not None and found.ptr.device != device:
            raise ValueError(f"tokens is on {found.ptr.device}, x on {device}; move one with .to(...)")
        if found.num_tokens != num_tokens:
            raise ValueError(f"tokens has {found.num_tokens} tokens, but x has {num_tokens} rows")
        return found

    @classmethod
    def _from_data(cls, data: Data) -> TokenLayout:
        count = int(data.num_nodes or 0)
        batch, ptr = getattr(data, "batch", None), getattr(data, "ptr", None)
        places = {name: getattr(data, name, None) for name in ("order", "time", "pos", "grid_size")}
        check_device(x=data.x, batch=batch, ptr=ptr, edge_index=data.edge_index, **places)
        given = (data.x, batch, data.edge_index, *places.values())
        device = next((value.device for value in given if isinstance(value, Tensor)), None)
        if ptr is None and batch is not None:
            if batch.shape != (count,) or batch.dtype not in INDEX_DTYPES:
                raise ValueError(
                    f"batch must hold the graph of each of {count} nodes, int64 (got {list(batch.shape)} {batch.dtype})"
                )
            falls = batch.diff(prepend=batch.new_zeros(1)) < 0
            if bool(falls.any()):
                bad = int(falls.nonzero()[0])
                if bad == 0:
                    raise ValueError(f"batch must hold numbers of graphs from 0 on (got {int(batch[0])})")
                raise ValueError(
                    "batch must be ascending, each graph's tokens together; sort the nodes by it "
                    f"(got {int(batch[bad])} after {int(batch[bad - 1])})"
                )
            graphs = int(batch[-1]) + 1 if count else 0
            ptr = torch.searchsorted(batch, torch.arange(graphs + 1, device=device))
        elif ptr is None:
            ptr = torch.tensor([0, count], device=device)
        pos, time, grid_size = places["pos"], places["time"], places["grid_size"]
        on_grid = isinstance(pos, Tensor) and pos.dim() == 2 and pos.size(1) == 2 and not pos.is_floating_point()
        key = time if places["order"] is None else places["order"]
        if key is None and on_grid and count:
            row, column = pos.unbind(1)  # type: ignore[union-attr]
            first = column.min()  # columns left of 0 are places, too
            key = row * (column.max() - first + 1) + (column - first)
        return cls(
            ptr,
            key,
            pos=pos if on_grid else None,
            grid_size=grid_size if on_grid else None,
            time=time,
            edge_index=data.edge_index,
        )

    def _by(self, key: Tensor) -> Tensor:
        order = torch.argsort(key, stable=True)
        return order if self.num_graphs == 1 else order[torch.argsort(self.batch[order], stable=True)]

    def _sorted(self, key: Tensor) -> Tensor | None:
        order = self._by(key)
        return None if torch.equal(order, torch.arange(self.num_tokens, device=order.device)) else order

    def reordered(self, key: Tensor) -> TokenLayout:
        """The same tokens read by another key. All that the order does not change is shared, so that a step with an
        order of its own computes nothing else and waits for no GPU."""
        if key.shape != (self.num_tokens,):
            raise ValueError(f"key must have shape {[self.num_tokens]} (got {list(key.shape)})")
        shared = {"batch": self.batch, "length": self.length, "max_length": self.max_length}
        other = copy(self)
        for name in ("rank", "_slot", "is_rectangular", "is_one_grid"):
            other.__dict__.pop(name, None)
        other.__dict__.update(shared)
        other._order = other._by(key)
        return other

    @cached_property
    def length(self) -> Tensor:
        """``[B]`` tokens of each graph."""
        return self.ptr.diff()

    @cached_property
    def max_length(self) -> int:
        """Tokens of the largest graph."""
        return int(self.length.max()) if self.num_graphs else 0

    @cached_property
    def batch(self) -> Tensor:
        """``[N]`` graph of each token."""
        graphs = torch.arange(self.num_graphs, device=self.ptr.device)
        return torch.repeat_interleave(graphs, self.ptr.diff(), output_size=self.num_tokens)

    @cached_property
    def rank(self) -> Tensor:
        """``[N]`` place of each token in the reading order of its graph, from 0."""
        place = torch.arange(self.num_tokens, device=self.ptr.device) - self.ptr[self.batch]
        return place if self._order is None else torch.empty_like(place).index_copy_(0, self._order, place)

    @cached_property
    def ends(self) -> TokenLayout:
        """A layout of B graphs with a token each: the rows of :meth:`last`."""
        return TokenLayout(torch.arange(self.num_graphs + 1, device=self.ptr.device))

    @cached_property
    def _slot(self) -> Tensor:
        return self.batch * self.max_length + self.rank

    @cached_property
    def mask(self) -> Tensor:
        """``[B, L]`` True where a padded matrix holds a token."""
        return torch.arange(self.max_length, device=self.ptr.device) < self.length[:, None]

    def check_edges(self) -> Tensor:
        """``edge_index``, looked over once: both ends are tokens of one graph. On a GPU, which is not waited for, a bad
        one is a device-side assertion.

        Raises:
            TypeError: ids of another type.
            ValueError: no edges, another shape, an edge from one graph to another.
            IndexError: an id beyond the tokens.
        """
        if self.edge_index is None:
            raise ValueError("tokens must have edge_index [2, E] (got none)")
        if not self._edges_checked and not torch.compiler.is_compiling():
            check_pairs(self.edge_index, self.num_tokens, "edge_index", wait=False)
            if self.num_graphs > 1:
                src, dst = self.batch[self.edge_index]
                apart = src != dst
                if apart.is_cuda:
                    torch._assert_async(~apart.any(), "edge_index must link tokens of one graph")
                elif bool(apart.any()):
                    bad = int(apart.nonzero()[0])
                    raise ValueError(
                        f"edge_index must link tokens of one graph (got {self.edge_index[:, bad].tolist()}, of graphs "
                        f"{int(src[bad])} and {int(dst[bad])})"
                    )
            self._edges_checked = True
        return self.edge_index

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[:1] != (self.num_tokens,):
            raise ValueError(f"x must have a row for each of {self.num_tokens} tokens (got {list(x.shape)})")
        return x

    @cached_property
    def is_rectangular(self) -> bool:
        """All graphs have one size and are read as they stand: padding is a view."""
        return self._order is None and self.num_tokens == self.num_graphs * self.max_length

    @cached_property
    def is_one_grid(self) -> bool:
        """All graphs have the same places, read in the same order."""
        if self.pos is None or not self.is_rectangular:
            return False
        pos = self.pad(self.pos)
        return bool((pos == pos[:1]).all())

    def sequence(self, x: Tensor) -> Tensor:
        """Rows in reading order, graph after graph; ``ptr`` says where each begins."""
        return self._checked(x) if self._order is None else self._checked(x).index_select(0, self._order)

    def restore(self, h: Tensor) -> Tensor:
        """Rows in reading order back in the order of the nodes."""
        return self._checked(h) if self._order is None else torch.empty_like(h).index_copy(0, self._order, h)

    def previous(self, h: Tensor) -> Tensor:
        """For rows in reading order, the row before each in its graph; zeros for the first."""
        moved = torch.cat([h.new_zeros(1, *h.shape[1:]), h[:-1]]) if h.size(0) else h
        first = torch.zeros(self.num_tokens + 1, dtype=torch.bool, device=h.device).index_fill_(0, self.ptr, True)
        return moved.masked_fill(first[:-1].view(-1, *[1] * (h.dim() - 1)), 0)

    def pad(self, x: Tensor) -> Tensor:
        """``[N, ...]`` to ``[B, L, ...]`` in reading order: L is the largest graph, zeros fill the others."""
        shape = (self.num_graphs, self.max_length, *self._checked(x).shape[1:])
        if self.is_rectangular:
            return x.reshape(shape)
        return x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, self._slot, x).view(shape)

    def unpad(self, h: Tensor) -> Tensor:
        """``[B, L, ...]`` back to ``[N, ...]`` in the order of the nodes."""
        if h.shape[:2] != (self.num_graphs, self.max_length):
            raise ValueError(f"h must have shape [{self.num_graphs}, {self.max_length}, ...] (got {list(h.shape)})")
        rows = h.reshape(-1, *h.shape[2:])
        return rows if self.is_rectangular else rows.index_select(0, self._slot)

    @cached_property
    def _canvas(self) -> tuple[int, int, Tensor | None]:
        """Rows and columns of the smallest grid that holds every graph, and each token's cell (None: row by row)."""
        if self.pos is None:
            raise ValueError("tokens must have pos [N, 2], rows and columns (got none)")
        if not self.num_tokens:
            return 0, 0, None
        if bool((self.pos < 0).any()):
            bad = int((self.pos < 0).any(1).nonzero()[0])
            raise ValueError(f"pos must not be negative (got {self.pos[bad].tolist()} at token {bad})")
        rows, columns = (self.pos.amax(0) + 1).tolist()
        cell = (self.batch * rows + self.pos[:, 0]) * columns + self.pos[:, 1]
        steps = cell.diff()
        if self.num_tokens == self.num_graphs * rows * columns and bool((steps == 1).all()):
            return rows, columns, None
        if not bool((steps > 0).all()):  # sorted only where the order leaves a doubt
            ordered, order = cell.sort()
            same = (ordered.diff() == 0).nonzero()
            if same.numel():
                one, two = sorted(order[int(same[0]) : int(same[0]) + 2].tolist())
                raise ValueError(
                    f"tokens of a graph must have places of their own (got {self.pos[one].tolist()} for tokens "
                    f"{one} and {two})"
                )
        return rows, columns, cell

    def to_canvas(self, x: Tensor) -> Tensor:
        """``[N, C]`` to images ``[B, H, W, C]`` that hold grids of any sizes, zeros where there is no token.

        Raises:
            ValueError: no places, negative ones, or two tokens of a graph at one.
        """
        rows, columns, cell = self._canvas
        shape = (self.num_graphs, rows, columns, *self._checked(x).shape[1:])
        if cell is None:
            return x.reshape(shape)
        total = self.num_graphs * rows * columns
        return x.new_zeros(total, *x.shape[1:]).index_copy(0, cell, x).view(shape)

    def from_canvas(self, h: Tensor) -> Tensor:
        """Images ``[B, H, W, C]`` of :meth:`to_canvas` back to ``[N, C]`` in the order of the nodes."""
        wanted = (self.num_graphs, *self._canvas[:2])
        if h.shape[:3] != wanted:
            raise ValueError(f"h must be images of shape {list(wanted)} (got {list(h.shape)})")
        rows = h.reshape(-1, *h.shape[3:])
        return rows if self._canvas[2] is None else rows.index_select(0, self._canvas[2])

    def windows(self, size: int, dilated: bool = False) -> tuple[Tensor, int]:
        """Windows of ``size`` by ``size`` places of each graph's grid: the place of each token among those of all
        windows, ``[N]``, and how many windows there are. Place p is place p mod size² of window p div size².

        A window is a square of neighbouring places, or, ``dilated``, one place of each of ``size`` by ``size`` equal
        cells of the grid. Sides are rounded up to multiples of ``size``.

        Raises:
            ValueError: no grid, or two tokens of a graph at one place.
        """
        if (size, dilated) not in self._windows:
            check_int(size, "size", 1)
            if self.pos is None or self.grid_size is None:
                raise ValueError("tokens must have pos [N, 2] and grid_size [B, 2], rows and columns (got no grid)")
            cells = (self.grid_size + size - 1).div(size, rounding_mode="floor")  # windows a side, or sides of a cell
            counts = cells.prod(1)
            if dilated:
                sides = cells[self.batch]
                outer, inner = self.pos % sides, self.pos.div(sides, rounding_mode="floor")
            else:
                outer, inner = self.pos.div(size, rounding_mode="floor"), self.pos % size
            window = (counts.cumsum(0) - counts)[self.batch] + outer[:, 0] * cells[self.batch, 1] + outer[:, 1]
            place = window * (size * size) + inner[:, 0] * size + inner[:, 1]
            count = int(counts.sum())
            if self.num_tokens and int(torch.bincount(place, minlength=1).max()) > 1:
                raise ValueError("tokens of a graph must have places of their own (got two tokens at one place)")
            self._windows[size, dilated] = (place, count)
        return self._windows[size, dilated]

    def last(self, x: Tensor) -> Tensor:
        """``[B, ...]`` the row of each graph's last token, zeros for a graph without tokens."""
        if not self.num_tokens:
            return x.new_zeros(self.num_graphs, *x.shape[1:])
        place = (self.ptr[1:] - 1).clamp(min=0)
        rows = self._checked(x).index_select(0, place if self._order is None else self._order[place])
        return rows.masked_fill((self.length == 0).view(-1, *[1] * (x.dim() - 1)), 0)

    def mean(self, x: Tensor) -> Tensor:
        """``[B, ...]`` mean over each graph's tokens, zeros for a graph without tokens."""
        total = x.new_zeros(self.num_graphs, *x.shape[1:]).index_add(0, self.batch, self._checked(x))
        return total / self.length.clamp(min=1).view(-1, *[1] * (x.dim() - 1)).to(x.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, tokens={self.num_tokens}, longest={self.max_length})"
