"""GCN on a citation graph, from "Semi-Supervised Classification with Graph Convolutional Networks"
(https://arxiv.org/abs/1609.02907): a full-batch loop; the test accuracy is that of the best validation epoch.

    python examples/gcn_planetoid.py                    # digits: needs no download
    python examples/gcn_planetoid.py --dataset Cora     # the public split, 81.5 in the paper
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F
from torch_geometric.transforms import NormalizeFeatures

from graphkit.datasets import load
from graphkit.nn import GNN, sparsify
from graphkit.ops import NeighborIndex
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="Cora, CiteSeer, PubMed, digits ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=16)
parser.add_argument("--dropout", type=float, default=0.5)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--weight-decay", type=float, default=5e-4)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
# Planetoid graphs have a public split; elsewhere 20 nodes of each class are for training, 30 for validation.
protocol = "public" if "public" in dataset.info.protocols else "per-class"
split = dataset.split(args.seed, protocol).to(args.device)
data = NormalizeFeatures()(dataset.data).to(args.device)

# Built once: bags of words as a sparse matrix, and sorted neighbour lists instead of edges.
x = sparsify(data.x)
graph = NeighborIndex(data.edge_index, data.num_nodes)

model = GNN(
    data.num_features,
    args.hidden,
    num_layers=2,
    out_channels=dataset.info.classes,
    conv="gcn",
    input_dropout=args.dropout,
    dropout=args.dropout,
    layer_norm=False,
).to(args.device)
# As in the paper, only the first layer is regularised.
first, second = model.neighbor_linears
optimizer = torch.optim.Adam(
    [
        {"params": first.parameters(), "weight_decay": args.weight_decay},
        {"params": [*second.parameters(), *model.biases.parameters()]},
    ],
    lr=args.lr,
)


def train() -> float:
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x, graph)[split.train], data.y[split.train])
    loss.backward()
    optimizer.step()
    return float(loss)


@torch.no_grad()
def accuracy() -> tuple[float, float]:
    model.eval()
    right = model(x, graph).argmax(dim=1) == data.y
    return float(right[split.valid].float().mean()), float(right[split.test].float().mean())


best_valid = best_test = 0.0
for epoch in range(1, (5 if args.fast else args.epochs) + 1):
    loss = train()
    valid, test = accuracy()
    if valid > best_valid:
        best_valid, best_test = valid, test
    if epoch % 20 == 0 or args.fast:
        print(f"epoch {epoch:3d}  loss {loss:.4f}  validation {100 * valid:.2f}  test {100 * test:.2f}")
print(f"{args.dataset}: test accuracy {100 * best_test:.2f} % at the best validation accuracy {100 * best_valid:.2f} %")
