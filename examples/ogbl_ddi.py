"""NCN on ogbl-ddi (interactions of drugs) with OGB's own evaluator: no features, so each node gets an embedding.

    python examples/ogbl_ddi.py            # minutes on a GPU; Hits@20 is 82.32 ± 6.10 in the paper
    python examples/ogbl_ddi.py --fast     # two small steps and a part of the links, to see that it runs

From "Neural Common Neighbor with Completion for Link Prediction" (https://arxiv.org/abs/2302.00890). The graph is
dense, 500 neighbours a node: a pair has many common neighbours, and their sums are most of the work.
For a leaderboard: scripts/ogb/ddi.sh.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.nn import LinkPredictor, NCNDecoder, PureGNN
from graphkit.ops import NeighborIndex
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=224)
parser.add_argument("--batch-size", type=int, default=24576)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="two steps of a small model on a part of the links")
args = parser.parse_args()

seed_everything(args.seed)
try:
    dataset = load("ogbl-ddi", args.root)
except FileNotFoundError as error:
    sys.exit(f"{error}")
split, evaluator = dataset.split().to(args.device), dataset.evaluator()
graph = NeighborIndex(split.train_edge_index, split.num_nodes)
train_pos, valid_pos, valid_neg, test_pos, test_neg = (
    pairs[:, torch.randperm(pairs.size(1))[:4096]] if args.fast else pairs
    for pairs in (split.train_pos, split.valid_pos, split.valid_neg, split.test_pos, split.test_neg)
)
if args.fast:
    args.epochs, args.hidden, args.batch_size = 1, 16, 2048

# in_channels=0: the input is a learned vector a node.
encoder = PureGNN(0, args.hidden, 1, split.num_nodes, aggr="sum", dropout=0.4, residual=True)
decoder = NCNDecoder(args.hidden, args.hidden, dropout=0.6, tail_act=False, two_layer_head=True)
model = LinkPredictor(encoder, decoder).to(args.device)
optimizer = torch.optim.Adam(
    [
        {"params": encoder.parameters(), "lr": 0.0021},
        {"params": decoder.parameters(), "lr": 0.0018},
    ]
)
print(f"{split}, {sum(p.numel() for p in model.parameters()):,} parameters")


def train() -> float:
    model.train()
    # Drawn once an epoch; nothing in a step waits for the GPU.
    neg = graph.sample_non_edges(train_pos.size(1))
    order = torch.randperm(train_pos.size(1), device=args.device)
    losses = []
    for chosen in order[: order.numel() // args.batch_size * args.batch_size].split(args.batch_size):
        optimizer.zero_grad()
        without_targets = graph.without(train_pos[:, chosen])
        score = model(None, without_targets, torch.cat([train_pos[:, chosen], neg[:, chosen]], dim=1))[:, 0]
        loss = F.softplus(-score[: chosen.numel()]).mean() + F.softplus(score[chosen.numel() :]).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def scores(z: Tensor, pairs: Tensor) -> Tensor:
    return torch.cat([model.decode(z, graph, part)[:, 0] for part in pairs.split(65536, dim=1)])


@torch.no_grad()
def evaluate() -> tuple[float, float]:
    model.eval()
    z = model.encode(None, graph)
    found = []
    for pos, neg in ((valid_pos, valid_neg), (test_pos, test_neg)):
        result = evaluator.eval({"y_pred_pos": scores(z, pos), "y_pred_neg": scores(z, neg)})
        found.append(100 * float(result["hits@20"]))
    return found[0], found[1]


best_valid = best_test = 0.0
for epoch in range(1, args.epochs + 1):
    loss = train()
    valid, test = evaluate()
    if valid > best_valid:
        best_valid, best_test = valid, test
    print(f"epoch {epoch:3d}  loss {loss:.4f}  validation {valid:.2f}  test {test:.2f}", flush=True)
part = " of a part of the links" if args.fast else ""
print(f"ogbl-ddi: test Hits@20{part} {best_test:.2f} % at the best validation Hits@20 {best_valid:.2f} %")
