"""Products of pairs against plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from graphkit.ops import pair_product
from graphkit.ops.pairs import pair_product_reference


@pytest.mark.parametrize(("nodes", "pairs", "width"), [(1, 3, 2), (7, 50, 1), (40, 300, 65), (5, 0, 3), (30, 4000, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_equal_the_reference(nodes: int, pairs: int, width: int, threads: int) -> None:
    x = torch.randn(nodes, width, dtype=torch.float64, requires_grad=True)
    ends = torch.randint(nodes, (2, pairs))  # with repeats and with both ends the same
    upstream = torch.randn(pairs, width, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = pair_product(x, ends)
        (gradient,) = torch.autograd.grad(found, x, upstream)
    finally:
        torch.set_num_threads(before)
    wanted = pair_product_reference(x, ends)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, x, upstream)[0])


def test_gradcheck_compile_and_registration() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    ends = torch.randint(6, (2, 9))
    assert torch.autograd.gradcheck(lambda x: pair_product(x, ends), x)
    torch.library.opcheck(torch.ops.graphkit.pair_product.default, (x, ends[0], ends[1]))
    compiled = torch.compile(pair_product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, ends), pair_product_reference(x, ends))


def test_other_types_take_the_reference_and_vectors_are_refused() -> None:
    x = torch.randn(4, 2).bfloat16()
    assert pair_product(x, torch.tensor([[0], [1]])).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="x must be a matrix"):
        pair_product(torch.randn(3), torch.tensor([[0], [1]]))
