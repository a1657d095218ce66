"""An epoch of STABLE's contrastive encoder and its refinement of the graph, against the dense formulation of the
release.

The peer keeps the features and all adjacency matrices dense, multiplies the features for each graph and for the
shuffled nodes anew, and compares all pairs of nodes in one matrix that it sorts. It shares our weights and computes the
same loss and the same refined graph, which is checked first. The graph has the size of Cora: its own, if the data is
there, or one drawn at random. Run on a quiet machine.
"""

from __future__ import annotations

import copy

import torch
from harness import allocated_mb, interleave, parser, power_law_graph, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets import load
from graphkit.nn import StableContrast, sparsify
from graphkit.train import STABLE, StableContrastTask


def drawn_graph(num_nodes: int = 2485, words: int = 1433) -> Data:
    """Cora's size, with about 18 words a node."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(num_nodes, words, generator=generator) < 18 / words).float()
    return Data(x=x, edge_index=power_law_graph(num_nodes, 10138), num_nodes=num_nodes)


def cora() -> Data:
    try:
        return load("Cora-meta-0.20").data
    except FileNotFoundError:
        print("Cora-meta-0.20 is not on disk: a drawn graph of its size instead")
        return drawn_graph()


def matrix(edge_index: Tensor, num_nodes: int) -> Tensor:
    out = torch.zeros(num_nodes, num_nodes)
    out[edge_index[0], edge_index[1]] = 1
    return out


class Released(nn.Module):
    """The same loss and refinement with dense matrices, around the weights of our encoder."""

    def __init__(self, model: StableContrast, task: StableContrastTask, edge_index: Tensor) -> None:
        super().__init__()
        self.model, self.x = model, task.x
        size = task.x.size(0)
        self.graph = self.normalise(matrix(task.edge_index, size))
        self.views = [self.normalise(matrix(view, size)) for view in task.view_edge_indices]
        self.attacked = matrix(edge_index, size)

    def normalise(self, adjacency: Tensor) -> Tensor:
        looped = adjacency + self.model.beta * torch.eye(adjacency.size(0))
        scale = looped.sum(1).rsqrt()
        return scale[:, None] * looped * scale

    def encode(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return F.prelu(adjacency @ (x @ self.model.linear.weight.t()) + self.model.bias, self.model.slope)

    def loss(self, order: Tensor) -> Tensor:
        model = self.model
        h, negative = self.encode(self.x, self.graph), self.encode(self.x[order], self.graph)
        keys = model.bilinear(torch.stack([torch.sigmoid(self.encode(self.x, v).mean(0)) for v in self.views])).t()
        logits = [(rows @ keys + model.offset).sum(1) for rows in (h, negative)]
        return (F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()) / 2

    @torch.no_grad()
    def refine(self, cosine: float, k: int) -> Tensor:
        unit = F.normalize(self.encode(self.x, self.graph), dim=1)
        near = unit @ unit.t()
        adjacency = self.attacked * (near > cosine)
        near[:, adjacency.sum(0) <= 1] = -2
        picks = near.argsort(dim=1, descending=True)[:, :k]
        adjacency[torch.arange(near.size(0))[:, None], picks] = 1
        return adjacency.fill_diagonal_(0)


def main() -> None:
    options = parser(__doc__).parse_args()
    data = cora()
    torch.manual_seed(0)
    stable = STABLE(data.num_features, 7, jaccard=0.03, cosine=0.25, k=7)
    task = StableContrastTask(data, jaccard=stable.jaccard)
    model = stable.encoder
    peer = Released(copy.deepcopy(model), task, data.edge_index)
    order = next(task.batches(1))
    x = sparsify(data.x)
    with torch.no_grad():
        torch.testing.assert_close(model(x, task.graph, task.views, order), peer.loss(order), rtol=1e-4, atol=1e-5)
    ours_edges = matrix(stable.refine(data).edge_index.flip(0), data.num_nodes)
    # Products of other shapes round otherwise, and a few nearly equal pairs may change places.
    differing = int((ours_edges != peer.refine(stable.cosine, stable.k)).sum())
    assert differing <= 20, f"{differing} entries of the refined graphs differ"
    optimizers = {net: torch.optim.Adam(net.parameters(), 1e-3) for net in (model, peer.model)}

    def epoch() -> None:
        optimizers[model].zero_grad(set_to_none=True)
        model(x, task.graph, task.views, order).backward()
        optimizers[model].step()

    def dense_epoch() -> None:
        optimizers[peer.model].zero_grad(set_to_none=True)
        peer.loss(order).backward()
        optimizers[peer.model].step()

    rows = []
    for case, ours, theirs in (
        ("contrastive epoch", epoch, dense_epoch),
        ("refinement", lambda: stable.refine(data), lambda: peer.refine(stable.cosine, stable.k)),
    ):
        times = interleave({"ours": ours, "peer": theirs}, options.repeats)
        rows.append(
            {
                "case": f"STABLE, {case}, size of Cora",
                "ours_ms": times["ours"],
                "peer": "released formulation, dense",
                "peer_ms": times["peer"],
                "ratio": times["peer"] / times["ours"],
                "ours_peak_mb": allocated_mb(ours),
                "peer_peak_mb": allocated_mb(theirs),
            }
        )
    report("stable_epoch", rows, options.out)


if __name__ == "__main__":
    main()
