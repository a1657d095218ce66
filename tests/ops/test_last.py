import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkit.ops.last import compact, last_occurrence

ids = st.lists(st.integers(0, 20), max_size=60)


@settings(deadline=None)
@given(ids)
def test_last_occurrence_is_that_of_a_dictionary(values):
    last = {value: place for place, value in enumerate(values)}
    want = [last[value] == place for place, value in enumerate(values)]
    assert last_occurrence(torch.tensor(values, dtype=torch.long)).tolist() == want


@settings(deadline=None)
@given(ids)
def test_compact_keeps_the_order_of_first_occurrence(values):
    nodes, inverse = compact(torch.tensor(values, dtype=torch.long), 21)
    assert nodes.tolist() == list(dict.fromkeys(values))
    assert nodes[inverse].tolist() == values


def test_compact_of_a_matrix_and_of_large_ids():
    n_id = torch.tensor([[2**40, 3], [3, 2**40 + 1]])
    nodes, inverse = compact(n_id, 2**41)
    assert nodes.tolist() == [2**40, 3, 2**40 + 1]
    assert torch.equal(nodes[inverse], n_id)


@pytest.mark.parametrize("num_nodes", [3, 100])
def test_off_the_cpu_nothing_is_counted(num_nodes):
    """Meta tensors have no values, so this shows that the shapes follow from the sizes alone."""
    nodes, inverse = compact(torch.zeros(4, 5, dtype=torch.long, device="meta"), num_nodes)
    assert nodes.numel() == min(num_nodes, 20)
    assert inverse.shape == (4, 5)
