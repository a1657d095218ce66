"""Functions of two variables fitted by layers of learned functions, each of which chooses its family: B-splines, radial
functions, Chebyshev polynomials or wavelets. From "Activation Space Selectable Kolmogorov-Arnold Networks"
(https://arxiv.org/abs/2408.08338).

    python examples/function_fitting.py
    python examples/function_fitting.py --functions fit-bump --plot functions.png    # the functions on the edges
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.nn import SelectableKANLinear, prune_families, select_families, set_temperature
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--functions", nargs="+", default=["fit-exp", "fit-product", "fit-wave"])
parser.add_argument("--families", nargs="+", default=["bspline", "rbf", "cheby", "wavelet"])
parser.add_argument("--hidden", type=int, default=5)
parser.add_argument("--steps", type=int, default=1500, help="of all phases; a fifth of them before pruning")
parser.add_argument("--temperature", type=float, default=0.1, help="of the selection, at its end")
parser.add_argument("--regularization", type=float, default=0.1, help="of the selection")
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--plot", help="draw the functions of the first layer, of each input to each hidden unit")
parser.add_argument("--fast", action="store_true", help="a few steps, to see that it runs")
args = parser.parse_args()
steps = 30 if args.fast else args.steps
borders = (0, steps // 10, steps // 5, steps)  # of the phases: full, selective, pruned


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=args.lr)


networks = {}
for name in args.functions:
    dataset = load(name)
    x, y, split = dataset.data.x, dataset.data.y, dataset.split(args.seed)
    seed_everything(args.seed)
    network = nn.Sequential(
        SelectableKANLinear(2, args.hidden, args.families),
        SelectableKANLinear(args.hidden, 1, args.families),
    )
    before = sum(p.numel() for p in network.parameters())
    optimizer = optimizer_of(network)
    for phase, (first, last) in enumerate(pairwise(borders)):
        if phase == 1:  # families that already lose stand still from here, and the choice sharpens
            select_families(network)
        if phase == 2:  # every input keeps one family; the parameters are others now
            prune_families(network)
            optimizer = optimizer_of(network)
        for step in range(first, last):
            part = (step - first) / max(last - first - 1, 1)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * (1 + math.cos(math.pi * part)) / 2
            if phase == 1:
                set_temperature(network, args.temperature**part)
            loss = F.mse_loss(network(x[split.train]), y[split.train])
            if phase == 1:
                # Without it an input may keep two families at half their weight, and pruning would take one away.
                loss = loss + args.regularization * sum(layer.regularization() for layer in network)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        error = (network(x[split.test]) - y[split.test]).square().mean().sqrt() / y[split.test].std()
    after = sum(p.numel() for p in network.parameters())
    print(f"{name}: test error {100 * float(error):.2f} % of the spread, {before} numbers learned, {after} kept")
    for place, layer in enumerate(network):
        print(f"  layer {place}: " + ", ".join(f"input {i} {kept}" for i, kept in enumerate(layer.kept_families())))
    networks[name] = network

if args.plot:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    at = torch.linspace(-1, 1, 201)
    figure, panels = plt.subplots(
        len(networks), 2, figsize=(8, 2.6 * len(networks)), squeeze=False, layout="constrained"
    )
    for row, (name, network) in zip(panels, networks.items(), strict=True):
        for i, panel in enumerate(row):
            for unit in range(args.hidden):
                panel.plot(at, network[0].activation(i, unit, at), label=f"to unit {unit}")
            panel.set_title(f"{name}, input {i}: {network[0].kept_families()[i]}")
            panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.savefig(args.plot, dpi=110)
    print(f"plot    {args.plot}")
print(f"fitted: {', '.join(networks)}")
