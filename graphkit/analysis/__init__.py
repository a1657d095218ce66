"""Measures that are not training: codes, graphons, Gromov-Wasserstein distances, feasibility of pre-training."""

from graphkit.analysis.codes import CodeReport, code_report
from graphkit.analysis.compactness import node_compactness
from graphkit.analysis.dataset_graphs import dataset_graphs
from graphkit.analysis.graph_descriptors import graph_descriptors, split_graphs
from graphkit.analysis.graphon import Graphon, GraphonBasis, GraphonEstimator
from graphkit.analysis.gromov_wasserstein import gromov_wasserstein
from graphkit.analysis.pretrain_feasibility import FeasibilityResult, PretrainFeasibility, select_pretraining
from graphkit.analysis.state_machine import state_codes, state_control, valid_transitions

__all__ = [
    "CodeReport",
    "FeasibilityResult",
    "Graphon",
    "GraphonBasis",
    "GraphonEstimator",
    "PretrainFeasibility",
    "code_report",
    "dataset_graphs",
    "graph_descriptors",
    "gromov_wasserstein",
    "node_compactness",
    "select_pretraining",
    "split_graphs",
    "state_codes",
    "state_control",
    "valid_transitions",
]
