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


GRID = torch.cartesian_prod(torch.arange(2), torch.arange(3))
ONE, TWO = torch.tensor([0, 6]), torch.tensor([0, 3, 6])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenLayout([0, 6]), TypeError, r"ptr must be a torch.Tensor of int64 \(got list\)"),
        (lambda: TokenLayout(torch.tensor([[0, 6]])), ValueError, "ptr must be a vector"),
        (lambda: TokenLayout(ONE, key=[0] * 6), TypeError, r"key must be a torch.Tensor \(got list\)"),
        (lambda: TokenLayout(ONE, pos=GRID.float()), TypeError, "pos must hold rows and columns, int64"),
        (lambda: TokenLayout(ONE, key=torch.tensor([0, 1, torch.nan, 2, 3, 4])), ValueError, "got nan at token 2"),
        (lambda: TokenLayout(ONE, pos=GRID.to("meta")), ValueError, "pos is on meta, ptr on cpu; move one"),
        (lambda: TokenLayout(ONE.to("meta")), ValueError, "ptr must have values .*on meta"),
        (lambda: TokenLayout.of(Data(pos=GRID.to("meta"), num_nodes=6), 6), ValueError, "ptr must have values"),
        (lambda: TokenLayout.of(ONE.to("meta"), 6, torch.device("cpu")), ValueError, "tokens is on meta, x on cpu"),
        (lambda: TokenLayout.of(Data(x=torch.ones(6, 1), batch=ONE.to("meta")), 6), ValueError, "batch is on meta"),
        (lambda: TokenLayout.of(Data(x=torch.ones(2, 1), batch=torch.tensor([-1, 0])), 2), ValueError, "from 0 on"),
        (
            lambda: TokenLayout.of(Data(x=torch.ones(2, 1), batch=torch.zeros(2)), 2),
            ValueError,
            "batch must hold the graph",
        ),
        (
            lambda: TokenLayout.of(Data(x=torch.ones(3, 1), batch=torch.tensor([0, 0])), 3),
            ValueError,
            "each of 3 nodes",
        ),
        (lambda: TokenLayout(ONE).sequence(torch.ones(7, 1)), ValueError, "a row for each of 6 tokens"),
        (lambda: TokenLayout(TWO).pad(torch.ones(8, 1)), ValueError, "a row for each of 6 tokens"),
        (lambda: TokenLayout(TWO).unpad(torch.ones(2, 4, 1)), ValueError, r"h must have shape \[2, 3, ...\]"),
        (lambda: TokenLayout(TWO).mean(torch.ones(8, 1)), ValueError, "a row for each of 6 tokens"),
        (lambda: TokenLayout(ONE, pos=GRID).from_canvas(torch.ones(1, 3, 2, 1)), ValueError, "images of shape"),
        (lambda: TokenLayout(ONE, pos=GRID, grid_size=torch.tensor([[2, 3]])).windows(0), ValueError, "size must be"),
        (lambda: TokenLayout(ONE).check_edges(), ValueError, "must have edge_index"),
        (lambda: TokenLayout(ONE, edge_index=torch.zeros(2, 3)).check_edges(), TypeError, "must be int64"),
        (lambda: TokenLayout(ONE, edge_index=torch.tensor([[0], [6]])).check_edges(), IndexError, "node id 6"),
        (lambda: TokenLayout(TWO, edge_index=torch.tensor([[0], [4]])).check_edges(), ValueError, "of graphs 0 and 1"),
    ],
)
def test_what_is_no_layout(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_where_a_grid_begins_makes_no_difference():
    shuffled = torch.tensor([4, 0, 5, 2, 1, 3])
    for start in (0, -1, -7, 5):
        layout = TokenLayout.of(Data(pos=GRID[shuffled] + start, num_nodes=6), 6)
        assert layout.sequence(shuffled).tolist() == list(range(6))
