"""GRACE with and without POT, from "Provable Training for Graph Contrastive Learning"
(https://arxiv.org/abs/2309.13944): an explicit loop, then how sure the nodes are and a linear probe.

    python examples/grace_pot.py                    # digits: needs no download
    python examples/grace_pot.py --dataset Cora     # the public split
    python examples/grace_pot.py --kappa 0          # GRACE alone

The certified share is that of nodes whose contrast is above zero whatever edges are dropped within the budget.
"""

from __future__ import annotations

import argparse

import torch
from torch_geometric.transforms import Compose, NormalizeFeatures, RemoveSelfLoops, ToUndirected

from graphkit.analysis import node_compactness
from graphkit.datasets import load
from graphkit.nn import GCNEncoder, adjacency_bounds, sparsify
from graphkit.train import GRACE, POTLoss, linear_probe
from graphkit.transforms import EdgeDrop
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="Cora, CiteSeer, digits ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--drop", type=float, nargs=2, default=[0.4, 0.3], help="shares of edges that the two views drop")
parser.add_argument("--tau", type=float, default=0.5, help="temperature of the contrastive loss")
parser.add_argument("--kappa", type=float, default=0.2, help="weight of the bounds")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true", help="a few epochs of a small model, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.epochs, args.hidden = 3, 16

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
# Planetoid graphs have a public split; elsewhere 20 nodes of each class are for training, 30 for validation.
split = dataset.split(args.seed, "public" if "public" in dataset.info.protocols else "per-class")
data = Compose([ToUndirected(), RemoveSelfLoops(), NormalizeFeatures()])(dataset.data)
x, edge_index = sparsify(data.x), data.edge_index

encoder = GCNEncoder(data.num_features, out_channels=args.hidden)
model = GRACE(encoder, hidden_channels=args.hidden, proj_channels=args.hidden, tau=args.tau)
views = [EdgeDrop(p) for p in args.drop]
# Made once: what every entry of the propagation matrix can be while no node loses more than its share of edges.
bounds = [adjacency_bounds(edge_index, data.num_nodes, drop_rate=p) for p in args.drop]
pot = POTLoss(encoder, (bounds[0], bounds[1]))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=1e-5)


def train() -> tuple[float, float]:
    model.train()
    optimizer.zero_grad()
    view1, view2 = (view(data).edge_index for view in views)
    z1, z2 = model(x, view1), model(x, view2)
    contrast, bounded = model.loss(z1, z2), pot(x, view1, view2, z1, z2)
    loss = (1 - args.kappa) * contrast + args.kappa * bounded
    loss.backward()
    optimizer.step()
    return float(contrast), float(bounded)


for epoch in range(1, args.epochs + 1):
    contrast, bounded = train()
    if epoch % 10 == 0 or args.fast:
        print(f"epoch {epoch:3d}  contrastive loss {contrast:.4f}  loss of the bounds {bounded:.4f}")

model.eval()
with torch.no_grad():
    z = model(x, edge_index)
score = node_compactness(encoder, x, edge_index, z, bounds[0])
certified = node_compactness(encoder, x, edge_index, z, bounds[0], certified=True)
unit = score / z.norm(dim=1).clamp(min=1e-12)
print(f"compactness {float(score.mean()):.4f}  at length one {float(unit.mean()):.4f}")
print(f"certified   {100 * float((certified > 0).float().mean()):.2f} % of the nodes")
found = linear_probe(z, data.y, split, epochs=100 if args.fast else 3000)
valid, test = found.valid["Accuracy"], found.test["Accuracy"]
print(f"{args.dataset}: test accuracy {test:.2f} % at the best validation accuracy {valid:.2f} %")
