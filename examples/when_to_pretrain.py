"""Should I pre-train? Feasibility from "When to Pre-Train Graph Neural Networks? From Data Generation Perspective!"
(https://arxiv.org/abs/2303.16458), step by step: ego-nets, graphons, the distance of the best mixture to the target.

    python examples/when_to_pretrain.py                                  # shipped graphs: needs no download
    python examples/when_to_pretrain.py --pretrain Cora PubMed Minesweeper --downstream CiteSeer
"""

from __future__ import annotations

import argparse

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import ToUndirected

from graphkit.analysis import Graphon, GraphonEstimator, PretrainFeasibility, gromov_wasserstein, select_pretraining
from graphkit.datasets import load
from graphkit.datasets.synthetic import random_geometric_graph
from graphkit.transforms.ego_nets import EgoNets

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pretrain", nargs="+", default=["pyimports", "geometric"], help="graphs to pre-train on")
parser.add_argument("--downstream", default="digits", help="the graph that pre-training is for")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--graphs", type=int, default=500, help="roots of ego-nets of each graph")
parser.add_argument("--resolution", type=int, default=16, help="squares a side of the graphons")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true", help="few ego-nets, to see that it runs")
args = parser.parse_args()


def ego_nets(name: str, seed: int) -> list[Data]:
    """Two-hop neighbourhoods of some nodes. Small ones are dense whatever they are of, so they are left out."""
    data = random_geometric_graph(2000, 0.04) if name == "geometric" else load(name, args.root).data
    ratio = min((80 if args.fast else args.graphs) / data.num_nodes, 1)
    return EgoNets(num_hops=2, min_nodes=args.resolution, ratio=ratio, seed=seed)(ToUndirected()(data))


sources = {name: ego_nets(name, args.seed) for name in args.pretrain}
# Other roots than those of a source, so that a graph is not compared with the very same ego-nets.
target = ego_nets(args.downstream, args.seed + 1)

# 1. Graphons: what generates graphs like these.
estimator = GraphonEstimator(resolution=args.resolution)
wanted = estimator.fit(target)
print(f"{'graphs':<24} number  density  triangles")
for name, graphs in [*sources.items(), (args.downstream, target)]:
    graphon = estimator.fit(graphs)
    triangles = float(graphon.motif_density(torch.tensor([[0, 1, 2], [1, 2, 0]])))
    print(f"{name:<24} {len(graphs):6}  {graphon.density:7.3f}  {triangles:9.4f}")

# 2. Feasibility: how near the best mixture of a source's graphons comes to the target's.
feasibility = PretrainFeasibility(estimator=estimator, seed=args.seed)
print(f"\n{'pre-training on':<24} score   best basis")
for k in range(1, len(sources) + 1):
    for names, result in select_pretraining(sources, wanted, k, feasibility):
        print(f"{' + '.join(names):<24} {result.score:.4f} {result.basis}")

# 3. What to compare with: the target itself, and a generator that knows its density alone.
half = len(target) // 2
itself = PretrainFeasibility(("all",), estimator=estimator).score(target[:half], target[half:])
flat = Graphon(torch.full_like(wanted.values, wanted.density))
print(f"{'(itself)':<24} {itself.score:.4f}")
print(f"{'(density alone)':<24} {-float(gromov_wasserstein(flat.values, wanted.values)[0]):.4f}")

# 4. Scope: graphs that the best mixture generates are what pre-training prepares for.
best = feasibility.score(sources, wanted)
weights = ", ".join(f"{a:.2f} {name}" for name, a in zip(best.names, best.alpha.tolist(), strict=True) if a > 0.005)
print(f"\nbest mixture: {weights}")
print(f"a graph from it: {best.generator.sample(60, torch.Generator().manual_seed(args.seed))}")
