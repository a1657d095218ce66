"""Measures that are not training: graphons, Gromov-Wasserstein distances, feasibility of pre-training."""

from graphkit.analysis.compactness import node_compactness
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.analysis.graph_descriptors import graph_descriptors, split_graphs
from graphkit.analysis.graphon import Graphon, GraphonBasis, GraphonEstimator
from graphkit.analysis.gromov_wasserstein import gromov_wasserstein
from graphkit.analysis.pretrain_feasibility import FeasibilityResult, PretrainFeasibility, select_pretraining

__all__ = [
    "FeasibilityResult",
    "Graphon",
    "GraphonBasis",
    "GraphonEstimator",
    "PretrainFeasibility",
    "dataset_graphs",
    "graph_descriptors",
    "gromov_wasserstein",
    "node_compactness",
    "select_pretraining",
    "split_graphs",
]
