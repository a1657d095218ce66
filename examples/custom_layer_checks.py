"""Write a layer of your own and let GraphKit's contract suite look for the usual mistakes.

    python examples/custom_layer_checks.py

The first layer passes every check. The other two also train and predict, but one lets the graphs of a batch leak into
each other and one gives no number for a node without neighbours; the suite says so and by how much.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree

from graphkit.testing import check_layer


class NeighborContrast(MessagePassing):
    """A node next to the mean of its neighbours: ``W [x_i , mean_j (x_j - x_i)]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(aggr="mean")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.own = nn.Linear(in_channels, out_channels)
        self.contrast = nn.Linear(in_channels, out_channels, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.own.reset_parameters()
        self.contrast.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.own(x) + self.contrast(self.propagate(edge_index, x=x))

    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return x_j - x_i


class CenteredContrast(NeighborContrast):
    """The same on centred features. Right for one graph, wrong for a batch of graphs."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x - x.mean(0), edge_index)


class InverseDegreeSum(NeighborContrast):
    """The mean written by hand, without a thought for nodes that have no neighbours."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out = super().forward(x, edge_index)
        return out / degree(edge_index[1], x.size(0), dtype=x.dtype)[:, None]


def main() -> None:
    passed = check_layer(lambda: NeighborContrast(8, 16))
    print(f"NeighborContrast passes {len(passed)} checks: {', '.join(passed)}")
    for broken in (CenteredContrast, InverseDegreeSum):
        try:
            check_layer(lambda cls=broken: cls(8, 16))
        except AssertionError as error:
            print(error)
        else:
            raise SystemExit(f"{broken.__name__} should have failed")


if __name__ == "__main__":
    main()
