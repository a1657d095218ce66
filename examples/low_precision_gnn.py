"""Search for a graph network of few bits, after "Learned Low Precision Graph Neural Networks"
(https://arxiv.org/abs/2009.09232): layers and the format of every tensor are chosen by gradients, then the network
found is trained from scratch and written in integers. A GAT rounded to 4 and 8 bits is beside it.

    python examples/low_precision_gnn.py                    # digits: needs no download
    python examples/low_precision_gnn.py --dataset Cora --beta 0.01
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import GAT

from graphkit.datasets import load
from graphkit.nn import LowPrecisionGNN, sparsify, uniform_quantize
from graphkit.ops import NeighborIndex
from graphkit.train.search import LPGNASSupernet
from graphkit.utils.cost import model_bytes
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="Cora, CiteSeer, PubMed, digits ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--beta", type=float, default=0.1, help="weight of the sizes in the search")
parser.add_argument("--base-channels", type=int, default=32)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a few steps, to see that it runs")
args = parser.parse_args()
steps, epochs = (8, 5) if args.fast else (args.steps, args.epochs)

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, "full" if "full" in dataset.info.protocols else "random").to(args.device)
data = dataset.data.to(args.device)
x, graph = sparsify(data.x), NeighborIndex(data.edge_index, data.num_nodes)


def search() -> LowPrecisionGNN:
    """Weights learn from training nodes, the choice of layers and formats from validation nodes."""
    supernet = LPGNASSupernet(
        data.num_features, args.base_channels, dataset.info.classes, num_blocks=2, dropout=0.5
    ).to(args.device)
    weights = torch.optim.Adam(supernet.blocks.parameters(), lr=5e-3, weight_decay=5e-4)
    controllers = torch.optim.Adam(supernet.controllers.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        noise = max(0.0, 1 - 2 * step / steps)  # explores in the first half
        supernet.train()
        weights.zero_grad()
        logits = supernet(x, graph, noise=noise)
        F.cross_entropy(logits[split.train], data.y[split.train]).backward()
        weights.step()
        if step > steps // 10:
            controllers.zero_grad()
            logits, size = supernet(x, graph, noise=noise, penalty=True)
            (F.cross_entropy(logits[split.valid], data.y[split.valid]) + args.beta * size).backward()
            controllers.step()
        if step % max(steps // 4, 1) == 0:
            print(f"step {step:3d}  {supernet.model_bytes() / 1000:8.2f} kB of weights")
    return LowPrecisionGNN(supernet.genotype(), dropout=0.5).to(args.device)


@torch.no_grad()
def accuracy(model: nn.Module, inputs: tuple) -> tuple[float, float]:
    model.eval()
    right = model(*inputs).argmax(dim=1) == data.y
    return 100 * float(right[split.valid].float().mean()), 100 * float(right[split.test].float().mean())


def train(model: nn.Module, inputs: tuple) -> float:
    """Test accuracy at the best validation accuracy."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=5e-4)
    best = (0.0, 0.0)
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(*inputs)[split.train], data.y[split.train]).backward()
        optimizer.step()
        best = max(best, accuracy(model, inputs), key=lambda found: found[0])
    return best[1]


gat = GAT(data.num_features, 64, num_layers=2, out_channels=dataset.info.classes, heads=8, dropout=0.5).to(args.device)
plain = (data.x, data.edge_index)
print(f"GAT          {model_bytes(gat) / 1000:8.2f} kB  test {train(gat, plain):.2f} %")
gat.reset_parameters()
quantized = uniform_quantize(gat, w_bits=4, a_bits=8)
print(f"GAT W4A8     {model_bytes(quantized) / 1000:8.2f} kB  test {train(quantized, plain):.2f} %")

found = search()
print("\n".join(f"block {i}: {block}" for i, block in enumerate(found.genotype.blocks)))
test = train(found, (x, graph))
same = LowPrecisionGNN.from_export(found.export()).to(args.device).eval()
assert torch.equal(same(x, graph), found.eval()(x, graph)), "integers must give the same logits"
print(f"{args.dataset}: {model_bytes(found) / 1000:.2f} kB, test {test:.2f} %")
