"""Links are predicted where there was one before: EdgeBank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.nn.temporal.state import TemporalModel
from graphkit.utils.checks import check_choice, check_int

_NO_KEY = torch.iinfo(torch.int64).max
_LEVELS = ("old", "new")


class EdgeBank(TemporalModel):
    """The baseline without parameters of `"Towards Better Evaluation for Dynamic Link Prediction"
    <https://arxiv.org/abs/2207.10128>`_: 1 for a link that the memory holds, 0 for others.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        memory: which links it holds:

            - ``"unlimited"``: all that occurred before;
            - ``"window"``: those whose last event is at most ``window`` before the time asked for;
            - ``"repeat"``: those that occurred at least as often as links do on average.
        window: time; :meth:`window_of` gives the paper's.

    Links have a direction. They are kept as sorted int64 keys ``src * num_nodes + dst`` in two levels: new links go to
    a small one, which joins the large one when it outgrows the root of the work that saves. A query takes O(log K), a
    batch of B events :math:`O(\\sqrt{KB})` amortised, with K links. As the state grows with K,
    :meth:`load_snapshot` and ``load_state_dict`` take on the sizes of what they load.

    Raises:
        ValueError: an argument out of range, or ``window`` without its memory.

    Example:
        >>> bank = EdgeBank(num_nodes=4)
        >>> src, dst, t = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([5, 6])
        >>> bank.update_state(src, dst, t, e_id=torch.arange(2))
        >>> bank(torch.tensor([0, 1]), torch.tensor([[2, 3], [2, 3]]), torch.tensor([7, 7]))
        tensor([[1., 0.],
                [0., 1.]])
    """

    num_links: Tensor
    num_shown: Tensor
    old_key: Tensor
    new_key: Tensor
    new_count: Tensor
    new_last: Tensor

    def __init__(self, num_nodes: int, memory: str = "unlimited", window: int | None = None) -> None:
        super().__init__(check_int(num_nodes, "num_nodes", 1, 3_037_000_499))  # its square is an int64
        self.memory = check_choice(memory, "memory", ("unlimited", "window", "repeat"))
        if (window is not None) != (memory == "window"):
            raise ValueError(f"memory='window' and window go together (got {memory!r} and {window})")
        self.window = None if window is None else check_int(window, "window", 0)
        # Rows that reset_state leaves are keys of no link.
        for level in _LEVELS:
            self.register_state(f"{level}_key", 0, fill=_NO_KEY, dtype=torch.int64)
            self.register_state(f"{level}_count", 0, dtype=torch.int64)
            self.register_state(f"{level}_last", 0, dtype=torch.int64)
        self.register_state("num_links", dtype=torch.int64)
        self.register_state("num_shown", dtype=torch.int64)

    @staticmethod
    def window_of(t: Tensor, share: float = 0.15) -> int:
        """The last ``share`` of the time that the training events, at ``t``, took."""
        return int(share * (int(t[-1]) - int(t[0])))

    @torch.no_grad()
    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t)
        wanted = self._key(src[:, None], dst)
        count, last = torch.zeros_like(wanted), torch.zeros_like(wanted)
        for level in _LEVELS:
            place, found = self._find(level, wanted)
            if place is not None:
                # A link is in one level only.
                count += torch.where(found, getattr(self, f"{level}_count")[place], 0)
                last += torch.where(found, getattr(self, f"{level}_last")[place], 0)
        held = count > 0
        if self.window is not None:
            held &= t[:, None] - last <= self.window
        elif self.memory == "repeat":
            held &= count * self.num_links >= self.num_shown
        return held.to(torch.get_default_dtype())

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id)
        if src.numel() == 0:
            return
        key, inverse, count = self._key(src, dst).unique(return_inverse=True, return_counts=True)
        last = torch.zeros_like(key).scatter_reduce_(0, inverse, t, "amax", include_self=False)
        for level in _LEVELS:
            place, found = self._find(level, key)
            if place is not None:
                place = place[found]
                getattr(self, f"{level}_count")[place] += count[found]
                getattr(self, f"{level}_last")[place] = last[found]
                key, count, last = key[~found], count[~found], last[~found]
        self._add("new", key, count, last)
        self.num_links += key.numel()
        self.num_shown += src.numel()
        if self.new_key.numel() ** 2 > max(self.old_key.numel(), 1 << 12) * src.numel():
            self._add("old", self.new_key, self.new_count, self.new_last)
            self._set("new", *(value[:0] for value in (key, count, last)))
        super().update_state(src, dst, t, e_id, msg)

    def _key(self, src: Tensor, dst: Tensor) -> Tensor:
        return src * self.num_nodes + dst

    def _find(self, level: str, wanted: Tensor) -> tuple[Tensor | None, Tensor]:
        """Where the keys are in a level (None if it is empty), and whether they are there at all."""
        key = getattr(self, f"{level}_key")
        if key.numel() == 0:
            return None, torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(key, wanted).clamp_(max=key.numel() - 1)
        return place, key[place] == wanted

    def _add(self, level: str, key: Tensor, count: Tensor, last: Tensor) -> None:
        if key.numel() == 0:
            return
        present = getattr(self, f"{level}_key") != _NO_KEY
        columns = [
            torch.cat([getattr(self, f"{level}_{name}")[present], value])
            for name, value in (("key", key), ("count", count), ("last", last))
        ]
        order = columns[0].argsort()
        self._set(level, *(column[order] for column in columns))

    def _set(self, level: str, key: Tensor, count: Tensor, last: Tensor) -> None:
        for name, value in (("key", key), ("count", count), ("last", last)):
            setattr(self, f"{level}_{name}", value)

    def load_snapshot(self, snapshot: dict[str, Tensor]) -> None:
        if dict(self.named_state()).keys() == snapshot.keys():
            self._take_sizes(snapshot, "")
        super().load_snapshot(snapshot)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._take_sizes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _take_sizes(self, state: dict[str, Any], prefix: str) -> None:
        for level in _LEVELS:
            for name in (f"{level}_key", f"{level}_count", f"{level}_last"):
                value = state.get(prefix + name)
                if isinstance(value, Tensor) and value.dim() == 1:
                    setattr(self, name, torch.empty_like(getattr(self, name)).resize_(value.shape))

    def extra_repr(self) -> str:
        window = "" if self.window is None else f", window={self.window}"
        return f"{self.num_nodes}, memory={self.memory!r}{window}"
