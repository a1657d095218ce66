"""Neural modules: layers, decoders and models, each a ``torch.nn.Module`` with the signatures of PyG."""

from graphkit.nn.conv import PureConv, SparseLinear, propagate, sparsify
from graphkit.nn.decoder import NCNCDecoder, NCNDecoder
from graphkit.nn.models import GNN, LinkHeuristic, LinkPredictor, PureGNN
from graphkit.nn.temporal import (
    NAT,
    APANEncoder,
    CommonRecentNeighbors,
    EdgeBank,
    JointNeighborhood,
    MemoryDGNN,
    NeighborBuffer,
    NeighborhoodCache,
    Popularity,
    PredictCorrectFilter,
    Recency,
    StreamingModule,
    TemporalAttentionEmbedding,
    TemporalModel,
    TGNMemory,
    TimeEncoder,
    memory_coherence_loss,
)

__all__ = [
    "GNN",
    "NAT",
    "APANEncoder",
    "CommonRecentNeighbors",
    "EdgeBank",
    "JointNeighborhood",
    "LinkHeuristic",
    "LinkPredictor",
    "MemoryDGNN",
    "NCNCDecoder",
    "NCNDecoder",
    "NeighborBuffer",
    "NeighborhoodCache",
    "Popularity",
    "PredictCorrectFilter",
    "PureConv",
    "PureGNN",
    "Recency",
    "SparseLinear",
    "StreamingModule",
    "TGNMemory",
    "TemporalAttentionEmbedding",
    "TemporalModel",
    "TimeEncoder",
    "memory_coherence_loss",
    "propagate",
    "sparsify",
]
