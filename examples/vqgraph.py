"""VQGraph, from "VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
(https://arxiv.org/abs/2308.02117): a graph network with a codebook teaches an MLP, which then needs no graph.

    python examples/vqgraph.py                       # digits: needs no download
    python examples/vqgraph.py --dataset CPF-Cora    # the paper's data

The defaults here suit digits. `graphkit run vqgraph --dataset CPF-Cora` has the settings for the others.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.nn import CodeDistillMLP, GraphTokenizer, code_scores, sparsify
from graphkit.ops import NeighborIndex
from graphkit.train import distillation_kl, export_student, soft_code_kl
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, pyimports, CPF-Cora, CPF-CiteSeer ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--num-codes", type=int, default=256)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--dropout", type=float, default=0.3)
parser.add_argument("--w-code", type=float, default=1.0, help="weight of the codes; 0 teaches classes alone")
parser.add_argument("--tau", type=float, default=0.1, help="temperature of the assignment to codes")
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--export", help="file for the student, *.pt2 or *.onnx")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.epochs, args.num_codes = 4, 32

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, "per-class").to(args.device)
data = dataset.data.to(args.device)
graph, x, y = NeighborIndex(data.edge_index, data.num_nodes), sparsify(data.x), data.y
classes = dataset.info.classes


def accuracy(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return 100 * float((logits.argmax(1) == y)[ids].float().mean())


# 1. The teacher: graph layers with a codebook between them. Codes that nobody uses are replaced.
teacher = GraphTokenizer(
    data.num_features, 64, classes, args.num_codes, code_dim=64, dropout=args.dropout, dead_code_threshold=0.1
).to(args.device)
optimizer = torch.optim.Adam(teacher.parameters(), args.lr, weight_decay=1e-3)
best, state = 0.0, teacher.state_dict()
for epoch in range(1, args.epochs + 1):
    teacher.train()
    optimizer.zero_grad()
    out = teacher(x, graph)
    loss = F.cross_entropy(out.logits[split.train], y[split.train]) + sum(out.losses.values())
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        out = teacher.eval()(x, graph)
    valid = accuracy(out.logits, split.valid)
    if valid > best:
        best, state = valid, {name: value.clone() for name, value in teacher.state_dict().items()}
    if epoch % 20 == 0 or args.fast:
        print(f"teacher {epoch:3d}  loss {loss:.3f}  validation {valid:.2f}  {out.tokens.code.unique().numel()} codes")
teacher.load_state_dict(state)

# 2. What it knows of every node, labelled or not: classes, and similarity to each code.
with torch.no_grad():
    taught = teacher.eval()(x, graph)
codebook = teacher.quantizer.codebook

# 3. The student sees features alone.
student = CodeDistillMLP(data.num_features, args.hidden, classes, teacher.code_dim, dropout=args.dropout)
student.to(args.device)
optimizer = torch.optim.Adam(student.parameters(), args.lr)
best = test = 0.0
for _ in range(3 * args.epochs):
    student.train()
    optimizer.zero_grad()
    logits, vectors = student(x)
    loss = distillation_kl(logits, taught.logits)
    loss = loss + args.w_code * soft_code_kl(taught.tokens.scores, code_scores(vectors, codebook), args.tau)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        logits, _ = student.eval()(x)
    if accuracy(logits, split.valid) > best:
        best, test = accuracy(logits, split.valid), accuracy(logits, split.test)
print(f"{args.dataset}: teacher {accuracy(taught.logits, split.test):.2f}, validation of the student {best:.2f}")
if args.export:
    print(f"student without graph and code head: {export_student(student, args.export)}")
print(f"{args.dataset}: test accuracy of the student {test:.2f} % at the best validation accuracy")
