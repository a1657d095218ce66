"""Token layouts against loops over graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from graphkit.ops import TokenLayout


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_layout_equals_loops(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    key, x = torch.randint(0, 3, (total,), generator=generator), torch.randn(total, 2, generator=generator)
    ptr = torch.tensor([0, *lengths]).cumsum(0)
    layout = TokenLayout(ptr, key)
    longest = max(lengths)
    rows, mask = torch.zeros(len(lengths), longest, 2), torch.zeros(len(lengths), longest, dtype=torch.bool)
    before, sequence = [], []
    for b, length in enumerate(lengths):
        span = range(int(ptr[b]), int(ptr[b + 1]))
        read = sorted(span, key=lambda i: (int(key[i]), i))
        for place, i in enumerate(read):
            rows[b, place], mask[b, place] = x[i], True
            assert int(layout.rank[i]) == place
            assert int(layout.batch[i]) == b
            before.append(x[read[place - 1]] if place else torch.zeros(2))
            sequence.append(x[i])
        assert torch.equal(layout.last(x)[b], x[read[-1]] if length else torch.zeros(2))
        mean = x[list(span)].mean(0) if length else torch.zeros(2)
        torch.testing.assert_close(layout.mean(x)[b], mean)
    assert torch.equal(layout.pad(x), rows)
    assert torch.equal(layout.mask, mask)
    assert torch.equal(layout.unpad(rows), x)
    assert torch.equal(layout.restore(layout.sequence(x)), x)
    if total:
        assert torch.equal(layout.sequence(x), torch.stack(sequence))
        assert torch.equal(layout.previous(layout.sequence(x)), torch.stack(before))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_another_order_is_that_of_a_new_layout(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    total, ptr = sum(lengths), torch.tensor([0, *lengths]).cumsum(0)
    keys, x = torch.rand(2, total, generator=generator), torch.randn(total, 2, generator=generator)
    first = TokenLayout(ptr, keys[0])
    before = first.pad(x), first.rank, first.is_rectangular
    other, new = first.reordered(keys[1]), TokenLayout(ptr, keys[1])
    assert other.batch is first.batch
    assert other.max_length == new.max_length
    assert other.rank.equal(new.rank)
    for name in ("sequence", "restore", "pad", "last", "mean"):
        assert getattr(other, name)(x).equal(getattr(new, name)(x)), name
    assert other.unpad(other.pad(x)).equal(x)
    assert first.pad(x).equal(before[0])
    assert first.rank is before[1]
    ends = first.ends
    assert (ends.num_graphs, ends.num_tokens, ends.max_length) == (len(lengths), len(lengths), 1)
    with pytest.raises(ValueError, match="key must have shape"):
        first.reordered(torch.zeros(total + 1))


def test_tokens_of_a_batch_are_read_by_order_time_or_place_on_the_grid():
    x = torch.arange(4.0)[:, None]
    grid = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]])
    for fields in ({"order": torch.tensor([3, 1, 2, 0])}, {"time": torch.tensor([9.0, 3, 5, 1])}, {"pos": grid}):
        batch = Batch.from_data_list([Data(x=x, num_nodes=4, **fields)] * 2)
        layout = TokenLayout.of(batch, 8)
        assert layout.sequence(batch.x).flatten().tolist() == [3, 1, 2, 0] * 2
    plain = TokenLayout.of(Data(x=x, pos=torch.rand(4, 3)), 4)
    assert plain.sequence(x).flatten().tolist() == [0, 1, 2, 3]
    assert plain.is_rectangular


def test_padding_of_equal_graphs_is_a_view():
    x = torch.randn(6, 2)
    layout = TokenLayout.of(torch.tensor([0, 3, 6]), 6)
    assert layout.pad(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenLayout(torch.tensor([0, 3, 2])), ValueError, "ptr must ascend"),
        (lambda: TokenLayout(torch.tensor([0, 2]), torch.zeros(3)), ValueError, "key must have shape"),
        (lambda: TokenLayout(torch.tensor([0, 2]), pos=torch.zeros(2, 3)), ValueError, "pos must have shape"),
        (
            lambda: TokenLayout(
                torch.tensor([0, 2]), pos=torch.tensor([[0, 0], [0, 5]]), grid_size=torch.tensor([[2, 5]])
            ),
            ValueError,
            r"pos\[1\] is \[0, 5\], outside its grid of 2 x 5",
        ),
        (lambda: TokenLayout.of("chain", 3), TypeError, "tokens must be a TokenLayout"),
        (lambda: TokenLayout.of(torch.tensor([0, 2]), 3), ValueError, "has 2 tokens, but x has 3"),
        (lambda: TokenLayout.of(Data(batch=torch.tensor([1, 0]), num_nodes=2), 2), ValueError, "must be ascending"),
    ],
)
def test_wrong_layouts(call, error, message):
    with pytest.raises(error, match=message):
        call()
