"""PRES, from "PRES: Toward Scalable Memory-Based Dynamic Graph Neural Networks" (https://arxiv.org/abs/2402.04284):
TGN with small and with large batches, without and with a filter of its memory, side by side.

    python examples/tgn_pres.py                             # flights out of New York: needs no download
    python examples/tgn_pres.py --dataset uci --events 0    # messages among students, all of them

In a large batch a node's memory misses more events, but an epoch has fewer steps and takes less time. The filter
predicts where the memory would be. One seed and few epochs say little: `graphkit run pres` has more of both.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional as F
from tqdm import tqdm

from graphkit.datasets import EventSplit, RandomNegatives, load
from graphkit.loader import EventLoader
from graphkit.nn import MemoryDGNN, PredictCorrectFilter
from graphkit.train import TemporalLinkEvaluator
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="nycflights", help="nycflights, uci, wikipedia ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--events", type=int, default=30_000, help="take the first so many events; 0 takes all")
parser.add_argument("--batch-sizes", type=int, nargs="+", default=[200, 800])
parser.add_argument("--dim", type=int, default=100, help="width of memories, embeddings and encoded times")
parser.add_argument("--beta", type=float, default=0.1, help="weight of the memory coherence loss")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="one epoch of a few events, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.events, args.epochs, args.dim = 2000, 1, 16

stream = load(args.dataset, args.root).data[: args.events or None].to(args.device)
split = EventSplit.make(stream)
# The same for all, so that only training differs: test batches of 200, whatever the model was trained with.
evaluator = TemporalLinkEvaluator("ap", batch_size=200)


def build(filtered: bool) -> MemoryDGNN:
    seed_everything(args.seed)
    pres = PredictCorrectFilter(stream.num_nodes, args.dim, gamma="learned") if filtered else None
    sizes = {"memory_dim": args.dim, "time_dim": args.dim, "embedding_dim": args.dim}
    return MemoryDGNN(stream.num_nodes, stream.msg_dim, "tgn", **sizes, pres=pres, beta=args.beta).to(args.device)


def train_epoch(model: MemoryDGNN, loader: EventLoader, optimizer: torch.optim.Optimizer, name: str) -> float:
    """Seconds of an epoch."""
    start = time.perf_counter()
    model.train()
    model.reset_state()
    with tqdm(total=len(split.train), desc=name, unit="event", unit_scale=True, leave=False) as bar:
        for src, dst, t, e_id, neg in loader:
            score = model(src, torch.cat([dst[:, None], neg], dim=1), t, stream.msg)
            loss = F.softplus(-score[:, 0]).mean() + F.softplus(score[:, 1:]).mean()
            coherence = model.auxiliary_loss()  # how much memories turned in this batch; None without the filter
            if coherence is not None:
                loss = loss + coherence
            model.update_state(src, dst, t, e_id, stream.msg)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update(len(src))
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run(batch_size: int, filtered: bool, name: str) -> tuple[float, float]:
    """Test AP at the best validation AP, and the shortest epoch: the first one also compiles kernels."""
    model = build(filtered)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    loader = EventLoader(stream, split.train, batch_size, negatives=RandomNegatives(stream, seed=args.seed))
    best, test, seconds = 0.0, 0.0, float("inf")
    for epoch in range(1, args.epochs + 1):
        loader.set_epoch(epoch)
        seconds = min(seconds, train_epoch(model, loader, optimizer, name))
        valid = evaluator.run(model, stream, split.valid)["AP"]
        if valid > best:
            best, test = valid, evaluator.run(model, stream, split.test)["AP"]
    return test, seconds


print(f"{args.dataset}: {stream}, {split}")
print("model      batch   test AP   s an epoch")
for batch_size in args.batch_sizes:
    for filtered in (False, True):
        name = "TGN+PRES" if filtered else "TGN"
        test, seconds = run(batch_size, filtered, f"{name}, batch {batch_size}")
        print(f"{name:9s} {batch_size:6d}   {test:7.2f}   {seconds:10.1f}", flush=True)
