"""NCNC, from "Neural Common Neighbor with Completion for Link Prediction" (https://arxiv.org/abs/2302.00890): an
explicit loop with target link removal; the test value is that of the best validation epoch.

    python examples/ncnc.py                      # imports among Python modules: needs no download
    python examples/ncnc.py --dataset Cora       # or any other graph with the protocol "link"

The defaults here suit pyimports. `graphkit run ncnc --dataset Cora` has the settings of the paper (89.65 there).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.nn import LinkPredictor, NCNCDecoder, PureGNN, sparsify
from graphkit.ops import NeighborIndex
from graphkit.train.metrics import hits_at_k
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="pyimports", help="pyimports, digits, Cora, CiteSeer, PubMed ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--dropout", type=float, default=0.1)
parser.add_argument("--input-dropout", type=float, default=0.2)
parser.add_argument("--depth", type=int, default=1, help="how often the decoder calls itself; 0 is NCN")
parser.add_argument("--alpha", type=float, default=0.5, help="largest weight of a completed link")
parser.add_argument("--batch-size", type=int, default=2048)
parser.add_argument("--epochs", type=int, default=25)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="two epochs of a small model, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.epochs, args.hidden = 2, 16

seed_everything(args.seed)
split = load(args.dataset, args.root).split(args.seed, "link").to(args.device)
# Sorted neighbour lists, built once. The held-out links are not among them.
graph = NeighborIndex(split.train_edge_index, split.num_nodes)
x = sparsify(split.x)

# Any encoder will do, PyG's too: the decoder needs one vector a node and the graph.
encoder = PureGNN(x.size(1), args.hidden, num_layers=1, input_dropout=args.input_dropout, dropout=args.dropout)
decoder = NCNCDecoder(args.hidden, args.hidden, depth=args.depth, alpha=args.alpha, dropout=args.dropout)
model = LinkPredictor(encoder, decoder).to(args.device)
optimizer = torch.optim.Adam(
    [
        {"params": encoder.parameters(), "lr": 0.01},
        {"params": decoder.parameters(), "lr": 0.005},
    ]
)


def train() -> float:
    model.train()
    pos = split.train_pos
    neg = graph.sample_non_edges(pos.size(1)).to(args.device)
    total, steps = 0.0, 0
    # The last short batch is left out.
    order = torch.randperm(pos.size(1), device=args.device)
    for chosen in order[: order.numel() // args.batch_size * args.batch_size].split(args.batch_size):
        optimizer.zero_grad()
        # Target link removal: a link must not be seen in the graph by the model that is asked whether it exists.
        without_targets = graph.without(pos[:, chosen])
        score = model(x, without_targets, torch.cat([pos[:, chosen], neg[:, chosen]], dim=1))[:, 0]
        loss = F.softplus(-score[: chosen.numel()]).mean() + F.softplus(score[chosen.numel() :]).mean()
        loss.backward()
        optimizer.step()
        total, steps = total + float(loss.detach()), steps + 1
    return total / max(steps, 1)


@torch.no_grad()
def scores(z: Tensor, pairs: Tensor) -> Tensor:
    return torch.cat([model.decode(z, graph, part)[:, 0] for part in pairs.split(65536, dim=1)])


@torch.no_grad()
def evaluate() -> tuple[float, float]:
    """Hits@100 of validation and test: the share of links that score above the 100th best negative."""
    model.eval()
    z = model.encode(x, graph)
    valid = hits_at_k(scores(z, split.valid_pos), scores(z, split.valid_neg), 100)
    test = hits_at_k(scores(z, split.test_pos), scores(z, split.test_neg), 100)
    return 100 * valid, 100 * test


print(f"{args.dataset}: {split}")
best_valid = best_test = 0.0
for epoch in range(1, args.epochs + 1):
    loss = train()
    valid, test = evaluate()
    if valid > best_valid:
        best_valid, best_test = valid, test
    print(f"epoch {epoch:3d}  loss {loss:.4f}  validation {valid:.2f}  test {test:.2f}")
print(f"{args.dataset}: test Hits@100 {best_test:.2f} % at the best validation Hits@100 {best_valid:.2f} %")
