"""One network, one argument: which mixer passes information among the tokens of an image (the handwritten digits of
scikit-learn, cut into squares of 2 x 2 pixels). Everything else stays the same.

    python examples/swap_the_mixer.py                       # all mixers, three minutes
    python examples/swap_the_mixer.py --mixers gla mamba
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.loader import GraphLoader, ImageGraphs
from graphkit.nn import (
    BiGatedLinearAttention,
    BiMamba,
    GatedLinearAttention,
    GatedPositionalAttention,
    MeanMixer,
    MixerBlock,
    SelectiveSSM,
    SelfAttention,
    TokenMixingGate,
    TokenModel,
)
from graphkit.utils.seed import seed_everything

MIXERS = {
    "mean": MeanMixer,
    "gla": GatedLinearAttention,
    "gla both ways": lambda channels: GatedLinearAttention(channels, bidirectional=True),
    "mamba": SelectiveSSM,
    "mamba both ways": BiMamba,
    "attention": SelfAttention,
    "convit": GatedPositionalAttention,
    "vig": lambda channels: BiGatedLinearAttention(channels, heads=4),
    "mlp mixer": lambda channels: MixerBlock(channels, num_tokens=16),
    "ninformer": lambda channels: TokenMixingGate(channels, num_tokens=16),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=list(MIXERS), help="which to compare")
parser.add_argument("--channels", type=int, default=32)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="an epoch of few images, to see that it runs")
args = parser.parse_args()

# 1,797 images as token graphs: 16 tokens each, of 4 pixels, with their places on the grid.
digits = load("digits").data
images = (digits.x / digits.x.max()).view(-1, 1, 8, 8)
graphs = ImageGraphs(images, patch=2, y=digits.y).to(args.device)
order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(args.seed)).to(args.device)
train, valid, test = order[:100] if args.fast else order[:1000], order[1000:1300], order[1300:]


def accuracy(model: TokenModel, index: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        batch = graphs.batch(index)
        return 100 * float((model(batch.x, batch).argmax(1) == batch.y).float().mean())


def run(name: str) -> None:
    seed_everything(args.seed)
    # This argument is the only difference.
    model = TokenModel(4, args.channels, 10, MIXERS[name], args.layers, head="mean", max_positions=16).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    loader = GraphLoader(graphs, args.batch_size, train, shuffle=True, seed=args.seed)
    best_valid = best_test = 0.0
    start = time.perf_counter()
    for _ in range(1 if args.fast else args.epochs):
        model.train()
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x, batch), batch.y).backward()
            optimizer.step()
        if (value := accuracy(model, valid)) > best_valid:
            best_valid, best_test = value, accuracy(model, test)
    size = sum(p.numel() for p in model.parameters())
    print(f"{name:16s} {size:7,d} parameters  {time.perf_counter() - start:5.1f} s  test {best_test:5.2f} %")


for name in args.mixers:
    run(name)
