"""A network that points: convex hulls of points in the plane by a pointer network, on sets of other sizes than those
that it was trained on, too.

    python examples/pointer_convex_hull.py                # 3,000 steps, some minutes
    python examples/pointer_convex_hull.py --encoder set  # an encoder to which the order of the points means nothing
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from graphkit.datasets.pointing import convex_hull_graphs, hull_metrics
from graphkit.nn import PointerNetwork, pointing_loss
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--encoder", choices=["lstm", "set"], default="lstm")
parser.add_argument("--points", type=int, nargs=2, default=[5, 5], help="fewest and most points of a training set")
parser.add_argument("--other-sizes", type=int, nargs="*", default=[7, 10])
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--steps", type=int, default=3000)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a few steps of a small network, to see that it runs")
args = parser.parse_args()
steps, hidden = (5, 16) if args.fast else (args.steps, args.hidden)

seed_everything(args.seed)
model = PointerNetwork(2, hidden, args.encoder).to(args.device)
optimizer = torch.optim.Adam(model.parameters(), args.lr)


def score(low: int, high: int, seed: int) -> dict[str, float]:
    """Hulls that are exact, polygons that do not cross themselves, and the share of the area that those cover."""
    graphs = convex_hull_graphs(50 if args.fast else 1000, low, high, seed).to(args.device)
    model.eval()
    found, _, _ = model.decode(graphs.x, graphs.ptr)
    points = graphs.x.cpu().numpy().astype(np.float64)
    found, target, ptr = found.cpu().numpy(), graphs.target.cpu().numpy(), graphs.ptr.cpu().numpy()
    rows = [
        hull_metrics(points[a:b], answer[answer >= 0], wanted[wanted >= 0])
        for answer, wanted, a, b in zip(found, target, ptr[:-1], ptr[1:], strict=True)
    ]
    area = [row["area"] for row in rows if row["valid"]]
    names = ("exact", "valid")
    return {name: np.mean([row[name] for row in rows]) for name in names} | {"area": np.mean(area) if area else 0.0}


for step in range(1, steps + 1):
    # Points are drawn anew in every step: there is nothing to overfit.
    graphs = convex_hull_graphs(args.batch_size, *args.points, seed=10_000 + step).to(args.device)
    model.train()
    optimizer.zero_grad()
    # Each step of an answer is learned from the right steps before it.
    loss = pointing_loss(model(graphs.x, graphs.ptr, graphs.target), graphs.target)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    if step % 500 == 0:
        valid = score(*args.points, seed=1)
        print(
            f"step {step:5d}  loss {float(loss):.3f}  validation: exact {valid['exact']:.3f}  area {valid['area']:.3f}"
        )

for low, high in ([n, n] for n in args.other_sizes):
    found = score(low, high, seed=2)
    print(f"{low} points: exact {found['exact']:.3f}  valid {found['valid']:.3f}  area {found['area']:.3f}")
found = score(*args.points, seed=2)
print(f"test: exact {found['exact']:.3f}  valid {found['valid']:.3f}  area {found['area']:.3f}")
