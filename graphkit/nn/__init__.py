"""Neural modules: layers, decoders and models, each a ``torch.nn.Module`` with the signatures of PyG."""

from graphkit.nn.conv import PureConv, SparseLinear, propagate, sparsify
from graphkit.nn.decoder import NCNCDecoder, NCNDecoder
from graphkit.nn.models import GNN, LinkHeuristic, LinkPredictor, PureGNN

__all__ = [
    "GNN",
    "LinkHeuristic",
    "LinkPredictor",
    "NCNCDecoder",
    "NCNDecoder",
    "PureConv",
    "PureGNN",
    "SparseLinear",
    "propagate",
    "sparsify",
]
