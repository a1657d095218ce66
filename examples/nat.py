"""NAT, from "Neighborhood-aware Scalable Temporal Network Representation Learning" (https://arxiv.org/abs/2209.01084):
an explicit loop over a stream in order of time. Score a batch first, show it to the model after.

    python examples/nat.py                        # flights out of New York: needs no download
    python examples/nat.py --dataset uci          # messages among students, or any other stream of `graphkit datasets`
    python examples/nat.py --events 0             # the whole stream, not its beginning

The defaults here suit a few minutes on a laptop. `graphkit run nat` has the settings of the paper and more models.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional as F
from tqdm import tqdm

from graphkit.datasets import EventSplit, RandomNegatives, load
from graphkit.loader import EventLoader
from graphkit.nn import NAT
from graphkit.train import TemporalLinkEvaluator
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="nycflights", help="nycflights, uci, wikipedia ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--events", type=int, default=60_000, help="take the first so many events; 0 takes all")
parser.add_argument("--batch-size", type=int, default=100, help="events that are scored before any of them is shown")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="two epochs of a few events, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.events, args.epochs = 2000, 2

seed_everything(args.seed)
stream = load(args.dataset, args.root).data[: args.events or None].to(args.device)
split = EventSplit.make(stream)  # 70, 15 and 15 % by time
loader = EventLoader(
    stream,
    split.train,
    batch_size=args.batch_size,
    negatives=RandomNegatives(stream, seed=args.seed),  # one destination that the source did not choose
)
# Validation and test have the same negatives in every epoch. What is in a batch is scored before any of it is shown.
evaluator = TemporalLinkEvaluator("ap", batch_size=args.batch_size, seed=args.seed)
model = NAT(stream.num_nodes, stream.msg_dim, seed=args.seed).to(args.device)
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)


def train(epoch: int) -> tuple[float, float]:
    """Mean loss, and events a second."""
    model.train()
    model.reset_state()  # an epoch begins with a model that has seen nothing
    loader.set_epoch(epoch)  # other negatives in each epoch
    total = torch.zeros((), device=args.device)  # read once an epoch, so that a GPU need not wait in every step
    start = time.perf_counter()
    bar = tqdm(total=len(split.train), desc=f"epoch {epoch}", unit="event", unit_scale=True, leave=False)
    for src, dst, t, e_id, neg in loader:
        # 1. Score the true and the drawn destinations from what was shown so far: [B, 2] logits.
        score = model(src, torch.cat([dst[:, None], neg], dim=1), t, stream.msg)
        loss = F.softplus(-score[:, 0]).mean() + F.softplus(score[:, 1:]).mean()
        # 2. Only then show the model what happened.
        model.update_state(src, dst, t, e_id, stream.msg)
        # 3. Learn.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(src)
        bar.update(len(src))
    bar.close()
    return float(total) / len(split.train), len(split.train) / (time.perf_counter() - start)


print(f"{args.dataset}: {stream}, {split}")
best_valid = best_test = 0.0
for epoch in range(1, args.epochs + 1):
    loss, speed = train(epoch)
    # Validation goes on from the state in which training ended, the test from that after validation.
    valid = evaluator.run(model, stream, split.valid)["AP"]
    if valid > best_valid:
        # What a new prediction starts from: the weights, and in buffers beside them the state after validation.
        best = {name: value.clone() for name, value in model.state_dict().items()}
        best_valid, best_test = valid, evaluator.run(model, stream, split.test)["AP"]
    print(f"epoch {epoch:2d}  loss {loss:.4f}  {speed:6,.0f} events/s  validation AP {valid:.2f}")
model.load_state_dict(best)
print(f"{args.dataset}: test AP {best_test:.2f} % at the best validation AP {best_valid:.2f} %")
