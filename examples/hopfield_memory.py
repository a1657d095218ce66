"""An associative memory: images recalled from their upper halves without training, and a table classified by a memory
of its training rows whose similarity is learned.

    python examples/hopfield_memory.py
    python examples/hopfield_memory.py --beta 1 --patterns 200
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from graphkit.datasets import cross_validation_split, load
from graphkit.nn import HopfieldMemory
from graphkit.nn.mixer.hopfield import hopfield_energy, hopfield_retrieve, metastable_size
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--patterns", type=int, default=500, help="images that are stored")
parser.add_argument("--beta", type=float, default=4.0, help="inverse temperature of the images' memory")
parser.add_argument("--folds", type=int, default=5)
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true", help="one fold and few epochs, to see that it runs")
args = parser.parse_args()

# 1. Images. Rows are centred and scaled to one length, so that none outweighs the others.
images = load("digits").data.x[: args.patterns].double()
stored = images - images.mean(0)
stored = 8 * stored / stored.norm(dim=1, keepdim=True)
state = stored.clone()
state[:, 32:] = 0  # the lower half of 8 x 8 pixels
print(f"{args.patterns} images, upper halves given, beta {args.beta:g}")
for step in range(4):
    away = (state - stored).norm(dim=1)
    energy = float(hopfield_energy(state, stored, args.beta).mean())
    print(
        f"  after {step} retrievals: {100 * float((away < 0.8).double().mean()):5.1f} % recalled, energy {energy:.3f}"
    )
    state, weight = hopfield_retrieve(state, stored, args.beta)
alone = 100 * float((metastable_size(weight) == 1).double().mean())
print(f"  {alone:.1f} % end at a single image, the others at a mixture")

# 2. A table. The memory holds the training rows and their classes; only what counts as similar is learned.
table = load_breast_cancer()
x, y = torch.from_numpy(table.data).float(), torch.from_numpy(table.target)
ours, linear = [], []
for fold in range(1 if args.fast else args.folds):
    split = cross_validation_split(y, fold)
    z = (x - x[split.train].mean(0)) / x[split.train].std(0)
    # The layer takes the mean of a row away, which here says how ill a cell is; beside its negative it stays.
    z = torch.cat([z, -z], dim=1)
    seed_everything(args.seed + fold)
    memory = HopfieldMemory(z.size(1), 2, split.train.numel(), hidden_channels=8, heads=4, beta=1.0, targets=True)
    memory.init_from(z[split.train], y[split.train])
    # Rows and classes stay what they are, or a row would look itself up.
    memory.stored.requires_grad_(False)
    memory.targets.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in memory.parameters() if p.requires_grad], lr=0.01, weight_decay=0.01)
    best, test = -1.0, 0.0
    for _ in range(2 if args.fast else args.epochs):
        optimizer.zero_grad()
        # Each training row is classified by the others: its own place in the memory is not looked at.
        weights = memory.association.weights(z[None, split.train], memory.stored[None], None)[0].mean(0)
        weights = weights.masked_fill(torch.eye(len(weights), dtype=torch.bool), 0)
        share = (weights / weights.sum(1, keepdim=True).clamp(min=1e-9)) @ memory.targets
        F.nll_loss(share.clamp(min=1e-6).log(), y[split.train]).backward()
        optimizer.step()
        with torch.no_grad():
            right = (memory(z).argmax(1) == y).float()
        if (value := float(right[split.valid].mean())) > best:
            best, test = value, float(right[split.test].mean())
    ours.append(test)
    model = LogisticRegression(max_iter=1000).fit(z[split.train].numpy(), y[split.train].numpy())
    linear.append(float(model.score(z[split.test].numpy(), y[split.test].numpy())))
mean = [100 * sum(values) / len(values) for values in (ours, linear)]
print(f"breast cancer: test accuracy of the memory {mean[0]:.2f} %, of logistic regression {mean[1]:.2f} %")
