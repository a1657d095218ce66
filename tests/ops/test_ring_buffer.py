"""Ring buffers of neighbours against lists; last places."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.ops.events import (
    last_place,
    ring_insert,
    ring_insert_reference,
    ring_latest,
    ring_latest_reference,
)

events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40)


def empty_ring(nodes: int, size: int) -> list[torch.Tensor]:
    return [torch.zeros(nodes, size, dtype=torch.int64) for _ in range(3)] + [torch.zeros(nodes, dtype=torch.int64)]


@given(events, st.integers(1, 4), st.integers(1, 7), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_rings_equal_lists(pairs, size, batch, wanted) -> None:
    """Ties, events of a node with itself, unseen nodes (5), batches in which a ring wraps several times."""
    wanted = min(wanted, size)
    fast, plain = empty_ring(6, size), empty_ring(6, size)
    lists: dict[int, list[tuple[int, int, int]]] = {v: [] for v in range(6)}
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        src, dst = torch.tensor(part).t().contiguous()
        e_id = torch.arange(start, start + len(part))
        t = e_id // 3 + 100
        ring_insert(src, dst, t, e_id, *fast)
        ring_insert_reference(src, dst, t, e_id, *plain)
        for i, (u, v) in enumerate(part):
            e = start + i
            lists[u].append((v, e, e // 3 + 100))
            if u != v:
                lists[v].append((u, e, e // 3 + 100))
        assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))
    nodes = torch.tensor([5, 0, 1, 2, 3, 4, 0])
    found = ring_latest(nodes, wanted, *fast)
    assert all(torch.equal(a, b) for a, b in zip(found, ring_latest_reference(nodes, wanted, *plain), strict=True))
    for row, node in enumerate(nodes.tolist()):
        want = lists[node][::-1][:wanted]
        got = [(int(n), int(e), int(t)) for n, e, t, m in zip(*(value[row] for value in found), strict=True) if m]
        assert got == want
        assert int(found.mask[row].sum()) == len(want)
        assert all(int(n) == node for n in found.n_id[row, len(want) :])


def test_no_events_change_nothing() -> None:
    none = torch.empty(0, dtype=torch.int64)
    for insert in (ring_insert, ring_insert_reference):
        ring = empty_ring(3, 2)
        insert(none, none, none, none, *ring)
        assert not any(value.any() for value in ring)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_last_place(values) -> None:
    want = [max(i for i, w in enumerate(values) if w == v) for v in values]
    assert last_place(torch.tensor(values, dtype=torch.int64)).tolist() == want
