"""Models of event streams, with their state in buffers."""

from graphkit.nn.temporal.apan import APANEncoder
from graphkit.nn.temporal.edge_bank import EdgeBank
from graphkit.nn.temporal.joint_neighborhood import JointNeighborhood
from graphkit.nn.temporal.memory import TGNMemory
from graphkit.nn.temporal.memory_dgnn import MemoryDGNN
from graphkit.nn.temporal.nat import NAT
from graphkit.nn.temporal.neighbor_buffer import NeighborBuffer
from graphkit.nn.temporal.neighborhood_cache import NeighborhoodCache
from graphkit.nn.temporal.node_head import TemporalNodeClassifier, TemporalNodeModel
from graphkit.nn.temporal.persistent_forecast import PersistentForecast
from graphkit.nn.temporal.pres import PredictCorrectFilter, memory_coherence_loss
from graphkit.nn.temporal.state import StreamingModule, TemporalModel
from graphkit.nn.temporal.temporal_attention import TemporalAttentionEmbedding
from graphkit.nn.temporal.temporal_common_neighbors import TemporalNCNDecoder
from graphkit.nn.temporal.temporal_heuristics import CommonRecentNeighbors, Popularity, Recency
from graphkit.nn.temporal.temporal_ncn import TemporalNCN
from graphkit.nn.temporal.time_encoder import TimeEncoder

__all__ = [
    "NAT",
    "APANEncoder",
    "CommonRecentNeighbors",
    "EdgeBank",
    "JointNeighborhood",
    "MemoryDGNN",
    "NeighborBuffer",
    "NeighborhoodCache",
    "PersistentForecast",
    "Popularity",
    "PredictCorrectFilter",
    "Recency",
    "StreamingModule",
    "TGNMemory",
    "TemporalAttentionEmbedding",
    "TemporalModel",
    "TemporalNCN",
    "TemporalNCNDecoder",
    "TemporalNodeClassifier",
    "TemporalNodeModel",
    "TimeEncoder",
    "memory_coherence_loss",
]
