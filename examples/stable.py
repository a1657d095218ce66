"""STABLE on an attacked graph, from "Reliable Representations Make A Stronger Defender: Unsupervised Structure
Refinement for Robust GNN" (https://arxiv.org/abs/2207.00012), step by step: attack, represent, refine, classify.

    python examples/stable.py --fast                          # imports between Python modules: needs no download
    python examples/stable.py --dataset Cora-LCC --attack 0   # a clean graph
    python examples/stable.py --dataset Cora-meta-0.20 --attack 0 --alpha 0.6 --k 7 --cosine 0.25
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F
from torch_geometric.transforms import RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import DegreePowerGCNConv, StableContrast, sparsify
from graphkit.ops import NeighborIndex
from graphkit.transforms import CosinePrune, DICEAttack, JaccardPrune, add_similar_edges, random_recover
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="pyimports", help="pyimports, Cora-LCC, Cora-meta-0.20 ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--attack", type=float, default=0.5, help="share of the edges that DICE changes")
parser.add_argument("--embed", type=int, default=512)
parser.add_argument("--hidden", type=int, default=16)
parser.add_argument("--jaccard", type=float, default=0.03, help="threshold of the rough pruning")
parser.add_argument("--cosine", type=float, default=0.1, help="threshold of the refinement")
parser.add_argument("--k", type=int, default=5, help="nodes that each node picks, itself included")
parser.add_argument("--alpha", type=float, default=0.3, help="power of the degrees in the classifier")
parser.add_argument("--patience", type=int, default=20, help="epochs without a lower loss of the encoder")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.embed = 32

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
protocol = "public" if "public" in dataset.info.protocols else "per-class"
split = dataset.split(args.seed, protocol)
data = RemoveSelfLoops()(ToUndirected()(dataset.data))

# Attack: half of the changes remove edges within classes, half add edges between them.
data = DICEAttack(args.attack, args.seed)(data)


def homophily(edge_index: torch.Tensor) -> float:
    return float((data.y[edge_index[0]] == data.y[edge_index[1]]).float().mean())


print(f"attacked: {data.num_edges // 2} edges, {100 * homophily(data.edge_index):.1f} % within classes")

# Represent: tell nodes from shuffled ones, whichever of the pruned edges have come back.
pruned = JaccardPrune(args.jaccard)(data)
views = [random_recover(pruned.edge_index, pruned.removed_edge_index, ratio=0.2) for _ in range(2)]
x = sparsify(data.x)
graph, *views = (NeighborIndex(edges, data.num_nodes) for edges in (pruned.edge_index, *views))
encoder = StableContrast(data.num_features, args.embed)
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
best, waited, epoch = float("inf"), 0, 0
while waited < args.patience and epoch < (5 if args.fast else 10_000):
    epoch += 1
    optimizer.zero_grad()
    loss = encoder(x, graph, views)
    if float(loss) < best:
        best, waited = float(loss), 0
        weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    else:
        waited += 1
    loss.backward()
    optimizer.step()
encoder.load_state_dict(weights)
h = encoder.embed(x, graph)
print(f"represented: {epoch} epochs, best loss {best:.4f}")

# Refine: edges between unlike nodes go, and every node hears from the nodes most like it.
cleaned = CosinePrune(args.cosine, h)(data)
edge_index = add_similar_edges(h, cleaned.edge_index, args.k)
print(f"refined: {edge_index.size(1)} arcs, {100 * homophily(edge_index):.1f} % within classes")

# Classify, listening more to neighbours of high degree. Row i of the graph lists whom node i hears from.
graph = NeighborIndex(edge_index.flip(0), data.num_nodes)
first = DegreePowerGCNConv(args.embed, args.hidden, args.alpha)
second = DegreePowerGCNConv(args.hidden, dataset.info.classes, args.alpha)
optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01, weight_decay=5e-4)


def classify(training: bool) -> torch.Tensor:
    return second(F.dropout(first(h, graph).relu(), 0.5, training), graph)


best_valid = best_test = 0.0
for _ in range(5 if args.fast else 200):
    optimizer.zero_grad()
    F.cross_entropy(classify(True)[split.train], data.y[split.train]).backward()
    optimizer.step()
    with torch.no_grad():
        right = (classify(False).argmax(dim=1) == data.y).float()
    valid, test = float(right[split.valid].mean()), float(right[split.test].mean())
    if valid > best_valid:
        best_valid, best_test = valid, test
print(f"{args.dataset}: test accuracy {100 * best_test:.2f} % at the best validation accuracy {100 * best_valid:.2f} %")
