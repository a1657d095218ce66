"""EdgeBank, from "Towards Better Evaluation for Dynamic Link Prediction" (https://arxiv.org/abs/2207.10128), and other
rules without parameters, under several protocols: what a trained model has to beat, and how much the protocol says.

    python examples/edgebank.py                       # flights out of New York: needs no download
    python examples/edgebank.py --dataset uci         # messages among students

Columns: average precision against random destinations, against those that the source met in training, and against those
that it meets in the test only; then MRR and Hits@10 among 100 stored ones, half of them met in training.
"""

from __future__ import annotations

import argparse

import torch

from graphkit.datasets import (
    EventSplit,
    HistoricalNegatives,
    InductiveNegatives,
    RandomNegatives,
    StoredNegatives,
    load,
)
from graphkit.loader import EventLoader
from graphkit.nn import CommonRecentNeighbors, EdgeBank, Popularity, Recency
from graphkit.train import TemporalLinkEvaluator

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="nycflights", help="nycflights, uci, wikipedia ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--events", type=int, default=100_000, help="take the first so many events; 0 takes all")
parser.add_argument("--batch-size", type=int, default=200, help="events that are scored before any of them is shown")
parser.add_argument("--negatives", type=int, default=100, help="destinations that a true one is ranked among")
parser.add_argument("--fast", action="store_true", help="a few events, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.events, args.negatives = 3000, 10

stream = load(args.dataset, args.root).data[: args.events or None]
split = EventSplit.make(stream)
before_test, test = torch.arange(split.valid_stop), split.test

models = {
    "EdgeBank": EdgeBank(stream.num_nodes),
    "EdgeBank, window": EdgeBank(stream.num_nodes, "window", EdgeBank.window_of(stream.t[split.train])),
    "Recency": Recency(stream.num_nodes),
    "Popularity": Popularity(stream.num_nodes),
    "Common neighbours": CommonRecentNeighbors(stream.num_nodes),
}
stored = StoredNegatives.make(stream, test, args.negatives, history=split.train)
protocols = {
    "AP random": TemporalLinkEvaluator("ap", RandomNegatives(stream), args.batch_size),
    "AP historical": TemporalLinkEvaluator("ap", HistoricalNegatives(stream, split), args.batch_size),
    "AP inductive": TemporalLinkEvaluator("ap", InductiveNegatives(stream, split), args.batch_size),
    "MRR": TemporalLinkEvaluator("mrr", stored, args.batch_size),
}

print(f"{args.dataset}: {stream}, {split}")
print(f"{'':18s}" + "".join(f"{name:>15s}" for name in [*protocols, "Hits@10"]))
for name, model in models.items():
    # Nothing to train, but to be shown: all that comes before the test.
    for src, dst, t, e_id, _ in EventLoader(stream, before_test, args.batch_size):
        model.update_state(src, dst, t, e_id, stream.msg)
    start = model.snapshot()
    found = {}
    for protocol, evaluator in protocols.items():
        # Each protocol goes through the whole test, so each begins with the state before it.
        model.load_snapshot(start)
        metrics = evaluator.run(model, stream, test)
        found[protocol] = metrics[evaluator.metrics[0]]
    found["Hits@10"] = metrics["Hits@10"]
    print(f"{name:18s}" + "".join(f"{value:15.2f}" for value in found.values()), flush=True)
