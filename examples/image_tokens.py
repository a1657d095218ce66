"""Images as graphs of patches: ViG, which reads them from both ends, and ConViT, whose attention starts as a
convolution and moves its gates from there. Where images are few, what a model assumes at the start decides.

    python examples/image_tokens.py                                    # digits of scikit-learn, ten of each class
    python examples/image_tokens.py --dataset Fashion-MNIST --patch 4  # its files under GRAPHKIT_ROOT
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.loader import GraphLoader, ImageGraphs
from graphkit.nn import ConViT, GatedPositionalAttention, ViG
from graphkit.ops import TokenLayout
from graphkit.train import CosineSchedule
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digit_images")
parser.add_argument("--root", default=None, help="folder of the datasets")
parser.add_argument("--protocol", default="few-shot", choices=["few-shot", "images"])
parser.add_argument("--patch", type=int, default=2)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="two epochs, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.epochs = 2

# The images stay bytes; a batch is a graph of patches, with their places and edges to those around them.
dataset = load(args.dataset, args.root)
split = dataset.split(args.seed, args.protocol).to(args.device)
graphs = ImageGraphs(dataset.graphs, patch=args.patch).to(args.device)
classes, patches = dataset.info.classes, graphs.tokens_per_image
print(graphs, split)
batch = graphs.batch(split.valid)


@torch.no_grad()
def accuracy(model: nn.Module, index: torch.Tensor) -> float:
    model.eval()
    right = 0
    for part in index.split(500):
        some = graphs.batch(part)
        right += int((model(some.x, some).argmax(1) == some.y).sum())
    return 100 * right / index.numel()


def looks(model: nn.Module) -> str:
    """How far the heads of the first block look, and how much of that is by place."""
    mixer = model.blocks[0].mixer
    if not isinstance(mixer, GatedPositionalAttention):
        return ""
    model.eval()
    layout = TokenLayout.of(batch, batch.num_nodes)
    with torch.no_grad():
        h = model.blocks[0].mixer_norm(model.embed(batch.x) + model.position(layout.rank))
    far, gate = mixer.non_locality(h, layout), mixer.gating.sigmoid()
    return f"first block: {float(far.mean()):.2f} patches far, {100 * float(gate.detach().mean()):.0f} % by place"


def run(name: str, model: nn.Module) -> None:
    model.to(args.device)
    before = looks(model) if isinstance(model, ConViT) else ""
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, CosineSchedule(args.epochs, warmup=args.epochs / 20))
    best_valid = best_test = 0.0
    for _ in range(args.epochs):
        schedule.step()
        model.train()
        for some in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(some.x, some), some.y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        if (value := accuracy(model, split.valid)) > best_valid:
            best_valid, best_test = value, accuracy(model, split.test)
    if before:
        print(f"  before training {before}\n  after           {looks(model)}")
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, test accuracy {best_test:.2f} %")


def vig() -> nn.Module:
    return ViG(graphs.num_features, 36, classes, patches, args.patch, num_layers=2, stem="linear")


def convit(local_layers: int) -> nn.Module:
    return ConViT(graphs.num_features, classes, patches, 4, 9, 3, local_layers, mlp_ratio=2)


for name, make in {"ViT": lambda: convit(0), "ConViT": lambda: convit(2), "ViG": vig}.items():
    seed_everything(args.seed)
    loader = GraphLoader(graphs, 64, split.train, shuffle=True, seed=args.seed)
    run(name, make())
