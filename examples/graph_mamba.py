"""Graph Mamba: each node's surroundings as a short sequence that a state space model reads from far to near, then all
nodes as one sequence from few neighbours to many (https://arxiv.org/abs/2402.08678).

    python examples/graph_mamba.py                        # handwritten digits, shipped: a graph of the most similar
    python examples/graph_mamba.py --dataset Minesweeper  # real data under --root
    python examples/graph_mamba.py --one-way --no-messages
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch.nn import functional as F
from torch_geometric.transforms import Compose, RemoveSelfLoops, ToUndirected

from graphkit.datasets import load
from graphkit.nn import BiMamba, GraphMambaNet, SelectiveSSM
from graphkit.ops import NeighborIndex
from graphkit.transforms import RandomWalkEncoding
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=32)
parser.add_argument("--layers", type=int, default=2, help="layers over the nodes")
parser.add_argument("--m", type=int, default=2, help="length of the longest walks; 0 for no neighbourhoods")
parser.add_argument("--s", type=int, default=2, help="tokens of each length")
parser.add_argument("--num-walks", type=int, default=4, help="walks of a token")
parser.add_argument("--encoder", choices=("pool", "rwf", "mpnn"), default="pool")
parser.add_argument("--order", default="degree", help="degree, zagreb, core, pagerank or random")
parser.add_argument("--one-way", action="store_true", help="read sequences in one direction")
parser.add_argument("--no-messages", action="store_true", help="no message passing beside the state space model")
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="two epochs of a small model, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.hidden, args.layers, args.s, args.epochs = 8, 1, 1, 2

dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, dataset.info.protocol_for("node")).to(args.device)
data = Compose([ToUndirected(), RemoveSelfLoops(), RandomWalkEncoding(8)])(dataset.data).to(args.device)
graph = NeighborIndex(data.edge_index, data.num_nodes)

seed_everything(args.seed)
model = GraphMambaNet(
    data.num_features,
    args.hidden,
    dataset.info.classes,
    args.layers,
    args.m,
    args.s,
    args.num_walks,
    encoder=args.encoder,
    mixer=partial(SelectiveSSM if args.one_way else BiMamba, d_state=8, expand=1),
    conv=None if args.no_messages else "gatedgcn",
    order=args.order,
).to(args.device)
print(model)
optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=1e-4)

best_valid = best_test = 0.0
for epoch in range(1, args.epochs + 1):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(data.x, graph)[split.train], data.y[split.train])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if epoch % 2 == 0:
        model.eval()
        with torch.no_grad():
            right = (model(data.x, graph).argmax(1) == data.y).float()
        valid, test = (100 * float(right[ids].mean()) for ids in (split.valid, split.test))
        if valid > best_valid:
            best_valid, best_test = valid, test
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}  loss {float(loss):.3f}  validation {valid:.2f} %")
print(f"{args.dataset}: test accuracy {best_test:.2f} % at the best validation value, {best_valid:.2f} %")
