"""Whole networks."""

from graphkit.nn.models.forward_stack import ForwardLayer, ForwardStack
from graphkit.nn.models.gnn import GNN
from graphkit.nn.models.link_heuristic import LinkHeuristic
from graphkit.nn.models.link_predictor import LinkPredictor
from graphkit.nn.models.pure_gnn import PureGNN
from graphkit.nn.models.stable_contrast import StableContrast

__all__ = ["GNN", "ForwardLayer", "ForwardStack", "LinkHeuristic", "LinkPredictor", "PureGNN", "StableContrast"]
