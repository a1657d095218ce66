"""The edge loss without a matrix of all pairs against the dense one: values, gradients, groups, memory, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from samples import graphs, messy_graph
from torch import Tensor

from graphkit.ops import NeighborIndex, edge_reconstruction_loss
from graphkit.ops.edge_reconstruction import edge_reconstruction_loss_reference

DOUBLE = torch.float64


def vectors(num_nodes: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def both(e: Tensor, edges: Tensor, mode: str, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and gradients of ours and of the dense form."""
    one, other = e.clone().requires_grad_(), e.clone().requires_grad_()
    ours = edge_reconstruction_loss(one, edges, mode, **options)
    dense = edge_reconstruction_loss_reference(other, edges, mode)
    ours.backward()
    dense.backward()
    return ours.detach(), dense.detach(), one.grad, other.grad


def test_golden() -> None:
    e = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    loops = torch.arange(3).expand(2, -1)
    for edges in (path, torch.cat([path, loops], 1), torch.cat([path, path, loops[:, :1]], 1)):
        assert float(edge_reconstruction_loss(e, edges)) == pytest.approx(0.520416, abs=1e-6)


@pytest.mark.parametrize("mode", ["minmax", "sigmoid"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("chunk", [3, 2048])
def test_equals_the_dense_form(mode: str, seed: int, chunk: int) -> None:
    edges, num_nodes = messy_graph(seed)
    ours, dense, grad, dense_grad = both(vectors(num_nodes, seed=seed), edges, mode, chunk=chunk)
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, dense_grad, rtol=1e-6, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_directed_graphs_of_any_shape(graph: tuple[Tensor, int]) -> None:
    edges, num_nodes = graph
    for mode in ("minmax", "sigmoid"):
        if num_nodes > 1 or mode == "sigmoid":  # the Gram matrix of one node has no range
            ours, dense, _, _ = both(vectors(num_nodes), edges, mode)
            torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["minmax", "sigmoid"])
def test_groups_of_equal_rows_change_neither_value_nor_gradient(mode: str) -> None:
    edges, num_nodes = messy_graph(2)
    code = torch.arange(num_nodes) % 4 * 7
    e = ((8 * vectors(29)).round() / 8)[code]  # products of these are exact, and so are ties
    grouped, dense, grad, dense_grad = both(e, edges, mode, group=code)
    torch.testing.assert_close(grouped, dense, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, dense_grad, rtol=1e-6, atol=1e-12)


def test_sampled_pairs_are_unbiased() -> None:
    edges, num_nodes = messy_graph(1)
    e = vectors(num_nodes)
    exact = edge_reconstruction_loss(e, edges, "sigmoid")
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([edge_reconstruction_loss(e, edges, "sampled", generator=generator) for _ in range(400)])
    assert abs(float(draws.mean() - exact)) < 4 * float(draws.std()) / 20
    assert float(draws.std()) > 0


@pytest.mark.parametrize("mode", ["minmax", "sigmoid"])
def test_float32_is_close_on_larger_graphs(mode: str) -> None:
    e = vectors(700, 16)
    edges = torch.randint(700, (2, 3000), generator=torch.Generator().manual_seed(0))
    want = edge_reconstruction_loss_reference(e, edges, mode)
    got = edge_reconstruction_loss(e.float(), edges, mode, chunk=100)
    assert float(got) == pytest.approx(float(want), rel=1e-4)


def test_no_matrix_of_all_pairs_is_made() -> None:
    """The largest tensor that a pass with gradients makes, saved or not, is far below N²."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel())
            return out

    e = vectors(600, 4).requires_grad_()
    edges = torch.randint(600, (2, 1000), generator=torch.Generator().manual_seed(0))
    graph = NeighborIndex(edges, 600)
    for mode in ("minmax", "sigmoid", "sampled"):
        with Watch():
            edge_reconstruction_loss(e, graph, mode, chunk=8).backward()
    assert 600 * 8 <= largest < 600 * 600 / 10


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
def test_equal_and_nearly_equal_vectors(noise: float) -> None:
    """In float32, where the Gram matrix is a constant up to rounding."""
    common = torch.tensor([3.3, -1.7, 20.1, 0.3], dtype=DOUBLE)
    e = (common + noise * vectors(50, 4)).float().requires_grad_()
    edges = torch.tensor([[0, 1], [1, 0]])
    loss = edge_reconstruction_loss(e, edges)
    loss.backward()
    assert bool(e.grad.isfinite().all())
    want = edge_reconstruction_loss_reference(e.detach().double(), edges)
    assert float(loss) == pytest.approx(float(want), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "minmx"}, "did you mean 'minmax'"),
        ({"e": torch.ones(0, 2)}, "at least one node"),
        ({"e": torch.ones(3)}, "must be a matrix"),
        ({"group": torch.zeros(2, dtype=torch.long)}, r"group must be a vector \[3\]"),
        ({"chunk": 0}, "chunk must be"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    values = {"e": torch.ones(3, 2), "edge_index": torch.tensor([[0], [1]]), **arguments}
    with pytest.raises(ValueError, match=message):
        edge_reconstruction_loss(**values)


def test_ids_outside_the_graph() -> None:
    with pytest.raises(IndexError, match="node id 3"):
        edge_reconstruction_loss(torch.ones(3, 2), torch.tensor([[0], [3]]))
