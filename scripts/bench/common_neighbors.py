"""Sums of features over common neighbours, fused, against torch-sparse (expand both rows, search, spmm).

The peer needs the extra `sparse`; without it the plain PyTorch reference is the peer. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch import Tensor

from graphkit.ops import NeighborIndex, common_neighbor_sum
from graphkit.ops.common_neighbors import common_neighbor_sum_reference


def torch_sparse_sum(edge_index: Tensor, num_nodes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Both rows of each pair as sparse matrices, the entries of one looked up among the other's, then a product."""
    from torch_sparse import SparseTensor, matmul

    adjacency = SparseTensor.from_edge_index(edge_index, sparse_sizes=(num_nodes, num_nodes)).coalesce()

    def run(pairs: Tensor, x: Tensor) -> Tensor:
        first, second = (adjacency[end] for end in pairs)
        keys = []
        for part in (first, second):
            row, col, _ = part.coo()
            keys.append(row * num_nodes + col)
        few, many = sorted(keys, key=len)
        place = torch.searchsorted(many, few).clamp_(max=many.numel() - 1)
        common = few[many[place] == few]
        row = torch.div(common, num_nodes, rounding_mode="floor")
        size = (pairs.size(1), num_nodes)
        overlap = SparseTensor(row=row, col=common - row * num_nodes, sparse_sizes=size, is_sorted=True)
        return matmul(overlap, x)

    return run


def pairs_of(edge_index: Tensor, num_nodes: int, count: int, seed: int = 1) -> Tensor:
    """Half edges, half random pairs: a training batch with its negatives."""
    generator = torch.Generator().manual_seed(seed)
    edges = edge_index[:, torch.randint(edge_index.size(1), (count // 2,), generator=generator)]
    random = torch.randint(num_nodes, (2, count - count // 2), generator=generator)
    random[1] = torch.where(random[0] == random[1], (random[1] + 1) % num_nodes, random[1])
    return torch.cat([edges, random], dim=1)


def measure(options: argparse.Namespace, exponent: float) -> list[dict[str, Any]]:
    edge_index = power_law_graph(options.nodes, options.entries, exponent)
    index = NeighborIndex(edge_index, options.nodes)
    pairs = pairs_of(edge_index, options.nodes, options.pairs)
    x = torch.randn(options.nodes, options.features)
    peers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "plain PyTorch": lambda p, x: common_neighbor_sum_reference(index, p, x)
    }
    if importlib.util.find_spec("torch_sparse"):
        peers["torch-sparse"] = torch_sparse_sum(edge_index, options.nodes)
    ours = common_neighbor_sum(index, pairs, x)
    for name, peer in peers.items():
        torch.testing.assert_close(peer(pairs, x), ours, rtol=1e-4, atol=1e-4, msg=f"{name} differs")

    def backward(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        leaf = x.clone().requires_grad_()
        function(pairs, leaf).sum().backward()

    def graphkit(p: Tensor, features: Tensor) -> Tensor:
        return common_neighbor_sum(index, p, features)

    rows = []
    for case, call in (("forward", lambda f: f(pairs, x)), ("forward + backward", backward)):
        functions = {"GraphKit": graphkit, **peers}
        calls = {name: functools.partial(call, function) for name, function in functions.items()}
        times = interleave(calls, options.repeats)
        memory = {name: allocated_mb(function) for name, function in calls.items()}
        for name in peers:
            rows.append(
                {
                    "case": f"{case}, exponent {exponent:g} (largest degree {int(index.degree.max())})",
                    "ours_ms": times["GraphKit"],
                    "peer": name,
                    "peer_ms": times[name],
                    "ratio": times[name] / times["GraphKit"],
                    "ours_peak_mb": memory["GraphKit"],
                    "peer_peak_mb": memory[name],
                }
            )
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--nodes", type=int, default=236_000)
    arguments.add_argument("--entries", type=int, default=2_000_000)
    arguments.add_argument("--pairs", type=int, default=65_536)
    arguments.add_argument("--features", type=int, default=64)
    arguments.add_argument(
        "--exponents",
        type=float,
        nargs="+",
        default=[2.2, 2.5, 3.0],
        help="of the power law of degrees; less is heavier",
    )
    options = arguments.parse_args()
    if not importlib.util.find_spec("torch_sparse"):
        print("torch-sparse is not installed (extra `sparse`): compared with plain PyTorch only")
    report("common_neighbors", [row for e in options.exponents for row in measure(options, e)], options.out)


if __name__ == "__main__":
    main()
