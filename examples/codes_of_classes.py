"""Hidden vectors of a GCN as a few codes each: what they stand for, and what happens when they are set by hand. From
"Codebook Features: Sparse and Discrete Interpretability for Neural Networks" (https://arxiv.org/abs/2310.17230).

    python examples/codes_of_classes.py                    # digits: needs no download
    python examples/codes_of_classes.py --dataset Cora
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F
from torch_geometric.nn import GCN
from torch_geometric.transforms import NormalizeFeatures

from graphkit.analysis import code_report
from graphkit.datasets import load
from graphkit.nn import codes_forced, wrap_codebooks
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="Cora, CiteSeer, PubMed, digits ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--codes", type=int, default=256)
parser.add_argument("--k", type=int, default=4, help="codes of a node")
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, "public" if "public" in dataset.info.protocols else "per-class")
data = NormalizeFeatures()(dataset.data)

# Any model of PyG; the codebook sits after its first convolution.
model = GCN(data.num_features, args.hidden, num_layers=2, out_channels=dataset.info.classes, dropout=0.5)
codebook = wrap_codebooks(model, "convs.0", args.codes, k=args.k)["convs.0"]
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

best_valid = best_test = 0.0
best_state = model.state_dict()
for _ in range(5 if args.fast else args.epochs):
    model.train()
    optimizer.zero_grad()
    # The codes' own loss joins in the backward pass.
    F.cross_entropy(model(data.x, data.edge_index)[split.train], data.y[split.train]).backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(data.x, data.edge_index).argmax(1) == data.y
    valid = float(right[split.valid].float().mean())
    if valid > best_valid:
        best_valid, best_test = valid, float(right[split.test].float().mean())
        best_state = {name: value.clone() for name, value in model.state_dict().items()}
model.load_state_dict(best_state)
print(f"{args.dataset}: test accuracy {100 * best_test:.2f} % with {args.k} of {args.codes} codes a node")

with torch.no_grad():
    model(data.x, data.edge_index)
    report = code_report(codebook.last_ids, data.y, args.codes)
    print(f"{int(report.active)} codes in use; a code is used {100 * float(report.purity):.1f} % for its own class")
    for code in report.uses[0].topk(5).indices.tolist():
        uses, label = int(report.uses[0, code]), int(report.label[0, code])
        share = 100 * float(report.precision[0, code])
        print(f"  code {code:4d}: {uses:5d} times, {share:5.1f} % class {label}")
    for label, ids in enumerate(report.codes_of(args.k)[:3]):
        with codes_forced(model, {"convs.0": ids}):
            answer = model(data.x, data.edge_index).argmax(1)
        share = 100 * float((answer == label).float().mean())
        print(f"with the codes of class {label}, {share:.1f} % of nodes are it")
