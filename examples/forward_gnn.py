"""A graph network trained without backpropagation through its layers, from "Forward Learning of Graph Neural Networks"
(https://arxiv.org/abs/2403.11004): an explicit loop of the single-forward scheme, layer by layer.

    python examples/forward_gnn.py                    # digits: needs no download
    python examples/forward_gnn.py --dataset Cora

`graphkit run forward_gnn --dataset Cora` compares all variants with backpropagation.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.transforms import NormalizeFeatures

from graphkit.datasets import load
from graphkit.nn import ForwardStack, sparsify
from graphkit.ops import NeighborIndex
from graphkit.train.local import virtual_node_logits
from graphkit.transforms import ClassVirtualNodes
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, Cora, CiteSeer, PubMed, Amazon-Photo ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--conv", default="gcn", choices=("gcn", "sage", "gat"))
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--lr", type=float, default=0.001)
parser.add_argument("--weight-decay", type=float, default=5e-4)
parser.add_argument("--epochs", type=int, default=200, help="most epochs of a layer")
parser.add_argument("--patience", type=int, default=25, help="evaluations without a better one before a layer stops")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.epochs = 4

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, "five-fold").to(args.device)
data = NormalizeFeatures()(dataset.data).to(args.device)

# A node for each class, linked to the training nodes of that class: this is how labels enter.
graph_data = Data(x=data.x, edge_index=data.edge_index)
data_virtual = ClassVirtualNodes(dataset.info.classes)(graph_data, split.train, data.y[split.train])
real = data_virtual.real_mask
graph = NeighborIndex(data_virtual.edge_index, data_virtual.num_nodes)
x: Tensor = sparsify(data_virtual.x)

stack = ForwardStack([x.size(1), *[args.hidden] * args.layers], conv=args.conv).to(args.device)
# The sum of the class probabilities of the layers that are finished.
finished = torch.zeros(data.num_nodes, dataset.info.classes, device=args.device)


def accuracy(score: Tensor, ids: Tensor) -> float:
    return 100 * float((score[ids].argmax(dim=1) == data.y[ids]).float().mean())


valid = test = 0.0
for depth, layer in enumerate(stack.layers, 1):
    optimizer = torch.optim.Adam(layer.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    # The input of this layer stays the same while it learns: message passing is done once, and nothing below it is
    # kept for a backward pass.
    constant = layer.prepare([(x, graph)])
    best_state, best, waited = copy.deepcopy(layer.state_dict()), -1.0, 0
    for epoch in range(1, args.epochs + 1):
        optimizer.zero_grad()
        logits = virtual_node_logits(layer.finish(constant), real)
        loss = F.cross_entropy(logits[split.train], data.y[split.train])
        loss.backward()
        optimizer.step()
        if epoch % 2:
            continue
        with torch.no_grad():
            score = finished + virtual_node_logits(layer.finish(constant), real).softmax(dim=1)
        valid = accuracy(score, split.valid)
        waited += 1
        if valid > best:
            best_state, best, waited = copy.deepcopy(layer.state_dict()), valid, 0
        if waited == args.patience:
            break
    layer.load_state_dict(best_state)
    with torch.no_grad():
        x = layer.finish(constant)
        finished = finished + virtual_node_logits(x, real).softmax(dim=1)
    valid, test = accuracy(finished, split.valid), accuracy(finished, split.test)
    print(f"layer {depth}: {epoch:4d} epochs  loss {float(loss):.4f}  validation {valid:.2f}  test {test:.2f}")
print(f"{args.dataset}: test accuracy {test:.2f} %, validation {valid:.2f} %")
