"""Train GraphSAGE on mini-batches of sampled neighbours, test it on whole neighbourhoods.

    python examples/neighbor_loader.py                      # the graph of handwritten digits that ships with GraphKit
    python examples/neighbor_loader.py --dataset PubMed     # or Cora, CiteSeer, pyimports ... see `graphkit datasets`

The loader is PyG's in arguments and batches, but needs no compiled extension: swap the import.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

from graphkit.datasets import PROTOCOLS, IndexSplit, load
from graphkit.loader import NeighborLoader


class GraphSAGE(nn.Module):
    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_channels] + [hidden_channels] * (num_layers - 1) + [out_channels]
        self.convs = nn.ModuleList(SAGEConv(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            x = F.dropout(conv(x, edge_index).relu(), p=0.5, training=self.training)
        return self.convs[-1](x, edge_index)


def train(model: nn.Module, loader: NeighborLoader, optimizer: torch.optim.Optimizer) -> float:
    model.train()
    total = 0.0
    for batch in loader:
        optimizer.zero_grad()
        # The seeds are the first nodes of a batch; the others are there to be aggregated from.
        out = model(batch.x, batch.edge_index)[: batch.batch_size]
        loss = F.cross_entropy(out, batch.y[: batch.batch_size])
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * batch.batch_size
    return total / len(loader.dataset)


@torch.no_grad()
def accuracy(model: nn.Module, loader: NeighborLoader) -> float:
    model.eval()
    correct = 0
    for batch in loader:
        predicted = model(batch.x, batch.edge_index)[: batch.batch_size].argmax(-1)
        correct += int((predicted == batch.y[: batch.batch_size]).sum())
    return correct / len(loader.dataset)


def read(name: str, seed: int) -> tuple[Data, IndexSplit]:
    """The graph, and the split of the first protocol that is about nodes."""
    dataset = load(name)
    protocols = [protocol for protocol in dataset.info.protocols if PROTOCOLS[protocol].task == "node"]
    if dataset.data is None or not protocols:
        raise SystemExit(f"{name} has no task on nodes; try digits, pyimports, Cora or PubMed")
    # Only what a batch needs: the loader gathers every attribute of the nodes.
    data = Data(x=dataset.data.x, y=dataset.data.y.view(-1), edge_index=dataset.data.edge_index)
    return data, dataset.split(seed, protocols[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--neighbors", type=int, nargs="+", default=[15, 10], help="how many to draw in each hop")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="two epochs, to see that everything runs")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data, split = read(args.dataset, args.seed)
    train_loader = NeighborLoader(
        data,
        args.neighbors,
        input_nodes=split.train,
        batch_size=args.batch_size,
        shuffle=True,
        num_workers=args.workers,
    )
    # -1 takes all neighbours: the scores do not depend on luck.
    whole = [-1] * len(args.neighbors)
    valid_loader = NeighborLoader(data, whole, input_nodes=split.valid, batch_size=512)
    test_loader = NeighborLoader(data, whole, input_nodes=split.test, batch_size=512)

    model = GraphSAGE(data.num_features, args.hidden, int(data.y.max()) + 1, len(args.neighbors))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=5e-4)
    best, test = 0.0, 0.0
    for epoch in range(1, (2 if args.fast else args.epochs) + 1):
        start = time.perf_counter()
        loss = train(model, train_loader, optimizer)
        seconds = time.perf_counter() - start
        valid = accuracy(model, valid_loader)
        if valid > best:
            best, test = valid, accuracy(model, test_loader)
        print(f"epoch {epoch:3d}  loss {loss:.4f}  valid {100 * valid:5.2f}  test {100 * test:5.2f}  {seconds:.2f} s")
    print(f"test accuracy at the best validation: {100 * test:.2f} %")


if __name__ == "__main__":
    main()
